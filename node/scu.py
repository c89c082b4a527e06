"""What we ask of others: C-ECHO, C-STORE. One association per batch, one status per instance.

Files go out as they lie, whatever their transfer syntax. Only where a peer takes no other syntax than Implicit VR is
an uncompressed (or deflated) data set encoded again, and only where it does not take a lossless compression of what we
made ourselves is that undone: the values stay the same.
"""

from __future__ import annotations

import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, cast

import structlog
from pydicom import Dataset, dcmread
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.pixels.utils import pack_bits
from pydicom.uid import UID, ExplicitVRLittleEndian
from pynetdicom import AE, build_context, evt
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import SCP_SCU_RoleSelectionNegotiation
from pynetdicom.presentation import PresentationContext

from node.errors import ConfigError, DeliveryError
from node.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from node.pausing import pause_safely
from node.store_scu import StoreScu
from node.tls import Connection, Dialer
from storage.model import Destination

VERIFICATION = "1.2.840.10008.1.1"
MEDIA_STORAGE_DIRECTORY = "1.2.840.10008.1.3.10"
IMPLICIT_LITTLE = "1.2.840.10008.1.2"
#: Syntaxes pynetdicom can turn into Implicit VR Little Endian without touching a pixel.
_CONVERTIBLE = frozenset(
    (IMPLICIT_LITTLE, "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99"),
)
#: RLE and JPEG-LS lossless: what we compress with, and can undo.
LOSSLESS = frozenset(("1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.80"))
#: What it is undone to, as we prefer it.
_NATIVE = ("1.2.840.10008.1.2.1", IMPLICIT_LITTLE)
#: Slowest link there is time for, in bytes per second: 1 Mbit/s.
SLOWEST = 125_000
#: PS3.8 9.3.2.2: presentation context IDs are odd and one byte.
_MAX_CONTEXTS = 128
#: Largest PDU we announce, in bytes.
MAX_PDU = 131072

#: In TLS 1.3 a server that does not take our certificate says so after we have begun.
_TLS_HINT = " (over TLS: it may want a certificate that we do not have, [tls] certificate)"

_log = structlog.get_logger(__name__)


class Outcome(StrEnum):
    """What a C-STORE answer means for a delivery."""

    DELIVERED = "DELIVERED"
    RETRY = "RETRY"
    PERMANENT = "PERMANENT"


@dataclass(frozen=True, slots=True, kw_only=True)
class SendItem:
    """One DICOM file to send."""

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    #: Whether a lossless compression may be undone for a peer that does not take it.
    may_decompress: bool = False

    @property
    def fallbacks(self) -> tuple[str, ...]:
        """Transfer syntaxes it can be sent in besides its own, the best first."""
        if self.transfer_syntax_uid in _CONVERTIBLE:
            return (IMPLICIT_LITTLE,)
        return _NATIVE if self.may_decompress and self.transfer_syntax_uid in LOSSLESS else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SendStatus:
    """What became of one file."""

    item: SendItem
    outcome: Outcome
    #: DIMSE status of the answer; None when there was none. Of STOW-RS, Failure or Warning Reason.
    status: int | None
    #: A sentence.
    message: str
    #: Seconds that the peer wants nothing more to come for.
    retry_after_s: float = 0.0

    @property
    def sop_instance_uid(self) -> str:
        """Of the item."""
        return self.item.sop_instance_uid


@dataclass(frozen=True, slots=True, kw_only=True)
class SendProgress:
    """One file of `send_paths`: sent (with its status), or skipped (with the reason)."""

    path: Path
    #: How many files there are in all.
    total: int
    status: SendStatus | None = None
    skipped: str = ""


def classify(status: int | None) -> Outcome:
    """What a DIMSE status of C-STORE means; None, no answer, may be tried again.

    References
    ----------
    PS3.4 Table B.2-1, PS3.7 9.1.1.1.9 and Annex C.
    """
    if status is None:
        return Outcome.RETRY
    # Success; coercion, elements discarded, data set does not match (warnings); the peer has it already.
    if status in (0x0000, 0x0001, 0x0107, 0x0111, 0x0116) or 0xB000 <= status <= 0xBFFF:
        return Outcome.DELIVERED
    # Out of resources, processing failure, resource limitation: theirs, and perhaps not for long.
    if 0xA700 <= status <= 0xA7FF or status in (0x0110, 0x0213):
        return Outcome.RETRY
    return Outcome.PERMANENT


