"""Rules -> which pipeline runs on which series, with the reason for every clause. Pure: no I/O, no clock.

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
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import re2
from pydicom.datadict import tag_for_keyword

from node.errors import RuleError
from pipelines.errors import ManifestError
from pipelines.manifest import Manifest
from storage.model import ClauseVerdict, Decision, HeaderValue, Rule, Series

#: Facts that rules may name besides keywords; `storage.index.studies` derives them.
FACTS: Mapping[str, str] = {
    "calling_ae": "AE title that sent the series",
    "instances": "instances received",
    "slices": "instances with a position in space",
    "slice_gap_mm": "median distance between neighbouring slices along their normal",
    "slice_gap_irregular_mm": "largest minus smallest such distance",
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


def parse_clause(text: str) -> Clause:
    """Parse one clause.

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
        For no clause, a broken one, an unknown pipeline or a parameter the pipeline does not have.
    """
    if not rule.where:
        raise RuleError(f"Rule {rule.name!r} has no clause; it would match everything.")
    for text in rule.where:
        parse_clause(text)
    manifest = manifests.get(rule.pipeline)
    if manifest is None:
        raise RuleError(
            f"Rule {rule.name!r}: no pipeline {rule.pipeline!r}; installed: {', '.join(sorted(manifests)) or 'none'}."
        )
    try:
        manifest.merge(rule.parameters)
    except ManifestError as error:
        raise RuleError(f"Rule {rule.name!r}: {error}") from error


def route(
    rules: Iterable[Rule], series: Sequence[Series], manifests: Mapping[str, Manifest]
) -> tuple[Decision, ...]:
    """Every enabled rule on every series that is not our own, most urgent rule first."""
    ordered = sorted((rule for rule in rules if rule.enabled), key=lambda r: (-r.priority, r.name))
    return tuple(
        decide(rule, one, manifests.get(rule.pipeline))
        for rule in ordered
        for one in series
        if not one.own
    )


def decide(rule: Rule, series: Series, manifest: Manifest | None) -> Decision:
    """One rule on one series: the rule's clauses, then the manifest's demands; all are looked at."""
    verdicts = [_judge_text(text, series) for text in rule.where]
    if manifest is not None:
        verdicts += _demands(manifest, rule, series)
    failed = [verdict for verdict in verdicts if not verdict.holds]
    if manifest is None:
        reason = f"Pipeline {rule.pipeline} is not installed."
    elif failed:
        reason = "Does not run: " + "; ".join(f"{v.clause} (seen: {v.seen})" for v in failed)
    else:
        reason = f"Every clause holds: {rule.pipeline} runs."
    return Decision(
        rule=rule.name,
        rule_version=rule.version,
        pipeline=rule.pipeline,
        series_instance_uid=series.series_instance_uid,
        matched=manifest is not None and not failed,
        clauses=tuple(verdicts),
        reason=reason,
    )


def holds(where: Sequence[str], series: Series) -> bool:
    """Whether all clauses hold for a series."""
    return all(_judge_text(text, series).holds for text in where)


def role_of(manifest: Manifest, series: Series) -> str | None:
    """The input role this series can play."""
    for role, demand in manifest.inputs.items():
        if series.modality in demand.modality:
            return role
    return None


def _demands(manifest: Manifest, rule: Rule, series: Series) -> list[ClauseVerdict]:
    """What the manifest can take, said as clauses."""
    role = role_of(manifest, series)
    modalities = sorted({m for demand in manifest.inputs.values() for m in demand.modality})
    verdicts = [
        ClauseVerdict(
            clause=f"pipeline takes Modality in {', '.join(modalities)}",
            seen=series.modality or "missing",
            holds=role is not None,
        )
    ]
    if role is not None:
        frames = series.header.get("NumberOfFrames", (None,))[0]
        count = max(series.instance_count, int(frames) if isinstance(frames, int) else 0)
        fewest = manifest.inputs[role].min_instances
        verdicts.append(
            ClauseVerdict(
                clause=f"pipeline takes instances >= {fewest}",
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
    return verdicts


def _judge_text(text: str, series: Series) -> ClauseVerdict:
    try:
        clause = parse_clause(text)
    except RuleError as error:
        # Rules are checked when they are written; this one was written by another version.
        return ClauseVerdict(clause=text, seen=f"unreadable clause: {error}", holds=False)
    values = _values(clause.keyword, series)
    operator = _NEGATED.get(clause.operator, clause.operator)
    holds = any(_holds(operator, clause.operand, value) for value in values)
    return ClauseVerdict(
        clause=str(clause), seen=_show(values), holds=holds != (clause.operator in _NEGATED)
    )


def _values(keyword: str, series: Series) -> tuple[str | int | float, ...]:
    raw: tuple[HeaderValue, ...]
    raw = (series.facts.get(keyword),) if keyword in FACTS else series.header.get(keyword, ())
    return tuple(value for value in raw if value is not None and value != "")


def _holds(operator: str, operand: str, value: str | int | float) -> bool:
    match operator:
        case "exists":
            return True
        case "=":
            return _equal(value, operand)
        case "in":
            return any(_equal(value, item) for item in _items(operand))
        case "~":
            return _pattern(operand).search(str(value)) is not None
        case _:
            number = _number(value)
            bound = _number(operand)
            return number is not None and bound is not None and _COMPARE[operator](number, bound)


def _equal(value: str | int | float, operand: str) -> bool:
    if isinstance(value, str):
        return value.strip() == operand
    return _number(value) == _number(operand)


def _items(operand: str) -> list[str]:
    return [item.strip() for item in operand.split(",") if item.strip()]


def _number(value: str | int | float) -> float | None:
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
            if _number(clause.operand) is None:
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


def _show(values: Sequence[str | int | float]) -> str:
    text = "\\".join(str(value) for value in values)
    if not values:
        return "missing"
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
