"""Evidence that a worker left is held against what it said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tasks import make_task

from node.filing import local_inputs, take_over
from node.worker import PerformOutcome, WorkerSetup, perform_task
from pipelines.errors import PipelineError
from storage.archive import Archive


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive(str(tmp_path / "archive"))


@pytest.fixture
def outcome(tmp_path: Path, archive: Archive) -> PerformOutcome:
    """Of a run that was given files and no archive."""
    task = make_task(str(tmp_path / "archive"))
    (tmp_path / "scratch").mkdir()
    with local_inputs(archive, task.inputs, scratch=tmp_path / "scratch") as files:
        task = replace(task, archive_url="", files=files)
        return perform_task(task, WorkerSetup(device="cpu", scratch=tmp_path / "scratch"))


def _left(outcome: PerformOutcome) -> Path:
    assert outcome.outbox is not None
    return outcome.outbox


def test_what_was_left_is_filed_once_and_the_outbox_goes(
    tmp_path: Path, archive: Archive, outcome: PerformOutcome
) -> None:
    left = _left(outcome)
    assert not any(archive.exists(item.archive_key) for item in outcome.evidence)

    take_over(archive, outcome.evidence, left, scratch=tmp_path / "scratch")

    assert [archive.size(item.archive_key) for item in outcome.evidence] == [
        item.size for item in outcome.evidence
    ]
    assert not left.exists()


@pytest.mark.parametrize("what", ["content", "size", "uid", "stub"])
def test_evidence_that_is_not_what_was_said_is_not_filed(
    tmp_path: Path, archive: Archive, outcome: PerformOutcome, what: str
) -> None:
    left = _left(outcome)
    first = outcome.evidence[0]
    path = left / first.archive_key
    content = path.read_bytes()
    said = first
    if what == "content":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif what == "size":
        path.write_bytes(content + b"\0")
    elif what == "uid":
        said = replace(first, sop_instance_uid="2.25.1")
    else:
        path.write_bytes(b"DICM")
        said = replace(first, size=4)

    with pytest.raises(PipelineError) as caught:
        take_over(archive, [said], left, scratch=tmp_path / "scratch")

    assert caught.value.code == "evidence-altered"
    assert not archive.exists(first.archive_key)
    assert not left.exists()


@pytest.mark.parametrize("name", ["outbox-elsewhere", "scratch", "scratch/worker-cpu"])
def test_a_folder_that_is_no_outbox_is_neither_read_nor_removed(
    tmp_path: Path, archive: Archive, name: str
) -> None:
    other = tmp_path / name
    other.mkdir(parents=True)

    with pytest.raises(PipelineError, match="outside"):
        take_over(archive, [], other, scratch=tmp_path / "scratch")

    assert other.is_dir()


def test_a_failed_run_leaves_nothing(tmp_path: Path, archive: Archive) -> None:
    task = make_task(str(tmp_path / "archive"), "buggy", parameters={"bug": "raise"})
    (tmp_path / "scratch").mkdir()
    with (
        local_inputs(archive, task.inputs, scratch=tmp_path / "scratch") as files,
        pytest.raises(PipelineError),
    ):
        perform_task(
            replace(task, archive_url="", files=files),
            WorkerSetup(device="cpu", scratch=tmp_path / "scratch"),
        )

    assert list((tmp_path / "scratch").iterdir()) == []