def describe(status: int) -> str:
    """A DIMSE status of C-STORE as people read it."""
    names = {
        0x0000: "Success",
        0x0001: "Warning: Requested optional Attributes are not supported",
        0x0107: "Warning: Attribute list error",
        0x0110: "Processing failure",
        0x0111: "Duplicate SOP Instance: the peer has it already",
        0x0116: "Warning: Attribute value out of range",
        0x0117: "Invalid SOP Instance",
        0x0122: "Refused: SOP Class not supported",
        0x0124: "Refused: Not authorized",
        0x0213: "Resource limitation",
        0xB000: "Warning: Coercion of Data Elements",
        0xB006: "Warning: Elements Discarded",
        0xB007: "Warning: Data Set does not match SOP Class",
    }
    ranges = {
        0xA7: "Refused: Out of Resources",
        0xA9: "Error: Data Set does not match SOP Class",
        0xC0: "Error: Cannot understand",
    }
    other = "Warning" if status >> 12 == 0xB else "Failure"
    name = names.get(status) or ranges.get(0xC0 if status >> 12 == 0xC else status >> 8, other)
    return f"0x{status:04X} {name}"


def echo(
    destination: Destination, *, calling_ae: str, timeout_s: float, dialer: Dialer | None = None
) -> float:
    """C-ECHO a destination; seconds from connecting to its answer.

    Parameters
    ----------
    dialer
        How it is connected to where it wants TLS.

    Raises
    ------
    node.errors.DeliveryError
        When it cannot be reached, rejects us, or does not answer with success.
    """
    began = time.monotonic()
    contexts = [verification_context()]
    with associate(destination, contexts, calling_ae, timeout_s, dialer=dialer) as assoc:
        if not assoc.accepted_contexts:
            raise DeliveryError(f"{who(destination)} does not accept C-ECHO.")
        status = assoc.send_c_echo().get("Status")
        if status is None:
            raise DeliveryError(f"{who(destination)} does not answer C-ECHO in {timeout_s:g} s.")
        if status != 0x0000:
            raise DeliveryError(f"{who(destination)} answers C-ECHO with 0x{status:04X}.")
        return time.monotonic() - began


def send(
    destination: Destination,
    items: Sequence[SendItem],
    *,
    calling_ae: str,
    timeout_s: float,
    dialer: Dialer | None = None,
) -> list[SendStatus]:
    """C-STORE a batch; one status per item, in their order, whatever happens on the way.

    Parameters
    ----------
    calling_ae
        Our AE title, unless the destination has one for us.
    timeout_s
        Seconds to wait for the connection, the association, and each answer.
    dialer
        How it is connected to where it wants TLS.
    """
    return list(
        send_each(destination, items, calling_ae=calling_ae, timeout_s=timeout_s, dialer=dialer)
    )


def send_each(
    destination: Destination,
    items: Iterable[SendItem],
    *,
    calling_ae: str,
    timeout_s: float,
    dialer: Dialer | None = None,
) -> Iterator[SendStatus]:
    """`send`, as it goes."""
    for batch in _batches(items):
        done = 0
        try:
            with associate(
                destination, presentation_contexts(batch), calling_ae, timeout_s, dialer=dialer
            ) as assoc:
                sender = StoreScu(assoc)
                for item in batch:
                    yield _send_one(assoc, sender, item, destination, timeout_s)
                    done += 1
        except DeliveryError as error:
            # No association, or lost on the way: nothing is known of those that are left.
            outcome = Outcome.PERMANENT if error.permanent else Outcome.RETRY
            for item in batch[done:]:
                yield SendStatus(item=item, outcome=outcome, status=None, message=str(error))


def send_paths(
    destination: Destination,
    paths: Sequence[Path],
    *,
    calling_ae: str,
    timeout_s: float,
    dialer: Dialer | None = None,
) -> Iterator[SendProgress]:
    """C-STORE files and all files of folders; what is no DICOM instance is skipped, with the reason."""
    files = list(_find_files(paths))
    items = []
    for path in files:
        try:
            items.append(read_item(path))
        except DeliveryError as error:
            yield SendProgress(path=path, total=len(files), skipped=str(error))
    for status in send_each(
        destination, items, calling_ae=calling_ae, timeout_s=timeout_s, dialer=dialer
    ):
        yield SendProgress(path=status.item.path, total=len(files), status=status)


