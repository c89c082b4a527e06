"""How urgent a run is, and why: rule, header, sender. Pure.

    rule      its priority, 0 to 100
    header    Requested Procedure Priority (0040,1003), else the retired Study Priority ID (0032,000C), points below
    sender    `[routing] priorities` of the calling AE title, points

The sum is the workitem's priority; what it gains by waiting is `storage.index.turns`'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from storage.model import Rule, Series

#: Points by the terms of PS3.3 C.4.11 and, for MED, of the retired attribute. A STAT goes before every rule.
POINTS: Mapping[str, int] = {
    "STAT": 100,
    "HIGH": 25,
    "ROUTINE": 0,
    "MEDIUM": 0,
    "MED": 0,
    "LOW": -25,
}
_SAID_IN = {
    "RequestedProcedurePriority": "Requested Procedure Priority (0040,1003)",
    "StudyPriorityID": "Study Priority ID (0032,000C)",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Urgency:
    """The priority of a run and what it is made of, a sentence each."""

    priority: int
    reasons: tuple[str, ...]
    #: Whether the header says STAT.
    is_stat: bool


def assess(rule: Rule, inputs: Iterable[Series], priorities: Mapping[str, int]) -> Urgency:
    """How urgent one rule's run on these series is; of several, the most urgent counts.

    Parameters
    ----------
    priorities
        Calling AE title -> points, which may be negative.
    """
    series = tuple(inputs)
    reasons = [f"Rule {rule.name} has {rule.priority}."]
    priority = rule.priority
    term = ""
    said = [found for one in series if (found := _term_of(one))]
    if said:
        keyword, term = max(said, key=lambda found: POINTS[found[1]])
        priority += POINTS[term]
        reasons.append(f"{_SAID_IN[keyword]} is {term}: {POINTS[term]:+d}.")
    senders = {str(one.facts.get("calling_ae", "")) for one in series} & priorities.keys()
    if senders:
        sender = max(sorted(senders), key=lambda ae: priorities[ae])
        priority += priorities[sender]
        reasons.append(f"Sender {sender} ([routing] priorities): {priorities[sender]:+d}.")
    return Urgency(priority=priority, reasons=tuple(reasons), is_stat=term == "STAT")


def _term_of(series: Series) -> tuple[str, str] | None:
    """Keyword and term of the first of the two attributes that says one of `POINTS`."""
    for keyword in _SAID_IN:
        values = series.header.get(keyword, ())
        term = str(values[0] or "").strip().upper() if values else ""
        if term in POINTS:
            return keyword, term
    return None
