"""Where workitems run: worker processes under Dask, one per device, each with its weights warm.

By default the node starts them itself, on this machine and reachable from it only; `[compute] scheduler` names a
cluster instead. Dask carries the task and brings a dead worker back; what a run may cost is decided here:

    time        longer than the manifest's `limits.time_s`       the worker is killed   PerformError time-limit
    memory      more than `limits.memory_mb` (or `memory_mb`)    the worker is killed   PerformError memory-limit
    death       kill -9, a crash in C, the kernel's OOM killer   -                      PerformError worker-died
    cancel      `Compute.cancel`                                 the worker is killed   PerformError canceled

A killed worker costs that attempt only. Dask retries nothing (its `allowed-failures` is 0): attempts are counted in
the index. A cluster's scheduler that allows failures does no harm: a run whose worker died is given up here, and
evidence has the same UIDs however often it is made.
"""

from __future__ import annotations

import os
import signal
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import dask.config
import psutil
from distributed import Client, Future, KilledWorker, Nanny, SpecCluster

from node.cluster import (
    DASK_SETTINGS,
    connect_to,
    find_devices,
    revive,
    start_workers,
    use_our_logging,
)
from node.config import ComputeSection
from node.errors import PerformError
from node.filing import local_inputs, take_over
from node.output import Output
from node.worker import PerformOutcome, PerformTask, run_task
from pipelines.errors import ManifestError, PipelineError
from pipelines.manifest import LimitsSpec, read_manifest
from storage.archive import Archive
from storage.errors import ArchiveError

__all__ = ["Compute", "PerformOutcome", "PerformTask"]

#: How often a run's time and memory are looked at; a cluster's workers log every look.
WATCH_S = 0.2
WATCH_CLUSTER_S = 1.0
#: How long a task waits while there is no worker at all.
NO_WORKER_S = 60.0
#: How often workers that gave up are started anew while a task waits for one.
REVIVE_S = 2.0
#: How long `close` waits for canceled runs to end.
CLOSE_S = 5.0
WORKER_DIED = "The worker process died: it was killed, ran out of the machine's memory, or crashed in native code."
#: Dask reads this one whenever a worker dies. Its default gives up a nanny whose worker has not registered again 15 s
#: after a death; a second death in between, on a busy machine, would leave the node without workers for good.
_DASK_WHILE_RUNNING: Mapping[str, Any] = {"distributed.deploy.lost-worker-timeout": "52w"}