def read_item(path: Path) -> SendItem:
    """What a DICOM file is, by its file meta information.

    Raises
    ------
    node.errors.DeliveryError
        For what is no file of a DICOM instance, with a sentence.
    """
    try:
        meta = read_file_meta_info(path)
        item = SendItem(
            path=path,
            sop_class_uid=meta.MediaStorageSOPClassUID,
            sop_instance_uid=meta.MediaStorageSOPInstanceUID,
            transfer_syntax_uid=meta.TransferSyntaxUID,
        )
    except InvalidDicomError as error:
        raise DeliveryError("It is no DICOM file (no DICM prefix).", permanent=True) from error
    except AttributeError as error:
        raise DeliveryError(
            "Its file meta information lacks SOP Class, SOP Instance or Transfer Syntax UID.",
            permanent=True,
        ) from error
    except (OSError, ValueError, NotImplementedError) as error:
        raise DeliveryError(f"It cannot be read: {error}.", permanent=True) from error
    except BytesLengthException as error:
        # Its text holds bytes of the file.
        raise DeliveryError("Its file meta information is malformed.", permanent=True) from error
    if item.sop_class_uid == MEDIA_STORAGE_DIRECTORY:
        raise DeliveryError("It is a DICOMDIR, a directory of other files.", permanent=True)
    return item


# -- an association -----------------------------------------------------------------------------


@contextmanager
def associate(  # noqa: PLR0913 - what an association is made of
    destination: Destination,
    contexts: list[PresentationContext],
    calling_ae: str,
    timeout_s: float,
    *,
    dialer: Dialer | None = None,
    roles: Sequence[SCP_SCU_RoleSelectionNegotiation] = (),
    handlers: Sequence[Any] = (),
) -> Iterator[Association]:
    """An association with a destination, released at the end.

    Parameters
    ----------
    dialer
        How it is connected to where it wants TLS: its certificate must be of our authorities, and have its host name.
    roles, handlers
        Role selection and event handlers of pynetdicom, as a C-GET needs.

    Raises
    ------
    node.errors.DeliveryError
        When there is none; `permanent` when the peer accepts none of the contexts.
    """
    if destination.is_web:
        raise DeliveryError(
            f"{who(destination)} is a DICOMweb service: it is not asked by DIMSE.", permanent=True
        )
    ae = AE(destination.calling_ae or calling_ae)
    ae.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    ae.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    ae.connection_timeout = ae.acse_timeout = ae.dimse_timeout = timeout_s
    # The DIMSE time-out ends the wait for an answer; this one would end a slow answer's association first.
    ae.network_timeout = 2 * timeout_s
    try:
        address = socket.gethostbyname(destination.host)
    except OSError as error:
        raise DeliveryError(f"{who(destination)}: no such host.") from error
    connected = threading.Event()
    connection = _secure(destination, dialer)
    assoc = ae.associate(
        address,
        destination.port,
        contexts=contexts,
        ae_title=destination.called_ae,
        max_pdu=MAX_PDU,
        ext_neg=list(roles),
        # A `Connection` is used as the context is: to wrap the socket.
        tls_args=cast(Any, (connection, destination.host)) if connection else None,
        evt_handlers=[(evt.EVT_CONN_OPEN, _set_up, [connected, timeout_s]), *handlers],
    )
    if not assoc.is_established:
        if connection is not None and connection.refusal:
            raise DeliveryError(f"{who(destination)}: TLS: {connection.refusal}.")
        # pynetdicom aborts an association without a context that it could use.
        if assoc.rejected_contexts and not assoc.accepted_contexts:
            wanted = ", ".join(sorted({_name(context) for context in assoc.rejected_contexts}))
            raise DeliveryError(f"{who(destination)} does not accept {wanted}.", permanent=True)
        raise DeliveryError(
            f"{who(destination)} {_why_not(assoc, is_connected=connected.is_set())}"
            f"{_TLS_HINT if connection else ''}."
        )
    pause_safely(assoc)
    try:
        yield assoc
    finally:
        if assoc.is_established:
            assoc.release()


def _secure(destination: Destination, dialer: Dialer | None) -> Connection | None:
    """How its connection is made secure, or None where it is not to be."""
    if not destination.tls:
        return None
    if dialer is None:
        raise DeliveryError(f"{who(destination)} wants TLS, which this way to it does not have.")
    try:
        return dialer.connection()
    except ConfigError as error:
        raise DeliveryError(f"{who(destination)}: {error}") from error


def _name(context: PresentationContext) -> str:
    syntaxes = " or ".join(UID(syntax).name for syntax in context.transfer_syntax)
    return f"{UID(context.abstract_syntax or '').name} in {syntaxes}"


def _set_up(event: evt.Event, connected: threading.Event, timeout_s: float) -> None:
    connected.set()
    # Nagle's algorithm holds the end of each message back until the peer acknowledges what came before.
    wrapped = cast(Any, event.assoc.dul.socket).socket
    wrapped.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if isinstance(wrapped, ssl.SSLSocket):
        # OpenSSL would go on after a time-out of the socket below it.
        wrapped.settimeout(timeout_s)
        return
    # A peer that stops reading would hold us for ever.
    limit = struct.pack("ll", int(timeout_s), int(timeout_s % 1 * 1e6))
    wrapped.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)


