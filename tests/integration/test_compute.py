"""Workitems in real worker processes: warm, killed, hung, hungry, orphaned."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import dask.config
import psutil
import pytest
from pydicom import dcmread
from tasks import make_task

from node.cluster import find_devices, worker_folder
from node.compute import Compute, PerformOutcome
from node.config import ComputeSection
from node.errors import PerformError
from pipelines.errors import InputError, ManifestError, PipelineError, Refused, WeightsError
from storage.archive import Archive
from storage.errors import ArchiveError

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the workers of `compute` write."""
    return tmp_path_factory.mktemp("scratch")


@pytest.fixture(scope="module")
def compute(scratch: Path) -> Iterator[Compute]:
    """One set of workers for the tests that leave it as they found it: a killed worker comes back."""
    with Compute(ComputeSection(threads=1), scratch=scratch) as compute:
        yield compute


@pytest.fixture
def url(tmp_path: Path) -> str:
    return str(tmp_path / "archive")


def _wait_for(what: str, condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s:g} s in vain for: {what}"
        time.sleep(0.02)


def _workers_of(pid: int) -> list[psutil.Process]:
    """Processes made by `multiprocessing` under `pid`, without its resource tracker."""
    return [
        child
        for child in psutil.Process(pid).children()
        if any("spawn_main" in part for part in child.cmdline())
    ]


