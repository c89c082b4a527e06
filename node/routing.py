"""Clauses of rules: what they mean, and whether they hold for a series. Pure: no I/O, no clock.

A clause is `Keyword operator value` on a DICOM keyword of the series or on a fact we derive (`FACTS`):

    Modality = CT                 equal; numbers compare as numbers, text exactly
    SeriesDescription ~ (?i)bone  regular expression found anywhere (RE2: linear time, no bombs)
    SeriesDescription !~ scout    not found; also holds when the attribute is missing
    Modality in CT, PT            one of a list
    SliceThickness <= 3           < <= > >= compare numbers
    ContrastBolusAgent missing    not there or empty; `exists` is the contrary

An attribute of several values (`ImageType`) satisfies `=`, `~`, `in`, `<` ... when one value does, and `!=`, `!~`
when none does. Clauses are data, never code: nothing is evaluated.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import re2
from pydicom.datadict import tag_for_keyword

from node.errors import RuleError
from node.plane import plane_of
from node.windows import parse_window
from pipelines.errors import ManifestError
from pipelines.manifest import Manifest
from storage.model import HOLD, RUN, ClauseVerdict, HeaderValue, Rule, Series

#: Facts that rules may name besides keywords; `storage.index.facts` derives them.
FACTS: Mapping[str, str] = {
    "calling_ae": "AE title that sent the series",
    "instances": "instances received",
    "frames": "images received: instances, or the frames of multi-frame ones",
    "slices": "different positions in space; of multi-frame instances, frames",
    "missing_slices": "places between the first and the last slice, on their regular grid, that have none",
    "duplicate_positions": "instances at a position that another of the series has",
    "orientations": "different Image Orientations (Patient)",
    "frames_of_reference": "different Frames of Reference",
    "slice_gap_mm": "median distance between neighbouring slices along their normal",
    "slice_gap_irregular_mm": "largest minus smallest such distance",
    "plane": "axial, coronal, sagittal or oblique, of the first instance or frame",
}

_CLAUSE = re.compile(
    r"^\s*(?P<keyword>[A-Za-z_][A-Za-z0-9_]*)\s*"
    r"(?P<operator>!=|!~|<=|>=|=(?!=)|~|<|>|\bin\b|\bexists\b|\bmissing\b)\s*(?P<operand>.*?)\s*$",
    re.DOTALL,
)
_COMPARE: Mapping[str, Callable[[float, float], bool]] = {
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}
#: Operators that hold when their positive twin does not.
_NEGATED: Mapping[str, str] = {"!=": "=", "!~": "~", "missing": "exists"}
#: One entry per value of an attribute.
Values: TypeAlias = tuple[str | int | float, ...]
#: A value shown in an explanation is cut after this many characters.
_SHOWN = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class Clause:
    """One parsed clause."""

    keyword: str
    operator: str
    operand: str

    def __str__(self) -> str:
        return f"{self.keyword} {self.operator} {self.operand}".rstrip()

    @property
    def is_negated(self) -> bool:
        """Whether it holds when none of the values does what its positive twin asks."""
        return self.operator in _NEGATED

    @property
    def accepts(self) -> Callable[[str | int | float], bool]:
        """Whether one value does what the operator, or its positive twin, asks."""
        return _asks(_NEGATED.get(self.operator, self.operator), self.operand)

    @property
    def holds(self) -> Callable[[Series], bool]:
        """Whether it holds for a series."""
        return _condition(self)


@lru_cache(maxsize=4096)
def parse_clause(text: str) -> Clause:
    """Parse one clause; the same text once.

    Raises
    ------
    RuleError
        Saying what is wrong with it, in terms of the text as written.
    """
    found = _CLAUSE.match(text)
    if found is None:
        raise RuleError(
            f"Clause {text!r} is not `Keyword operator value`; operators are "
            "= != ~ !~ < <= > >= in exists missing."
        )
    clause = Clause(**found.groupdict())
    if clause.keyword not in FACTS and tag_for_keyword(clause.keyword) is None:
        raise RuleError(
            f"Clause {text!r}: {clause.keyword!r} is neither a DICOM keyword nor one of {', '.join(FACTS)}."
        )
    _check_operand(clause, text)
    return clause


def check_rule(rule: Rule, manifests: Mapping[str, Manifest]) -> None:
    """Refuse a rule that could never run.

    Raises
    ------
    RuleError
        For no clause, a broken one, an unknown pipeline, a parameter or role the pipeline does not have, a role
        that it cannot go without.
    """
    clauses = [*rule.where, *(text for own in rule.roles.values() for text in own)]
    if not clauses:
        raise RuleError(f"Rule {rule.name!r} has no clause; it would match everything.")
    for text in clauses:
        parse_clause(text)
    try:
        parse_window(rule.window)
    except RuleError as error:
        raise RuleError(f"Rule {rule.name!r}: {error}") from error
    manifest = manifests.get(rule.pipeline)
    if manifest is None:
        raise RuleError(
            f"Rule {rule.name!r}: no pipeline {rule.pipeline!r}; installed: {', '.join(sorted(manifests)) or 'none'}."
        )
    try:
        manifest.merge(rule.parameters)
    except ManifestError as error:
        raise RuleError(f"Rule {rule.name!r}: {error}") from error
    if rule.incomplete not in (HOLD, RUN):
        raise RuleError(
            f"Rule {rule.name!r}: `incomplete` is {rule.incomplete!r}; it takes {HOLD!r} or {RUN!r}."
        )
    _check_roles(rule, manifest)


def _check_roles(rule: Rule, manifest: Manifest) -> None:
    for role in (*rule.roles, *rule.without):
        if role not in manifest.inputs:
            raise RuleError(
                f"Rule {rule.name!r}: pipeline {manifest.name} has no input {role!r}; "
                f"it takes {', '.join(manifest.inputs)}."
            )
    wanted = wanted_roles(rule, manifest)
    for role in rule.without:
        if not manifest.inputs[role].optional:
            raise RuleError(
                f"Rule {rule.name!r}: pipeline {manifest.name} cannot run without its input {role!r}."
            )
        if role not in wanted:
            raise RuleError(
                f"Rule {rule.name!r}: `without` names {role!r}, which the rule's roles do not want."
            )


def wanted_roles(rule: Rule, manifest: Manifest) -> tuple[str, ...]:
    """The inputs a rule wants, in the manifest's order: those it names and those the pipeline needs; else all."""
    return tuple(
        role
        for role, spec in manifest.inputs.items()
        if not rule.roles or role in rule.roles or not spec.optional
    )


