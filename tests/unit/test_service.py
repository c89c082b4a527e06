"""Starting and stopping, in this process: what a step under way and a backlog mean for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from nodes import free_port, wait_for
from rows import later, make_completion, make_evidence, make_workitem, schedule

from node.config import Config
from node.lifecycle import BATCH
from node.scu import Outcome, SendItem, SendStatus
from node.service import Service
from node.worker import PerformOutcome, PerformTask
from storage.errors import IndexUnavailable
from storage.index import deliveries, destinations, open_index, workitems
from storage.model import DeliveryState, Destination, utcnow

BATCHES = 12
SEND_S = 0.5


def configure(folder: Path, **storage: str) -> Config:
    return Config.model_validate(
        {
            "node": {"data": folder, "host": "127.0.0.1", "port": free_port()},
            "compute": {"devices": ["cpu"]},
            "storage": storage,
        }
    )


def owe(config: Config, key: str) -> None:
    """`BATCHES` batches of evidence for one destination."""
    made = make_workitem(1)
    with open_index(config.database_url) as index:
        destination = Destination(name="PACS", host="h", port=1, called_ae="PACS")
        destinations.add(index, destination, actor="test")
        schedule(index, made)
        assert workitems.claim(index, owner="node-1", now=later(1), lease_s=60)
        evidence = tuple(
            replace(make_evidence(made, "SR"), sop_instance_uid=f"1.8.{n}", archive_key=key)
            for n in range(BATCHES * BATCH)
        )
        assert workitems.complete(index, replace(make_completion(made), evidence=evidence))


def test_stopping_waits_for_the_batch_under_way_and_not_for_the_backlog(tmp_path: Path) -> None:
    config = configure(tmp_path)
    service = Service(config)
    owe(config, service._archive.write("1.8", "0" * 64, [b"evidence"]))
    sending = threading.Event()

    def send(_: Destination, items: Sequence[SendItem]) -> list[SendStatus]:
        sending.set()
        time.sleep(SEND_S)
        return [
            SendStatus(item=item, outcome=Outcome.DELIVERED, status=0, message="") for item in items
        ]

    service._parts = replace(service._parts, send=send)
    with service:
        wait_for("a first batch", sending.is_set)
        began = time.monotonic()
    assert time.monotonic() - began < BATCHES * SEND_S / 2
    with open_index(config.database_url) as index:
        owed = deliveries.list_deliveries(index, state=DeliveryState.PENDING, limit=10_000)
        assert 0 < len(owed) < BATCHES * BATCH
        assert len(deliveries.due_destinations(index, later(10**9))) == 1


def test_a_database_that_does_not_answer_is_said_in_one_sentence(tmp_path: Path) -> None:
    config = configure(tmp_path, database=f"postgresql://postgres@127.0.0.1:{free_port()}/none")
    with pytest.raises(IndexUnavailable, match="does not answer"):
        Service(config)


def test_the_calendar_wakes_workers_when_a_time_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loops that look by themselves once in ten minutes start it at its time all the same."""
    config = configure(tmp_path)
    service = Service(config)
    opens = utcnow() + timedelta(seconds=2)
    with open_index(config.database_url) as index:
        schedule(index, replace(make_workitem(1), pipeline="ct_skeleton", not_before=opens))
    begun: list[datetime] = []

    def perform(_: PerformTask) -> PerformOutcome:
        begun.append(utcnow())
        return PerformOutcome(evidence=(), pid=1)

    service._parts = replace(service._parts, perform=perform)
    monkeypatch.setattr("node.service.POLL_S", 600.0)
    with service:
        wait_for("its run", lambda: begun, timeout_s=10)
    assert begun[0] >= opens