def _is_gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def _refuses_strangers(port: int) -> bool:
    """Whether what listens there is an empty web server, or wants TLS with a certificate we do not have."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as plain:
        plain.sendall(b"GET / HTTP/1.0\r\n\r\n")
        with suppress(ConnectionError):
            reply = plain.recv(100)
            if reply.startswith(b"HTTP/"):
                return b" 404 " in reply
            if reply[:1] not in (b"", b"\x15"):  # RFC 8446 5.1: 21 is an alert
                return False
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
            context.wrap_socket(plain) as encrypted,
        ):
            return encrypted.recv(1) == b""
    except (ssl.SSLError, ConnectionError):
        return True


def _in_background(compute: Compute, scratch: Path, url: str) -> Future[PerformOutcome]:
    """A run of `sleeper`, asleep when this returns."""
    ended: Future[PerformOutcome] = Future()
    mark = worker_folder(scratch, "cpu") / "mark"
    mark.unlink(missing_ok=True)
    task = make_task(url, "sleeper", parameters={"seconds": 60.0, "mark": str(mark)})

    def run() -> None:
        try:
            ended.set_result(compute.perform(task))
        except PerformError as error:
            ended.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    _wait_for("the run", mark.exists)
    return ended


# -- a run ----------------------------------------------------------------------------------------


def test_a_run_brings_evidence_measurements_and_timings(compute: Compute, url: str) -> None:
    task = make_task(url)

    outcome = compute.perform(task)

    assert [evidence.kind for evidence in outcome.evidence] == ["SEG", "SR"]
    for evidence in outcome.evidence:
        path = Archive(url).local_path(evidence.archive_key)
        assert path is not None
        ds = dcmread(path)
        assert ds.SOPInstanceUID == evidence.sop_instance_uid
        assert ds.SOPClassUID == evidence.sop_class_uid
        assert ds.SeriesInstanceUID == evidence.series_instance_uid
        assert ds.StudyInstanceUID == evidence.study_instance_uid == task.study_instance_uid
        assert ds.file_meta.TransferSyntaxUID == evidence.transfer_syntax_uid
        assert path.stat().st_size == evidence.size
        assert evidence.workitem_uid == task.workitem_uid
    # The disc of dicomgen: 45 voxels of 1.5 x 1.5 x 3 mm in each of four slices, at 700 HU.
    volume, mean = outcome.measurements
    assert volume.value == pytest.approx(4 * 45 * 1.5 * 1.5 * 3 / 1000)
    assert (volume.unit, volume.segment_label) == ("mL", "Bone")
    assert mean.value == pytest.approx(700)
    assert set(outcome.timings) == {"start", "load", "infer", "encode", "archive"}
    assert outcome.notices == ()


def test_the_same_task_twice_makes_the_same_objects(compute: Compute, url: str) -> None:
    task = make_task(url)

    first, second = compute.perform(task), compute.perform(task)

    assert [(e.sop_instance_uid, e.digest, e.archive_key) for e in first.evidence] == [
        (e.sop_instance_uid, e.digest, e.archive_key) for e in second.evidence
    ]


def test_a_second_run_finds_its_worker_warm(
    compute: Compute, scratch: Path, url: str, tmp_path: Path
) -> None:
    task = make_task(url)
    folder = tmp_path / "threshold_bone"
    shutil.copytree(task.pipeline_folder, folder)
    code = folder / "pipeline.py"
    loads = worker_folder(scratch, "cpu") / "loads"
    counting = code.read_text(encoding="utf-8").replace(
        "def load(context: LoadContext)",
        f"open({str(loads)!r}, 'a').write('load ')\n\n\ndef load(context: LoadContext)",
    )
    code.write_text(counting, encoding="utf-8")
    task = replace(task, pipeline_folder=folder)
    first, second = compute.perform(task), compute.perform(task)

    assert second.pid == first.pid != os.getpid()
    assert loads.read_text(encoding="utf-8") == "load "


def test_a_changed_pipeline_is_read_again(compute: Compute, url: str, tmp_path: Path) -> None:
    task = make_task(url)
    folder = tmp_path / "threshold_bone"
    subprocess.run(["cp", "-r", task.pipeline_folder, folder], check=True)
    task = replace(task, pipeline_folder=folder)
    before = compute.perform(task)
    module = folder / "pipeline.py"
    module.write_text(
        module.read_text(encoding="utf-8").replace(
            "volume.array >= threshold", "volume.array > 9999"
        ),
        encoding="utf-8",
    )

    after = compute.perform(task)

    assert before.measurements[0].value > 0
    assert after.measurements[0].value == 0
    assert after.notices == (("no-bone", "No voxel reaches the threshold."),)


def test_parameters_reach_the_pipeline(compute: Compute, url: str) -> None:
    outcome = compute.perform(make_task(url, parameters={"threshold_hu": 3000}))

    assert [evidence.kind for evidence in outcome.evidence] == ["SR"]
    assert outcome.measurements[0].value == 0


# -- what a pipeline or its input has wrong ---------------------------------------------------------


def test_a_refusal_arrives_as_itself(compute: Compute, url: str) -> None:
    with pytest.raises(Refused, match="5000 HU") as caught:
        compute.perform(make_task(url, parameters={"threshold_hu": 5000.0}))

    assert caught.value.code == "threshold-too-high"


def test_a_refusal_of_the_pipelines_own_class_arrives_too(compute: Compute, url: str) -> None:
    with pytest.raises(Refused, match="no bone in this series") as caught:
        compute.perform(make_task(url, "buggy", parameters={"bug": "own refusal"}))

    assert caught.value.code == "no-bone"


def test_a_crash_says_where_and_never_who(compute: Compute, url: str) -> None:
    with pytest.raises(
        PipelineError, match=r"buggy 1\.0\.0 .*ValueError at pipeline\.py:\d+"
    ) as caught:
        compute.perform(make_task(url, "buggy", parameters={"bug": "raise"}))

    assert caught.value.code == "pipeline-crashed"
    assert "Patient" not in str(caught.value)


def test_a_machine_without_descriptors_is_no_fault_of_the_pipeline(
    compute: Compute, url: str
) -> None:
    # An ArchiveError is tried again, a PipelineError is final.
    with pytest.raises(ArchiveError, match="Too many open files"):
        compute.perform(make_task(url, "buggy", parameters={"bug": "descriptors"}))


def test_a_result_that_breaks_the_contract_is_refused(compute: Compute, url: str) -> None:
    with pytest.raises(ManifestError, match="grid") as caught:
        compute.perform(make_task(url, "buggy", parameters={"bug": "shape"}))

    assert caught.value.code == "result-invalid"


def test_altered_weights_are_refused(compute: Compute, url: str) -> None:
    with pytest.raises(WeightsError, match=r"weights\.safetensors.*0000"):
        compute.perform(make_task(url, "altered"))


def test_a_series_that_is_no_volume_is_refused(compute: Compute, url: str) -> None:
    task = make_task(url)

    with pytest.raises(InputError):
        compute.perform(replace(task, inputs={"ct": task.inputs["ct"][:1]}))


def test_a_manifest_that_cannot_be_read_now_may_be_read_later(
    compute: Compute, url: str, tmp_path: Path
) -> None:
    task = replace(make_task(url, "sleeper"), pipeline_folder=tmp_path / "sleeper")
    # As a machine without descriptors: an error of the system, and no word of the file's.
    (tmp_path / "sleeper" / "pipeline.toml").mkdir(parents=True)
    with pytest.raises(PerformError) as refused:
        compute.perform(task)
    assert refused.value.code == "manifest-unreadable"


def test_a_file_that_is_gone_is_the_archives_fault(compute: Compute, url: str) -> None:
    task = make_task(url)
    Archive(url).delete(task.inputs["ct"][0])

    with pytest.raises(ArchiveError):
        compute.perform(task)


# -- what stops a run -------------------------------------------------------------------------------


@pytest.mark.parametrize("round_number", [1, 2])
def test_a_crashing_process_costs_that_attempt_only(
    compute: Compute, url: str, round_number: int
) -> None:
    # Twice: the second crash must not be one too many for Dask.
    with pytest.raises(PerformError) as caught:
        compute.perform(make_task(url, "crasher"))

    assert caught.value.code == "worker-died"
    assert compute.perform(make_task(url)).evidence


def test_a_killed_worker_is_noticed_at_once(compute: Compute, scratch: Path, url: str) -> None:
    pid = compute.perform(make_task(url)).pid
    running = _in_background(compute, scratch, url)
    os.kill(pid, signal.SIGKILL)
    killed_at = time.monotonic()

    error = running.exception(timeout=10)

    assert isinstance(error, PerformError)
    assert error.code == "worker-died"
    assert time.monotonic() - killed_at < 20
    assert compute.perform(make_task(url)).pid != pid


def test_a_worker_killed_while_it_starts_costs_that_attempt_only(url: str, tmp_path: Path) -> None:
    with (
        Compute(ComputeSection(threads=1), scratch=tmp_path / "scratch") as compute,
        ThreadPoolExecutor(1) as pool,
    ):
        before = {worker.pid for worker in _workers_of(os.getpid())}
        running = pool.submit(compute.perform, make_task(url))

        def starting() -> list[psutil.Process]:
            return [one for one in _workers_of(os.getpid()) if one.pid not in before]

        _wait_for("a worker that starts", starting)
        for worker in starting():
            worker.kill()

        error = running.exception(timeout=60)

        assert isinstance(error, PerformError)
        assert error.code == "worker-died"
        assert compute.perform(make_task(url)).evidence


def test_a_hung_worker_is_stopped_by_the_time_limit(compute: Compute, url: str) -> None:
    pid = compute.perform(make_task(url)).pid
    began = time.monotonic()

    with pytest.raises(PerformError, match=r"1\.5 s") as caught:
        compute.perform(make_task(url, "hangs"))

    assert caught.value.code == "time-limit"
    assert 1.5 <= time.monotonic() - began < 30
    assert compute.perform(make_task(url)).pid != pid


def test_a_hungry_worker_is_stopped_by_the_memory_limit(compute: Compute, url: str) -> None:
    with pytest.raises(PerformError, match="limit of 700 MB") as caught:
        compute.perform(make_task(url, "hungry"))

    assert caught.value.code == "memory-limit"
    assert compute.perform(make_task(url)).evidence


def test_an_allocation_that_fails_may_be_tried_again(compute: Compute, url: str) -> None:
    with pytest.raises(PerformError) as caught:
        compute.perform(make_task(url, "buggy", parameters={"bug": "memory"}))

    assert caught.value.code == "memory-limit"


def test_a_run_can_be_cancelled_while_its_workers_start(tmp_path: Path, url: str) -> None:
    task = make_task(url, "sleeper", parameters={"seconds": 60.0})
    with Compute(ComputeSection(threads=1), scratch=tmp_path / "scratch") as compute:
        canceller = threading.Timer(0.05, compute.cancel, [task.workitem_uid])
        canceller.start()
        with pytest.raises(PerformError) as caught:
            compute.perform(task)
        canceller.join()

    assert caught.value.code == "canceled"


def test_a_cancelled_run_whose_worker_dies_was_cancelled(
    compute: Compute, scratch: Path, url: str
) -> None:
    """As when the node stops: it counts no attempt, and the next start takes it up at once."""
    pid = compute.perform(make_task(url)).pid
    running = _in_background(compute, scratch, url)
    compute.cancel("2.25.1234567890")
    os.kill(pid, signal.SIGKILL)

    error = running.exception(timeout=20)
    assert isinstance(error, PerformError)
    assert error.code == "canceled"
    assert compute.perform(make_task(url)).evidence


def test_a_cancelled_run_ends_now(compute: Compute, scratch: Path, url: str) -> None:
    running = _in_background(compute, scratch, url)
    compute.cancel("2.25.1234567890")

    error = running.exception(timeout=10)

    assert isinstance(error, PerformError)
    assert error.code == "canceled"
    assert compute.perform(make_task(url)).evidence


def test_a_worker_that_takes_long_to_come_back_is_not_given_up(tmp_path: Path, url: str) -> None:
    scratch = tmp_path / "scratch"
    with (
        dask.config.set({"distributed.deploy.lost-worker-timeout": "0.05s"}),
        Compute(ComputeSection(threads=1), scratch=scratch) as compute,
    ):
        os.kill(compute.perform(make_task(url)).pid, signal.SIGKILL)
        time.sleep(0.3)

        assert compute.perform(make_task(url)).evidence


# -- start and end ----------------------------------------------------------------------------------


def test_workers_start_lazily_listen_here_only_and_end_with_close(tmp_path: Path, url: str) -> None:
    before = dict(os.environ), dict(dask.config.config), set(_workers_of(os.getpid()))
    compute = Compute(ComputeSection(threads=1), scratch=tmp_path / "scratch")
    assert set(_workers_of(os.getpid())) == before[2]

    began = time.monotonic()
    compute.start()
    assert time.monotonic() - began < 30  # under one second on a quiet machine
    (worker,) = set(_workers_of(os.getpid())) - before[2]
    listening = [
        connection.laddr
        for process in (psutil.Process(), worker)
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert listening
    assert {address.ip for address in listening} == {"127.0.0.1"}
    assert 8787 not in {address.port for address in listening}
    # Whoever may talk to a Dask scheduler runs code as its user.
    assert all(_refuses_strangers(address.port) for address in listening)
    compute.close()

    assert _is_gone(worker)
    assert dask.config.config == before[1]
    changed = set(os.environ.items()) - set(before[0].items())
    assert changed <= {("PYTHONHASHSEED", "random")}
    with pytest.raises(PerformError, match="stopping"):
        compute.perform(make_task(url))


def test_close_does_not_wait_for_a_run(tmp_path: Path, url: str) -> None:
    compute = Compute(ComputeSection(threads=1), scratch=tmp_path / "scratch")
    compute.start()
    running = _in_background(compute, tmp_path / "scratch", url)
    began = time.monotonic()
    compute.close()

    assert time.monotonic() - began < 30
    error = running.exception(timeout=1)
    assert isinstance(error, PerformError)
    assert error.code == "canceled"


_NODE = """
import pickle, sys, threading
from pathlib import Path
from node.compute import Compute
from node.config import ComputeSection

