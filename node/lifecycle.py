"""THE LIFE OF A STUDY, top-down.

    receive    an instance: header, archive, index, then 0x0000                 (node.receiving)
    evaluate   a whole study: rules -> workitems, with the reason for each      here (node.completeness, node.selection)
    perform    a workitem: claim, run in a worker, record evidence and numbers  here
    deliver    evidence: C-STORE or STOW-RS to each destination, a status each  here
    confirm    what was sent: storage commitment, or a query                    (node.confirming)
    retract    evidence that a newer result replaced, where it was sent         here (node.retraction)

Each function makes one step and may run twice: identifiers derive from inputs, every transition is one transaction
of the index, and what a killed process held is claimed again. Clocks decide when, revision counters decide whether.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import structlog

from node import looking, retraction
from node.backoff import backoff
from node.claims import LEASE_S, renewed
from node.compute import PerformOutcome, PerformTask
from node.config import Config
from node.errors import PerformError
from node.looking import Look
from node.planning import Planner, merge, shut_windows
from node.prior_waiting import hold_back
from node.receiving import receive
from node.scu import Outcome, SendItem, SendStatus
from node.windows import parse_window
from pipelines.errors import PipelineError
from pipelines.evidence.profile import DEFAULT_PROFILE
from pipelines.evidence.request import Installation
from pipelines.registry import Registry
from storage.archive import Archive
from storage.errors import ArchiveError, NotFound
from storage.index import (
    Index,
    deliveries,
    destinations,
    files,
    instances,
    prior_searches,
    revisions,
    rules,
    studies,
    workitems,
)
from storage.model import (
    Completion,
    Decision,
    Delivery,
    DeliveryState,
    Destination,
    Evidence,
    Failure,
    Study,
    Workitem,
    utcnow,
)

__all__ = ["Parts", "deliver", "evaluate", "perform", "receive", "retract"]

#: Deliveries of one association.
BATCH = 64

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a life needs; `perform` and `send` are the two seams."""

    config: Config
    index: Index
    archive: Archive
    registry: Registry
    #: Who claims: the same after a restart, so that what a killed process held comes back at once.
    owner: str
    installation: Installation
    perform: Callable[[PerformTask], PerformOutcome]
    cancel: Callable[[str], None]
    send: Callable[[Destination, Sequence[SendItem]], Sequence[SendStatus]]
    #: Studies of which an association that is open here has brought something: a hint, for quiet is told by the index.
    sending: Callable[[], Collection[str]] = tuple


# -- evaluate -------------------------------------------------------------------------------------


def evaluate(parts: Parts, *, now: datetime) -> datetime | None:
    """Evaluate every study that is whole and has news or has waited enough; when to look at the others again."""
    again: list[datetime] = []
    sending = parts.sending()
    for study in studies.to_evaluate(parts.index):
        if (due := looking.due(study, now=now, settings=parts.config.routing)) is not None:
            again.append(due)
            continue
        # A study that was fetched to compare another with starts nothing by itself.
        is_fetched = prior_searches.is_fetched(parts.index, study.study_instance_uid)
        seen = looking.look(
            parts.index,
            study,
            rules=() if is_fetched else rules.list_rules(parts.index),
            manifests=parts.registry.manifests,
            settings=parts.config.routing,
            is_sending=study.study_instance_uid in sending,
            now=now,
        )
        if seen.verdict.look_again_at is not None:
            again.append(seen.verdict.look_again_at)
        elif (waits_until := _evaluate_study(parts, study, seen, now)) is not None:
            again.append(waits_until)
    return min(again, default=None)