class Compute:
    """The workers; they start with the first task, and end with `close`."""

    def __init__(self, section: ComputeSection, *, scratch: Path) -> None:
        self._section = section
        self._scratch = scratch
        self._lock = threading.Lock()
        self._cluster: SpecCluster | None = None
        self._client: Client | None = None
        self._settings = ExitStack()
        self._closed = False
        self._running: dict[str, threading.Event] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def slots(self) -> int:
        """How many tasks run at once: one per worker. Connects when a cluster is configured."""
        if self._section.scheduler:
            return max(1, len(self._started().nthreads()))
        return len(find_devices(self._section))

    def start(self) -> None:
        """Start the workers, or connect to the cluster, now and not with the first task.

        Raises
        ------
        PerformError
            Code `no-cluster`, when the scheduler does not answer.
        """
        self._started()

    def perform(self, task: PerformTask) -> PerformOutcome:
        """Run one workitem in a worker; returns when it is done.

        Raises
        ------
        PipelineError
            As raised in the worker: another attempt gives the same answer.
        ArchiveError
            When the worker cannot read an input or write evidence.
        PerformError
            When the run was stopped (table above); another attempt may succeed.
        """
        limits = _limits(task.pipeline_folder)
        if self._section.memory_mb:
            limits = limits.model_copy(update={"memory_mb": self._section.memory_mb})
        # Before anything that takes time: a cancellation is told once.
        cancelled = self._running[task.workitem_uid] = threading.Event()
        try:
            if self._section.scheduler:
                return self._run(task, limits, cancelled)
            return self._run_beside_the_archive(task, limits, cancelled)
        finally:
            # Not `del`: after a jump of the clock, a claim that ran out is held twice for a moment.
            self._running.pop(task.workitem_uid, None)

    def _run(
        self, task: PerformTask, limits: LimitsSpec, cancelled: threading.Event
    ) -> PerformOutcome:
        client = self._started()
        future = client.submit(
            run_task, task, key=f"{task.workitem_uid}-{uuid.uuid4().hex}", pure=False, retries=0
        )
        try:
            _watch(client, future, limits, cancelled)
            return _result(future)
        except PerformError as error:
            if cancelled.is_set():
                # Whatever ended it first: no attempt is lost, and none waits for its turn.
                raise _canceled() from error
            raise
        finally:
            future.release()

    def _run_beside_the_archive(
        self, task: PerformTask, limits: LimitsSpec, cancelled: threading.Event
    ) -> PerformOutcome:
        """Our own workers need no archive, which a pipeline could change: files are laid out for them, and filed."""
        archive = Archive(task.archive_url)
        with local_inputs(archive, task.inputs, scratch=self._scratch) as files:
            outcome = self._run(replace(task, archive_url="", files=files), limits, cancelled)
        if outcome.outbox is None:
            return outcome
        began = time.perf_counter()
        take_over(archive, outcome.evidence, outcome.outbox, scratch=self._scratch)
        timings = dict(outcome.timings)
        if timings:
            timings["archive"] = round(timings["archive"] + time.perf_counter() - began, 3)
        return replace(outcome, outbox=None, timings=timings)

    def cancel(self, workitem_uid: str) -> None:
        """Stop a running workitem by ending its worker; nothing happens when it does not run here."""
        if (cancelled := self._running.get(workitem_uid)) is not None:
            cancelled.set()

    def close(self) -> None:
        """End our workers, whatever they do; leave a cluster as it is. Runs under way end as canceled."""
        with self._lock:
            self._closed = True
            client, self._client = self._client, None
            cluster, self._cluster = self._cluster, None
        for cancelled in list(self._running.values()):
            cancelled.set()
        deadline = time.monotonic() + CLOSE_S
        while self._running and time.monotonic() < deadline:
            time.sleep(0.01)
        if client is not None:
            client.close()
        if cluster is not None:
            cluster.close()
        self._settings.close()

    def _started(self) -> Client:
        with self._lock:
            if self._closed:
                raise PerformError("canceled", "The node is stopping.")
            if self._client is not None and self._client.status == "closed":
                self._client = None  # its scheduler went away: look again
            if self._client is None:
                use_our_logging()
                self._client = self._connect()
            return self._client

    def _connect(self) -> Client:
        if self._section.scheduler:
            return connect_to(self._section.scheduler, self._scratch)
        self._settings.enter_context(dask.config.set(_DASK_WHILE_RUNNING))
        printed = self._settings.enter_context(Output(self._scratch))
        with dask.config.set(DASK_SETTINGS):
            try:
                self._cluster = start_workers(self._section, self._scratch, output=printed.path)
            except RuntimeError as error:
                # Dask's word for a worker that ended before it was there; it has taken the rest down.
                raise PerformError("worker-died", WORKER_DIED) from error
        return Client(self._cluster, set_as_default=False)


def _limits(folder: Path) -> LimitsSpec:
    try:
        return read_manifest(folder).limits
    except ManifestError as error:
        if isinstance(error.__cause__, OSError) and folder.is_dir():
            # The machine's fault, and not what the manifest says: no descriptor left, for one.
            raise PerformError("manifest-unreadable", str(error)) from error
        raise


# -- one run --------------------------------------------------------------------------------------


