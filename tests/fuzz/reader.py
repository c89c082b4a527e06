"""A process that reads files as the node and its workers do; it may die of them. `Readers` talks to it.

A line `<transfer syntax> <path>` in, a line of JSON out: what became of it, and what was written besides.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import resource
import select
import subprocess
import sys
import time
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Reading one small file may take this long, and this much memory in all.
HANG_S = 5.0
_MEMORY = 2 << 30
#: Of which this much may really be used, libraries included.
MOST_MEMORY_MB = 800


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What became of a file."""

    header: str
    series: str
    fault: str = ""
    took_s: float = 0.0
    #: Of the process, at most, since it was started.
    memory_mb: int = 0


class Reader:
    """The process; started again when it dies. A context manager."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Reader:
        self._start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._end()

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "fuzz.reader"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        )
        self._answer(60)

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def read(self, transfer_syntax_uid: str, path: Path) -> Reading:
        """Have it read; a fault when it raises what nobody expects, dies or does not answer."""
        process = self._process
        assert process is not None
        assert process.stdin is not None
        process.stdin.write(f"{transfer_syntax_uid} {path}\n".encode())
        process.stdin.flush()
        started = time.monotonic()
        answer = self._answer(2 * HANG_S)
        if answer is None:
            code = process.poll()
            self._end()
            self._start()
            what = f"hung for {2 * HANG_S:g} s" if code is None else f"died with {code}"
            return Reading(header=what, series=what, fault=f"the reader {what}", took_s=2 * HANG_S)
        fault, memory = str(answer["fault"]), int(answer["memory_mb"])
        took = time.monotonic() - started
        if not fault and took > HANG_S:
            fault = f"took {took:.1f} s"
        if memory > MOST_MEMORY_MB:
            # Its most is for good: another process, so that the next file is not blamed.
            fault = fault or f"the reader took {memory} MB"
            self._end()
            self._start()
        return Reading(
            header=answer["header"], series=answer["series"], fault=fault, took_s=took, memory_mb=memory,
        )  # fmt: skip

    def _answer(self, timeout_s: float) -> dict[str, Any] | None:
        assert self._process is not None
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], timeout_s)
        line = self._process.stdout.readline() if ready else b""
        return json.loads(line) if line.endswith(b"\n") else None


def _demand_decent(refusal: str) -> None:
    assert "QZXJ" not in refusal, "the refusal names the patient"
    assert refusal.isprintable(), "the refusal has control characters"
    assert len(refusal) < 2000, "the refusal is a flood"


def read_header_of(syntax: str, data: bytes) -> str:
    """What the listener makes of a data set: the status of its refusal, or that it was read."""
    from node.errors import ReceiveError
    from node.header import read_header

    try:
        parsed = read_header(syntax, data)
    except ReceiveError as error:
        _demand_decent(str(error))
        return f"0x{error.status:04X}"
    json.dumps({"header": parsed.header, "mentions": sorted(parsed.mentions)}, allow_nan=False)
    return "read"


def _read_series(path: Path) -> str:
    from pipelines.errors import InputError
    from pipelines.series import read_series

    try:
        # Twice the same file: every slice's own checks come before the one for that.
        read_series([path, path])
    except InputError as error:
        _demand_decent(str(error))
        if error.code != "input-duplicate-instance":
            return error.code
    return _decode(path)


def _decode(path: Path) -> str:
    """The pixels, as of one slice of a series that is a volume."""
    from pipelines.enhanced import is_enhanced
    from pipelines.errors import InputError
    from pipelines.pixels import modality_values
    from pipelines.reading import read_file
    from pipelines.reconstruction import is_nuclear
    from pipelines.series import read_series

    ds = read_file(path)
    try:
        if is_enhanced(ds) or is_nuclear(ds):
            read_series([path])
        else:
            modality_values([ds])
    except InputError as error:
        _demand_decent(str(error))
        return error.code
    return "decoded"


class _Heard(logging.Handler):
    """What goes to a log: none of it may name the patient."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


def _examine(syntax: str, path: Path, heard: _Heard) -> dict[str, Any]:
    answer: dict[str, Any] = {"header": "", "series": "", "fault": ""}
    heard.lines.clear()
    try:
        content = path.read_bytes()
        # PS3.10 7.1: the group length of the file meta information ends at byte 144.
        data = content[144 + int.from_bytes(content[140:144], "little") :]
        answer["header"] = read_header_of(syntax, data)
        answer["series"] = _read_series(path)
    except BaseException as error:
        where = traceback.extract_tb(error.__traceback__)
        last = " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in reversed(where[-4:]))
        answer["fault"] = f"{type(error).__name__}: {str(error)[:200]} at {last}"
    if not answer["fault"] and any("QZXJ" in line for line in heard.lines):
        line = next(line for line in heard.lines if "QZXJ" in line)
        answer["fault"] = f"a log line names the patient: {line[:200]}"
    answer["memory_mb"] = _peak_mb()
    return answer


def _peak_mb() -> int:
    # Not `ru_maxrss`: that begins with what the process that started this one had.
    status = Path("/proc/self/status").read_text("ascii", "replace")
    return next(int(x.split()[1]) for x in status.splitlines() if x.startswith("VmHWM:")) // 1024


def main() -> None:
    """Answer until the input ends."""
    import pipelines.series  # noqa: F401
    from node import logs

    logs.configure("warning", "text")
    warnings.simplefilter("always")
    heard = _Heard()
    # As the node has it: what its own handler writes, warnings included.
    root = logging.getLogger()
    for log_filter in root.handlers[0].filters:
        heard.addFilter(log_filter)
    root.handlers[:] = [heard]
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    # Decoders print; this is not for them.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    answers.write("{}\n")
    answers.flush()
    for line in sys.stdin:
        syntax, _, name = line.rstrip("\n").partition(" ")
        with contextlib.suppress(BrokenPipeError):
            answers.write(json.dumps(_examine(syntax, Path(name), heard)) + "\n")
            answers.flush()


if __name__ == "__main__":
    main()
