"""Decisions, each with its reason: a sentence that says why a series runs, or what would have to change. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from node.pairing import InputSet, ReadRule
from node.routing import judge
from node.rulefile import format_wait
from storage.model import ClauseVerdict, Decision, DecisionCode, Rule, Series


def not_installed(rule: Rule, series: Series) -> Decision:
    """The rule's pipeline is not there."""
    verdicts = tuple(judge(text, series) for text in rule.where)
    reason = f"Pipeline {rule.pipeline} is not installed."
    code = DecisionCode.NOT_INSTALLED
    return _decision(rule, "", series, code=code, reason=reason, verdicts=verdicts)


def lost(
    rule: Rule,
    role: str,
    series: Series,
    verdicts: Sequence[ClauseVerdict],
    *,
    code: DecisionCode = DecisionCode.UNFIT,
) -> Decision:
    """A series that does not play `role`: what does not hold."""
    failed = [f"{v.clause} (seen: {v.seen})" for v in verdicts if not v.holds]
    reason = "Does not run: " + "; ".join(failed)
    return _decision(rule, role, series, code=code, reason=reason, verdicts=verdicts)


def taken(
    wanted: ReadRule, role: str, found: InputSet, verdicts: Sequence[ClauseVerdict]
) -> Decision:
    """A series that plays `role`: it runs, waits for another, or is held."""
    rule, absent = wanted.rule, found.missing
    lacks = ["the slices that it lacks"] if found.lacks else []
    match found.code:
        case DecisionCode.WAITS:
            then = f"waits for {_listed([*absent, *lacks])} until {_clock(found.deadline)}"
        case DecisionCode.HELD:
            forbidden = [one for one in absent if one not in rule.without]
            then = f"is held: the rule allows no run without {_listed([*forbidden, *lacks])}"
        case _ if lacks and not found.may_lack:
            then = "refuses it for the slices that it lacks, which the rule has reported"
        case _:
            then = "runs" + (f" without {_listed([*absent, *lacks])}" if absent or lacks else "")
    said = "".join(f" {one.sentence}" for one in found.lacks)
    as_role = f", as {role}" if len(wanted.manifest.inputs) > 1 else ""
    reason = f"Every clause holds{as_role}: {rule.pipeline} {then}.{said}"
    series = found.chosen[role]
    return _decision(rule, role, series, code=found.code, reason=reason, verdicts=verdicts)


def missing(rule: Rule, role: str, found: InputSet) -> Decision:
    """A role that no series plays: until when it is waited for, and what then."""
    within = f" within {format_wait(rule.wait_s)}" if rule.wait_s else ""
    code: DecisionCode = found.code
    nobody = f"No series that fits as {role} came{within}"
    match found.code:
        case DecisionCode.WAITS:
            then = "runs without it" if role in rule.without else "does not run"
            until = _clock(found.deadline)
            reason = f"No series fits as {role} yet: after {until} {rule.pipeline} {then}."
        case DecisionCode.RUNS:
            code = DecisionCode.ABSENT
            reason = f"{nobody}: {rule.pipeline} runs without it, as the rule allows."
        case _:
            reason = f"{nobody}. One that comes later still counts."
    return _decision(rule, role, None, code=code, reason=reason)


def _decision(  # noqa: PLR0913 - one noun
    rule: Rule,
    role: str,
    series: Series | None,
    *,
    code: DecisionCode,
    reason: str,
    verdicts: Sequence[ClauseVerdict] = (),
) -> Decision:
    return Decision(
        rule=rule.name,
        rule_version=rule.version,
        pipeline=rule.pipeline,
        series_instance_uid="" if series is None else series.series_instance_uid,
        matched=code is DecisionCode.RUNS,
        clauses=tuple(verdicts),
        reason=reason,
        role=role,
        code=code,
    )


def _listed(roles: Sequence[str]) -> str:
    return " and ".join(roles)


def _clock(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M:%S UTC")
