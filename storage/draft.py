"""A file that is being written, before the archive has a name for it: bytes go to the disk as they come.

An instance of two gigabytes takes no more memory than one of two kilobytes. Where the file system can, they go around
the page cache (`O_DIRECT`): they are to be on the disk before the sender is answered, so a copy in memory gains
nothing, and pages for it cost more than the disk does. And where it can, the file has no name at all until it is whole
(`O_TMPFILE`): what a killed process leaves is gone, and it is made where there is room for it, among its like.
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
_FLAGS = os.O_RDWR | os.O_CLOEXEC
_NEW = os.O_CREAT | os.O_EXCL
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
    """A file without a key, and the digest of what is in it; made by `Archive.draft`, kept by `Archive.keep`.

    Leaves nothing behind when it is not kept: `discard` it, or use it as a context manager. Not safe in threads.

    Parameters
    ----------
    path
        What it is called for the time being; of a nameless one, a folder in the file system of its later name.
    head
        What the file begins with and the digest does not count: preamble and file meta information.

    Raises
    ------
    OSError
        Here, and of all that writes.
    """

    def __init__(
        self, path: str, stages: Stages, head: Part = b"", *, is_nameless: bool = False
    ) -> None:
        self._is_nameless = is_nameless
        #: Bytes before what the digest counts, and in all.
        self.start, self.size = len(head), 0
        #: Whether the archive's file is this one, and no other of the same content.
        self.is_kept = False
        self._digest = new_digest()
        self._beginning = b""
        self.path = path
        self._descriptor, self._is_direct = _open(path, os.O_TMPFILE if is_nameless else _NEW)
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
        blocks = self._staged // _BLOCK * _BLOCK
        if blocks:
            self._spill(blocks)
        if self._staged:
            # What is no whole block goes through the page cache: a page of it.
            self._stop_direct()
            self._spill(self._staged)

    def sync(self) -> None:
        """See all that was written on the disk; nothing is written after it."""
        self.flush()
        os.fsync(self._descriptor)

    def name(self, path: str) -> None:
        """Give the file its name, unless another has it."""
        if self._is_nameless:
            with suppress(FileExistsError):
                # A link to the descriptor's own entry, which is followed (`open(2)`, O_TMPFILE).
                os.link(f"/proc/self/fd/{self._descriptor}", path, src_dir_fd=self._descriptor)
                self.is_kept = True
        elif not os.path.exists(path):
            os.rename(self.path, path)
            self.is_kept = True

    def discard(self) -> None:
        """Close it, and remove the file where it still has this name."""
        if self._descriptor >= 0:
            self._close()
            if not self._is_nameless:
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
        """Write so many bytes of the stage: whole blocks, or all that is left."""
        self._beginning = self.beginning
        waiting = self._view[:count]
        while waiting:
            try:
                waiting = waiting[os.write(self._descriptor, waiting) :]
            except OSError as error:
                if error.errno != errno.EINVAL or not self._is_direct:
                    raise
                # It was opened, and cannot after all, or no more after a part was written.
                self._stop_direct()
        self._staged -= count
        self._view[: self._staged] = self._view[count : count + self._staged]

    def _stop_direct(self) -> None:
        """Write through the page cache from now on."""
        if self._is_direct:
            self._is_direct = False
            # Of what it was opened with, F_SETFL can change nothing else.
            fcntl.fcntl(self._descriptor, fcntl.F_SETFL, 0)

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


def can_be_nameless(folder: str) -> bool:
    """Whether files in there can be made without a name and be given one: tried."""
    with suppress(OSError), Draft(folder, Stages(), b"\0", is_nameless=True) as draft:
        path = f"{folder}/{os.getpid()}-{id(draft)}"
        draft.name(path)
        os.unlink(path)
        return True
    return False


def _open(path: str, kind: int) -> tuple[int, bool]:
    try:
        return os.open(path, _FLAGS | kind | os.O_DIRECT, _FILE_MODE), True
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        if kind == _NEW:
            with suppress(OSError):
                # Some file systems find out when they have made it.
                os.unlink(path)
        return os.open(path, _FLAGS | kind, _FILE_MODE), False