def _evaluate_study(parts: Parts, study: Study, seen: Look, now: datetime) -> datetime | None:
    """Rules -> workitems; when the study must be evaluated again for an input it waits for."""
    selections = tuple(hold_back(parts.index, study, one, now=now) for one in seen.selections)
    decisions: list[Decision] = []
    planned: dict[str, Workitem] = {}
    planner = Planner(config=parts.config, index=parts.index, registry=parts.registry)
    for one in selections:
        uid = None
        if one.inputs:
            workitem = planner.plan(study, one.rule, one.inputs, now, lacks=one.lacks)
            uid = workitem.workitem_uid
            planned[uid] = merge(planned[uid], workitem) if uid in planned else workitem
        decisions += [replace(d, workitem_uid=uid) if d.matched else d for d in one.decisions]
    waits_until = min((one.waits_until for one in selections if one.waits_until), default=None)
    # The revision that was read: an instance that came meanwhile is news still.
    studies.record_evaluation(
        parts.index,
        study_instance_uid=study.study_instance_uid,
        revision=study.revision,
        decisions=decisions,
        workitems=list(planned.values()),
        now=now,
        waits_until=waits_until,
        series=seen.series,
        verdict=seen.verdict,
        forced_at=study.forced_at,
        once={one.rule.name for one in selections if not one.rule.each},
    )
    log.info(
        "study_evaluated",
        study=study.study_instance_uid,
        revision=study.revision,
        workitems=len(planned),
        whole=seen.verdict.whole,
        confidence=seen.verdict.confidence,
        **({"waits_until": waits_until.isoformat()} if waits_until else {}),
    )
    return waits_until


# -- perform --------------------------------------------------------------------------------------


def perform(parts: Parts, *, now: datetime) -> bool:
    """Claim and run one workitem; False when there is none."""
    workitem = workitems.claim(
        parts.index,
        owner=parts.owner,
        now=now,
        lease_s=LEASE_S,
        limits=parts.config.compute.limits,
        closed=shut_windows(parts.index, now=now, zone=parts.config.zone),
    )
    if workitem is None:
        return False
    bound = log.bind(
        workitem=workitem.workitem_uid, pipeline=workitem.pipeline, attempt=workitem.attempts
    )
    profiles = _profiles(parts, workitem)
    limit = parts.config.compute.max_attempts
    if workitem.attempts > limit:
        # A run that failed for good is settled; these ended without a word, and would for ever.
        unfinished = PerformError(
            "attempts-spent",
            f"{limit} runs began and none was recorded to its end; the node's log says why.",
        )
        _record_failure(parts, workitem, unfinished, profiles, now)
        return True
    bound.info("workitem_started")
    try:
        with _held(parts, workitem):
            outcome = parts.perform(_task(parts, workitem, profiles, now))
    except (PipelineError, PerformError, ArchiveError) as error:
        if getattr(error, "code", "") != "canceled":
            _record_failure(parts, workitem, error, profiles, now)
        # Cancelled: by a person, and recorded then; or the node stops, and gives its claims back.
        return True
    counted = workitems.complete(
        parts.index,
        Completion(
            workitem_uid=workitem.workitem_uid,
            owner=parts.owner,
            evidence=outcome.evidence,
            measurements=outcome.measurements,
            notices=outcome.notices,
            timings=outcome.timings,
            started_at=workitem.started_at or now,
            ended_at=utcnow(),
            findings=outcome.findings,
            profiles=profiles,
        ),
    )
    bound.info(
        "workitem_completed" if counted else "result_dropped_claim_lost",
        **outcome.timings,
    )
    return True


def _record_failure(
    parts: Parts, workitem: Workitem, error: Exception, profiles: Mapping[str, str], now: datetime
) -> None:
    """A refusal is final; a stopped run is tried again until its attempts are spent."""
    limits = parts.config.compute
    final = isinstance(error, PipelineError) or workitem.attempts >= limits.max_attempts
    code = getattr(error, "code", "archive-unreadable")
    report: tuple[Evidence, ...] = ()
    if final and workitem.report_refusals:
        report = _report_refusal(parts, workitem, (code, str(error)), profiles, now)
    at = utcnow()
    retry_at = None if final else at + timedelta(seconds=limits.retry_s)
    workitems.fail(
        parts.index,
        Failure(
            workitem_uid=workitem.workitem_uid,
            owner=parts.owner,
            code=code,
            reason=str(error),
            at=at,
            retry_at=retry_at,
            evidence=report,
            profiles=profiles,
        ),
    )
    log.warning(
        "workitem_failed",
        workitem=workitem.workitem_uid,
        pipeline=workitem.pipeline,
        code=code,
        reason=str(error),
        retry_at=retry_at.isoformat() if retry_at else "never",
        reported=bool(report),
    )


