"""What we replace in pynetdicom's upper layer so that receiving is not bound by it, and nothing else.

pynetdicom polls in two loops that sleep 1 ms, reads sockets in pieces of 4,096 bytes, copies a PDU five times and
passes each message through three queues and two pydicom data sets. Here, for an acceptor:

- a PDU is read into one buffer, and its values are passed on as views of it (PS3.8 9.3.5);
- both loops block until there is something to do;
- a C-STORE request is collected, handed to `store` and answered in the upper layer's own thread (PS3.7 9.1.1).

Negotiation, release, abort, time-outs and every other DIMSE service stay pynetdicom's. All use of what it does not
document is in this file, written for 3.0.
"""

from __future__ import annotations

import contextlib
import queue
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, cast

import structlog
from pydicom.errors import BytesLengthException
from pynetdicom import evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dul import DULServiceProvider
from pynetdicom.fsm import InvalidEventError
from pynetdicom.pdu import P_DATA_TF
from pynetdicom.pdu_items import PresentationDataValueItem
from pynetdicom.pdu_primitives import A_ASSOCIATE, P_DATA
from pynetdicom.transport import (
    AssociationSocket,
    RequestHandler,
    ThreadedAssociationServer,
)

from node.command import StoreCommand, encode_store_response, read_store_command
from node.errors import ConfigError
from node.tls import Reloaded, explain
from storage.archive import new_digest

#: PS3.7 Annex C: general statuses.
SOP_CLASS_NOT_SUPPORTED = 0x0122
PROCESSING_FAILURE = 0x0110

#: Longest wait of either loop: time-outs are looked at this often.
_LOOK_S = 0.5
#: Associate, release and abort PDUs; a peer that says more is no DICOM peer.
_MAX_CONTROL_PDU = 1 << 20
#: A command set: a dozen elements, four attribute lists at most (PS3.7 E.1).
_MAX_COMMAND = 1 << 16
#: The data set of another message than C-STORE: a report of a storage commitment names an instance in 100 bytes.
_MAX_OTHER_DATA = 1 << 25
#: Bytes; a view costs about 200.
_SMALL_FRAGMENT = 1024

#: What pydicom and pynetdicom raise on a command set that is none.
_COMMAND_ERRORS = (
    *(LookupError, AttributeError, ValueError, TypeError, EOFError, OSError),
    *(NotImplementedError, struct.error, BytesLengthException),
)

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreRequest:
    """A whole C-STORE request on an association."""

    assoc: Association
    command: StoreCommand
    transfer_syntax_uid: str
    data: bytes
    #: Digest of `data`, in hexadecimal.
    digest: str