if __name__ == "__main__":
    task, scratch = pickle.load(open(sys.argv[1], "rb"))
    compute = Compute(ComputeSection(threads=1), scratch=scratch)
    compute.start()
    print("started", flush=True)
    compute.perform(task)
"""


@pytest.mark.parametrize("pipeline", ["sleeper", "hangs"])
def test_no_worker_survives_the_node(tmp_path: Path, url: str, pipeline: str) -> None:
    """`hangs` holds the GIL: no thread of the worker can notice that the node is dead."""
    script, arguments, scratch = tmp_path / "serve.py", tmp_path / "task", tmp_path / "scratch"
    script.write_text(_NODE, encoding="utf-8")
    mark = worker_folder(scratch, "cpu") / "mark"
    task = make_task(url, pipeline, parameters={"mark": str(mark)})
    arguments.write_bytes(pickle.dumps((task, scratch)))
    with subprocess.Popen(
        [sys.executable, script, arguments],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as node:
        assert node.stdout is not None
        assert node.stdout.readline() == b"started\n"
        _wait_for("the run", mark.exists)
        children = psutil.Process(node.pid).children(recursive=True)
        assert _workers_of(node.pid)
        node.kill()

    _wait_for("the worker's end", lambda: all(map(_is_gone, children)), 5)
    with Compute(ComputeSection(threads=1), scratch=scratch) as again:
        assert again.perform(make_task(url)).evidence


def test_without_a_gpu_the_cpu_is_the_device() -> None:
    if any(Path("/dev").glob("nvidia[0-9]*")):
        pytest.skip("this machine has a GPU")

    assert find_devices(ComputeSection()) == ("cpu",)


def test_devices_that_are_named_are_taken(tmp_path: Path) -> None:
    section = ComputeSection(devices=("cuda:0", "cuda:1"))

    assert find_devices(section) == ("cuda:0", "cuda:1")
    assert Compute(section, scratch=tmp_path).slots == 2


# -- a cluster --------------------------------------------------------------------------------------


@pytest.fixture
def scheduler(tmp_path: Path, free_port: int) -> Iterator[str]:
    """A Dask scheduler and a worker as an administrator starts them."""
    address = f"tcp://127.0.0.1:{free_port}"
    dask_command = [sys.executable, "-m", "dask"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with (tmp_path / "cluster.log").open("wb") as log:
        options = {"stdout": log, "stderr": log, "env": environment, "cwd": tmp_path}
        with (
            subprocess.Popen(
                [
                    *dask_command,
                    "scheduler",
                    "--host",
                    "127.0.0.1",
                    "--port",
                    str(free_port),
                    "--no-dashboard",
                    "--dashboard-address",
                    "127.0.0.1:0",
                ],
                **options,  # type: ignore[call-overload]
            ) as head,
            subprocess.Popen(
                [
                    *dask_command,
                    "worker",
                    address,
                    "--nthreads",
                    "1",
                    "--no-dashboard",
                    "--dashboard-address",
                    "127.0.0.1:0",
                    "--memory-limit",
                    "0",
                ],
                **options,  # type: ignore[call-overload]
            ) as worker,
        ):
            yield address
            worker.kill()
            head.kill()


def test_a_cluster_is_used_and_left_as_it_is(scheduler: str, tmp_path: Path, url: str) -> None:
    section = ComputeSection(scheduler=scheduler)
    with Compute(section, scratch=tmp_path / "scratch") as first:
        one = first.perform(make_task(url, parameters={"threshold_hu": 100.0}))
        assert first.slots == 1
        with pytest.raises(PerformError) as caught:
            first.perform(make_task(url, "hangs"))
        assert caught.value.code == "time-limit"
        with pytest.raises(PerformError) as caught:
            first.perform(make_task(url, "crasher"))
        assert caught.value.code == "worker-died"
        two = first.perform(make_task(url))
    with Compute(section, scratch=tmp_path / "scratch") as second:
        three = second.perform(make_task(url))

    assert one.evidence
    assert one.pid != two.pid == three.pid
    assert one.pid not in {process.pid for process in _workers_of(os.getpid())}


def test_a_scheduler_that_does_not_answer_is_named(
    tmp_path: Path, url: str, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.cluster.CONNECT_S", 0.5)
    address = f"tcp://127.0.0.1:{free_port}"
    with (
        Compute(ComputeSection(scheduler=address), scratch=tmp_path) as compute,
        pytest.raises(PerformError, match=address) as caught,
    ):
        compute.perform(make_task(url))

    assert caught.value.code == "no-cluster"