def holds(where: Sequence[str], series: Series) -> bool:
    """Whether all clauses hold for a series."""
    return all(judge(text, series).holds for text in where)


def demands(manifest: Manifest, rule: Rule, role: str, series: Series) -> tuple[ClauseVerdict, ...]:
    """What the manifest can take as `role`, said as clauses; an empty role stands for a series that is for none."""
    wanted = (role,) if role else wanted_roles(rule, manifest)
    modalities = sorted({one for name in wanted for one in manifest.inputs[name].modality})
    taker = "pipeline" if len(manifest.inputs) == 1 else " or ".join(wanted)
    verdicts = [
        ClauseVerdict(
            clause=f"{taker} takes Modality in {', '.join(modalities)}",
            seen=series.modality or "missing",
            holds=role != "",
        )
    ]
    if role:
        count, fewest = count_frames(series), manifest.inputs[role].min_instances
        verdicts.append(
            ClauseVerdict(
                clause=f"{taker} takes instances >= {fewest}",
                seen=str(count),
                holds=count >= fewest,
            )
        )
    try:
        manifest.merge(rule.parameters)
    except ManifestError as error:
        # Checked when the rule was written; the pipeline has changed since.
        verdicts.append(
            ClauseVerdict(clause="pipeline takes the parameters", seen=str(error), holds=False)
        )
    return tuple(verdicts)


def count_frames(series: Series) -> int:
    """Images of a series: its instances, or the frames of multi-frame ones."""
    frames = series.facts.get("frames")
    return frames if isinstance(frames, int) else series.instance_count


