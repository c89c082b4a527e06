"""Does one thing that a pipeline has no business with, as a careless library or a hostile author would."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from pipelines.manifest import SegmentSpec
from pipelines.result import AnalysisResult, LoadContext, Segment, SourceSeries
from storage.model import Parameters


def load(context: LoadContext) -> SegmentSpec:
    """No weights: what is kept is the segment's description."""
    return context.manifest.segments[0]


def run(
    model: SegmentSpec, inputs: Mapping[str, SourceSeries], parameters: Parameters
) -> AnalysisResult:
    """Try `attempt` on `target`; a run like any other when it went through."""
    ATTEMPTS[str(parameters["attempt"])](str(parameters["target"]))
    volume = inputs["ct"].volume
    return AnalysisResult(
        role="ct",
        label_map=volume.with_array(np.zeros(volume.spatial_shape, np.uint8)),
        segments=(Segment(number=1, spec=model, label="Bone"),),
    )


def _connect(port: str) -> None:
    socket.create_connection(("127.0.0.1", int(port)), timeout=5).close()


def _connect_in_thread(port: str) -> None:
    failed: list[BaseException] = []

    def attempt() -> None:
        try:
            _connect(port)
        except OSError as error:
            failed.append(error)

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    for error in failed:
        raise error


def _connect_by_process(port: str) -> None:
    code = f"import socket; socket.create_connection(('127.0.0.1', {port}), timeout=5)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    if b"PermissionError" in done.stderr:
        raise PermissionError
    done.check_returncode()


def _listen(_: str) -> None:
    with socket.create_server(("127.0.0.1", 0)):
        pass


def _append(path: str) -> None:
    with open(path, "ab") as file:
        file.write(b"prowler")


def _move_away(path: str) -> None:
    os.rename(path, f"{path}.gone")


def _link(path: str) -> None:
    os.symlink(path, Path(tempfile.gettempdir()) / "link")


def _signal(pid: str) -> None:
    os.kill(int(pid), 0)


def _read(path: str) -> None:
    Path(path).read_bytes()


def _write_temporary(_: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        first = Path(folder, "first")
        first.write_bytes(b"1")
        Path(folder, "sub").mkdir()
        first.rename(Path(folder, "sub", "second"))


ATTEMPTS: Mapping[str, Callable[[str], None]] = {
    "connect": _connect,
    "connect in a thread": _connect_in_thread,
    "connect by a process": _connect_by_process,
    "listen": _listen,
    "append": _append,
    "truncate": lambda path: os.truncate(path, 0),
    "remove": os.unlink,
    "move away": _move_away,
    "link": _link,
    "signal": _signal,
    "read": _read,
    "write temporary files": _write_temporary,
}
