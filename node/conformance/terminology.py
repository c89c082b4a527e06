"""The codes that the objects may hold: of the templates, of the manifests, and of the pipelines' own code."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom import Dataset

from node.conformance.examples import Example
from pipelines.registry import PHANTOMS_NAME, TRAINING_NAME, PipelineEntry, Registry

#: Whose codes every report has.
TEMPLATES = "templates"


@dataclass(frozen=True, slots=True, kw_only=True)
class UsedCode:
    """A coded concept and who may say it: `templates`, or names of pipelines."""

    value: str
    scheme: str
    meaning: str
    used_by: tuple[str, ...]

    @property
    def is_private(self) -> bool:
        """PS3.16 8: designators of private schemes begin with 99."""
        return self.scheme.startswith("99")


_Triple = tuple[str, str, str]


def read_codes(registry: Registry, examples: Sequence[Example]) -> tuple[UsedCode, ...]:
    """Every code by scheme and value; of several meanings the first."""
    users: dict[tuple[str, str], list[str]] = {}
    meanings: dict[tuple[str, str], str] = {}
    said = [(code, TEMPLATES) for code in sorted(_of_templates(examples))]
    for name, entry in sorted(registry.entries.items()):
        said += [(code, name) for code in _of_pipeline(entry)]
    for (value, scheme, meaning), user in said:
        meanings.setdefault((scheme, value), meaning)
        users.setdefault((scheme, value), []).append(user)
    return tuple(
        UsedCode(
            value=value,
            scheme=scheme,
            meaning=meanings[scheme, value],
            used_by=tuple(dict.fromkeys(users[scheme, value])),
        )
        for scheme, value in sorted(users)
    )


def _of_templates(examples: Sequence[Example]) -> set[_Triple]:
    """What every rich example says, whatever differs: it comes from none of what differs."""
    first, *others = [
        {code for item in example.objects for code in _codes(item.ds)}
        for example in examples
        if not example.is_poor
    ]
    return first.intersection(*others)


def _codes(ds: Dataset) -> Iterator[_Triple]:
    if {"CodeValue", "CodingSchemeDesignator", "CodeMeaning"} <= set(ds.dir()):
        yield str(ds.CodeValue), str(ds.CodingSchemeDesignator), str(ds.CodeMeaning)
    for element in ds:
        if element.VR == "SQ":
            for item in element.value:
                yield from _codes(item)


def _of_pipeline(entry: PipelineEntry) -> Iterator[_Triple]:
    manifest = entry.manifest
    specs = [manifest.procedure]
    for segment in manifest.segments:
        specs += [
            spec
            for spec in (segment.category, segment.type, segment.site, segment.laterality)
            if spec
        ]
    yield from ((spec.value, spec.scheme, spec.meaning) for spec in specs)
    for path in sorted(entry.folder.glob("*.py")):
        if path.name not in (TRAINING_NAME, PHANTOMS_NAME):
            yield from _literals(path)


def _literals(path: Path) -> Iterator[_Triple]:
    """Each `Code("value", "scheme", "meaning")` of a module; nothing of it is run."""
    for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "Code":
            texts = [arg.value for arg in call.args if isinstance(arg, ast.Constant)]
            if len(texts) == len(call.args) == 3:
                yield str(texts[0]), str(texts[1]), str(texts[2])
