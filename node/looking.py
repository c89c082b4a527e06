"""A look at a study under way: what a verdict is made of is read, and what was found is kept.

A look reads facts of every series; it is made once after each instance that came late, and again when something else
became known of the study (`storage.index.wholeness`). In between its row says when to look.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from node import completeness, selection
from node.completeness import Seen, Wanted
from node.config import RoutingSection
from node.selection import Selection
from pipelines.manifest import Manifest
from storage.index import Index, studies, wholeness
from storage.model import DecisionCode, Rule, Series, Study, Verdict

_TAKEN = (DecisionCode.RUNS, DecisionCode.WAITS, DecisionCode.HELD)


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What was seen: the verdict, and what rules make of the study as it is."""

    verdict: Verdict
    series: tuple[Series, ...]
    selections: tuple[Selection, ...]


def due(study: Study, *, now: datetime, settings: RoutingSection) -> datetime | None:
    """When a study is to be looked at; None when that is now."""
    has_news = study.revision > study.evaluated_revision or study.forced_at is not None
    first = completeness.first_look(study, settings) if has_news else study.waits_until
    at = max(filter(None, (first, study.look_at)), default=now)
    return at if at > now else None


def look(  # noqa: PLR0913 - one step
    index: Index,
    study: Study,
    *,
    rules: Iterable[Rule],
    manifests: Mapping[str, Manifest],
    settings: RoutingSection,
    is_sending: bool,
    now: datetime,
) -> Look:
    """Look at a study; of one that is not ready, what was found is kept with it."""
    series = studies.series_of(index, study.study_instance_uid)
    pace_s = study.pace_s
    if study.looked_revision != study.revision:
        uid = study.study_instance_uid
        pace_s = wholeness.longest_wait(index, uid, below_s=settings.quiet_s)
    selections = selection.route(
        rules,
        series,
        manifests,
        now=now,
        lacking=completeness.lacking(series, study.asked),
        forced=study.forced_at is not None,
    )
    seen = Seen(
        study=study,
        series=series,
        wanted=wanted(selections),
        pace_s=pace_s,
        is_sending=is_sending,
    )
    verdict = completeness.assess(seen, now=now, settings=settings)
    if not verdict.ready:
        wholeness.keep_look(index, study, verdict, pace_s=pace_s, series=series)
    return Look(verdict=verdict, series=series, selections=selections)


def wanted(selections: Sequence[Selection]) -> Wanted:
    """The series that would run or wait, and the roles that none plays."""
    taken = [d for one in selections for d in one.decisions if d.code in _TAKEN]
    return Wanted(
        series=frozenset(d.series_instance_uid for d in taken if d.series_instance_uid),
        missing=tuple(sorted({d.role for d in taken if not d.series_instance_uid})),
    )
