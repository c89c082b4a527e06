"""Why each rule runs on a study or does not: every rule on every series, and what would have to change. Pure.

Rules that are off are looked at as if they were on, and say so. Of a series that does not fit, the input counts for
which the fewest clauses would have to change.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from node.pairing import Lacking
from node.rulefile import format_wait
from node.selection import Selection, select
from pipelines.manifest import Manifest
from storage.model import RUN, ClauseVerdict, Decision, DecisionCode, Rule, Series, Workitem

#: What came of a rule is what came of its luckiest series.
_BEST = (
    DecisionCode.RUNS,
    DecisionCode.WAITS,
    DecisionCode.HELD,
    DecisionCode.NOT_INSTALLED,
    DecisionCode.UNFIT,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesVerdict:
    """One rule on one series, or on an input that no series plays."""

    #: Empty for an input that no series plays.
    series_instance_uid: str
    role: str
    code: str
    clauses: tuple[ClauseVerdict, ...]
    reason: str
    #: What would have to change so that it ran, the fewest things; empty where it runs.
    to_change: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleVerdict:
    """One rule on a study."""

    rule: str
    version: int
    enabled: bool
    pipeline: str
    priority: int
    #: What comes of it, or would if it were on: `runs`, `waits`, `held`, `not-installed`, `unfit`.
    code: str
    waits_until: datetime | None
    waits_for: tuple[str, ...]
    #: What would have to change so that it ran on any series: the fewest things.
    to_change: tuple[str, ...]
    series: tuple[SeriesVerdict, ...]
    #: Workitems that ran, or run, this pipeline on the series it takes.
    workitems: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """What a study is looked at with, as an evaluation would."""

    manifests: Mapping[str, Manifest]
    #: Aware; decides whether a wait is over.
    now: datetime
    #: What did not come of some series, and whether a person asked for it as it is (`node.selection.select`).
    lacking: Lacking = field(default_factory=dict)
    forced: bool = False


def explain(
    rules: Iterable[Rule],
    series: Sequence[Series],
    workitems: Sequence[Workitem],
    with_: Circumstances,
) -> tuple[RuleVerdict, ...]:
    """Every rule, most urgent first, those in force before those that are off.

    Parameters
    ----------
    series
        Of one study; our own are left out.
    workitems
        Of the study.
    """
    ordered = sorted(rules, key=lambda rule: (not rule.enabled, -rule.priority, rule.name))
    return tuple(_explain(rule, series, workitems, with_) for rule in ordered)


def _explain(
    rule: Rule, series: Sequence[Series], workitems: Sequence[Workitem], with_: Circumstances
) -> RuleVerdict:
    selections = select(
        rule,
        series,
        with_.manifests.get(rule.pipeline),
        now=with_.now,
        lacking=with_.lacking,
        forced=with_.forced,
    )
    decisions = _nearest([one for each in selections for one in each.decisions])
    verdicts = tuple(_verdict(rule, one, decisions) for one in decisions)
    codes = {one.code for one in decisions}
    code = next((one for one in _BEST if one in codes), DecisionCode.UNFIT)
    waits = [each.waits_until for each in selections if each.waits_until]
    return RuleVerdict(
        rule=rule.name,
        version=rule.version,
        enabled=rule.enabled,
        pipeline=rule.pipeline,
        priority=rule.priority,
        code=code,
        waits_until=min(waits, default=None),
        waits_for=_roles(decisions, DecisionCode.WAITS),
        to_change=_least(rule, code, verdicts),
        series=verdicts,
        workitems=_ran(rule, selections, workitems),
    )


def _nearest(decisions: Sequence[Decision]) -> list[Decision]:
    """Of what a series lost as several inputs, the one it came nearest to; what it won stays alone."""
    by_series: dict[str, list[Decision]] = {}
    for one in decisions:
        by_series.setdefault(one.series_instance_uid or f"as {one.role}", []).append(one)
    kept = []
    for held in by_series.values():
        won = [one for one in held if one.code not in (DecisionCode.UNFIT, DecisionCode.OUTRANKED)]
        kept += won or [min(held, key=lambda one: sum(not c.holds for c in one.clauses))]
    return sorted(kept, key=decisions.index)


def _verdict(rule: Rule, decision: Decision, decisions: Sequence[Decision]) -> SeriesVerdict:
    return SeriesVerdict(
        series_instance_uid=decision.series_instance_uid,
        role=decision.role,
        code=decision.code,
        clauses=decision.clauses,
        reason=decision.reason,
        to_change=tuple(_changes(rule, decision, decisions)),
    )


def _changes(rule: Rule, decision: Decision, decisions: Sequence[Decision]) -> list[str]:
    """What would have to change, a line each."""
    failed = [one for one in decision.clauses if not one.holds]
    match decision.code:
        case DecisionCode.NOT_INSTALLED:
            return [f"pipeline {rule.pipeline} would have to be installed"]
        case DecisionCode.UNFIT:
            return [_wanted(one) for one in failed]
        case DecisionCode.OUTRANKED:
            return [
                f"{_wanted(one)}; or `each`, which runs on every series that fits" for one in failed
            ]
        case DecisionCode.WAITS | DecisionCode.HELD:
            absent = _roles(decisions, decision.code)
            if not decision.series_instance_uid:
                return [_missing(rule, decision)]
            return [] if absent else [_lacking(rule, decision)]
        case _:
            return []


def _wanted(failed: ClauseVerdict) -> str:
    return f"`{failed.clause}` would have to hold (seen: {failed.seen})"


def _missing(rule: Rule, decision: Decision) -> str:
    """What a run does without the input it lacks."""
    role = decision.role
    text = f"a series that fits as {role} would have to come"
    if decision.code == DecisionCode.WAITS:
        then = "runs without it" if role in rule.without else "is held"
        return f"{text}; after {format_wait(rule.wait_s)} it {then}"
    return f"{text}, or the rule to allow a run `--without {role}`"


def _lacking(rule: Rule, decision: Decision) -> str:
    """What a run does whose series lack slices."""
    text = "the slices that are missing would have to come"
    if decision.code == DecisionCode.WAITS:
        then = "runs on what there is" if rule.incomplete == RUN else "is held"
        return f"{text}; after {format_wait(rule.wait_s)} it {then}"
    return f"{text}, or the rule to say `--incomplete run`, or `osteonode studies release`"


def _least(rule: Rule, code: str, verdicts: Sequence[SeriesVerdict]) -> tuple[str, ...]:
    """The fewest changes that make the rule run at all."""
    switched_on = () if rule.enabled else (f"`osteonode rules enable {rule.name}`",)
    if code == DecisionCode.RUNS:
        return switched_on
    near = [one for one in verdicts if one.code == code and one.to_change]
    if not near:
        return (*switched_on, "a series would have to come") if not verdicts else switched_on
    if code in (DecisionCode.WAITS, DecisionCode.HELD):
        return (*switched_on, *(line for one in near for line in one.to_change))
    return (*switched_on, *min(near, key=lambda one: len(one.to_change)).to_change)


def _roles(decisions: Sequence[Decision], code: str) -> tuple[str, ...]:
    """Inputs that no series plays, of runs that wait or are held."""
    missing = (one for one in decisions if one.code == code and not one.series_instance_uid)
    return tuple(dict.fromkeys(one.role for one in missing))


def _ran(
    rule: Rule, selections: Sequence[Selection], workitems: Sequence[Workitem]
) -> tuple[str, ...]:
    taken = {
        decision.series_instance_uid
        for each in selections
        for decision in each.decisions
        if decision.code in (DecisionCode.RUNS, DecisionCode.WAITS, DecisionCode.HELD)
    }
    return tuple(
        one.workitem_uid
        for one in workitems
        if one.pipeline == rule.pipeline
        and any(given.series_instance_uid in taken for given in one.inputs)
    )