def judge(text: str, series: Series) -> ClauseVerdict:
    """Whether one clause holds for a series, with the value it saw; one that cannot be read does not."""
    try:
        clause = parse_clause(text)
    except RuleError as error:
        # Rules are checked when they are written; this one was written by another version.
        return ClauseVerdict(clause=text, seen=f"unreadable clause: {error}", holds=False)
    return ClauseVerdict(
        clause=str(clause),
        seen=show_values(values_of(clause.keyword, series)),
        holds=clause.holds(series),
    )


def values_of(keyword: str, series: Series) -> Values:
    """What a series has of a keyword or fact: nothing empty, one entry per value of the attribute."""
    raw: tuple[HeaderValue, ...]
    if keyword == "plane":
        raw = (plane_of(series.header),)
    else:
        raw = (series.facts.get(keyword),) if keyword in FACTS else series.header.get(keyword, ())
    return tuple(value for value in raw if value is not None and value != "")


@lru_cache(maxsize=4096)
def _condition(clause: Clause) -> Callable[[Series], bool]:
    """What a clause asks of a series; made once, for a replay asks it of 100,000."""
    keyword, accepts, is_negated = clause.keyword, clause.accepts, clause.is_negated

    is_attribute = keyword not in FACTS

    def holds(series: Series) -> bool:
        # As `values_of`, without making a tuple.
        raw = series.header.get(keyword, ()) if is_attribute else values_of(keyword, series)
        for value in raw:
            if value is not None and value != "" and accepts(value):
                return not is_negated
        return is_negated

    return holds


@lru_cache(maxsize=4096)
def _asks(operator: str, operand: str) -> Callable[[str | int | float], bool]:
    """What an operator that is not negated asks of one value."""
    match operator:
        case "exists":
            return lambda _: True
        case "=" | "in":
            wanted = frozenset(_items(operand) if operator == "in" else (operand,))
            numbers = frozenset(map(as_number, wanted)) - {None}
            return lambda value: (
                value.strip() in wanted if isinstance(value, str) else float(value) in numbers
            )
        case "~":
            search = _pattern(operand).search
            # Descriptions and image types are the same few in most series.
            return lru_cache(maxsize=256)(lambda value: search(str(value)) is not None)
        case _:
            compare, bound = _COMPARE[operator], as_number(operand)
            if bound is None:
                return lambda _: False
            return lambda value: (number := as_number(value)) is not None and compare(number, bound)


def _items(operand: str) -> list[str]:
    return [item.strip() for item in operand.split(",") if item.strip()]


def as_number(value: str | int | float) -> float | None:
    """The number that a value is, or None."""
    try:
        return float(value)
    except ValueError:
        return None


def _check_operand(clause: Clause, text: str) -> None:
    match clause.operator:
        case "exists" | "missing":
            if clause.operand:
                raise RuleError(f"Clause {text!r}: `{clause.operator}` takes no value.")
        case "~" | "!~":
            try:
                _pattern(clause.operand)
            except re2.error as error:
                raise RuleError(
                    f"Clause {text!r}: {clause.operand!r} is no regular expression (RE2): {_said(error)}."
                ) from error
        case "<" | "<=" | ">" | ">=":
            if as_number(clause.operand) is None:
                raise RuleError(f"Clause {text!r}: {clause.operand!r} is no number.")
        case "in":
            if not _items(clause.operand):
                raise RuleError(f"Clause {text!r}: `in` takes values separated by commas.")
        case _:
            if not clause.operand:
                raise RuleError(
                    f"Clause {text!r}: a value is missing; for an empty one use `missing`."
                )


@lru_cache(maxsize=256)
def _pattern(text: str) -> Any:
    options = re2.Options()
    options.log_errors = False
    return re2.compile(text, options)


def _said(error: Exception) -> str:
    message = error.args[0] if error.args else error
    return message.decode() if isinstance(message, bytes) else str(message)


def show_values(values: Values) -> str:
    """Values as an explanation shows them: cut where they are long."""
    text = "\\".join(str(value) for value in values)
    if not values:
        return "missing"
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