StoreHandler = Callable[[StoreRequest], int]
EndHandler = Callable[[Association], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """What is done about a connection before there is an association.

    Parameters
    ----------
    arrive
        Asked in the listener's thread with address and port of each connection; it is closed where this says no.
    refuse
        Told of one whose TLS handshake failed, and why.
    request_timeout_s
        Seconds within which it must have asked for an association.
    pdu_timeout_s
        Seconds that a PDU may be under way.
    """

    arrive: Callable[[tuple[str, int]], bool]
    refuse: Callable[[tuple[str, int], str], None]
    request_timeout_s: float
    pdu_timeout_s: float


class StoreServer(ThreadedAssociationServer):
    """Listens, and gives each association the parts below.

    Parameters
    ----------
    store
        Answers a C-STORE request with a DIMSE status; called in the association's thread.
    ended
        Called once for every association, accepted or not, when it is over.
    guard
        Who is let in, and how long he may take.
    tls
        What connections are secured with; None: they are not.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self,
        *args: Any,
        store: StoreHandler,
        ended: EndHandler,
        guard: Guard,
        tls: Reloaded | None = None,
        **kwargs: Any,
    ) -> None:
        self.store = store
        self.ended = ended
        self.guard = guard
        self.tls = tls
        self._is_serving = False
        super().__init__(*args, **{"request_handler": _Handler, **kwargs})
        # `shutdown` takes it out again.
        self.ae._servers.append(self)

    def end(self) -> None:
        """Listen no more, whether it was begun or not."""
        if self._is_serving:
            self.shutdown()
        else:
            self.server_close()
            self.ae._servers.remove(self)

    def begin(self) -> None:
        """Take connections, in a thread of its own."""
        self._is_serving = True
        threading.Thread(target=self.serve_forever, name="dicom-listener", daemon=True).start()

    def get_request(self) -> Any:
        """The next connection; where there is no descriptor left for it, it waits, and the loop with it."""
        try:
            return super().get_request()
        except OSError:
            time.sleep(_LOOK_S)
            raise

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether a connection gets a thread at all."""
        return self.guard.arrive(client_address[:2])

    def _bind_defaults(self) -> None:
        _bind_interventions(self)


def _bind_interventions(owner: StoreServer | _Acceptor) -> None:
    # pynetdicom's own handlers format every PDU for a debug log.
    for event in evt._INTERVENTION_EVENTS:
        owner.bind(event, evt.get_default_handler(event))


class _Handler(RequestHandler):
    """Makes the association of an accepted connection."""

    def handle(self) -> None:
        server = cast(StoreServer, self.server)
        if server.tls is not None:
            # In this connection's own thread: a peer that is slow at it keeps nobody waiting.
            raw = cast(socket.socket, self.request)
            raw.settimeout(server.guard.request_timeout_s)
            try:
                self.request = server.tls.current().wrap_socket(raw, server_side=True)
            except (OSError, ConfigError) as error:
                reason = explain(error) if isinstance(error, OSError) else str(error)
                server.guard.refuse(self.client_address[:2], f"TLS: {reason}")
                raw.close()
                return
        try:
            super().handle()
        except (OSError, RuntimeError) as error:
            # No descriptor left (EMFILE), or no thread: its place is another's.
            server.guard.refuse(self.client_address[:2], f"no room for this connection: {error}")

    def _create_association(self) -> Association:
        server = cast(StoreServer, self.server)
        assoc = _Acceptor(self.ae, server)
        assoc.set_socket(_Socket(assoc, cast(socket.socket, self.request), server.guard))
        user = assoc.acceptor
        user.maximum_length = self.ae.maximum_pdu_size
        user.ae_title = server.ae_title
        user.address_info = self.local
        user.implementation_class_uid = self.ae.implementation_class_uid
        user.implementation_version_name = self.ae.implementation_version_name
        user.supported_contexts = deepcopy(server.contexts)
        assoc.requestor.address_info = self.remote
        for event, bound in server._handlers.items():
            for handler, args in cast(Any, [bound] if event.is_intervention else bound):
                assoc.bind(event, handler, args)
        return assoc


class _Acceptor(Association):
    """An association whose two loops wait instead of polling."""

    def __init__(self, ae: ApplicationEntity, server: StoreServer) -> None:
        super().__init__(ae, "acceptor")
        self._server = server
        self._ended = server.ended
        # `active_associations` finds its threads by this name.
        self.name = f"AcceptorThread-{id(self):x}"
        self.dul = _UpperLayer(self)
        self.dimse = _Dimse(self, server.store)
        self._reactor_checkpoint = _Checkpoint(
            lambda: self._kill or self.dimse.msg_queue.qsize() or self.dul.to_user_queue.qsize()
        )
        self.dimse.msg_queue = _SignallingQueue(self._reactor_checkpoint.set)
        self.dul.to_user_queue = _SignallingQueue(self._reactor_checkpoint.set)
        # Setting them arms the timers of the new upper layer.
        self.acse_timeout = ae.acse_timeout
        self.network_timeout = ae.network_timeout

    def _bind_defaults(self) -> None:
        _bind_interventions(self)

    def run_reactor(self) -> None:
        try:
            super().run_reactor()
        except Exception:
            # The top of the association's loop: what it was asked for was no request that anybody foresaw.
            _log.exception("association_failed")
            self.is_aborted, self.is_established = True, False
            cast(_UpperLayer, self.dul).give_up()
        finally:
            cast(_Socket, self.dul.socket).release()
            self._ended(self)


class _Checkpoint(threading.Event):
    """Where the association's loop stops in each turn: until there is something for it, or a while."""

    def __init__(self, is_wanted: Callable[[], object]) -> None:
        super().__init__()
        self._is_wanted = is_wanted

    def wait(self, timeout: float | None = None) -> bool:
        if not self._is_wanted():
            super().wait(_LOOK_S if timeout is None else timeout)
        self.clear()
        return True


class _SignallingQueue(queue.Queue[Any]):
    def __init__(self, signal: Callable[[], None]) -> None:
        super().__init__()
        self._signal = signal

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        super().put(item, block, timeout)
        self._signal()


class _Socket(AssociationSocket):
    """A connection that reads whole PDUs, and whose wait another thread can end."""

    def __init__(self, assoc: Association, client_socket: socket.socket, guard: Guard) -> None:
        client_socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._guard = guard
        self._asks_until = time.monotonic() + guard.request_timeout_s
        self._tls = client_socket if isinstance(client_socket, ssl.SSLSocket) else None
        #: Seconds that the socket waits now.
        self._waits_s = 0.0
        self._bell, self._ear = socket.socketpair()
        self._bell.setblocking(False)
        self._ear.setblocking(False)
        self._poll = select.poll()
        self._poll.register(self._ear, select.POLLIN)
        self._poll.register(client_socket, select.POLLIN)
        super().__init__(assoc, client_socket=client_socket)

    @property
    def certificate_names(self) -> frozenset[str] | None:
        """DNS names and common name of the peer's certificate; None where it showed none."""
        found = self._tls.getpeercert() if self._tls is not None else None
        if not found:
            return None
        pairs = [pair for part in cast(Any, found.get("subject", ())) for pair in part]
        pairs += cast(Any, found.get("subjectAltName", ()))
        return frozenset(name for kind, name in pairs if kind in ("commonName", "DNS"))

    def hang_up(self) -> None:
        """End the connection from another thread; the one that reads notices."""
        if self.socket is not None:
            with contextlib.suppress(OSError):  # the peer was faster
                # Not the TLS socket's own: it would go on in clear with what is left to read.
                socket.socket.shutdown(self.socket, socket.SHUT_RDWR)

    def wake(self) -> None:
        # A full pipe has woken it already; a closed one has nobody to wake.
        with contextlib.suppress(OSError):
            self._bell.send(b"\x00")

    def release(self) -> None:
        """Close what `wake` uses."""
        self._bell.close()
        self._ear.close()

    @property
    def ready(self) -> bool:
        if self.socket is None or self.socket.fileno() < 0:
            time.sleep(0.001)
            return False
        if self.event_queue.qsize():
            # One event is handled in each turn of the loop; the next must not wait for the peer.
            return False
        if self._tls is not None and self._tls.pending():
            # Decrypted already: the connection itself may have nothing more.
            return True
        events = dict(self._poll.poll(_LOOK_S * 1000))
        if events.pop(self._ear.fileno(), 0):
            with contextlib.suppress(OSError):
                self._ear.recv(4096)
        return bool(events)

    def recv(self, nr_bytes: int) -> bytearray:
        if nr_bytes > max(_MAX_CONTROL_PDU, 2 * (self.assoc.acceptor.maximum_length or 0)):
            _log.warning("pdu_refused", reason=f"it says {nr_bytes} bytes")
            raise ConnectionAbortedError(f"a PDU of {nr_bytes} bytes")
        limit_s = self._limit_s()
        deadline = time.monotonic() + limit_s
        self._wait_at_most(limit_s)
        buffer = bytearray(nr_bytes)
        view = memoryview(buffer)
        done = 0
        while done < nr_bytes:
            if done and time.monotonic() > deadline:
                raise TimeoutError(f"a PDU that is under way for longer than {limit_s:g} s")
            count = self._receive(view[done:])
            if not count:
                return buffer[:done]
            done += count
        return buffer

    def _receive(self, view: memoryview) -> int:
        if self._tls is not None:
            return self._tls.recv_into(view)
        return cast(socket.socket, self.socket).recv_into(view, 0, socket.MSG_WAITALL)

    def _limit_s(self) -> float:
        """Seconds that what is read now may take."""
        if self.assoc.requestor.primitive is None:
            return max(0.01, self._asks_until - time.monotonic())
        return self._guard.pdu_timeout_s

    def _wait_at_most(self, seconds: float) -> None:
        if seconds == self._waits_s:
            return
        self._waits_s = seconds
        if self._tls is not None:
            # OpenSSL would go on after a time-out of the socket below it.
            self._tls.settimeout(seconds)
            return
        limit = struct.pack("ll", int(seconds), int(seconds % 1 * 1e6))
        connection = cast(socket.socket, self.socket)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)

    def send(self, bytestream: bytes) -> None:
        try:
            cast(socket.socket, self.socket).sendall(bytestream)
        except (OSError, AttributeError):
            # Evt17: Transport connection closed
            self.event_queue.put("Evt17")