def _watch(client: Client, future: Future, limits: LimitsSpec, cancelled: threading.Event) -> None:
    """Wait until the run has ended, by itself or by its limits."""
    look_s = WATCH_S if client.cluster is not None else WATCH_CLUSTER_S
    done = threading.Event()
    future.add_done_callback(lambda _: done.set())
    submitted = started = revived = time.monotonic()
    worker = ""
    while not done.wait(look_s):
        now = time.monotonic()
        if cancelled.is_set():
            _stop(client, future, worker or _worker_of(client, future))
            raise _canceled()
        if not worker:
            worker, started = _worker_of(client, future), now
            if not worker and client.cluster is not None and now - revived > REVIVE_S:
                revive(client.cluster)
                revived = now
            if not worker and now - submitted > NO_WORKER_S and not client.nthreads():
                _stop(client, future, worker)
                raise PerformError("no-worker", f"No worker came up within {NO_WORKER_S:g} s.")
        elif worker not in client.nthreads():
            # A scheduler that allows failures would begin anew; attempts are counted in the index.
            _stop(client, future, _worker_of(client, future))
            raise PerformError("worker-died", WORKER_DIED)
        elif now - started > limits.time_s:
            _stop(client, future, worker)
            raise PerformError(
                "time-limit",
                f"The run took longer than the pipeline's {limits.time_s:g} s (limits.time_s) and was stopped.",
            )
        elif (resident := _ask_nanny(client, _resident_mb, worker)) > limits.memory_mb:
            _stop(client, future, worker)
            raise PerformError(
                "memory-limit",
                f"The worker held {resident} MB, more than the limit of {limits.memory_mb} MB (limits.memory_mb of the "
                f"pipeline, [compute] memory_mb), and was stopped.",
            )


def _canceled() -> PerformError:
    return PerformError("canceled", "The run was canceled.")


def _result(future: Future) -> PerformOutcome:
    """What the worker returned, or what it raised, as this tree."""
    if future.status == "finished":
        outcome = future.result()
    elif future.status == "error":
        outcome = future.exception()
    else:  # cancelled or lost: the scheduler is gone
        raise PerformError("no-cluster", f"The scheduler lost the run ({future.status}).")
    match outcome:
        case PerformOutcome():
            return outcome
        case PipelineError() | ArchiveError():
            raise outcome
        case MemoryError():
            raise PerformError("memory-limit", f"The worker ran out of memory: {outcome}.")
        case KilledWorker():
            raise PerformError("worker-died", WORKER_DIED)
        case _:  # of Dask: a worker of another version of this software, for one
            raise PerformError("worker-error", f"The worker failed: {type(outcome).__name__}.")


def _worker_of(client: Client, future: Future) -> str:
    """Address of the worker that has the task, or nothing."""
    for address, keys in client.processing().items():
        if future.key in keys:
            return str(address)
    return ""


def _stop(client: Client, future: Future, worker: str) -> None:
    """End the run: Python cannot end a thread, so its process goes, and its nanny makes another."""
    future.cancel()
    if not worker:
        return
    _ask_nanny(client, _kill, worker)
    # Until the scheduler has noticed, it would send the next task there.
    deadline = time.monotonic() + CLOSE_S
    while worker in client.nthreads() and time.monotonic() < deadline:
        time.sleep(0.01)


def _ask_nanny(client: Client, question: Callable[[Nanny], int], worker: str) -> int:
    """The nanny of a worker answers even when the worker hangs; 0 when there is none (any more)."""
    try:
        answers = client.run(question, workers=[worker], nanny=True, on_error="ignore")
    except (KeyError, OSError):  # the worker has just gone
        return 0
    return next(iter(answers.values()), 0)


def _resident_mb(dask_worker: Nanny) -> int:
    try:
        return int(psutil.Process(dask_worker.pid).memory_info().rss // 1_000_000)
    except psutil.NoSuchProcess:
        return 0


def _kill(dask_worker: Nanny) -> int:
    if (pid := dask_worker.pid) is None:
        return 0
    # The worker leads a session of its own (WorkerSetup): what it started goes with it.
    with suppress(ProcessLookupError):
        if os.getpgid(pid) == pid:
            os.killpg(pid, signal.SIGKILL)
        else:
            os.kill(pid, signal.SIGKILL)
    return int(pid)
