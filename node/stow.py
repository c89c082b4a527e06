"""Sending by STOW-RS (PS3.18 10.5): what C-STORE is to a remote AE, to a destination that is a DICOMweb service.

Files go out as they lie, in pieces, a few in one request; each is told apart in the Store Instances Response. What
that says is classed as C-STORE's statuses are; what the HTTP status says is about the service, or about one request,
which is then made again for each instance alone. A transfer syntax that is refused is undone as for a remote AE.

dicomweb-client's `store_instances` takes decoded data sets, encodes them anew and holds all of a request in memory.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

import structlog
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from node import scu
from node.config import Config
from node.errors import DeliveryError
from node.scu import LOSSLESS, SLOWEST, Outcome, SendItem, SendStatus, classify
from node.web import Answer, Service, describe, is_about_us
from storage.model import Destination

#: Most instances, and bytes, of one request; an instance that is larger goes alone.
BATCH, BATCH_BYTES = 16, 64_000_000
_PIECE, _LINE = 1_000_000, b"\r\n"
#: PS3.18 Table I.2-2: Referenced Transfer Syntax not supported. As C-STORE's status it has no name.
SYNTAX_NOT_SUPPORTED = 0xC122
_PROCESSING_FAILURE = 0x0110
#: What pydicom raises on JSON that is no data set, or on a file.
_NO_DATASET = (
    *(ValueError, TypeError, KeyError, AttributeError, NotImplementedError, RecursionError),
    *(BytesLengthException, InvalidDicomError, OSError),
)

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreResponse:
    """Store Instances Response (PS3.18 I.2): SOP Instance UID -> Warning or Failure Reason."""

    #: 0 where there is no warning.
    stored: dict[str, int]
    failed: dict[str, int]


def send(
    destination: Destination, items: Sequence[SendItem], *, config: Config
) -> list[SendStatus]:
    """Store a batch; one status per item, in their order, whatever happens on the way."""
    told: list[SendStatus] = []
    try:
        with Service(destination, config) as service:
            for batch in _batches(items):
                told.extend(_store_all(service, batch, config.scratch))
    except DeliveryError as error:
        # About the service: nothing is known of those that are left, and none is tried.
        outcome = Outcome.PERMANENT if error.permanent else Outcome.RETRY
        known = {one.sop_instance_uid for one in told}
        told += [
            SendStatus(
                item=item,
                outcome=outcome,
                status=None,
                message=str(error),
                retry_after_s=error.retry_after_s,
            )
            for item in items
            if item.sop_instance_uid not in known
        ]
    by_uid = {one.sop_instance_uid: one for one in told}
    return [by_uid[item.sop_instance_uid] for item in items]


def _batches(items: Sequence[SendItem]) -> Iterator[list[SendItem]]:
    batch: list[SendItem] = []
    held = 0
    for item in items:
        # One that is not there is found when it is opened.
        size = item.path.stat().st_size if item.path.exists() else 0
        if batch and (len(batch) == BATCH or held + size > BATCH_BYTES):
            yield batch
            batch, held = [], 0
        batch.append(item)
        held += size
    if batch:
        yield batch


def _store_all(service: Service, batch: Sequence[SendItem], scratch: Path) -> Iterator[SendStatus]:
    """A batch; each alone where it is refused as a whole; native where its transfer syntax is what is refused."""
    statuses, answer = _store(service, batch)
    if not _is_whole_refused(answer):
        for one in statuses:
            is_syntax = one.status == SYNTAX_NOT_SUPPORTED and _has_native(one.item)
            yield _store_native(service, one.item, scratch) if is_syntax else one
    elif len(batch) > 1:
        for item in batch:
            yield from _store_all(service, [item], scratch)
    elif answer is not None and answer.status == 415 and _has_native(batch[0]):
        yield _store_native(service, batch[0], scratch)
    else:
        yield from statuses


def _is_whole_refused(answer: Answer | None) -> bool:
    return answer is not None and not answer.is_success and not _has_response(answer)


def _has_response(answer: Answer) -> bool:
    """Whether a refusal says which instances failed, and why (PS3.18 Table 10.5.3-1: 409)."""
    if is_about_us(answer.status) or not answer.content:
        return False
    is_json = answer.media_type.endswith("json")
    return answer.media_type == "application/dicom+json" or (answer.status == 409 and is_json)


# -- one request ----------------------------------------------------------------------------------


def _store(
    service: Service, batch: Sequence[SendItem], native: IO[bytes] | None = None
) -> tuple[list[SendStatus], Answer | None]:
    """One request; what became of each, and the answer, None where no file could be read.

    Parameters
    ----------
    native
        Instead of the (only) item's file.

    Raises
    ------
    node.errors.DeliveryError
        When the service does not answer, or takes nothing of anybody or of us.
    """
    with ExitStack() as stack:
        parts: list[tuple[SendItem, IO[bytes]]] = []
        unreadable: list[SendStatus] = []
        for item in batch:
            try:
                file = native or stack.enter_context(item.path.open("rb"))
            except OSError as error:
                unreadable.append(_unreadable(item, error))
            else:
                parts.append((item, file))
        if not parts:
            return unreadable, None
        answer = _post(service, [file for _, file in parts])
    if not answer.is_success and not _has_response(answer):
        refusal = service.refusal(answer, "STOW-RS")
        if is_about_us(answer.status):
            raise refusal
        # A conflict that names no instance is no last word.
        outcome = Outcome.RETRY if answer.status == 409 else Outcome.PERMANENT
        refused = [
            SendStatus(item=item, outcome=outcome, status=None, message=str(refusal))
            for item, _ in parts
        ]
        return unreadable + refused, answer
    response = read_response(answer, of=scu.who(service.destination))
    return unreadable + [judge(item, answer, response) for item, _ in parts], answer


def _post(service: Service, parts: Sequence[IO[bytes]]) -> Answer:
    """POST of multipart/related (PS3.18 8.6.1.2, RFC 2387), of a length that is known before."""
    boundary = uuid.uuid4().hex
    # Without a transfer-syntax parameter: what the file says counts anyway (PS3.18 8.7.9), and Orthanc's plug-in 1.7
    # throws a part away that has one, with 200.
    head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
    sizes = [os.fstat(file.fileno()).st_size for file in parts]
    end = f"--{boundary}--\r\n".encode()

    def body() -> Iterator[bytes]:
        for file, size in zip(parts, sizes, strict=True):
            yield head
            left = size
            while left and (piece := file.read(min(_PIECE, left))):
                left -= len(piece)
                yield piece
            yield _LINE
        yield end

    length = sum(len(head) + size + len(_LINE) for size in sizes) + len(end)
    return service.ask(
        "POST",
        "/studies",
        headers={
            "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
            "Content-Length": str(length),
        },
        content=body(),
        allow_s=length / SLOWEST,
    )


# -- what the answer says -------------------------------------------------------------------------


def read_response(answer: Answer, *, of: str) -> StoreResponse | None:
    """The Store Instances Response (PS3.18 10.5.3); None where a success says nothing more.

    Parameters
    ----------
    of
        Who answers, for messages.

    Raises
    ------
    node.errors.DeliveryError
        When it is something else: a page of a proxy, for one, that wants a person to log in.
    """
    if not answer.content:
        return None
    try:
        found = json.loads(answer.content)
        ds = Dataset.from_json(found[0] if isinstance(found, list) else found)
        response = StoreResponse(
            stored=_reasons(ds, "ReferencedSOPSequence", "WarningReason", 0),
            failed=_reasons(ds, "FailedSOPSequence", "FailureReason", _PROCESSING_FAILURE),
        )
    except (*_NO_DATASET, IndexError) as error:
        kind = answer.media_type if answer.media_type.isprintable() else "?"
        raise DeliveryError(
            f"{of} answers STOW-RS with {describe(answer.status)} and what is no Store Instances Response "
            f"({kind[:60]}): is that the URL of its DICOMweb services?"
        ) from error
    return response


def _reasons(ds: Dataset, sequence: str, keyword: str, default: int) -> dict[str, int]:
    return {
        str(item.ReferencedSOPInstanceUID): int(item.get(keyword) or default)
        for item in ds.get(sequence) or ()
    }


def judge(item: SendItem, answer: Answer, response: StoreResponse | None) -> SendStatus:
    """What an answer means for one instance: Warning and Failure Reasons are classed as C-STORE's statuses.

    References
    ----------
    PS3.18 Table 10.5.3-1, I.2; PS3.4 Table B.2-1.
    """
    uid, http = item.sop_instance_uid, describe(answer.status)
    reason: int | None = None
    if response is None:
        # 202 without a word: some were taken, perhaps not this one.
        outcome = Outcome.DELIVERED if answer.status == 200 else Outcome.RETRY
        said = f"{http}, without a response."
    elif uid in response.failed:
        reason = response.failed[uid]
        outcome, said = classify(reason), f"{_name(reason)} ({http})"
    elif uid in response.stored:
        # Whatever the warning: it is stored.
        reason = response.stored[uid]
        outcome, said = Outcome.DELIVERED, f"{_name(reason)} ({http})"
    else:
        outcome, said = Outcome.RETRY, f"{http}: the response does not name this instance."
    return SendStatus(
        item=item,
        outcome=outcome,
        status=reason,
        message=said,
        retry_after_s=answer.retry_after_s if outcome is Outcome.RETRY else 0.0,
    )


def _name(reason: int) -> str:
    if reason == SYNTAX_NOT_SUPPORTED:
        return f"0x{reason:04X} Referenced Transfer Syntax not supported"
    return scu.describe(reason)


# -- native ---------------------------------------------------------------------------------------


def _has_native(item: SendItem) -> bool:
    """Whether there is another encoding of it that costs nothing: what we compressed ourselves, or deflated."""
    if item.transfer_syntax_uid == DeflatedExplicitVRLittleEndian:
        return True
    return item.may_decompress and item.transfer_syntax_uid in LOSSLESS


def _store_native(service: Service, item: SendItem, scratch: Path) -> SendStatus:
    """In Explicit VR Little Endian, which every service takes (PS3.18 Table 8.7.3-2)."""
    scratch.mkdir(parents=True, exist_ok=True)
    with TemporaryFile(dir=scratch) as file:
        try:
            ds = dcmread(item.path)
            if item.transfer_syntax_uid in LOSSLESS:
                scu.decompress(ds)
            ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            dcmwrite(file, ds, enforce_file_format=True)
        except _NO_DATASET as error:
            return _unreadable(item, error)
        del ds
        file.seek(0)
        ((status,), _) = _store(service, [item], native=file)
    return status


def _unreadable(item: SendItem, error: Exception) -> SendStatus:
    _log.error(
        "file_unreadable", sop_instance_uid=item.sop_instance_uid, reason=type(error).__name__
    )
    return SendStatus(
        item=item,
        # As for a remote AE: what the machine refuses now it may grant later.
        outcome=Outcome.RETRY if isinstance(error, OSError) else Outcome.PERMANENT,
        status=None,
        message=f"The file cannot be read: {type(error).__name__}.",
    )