def _why_not(assoc: Association, *, is_connected: bool) -> str:
    if not is_connected:
        return "cannot be reached"
    if assoc.is_rejected:
        primitive = cast(Any, assoc.acceptor.primitive)
        return f"rejects the association: {primitive.reason_str}"
    return "does not answer an association request, or aborts it"


def who(destination: Destination) -> str:
    """A destination as messages name it."""
    if destination.is_web:
        return f"{destination.name} ({destination.url})"
    return f"{destination.name} ({destination.called_ae} at {destination.host}:{destination.port})"


def _batches(items: Iterable[SendItem]) -> Iterator[list[SendItem]]:
    """As few batches as presentation contexts allow: almost always one."""
    batch: list[SendItem] = []
    pairs: set[tuple[str, str]] = set()
    for item in items:
        pair = (item.sop_class_uid, item.transfer_syntax_uid)
        # Each pair may need two more contexts, its fallbacks.
        if pair not in pairs and len(pairs) == _MAX_CONTEXTS // 3:
            yield batch
            batch, pairs = [], set()
        pairs.add(pair)
        batch.append(item)
    if batch:
        yield batch


def verification_context() -> PresentationContext:
    """What is proposed for a C-ECHO."""
    return build_context(VERIFICATION)


def presentation_contexts(items: Sequence[SendItem]) -> list[PresentationContext]:
    """One per SOP Class and transfer syntax of the batch, and one for each that we can encode it in besides."""
    pairs: dict[tuple[str, str], None] = {}
    for item in items:
        pairs[item.sop_class_uid, item.transfer_syntax_uid] = None
    for item in items:
        for syntax in item.fallbacks:
            pairs[item.sop_class_uid, syntax] = None
    return [build_context(sop_class, syntax) for sop_class, syntax in pairs]


def _send_one(
    assoc: Association,
    sender: StoreScu,
    item: SendItem,
    destination: Destination,
    timeout_s: float,
) -> SendStatus:
    accepted = {
        (str(context.abstract_syntax), str(context.transfer_syntax[0])): context
        for context in assoc.accepted_contexts
    }
    exact = accepted.get((item.sop_class_uid, item.transfer_syntax_uid))
    if exact is None and not any((item.sop_class_uid, ts) in accepted for ts in item.fallbacks):
        return SendStatus(
            item=item,
            outcome=Outcome.PERMANENT,
            status=None,
            message=f"{who(destination)} does not accept {UID(item.sop_class_uid).name} "
            f"in {UID(item.transfer_syntax_uid).name}.",
        )
    try:
        wait_s = _allow_for(assoc, item.path, timeout_s)
        if exact is not None:
            status = sender.store(item.path, exact, item.sop_instance_uid, wait_s=wait_s)
        else:
            status = assoc.send_c_store(_encode_again(item)).get("Status")
    except RuntimeError as error:
        raise DeliveryError(f"{who(destination)} ended the association.") from error
    except (OSError, ValueError, AttributeError, InvalidDicomError) as error:
        _log.error("file_unreadable", sop_instance_uid=item.sop_instance_uid, reason=str(error))
        return SendStatus(
            item=item,
            # What the machine refuses now (no descriptor left, a file system away) it may grant later.
            outcome=Outcome.RETRY if isinstance(error, OSError) else Outcome.PERMANENT,
            status=None,
            message=f"The file cannot be read: {error}.",
        )
    if status is None:
        raise DeliveryError(f"{who(destination)} ended the association, or did not answer in time.")
    return SendStatus(item=item, outcome=classify(status), status=status, message=describe(status))


def _encode_again(item: SendItem) -> Dataset:
    """The data set for a peer that does not take it as it lies; pynetdicom encodes it for the context."""
    ds = dcmread(item.path)
    if item.transfer_syntax_uid in LOSSLESS:
        decompress(ds)
    return ds


def decompress(ds: Dataset) -> None:
    """Undo a lossless compression (RLE, JPEG-LS); the same instance, for nothing that it means has changed."""
    if ds.BitsAllocated == 1:
        # A decoder gives a byte for each pixel of one bit: native, eight share one (PS3.5 8.1.1).
        ds.PixelData = pack_bits(ds.pixel_array)
        ds["PixelData"].is_undefined_length = False
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    else:
        ds.decompress(generate_instance_uid=False)


def _allow_for(assoc: Association, path: Path, timeout_s: float) -> float:
    # pynetdicom waits for the answer from when a message is queued: the time to send it is part of the wait.
    seconds = timeout_s + path.stat().st_size / SLOWEST
    assoc.dimse_timeout = seconds
    assoc.network_timeout = 2 * seconds
    return seconds


def _find_files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from sorted(file for file in path.rglob("*") if file.is_file())
        else:
            yield path
