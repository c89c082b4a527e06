"""The sets of inputs that a rule's fitting series make: who plays which role, and whether the set runs. Pure.

    begins    every series that fits the first wanted role begins a set
    joins     each further role gets, of the series in the same frame of reference, the one that the rule prefers
    wins      of all sets one: the fewest inputs missing, then the first series that the rule prefers; `each` keeps all
    settles   a set that misses an input, or whose series lack slices, waits until `wait_s` after its last instance
              came; then it runs without them where the rule allows that (`without`, `incomplete`); else it is held,
              or for missing slices refused by the pipeline where the rule reports refusals

Roles are looked at in the manifest's order; where no series fits the first, the next begins. Nothing is explained
here: `node.selection` says why, and `node.replay` asks 100,000 series without.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from node.errors import RuleError
from node.preference import Key, Preference
from node.routing import count_frames, parse_clause, wanted_roles
from pipelines.errors import ManifestError
from pipelines.manifest import Manifest
from storage.model import RUN, DecisionCode, Rule, Series, VerdictReason

FRAME = "FrameOfReferenceUID"

#: The code of a gap; of instances that an archive has besides it is another (`node.completeness`).
SLICES_MISSING = "slices-missing"
#: Series Instance UID -> what did not come of it (`node.completeness.lacking`).
Lacking = Mapping[str, VerdictReason]
#: Role -> the series that fit it.
Fits = Mapping[str, Sequence[Series]]


@dataclass(frozen=True, slots=True, kw_only=True)
class InputSet:
    """Series by role, and what becomes of them."""

    #: The role whose series began it.
    first: str
    #: Role -> series, the first role's before the others.
    chosen: Mapping[str, Series]
    #: ReadRule roles that no series plays.
    missing: tuple[str, ...]
    #: RUNS, WAITS or HELD.
    code: DecisionCode
    #: When the wait for what is missing ends.
    deadline: datetime
    #: What its series lack.
    lacks: tuple[VerdictReason, ...] = ()
    #: Whether it may run on what there is: the rule says so, or a person does.
    may_lack: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadRule:
    """A rule and the pipeline it wants, read once."""

    rule: Rule
    manifest: Manifest
    #: In the manifest's order.
    roles: tuple[str, ...]
    preference: Preference


def read_rule(rule: Rule, manifest: Manifest) -> ReadRule:
    """Read a rule against its pipeline."""
    return ReadRule(
        rule=rule,
        manifest=manifest,
        roles=wanted_roles(rule, manifest),
        preference=Preference(rule.prefer),
    )


def fitting(wanted: ReadRule) -> Callable[[Series], tuple[str, ...]]:
    """The roles that a series fits, as `node.selection` judges it, in one quick look without reasons."""
    rule, manifest = wanted.rule, wanted.manifest
    try:
        manifest.merge(rule.parameters)
        asked = {
            role: tuple(parse_clause(one).holds for one in (*rule.where, *rule.roles.get(role, ())))
            for role in wanted.roles
        }
    except (ManifestError, RuleError):
        # Written by another version, or for one: it fits nothing.
        return lambda _: ()
    modalities = {role: frozenset(manifest.inputs[role].modality) for role in wanted.roles}

    def fits(series: Series, role: str) -> bool:
        return (
            series.modality in modalities[role]
            and count_frames(series) >= manifest.inputs[role].min_instances
            and all(holds(series) for holds in asked[role])
        )

    def roles_of(series: Series) -> tuple[str, ...]:
        return tuple([role for role in wanted.roles if fits(series, role)])

    return roles_of


def find_sets(
    wanted: ReadRule,
    fits: Fits,
    *,
    now: datetime,
    lacking: Lacking | None = None,
    forced: bool = False,
) -> tuple[InputSet, ...]:
    """The sets that shall run, wait, or are held: one, or with `each` one for every series of the first role.

    Parameters
    ----------
    lacking
        What did not come of some series.
    forced
        A person asked for it as it is: nothing is waited for, and a series that lacks slices runs.
    """
    first = next((role for role in wanted.roles if fits.get(role)), None)
    if first is None:
        return ()
    begun = [_assemble(wanted, fits, first, one) for one in fits[first]]
    if not wanted.rule.each and len(begun) > 1:
        begun = [min(begun, key=lambda chosen: _rank(wanted, first, chosen))]
    return tuple(_settle(wanted, first, one, now, lacking or {}, forced=forced) for one in begun)


def frames_to_share(
    manifest: Manifest, role: str, chosen: Mapping[str, Series]
) -> Iterator[tuple[str, Series]]:
    """The roles and series whose frame of reference a series needs that plays `role`."""
    for other, series in chosen.items():
        asked = manifest.inputs[role].same_frame_as, manifest.inputs[other].same_frame_as
        if asked[0] == other or asked[1] == role:
            yield other, series


def share_frame(series: Series, other: Series) -> bool:
    """PS3.3 C.7.4.1.1.1: positions of two series compare only where Frame of Reference UID is the same."""
    mine = frame_of(series)
    return mine != "" and mine == frame_of(other)


def frame_of(series: Series) -> str:
    """Frame of Reference UID (0020,0052); empty when missing."""
    return str(series.header.get(FRAME, ("",))[0] or "")


def _assemble(wanted: ReadRule, fits: Fits, first: str, begin: Series) -> dict[str, Series]:
    """Who plays which role beside the series that begins."""
    chosen = {first: begin}
    for role in wanted.roles:
        if role == first:
            continue
        taken = {one.series_instance_uid for one in chosen.values()}
        frames = list(frames_to_share(wanted.manifest, role, chosen))
        able = [
            one
            for one in fits.get(role, ())
            if one.series_instance_uid not in taken
            and all(share_frame(one, other) for _, other in frames)
        ]
        if able:
            chosen[role] = wanted.preference.best(able)
    return chosen


def _rank(wanted: ReadRule, first: str, chosen: Mapping[str, Series]) -> tuple[int, Key]:
    return -len(chosen), wanted.preference.key(chosen[first])


def _settle(  # noqa: PLR0913 - one decision
    wanted: ReadRule,
    first: str,
    chosen: Mapping[str, Series],
    now: datetime,
    lacking: Lacking,
    *,
    forced: bool,
) -> InputSet:
    """Whether a set runs, waits or is held."""
    rule = wanted.rule
    missing = tuple(role for role in wanted.roles if role not in chosen)
    last = max(one.last_received_at for one in chosen.values())
    deadline = last + timedelta(seconds=rule.wait_s)
    uids = [one.series_instance_uid for one in chosen.values()]
    lacks = tuple(lacking[uid] for uid in uids if uid in lacking)
    may_lack = rule.incomplete == RUN or forced
    # A pipeline refuses a gap, and the report says why; of a tail that did not come it knows nothing.
    is_told = rule.report_refusals and all(one.code == SLICES_MISSING for one in lacks)
    if (missing or lacks) and now < deadline and not forced:
        code = DecisionCode.WAITS
    elif (may_lack or is_told or not lacks) and all(role in rule.without for role in missing):
        code = DecisionCode.RUNS
    else:
        code = DecisionCode.HELD
    return InputSet(
        first=first,
        chosen=chosen,
        missing=missing,
        code=code,
        deadline=deadline,
        lacks=lacks,
        may_lack=may_lack,
    )
