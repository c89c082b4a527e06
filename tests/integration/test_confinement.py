"""Pipelines that try what they have no business with: in real workers, held by this machine's kernel."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from landlockpy import abi_version
from tasks import make_task

from node.compute import Compute, PerformOutcome
from node.config import ComputeSection
from node.confinement import find_walls
from node.errors import PerformError
from pipelines.errors import PipelineError
from storage.archive import Archive

pytestmark = pytest.mark.skipif(
    not find_walls().network, reason=f"this machine cannot confine: {find_walls().why}"
)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch")


@pytest.fixture(scope="module")
def compute(scratch: Path) -> Iterator[Compute]:
    with Compute(ComputeSection(threads=1), scratch=scratch) as compute:
        yield compute


@pytest.fixture
def url(tmp_path: Path) -> str:
    return str(tmp_path / "archive")


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Somebody outside who would take what a pipeline sends."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server


def _port(listener: socket.socket) -> str:
    return str(listener.getsockname()[1])


def _try(compute: Compute, url: str, attempt: str, target: object = "") -> PerformOutcome:
    parameters = {"attempt": attempt, "target": str(target)}
    return compute.perform(make_task(url, "prowler", parameters=parameters))


def _is_denied(compute: Compute, url: str, attempt: str, target: object = "") -> bool:
    with pytest.raises(
        PipelineError, match=r"PermissionError at pipeline\.py:\d+: it may"
    ) as caught:
        _try(compute, url, attempt, target)
    return caught.value.code == "pipeline-not-permitted"


@pytest.mark.parametrize("attempt", ["connect", "connect in a thread", "connect by a process"])
def test_a_pipeline_reaches_no_port_of_others(
    compute: Compute, url: str, listener: socket.socket, attempt: str
) -> None:
    assert _is_denied(compute, url, attempt, _port(listener))
    with pytest.raises(BlockingIOError):
        listener.accept()


def test_a_pipeline_opens_no_port(compute: Compute, url: str) -> None:
    assert _is_denied(compute, url, "listen")


@pytest.mark.parametrize("attempt", ["append", "truncate", "remove", "move away"])
@pytest.mark.parametrize("what", ["instance", "index", "configuration", "code"])
def test_a_pipeline_changes_no_file_of_the_node(
    compute: Compute, url: str, tmp_path: Path, what: str, attempt: str
) -> None:
    (_, key, *_) = make_task(url).inputs["ct"]
    instance = Archive(url).local_path(key)
    assert instance is not None
    path = {
        "instance": instance,
        "index": tmp_path / "index.sqlite",
        "configuration": tmp_path / "config.toml",
        "code": tmp_path / "prowler" / "pipeline.py",
    }[what]
    shutil.copytree(
        make_task(url, "prowler").pipeline_folder,
        tmp_path / "prowler",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    for name in ("index.sqlite", "config.toml"):
        (tmp_path / name).write_bytes(b"as it was")
    before = path.read_bytes()
    task = make_task(url, "prowler", parameters={"attempt": attempt, "target": str(path)})

    with pytest.raises(PipelineError) as caught:
        compute.perform(replace(task, pipeline_folder=tmp_path / "prowler"))

    assert caught.value.code == "pipeline-not-permitted"
    assert path.read_bytes() == before


def test_a_pipeline_leaves_no_link_for_the_node_to_follow(compute: Compute, url: str) -> None:
    assert _is_denied(compute, url, "link", "/etc/hostname")


@pytest.mark.skipif(not find_walls().files or abi_version() < 6, reason="needs Linux 6.12")
def test_a_pipeline_signals_nobody(compute: Compute, url: str) -> None:
    assert _is_denied(compute, url, "signal", os.getpid())


def test_a_pipeline_reads_no_memory_and_no_environment_of_the_node(
    compute: Compute, url: str
) -> None:
    assert _is_denied(compute, url, "read", f"/proc/{os.getpid()}/mem")
    if os.geteuid() != 0:  # root may read it on some kernels (CAP_PERFMON)
        assert _is_denied(compute, url, "read", f"/proc/{os.getpid()}/environ")


def test_a_pipeline_has_temporary_files_and_its_evidence_is_in_the_archive(
    compute: Compute, scratch: Path, url: str
) -> None:
    outcome = _try(compute, url, "write temporary files")

    assert outcome.outbox is None
    for item in outcome.evidence:
        path = Archive(url).local_path(item.archive_key)
        assert path is not None
        assert path.stat().st_size == item.size
    assert list(scratch.rglob("worker-*"))
    assert not list(scratch.rglob("outbox-*"))


def test_a_worker_needs_no_archive(compute: Compute, tmp_path: Path) -> None:
    """One that this process alone can reach."""
    url = f"memory://{tmp_path.name}"

    outcome = _try(compute, url, "write temporary files")

    assert all(Archive(url).exists(item.archive_key) for item in outcome.evidence)


def test_the_worker_after_a_death_is_confined_too(
    compute: Compute, url: str, listener: socket.socket
) -> None:
    before = _try(compute, url, "write temporary files").pid
    with pytest.raises(PerformError, match="died"):
        compute.perform(make_task(url, "crasher"))

    assert _is_denied(compute, url, "connect", _port(listener))
    assert _try(compute, url, "write temporary files").pid != before


def test_without_confinement_all_that_goes_through(
    tmp_path: Path, url: str, listener: socket.socket
) -> None:
    """What the tests above would see if the walls were not there."""
    file = tmp_path / "config.toml"
    file.write_bytes(b"as it was")
    section = ComputeSection(threads=1, confine=False)
    with Compute(section, scratch=tmp_path / "scratch") as compute:
        for attempt in ("connect", "connect in a thread", "connect by a process"):
            _try(compute, url, attempt, _port(listener))
            listener.accept()[0].close()
        _try(compute, url, "listen")
        _try(compute, url, "append", file)
        _try(compute, url, "signal", os.getpid())
    assert file.read_bytes() == b"as it wasprowler"
