"""Configuration and registry -> everything the statement says: `read_statement`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import cast

from pydantic import BaseModel

from node.config import Config
from node.conformance.examples import make_examples
from node.conformance.ihe import Actor, read_actors
from node.conformance.iods import Iod, read_iods
from node.conformance.network import Network, read_network
from node.conformance.terminology import UsedCode, read_codes
from pipelines.evidence.profile import Profile
from pipelines.registry import Registry

PRODUCT = "OsteoNode"
#: Settings that a peer sees something of; what lies on this machine is nobody's business.
_SECTIONS = ("node", "receive", "routing", "delivery")
_NOT_SEEN = ("data", "log_level", "log_format", "web")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A setting in force."""

    name: str
    value: object
    default: object
    description: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """What a pipeline takes in one role."""

    role: str
    modality: tuple[str, ...]
    optional: bool
    description: str


@dataclass(frozen=True, slots=True, kw_only=True)
class InstalledPipeline:
    """A pipeline, and what it makes."""

    name: str
    version: str
    title: str
    manufacturer: str
    inputs: tuple[Input, ...]
    segments: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """The DICOM Conformance Statement and the IHE Integration Statement, as facts."""

    product: str
    version: str
    network: Network
    settings: tuple[Setting, ...]
    pipelines: tuple[InstalledPipeline, ...]
    #: Destination profiles by name, as settings.
    profiles: Mapping[str, Mapping[str, object]]
    iods: tuple[Iod, ...]
    codes: tuple[UsedCode, ...]
    actors: tuple[Actor, ...]


def read_statement(config: Config, registry: Registry) -> Statement:
    """What this node, so configured and with these pipelines, does. Makes small objects to look at."""
    examples = make_examples()
    iods = read_iods(examples)
    network = read_network(
        config, [(iod.sop_class.uid, one.uid) for iod in iods for one in iod.transfer_syntaxes]
    )
    return Statement(
        product=PRODUCT,
        version=version("osteonode"),
        network=network,
        settings=_settings(config),
        pipelines=_pipelines(registry),
        profiles={
            name: _profile(profile) for name, profile in config.evidence.known_profiles.items()
        },
        iods=iods,
        codes=read_codes(registry, examples),
        actors=read_actors(network, iods, tuple(config.ups.worklists)),
    )


def _profile(profile: Profile) -> Mapping[str, object]:
    return profile.model_dump(mode="json")


def _settings(config: Config) -> tuple[Setting, ...]:
    return tuple(
        Setting(
            name=f"[{section}] {key}",
            value=getattr(getattr(config, section), key),
            default=field.default,
            description=field.description or "",
        )
        for section in _SECTIONS
        for key, field in cast(
            type[BaseModel], Config.model_fields[section].annotation
        ).model_fields.items()
        if key not in _NOT_SEEN
    )


def _pipelines(registry: Registry) -> tuple[InstalledPipeline, ...]:
    return tuple(
        InstalledPipeline(
            name=name,
            version=entry.manifest.version,
            title=entry.manifest.title,
            manufacturer=entry.manifest.manufacturer,
            inputs=tuple(
                Input(
                    role=role,
                    modality=spec.modality,
                    optional=spec.optional,
                    description=spec.description,
                )
                for role, spec in entry.manifest.inputs.items()
            ),
            segments=tuple(segment.label for segment in entry.manifest.segments),
        )
        for name, entry in sorted(registry.entries.items())
    )