def _report_refusal(
    parts: Parts,
    workitem: Workitem,
    refusal: tuple[str, str],
    profiles: Mapping[str, str],
    now: datetime,
) -> tuple[Evidence, ...]:
    """The report that says why there is no result. None where it cannot be made: the failure is recorded still."""
    try:
        with _held(parts, workitem):
            task = _task(parts, workitem, profiles, now)
            return parts.perform(replace(task, refusal=refusal)).evidence
    except (PipelineError, PerformError, ArchiveError) as error:
        log.warning(
            "refusal_not_reported",
            workitem=workitem.workitem_uid,
            code=getattr(error, "code", "archive-unreadable"),
            reason=str(error),
        )
        return ()


@contextmanager
def _held(parts: Parts, workitem: Workitem) -> Iterator[None]:
    """Renew the claim while the run lasts; stop the run when it is no longer ours (cancelled, or taken over)."""
    uid = workitem.workitem_uid

    def renew(now: datetime) -> bool:
        return workitems.renew(
            parts.index, workitem_uid=uid, owner=parts.owner, now=now, lease_s=LEASE_S
        )

    with renewed(renew, lost=lambda: parts.cancel(uid), about=uid):
        yield


def _profiles(parts: Parts, workitem: Workitem) -> dict[str, str]:
    """Destination -> its profile's name; one that was removed gets the default, and fails when it is sent."""
    named = {one.name: one.profile for one in destinations.list_destinations(parts.index)}
    return {name: named.get(name, DEFAULT_PROFILE) for name in workitem.destinations}


def _task(
    parts: Parts, workitem: Workitem, profiles: Mapping[str, str], now: datetime
) -> PerformTask:
    """Everything a worker needs, as plain values: it sees neither the index nor the configuration."""
    known = parts.config.evidence.known_profiles
    for destination, name in profiles.items():
        if name not in known:
            raise PerformError(
                "profile-unknown",
                f"Destination {destination} has the profile {name!r}, which is not in the configuration: add it under "
                "[evidence.profiles], or give the destination another; then retry the workitem.",
            )
    inputs = {
        role.role: tuple(
            instance.archive_key
            for instance in instances.of_uids(parts.index, role.sop_instance_uids)
        )
        for role in workitem.inputs
    }
    keys = [key for of_role in inputs.values() for key in of_role]
    if expired := files.expired_among(parts.index, keys):
        raise PerformError(
            "input-expired",
            f"{expired} of {len(keys)} instances have expired ([retention]): send the study again, then retry the "
            "workitem.",
        )
    line = revisions.lineage(parts.index, workitem)
    return PerformTask(
        workitem_uid=workitem.workitem_uid,
        study_instance_uid=workitem.study_instance_uid,
        pipeline_folder=parts.registry.get(workitem.pipeline).folder,
        inputs=inputs,
        parameters=workitem.parameters,
        started_at=workitem.started_at or now,
        archive_url=parts.config.archive_url,
        installation=parts.installation,
        profiles={name: known[name] for name in profiles.values()},
        known_findings=workitem.known_findings,
        replaced=line.replaced,
        tracked_as=line.first,
        lacks=workitem.lacks,
        prior=workitem.prior,
    )


# -- deliver --------------------------------------------------------------------------------------


def open_destinations(parts: Parts, names: Sequence[str], *, now: datetime) -> tuple[str, ...]:
    """Those of them whose window is open; one that was removed, too: what is owed to it fails."""
    known = {one.name: one.window for one in destinations.list_destinations(parts.index)}
    return tuple(
        name for name in names if parse_window(known.get(name, "")).is_open(now, parts.config.zone)
    )


