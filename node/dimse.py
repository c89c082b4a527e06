"""Messages, put together of the fragments that P-DATA-TF PDUs carry (PS3.7 6.3, PS3.8 Annex E).

The data set of a C-STORE request goes to its sink as it comes, and the request is answered here (PS3.7 9.1.1), in the
thread that reads. Everything else goes on to pynetdicom.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog
from pydicom.errors import BytesLengthException
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.pdu_primitives import P_DATA

from node.command import StoreCommand, encode_store_response, read_store_command
from node.pdus import Fragment

#: PS3.7 Annex C: general statuses.
SOP_CLASS_NOT_SUPPORTED = 0x0122
PROCESSING_FAILURE = 0x0110

#: A command set: a dozen elements, four attribute lists at most (PS3.7 E.1).
_MAX_COMMAND = 1 << 16
#: The data set of another message than C-STORE: a report of a storage commitment names an instance in 100 bytes.
_MAX_OTHER_DATA = 1 << 25

#: What pydicom and pynetdicom raise on a command set that is none.
_COMMAND_ERRORS = (
    *(LookupError, AttributeError, ValueError, TypeError, EOFError, OSError),
    *(NotImplementedError, struct.error, BytesLengthException),
)

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreRequest:
    """A C-STORE request on an association, the data set of which is still to come."""

    assoc: Association
    command: StoreCommand
    transfer_syntax_uid: str


class Sink(Protocol):
    """Takes the encoded data set of a C-STORE request. Ends with `finish` or `abandon`."""

    def write(self, parts: Sequence[memoryview]) -> None:
        """The next bytes; the views are another's when this returns."""

    def finish(self) -> int:
        """All is there: the DIMSE status to answer."""

    def abandon(self) -> None:
        """The rest will not come."""


#: Called when a request begins, in the association's thread.
StoreHandler = Callable[[StoreRequest], Sink]


class Refused(Exception):
    """The peer sent what no DIMSE peer sends; the association is to be aborted."""


class Nowhere:
    """For a data set that is refused before it has come."""

    def __init__(self, status: int) -> None:
        self._status = status

    def write(self, parts: Sequence[memoryview]) -> None:
        pass

    def finish(self) -> int:
        return self._status

    def abandon(self) -> None:
        pass


@dataclass(frozen=True, slots=True)
class _Coming:
    """A C-STORE request whose data set is coming in, and where it goes."""

    context_id: int
    request: StoreRequest
    sink: Sink


def open_sink(store: StoreHandler, request: StoreRequest, abstract_syntax: str) -> Sink:
    """Where a request's data set goes, which may be nowhere. Raises nothing.

    Parameters
    ----------
    abstract_syntax
        What the request's presentation context was agreed for.
    """
    if request.command.sop_class_uid != abstract_syntax:
        _log.warning(
            "instance_refused",
            status=f"0x{SOP_CLASS_NOT_SUPPORTED:04X}",
            calling_ae=request.assoc.requestor.ae_title,
            reason="The request names another SOP Class than its presentation context.",
        )
        return Nowhere(SOP_CLASS_NOT_SUPPORTED)
    try:
        return store(request)
    except Exception:
        # The top of the receiving loop: a bug of ours costs this instance, not the association.
        _log.exception("store_failed", sop_class_uid=request.command.sop_class_uid)
        return Nowhere(PROCESSING_FAILURE)


def finish_sink(sink: Sink, request: StoreRequest) -> int:
    """The status of a request all of which was written. Raises nothing."""
    try:
        return sink.finish()
    except Exception:
        _log.exception("store_failed", sop_class_uid=request.command.sop_class_uid)
        return PROCESSING_FAILURE


