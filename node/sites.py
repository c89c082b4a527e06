"""What a site's scanners need to be told: `[[pipelines.settings.NAME]]` -> parameters of a pipeline for one series.

They are parameters like a rule's, so they reach the worker, the workitem's UID and the evidence by the same way. A
manifest's default gives way to the site's setting, and that to the rule's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from node.config import SiteSetting
from node.errors import ConfigError, RuleError
from node.routing import holds, parse_clause
from pipelines.errors import ManifestError
from pipelines.registry import Registry
from storage.model import Parameters, Series

Settings = Mapping[str, Sequence[SiteSetting]]


def check_settings(settings: Settings, registry: Registry) -> None:
    """Refuse settings that no run could follow.

    Raises
    ------
    ConfigError
        Naming the key: an unknown pipeline, a broken clause, a parameter the pipeline does not have.
    """
    for pipeline, entries in settings.items():
        key = f"pipelines.settings.{pipeline}"
        try:
            manifest = registry.get(pipeline).manifest
        except ManifestError as error:
            raise ConfigError(f"{key}: {error}") from error
        for number, entry in enumerate(entries):
            try:
                for text in entry.where:
                    parse_clause(text)
            except RuleError as error:
                raise ConfigError(f"{key}.{number}.where: {error}") from error
            try:
                manifest.merge(entry.parameters)
            except ManifestError as error:
                raise ConfigError(f"{key}.{number}.parameters: {error}") from error


def site_parameters(settings: Settings, pipeline: str, inputs: Iterable[Series]) -> Parameters:
    """For each input the parameters of the first entry whose clauses all hold for it; the first input's count most."""
    merged: dict[str, str | int | float | bool] = {}
    for series in inputs:
        for entry in settings.get(pipeline, ()):
            if holds(entry.where, series):
                merged = {**entry.parameters, **merged}
                break
    return merged