def certificate_names(assoc: Association) -> frozenset[str] | None:
    """DNS names and common name of the peer's certificate; None where it showed none."""
    connection = cast(_Socket | None, assoc.dul.socket)
    return connection.certificate_names if connection is not None else None


def hang_up(assoc: Association) -> None:
    """End the connection of an association."""
    if (connection := cast(_Socket | None, assoc.dul.socket)) is not None:
        connection.hang_up()


class _UpperLayer(DULServiceProvider):
    """PS3.8 9.2 by pynetdicom, with PDUs of data read as views."""

    def __init__(self, assoc: Association) -> None:
        super().__init__(assoc)
        self._run_loop_delay = 0
        self.to_provider_queue = _SignallingQueue(self._wake)

    def _wake(self) -> None:
        if self.socket is not None:
            cast(_Socket, self.socket).wake()

    def kill_dul(self) -> None:
        if self.assoc.requestor.primitive is None:
            # Closed before it asked for an association: whoever waits for the request need not wait longer.
            cast(Any, self.to_user_queue).put(None)
        super().kill_dul()

    def run_reactor(self) -> None:
        try:
            super().run_reactor()
        except InvalidEventError:
            # The user answered a request (Evt7, Evt8) while the peer was already being hung up on (Sta13): PS3.8
            # Table 9-10 knows no such event, and there is nobody left to answer.
            self.give_up()
        except Exception:
            # The top of the upper layer's loop: a bug of ours costs this association, and not its thread for good.
            _log.exception("upper_layer_failed")
            self.give_up()

    def give_up(self) -> None:
        """End the association without another word: what could be said is not known any more."""
        self.assoc.is_aborted, self.assoc.is_established = True, False
        self.assoc._kill = self._kill_thread = True
        if self.socket is not None:
            self.socket.close()

    @property
    def _kill_thread(self) -> bool:
        return self._is_killed

    @_kill_thread.setter
    def _kill_thread(self, value: bool) -> None:
        self._is_killed = value
        if value:
            self._wake()

    def _decode_pdu(self, bytestream: bytearray) -> tuple[Any, str]:
        try:
            return self._decode(bytestream)
        except Exception as error:
            # pynetdicom makes Evt19 of it; its own words would repeat what the peer sent.
            kind = type(error).__name__
            _log.warning("pdu_refused", pdu_type=bytestream[0], size=len(bytestream), reason=kind)
            raise

    def _decode(self, bytestream: bytearray) -> tuple[Any, str]:
        if bytestream[0] != 0x04:
            pdu, event = super()._decode_pdu(bytestream)
            # What the state machine does with it next raises on values that the standard does not have.
            primitive = pdu.to_primitive()
            if isinstance(primitive, A_ASSOCIATE):
                _demand_whole(primitive)
            return pdu, event
        # PS3.8 Tables 9-22 and 9-23: each item is length, presentation context ID, value.
        pdu = P_DATA_TF()
        view = memoryview(bytestream).toreadonly()
        position = 6
        while position < len(view):
            (length,) = struct.unpack_from(">I", view, position)
            end = position + 4 + length
            if length < 2 or end > len(view):
                raise ValueError("a presentation data value that is longer than its PDU")
            item = PresentationDataValueItem()
            item.presentation_context_id = view[position + 4]
            item.presentation_data_value = cast(bytes, view[position + 5 : end])
            pdu.presentation_data_value_items.append(item)
            position = end
        return pdu, "Evt10"