def deliver(parts: Parts, destination: str, *, now: datetime) -> bool:
    """Send one batch of what is due to one destination; False when nothing is."""
    due = deliveries.claim_due(
        parts.index,
        owner=parts.owner,
        now=now,
        lease_s=LEASE_S,
        destination=destination,
        limit=BATCH,
    )
    if not due:
        return False
    try:
        remote = destinations.get(parts.index, destination)
    except NotFound as error:
        for delivery in due:
            _settle(parts, delivery, Outcome.PERMANENT, None, f"{error} It was removed.")
        return True
    due = tuple(delivery for delivery in due if _is_readable(parts, delivery))
    with parts.archive.local_files(
        [delivery.evidence.archive_key for delivery in due], scratch=parts.config.scratch
    ) as paths:
        items = [
            SendItem(
                path=path,
                sop_class_uid=delivery.evidence.sop_class_uid,
                sop_instance_uid=delivery.evidence.sop_instance_uid,
                transfer_syntax_uid=delivery.evidence.transfer_syntax_uid,
                may_decompress=True,
            )
            for delivery, path in zip(due, paths, strict=True)
        ]
        with _owed(parts, due):
            answers = parts.send(remote, items) if items else ()
        for delivery, answer in zip(due, answers, strict=True):
            _settle(parts, delivery, answer.outcome, answer.status, answer.message)
        if pause_s := max((answer.retry_after_s for answer in answers), default=0.0):
            until = utcnow() + timedelta(seconds=pause_s)
            deliveries.put_off(parts.index, destination, until=until)
    return True


@contextmanager
def _owed(parts: Parts, due: Sequence[Delivery]) -> Iterator[None]:
    """Renew the claim while a batch goes out: over a slow line it takes longer than a lease."""
    ids = [delivery.delivery_id for delivery in due]

    def renew(now: datetime) -> bool:
        return deliveries.renew(
            parts.index, delivery_ids=ids, owner=parts.owner, now=now, lease_s=LEASE_S
        )

    with renewed(renew, lost=lambda: None, about="deliveries"):
        yield


def _is_readable(parts: Parts, delivery: Delivery) -> bool:
    """Whether the archive has the file; one that is missing is an attempt that failed, and holds up no other."""
    try:
        parts.archive.size(delivery.evidence.archive_key)
    except ArchiveError as error:
        _settle(parts, delivery, Outcome.RETRY, None, str(error))
        return False
    return True


def _settle(
    parts: Parts, delivery: Delivery, outcome: Outcome, status: int | None, message: str
) -> None:
    """Delivered, refused for good, or tried again later."""
    limits = parts.config.delivery
    attempts = delivery.attempts + 1
    now = utcnow()
    wait = backoff(
        attempts,
        first_s=limits.backoff_s,
        most_s=limits.backoff_max_s,
        jitter=random.random(),  # noqa: S311 - spreads load, keeps no secret
    )
    if outcome is Outcome.DELIVERED:
        state = DeliveryState.SENT
    elif outcome is Outcome.PERMANENT or attempts >= limits.max_attempts:
        state = DeliveryState.FAILED
    else:
        state = DeliveryState.PENDING
    deliveries.settle(
        parts.index,
        delivery_id=delivery.delivery_id,
        state=state,
        status=status,
        message=message,
        next_attempt_at=now + timedelta(seconds=wait),
        now=now,
    )
    log.log(
        logging.INFO if state is DeliveryState.SENT else logging.WARNING,
        "evidence_sent" if state is DeliveryState.SENT else "evidence_not_sent",
        destination=delivery.destination,
        kind=delivery.evidence.kind,
        sop_instance=delivery.evidence.sop_instance_uid,
        state=state,
        attempt=attempts,
        answer=message,
    )


# -- retract --------------------------------------------------------------------------------------


def retract(parts: Parts, *, now: datetime) -> bool:
    """Owe a rejection note of what newer evidence replaced, where all of the newer was sent; False when none is due."""
    return retraction.retract(parts.config, parts.archive, parts.index, now=now)
