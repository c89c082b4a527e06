"""A node that may open no more files while its worker dies: what it could not start then, it starts later."""

from __future__ import annotations

from pathlib import Path

from blows import Blow, Kind
from machine import few_descriptors
from nodes import wait_for
from peer import Pacs
from scene import make_scene
from senders import Ledger, Sender

from storage.model import WorkitemState


def test_a_worker_that_could_not_be_started_is_started_later(tmp_path: Path, pacs: Pacs) -> None:
    with make_scene(tmp_path, pacs, None, None) as scene:
        node = scene.node
        node.start()
        node.route_to(pacs.port, pipeline="moody")
        sender = Sender(1, 1, node.port, Ledger())
        sender.send_study(1)
        node.wait_for_state(WorkitemState.COMPLETED)
        assert node.process is not None
        with few_descriptors(node.process.pid, 0):
            scene.strike(Blow(after_s=0, kind=Kind.WORKER, lasts_s=0, much=0))
            wait_for("Dask to give up", lambda: "Failed to start process" in node.log, 20)
        sender.send_study(2)
        node.wait_for_state(WorkitemState.COMPLETED, 2, 40)
