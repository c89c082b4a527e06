"""The machine under a node, in our hands: a disk that fills, a clock that jumps, file descriptors that run out.

Nothing of the real machine changes: the disk is a small tmpfs, the clock that of the node (clock.c), and the
limit of descriptors the node's.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

_SOURCE = Path(__file__).with_name("clock.c")
_SIZE = 1 << 30


@dataclass(frozen=True, slots=True)
class Disk:
    """A file system of its own at a folder."""

    folder: Path

    def fill(self, left: int) -> None:
        """So many bytes are left, of what was a gigabyte."""
        found = os.statvfs(self.folder)
        self._resize((found.f_blocks - found.f_bfree) * found.f_frsize + left)

    def free(self) -> None:
        """There is room again."""
        self._resize(_SIZE)

    def _resize(self, size: int) -> None:
        # No file takes the room away: none of the machine's memory is used up.
        command = ["mount", "-o", f"remount,size={size}", str(self.folder)]
        subprocess.run(command, check=True, capture_output=True)


@contextmanager
def small_disk(folder: Path) -> Iterator[Disk | str]:
    """A disk mounted at `folder`, or why there cannot be one."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={_SIZE}", "osteonode-chaos", str(folder)]
    if os.geteuid() != 0 or shutil.which("mount") is None:
        yield "mounting needs root"
        return
    mounted = subprocess.run(command, check=False, capture_output=True, text=True)
    if mounted.returncode != 0:
        yield f"mount is not permitted: {mounted.stderr.strip()}"
        return
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@dataclass(frozen=True, slots=True)
class Clock:
    """The time of day in a node's processes; what they measure intervals with goes on, as in a real jump."""

    library: Path
    file: Path

    @property
    def environment(self) -> dict[str, str]:
        """For the node, and inherited by its workers."""
        return {"LD_PRELOAD": str(self.library), "CHAOS_CLOCK": str(self.file)}

    def jump(self, seconds: float) -> None:
        """So far from the real time from now on; back when negative."""
        # In place, for it is mapped.
        with self.file.open("r+b") as file:
            file.write(int(seconds).to_bytes(8, sys.byteorder, signed=True))


def make_clock(folder: Path) -> Clock | str:
    """A clock that can jump, or why there is none."""
    compiler = shutil.which("cc")
    if compiler is None:
        return "no C compiler is installed"
    clock = Clock(folder / "clock.so", folder / "clock")
    command = [compiler, "-O1", "-shared", "-fPIC", "-o", str(clock.library), str(_SOURCE)]
    subprocess.run(command, check=True, capture_output=True)
    clock.file.write_bytes(bytes(8))
    return clock


@contextmanager
def few_descriptors(pid: int, left: int) -> Iterator[None]:
    """A process may open `left` files more, and no further; then as many as before."""
    process = psutil.Process(pid)
    soft, hard = process.rlimit(psutil.RLIMIT_NOFILE)
    process.rlimit(psutil.RLIMIT_NOFILE, (min(soft, process.num_fds() + left), hard))
    try:
        yield
    finally:
        if process.is_running():
            process.rlimit(psutil.RLIMIT_NOFILE, (soft, hard))
