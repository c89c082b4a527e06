"""Which of several series that fit is taken: a rule's wishes, in their order. Pure.

    ConvolutionKernel ~ (?i)^B[rf]?3    series for which the clause holds come first
    most slices                         the largest number of a fact or numeric keyword first
    least SliceThickness                the smallest first

A wish counts only among series that are equal in all wishes before it. After a rule's own come `DEFAULT_WISHES`, then
the smaller UID: of the same series always the same one wins, in whatever order they came. Series without a value come
last, and of several values (VM) the one that suits a wish best counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import inf, isnan
from typing import TypeAlias

from pydicom.datadict import dictionary_VR, tag_for_keyword

from node.errors import RuleError
from node.routing import (
    FACTS,
    Clause,
    as_number,
    count_frames,
    parse_clause,
    show_values,
    values_of,
)
from storage.model import ClauseVerdict, Rule, Series

#: What counts where a rule wishes nothing, and after what it wishes.
DEFAULT_WISHES = (
    # PS3.3 C.7.6.1.1.2: derived images (reformats, projections) and secondary ones are made of others.
    "ImageType = ORIGINAL",
    "ImageType = PRIMARY",
    "most slices",
    "least SliceThickness",
    # Of equals the one acquired or reconstructed first, as scanners number them; not the one received first.
    "least SeriesNumber",
)
_EXTREME = re.compile(r"^\s*(most|least)\s+([A-Za-z_][A-Za-z0-9_]*)\s*$")
#: Facts that are text.
_NO_NUMBERS = frozenset(("calling_ae", "plane"))
#: Value representations that compare as numbers; dates and times do by their digits (PS3.5 Table 6.2-1).
_NUMERIC_VR = frozenset(
    ("DS", "IS", "FL", "FD", "US", "SS", "UL", "SL", "UV", "SV", "DA", "TM", "DT")
)
#: Digits of a UID that an explanation names.
_UID_SHOWN = 12

#: What series are sorted by.
Key: TypeAlias = tuple[tuple[float, ...], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """One parsed wish: a clause, or the most or least of a keyword."""

    keyword: str
    #: None for `most` and `least`.
    clause: Clause | None = None
    most: bool = False

    def __str__(self) -> str:
        if self.clause is not None:
            return str(self.clause)
        return f"{'most' if self.most else 'least'} {self.keyword}"

    def rank(self, series: Series) -> float:
        """The smaller, the better."""
        if self.clause is not None:
            return 0.0 if self.clause.holds(series) else 1.0
        if self.keyword == "slices":
            return float(-count_slices(series) if self.most else count_slices(series))
        sign = -1.0 if self.most else 1.0
        numbers = [as_number(value) for value in values_of(self.keyword, series)]
        return min((sign * n for n in numbers if n is not None and not isnan(n)), default=inf)

    def show(self, series: Series) -> str:
        """The value it looked at."""
        if self.keyword == "slices" and self.clause is None:
            return str(count_slices(series))
        return show_values(values_of(self.keyword, series))


@lru_cache(maxsize=1024)
def parse_wish(text: str) -> Wish:
    """Parse one wish.

    Raises
    ------
    RuleError
        Saying what is wrong with it, in terms of the text as written.
    """
    found = _EXTREME.match(text)
    if found is None:
        try:
            clause = parse_clause(text)
        except RuleError as error:
            raise RuleError(
                f"Wish {text!r} is neither a clause nor `most` or `least` of a number: {error}"
            ) from error
        return Wish(keyword=clause.keyword, clause=clause)
    keyword = found[2]
    tag = tag_for_keyword(keyword)
    if keyword not in FACTS and tag is None:
        raise RuleError(
            f"Wish {text!r}: {keyword!r} is neither a DICOM keyword nor one of {', '.join(FACTS)}."
        )
    if keyword in _NO_NUMBERS or (tag is not None and dictionary_VR(tag) not in _NUMERIC_VR):
        raise RuleError(f"Wish {text!r}: {keyword!r} is no number; write a clause on it.")
    return Wish(keyword=keyword, most=found[1] == "most")


def count_slices(series: Series) -> int:
    """Slices of a series: its different positions, or the frames of multi-frame instances."""
    slices = series.facts.get("slices")
    return slices if isinstance(slices, int) else count_frames(series)


def check_wishes(rule: Rule) -> None:
    """Refuse a rule that has a wish nobody can read.

    Raises
    ------
    RuleError
    """
    for text in rule.prefer:
        try:
            parse_wish(text)
        except RuleError as error:
            raise RuleError(f"Rule {rule.name!r}: {error}") from error


class Preference:
    """An order among series, and the reason for it."""

    def __init__(self, wishes: Iterable[str] = ()) -> None:
        readable = []
        for text in dict.fromkeys((*wishes, *DEFAULT_WISHES)):
            try:
                readable.append(parse_wish(text))
            except RuleError:
                # Rules are checked when they are written; this one was written by another version.
                continue
        self._wishes = tuple(readable)

    def key(self, series: Series) -> Key:
        """What to sort by, the best first."""
        ranks = tuple(wish.rank(series) for wish in self._wishes)
        return ranks, series.series_instance_uid

    def best(self, series: Sequence[Series]) -> Series:
        """The one that wins."""
        return series[0] if len(series) == 1 else min(series, key=self.key)

    def judge(self, series: Series, other: Series) -> ClauseVerdict:
        """The wish that decides between two series, said of the first: holds where that one wins."""
        wins = self.key(series) < self.key(other)
        for wish in self._wishes:
            if wish.rank(series) != wish.rank(other):
                clause, mine, theirs = f"prefer {wish}", wish.show(series), wish.show(other)
                break
        else:
            clause = "prefer the smaller UID"
            mine, theirs = _end_of(series), "that UID"
        seen = f"{mine}; series {_end_of(other)} has {theirs}"
        return ClauseVerdict(clause=clause, seen=seen, holds=wins)


def _end_of(series: Series) -> str:
    return f"…{series.series_instance_uid[-_UID_SHOWN:]}"
