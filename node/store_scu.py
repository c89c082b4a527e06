"""C-STORE requests on an association of ours, put on the wire without pynetdicom (PS3.7 9.1.1, 9.3.1).

pynetdicom has each request wait for three loops that sleep, and writes it in pieces. Here the thread that sends has the
connection to itself from a request's first byte to its answer's last; the loop that reads stands still meanwhile. Files
go out as they lie, a piece at a time. What comes and is not the answer (a report, a release, an abort) is pynetdicom's
as before. All use of what it does not document is in here, written for 3.0.
"""

from __future__ import annotations

import itertools
import select
import ssl
import threading
import time
from pathlib import Path
from typing import Any, cast

import structlog
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.presentation import PresentationContext

from node.command import encode_store_request, read_store_response
from node.part10 import read_head
from node.pdus import Fragment, PduError, PduReader, encode_p_data

#: What is read of a file, and given to the connection, at once.
_PIECE = 1 << 20
#: Answers and reports come in PDUs that are much smaller.
_BUFFER = 1 << 16
#: Seconds between two looks whether pynetdicom's loop has ended.
_LOOK_S = 0.05

_log = structlog.get_logger(__name__)


class StoreScu:
    """Sends on an established association, in one thread.

    Parameters
    ----------
    assoc
        As `node.scu.associate` makes it: its socket gives up after a while.
    """

    def __init__(self, assoc: Association) -> None:
        self._assoc = assoc
        self._message_ids = itertools.cycle(range(1, 1 << 16))
        # Twice what we announced: some count the header as well, some do not.
        self._reader = PduReader(_BUFFER, longest=2 * (assoc.requestor.maximum_length or _PIECE))
        self._command = bytearray()
        #: Who has the connection.
        self._turn = threading.Lock()
        self._is_taken = threading.Event()
        connection = self._connection
        self._look, self._recv = assoc.dul._is_transport_event, connection.recv
        cast(Any, assoc.dul)._is_transport_event = self._look_in_turn
        connection.recv = self._recv_rest

    @property
    def _connection(self) -> Any:
        """pynetdicom's; its socket is None once it is closed."""
        return self._assoc.dul.socket

    def store(
        self,
        path: Path,
        context: PresentationContext,
        sop_instance_uid: str,
        *,
        wait_s: float,
    ) -> int | None:
        """Send the data set of a DICOM file; the status of the answer, None when there is none.

        Parameters
        ----------
        context
            What was agreed for its SOP Class and transfer syntax.
        wait_s
            Seconds to wait for the answer when all is sent.

        Raises
        ------
        pydicom.errors.InvalidDicomError, OSError
            When the file cannot be read; the association is aborted when a part of it was sent.
        """
        with path.open("rb") as file:
            read_head(file)
            message_id = next(self._message_ids)
            command = encode_store_request(
                message_id, str(context.abstract_syntax), sop_instance_uid
            )
            context_id = cast(int, context.context_id)
            longest = self._assoc.acceptor.maximum_length or 0
            piece = file.read(_PIECE)
            self._take_connection()
            self._give_way()
            pdus = encode_p_data(context_id, command, longest, is_command=True, is_last=True)
            try:
                with self._turn:
                    self._assoc.dul._idle_timer.restart()
                    while piece:
                        following = file.read(_PIECE)
                        pdus += encode_p_data(
                            context_id, piece, longest, is_command=False, is_last=not following
                        )
                        if not self._send(pdus):
                            return None
                        pdus, piece = b"", following
                    return self._answer(message_id, time.monotonic() + wait_s)
            except (PduError, ValueError, TimeoutError) as error:
                _log.warning("no_answer", reason=str(error))
                self._assoc.abort()
                return None
            except OSError:
                # Half of an instance is out: there is no other end of it.
                self._assoc.abort()
                raise

    def _take_connection(self) -> None:
        """When we came, pynetdicom's loop may have been on its way to read: it would take our answer."""
        while not self._is_taken.wait(_LOOK_S) and self._assoc.dul.is_alive():
            pass

    def _give_way(self) -> None:
        """What pynetdicom has to say, an answer to a report, comes before the next request."""
        while self._assoc.dul.to_provider_queue.qsize() and self._assoc.is_established:
            time.sleep(0.001)

    def _send(self, pdus: bytes) -> bool:
        try:
            self._connection.socket.sendall(pdus)
        except (OSError, AttributeError):
            return False
        return True

    def _answer(self, message_id: int, deadline: float) -> int | None:
        """The status that the peer answers a message with; None when it ends the association.

        Raises
        ------
        PduError, ValueError, TimeoutError
            When what comes is none, or nothing does.
        """
        status: int | None = None
        while True:
            for fragment in self._reader.fragments():
                if (answer := self._take(fragment)) is not None:
                    if answer[0] != message_id:
                        raise ValueError("an answer to another message")
                    status = answer[1]
            if self._reader.is_at_other:
                return status
            if status is not None and self._reader.is_empty and not self._reader.is_within:
                return status
            if not self._fill(deadline):
                return status

    def _take(self, fragment: Fragment) -> tuple[int, int] | None:
        """Message and status of an answer that ends here; everything else goes on to pynetdicom."""
        if not fragment.is_command:
            self._pass_on(fragment, bytes(fragment.value))
            return None
        self._command += fragment.value
        if not fragment.is_last:
            return None
        command, self._command = bytes(self._command), bytearray()
        answer = read_store_response(command)
        if answer is None:
            self._pass_on(fragment, command)
        return answer

    def _pass_on(self, fragment: Fragment, value: bytes) -> None:
        """Of a storage commitment report on this association, say."""
        control = fragment.is_command | fragment.is_last << 1
        primitive = P_DATA()
        primitive.presentation_data_value_list.append(
            (fragment.context_id, bytes((control,)) + value)
        )
        self._assoc.dimse.receive_primitive(primitive)

    def _fill(self, deadline: float) -> bool:
        """Wait for the peer; whether the connection is still there.

        Raises
        ------
        TimeoutError
            When nothing comes.
        """
        connection = self._connection.socket
        if connection is None:
            return False
        if not (isinstance(connection, ssl.SSLSocket) and connection.pending()):
            waiting = select.poll()
            waiting.register(connection, select.POLLIN)
            if not waiting.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise TimeoutError("none came in time")
        try:
            count = connection.recv_into(self._reader.room)
        except OSError:
            return False
        self._reader.filled(count)
        return bool(count)

    # -- pynetdicom's loop, between requests ------------------------------------------------------

    def _look_in_turn(self) -> bool:
        self._is_taken.set()
        with self._turn:
            if not self._reader.is_empty:
                # Read with an answer, and for pynetdicom.
                self._assoc.dul._read_pdu_data()
                return True
            return bool(self._look())

    def _recv_rest(self, nr_bytes: int) -> bytearray:
        held = bytearray(self._reader.take(nr_bytes))
        return held if len(held) == nr_bytes else held + self._recv(nr_bytes - len(held))
