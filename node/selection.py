"""Which series of a study a rule runs on: input by input, with the reason why each was taken or not. Pure.

    fits      a series plays a role when its modality and images suit the pipeline, and the rule's clauses hold
    wins      of those that fit, one plays the role: the one the rule prefers (`node.preference`); with `each` every
              series that fits the first role begins a run of its own
    joins     roles of one run share a frame of reference where the manifest says so (`node.pairing`)
    missing   a run waits until `wait_s` after its last instance came; then it goes without what is missing where the
              rule allows that (`without`), or is held. What comes later is news, and the study is looked at again.
    lacking   a run waits as long for the slices that a series of it lacks; then it goes on what there is where the rule
              says so (`incomplete`), or a person does; else it is held, or refused by the pipeline where the rule
              reports refusals.

The clock is a parameter, and a deadline follows from what is stored: a node that was killed while a study waited waits
for what is left.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from node import reasons
from node.pairing import (
    FRAME,
    InputSet,
    Lacking,
    ReadRule,
    find_sets,
    frame_of,
    frames_to_share,
    read_rule,
    share_frame,
)
from node.routing import demands, judge
from pipelines.manifest import Manifest
from storage.model import ClauseVerdict, Decision, DecisionCode, Rule, Series, VerdictReason

_Verdicts = tuple[ClauseVerdict, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What one rule makes of some series of a study: one set of inputs, or those that are in none."""

    rule: Rule
    decisions: tuple[Decision, ...]
    #: Role -> series, in the manifest's order; empty when nothing runs.
    inputs: Mapping[str, Series] = field(default_factory=dict)
    #: When the wait for a missing input ends; None when there is none.
    waits_until: datetime | None = None
    #: What its series lack, where it runs on them all the same.
    lacks: tuple[VerdictReason, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fit:
    """A series that can play a role, and the clauses that say so."""

    series: Series
    verdicts: _Verdicts


@dataclass(frozen=True, slots=True, kw_only=True)
class _Studied:
    """One rule on one study: what is wanted, and what fits."""

    wanted: ReadRule
    fits: Mapping[str, Sequence[_Fit]]


def route(  # noqa: PLR0913 - as `select`
    rules: Iterable[Rule],
    series: Sequence[Series],
    manifests: Mapping[str, Manifest],
    *,
    now: datetime,
    lacking: Lacking | None = None,
    forced: bool = False,
) -> tuple[Selection, ...]:
    """Every enabled rule on the series of one study that are not our own, most urgent rule first."""
    ordered = sorted((rule for rule in rules if rule.enabled), key=lambda r: (-r.priority, r.name))
    return tuple(
        selection
        for rule in ordered
        for selection in select(
            rule,
            series,
            manifests.get(rule.pipeline),
            now=now,
            lacking=lacking,
            forced=forced,
        )
    )


def select(  # noqa: PLR0913 - one decision
    rule: Rule,
    series: Sequence[Series],
    manifest: Manifest | None,
    *,
    now: datetime,
    lacking: Lacking | None = None,
    forced: bool = False,
) -> tuple[Selection, ...]:
    """One rule on the series of one study: its sets of inputs, then the series that fit no role.

    Parameters
    ----------
    series
        Of one study; our own are left out.
    manifest
        Of the rule's pipeline; None when it is not installed.
    now
        Aware; decides whether a wait is over.
    lacking
        What did not come of some series.
    forced
        A person asked for it as it is: nothing is waited for, and a series that lacks slices runs.
    """
    foreign = [one for one in series if not one.own]
    if manifest is None:
        unfit = [reasons.not_installed(rule, one) for one in foreign]
        sets = []
    else:
        studied, unfit = _study(read_rule(rule, manifest), foreign)
        fits = {role: [fit.series for fit in found] for role, found in studied.fits.items()}
        found = find_sets(studied.wanted, fits, now=now, lacking=lacking or {}, forced=forced)
        sets = [_explain(studied, one) for one in found]
    return (*sets, Selection(rule=rule, decisions=tuple(unfit))) if unfit else tuple(sets)


# -- which series fit -----------------------------------------------------------------------------


def _study(wanted: ReadRule, series: Sequence[Series]) -> tuple[_Studied, list[Decision]]:
    """For each wanted role the series that fit it; why the others do not."""
    rule, manifest = wanted.rule, wanted.manifest
    fits: dict[str, list[_Fit]] = {role: [] for role in wanted.roles}
    unfit: list[Decision] = []
    for one in series:
        playable = [r for r in wanted.roles if one.modality in manifest.inputs[r].modality]
        for role in playable or ("",):
            texts = (*rule.where, *rule.roles.get(role, ()))
            said = tuple(judge(text, one) for text in texts)
            verdicts = (*said, *demands(manifest, rule, role, one))
            if all(verdict.holds for verdict in verdicts):
                fits[role].append(_Fit(series=one, verdicts=verdicts))
            else:
                unfit.append(reasons.lost(rule, role, one, verdicts))
    return _Studied(wanted=wanted, fits=fits), unfit


# -- one set of inputs ----------------------------------------------------------------------------


def _explain(studied: _Studied, found: InputSet) -> Selection:
    """The decisions on one set: who plays each role and why, who lost it, and what is missing."""
    wanted, rule = studied.wanted, studied.wanted.rule
    of_role: dict[str, list[Decision]] = {}
    before: dict[str, Series] = {}
    # As the set was made: the first role, then the others.
    for role in sorted(wanted.roles, key=lambda role: role != found.first):
        lost = _rivals(studied, role, found, before)
        if role in found.chosen:
            verdicts = _praise(studied, role, found, before, lost)
            of_role[role] = [reasons.taken(wanted, role, found, verdicts), *lost]
            before[role] = found.chosen[role]
        else:
            of_role[role] = [reasons.missing(rule, role, found), *lost]
    runs = found.code is DecisionCode.RUNS
    return Selection(
        rule=rule,
        decisions=tuple(one for role in wanted.roles for one in of_role[role]),
        inputs={r: found.chosen[r] for r in wanted.roles if r in found.chosen} if runs else {},
        waits_until=found.deadline if found.code is DecisionCode.WAITS else None,
        lacks=found.lacks if found.may_lack else (),
    )


def _rivals(
    studied: _Studied, role: str, found: InputSet, before: Mapping[str, Series]
) -> list[Decision]:
    """Why the others that fit `role` do not play it: another frame of reference, or the rule prefers one."""
    rule = studied.wanted.rule
    if role == found.first and rule.each:
        # Each begins a set of its own.
        return []
    winner = found.chosen.get(role)
    taken = {one.series_instance_uid for one in before.values()}
    beaten: list[tuple[_Fit, _Verdicts]] = []
    apart: list[Decision] = []
    for fit in studied.fits[role]:
        if fit.series is winner or fit.series.series_instance_uid in taken:
            continue
        frames = _judge_frames(studied.wanted.manifest, role, fit.series, before)
        verdicts = (*fit.verdicts, *frames)
        if winner is None or not all(verdict.holds for verdict in frames):
            apart.append(reasons.lost(rule, role, fit.series, verdicts))
        else:
            beaten.append((fit, verdicts))
    if winner is None:
        return apart
    key = studied.wanted.preference.key
    return [
        reasons.lost(
            rule,
            role,
            fit.series,
            (*verdicts, _judge_rank(studied, found, role, fit.series)),
            code=DecisionCode.OUTRANKED,
        )
        for fit, verdicts in sorted(beaten, key=lambda one: key(one[0].series))
    ] + apart


def _praise(
    studied: _Studied,
    role: str,
    found: InputSet,
    before: Mapping[str, Series],
    lost: Sequence[Decision],
) -> _Verdicts:
    """Every clause that holds for who plays `role`; last, the wish that decided against the next best."""
    winner = found.chosen[role]
    fits = {fit.series.series_instance_uid: fit for fit in studied.fits[role]}
    verdicts = (
        *fits[winner.series_instance_uid].verdicts,
        *_judge_frames(studied.wanted.manifest, role, winner, before),
    )
    beaten = next((one for one in lost if one.code == DecisionCode.OUTRANKED), None)
    if beaten is None:
        return verdicts
    next_best = fits[beaten.series_instance_uid].series
    decided = studied.wanted.preference.judge(winner, next_best)
    return (*verdicts, decided) if decided.holds else verdicts


def _judge_rank(studied: _Studied, found: InputSet, role: str, loser: Series) -> ClauseVerdict:
    """Why a series lost to the winner of its role: the wish that decided, or inputs that the winner's run has."""
    winner = found.chosen[role]
    verdict = studied.wanted.preference.judge(loser, winner)
    if not verdict.holds:
        return verdict
    # It would be preferred, but more is missing beside it: only runs are compared so, by their first role.
    return ClauseVerdict(
        clause="prefer a run with most inputs",
        seen=f"fewer; with series …{winner.series_instance_uid[-12:]} {' and '.join(found.chosen)}",
        holds=False,
    )


def _judge_frames(
    manifest: Manifest, role: str, series: Series, chosen: Mapping[str, Series]
) -> _Verdicts:
    verdicts = []
    for other, partner in frames_to_share(manifest, role, chosen):
        clause = f"{FRAME} = that of {other}, {frame_of(partner) or 'which has none'}"
        same = share_frame(series, partner)
        seen = frame_of(series) or "missing"
        verdicts.append(ClauseVerdict(clause=clause, seen=seen, holds=same))
    return tuple(verdicts)
