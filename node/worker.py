"""What happens in a worker process: files in, evidence out.

A task carries plain values and its outcome too: the worker sees neither the index nor the configuration. Pipelines stay
loaded in `WorkerSetup`, one object per worker process, keyed by their folder and what lies in it.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import logging
import os
import shutil
import signal
import time
import traceback
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, ClassVar, cast

from distributed import get_worker
from distributed.diagnostics.plugin import WorkerPlugin

from node.confined import ConfinedWorker
from node.confinement import stop_listening
from node.filing import OUTBOX, file_evidence, local_inputs
from node.logs import quiet_dicom_libraries
from node.output import redirect
from pipelines.errors import PipelineError
from pipelines.evidence.profile import Profile
from pipelines.evidence.request import Installation
from pipelines.manifest import MANIFEST_NAME, read_manifest
from pipelines.performing import PerformRequest, choose_device, perform, refuse
from pipelines.registry import MODULE_NAME, LoadedPipeline, load_pipeline, read_entry
from storage.archive import Archive
from storage.errors import ArchiveError
from storage.model import Evidence, Finding, MeasurementRow, Parameters, Prior

#: Pipelines kept loaded in one worker; the one used longest ago goes.
LOADED_AT_MOST = 6
#: Of the machine as it is now, and not of the task: no descriptor, no room, a file system that is away.
_PASSING = {
    *(errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN),
    *(errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE),
}
#: linux/prctl.h
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PerformTask:
    """One workitem, as plain values."""

    workitem_uid: str
    study_instance_uid: str
    pipeline_folder: Path
    #: Role -> archive keys of its instances.
    inputs: Mapping[str, tuple[str, ...]]
    #: The same as files, where the node has them at hand: then the worker opens no archive, and leaves evidence in its
    #: own folder, for the node to file.
    files: Mapping[str, tuple[Path, ...]] | None = None
    #: A rule's overrides, or all: the manifest's defaults are merged in.
    parameters: Parameters
    #: When the analysis that counts started: Content Date and Time of its evidence.
    started_at: datetime
    archive_url: str
    installation: Installation
    #: Name -> which evidence its destinations want.
    profiles: Mapping[str, Profile]
    #: Segment Label -> Tracking UID of the same structure in a study before.
    known_findings: Mapping[str, str] = field(default_factory=dict)
    #: Evidence that this result replaces: its reports name those of it that they follow.
    replaced: tuple[Evidence, ...] = ()
    #: The workitem that the result as a whole is tracked by: the first of its line; itself when empty.
    tracked_as: str = ""
    #: What did not come of its inputs, which are analysed all the same: code, sentence.
    lacks: tuple[tuple[str, str], ...] = ()
    #: What its result is compared with.
    prior: Prior | None = None
    #: Code, sentence: the run is over, and the report that says so is wanted in place of a result.
    refusal: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PerformOutcome:
    """What a run made; the evidence is in the archive."""

    evidence: tuple[Evidence, ...]
    #: The worker's own archive that it is in, until the node has filed it.
    outbox: Path | None = None
    measurements: tuple[MeasurementRow, ...] = ()
    findings: tuple[Finding, ...] = ()
    #: Code, sentence.
    notices: tuple[tuple[str, str], ...] = ()
    #: Seconds per step: start (import, weights), load, infer, encode, archive.
    timings: Mapping[str, float] = field(default_factory=dict)
    #: Process that ran it.
    pid: int


def run_task(task: PerformTask) -> PerformOutcome | Exception:
    """Run one workitem in this worker process; what `Compute` submits.

    A failure is returned, without its causes: raised, Dask would log and pickle them, and they may hold values of the
    data set and classes that only the pipeline's own module knows.
    """
    setup = cast(WorkerSetup, get_worker().plugins[WorkerSetup.name])
    try:
        return perform_task(task, setup)
    except (PipelineError, ArchiveError, MemoryError) as error:
        error.__cause__ = error.__context__ = None
        return error.with_traceback(None)
    finally:
        # Volumes are freed in large pieces: give them back, so that memory is what a run needs.
        with suppress(AttributeError, OSError):
            ctypes.CDLL(None).malloc_trim(0)


class WorkerSetup(WorkerPlugin):  # type: ignore[misc]
    """A worker process: its device, its loaded pipelines, and how it ends."""

    name: ClassVar[str] = "osteonode"
    #: A second node that connects to the cluster finds it there.
    idempotent = True

    def __init__(self, *, device: str, scratch: Path, output: str = "") -> None:
        self._device = device
        #: The node's pipe for what is printed (`node.output`); empty in a cluster that somebody else runs.
        self._output = output
        self.scratch = scratch
        self._loaded: OrderedDict[str, LoadedPipeline] = OrderedDict()

    def setup(self, worker: Any) -> None:
        """Called by Dask in each worker process, when it listens and has no task yet."""
        if self._output:
            redirect(self._output)
        self.scratch = Path(worker.local_directory)
        if isinstance(worker, ConfinedWorker):
            stop_listening()
        # Ctrl-C is for the node, which ends its workers itself; and a pipeline's own processes end with its worker.
        with suppress(PermissionError):
            os.setsid()
        # When the node dies, a thread of Dask's ends the worker; code that holds the GIL keeps it from running, but
        # not the kernel.
        with suppress(AttributeError, OSError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        # A machine without memory left shall end a run, not the node.
        with suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("800", encoding="ascii")
        logging.getLogger("distributed").setLevel(logging.WARNING)
        quiet_dicom_libraries()

    def load(self, folder: Path) -> LoadedPipeline:
        """The pipeline of a folder, loaded once."""
        key = _content(folder)
        if key not in self._loaded:
            entry = read_entry(folder)
            self._loaded[key] = load_pipeline(entry, choose_device(self._device))
            while len(self._loaded) > LOADED_AT_MOST:
                self._loaded.popitem(last=False)
        self._loaded.move_to_end(key)
        return self._loaded[key]


def perform_task(task: PerformTask, setup: WorkerSetup) -> PerformOutcome:
    """Read from the archive, perform, write evidence to the archive.

    Raises
    ------
    PipelineError
        As `pipelines.performing.perform` does; code `worker-error` for a fault of our own.
    ArchiveError
        When an input cannot be read, or evidence not be written.
    MemoryError
        When the machine or the device has none left.
    """
    try:
        return _perform_task(task, setup)
    except (ArchiveError, MemoryError):
        raise
    except Exception as error:
        if (refused := _refusal_of_the_machine(error)) is not None:
            raise ArchiveError(f"The worker's machine failed: {refused}.") from error
        if isinstance(error, PipelineError):
            raise
        # The top of this process's work: whatever it is must reach the index, or the workitem would never end.
        raise PipelineError(_describe(error), code="worker-error") from error


def _perform_task(task: PerformTask, setup: WorkerSetup) -> PerformOutcome:
    with ExitStack() as stack:
        archive, outbox = stack.enter_context(_open_archive(task, setup))
        request = PerformRequest(
            workitem_uid=task.workitem_uid,
            inputs=task.files
            or stack.enter_context(local_inputs(archive, task.inputs, scratch=setup.scratch)),
            parameters=task.parameters,
            started_at=task.started_at,
            installation=task.installation,
            profiles=task.profiles,
            known_findings=task.known_findings,
            replaced=task.replaced,
            tracked_as=task.tracked_as,
            lacks=task.lacks,
            prior=task.prior,
        )
        if task.refusal is not None:
            report = refuse(read_manifest(task.pipeline_folder), request, *task.refusal)
            return PerformOutcome(
                evidence=(file_evidence(archive, report, workitem_uid=task.workitem_uid),),
                outbox=outbox,
                pid=os.getpid(),
            )
        began = time.perf_counter()
        loaded = setup.load(task.pipeline_folder)
        start_s = time.perf_counter() - began
        performed = perform(loaded, request)
        began = time.perf_counter()
        evidence = tuple(
            file_evidence(archive, item, workitem_uid=task.workitem_uid)
            for item in performed.evidence
        )
    return PerformOutcome(
        evidence=evidence,
        outbox=outbox,
        measurements=performed.measurements,
        findings=performed.findings,
        notices=tuple((notice.code, notice.message) for notice in performed.notices),
        timings={
            "start": round(start_s, 3),
            **performed.timings,
            "archive": round(time.perf_counter() - began, 3),
        },
        pid=os.getpid(),
    )


@contextmanager
def _open_archive(task: PerformTask, setup: WorkerSetup) -> Iterator[tuple[Archive, Path | None]]:
    """Where evidence goes: the archive, or one of our own that the node empties; which then goes with a failure."""
    if task.files is None:
        yield Archive(task.archive_url), None
        return
    outbox = Path(mkdtemp(prefix=OUTBOX, dir=setup.scratch))
    try:
        yield Archive(str(outbox)), outbox
    except BaseException:
        shutil.rmtree(outbox, ignore_errors=True)
        raise


def _content(folder: Path) -> str:
    """A key that changes with the pipeline's declaration and code; its weights are named in the declaration."""
    digest = hashlib.sha256(str(folder.resolve()).encode())
    for name in (MANIFEST_NAME, MODULE_NAME):
        with suppress(OSError):  # what is missing is told by reading it
            digest.update((folder / name).read_bytes())
    return digest.hexdigest()


def _refusal_of_the_machine(error: BaseException | None) -> str | None:
    """What the operating system said, where it may say otherwise later; whoever wrapped it took it for an answer."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _PASSING:
            return os.strerror(error.errno)
        error = error.__cause__ or error.__context__
    return None


def _describe(error: Exception) -> str:
    """Type and place; never the text, which may hold a value of the data set."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"The worker failed with {type(error).__name__} at {Path(place.filename).name}:{place.lineno}."
