"""A node whose process may open no more files: it says so, spins not, and is its old self when it may again."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from machine import few_descriptors
from nodes import Node, wait_for
from pynetdicom import AE

VERIFICATION = "1.2.840.10008.1.1"
#: Half of them for one address.
PLACES = 6


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    settings = {"OSTEONODE_RECEIVE__MAX_WAITING": str(PLACES)}
    made = Node(folder=tmp_path / "node", settings=settings)
    made.start()
    wait_for("the node to have started", lambda: "node_started" in made.log)
    yield made
    made.kill_if_running()


def connect(node: Node) -> None:
    """A connection that is closed as soon as it is there, or waits to be."""
    with socket.create_connection(("127.0.0.1", node.port), timeout=5) as connection:
        connection.settimeout(0.2)
        try:
            connection.recv(1)
        except OSError:
            return


def is_heard(node: Node) -> bool:
    ae = AE()
    ae.add_requested_context(VERIFICATION)
    assoc = ae.associate("127.0.0.1", node.port, ae_title="OSTEONODE")
    if not assoc.is_established:
        return False
    heard = assoc.send_c_echo().get("Status") == 0x0000
    assoc.release()
    return heard


def test_connections_that_got_no_descriptor_keep_no_place(node: Node) -> None:
    assert node.process is not None
    for left in (1, 2, 3):
        with few_descriptors(node.process.pid, left):
            for _ in range(2 * PLACES):
                connect(node)
    wait_for("the node to listen again", lambda: is_heard(node), 10)
    assert "no room for this connection" in node.log
    assert "Exception occurred during processing" not in node.log


def test_a_connection_that_cannot_be_taken_costs_no_processor(node: Node) -> None:
    assert node.process is not None
    process = psutil.Process(node.process.pid)
    with few_descriptors(node.process.pid, 0), socket.socket() as waiting:
        waiting.connect(("127.0.0.1", node.port))
        time.sleep(0.5)
        before = process.cpu_times()
        time.sleep(2.0)
        after = process.cpu_times()
    spent = after.user + after.system - before.user - before.system
    assert spent < 0.8, f"{spent:.1f} of 2 s"
    wait_for("the node to listen again", lambda: is_heard(node), 10)
