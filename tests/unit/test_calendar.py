"""The jobs of the calendar: when they come, and that each does its work."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from apscheduler.schedulers.background import BackgroundScheduler
from rows import STUDY, make_instance

from migrations.commands import upgrade
from node import calendar
from node.config import Config
from node.lifecycle import Parts
from pipelines.evidence.request import Installation
from pipelines.registry import find_pipelines
from storage.archive import Archive
from storage.index import Index, events, files, instances, open_index, studies
from storage.model import FileState, utcnow


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    url = f"sqlite:///{tmp_path / 'index.sqlite'}"
    upgrade(url)
    with open_index(url) as opened:
        yield opened


def parts_of(folder: Path, index: Index, **settings: object) -> Parts:
    config = {"node": {"data": folder, "timezone": "Europe/Berlin"}, **settings}

    def never(*_: object) -> object:
        raise AssertionError("the calendar neither runs nor sends")

    return Parts(
        config=Config.model_validate(config),
        index=index,
        archive=Archive(str(folder / "archive")),
        registry=find_pipelines([]),
        owner="node",
        installation=Installation(
            institution="", serial_number="1", uid_root="2.25", software_version="0"
        ),
        perform=never,  # type: ignore[arg-type]
        cancel=lambda uid: None,
        send=never,  # type: ignore[arg-type]
    )


def filled(parts: Parts) -> BackgroundScheduler:
    scheduler = BackgroundScheduler(timezone="UTC")
    calendar.fill(scheduler, parts, threading.Event())
    scheduler.start(paused=True)
    return scheduler


def test_jobs_come_at_the_hours_of_the_house(tmp_path: Path, index: Index) -> None:
    parts = parts_of(tmp_path, index, integrity={"at": "02:30"}, retention={"at": "04:05"})
    scheduler = filled(parts)
    try:
        _, verify, expire = scheduler.get_jobs()
        times = [job.next_run_time.astimezone(parts.config.zone) for job in (verify, expire)]
        assert sorted(at.strftime("%H:%M") for at in times) == ["02:30", "04:05"]
    finally:
        scheduler.shutdown()


def test_no_nights_no_verification(tmp_path: Path, index: Index) -> None:
    scheduler = filled(parts_of(tmp_path, index, integrity={"nights": 0}))
    try:
        assert len(scheduler.get_jobs()) == 2
    finally:
        scheduler.shutdown()


def test_each_job_does_its_work(tmp_path: Path, index: Index) -> None:
    parts = parts_of(tmp_path, index, retention={"received_days": 1})
    one = make_instance(1)
    key = parts.archive.write(one.sop_instance_uid, one.digest, [b"no image"])
    instances.add(index, replace(one, archive_key=key))
    studies.record_evaluation(
        index, study_instance_uid=STUDY, revision=1, decisions=(), workitems=(), now=utcnow()
    )
    scheduler = filled(parts)
    try:
        for job in scheduler.get_jobs():
            job.func()
    finally:
        scheduler.shutdown()
    (mark,) = files.marks_of(index, STUDY)
    assert mark.state is FileState.EXPIRED
    assert not parts.archive.exists(key)
    assert {"archive-verified", "study-expired"} <= {e.kind for e in events.list_events(index)}
