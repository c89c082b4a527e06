"""What rules would have done to the studies of the past: found without a reason for each, costed, queued.

`find_runs` is pure, and agrees with `node.selection` (a test holds them together); `replay` asks the index. Studies are
taken as they are now: whole, with what came late; what waits still is counted as waiting.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from statistics import fmean

from node.completeness import lacking
from node.errors import RuleError
from node.pairing import FRAME, ReadRule, find_sets, fitting, read_rule
from node.preference import DEFAULT_WISHES, Wish, parse_wish
from node.queueing import Delay, Job, simulate, summarise
from node.routing import FACTS, Clause, parse_clause
from pipelines.manifest import Manifest
from storage.index import Index, past
from storage.model import DecisionCode, Rule, Series

#: What pairs need, and what tells a stack of slices (`node.completeness.is_apart`).
_ALWAYS = (FRAME, "ImageType", "SOPClassUID")
#: Studies named as examples.
EXAMPLES = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A set of inputs that a rule would run on."""

    study_instance_uid: str
    #: Role and Series Instance UID, in the manifest's order.
    inputs: tuple[tuple[str, str], ...]
    #: When its last input came.
    came_at: datetime = field(compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What one rule makes of the past."""

    #: Series that fit one of its inputs, taken or not.
    fitting: frozenset[tuple[str, str]]
    runs: frozenset[Run]
    #: Studies in which it waits for an input, or is held for one.
    waiting: int
    held: int

    @property
    def studies(self) -> int:
        """Studies in which it runs."""
        return len({run.study_instance_uid for run in self.runs})


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What runs cost, from those of the same pipeline that were measured."""

    #: Runs measured, and their mean time.
    measured: int
    mean_s: float
    hours: float
    new_hours: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """How long runs wait for a worker, without and with the new ones."""

    workers: int
    before: Delay | None
    #: Of the runs there are, when the new ones come between them.
    after: Delay | None
    new: Delay | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """What a rule would have done."""

    rule: str
    pipeline: str
    since: datetime | None
    studies: int
    series: int
    #: Series that fit an input; those that would have run are fewer where a rule takes one of several.
    matched_series: int
    matched_studies: int
    runs: int
    waiting: int
    held: int
    #: Runs that no rule in force makes today; in how many studies, and some of them.
    new_runs: int
    new_studies: int
    new_examples: tuple[str, ...]
    #: Against the stored rule of the same name; None where there is none.
    gone_runs: int | None
    gone_examples: tuple[str, ...]
    #: None where no run of the pipeline was measured.
    cost: Cost | None
    queue: Queue | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """What a replay counts with."""

    manifests: Mapping[str, Manifest]
    #: As stored: those in force, and the one of the same name.
    rules: Sequence[Rule]
    since: datetime | None
    now: datetime
    workers: int
    #: Seconds after the last instance that a study is evaluated.
    quiet_s: float


def replay(index: Index, rules: Sequence[Rule], with_: Circumstances) -> tuple[Replay, ...]:
    """What each of these rules would have done since a day, as if it were on; one pass for all.

    Raises
    ------
    RuleError
        For a rule whose pipeline is not installed.
    """
    plans = {f"new {rule.name}": _want(rule, with_.manifests) for rule in rules}
    pipelines = {rule.pipeline for rule in rules}
    names = {rule.name for rule in rules}
    for rule in with_.rules:
        if rule.name in names or (rule.enabled and rule.pipeline in pipelines):
            manifest = with_.manifests.get(rule.pipeline)
            if manifest is not None:
                plans[f"old {rule.name}"] = read_rule(rule, manifest)
    past.derive_facts(index, since=with_.since)
    counter = _Counter()
    stream = past.stream_series(index, keywords=keywords_of(plans.values()), since=with_.since)
    found = find_runs(plans, counter.count(stream), now=with_.now)
    seen = _Seen(
        studies=past.count_studies(index, since=with_.since),
        series=counter.total,
        found=found,
        work=past.runs_since(index, since=with_.since),
        times={one: past.run_times(index, one) for one in pipelines},
    )
    return tuple(_compare(rule, seen, with_) for rule in rules)


def find_held(
    index: Index, rules: Sequence[Rule], manifests: Mapping[str, Manifest], *, now: datetime
) -> dict[str, Found]:
    """What each rule in force that shares its pipeline with another makes of all studies held, by name."""
    in_force = [rule for rule in rules if rule.enabled and rule.pipeline in manifests]
    pipelines = [rule.pipeline for rule in in_force]
    plans = {
        rule.name: read_rule(rule, manifests[rule.pipeline])
        for rule in in_force
        if pipelines.count(rule.pipeline) > 1
    }
    if not plans:
        return {}
    past.derive_facts(index)
    return find_runs(
        plans, past.stream_series(index, keywords=keywords_of(plans.values())), now=now
    )


def find_runs(
    plans: Mapping[str, ReadRule], stream: Iterable[Series], *, now: datetime
) -> dict[str, Found]:
    """Each plan on series in any order; what fits is kept, the rest forgotten as it goes by."""
    looks = {name: fitting(plan) for name, plan in plans.items()}
    kept: dict[str, dict[str, dict[str, list[Series]]]] = {
        name: defaultdict(lambda: defaultdict(list)) for name in plans
    }
    for series in stream:
        for name, roles_of in looks.items():
            for role in roles_of(series):
                kept[name][series.study_instance_uid][role].append(series)
    return {name: _settle(plan, kept[name], now) for name, plan in plans.items()}


def keywords_of(plans: Iterable[ReadRule]) -> list[str]:
    """The attributes that deciding needs: of clauses, of wishes, and the frame of reference of pairs."""
    named = {*_ALWAYS, *(parse_wish(text).keyword for text in DEFAULT_WISHES)}
    for plan in plans:
        rule = plan.rule
        for text in (*rule.where, *(one for own in rule.roles.values() for one in own)):
            named.add(_keyword(text, parse_clause))
        for text in rule.prefer:
            named.add(_keyword(text, parse_wish))
    if "plane" in named:
        named.add("ImageOrientationPatient")
    return sorted(named - FACTS.keys() - {""})


# -- the parts ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """What one pass over the past brought."""

    studies: int
    series: int
    #: By plan: `new NAME` and `old NAME`.
    found: Mapping[str, Found]
    work: Sequence[past.PastRun]
    #: Pipeline -> seconds that its last runs took.
    times: Mapping[str, Sequence[float]]


class _Counter:
    """Counts what goes by."""

    def __init__(self) -> None:
        self.total = 0

    def count(self, stream: Iterable[Series]) -> Iterable[Series]:
        for one in stream:
            self.total += 1
            yield one


def _keyword(text: str, parse: Callable[[str], Clause | Wish]) -> str:
    """Empty for what cannot be read: such a rule fits nothing."""
    try:
        return parse(text).keyword
    except RuleError:
        return ""


def _want(rule: Rule, manifests: Mapping[str, Manifest]) -> ReadRule:
    manifest = manifests.get(rule.pipeline)
    if manifest is None:
        raise RuleError(f"Rule {rule.name!r}: pipeline {rule.pipeline!r} is not installed.")
    return read_rule(rule, manifest)


def _settle(
    plan: ReadRule, kept: Mapping[str, Mapping[str, Sequence[Series]]], now: datetime
) -> Found:
    runs: set[Run] = set()
    open_ = {DecisionCode.WAITS: 0, DecisionCode.HELD: 0}
    fit: set[tuple[str, str]] = set()
    for study, fits in kept.items():
        held = {one.series_instance_uid: one for them in fits.values() for one in them}
        fit.update((study, uid) for uid in held)
        for found in find_sets(plan, fits, now=now, lacking=lacking(held.values(), None)):
            if found.code is not DecisionCode.RUNS:
                open_[found.code] += 1
                continue
            inputs = tuple(
                (role, found.chosen[role].series_instance_uid)
                for role in plan.roles
                if role in found.chosen
            )
            last = max(one.last_received_at for one in found.chosen.values())
            came_at = found.deadline if found.missing else last
            runs.add(Run(study_instance_uid=study, inputs=inputs, came_at=came_at))
    return Found(
        fitting=frozenset(fit),
        runs=frozenset(runs),
        waiting=open_[DecisionCode.WAITS],
        held=open_[DecisionCode.HELD],
    )


def _compare(rule: Rule, seen: _Seen, with_: Circumstances) -> Replay:
    found = seen.found
    mine = found[f"new {rule.name}"]
    today: set[Run] = set()
    for one in with_.rules:
        # Other parameters make another workitem of the same inputs.
        is_same = one.pipeline == rule.pipeline and dict(one.parameters) == dict(rule.parameters)
        if one.enabled and is_same and f"old {one.name}" in found:
            today |= found[f"old {one.name}"].runs
    old = found.get(f"old {rule.name}")
    new, gone = mine.runs - today, old.runs - mine.runs if old else frozenset()
    times = seen.times[rule.pipeline]
    mean = fmean(times) if times else None
    return Replay(
        rule=rule.name,
        pipeline=rule.pipeline,
        since=with_.since,
        studies=seen.studies,
        series=seen.series,
        matched_series=len(mine.fitting),
        matched_studies=mine.studies,
        runs=len(mine.runs),
        waiting=mine.waiting,
        held=mine.held,
        new_runs=len(new),
        new_studies=len({run.study_instance_uid for run in new}),
        new_examples=_examples(new),
        gone_runs=None if old is None else len(gone),
        gone_examples=_examples(gone),
        cost=None
        if mean is None
        else Cost(
            measured=len(times),
            mean_s=mean,
            hours=len(mine.runs) * mean / 3600,
            new_hours=len(new) * mean / 3600,
        ),
        queue=None if mean is None else _queue(rule, new, seen.work, mean, with_),
    )


def _examples(runs: Iterable[Run]) -> tuple[str, ...]:
    """The latest studies of some runs."""
    latest = sorted(runs, key=lambda run: (run.came_at, run.study_instance_uid), reverse=True)
    return tuple(dict.fromkeys(run.study_instance_uid for run in latest))[:EXAMPLES]


def _queue(
    rule: Rule,
    new: Iterable[Run],
    work: Sequence[past.PastRun],
    mean_s: float,
    with_: Circumstances,
) -> Queue:
    """The runs there were at the times they came, and the new ones between them."""
    there = [
        Job(at=run.scheduled_at.timestamp(), seconds=run.seconds, priority=run.priority)
        for run in work
    ]
    quiet = timedelta(seconds=with_.quiet_s)
    added = [
        Job(at=(run.came_at + quiet).timestamp(), seconds=mean_s, priority=rule.priority)
        for run in new
    ]
    delays = simulate([*there, *added], workers=with_.workers)
    return Queue(
        workers=with_.workers,
        before=summarise(simulate(there, workers=with_.workers)),
        after=summarise(delays[: len(there)]),
        new=summarise(delays[len(there) :]),
    )
