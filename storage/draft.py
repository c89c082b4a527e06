"""A file that is being written, before the archive has a name for it: bytes go to the disk as they come.

An instance of two gigabytes takes no more memory than one of two kilobytes: what is read of it again, its header, is
read from the file (`reading`), of which only the pages that are looked at are in memory.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import TypeAlias

from blake3 import blake3

Part: TypeAlias = bytes | bytearray | memoryview

#: Instances identify patients: others on the machine read nothing.
_FILE_MODE = 0o640
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_IOV_MAX = os.sysconf("SC_IOV_MAX")


class Draft:
    """A file without a key, and the digest of what is in it; made by `Archive.draft`, kept by `Archive.keeping`.

    Leaves nothing behind when it is not kept: `discard` it, or use it as a context manager. Not safe in threads.

    Parameters
    ----------
    path
        Where it is written.
    head
        What the file begins with and the digest does not count: preamble and file meta information.

    Raises
    ------
    OSError
        Here, and of all that writes.
    """

    def __init__(self, path: str, head: Part = b"") -> None:
        self.path = path
        self._head = head
        self._digest = new_digest()
        self._descriptor = os.open(path, _FLAGS, _FILE_MODE)
        self._has_head = False

    def write(self, parts: Sequence[Part]) -> None:
        """Append."""
        for part in parts:
            self._digest.update(part)
        if not self._has_head:
            # Not before: most files are begun in one system call with what comes next.
            self._has_head = True
            parts = (self._head, *parts)
        _write_all(self._descriptor, parts)

    def flush(self) -> None:
        """See the head in the file where nothing else was written."""
        if not self._has_head:
            self.write(())

    @property
    def digest(self) -> str:
        """`new_digest` of all that was written but the head, in hexadecimal."""
        return self._digest.hexdigest()

    @contextmanager
    def reading(self) -> Iterator[tuple[mmap.mmap, int]]:
        """The file's bytes, and where its head ends; only while it is open."""
        self.flush()
        with mmap.mmap(self._descriptor, 0, access=mmap.ACCESS_READ) as content:
            yield content, len(self._head)

    def sync(self) -> None:
        """See all that was written on the disk."""
        self.flush()
        os.fsync(self._descriptor)

    def discard(self) -> None:
        """Close it, and remove the file where it still has this name."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
            with suppress(OSError):
                os.unlink(self.path)

    def rename(self, path: str) -> None:
        """Give the file its name, and close it."""
        os.rename(self.path, path)
        os.close(self._descriptor)
        self._descriptor = -1

    def __enter__(self) -> Draft:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.discard()


def new_digest() -> blake3:
    """What identifies an encoded data set: `update` it with the bytes, then `hexdigest`.

    BLAKE3 is as hard to forge as SHA-256 and ten times as fast where the processor has no instruction for SHA: hashing
    would be a third of the work of receiving an instance.
    """
    return blake3()


def _write_all(descriptor: int, parts: Sequence[Part]) -> None:
    """Write every byte, in as few system calls as pieces allow."""
    waiting = [part for part in parts if len(part)]
    while waiting:
        now, waiting = waiting[:_IOV_MAX], waiting[_IOV_MAX:]
        written = os.writev(descriptor, now)
        for n, part in enumerate(now):
            if written < len(part):
                waiting = [memoryview(part)[written:], *now[n + 1 :], *waiting]
                break
            written -= len(part)
