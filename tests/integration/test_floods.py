"""Floods, slow peers and strangers at a real listener, by raw sockets."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from certificates import Authority
from dicomgen import make_instance, save
from listeners import CT, VERIFICATION, Listener, associate, listening
from nodes import wait_for
from pynetdicom import AE
from pynetdicom.association import Association

from node import scu
from node.config import TlsSection
from node.errors import DeliveryError
from node.tls import Dialer
from storage.index import events
from storage.model import Destination


def echoes(listener: Listener) -> bool:
    assoc = associate(listener.port)
    assert assoc.is_established, "kept out"
    status = assoc.send_c_echo().Status
    assoc.release()
    return bool(status == 0x0000)


def request_pdu() -> bytes:
    """An A-ASSOCIATE-RQ as pynetdicom sends it: taken down by a socket of ours."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        ae = AE("MODALITY")
        ae.add_requested_context(VERIFICATION)
        ae.acse_timeout = 5
        address = server.getsockname()
        thread = threading.Thread(
            target=lambda: ae.associate(address[0], address[1], ae_title="OSTEONODE"), daemon=True
        )
        thread.start()
        connection, _ = server.accept()
        with connection:
            head = connection.recv(6, socket.MSG_WAITALL)
            pdu = head + connection.recv(int.from_bytes(head[2:]), socket.MSG_WAITALL)
        thread.join(10)
    return pdu


@contextmanager
def connections(port: int, count: int) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=15))
            for _ in range(count)
        ]


def seconds_until_closed(
    connection: socket.socket, drip: bytes = b"", every_s: float = 0.1
) -> float:
    """How long the listener keeps it, while `drip` is sent byte by byte."""
    began = time.monotonic()
    connection.settimeout(every_s if drip else 15)
    rest = iter(drip)
    with contextlib.suppress(ConnectionError):
        while True:
            with contextlib.suppress(TimeoutError):
                if not connection.recv(4096):
                    break
            if drip:
                connection.sendall(bytes([next(rest)]))
    return time.monotonic() - began


def rejection(assoc: Association) -> tuple[int, int, int]:
    """Result, source and reason of an A-ASSOCIATE-RJ (PS3.8 Table 9-21)."""
    primitive = cast(Any, assoc.acceptor.primitive)
    return primitive.result, primitive.result_source, primitive.diagnostic


# -- those that never ask -----------------------------------------------------------------------


def test_silent_connections_keep_no_sender_out_and_are_closed(tmp_path: Path) -> None:
    with (
        listening(tmp_path, receive={"max_associations": 2, "request_timeout_s": 2.0}) as running,
        connections(running.port, 40) as silent,
    ):
        assert echoes(running)
        began = time.monotonic()
        assert seconds_until_closed(silent[-1]) < 6
        for connection in silent:
            assert connection.recv(1) == b""
        assert time.monotonic() - began < 8
        assert echoes(running)


def test_more_silent_connections_than_there_is_room_for_are_closed_at_once(tmp_path: Path) -> None:
    settings = {"max_waiting": 20, "request_timeout_s": 10.0}
    with listening(tmp_path, receive=settings) as running:
        with connections(running.port, 30) as many:
            for connection in many[10:]:
                assert seconds_until_closed(connection) < 3
            for connection in many[:10]:
                connection.setblocking(False)
                with pytest.raises(BlockingIOError):
                    connection.recv(1)
            event = running.wait_for_event("connection-refused")
            assert event.detail["times"] == 1
        assert event.detail["reason"] == "too many connections of this address without a request"
        assert echoes(running), "there is room again"


def test_what_was_not_told_one_by_one_is_told_when_the_node_stops(tmp_path: Path) -> None:
    with listening(tmp_path, receive={"networks": ["192.0.2.0/24"]}) as running:
        with connections(running.port, 7) as many:
            for connection in many:
                assert seconds_until_closed(connection) < 3
        port = running.port
    with listening(tmp_path) as later:
        assert later.port != port
        told = events.list_events(later.index, kind="connection-refused")
    assert sorted(int(str(event.detail["times"])) for event in told) == [1, 6]
    assert {event.detail["reason"] for event in told} == {"address is in none of receive.networks"}


def test_a_request_that_drips_in_is_closed_when_its_time_is_over(tmp_path: Path) -> None:
    pdu = request_pdu()
    with listening(tmp_path, receive={"request_timeout_s": 1.0}) as running:
        with connections(running.port, 1) as (slow,):
            assert seconds_until_closed(slow, drip=pdu) < 4
        with connections(running.port, 1) as (fast,):
            fast.sendall(pdu)
            assert fast.recv(1) == b"\x02", "the same request in one piece is accepted"


def test_a_tls_handshake_that_drips_in_is_closed(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "certificates")
    files = authority.sign("127.0.0.1")
    tls: dict[str, object] = {
        "certificate": str(files.certificate),
        "key": str(files.key),
        "mutual": False,
    }
    with (
        listening(tmp_path, tls=tls, receive={"request_timeout_s": 1.0}) as running,
        connections(running.tls_port, 1) as (slow,),
    ):
        # The head of a handshake record of 512 bytes, and nothing of use in it.
        assert seconds_until_closed(slow, drip=b"\x16\x03\x01\x02\x00\x01" + b"\x00" * 500) < 4
        assert running.wait_for_event("connection-refused").detail["reason"] == (
            "TLS: no answer in time"
        )


# -- those that ask, and then are slow ----------------------------------------------------------


