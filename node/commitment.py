"""Storage commitment as SCU (PS3.4 Annex J): asking by N-ACTION, and reading the report that comes as N-EVENT-REPORT.

The report comes on the association of the request, or on one that the peer opens to our listener, where it proposes
itself as SCP (PS3.4 J.3.3, PS3.7 D.3.3.4).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import structlog
from pydicom import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pynetdicom import build_context, evt
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext

from node.errors import DeliveryError
from node.scu import associate, who
from node.tls import Dialer
from storage.errors import StorageError
from storage.model import Destination

#: Storage Commitment Push Model SOP Class, and its well-known instance (PS3.4 J.3.5).
PUSH_MODEL = "1.2.840.10008.1.20.1"
PUSH_MODEL_INSTANCE = "1.2.840.10008.1.20.1.1"
#: PS3.4 Table J.3-1.
_REQUEST = 1
#: PS3.4 Table J.3-2: all are committed; there are failures.
_EVENT_TYPES = (1, 2)
#: PS3.7 Annex C.
SUCCESS, PROCESSING_FAILURE, NO_SUCH_EVENT_TYPE = 0x0000, 0x0110, 0x0113
INVALID_ARGUMENT, UNRECOGNIZED_OPERATION = 0x0115, 0x0211
#: It has had this request before, or cannot just now.
DUPLICATE_INVOCATION = 0x0210
RETRY = (PROCESSING_FAILURE, 0x0213)

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a peer is asked to commit itself to."""

    transaction_uid: str
    #: (SOP Class UID, SOP Instance UID).
    references: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a peer commits itself to, and what not."""

    transaction_uid: str
    committed: frozenset[str]
    #: SOP Instance UID -> Failure Reason (0008,1197).
    failed: Mapping[str, int]


#: Keeps a report; False when there is no such transaction.
Keep = Callable[[Report], bool]


def commitment_context() -> PresentationContext:
    """What is proposed to a peer that is asked."""
    return build_context(PUSH_MODEL)


def accepted_context(transfer_syntaxes: Sequence[str]) -> PresentationContext:
    """What the listener accepts: the peer as SCP. One that does not negotiate its role is heard all the same."""
    context = build_context(PUSH_MODEL, list(transfer_syntaxes))
    context.scu_role = context.scp_role = True
    return context


def ask(  # noqa: PLR0913 - whom, what, and how long
    destination: Destination,
    requests: Sequence[Request],
    *,
    keep: Keep,
    wait_s: float,
    calling_ae: str,
    timeout_s: float,
    dialer: Dialer | None = None,
) -> Iterator[tuple[Request, int | None]]:
    """Ask by N-ACTION; each request with the status of its answer, None where the service is not accepted.

    Parameters
    ----------
    keep
        Takes a report that comes on the same association; called in that association's thread.
    wait_s
        Seconds that the association stays open for reports after the last answer, unless all are there.

    Raises
    ------
    node.errors.DeliveryError
        When the peer cannot be reached, or ends the association; requests not given before are not answered.
    """
    reported: set[str] = set()

    def kept(report: Report) -> bool:
        known = keep(report)
        reported.add(report.transaction_uid)
        return known

    def hear(event: evt.Event) -> tuple[int, None]:
        return take_report(event, kept), None

    try:
        with associate(
            destination,
            [commitment_context()],
            calling_ae,
            timeout_s,
            handlers=[(evt.EVT_N_EVENT_REPORT, hear)],
            dialer=dialer,
        ) as assoc:
            awaited = set()
            for number, request in enumerate(requests, start=1):
                status = _act(assoc, destination, request, number)
                if status == SUCCESS:
                    awaited.add(request.transaction_uid)
                yield request, status
            until = time.monotonic() + wait_s
            while assoc.is_established and not awaited <= reported and time.monotonic() < until:
                time.sleep(0.01)
    except DeliveryError as error:
        if not error.permanent:
            raise
        # It accepts no such service.
        yield from ((request, None) for request in requests)


def _act(assoc: Association, destination: Destination, request: Request, number: int) -> int:
    """One N-ACTION (PS3.4 J.3.2); the status of its answer."""
    try:
        answer, _ = assoc.send_n_action(
            _encode(request), _REQUEST, PUSH_MODEL, PUSH_MODEL_INSTANCE, msg_id=number
        )
    except RuntimeError as error:
        raise DeliveryError(f"{who(destination)} ended the association.") from error
    status = answer.get("Status")
    if status is None:
        raise DeliveryError(
            f"{who(destination)} ended the association during N-ACTION, or did not answer in time."
        )
    return int(status)


def _encode(request: Request) -> Dataset:
    """PS3.4 Table J.3-1."""
    ds = Dataset()
    ds.TransactionUID = request.transaction_uid
    items = []
    for sop_class_uid, sop_instance_uid in request.references:
        item = Dataset()
        item.ReferencedSOPClassUID = sop_class_uid
        item.ReferencedSOPInstanceUID = sop_instance_uid
        items.append(item)
    ds.ReferencedSOPSequence = DicomSequence(items)
    return ds


def take_report(event: evt.Event, keep: Keep) -> int:
    """Keep the report of an N-EVENT-REPORT; the status of its answer. Success only when it is in the index."""
    request = cast(Any, event.request)
    if request.EventTypeID not in _EVENT_TYPES:
        return NO_SUCH_EVENT_TYPE
    peer = event.assoc.remote["ae_title"]
    try:
        report = read_report(event.event_information)
    except Exception as error:
        # What pydicom raises on bytes that are no data set has no common root.
        _log.warning("commitment_report_unreadable", peer=peer, reason=type(error).__name__)
        return INVALID_ARGUMENT
    try:
        known = keep(report)
    except StorageError as error:
        # Not kept: the peer may report again, and what it holds is read back at the deadline.
        _log.error("commitment_report_not_kept", peer=peer, reason=str(error))
        return PROCESSING_FAILURE
    _log.log(
        20 if known and not report.failed else 30,
        "commitment_reported" if known else "commitment_report_of_unknown_transaction",
        peer=peer,
        transaction=report.transaction_uid,
        committed=len(report.committed),
        failed=len(report.failed),
    )
    return SUCCESS if known else INVALID_ARGUMENT


def read_report(ds: Dataset) -> Report:
    """The Event Information (PS3.4 Table J.3-2). Each instance counts by itself, whatever the Event Type says.

    Raises
    ------
    ValueError, AttributeError
        When it has no Transaction UID, or an item names no instance.
    """
    failed = {
        str(item.ReferencedSOPInstanceUID): int(item.get("FailureReason") or PROCESSING_FAILURE)
        for item in ds.get("FailedSOPSequence") or ()
    }
    committed = {
        str(item.ReferencedSOPInstanceUID) for item in ds.get("ReferencedSOPSequence") or ()
    }
    return Report(
        transaction_uid=str(ds.TransactionUID),
        committed=frozenset(committed - failed.keys()),
        failed=failed,
    )
