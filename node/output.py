"""What worker processes print: passed on line by line, and no more of it than a log can bear.

A pipeline may print all it likes, and in a loop that went wrong it does: straight to the node's standard error, that
is a disk full of log. Workers write into a pipe (a FIFO, because a worker that comes again must find it), which a
thread of the node's reads whatever becomes of the lines: nobody waits at it.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog

_NAME = "worker-output"
#: Bytes that are passed on in each `WINDOW_S`.
BUDGET = 100_000
WINDOW_S = 60.0
_LOOK_S = 0.5
_PIECE = 1 << 16

log = structlog.get_logger(__name__)


def redirect(path: str) -> None:
    """In a worker: standard output and error of this process, and of what it starts, go to the pipe."""
    # A file system without pipes, or nobody at the other end: they stay what they were.
    with suppress(OSError):
        # Or this would wait until somebody reads; what is written shall wait.
        file = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        os.set_blocking(file, True)
        os.dup2(file, 1)
        os.dup2(file, 2)
        os.close(file)


class Output:
    """The node's end of the pipe; a context manager.

    Parameters
    ----------
    folder
        Where the pipe gets its name.
    elapsed
        Seconds since some moment.
    """

    def __init__(self, folder: Path, *, elapsed: Callable[[], float] = time.monotonic) -> None:
        self.path = str(folder / _NAME)
        self._budget = Budget(elapsed)
        self._stopped = threading.Event()
        self._file = -1
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            Path(self.path).unlink(missing_ok=True)
            os.mkfifo(self.path, 0o600)
            # For writing as well: else it would be at its end whenever no worker is there.
            self._file = os.open(self.path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._thread = threading.Thread(target=self._read, name="worker-output", daemon=True)

    def __enter__(self) -> Self:
        if self._file >= 0:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stopped.set()
        if self._file >= 0:
            self._thread.join()
            os.close(self._file)
        with suppress(OSError):
            Path(self.path).unlink(missing_ok=True)

    def _read(self) -> None:
        rest = b""
        # Not `select`, which knows no descriptor above 1023.
        poll = select.poll()
        poll.register(self._file, select.POLLIN)
        while not self._stopped.is_set():
            if dropped := self._budget.renew():
                log.warning("worker_output_dropped", bytes=dropped)
            if not poll.poll(_LOOK_S * 1000):
                continue
            *lines, rest = (rest + os.read(self._file, _PIECE)).split(b"\n")
            for line in lines:
                self._pass_on(line)
            if len(rest) >= _PIECE:
                # A line without an end: the log would cut it anyway.
                self._pass_on(rest)
                rest = b""

    def _pass_on(self, line: bytes) -> None:
        if line.strip() and self._budget.take(len(line) + 1):
            log.info("worker_output", line=line.decode(errors="replace"))


class Budget:
    """So many bytes in each window, and a count of what was beyond."""

    def __init__(self, elapsed: Callable[[], float]) -> None:
        self._elapsed = elapsed
        self._since = elapsed()
        self._taken = self._dropped = 0

    def take(self, count: int) -> bool:
        """Whether so many bytes may pass."""
        if self._taken + count > BUDGET:
            self._dropped += count
            return False
        self._taken += count
        return True

    def renew(self) -> int:
        """Begin a window when the one before is over; the bytes that were dropped in that."""
        if self._elapsed() - self._since < WINDOW_S:
            return 0
        self._since = self._elapsed()
        dropped, self._taken, self._dropped = self._dropped, 0, 0
        return dropped