def _demand_whole(request: A_ASSOCIATE) -> None:
    for context in request.presentation_context_definition_list:
        # PS3.8 9.3.2.2: one abstract syntax, and one transfer syntax at least.
        if context.abstract_syntax is None or not context.transfer_syntax:
            raise ValueError("a presentation context without a syntax")


class _Dimse(DIMSEServiceProvider):
    """Collects and answers C-STORE requests; everything else goes on to pynetdicom."""

    def __init__(self, assoc: Association, store: StoreHandler) -> None:
        super().__init__(assoc)
        self._store = store
        self._command = bytearray()
        #: Nothing that comes after what was refused is looked at.
        self._is_over = False
        #: The C-STORE request whose data set is coming in.
        self._collecting: StoreCommand | None = None
        self._fragments: list[memoryview | bytearray] = []
        #: Bytes of the data set of another service's message.
        self._passed_on = 0
        self._hash = new_digest()

    def receive_primitive(self, primitive: P_DATA) -> None:
        for context_id, value in primitive.presentation_data_value_list:
            # PS3.8 E.2: bit 0 set is a command, bit 1 set is the last fragment.
            is_command, is_last = value[0] & 1, value[0] & 2
            if self._is_over:
                return
            if is_command:
                self._command += value[1:]
                if len(self._command) > _MAX_COMMAND:
                    self._refuse("command_unreadable", reason="the command set has no end")
                elif is_last:
                    self._take_command(context_id)
            elif self._collecting is not None:
                self._collect(memoryview(value)[1:])
                if is_last:
                    self._answer(context_id, self._collecting)
            elif self.message is None:
                # PS3.8 E.1: a command set comes first.
                self._refuse("data_set_unasked", context_id=context_id)
            else:
                self._passed_on += len(value)
                if self._passed_on > _MAX_OTHER_DATA:
                    self._refuse("data_set_endless", context_id=context_id)
                else:
                    self._pass_on(context_id, bytes(value))

    def _collect(self, value: memoryview) -> None:
        """Keep a fragment: as a view of its PDU, or copied when it is so small that the view would be the larger."""
        if len(value) >= _SMALL_FRAGMENT:
            self._fragments.append(value)
        elif self._fragments and isinstance(self._fragments[-1], bytearray):
            self._fragments[-1] += value
        else:
            self._fragments.append(bytearray(value))
        # Here, while the peer sends on, it costs no time of its own.
        self._hash.update(value)

    def _refuse(self, event: str, **details: object) -> None:
        """Hang up, and say why."""
        _log.warning(event, **details)
        self._is_over = True
        self._command = bytearray()
        self._collecting, self._fragments, self._hash = None, [], new_digest()
        # Evt19: Unrecognised or invalid PDU received
        self.dul.event_queue.put("Evt19")

    def _take_command(self, context_id: int) -> None:
        encoded, self._command = bytes(self._command), bytearray()
        try:
            command = read_store_command(encoded)
        except ValueError as error:
            self._refuse("command_unreadable", reason=str(error))
            return
        if command is None:
            self._passed_on = 0
            self._pass_on(context_id, b"\x03" + encoded)
            return
        if self._collecting is not None:
            # PS3.8 E.1: a message is whole before the next begins. Two data sets must not become one.
            self._refuse("data_set_unfinished", context_id=context_id)
            return
        self._collecting = command
        if not command.has_data_set:
            self._answer(context_id, command)

    def _pass_on(self, context_id: int, value: bytes) -> None:
        primitive = P_DATA()
        primitive.presentation_data_value_list.append((context_id, value))
        try:
            super().receive_primitive(primitive)
        except _COMMAND_ERRORS as error:
            # A Command Field that is none of PS3.7 E.1, or a command without one of its elements.
            self._refuse("command_unreadable", reason=type(error).__name__)

    def _answer(self, context_id: int, command: StoreCommand) -> None:
        data = b"".join(self._fragments)
        digest = self._hash.hexdigest()
        self._collecting, self._fragments, self._hash = None, [], new_digest()
        context = self.assoc._accepted_cx.get(context_id)
        if context is None:
            self._refuse("context_not_accepted", context_id=context_id)
            return
        if command.sop_class_uid != context.abstract_syntax:
            status = SOP_CLASS_NOT_SUPPORTED
            _log.warning(
                "instance_refused",
                status=f"0x{status:04X}",
                calling_ae=self.assoc.requestor.ae_title,
                reason="The request names another SOP Class than its presentation context.",
            )
        else:
            status = self._handle(
                StoreRequest(
                    assoc=self.assoc,
                    command=command,
                    transfer_syntax_uid=str(context.transfer_syntax[0]),
                    data=data,
                    digest=digest,
                )
            )
        cast(_Socket, self.dul.socket).send(encode_store_response(context_id, command, status))

    def _handle(self, request: StoreRequest) -> int:
        try:
            return self._store(request)
        except Exception:
            # The top of the receiving loop: a bug of ours costs this instance, not the association.
            _log.exception("store_failed", sop_class_uid=request.command.sop_class_uid)
            return PROCESSING_FAILURE
