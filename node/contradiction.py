"""Clauses that no series can meet together, where that can be decided. Pure.

    Modality = CT,  Modality = MR              one value at most, and two are asked for
    SliceThickness < 3,  SliceThickness > 5    no number lies between
    SeriesDescription missing,  ... ~ bone     nothing is there to be found
    Modality in CT, PT,  Modality !~ [CP]T     every value of the list is ruled out

An attribute of several values (VM, PS3.6) meets `=`, `~`, `in`, `<` ... with different ones, so only what is asked of
every value counts there. Two regular expressions are not held against each other: silence is no promise.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import combinations
from math import floor, inf

from pydicom.datadict import dictionary_VM, dictionary_VR, tag_for_keyword

from node.routing import FACTS, Clause, as_number
from pipelines.manifest import InputSpec

_FRACTIONS = frozenset(("slice_gap_mm", "slice_gap_irregular_mm"))
_NUMERIC_VR = frozenset(("DS", "IS", "FL", "FD", "US", "SS", "UL", "SL", "UV", "SV"))
_WHOLE_VR = frozenset(("IS", "US", "SS", "UL", "SL", "UV", "SV"))


def find_contradictions(clauses: Iterable[Clause]) -> list[tuple[Clause, ...]]:
    """For each keyword the first two clauses, or else all, that cannot hold together."""
    by_keyword: dict[str, list[Clause]] = defaultdict(list)
    for clause in clauses:
        by_keyword[clause.keyword].append(clause)
    found = []
    for held in by_keyword.values():
        sets = [*combinations(held, 2), tuple(held)] if len(held) > 1 else [tuple(held)]
        worst = next((one for one in sets if _is_impossible(one)), None)
        if worst is not None:
            found.append(worst)
    return found


def demanded(spec: InputSpec) -> tuple[Clause, ...]:
    """What a manifest asks of an input's series, as clauses."""
    modalities = Clause(keyword="Modality", operator="in", operand=", ".join(spec.modality))
    fewest = Clause(keyword="frames", operator=">=", operand=str(spec.min_instances))
    return modalities, fewest


def _is_impossible(clauses: Sequence[Clause]) -> bool:
    """Whether no value, or no values, of one keyword meet all of these."""
    keyword = clauses[0].keyword
    asked = [one for one in clauses if not one.is_negated]
    ruled_out = [one for one in clauses if one.is_negated]
    if asked and any(one.operator == "missing" for one in ruled_out):
        return True
    if any(_is_twin(one, other) for one in asked for other in ruled_out):
        return True
    is_single = _has_one_value(keyword)
    for listed in asked:
        if listed.operator in ("=", "in") and not any(
            _can_be(value, asked if is_single else (listed,), ruled_out)
            for value in _values_of(listed)
        ):
            return True
    return is_single and _is_empty(keyword, asked)


def _is_twin(one: Clause, other: Clause) -> bool:
    """`~ x` and `!~ x`."""
    return other.operator == f"!{one.operator}" and other.operand == one.operand


def _values_of(listed: Clause) -> list[str]:
    if listed.operator == "=":
        return [listed.operand]
    return [item.strip() for item in listed.operand.split(",") if item.strip()]


def _can_be(value: str, asked: Sequence[Clause], ruled_out: Sequence[Clause]) -> bool:
    """Whether a value, as a header may have it, meets all."""
    number = as_number(value)
    forms: list[str | float] = [value] if number is None else [number]
    if number is not None and not _is_number(asked[0].keyword):
        forms.append(value)
    return any(
        all(one.accepts(form) for one in asked) and not any(one.accepts(form) for one in ruled_out)
        for form in forms
    )


def _is_empty(keyword: str, asked: Sequence[Clause]) -> bool:
    """Whether `<`, `<=`, `>`, `>=` leave no number."""
    low, low_is_open, high, high_is_open = -inf, False, inf, False
    for clause in asked:
        bound = as_number(clause.operand)
        if bound is None:
            continue
        is_open = clause.operator in ("<", ">")
        if _is_whole(keyword) and is_open:
            # Next to 3 lies 4: `> 3` and `< 4` leave nothing.
            bound = floor(bound) + 1.0 if clause.operator == ">" else -floor(-bound) - 1.0
            is_open = False
        if clause.operator in (">", ">=") and (bound, is_open) > (low, low_is_open):
            low, low_is_open = bound, is_open
        if clause.operator in ("<", "<=") and (-bound, is_open) > (-high, high_is_open):
            high, high_is_open = bound, is_open
    return low > high or (low == high and (low_is_open or high_is_open))


def _has_one_value(keyword: str) -> bool:
    tag = tag_for_keyword(keyword)
    return keyword in FACTS or (tag is not None and dictionary_VM(tag) == "1")


def _is_number(keyword: str) -> bool:
    """Whether headers have it as a number wherever it is one."""
    tag = tag_for_keyword(keyword)
    return tag is not None and dictionary_VR(tag) in _NUMERIC_VR


def _is_whole(keyword: str) -> bool:
    if keyword in FACTS:
        return keyword not in _FRACTIONS
    tag = tag_for_keyword(keyword)
    return tag is not None and dictionary_VR(tag) in _WHOLE_VR