class Dimse(DIMSEServiceProvider):
    """The messages of an association.

    Parameters
    ----------
    store
        Takes C-STORE requests; None: they go on to pynetdicom as well, whole.
    send
        Sends a PDU; called in the thread that reads.
    """

    def __init__(
        self, assoc: Association, store: StoreHandler | None, send: Callable[[bytes], None]
    ) -> None:
        super().__init__(assoc)
        self._store = store
        self._send = send
        self._command = bytearray()
        #: Nothing that comes after what was refused is looked at.
        self._is_over = False
        self._coming: _Coming | None = None
        self._parts: list[memoryview] = []
        #: Bytes of the data set of another service's message, and how many it may have.
        self._passed_on, self._most = 0, _MAX_OTHER_DATA

    def receive_primitive(self, primitive: P_DATA) -> None:
        """The fragments of a PDU that pynetdicom has read."""
        for context_id, value in primitive.presentation_data_value_list:
            # PS3.8 E.2: bit 0 set is a command, bit 1 set is the last fragment.
            control = value[0]
            self.take(
                Fragment(context_id, bool(control & 1), bool(control & 2), memoryview(value)[1:])
            )

    def take(self, fragment: Fragment) -> None:
        """The next fragment, or a part of it; what is kept of it is a view until `flush`."""
        if self._is_over:
            return
        try:
            if fragment.is_command:
                self._take_command(fragment)
            elif self._coming is not None:
                self._take_data(fragment, self._coming)
            else:
                self._take_other_data(fragment)
        except Refused as refusal:
            self._refuse(str(refusal), context_id=fragment.context_id)

    def flush(self) -> None:
        """Write what is kept: the memory it lies in is used again."""
        if self._parts and self._coming is not None:
            self._coming.sink.write(self._parts)
        self._parts = []

    def abandon(self) -> None:
        """Nothing more will come."""
        self._is_over = True
        self._parts = []
        if self._coming is not None:
            self._coming.sink.abandon()
            self._coming = None

    def _refuse(self, event: str, **details: object) -> None:
        """Hang up, and say why."""
        _log.warning(event, **details)
        self._command = bytearray()
        self.abandon()
        # Evt19: Unrecognised or invalid PDU received
        self.dul.event_queue.put("Evt19")

    def _take_command(self, fragment: Fragment) -> None:
        self._command += fragment.value
        if len(self._command) > _MAX_COMMAND:
            raise Refused("command_endless")
        if not fragment.is_last:
            return
        encoded, self._command = bytes(self._command), bytearray()
        try:
            command = read_store_command(encoded)
        except ValueError as error:
            self._refuse("command_unreadable", reason=str(error))
            return
        if self._coming is not None or self.message is not None:
            # PS3.8 E.1: a message is whole before the next begins. Two data sets must not become one.
            raise Refused("data_set_unfinished")
        if command is None or self._store is None:
            self._passed_on = 0
            self._most = _MAX_OTHER_DATA if command is None else sys.maxsize
            self._pass_on(fragment.context_id, b"\x03" + encoded)
            return
        context = self.assoc._accepted_cx.get(fragment.context_id)
        if context is None:
            raise Refused("context_not_accepted")
        request = StoreRequest(
            assoc=self.assoc,
            command=command,
            transfer_syntax_uid=str(context.transfer_syntax[0]),
        )
        sink = open_sink(self._store, request, str(context.abstract_syntax))
        self._coming = _Coming(fragment.context_id, request, sink)
        if not command.has_data_set:
            self._answer(self._coming)

    def _take_data(self, fragment: Fragment, coming: _Coming) -> None:
        if fragment.context_id != coming.context_id:
            raise Refused("data_set_unasked")
        self._parts.append(fragment.value)
        if fragment.is_last:
            self.flush()
            self._answer(coming)

    def _answer(self, coming: _Coming) -> None:
        self._coming = None
        status = finish_sink(coming.sink, coming.request)
        self._send(encode_store_response(coming.context_id, coming.request.command, status))

    def _take_other_data(self, fragment: Fragment) -> None:
        if self.message is None:
            # PS3.8 E.1: a command set comes first.
            raise Refused("data_set_unasked")
        self._passed_on += len(fragment.value)
        if self._passed_on > self._most:
            raise Refused("data_set_endless")
        control = b"\x02" if fragment.is_last else b"\x00"
        self._pass_on(fragment.context_id, control + bytes(fragment.value))

    def _pass_on(self, context_id: int, value: bytes) -> None:
        primitive = P_DATA()
        primitive.presentation_data_value_list.append((context_id, value))
        try:
            super().receive_primitive(primitive)
        except _COMMAND_ERRORS as error:
            # A Command Field that is none of PS3.7 E.1, or a command without one of its elements.
            self._refuse("command_unreadable", reason=type(error).__name__)
