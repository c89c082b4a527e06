"""What we replace in pynetdicom's upper layer so that receiving is not bound by it, and nothing else.

pynetdicom polls in two loops that sleep 1 ms, reads sockets in pieces of 4,096 bytes, copies a PDU five times and
passes each message through three queues and two pydicom data sets. Here, for an acceptor:

- both loops block until there is something to do;
- once an association is established its P-DATA-TF PDUs are read into one buffer that is used again, and what they
  carry goes on as views of it (PS3.8 9.3.5, `node.pdus`);
- a C-STORE request goes to its sink as it comes, and is answered in the upper layer's own thread (`node.dimse`).

Negotiation, release, abort, time-outs and every other DIMSE service stay pynetdicom's. The plain path (`streams` is
False) leaves it P-DATA-TF PDUs and C-STORE as well. All use of what it does not document is in here and in
`node.dimse`, written for 3.0.
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
from pynetdicom import evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dul import DULServiceProvider
from pynetdicom.fsm import InvalidEventError
from pynetdicom.pdu_primitives import A_ASSOCIATE
from pynetdicom.service_class import StorageServiceClass
from pynetdicom.transport import (
    AssociationSocket,
    RequestHandler,
    ThreadedAssociationServer,
)

from node.command import StoreCommand
from node.dimse import Dimse, StoreHandler, StoreRequest, finish_sink, open_sink
from node.errors import ConfigError
from node.pdus import Fragment, PduError, PduReader
from node.tls import Reloaded, explain

#: Longest wait of either loop: time-outs are looked at this often.
_LOOK_S = 0.5
#: Seconds between two looks whether the listener is to stop.
_STOP_S = 0.05
#: Associate, release and abort PDUs; a peer that says more is no DICOM peer.
_MAX_CONTROL_PDU = 1 << 20
#: What an association reads at once, and all the memory that its images take.
_BUFFER = 5 << 17

_log = structlog.get_logger(__name__)

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
        Takes C-STORE requests; called in the association's thread.
    streams
        Whether they go there as they come; else pynetdicom holds each in memory first.
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
        streams: bool = True,
        tls: Reloaded | None = None,
        **kwargs: Any,
    ) -> None:
        self.store = store
        self.streams = streams
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
        threading.Thread(
            target=self.serve_forever, args=(_STOP_S,), name="dicom-listener", daemon=True
        ).start()

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
        connection = cast(socket.socket, self.request)
        longest = max(_MAX_CONTROL_PDU, 2 * self.ae.maximum_pdu_size)
        assoc.set_socket(_Socket(assoc, connection, server.guard, longest))
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
        self._store = server.store
        self._ended = server.ended
        # `active_associations` finds its threads by this name.
        self.name = f"AcceptorThread-{id(self):x}"
        if server.streams:
            self.dul = _StreamingUpperLayer(self)
            self.dimse = Dimse(self, server.store, self._send_now)
        else:
            self.dul = _UpperLayer(self)
            self.dimse = Dimse(self, None, self._send_now)
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

    def _send_now(self, pdu: bytes) -> None:
        cast(_Socket, self.dul.socket).send(pdu)

    def _serve_request(self, msg: Any, context_id: int) -> None:
        context = self._accepted_cx.get(context_id)
        if not isinstance(msg, C_STORE) or context is None:
            super()._serve_request(msg, context_id)
            return
        # The plain path. By its own lists pynetdicom would not know private SOP Classes.
        self.bind(evt.EVT_C_STORE, _store_plainly, [self._store])
        StorageServiceClass(self).SCP(msg, context)

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


def _store_plainly(event: evt.Event, store: StoreHandler) -> int:
    """A C-STORE request that pynetdicom has in memory."""
    message = cast(C_STORE, event.request)
    data = message.DataSet
    request = StoreRequest(
        assoc=event.assoc,
        command=StoreCommand(
            message_id=cast(int, message.MessageID),
            sop_class_uid=str(message.AffectedSOPClassUID),
            sop_instance_uid=str(message.AffectedSOPInstanceUID),
            has_data_set=data is not None,
        ),
        transfer_syntax_uid=str(event.context.transfer_syntax),
    )
    sink = open_sink(store, request, str(event.context.abstract_syntax))
    if data is not None:
        sink.write((data.getbuffer(),))
    return finish_sink(sink, request)


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
    """A connection that is read through a buffer, and whose wait another thread can end.

    Parameters
    ----------
    longest
        Bytes that a PDU may have.
    """

    def __init__(
        self, assoc: Association, client_socket: socket.socket, guard: Guard, longest: int
    ) -> None:
        self.reader = PduReader(_BUFFER, longest=longest)
        self._longest = longest
        #: When the P-DATA-TF PDU that has begun must have ended.
        self._pdu_until = 0.0
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

    def _shutdown_socket(self) -> None:
        connection = self.socket
        if connection is not None:
            with contextlib.suppress(
                OSError
            ):  # the peer was faster; it is to be closed all the same
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

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
        if not self.reader.is_empty or (self._tls is not None and self._tls.pending()):
            # Read or decrypted already: the connection itself may have nothing more.
            return True
        events = dict(self._poll.poll(_LOOK_S * 1000))
        if events.pop(self._ear.fileno(), 0):
            with contextlib.suppress(OSError):
                self._ear.recv(4096)
        return bool(events)

    def recv(self, nr_bytes: int) -> bytearray:
        """So many bytes, for pynetdicom; fewer when the connection ends."""
        if nr_bytes > self._longest:
            _log.warning("pdu_refused", reason=f"it says {nr_bytes} bytes")
            raise ConnectionAbortedError(f"a PDU of {nr_bytes} bytes")
        limit_s = self._limit_s()
        deadline = time.monotonic() + limit_s
        self._wait_at_most(limit_s)
        held = self.reader.take(nr_bytes)
        done = len(held)
        buffer = bytearray(nr_bytes)
        buffer[:done] = held
        view = memoryview(buffer)
        while done < nr_bytes:
            if done and time.monotonic() > deadline:
                raise TimeoutError(f"a PDU that is under way for longer than {limit_s:g} s")
            count = self._receive(view[done:])
            if not count:
                return buffer[:done]
            done += count
        return buffer

    def fill(self) -> int | None:
        """Read into the reader: how many bytes, 0 at the connection's end, None where nothing came for a while.

        Raises
        ------
        TimeoutError
            When a PDU is under way for too long.
        OSError
            When the connection is lost.
        """
        limit_s = self._guard.pdu_timeout_s
        if not self.reader.is_within:
            if not self.ready:
                return None
            if self.reader.is_empty:
                self._pdu_until = time.monotonic() + limit_s
        if time.monotonic() > self._pdu_until:
            raise TimeoutError(f"a PDU that is under way for longer than {limit_s:g} s")
        self._wait_at_most(limit_s)
        room = self.reader.room
        # Of a PDU that has begun the rest is waited for, in one system call; else what there is.
        if self._tls is not None:
            count = self._tls.recv_into(room)
        elif wanted := self.reader.missing:
            count = self._receive(room[:wanted])
        else:
            count = cast(socket.socket, self.socket).recv_into(room)
        self.reader.filled(count)
        return count

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
    """PS3.8 9.2 by pynetdicom, whose loop waits instead of polling."""

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
        finally:
            # In this thread, which alone reads and writes.
            cast(Dimse, self.assoc.dimse).abandon()
            if self.socket is not None:
                self.socket.close()

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
            pdu, event = super()._decode_pdu(bytestream)
            # What the state machine does with it next raises on values that the standard does not have.
            primitive = pdu.to_primitive()
            if isinstance(primitive, A_ASSOCIATE):
                _demand_whole(primitive)
        except Exception as error:
            # pynetdicom makes Evt19 of it; its own words would repeat what the peer sent.
            kind = type(error).__name__
            _log.warning("pdu_refused", pdu_type=bytestream[0], size=len(bytestream), reason=kind)
            raise
        return pdu, event


class _StreamingUpperLayer(_UpperLayer):
    """The same, with P-DATA-TF PDUs read here for as long as an association is established."""

    def _is_transport_event(self) -> bool:
        connection = cast(_Socket, self.socket)
        # PS3.8 Table 9-5: Sta6, association established and ready for data transfer.
        if self.state_machine.current_state == "Sta6":
            return self._transfer(connection)
        reader = connection.reader
        if reader.is_within:
            # The association ended in the middle of a PDU.
            reader.give_up()
        if reader.is_given_up and connection.ready:
            return self._fill(connection)
        return super()._is_transport_event()

    def _transfer(self, connection: _Socket) -> bool:
        """Take what comes until there is something else to do; whether anything came."""
        dimse = cast(Dimse, self.assoc.dimse)
        came = False
        while not (self._kill_thread or self.event_queue.qsize() or self.to_provider_queue.qsize()):
            if connection.reader.is_at_other:
                self._read_pdu_data()
                return True
            if not self._fill(connection):
                break
            came = True
            self._idle_timer.restart()
            self._take(connection.reader, dimse.take)
            dimse.flush()
        return came

    def _fill(self, connection: _Socket) -> bool:
        """Whether anything came."""
        try:
            count = connection.fill()
        except OSError as error:
            _log.warning("connection_lost", reason=error.strerror or str(error))
            count = 0
        if count == 0:
            # Evt17: Transport connection closed
            self.event_queue.put("Evt17")
        return bool(count)

    def _take(self, reader: PduReader, take: Callable[[Fragment], None]) -> None:
        try:
            for fragment in reader.fragments():
                take(fragment)
        except PduError as error:
            _log.warning("pdu_refused", reason=str(error))
            reader.give_up()
            # Evt19: Unrecognised or invalid PDU received
            self.event_queue.put("Evt19")


def _demand_whole(request: A_ASSOCIATE) -> None:
    for context in request.presentation_context_definition_list:
        # PS3.8 9.3.2.2: one abstract syntax, and one transfer syntax at least.
        if context.abstract_syntax is None or not context.transfer_syntax:
            raise ValueError("a presentation context without a syntax")
