"""What people do to the queue of a node that runs: cancel what hangs, hold, raise, wait for a window."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import psutil
import pytest
from dicomgen import Geometry, make_series, save_all
from nodes import PIPELINES, Node, wait_for

from node.cluster import worker_folder
from node.scu import send_paths
from storage.index import destinations, events, rules, workitems
from storage.model import Destination, Rule, Workitem, WorkitemState

SIX = Geometry(slices=6)
#: A cancelled run is over, and the next one begun, within.
SOON_S = 5.0
BERLIN = ZoneInfo("Europe/Berlin")

pytestmark = pytest.mark.slow


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """A node of one worker, on which a run may hang for ten minutes."""
    folder = tmp_path / "pipelines"
    shutil.copytree(PIPELINES, folder)
    manifest = folder / "hangs" / "pipeline.toml"
    manifest.write_text(manifest.read_text().replace("time_s = 1.5", "time_s = 600"))
    made = Node(
        folder=tmp_path / "node",
        settings={
            "OSTEONODE_PIPELINES__FOLDERS": json.dumps([str(folder)]),
            "OSTEONODE_COMPUTE__DEVICES": '["cpu"]',
            "OSTEONODE_NODE__TIMEZONE": "Europe/Berlin",
        },
    )
    made.start()
    with made.index() as index:
        peer = Destination(name="PACS", host="127.0.0.1", port=1, called_ae="PACS")
        destinations.add(index, peer, actor="test")
    yield made
    made.kill_if_running()


def cli(node: Node, *arguments: str) -> str:
    """What the command says; it must succeed."""
    command = [sys.executable, "-m", "node.cli", "--config", str(node.config), *arguments]
    environment = {**os.environ, **node.settings}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def add_rule(node: Node, pipeline: str, mark: Path, **kinds: str) -> None:
    with node.index() as index:
        rule = Rule(
            name=pipeline,
            pipeline=pipeline,
            where=("Modality = CT",),
            destinations=("PACS",),
            parameters={"mark": str(mark), "seconds": 600 if pipeline == "hangs" else 1.0},
            **kinds,  # type: ignore[arg-type]
        )
        rules.add(index, rule, actor="test")


def receive(node: Node, study: int, folder: Path) -> Workitem:
    """Send a study; its workitem, once it is scheduled."""
    datasets = make_series(study=study, geometry=SIX)
    paths = save_all(datasets, folder)
    target = Destination(name="node", host="127.0.0.1", port=node.port, called_ae="OSTEONODE")
    list(send_paths(target, paths, calling_ae="CT1", timeout_s=20))
    uid = datasets[0].StudyInstanceUID

    def planned() -> tuple[Workitem, ...]:
        with node.index() as index:
            return workitems.list_workitems(index, study=uid)

    wait_for("a workitem", planned)
    return planned()[0]


def state_of(node: Node, workitem: Workitem) -> WorkitemState:
    with node.index() as index:
        return workitems.get(index, workitem.workitem_uid).state


def _marks(node: Node) -> Path:
    """Where a confined worker may leave them."""
    return worker_folder(node.folder / "data" / "scratch", "cpu")


def workers(node: Node) -> list[psutil.Process]:
    """Processes that compute."""
    assert node.process is not None
    children = psutil.Process(node.process.pid).children(recursive=True)
    return [one for one in children if any("spawn_main" in part for part in one.cmdline())]


def test_a_run_that_hangs_is_cancelled_and_the_next_starts(node: Node, tmp_path: Path) -> None:
    hanging, next_mark = _marks(node) / "hanging", _marks(node) / "next"
    add_rule(node, "hangs", hanging)
    stuck = receive(node, 1, tmp_path / "one")
    wait_for("the hanging run", hanging.exists)
    with node.index() as index:
        rules.disable(index, "hangs", actor="test")
    add_rule(node, "sleeper", next_mark)
    waiting = receive(node, 2, tmp_path / "two")
    busy = workers(node)
    time.sleep(1.0)
    assert state_of(node, waiting) == WorkitemState.SCHEDULED
    assert not next_mark.exists()

    assert "is cancelled" in cli(node, "workitems", "cancel", stuck.workitem_uid)

    wait_for(
        "the next to be claimed",
        lambda: state_of(node, waiting) == WorkitemState.IN_PROGRESS,
        timeout_s=SOON_S,
    )
    assert any(not one.is_running() for one in busy)
    # Its run begins in a process that first must start.
    wait_for("the next run", next_mark.exists, timeout_s=60)
    node.wait_for_state(WorkitemState.COMPLETED)
    with node.index() as index:
        (event,) = events.list_events(index, kind="workitem-canceled")
        assert event.workitem_uid == stuck.workitem_uid
        assert event.actor.startswith("cli:")


def test_a_workitem_waits_for_its_window_unless_it_is_released(node: Node, tmp_path: Path) -> None:
    opens = (datetime.now(BERLIN) + timedelta(hours=2)).replace(second=0, microsecond=0)
    window = f"{opens:%H:%M}-{opens + timedelta(minutes=5):%H:%M}"
    add_rule(node, "sleeper", _marks(node) / "mark", window=window)
    waiting = receive(node, 1, tmp_path / "one")
    assert (waiting.window, waiting.not_before) == (window, opens)
    (listed,) = json.loads(cli(node, "workitems", "list", "--state", "scheduled", "--json"))
    assert (listed["place"], datetime.fromisoformat(listed["starts"])) == (1, opens)
    assert "it may start at" in cli(node, "workitems", "raise", waiting.workitem_uid, "--first")
    assert state_of(node, waiting) == WorkitemState.SCHEDULED

    cli(node, "workitems", "release", waiting.workitem_uid, "--now")

    wait_for("its end", lambda: state_of(node, waiting) == WorkitemState.COMPLETED)
