"""Which series of a study a rule runs on: input by input, with the reason why each was taken or not. Pure.

    fits      a series plays a role when its modality and images suit the pipeline, and the rule's clauses hold
    begins    every series that fits the first wanted role begins a set of inputs
    joins     each further role gets, of the series in the same frame of reference, the one with most slices
    missing   a set waits until `wait_s` after its last instance came; then it runs without what is missing where the
              rule allows that (`without`), or is held. What comes later is news, and the set is looked at again.
    lacking   a set waits as long for the slices that a series of it lacks; then it runs on what there is where the rule
              says so (`incomplete`), or a person does; else it is held, or refused by the pipeline where the rule
              reports refusals.

Roles are looked at in the manifest's order; where no series fits the first, the next begins. A pipeline of one role
thus runs on every series that fits. The clock is a parameter, and a deadline follows from what is stored: a node that
was killed while a study waited waits for what is left.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from node.routing import count_frames, demands, judge, wanted_roles
from node.rulefile import format_wait
from pipelines.manifest import Manifest
from storage.model import RUN, ClauseVerdict, Decision, DecisionCode, Rule, Series, VerdictReason

_FRAME = "FrameOfReferenceUID"
_Verdicts = tuple[ClauseVerdict, ...]
#: The code of a gap; of instances that an archive has besides it is another (`node.completeness`).
SLICES_MISSING = "slices-missing"
#: Series Instance UID -> what did not come of it (`node.completeness.lacking`).
Lacking = Mapping[str, VerdictReason]


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

    rule: Rule
    manifest: Manifest
    wanted: tuple[str, ...]
    fits: Mapping[str, Sequence[_Fit]]
    lacking: Lacking
    forced: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outcome:
    """What becomes of a set of inputs, and what it lacks."""

    code: DecisionCode
    missing: tuple[str, ...]
    deadline: datetime
    #: What its series lack.
    lacks: tuple[VerdictReason, ...] = ()


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
        unfit = [_not_installed(rule, one) for one in foreign]
        sets = []
    else:
        studied, unfit = _study(rule, manifest, foreign)
        studied = replace(studied, lacking=lacking or {}, forced=forced)
        first = next((role for role in studied.wanted if studied.fits[role]), None)
        sets = [_assemble(studied, first, one, now) for one in studied.fits[first]] if first else []
    return (*sets, Selection(rule=rule, decisions=tuple(unfit))) if unfit else tuple(sets)


def count_slices(series: Series) -> int:
    """Slices of a series: its different positions, or the frames of multi-frame instances."""
    slices = series.facts.get("slices")
    return slices if isinstance(slices, int) else count_frames(series)


# -- which series fit -----------------------------------------------------------------------------


def _study(
    rule: Rule, manifest: Manifest, series: Sequence[Series]
) -> tuple[_Studied, list[Decision]]:
    """For each wanted role the series that fit it; why the others do not."""
    wanted = wanted_roles(rule, manifest)
    fits: dict[str, list[_Fit]] = {role: [] for role in wanted}
    unfit: list[Decision] = []
    for one in series:
        playable = [r for r in wanted if one.modality in manifest.inputs[r].modality]
        for role in playable or ("",):
            texts = (*rule.where, *rule.roles.get(role, ()))
            said = tuple(judge(text, one) for text in texts)
            verdicts = (*said, *demands(manifest, rule, role, one))
            if all(verdict.holds for verdict in verdicts):
                fits[role].append(_Fit(series=one, verdicts=verdicts))
            else:
                unfit.append(_lost(rule, role, one, verdicts))
    studied = _Studied(
        rule=rule, manifest=manifest, wanted=wanted, fits=fits, lacking={}, forced=False
    )
    return studied, unfit


# -- one set of inputs ----------------------------------------------------------------------------


def _assemble(studied: _Studied, first: str, begin: _Fit, now: datetime) -> Selection:
    """The set that one series begins: its partners, and whether it runs, waits or is held."""
    chosen: dict[str, _Fit] = {first: begin}
    lost: dict[str, list[Decision]] = {}
    for role in studied.wanted:
        if role != first and studied.fits[role]:
            winner, lost[role] = _choose_partner(studied, role, chosen)
            if winner is not None:
                chosen[role] = winner
    outcome = _settle(studied, chosen, now)
    decisions: list[Decision] = []
    for role in studied.wanted:
        if role in chosen:
            decisions.append(_taken(studied, role, chosen[role], outcome))
        else:
            decisions.append(_missing(studied.rule, role, outcome))
        decisions += lost.get(role, [])
    ordered = {role: chosen[role].series for role in studied.wanted if role in chosen}
    return Selection(
        rule=studied.rule,
        decisions=tuple(decisions),
        inputs=ordered if outcome.code is DecisionCode.RUNS else {},
        waits_until=outcome.deadline if outcome.code is DecisionCode.WAITS else None,
        lacks=outcome.lacks if _may_lack(studied) else (),
    )


def _may_lack(studied: _Studied) -> bool:
    return studied.rule.incomplete == RUN or studied.forced


def _choose_partner(
    studied: _Studied, role: str, chosen: Mapping[str, _Fit]
) -> tuple[_Fit | None, list[Decision]]:
    """Of those in the same frame of reference the one with most slices; why the others lost."""
    taken = {fit.series.series_instance_uid for fit in chosen.values()}
    able: list[_Fit] = []
    lost: list[Decision] = []
    for fit in studied.fits[role]:
        frames = _judge_frames(studied.manifest, role, fit.series, chosen)
        verdicts = (*fit.verdicts, *frames)
        if fit.series.series_instance_uid in taken:
            continue
        if all(verdict.holds for verdict in frames):
            able.append(_Fit(series=fit.series, verdicts=verdicts))
        else:
            lost.append(_lost(studied.rule, role, fit.series, verdicts))
    if not able:
        return None, lost
    winner = min(able, key=_rank)
    beaten = [
        _lost(
            studied.rule,
            role,
            fit.series,
            (*fit.verdicts, _judge_slices(fit.series, winner.series)),
            code=DecisionCode.OUTRANKED,
        )
        for fit in sorted(able, key=_rank)[1:]
    ]
    if beaten:
        most = _judge_slices(winner.series, winner.series)
        winner = _Fit(series=winner.series, verdicts=(*winner.verdicts, most))
    return winner, beaten + lost


def _rank(fit: _Fit) -> tuple[int, datetime, str]:
    one = fit.series
    return -count_slices(one), one.first_received_at, one.series_instance_uid


def _judge_slices(series: Series, winner: Series) -> ClauseVerdict:
    mine, most = count_slices(series), count_slices(winner)
    seen = str(mine)
    if series is not winner:
        that = f"series …{winner.series_instance_uid[-12:]}"
        seen += f"; {that} has {most}" if mine < most else f" as {that}, which came first"
    return ClauseVerdict(clause="has most slices", seen=seen, holds=series is winner)


def _judge_frames(
    manifest: Manifest, role: str, series: Series, chosen: Mapping[str, _Fit]
) -> _Verdicts:
    """PS3.3 C.7.4.1.1.1: positions of two series compare only where Frame of Reference UID is the same."""
    verdicts = []
    for other, fit in chosen.items():
        asked = manifest.inputs[role].same_frame_as, manifest.inputs[other].same_frame_as
        if asked[0] == other or asked[1] == role:
            mine, theirs = _frame_of(series), _frame_of(fit.series)
            clause = f"{_FRAME} = that of {other}, {theirs or 'which has none'}"
            same = mine != "" and mine == theirs
            verdicts.append(ClauseVerdict(clause=clause, seen=mine or "missing", holds=same))
    return tuple(verdicts)


def _frame_of(series: Series) -> str:
    return str(series.header.get(_FRAME, ("",))[0] or "")


def _settle(studied: _Studied, chosen: Mapping[str, _Fit], now: datetime) -> _Outcome:
    rule = studied.rule
    missing = tuple(role for role in studied.wanted if role not in chosen)
    last = max(fit.series.last_received_at for fit in chosen.values())
    deadline = last + timedelta(seconds=rule.wait_s)
    uids = [fit.series.series_instance_uid for fit in chosen.values()]
    lacks = tuple(studied.lacking[uid] for uid in uids if uid in studied.lacking)
    # A pipeline refuses a gap, and the report says why; of a tail that did not come it knows nothing.
    is_told = rule.report_refusals and all(one.code == SLICES_MISSING for one in lacks)
    may_lack = not lacks or _may_lack(studied) or is_told
    if (missing or lacks) and now < deadline and not studied.forced:
        code = DecisionCode.WAITS
    elif may_lack and all(role in rule.without for role in missing):
        code = DecisionCode.RUNS
    else:
        code = DecisionCode.HELD
    return _Outcome(code=code, missing=missing, deadline=deadline, lacks=lacks)


# -- decisions and their reasons ------------------------------------------------------------------


def _decision(  # noqa: PLR0913 - one noun
    rule: Rule,
    role: str,
    series: Series | None,
    *,
    code: DecisionCode,
    reason: str,
    verdicts: _Verdicts = (),
) -> Decision:
    return Decision(
        rule=rule.name,
        rule_version=rule.version,
        pipeline=rule.pipeline,
        series_instance_uid="" if series is None else series.series_instance_uid,
        matched=code is DecisionCode.RUNS,
        clauses=verdicts,
        reason=reason,
        role=role,
        code=code,
    )


def _not_installed(rule: Rule, series: Series) -> Decision:
    verdicts = tuple(judge(text, series) for text in rule.where)
    reason = f"Pipeline {rule.pipeline} is not installed."
    code = DecisionCode.NOT_INSTALLED
    return _decision(rule, "", series, code=code, reason=reason, verdicts=verdicts)


def _lost(
    rule: Rule,
    role: str,
    series: Series,
    verdicts: _Verdicts,
    *,
    code: DecisionCode = DecisionCode.UNFIT,
) -> Decision:
    failed = [f"{v.clause} (seen: {v.seen})" for v in verdicts if not v.holds]
    reason = "Does not run: " + "; ".join(failed)
    return _decision(rule, role, series, code=code, reason=reason, verdicts=verdicts)


def _taken(studied: _Studied, role: str, fit: _Fit, outcome: _Outcome) -> Decision:
    rule, missing = studied.rule, outcome.missing
    lacks = ["the slices that it lacks"] if outcome.lacks else []
    match outcome.code:
        case DecisionCode.WAITS:
            then = f"waits for {_listed([*missing, *lacks])} until {_clock(outcome.deadline)}"
        case DecisionCode.HELD:
            forbidden = [one for one in missing if one not in rule.without]
            then = f"is held: the rule allows no run without {_listed([*forbidden, *lacks])}"
        case _ if lacks and not _may_lack(studied):
            then = "refuses it for the slices that it lacks, which the rule has reported"
        case _:
            then = "runs" + (f" without {_listed([*missing, *lacks])}" if missing or lacks else "")
    said = "".join(f" {one.sentence}" for one in outcome.lacks)
    as_role = f", as {role}" if len(studied.manifest.inputs) > 1 else ""
    reason = f"Every clause holds{as_role}: {rule.pipeline} {then}.{said}"
    return _decision(
        rule, role, fit.series, code=outcome.code, reason=reason, verdicts=fit.verdicts
    )


def _missing(rule: Rule, role: str, outcome: _Outcome) -> Decision:
    within = f" within {format_wait(rule.wait_s)}" if rule.wait_s else ""
    code: DecisionCode = outcome.code
    nobody = f"No series that fits as {role} came{within}"
    match outcome.code:
        case DecisionCode.WAITS:
            then = "runs without it" if role in rule.without else "does not run"
            until = _clock(outcome.deadline)
            reason = f"No series fits as {role} yet: after {until} {rule.pipeline} {then}."
        case DecisionCode.RUNS:
            code = DecisionCode.ABSENT
            reason = f"{nobody}: {rule.pipeline} runs without it, as the rule allows."
        case _:
            reason = f"{nobody}. One that comes later still counts."
    return _decision(rule, role, None, code=code, reason=reason)


def _listed(roles: Sequence[str]) -> str:
    return " and ".join(roles)


def _clock(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M:%S UTC")
