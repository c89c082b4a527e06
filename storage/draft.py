"""A file that is being written, before the archive has a name for it: bytes go to the disk as they come.

An instance of two gigabytes takes no more memory than one of two kilobytes. Where the file system can, they go around
the page cache (`O_DIRECT`): they are to be on the disk before the sender is answered, so a copy in memory gains
nothing, and pages for it cost more than the disk does.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from collections import deque
from collections.abc import Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TypeAlias

from blake3 import blake3

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

Part: TypeAlias = bytes | bytearray | memoryview

#: Instances identify patients: others on the machine read nothing.
_FILE_MODE = 0o640
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
#: What direct writes begin at, and are a multiple of: no disk has larger blocks.
_BLOCK = 4096
#: Bytes that are written at once: the more, the less it costs; the fewer, the more is written while the rest comes.
_STAGE = 1 << 18
#: Bytes at the beginning of a file that stay in memory: nearly every header.
_BEGINNING = 1 << 16


class Stages:
    """Memory in which bytes gather before they are written, used again and again: safe in threads."""

    def __init__(self) -> None:
        self._free: deque[mmap.mmap] = deque()

    def take(self) -> mmap.mmap:
        """One for a file's time; of whole pages, as direct writes want it."""
        try:
            return self._free.pop()
        except IndexError:
            return mmap.mmap(-1, _STAGE)

    def give(self, stage: mmap.mmap) -> None:
        """It is not used any more."""
        self._free.append(stage)


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

    def __init__(self, path: str, stages: Stages, head: Part = b"") -> None:
        self.path = path
        #: Bytes before what the digest counts, and in all.
        self.start, self.size = len(head), 0
        self._digest = new_digest()
        self._beginning = b""
        self._descriptor, self._is_direct = _create(path)
        self._stages = stages
        self._stage = stages.take()
        self._view = memoryview(self._stage)
        #: Bytes in the stage.
        self._staged = 0
        self._append(memoryview(head))

    def write(self, parts: Sequence[Part]) -> None:
        """Append."""
        for part in parts:
            self._digest.update(part)
            self._append(memoryview(part))

    @property
    def digest(self) -> str:
        """`new_digest` of all that was written but the head, in hexadecimal."""
        return self._digest.hexdigest()

    @property
    def beginning(self) -> bytes:
        """The file's first bytes, as many as are kept in memory."""
        return self._beginning or bytes(self._view[: min(self._staged, _BEGINNING)])

    @contextmanager
    def reading(self) -> Iterator[mmap.mmap]:
        """The file's bytes, of which only the pages that are looked at are in memory; when all is written."""
        self.flush()
        with mmap.mmap(self._descriptor, 0, access=mmap.ACCESS_READ) as content:
            yield content

    def flush(self) -> None:
        """See all that was written in the file; nothing is written after it."""
        if not self._staged:
            return
        self._spill(-(-self._staged // _BLOCK) * _BLOCK)
        os.ftruncate(self._descriptor, self.size)

    def sync(self) -> None:
        """See all that was written on the disk; nothing is written after it."""
        self.flush()
        os.fsync(self._descriptor)

    def rename(self, path: str) -> None:
        """Give the file its name, and close it."""
        os.rename(self.path, path)
        self._close()

    def discard(self) -> None:
        """Close it, and remove the file where it still has this name."""
        if self._descriptor >= 0:
            self._close()
            with suppress(OSError):
                os.unlink(self.path)

    def _append(self, part: memoryview) -> None:
        self.size += len(part)
        while part:
            count = min(len(part), _STAGE - self._staged)
            self._view[self._staged : self._staged + count] = part[:count]
            self._staged += count
            part = part[count:]
            if self._staged == _STAGE:
                self._spill(_STAGE)

    def _spill(self, count: int) -> None:
        """Write so many bytes of the stage, whole blocks."""
        self._beginning = self.beginning
        waiting = self._view[:count]
        while waiting:
            try:
                waiting = waiting[os.write(self._descriptor, waiting) :]
            except OSError as error:
                if error.errno != errno.EINVAL or not self._is_direct:
                    raise
                # It was opened, and cannot after all, or no more after a part was written.
                self._is_direct = False
                flags = fcntl.fcntl(self._descriptor, fcntl.F_GETFL)
                fcntl.fcntl(self._descriptor, fcntl.F_SETFL, flags & ~os.O_DIRECT)
        self._staged = 0

    def _close(self) -> None:
        os.close(self._descriptor)
        self._descriptor = -1
        self._view.release()
        self._stages.give(self._stage)

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


def _create(path: str) -> tuple[int, bool]:
    """A new file, and whether what is written goes around the page cache."""
    try:
        return os.open(path, _FLAGS | os.O_DIRECT, _FILE_MODE), True
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        with suppress(OSError):
            # Some file systems find out when they have made it.
            os.unlink(path)
        return os.open(path, _FLAGS, _FILE_MODE), False
