"""A rule that compares holds its run back until the study before is there, or as long as its `wait` says."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from node.selection import Selection
from storage.index import Index, prior_searches, priors
from storage.model import DecisionCode, PriorSearch, PriorSearchState, Study


def hold_back(index: Index, study: Study, one: Selection, *, now: datetime) -> Selection:
    """A selection as it is, or one that waits: then the study before is wanted of the rule's archive."""
    rule = one.rule
    if not (one.inputs and rule.prior and rule.prior_from):
        return one
    uid = study.study_instance_uid
    held = priors.latest(
        index, study_instance_uid=uid, pipeline=rule.pipeline, within_days=rule.prior_days
    )
    if held.workitem_uid:
        return one
    search = prior_searches.want(
        index,
        PriorSearch(
            study_instance_uid=uid,
            rule=rule.name,
            pipeline=rule.pipeline,
            destination=rule.prior_from,
            within_days=rule.prior_days,
            state=PriorSearchState.WANTED,
            wanted_at=now,
            deadline=now + timedelta(seconds=rule.wait_s),
            next_attempt_at=now,
        ),
        now=now,
    )
    if search.state is PriorSearchState.SETTLED or now >= search.deadline:
        return one
    until = search.deadline.strftime("%Y-%m-%d %H:%M:%S UTC")
    reason = (
        f"Every clause holds: {rule.pipeline} waits for the study before, from {rule.prior_from}, "
        f"until {until}."
    )
    return replace(
        one,
        inputs={},
        waits_until=search.deadline,
        decisions=tuple(
            replace(d, matched=False, code=DecisionCode.WAITS, reason=reason) if d.matched else d
            for d in one.decisions
        ),
    )
