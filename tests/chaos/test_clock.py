"""A clock that is set back by hours, under a real node with its workers."""

from __future__ import annotations

from pathlib import Path

import pytest
from blows import Blow, Kind
from machine import Clock
from nodes import wait_for
from peer import Pacs
from scene import make_scene
from senders import Ledger, Sender

from storage.model import WorkitemState

HOURS = 3600


@pytest.mark.slow
def test_a_worker_that_dies_after_the_clock_was_set_back_comes_again(
    tmp_path: Path, pacs: Pacs
) -> None:
    with make_scene(tmp_path, pacs, None, None) as scene:
        if not isinstance(scene.clock, Clock):
            pytest.skip(scene.clock)
        node = scene.node
        node.start()
        node.route_to(pacs.port, pipeline="moody")
        sender = Sender(1, 1, node.port, Ledger())
        sender.send_study(1)
        node.wait_for_state(WorkitemState.COMPLETED)
        scene.clock.jump(-5 * HOURS)
        scene.strike(Blow(after_s=0, kind=Kind.WORKER, lasts_s=0, much=0))
        sender.send_study(2)
        node.wait_for_state(WorkitemState.COMPLETED, 2, 30)
        pacs.wait_for(4)
        wait_for("the node to say so", lambda: "clock_set_back" in node.log, 5)