@pytest.mark.parametrize("drip", [b"\x00" * 200, b""], ids=["drips", "stops"])
def test_a_pdu_that_takes_too_long_ends_the_association(tmp_path: Path, drip: bytes) -> None:
    with (
        listening(tmp_path, receive={"pdu_timeout_s": 1.0, "max_associations": 1}) as running,
        connections(running.port, 1) as (slow,),
    ):
        slow.sendall(request_pdu())
        slow.recv(4096)
        # A P-DATA-TF of 64 KiB that never comes whole.
        slow.sendall(struct.pack(">BxIIBB", 4, 0x10000, 0xFFFC, 1, 1))
        assert seconds_until_closed(slow, drip=drip) < 4
        event = running.wait_for_event("association")
        assert event.outcome == "failure"
        assert echoes(running)


def test_a_slow_pdu_within_its_time_is_taken(tmp_path: Path) -> None:
    with listening(tmp_path, receive={"request_timeout_s": 5.0}) as running:
        pdu = request_pdu()
        with connections(running.port, 1) as (slow,):
            for start in range(0, len(pdu), 50):
                slow.sendall(pdu[start : start + 50])
                time.sleep(0.1)
            assert slow.recv(1) == b"\x02"


# -- those that ask too often, and those that may not -------------------------------------------


def test_a_flood_of_requests_is_put_off_and_told_once(tmp_path: Path) -> None:
    with listening(tmp_path, receive={"max_rate": 0.5}) as running:
        answers = [associate(running.port) for _ in range(8)]
        accepted = [assoc for assoc in answers if assoc.is_established]
        rejected = [assoc for assoc in answers if assoc.is_rejected]
        # Five at once (ten seconds' worth), and what came in while they were made.
        assert 5 <= len(accepted) <= 6
        assert len(rejected) == 8 - len(accepted)
        assert rejection(rejected[0]) == (2, 3, 1)
        event = running.wait_for_event("association-rejected")
        assert event.detail["reason"] == "too many associations a second"
        for assoc in accepted:
            assoc.release()


def _contexts(assoc: Association) -> set[str]:
    return {str(context.abstract_syntax) for context in assoc.accepted_contexts}


def test_an_ae_may_do_what_its_rights_say(tmp_path: Path) -> None:
    callers = {"ECHOER": {"may": ["echo"]}, "SENDER": {"may": ["store"]}}
    with listening(tmp_path, receive={"callers": callers}) as running:
        for title, allowed in (("ECHOER", {VERIFICATION}), ("SENDER", {CT})):
            assoc = associate(running.port, VERIFICATION, CT, calling=title)
            assert _contexts(assoc) == allowed
            assoc.release()
        assert associate(running.port, VERIFICATION, calling="OTHER").is_rejected
        wait_for(
            "both ends", lambda: len(events.list_events(running.index, kind="association")) == 2
        )
        told = {
            event.actor: event.detail["not_permitted"]
            for event in events.list_events(running.index, kind="association")
        }
        assert told == {"ECHOER": "store", "SENDER": "echo"}
        event = running.wait_for_event("association-rejected")
        assert (event.actor, event.detail["reason"]) == ("OTHER", "calling AE title not recognized")


def test_an_ae_title_from_another_network_is_rejected_and_audited(tmp_path: Path) -> None:
    callers = {"CT_ONE": {"networks": ["192.0.2.0/24"]}, "CT_TWO": {"networks": ["127.0.0.0/8"]}}
    with listening(tmp_path, receive={"callers": callers}) as running:
        rejected = associate(running.port, calling="CT_ONE")
        assert rejected.is_rejected
        assert rejection(rejected) == (1, 1, 3)
        event = running.wait_for_event("association-rejected")
        assert event.actor == "CT_ONE"
        assert event.detail["address"] == "127.0.0.1"
        assert event.detail["reason"] == "calling AE title not allowed from this address"
        assoc = associate(running.port, calling="CT_TWO")
        assert assoc.is_established
        assoc.release()


def test_an_ae_title_needs_its_own_certificate(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "certificates")
    node, one, two = (authority.sign(name) for name in ("127.0.0.1", "ct1", "ct2"))
    shared = {"authorities": str(authority.file)}

    def tls(files: object) -> dict[str, object]:
        return {"certificate": str(files.certificate), "key": str(files.key), **shared}  # type: ignore[attr-defined]

    callers = {"CT_ONE": {"certificate": "ct1"}}
    item = scu.read_item(save(make_instance(), tmp_path / "in"))
    with listening(tmp_path, tls=tls(node), receive={"callers": callers}) as running:

        def send(files: object, port: int, *, secure: bool) -> scu.SendStatus:
            peer = Destination(
                name="NODE", host="127.0.0.1", port=port, called_ae="OSTEONODE", tls=secure
            )
            by = Dialer(TlsSection.model_validate(tls(files)))
            (status,) = scu.send(peer, [item], calling_ae="CT_ONE", timeout_s=5, dialer=by)
            return status

        assert send(one, running.tls_port, secure=True).status == 0x0000
        assert send(two, running.tls_port, secure=True).outcome is scu.Outcome.RETRY
        # In the clear there is no certificate at all.
        assert send(one, running.port, secure=False).outcome is scu.Outcome.RETRY
        event = running.wait_for_event("association-rejected")
        assert event.detail["reason"] == "calling AE title not allowed with this certificate"


def test_a_stranger_reads_nothing_of_us(tmp_path: Path) -> None:
    """Outside the networks: the connection ends before a byte of ours, and before TLS."""
    with listening(tmp_path, receive={"networks": ["192.0.2.0/24"]}) as running:
        with connections(running.port, 1) as (stranger,), contextlib.suppress(ConnectionError):
            stranger.sendall(request_pdu())
            assert stranger.recv(1) == b""
        peer = Destination(name="N", host="127.0.0.1", port=running.port, called_ae="OSTEONODE")
        with pytest.raises(DeliveryError):
            scu.echo(peer, calling_ae="X", timeout_s=5)
        assert running.wait_for_event("connection-refused").actor == "127.0.0.1"
