"""What was sent, is it kept? Storage commitment of each workitem's evidence, where a destination is asked for it.

    open        all of a workitem's evidence was sent to a destination: a transaction, in the index
    ask         N-ACTION; the report comes as N-EVENT-REPORT, now, later or never     (node.commitment)
    read back   no report in time, or no such service: C-FIND for each instance       (node.query)
                what went out by STOW-RS: QIDO-RS, at once                             (node.qido)

A step may run twice: a request that was answered but not recorded is made again under the same Transaction UID.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import datetime, timedelta

import structlog
from pydicom.uid import generate_uid

from node import qido, query
from node.backoff import backoff
from node.claims import LEASE_S, renewed
from node.commitment import DUPLICATE_INVOCATION, RETRY, SUCCESS, Report, Request, ask
from node.config import Config
from node.errors import DeliveryError
from node.tls import Dialer
from storage.errors import NotFound
from storage.index import Index, commitments, destinations
from storage.model import Commitment, CommitmentState, Delivery, Destination, utcnow

#: PS3.3 C.14.1.1: no such object instance.
NO_SUCH_INSTANCE = 0x0112

log = structlog.get_logger(__name__)


def open_due(config: Config, index: Index, *, now: datetime) -> int:
    """Open the transactions that are due; how many."""
    # A root of None makes a UID from a UUID (PS3.5 B.2): nobody guesses it and reports what is not so.
    return commitments.open_due(
        index,
        now=now,
        deadline_s=config.delivery.commit_deadline_s,
        new_uid=lambda: str(generate_uid(prefix=None)),
    )


def keep_report(index: Index, report: Report) -> bool:
    """Settle what a report says; False when there is no such transaction."""
    return commitments.settle(
        index,
        report.transaction_uid,
        committed=report.committed,
        failed=report.failed,
        source="storage commitment",
        now=utcnow(),
    )


def confirm(config: Config, index: Index, destination: str, *, owner: str, now: datetime) -> bool:
    """Ask one destination for what is due, or read it back; False when nothing is."""
    due = commitments.claim_due(
        index, owner=owner, now=now, lease_s=LEASE_S, destination=destination
    )
    if not due:
        return False
    uids = [one.transaction_uid for one in due]

    def renew(at: datetime) -> bool:
        return commitments.renew(index, transaction_uids=uids, owner=owner, now=at, lease_s=LEASE_S)

    try:
        remote = destinations.get(index, destination)
    except NotFound as error:
        for one in due:
            commitments.expire(index, one, reason=f"{error} It was removed.", now=now)
        return True
    with renewed(renew, lost=lambda: None, about="commitments"):
        _ask(config, index, remote, [o for o in due if o.state is CommitmentState.WANTED])
        for one in due:
            if one.state is not CommitmentState.WANTED:
                _read_back(config, index, remote, one)
    return True


# -- ask ------------------------------------------------------------------------------------------


def _ask(config: Config, index: Index, remote: Destination, wanted: Sequence[Commitment]) -> None:
    pending = {one.transaction_uid: one for one in wanted}
    if not pending:
        return
    requests = [request for one in wanted if (request := _request(index, one)).references]
    for uid in pending.keys() - {request.transaction_uid for request in requests}:
        # Settled, sent again or retracted meanwhile: nothing is left to ask for.
        commitments.settle(index, uid, committed=(), failed={}, source="", now=utcnow())
        del pending[uid]
    if not requests:
        return
    if remote.is_web:
        for one in pending.values():
            commitments.read_from(index, one, deadline=one.deadline, reason="")
        return
    settings = config.delivery
    try:
        for request, status in ask(
            remote,
            requests,
            keep=lambda report: keep_report(index, report),
            wait_s=settings.commit_wait_s,
            calling_ae=config.node.ae_title,
            timeout_s=settings.timeout_s,
            dialer=Dialer(config.tls),
        ):
            _answered(config, index, pending.pop(request.transaction_uid), status)
    except DeliveryError as error:
        for one in pending.values():
            _try_later(config, index, one, str(error))


def _request(index: Index, commitment: Commitment) -> Request:
    return Request(
        transaction_uid=commitment.transaction_uid,
        references=tuple(
            (one.evidence.sop_class_uid, one.evidence.sop_instance_uid)
            for one in commitments.of_transaction(index, commitment.transaction_uid)
        ),
    )


def _answered(config: Config, index: Index, one: Commitment, status: int | None) -> None:
    now = utcnow()
    deadline = now + timedelta(seconds=config.delivery.commit_deadline_s)
    if status in (SUCCESS, DUPLICATE_INVOCATION):
        commitments.asked(index, one, deadline=deadline, now=now)
        log.info("commitment_asked", destination=one.destination, transaction=one.transaction_uid)
    elif status in RETRY:
        _try_later(config, index, one, f"N-ACTION is answered with 0x{status:04X}.")
    else:
        answer = "is not accepted" if status is None else f"is refused with 0x{status:04X}"
        reason = f"Storage commitment {answer}."
        commitments.read_from(index, one, deadline=deadline, reason=reason)
        log.warning("commitment_not_offered", destination=one.destination, reason=reason)


# -- read back ------------------------------------------------------------------------------------


def _read_back(config: Config, index: Index, remote: Destination, one: Commitment) -> None:
    """Settle by what the destination holds: what it has is committed; what it lacks at the deadline has failed."""
    asked_for = commitments.of_transaction(index, one.transaction_uid)
    try:
        held = _find(config, remote, asked_for)
    except DeliveryError as error:
        _try_later(config, index, one, str(error))
        return
    now = utcnow()
    sought = {delivery.evidence.sop_instance_uid for delivery in asked_for}
    missing = sought - held
    is_late = now >= one.deadline
    commitments.settle(
        index,
        one.transaction_uid,
        committed=sought & held,
        failed=dict.fromkeys(missing, NO_SUCH_INSTANCE) if is_late else {},
        source=f"read back by {_way(remote)}",
        now=now,
    )
    log.log(
        30 if missing else 20,
        "evidence_read_back",
        destination=one.destination,
        transaction=one.transaction_uid,
        held=len(sought & held),
        missing=len(missing),
    )
    if missing and not is_late:
        _try_later(config, index, one, f"{len(missing)} instances are not found by {_way(remote)}.")


def _way(remote: Destination) -> str:
    return "QIDO-RS" if remote.is_web else "C-FIND"


def _find(config: Config, remote: Destination, sought: Sequence[Delivery]) -> set[str]:
    """SOP Instance UIDs that a destination lists in the series of what is sought (PS3.4 C.6.2; PS3.18 10.6)."""
    if remote.is_web:
        return qido.find(remote, [one.evidence for one in sought], config=config)
    held: set[str] = set()
    series = {(o.evidence.study_instance_uid, o.evidence.series_instance_uid) for o in sought}
    for study_instance_uid, series_instance_uid in sorted(series):
        found = query.find(
            remote,
            "IMAGE",
            {
                "StudyInstanceUID": study_instance_uid,
                "SeriesInstanceUID": series_instance_uid,
                "SOPInstanceUID": "",
            },
            calling_ae=config.node.ae_title,
            timeout_s=config.delivery.timeout_s,
            dialer=Dialer(config.tls),
        )
        held |= {str(ds.get("SOPInstanceUID", "")) for ds in found}
    return held


# -- what they share ------------------------------------------------------------------------------


def _try_later(config: Config, index: Index, one: Commitment, reason: str) -> None:
    limits = config.delivery
    now = utcnow()
    attempts = one.attempts + 1
    if one.state is CommitmentState.WANTED and now >= one.deadline:
        # It takes no request of ours: Orthanc, for one, aborts on N-ACTION of an AE that it does not know.
        commitments.read_from(index, one, deadline=one.deadline, reason=reason)
        return
    if attempts >= limits.max_attempts and now >= one.deadline:
        commitments.expire(index, one, reason=reason, now=now)
        log.error(
            "commitment_expired",
            destination=one.destination,
            transaction=one.transaction_uid,
            reason=reason,
        )
        return
    wait = backoff(
        attempts,
        first_s=limits.backoff_s,
        most_s=limits.backoff_max_s,
        jitter=random.random(),  # noqa: S311 - spreads load, keeps no secret
    )
    again_at = now + timedelta(seconds=wait)
    if one.state is CommitmentState.READING and now < one.deadline:
        # What is missing then has failed: that look is not put off.
        again_at = min(again_at, one.deadline)
    commitments.put_off(index, one, again_at=again_at, reason=reason)
    log.warning(
        "commitment_put_off",
        destination=one.destination,
        transaction=one.transaction_uid,
        attempt=attempts,
        reason=reason,
    )
