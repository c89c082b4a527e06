"""The archive: one file per instance, named by a hash, whole on the disk before anybody hears of it.

A key is `a/b/<sha256>.dcm`, the hash taken over SOP Instance UID and digest: a UID from the network is no file name,
another content under the same UID lies beside the first, and the same content twice is one file. Opened by an
fsspec URL; a worker process opens the same archive by the same URL.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any, BinaryIO, cast

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from storage.draft import Draft, Part, Stages, can_be_nameless, new_digest
from storage.errors import ArchiveError, ArchiveFull

__all__ = ["Archive", "Draft", "is_key", "make_key", "new_digest"]

#: Folder of files that are being written, beside the fan-out folders and so in their file system.
TEMPORARY = "tmp"
#: Folder of files that are put aside: damaged, or named by no row. Nothing is read from it.
ASIDE = "aside"
#: Sixteen by sixteen folders: an empty archive soon has them all, a million files are four thousand a folder.
_FAN_OUT = tuple(itertools.product("0123456789abcdef", repeat=2))
_KEY = re.compile(r"([0-9a-f])/([0-9a-f])/\1\2[0-9a-f]{62}\.dcm")
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}
#: Instances identify patients: others on the machine read nothing.
_FOLDER_MODE = 0o750
#: Stores where a put is seen whole or not at all, and a rename is a copy.
_ATOMIC_PUT = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az"})


class Archive:
    """Files by key, at an fsspec URL or in a local folder.

    Safe to use from several threads and processes at once. Pickles as its URL.
    """

    def __init__(self, url: str) -> None:
        try:
            self._fs, root = url_to_fs(url)
        except (ValueError, ImportError) as error:
            raise ArchiveError(f"Cannot open the archive: {error}") from error
        with explained("open the archive"):
            self._url = url
            self._root = str(root).rstrip("/")
            self._folder = Path(root) if isinstance(self._fs, LocalFileSystem) else None
            #: Folders this process knows to be on the disk, names included.
            self._durable: set[str] = set()
            #: Folders in which files are made without a name, in turn: known after `prepare`.
            self._nameless_in: Iterator[str] | None = None
            self._stages = Stages()
            if self._folder is not None:
                self._ensure_folder(f"{self._folder}/{TEMPORARY}")
            else:
                self._fs.makedirs(f"{self._root}/{TEMPORARY}", exist_ok=True)

    def __reduce__(self) -> tuple[type[Archive], tuple[str]]:
        return Archive, (self._url,)

    def prepare(self) -> None:
        """Make all folders there will be, and the syncs they cost, before anything is received."""
        if self._folder is None:
            return
        with explained("prepare"):
            folders = {self._folder / first / second for first, second in _FAN_OUT}
            for folder in folders:
                folder.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
            for parent in {folder.parent for folder in folders}:
                _sync_folder(parent)
            _sync_folder(self._folder)
            self._durable |= {str(folder) for folder in folders}
            if can_be_nameless(f"{self._folder}/{TEMPORARY}"):
                self._nameless_in = itertools.cycle(sorted(map(str, folders)))

    def write(self, sop_instance_uid: str, digest: str, parts: Iterable[Part]) -> str:
        """Write one instance; when this returns it survives a power cut.

        Parameters
        ----------
        sop_instance_uid, digest
            What the key is made of; `digest` is `new_digest` of the encoded data set.
        parts
            The file's bytes in order, in as many pieces as the caller has them. Not read when the archive holds
            this content already.

        Returns
        -------
        str
            The key, the same for the same UID and digest.

        Raises
        ------
        ArchiveFull
            No space, or no quota, left.
        ArchiveError
            Any other failure of the file system.
        """
        key = make_key(sop_instance_uid, digest)
        if self.exists(key):
            # Its folder is synced again: whoever gave the file its name may have died before.
            with explained("write"):
                self._sync_name(key)
            return key
        with self.draft() as draft:
            with explained("write"):
                draft.write(tuple(parts))
            return self.keep(draft, sop_instance_uid, digest)

    def draft(self, head: Part = b"") -> Draft:
        """A file that is written before it is known what it will be called.

        Parameters
        ----------
        head
            What it begins with and its digest does not count.

        Raises
        ------
        ArchiveFull, ArchiveError
            As `write`. What the draft itself raises is an OSError: `explained` says which of them it is.
        """
        with explained("write"):
            if self._folder is None:
                # A place of our own on this machine; whoever is killed leaves it to the system's cleaning.
                return Draft(f"{gettempdir()}/osteonode-{_temporary_name()}", self._stages, head)
            if self._nameless_in is not None:
                # Its folder may have been removed.
                with suppress(FileNotFoundError):
                    return Draft(next(self._nameless_in), self._stages, head, is_nameless=True)
            path = f"{self._folder}/{TEMPORARY}/{_temporary_name()}"
            try:
                return Draft(path, self._stages, head)
            except FileNotFoundError:
                self._durable.clear()
                self._ensure_folder(f"{self._folder}/{TEMPORARY}")
                return Draft(path, self._stages, head)

    def keep(self, draft: Draft, sop_instance_uid: str, digest: str | None = None) -> str:
        """Give a draft its key; when this returns it survives a power cut.

        Where the archive holds this content already, the draft stays what it is.

        Parameters
        ----------
        digest
            Where it is not the draft's own.

        Raises
        ------
        ArchiveFull, ArchiveError
            As `write`.
        """
        key = make_key(sop_instance_uid, digest or draft.digest)
        with explained("write"):
            if self._folder is None:
                self._put(key, draft)
            else:
                self._name(draft, f"{self._folder}/{key}")
                self._sync_name(key)
        return key

    def open(self, key: str) -> BinaryIO:
        """The file of `key`, for reading bytes."""
        _check(key)
        with explained("read", key):
            if self._folder is not None:
                return (self._folder / key).open("rb")
            return cast(BinaryIO, self._fs.open(f"{self._root}/{key}", "rb"))

    def local_path(self, key: str) -> Path | None:
        """Where the file of `key` lies on this machine; None when the archive is elsewhere."""
        _check(key)
        return None if self._folder is None else self._folder / key

    @contextmanager
    def local_files(self, keys: Sequence[str], *, scratch: Path) -> Iterator[list[Path]]:
        """Paths of files on this machine: the archive's own where it is a folder here, else copies for the time being.

        Raises
        ------
        ArchiveError
            When one is missing.
        """
        if self._folder is not None:
            for key in keys:
                self.size(key)
            yield [self._folder / key for key in keys]
            return
        scratch.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix="archive-", dir=scratch) as folder:
            yield [self._copy(key, Path(folder)) for key in keys]

    def _copy(self, key: str, folder: Path) -> Path:
        path = folder / key.replace("/", "-")
        with self.open(key) as source, explained("read", key), path.open("wb") as target:
            shutil.copyfileobj(source, target)
        return path

    def exists(self, key: str) -> bool:
        """Whether there is a file of `key`."""
        _check(key)
        with explained("read", key):
            if self._folder is not None:
                return os.path.isfile(f"{self._folder}/{key}")
            return bool(self._fs.isfile(f"{self._root}/{key}"))

    def size(self, key: str) -> int:
        """Bytes of the file of `key`."""
        _check(key)
        with explained("read", key):
            if self._folder is not None:
                return os.stat(f"{self._folder}/{key}").st_size
            return int(self._fs.size(f"{self._root}/{key}"))

    def written_at(self, key: str) -> datetime:
        """When the file of `key` was written."""
        _check(key)
        with explained("read", key):
            if self._folder is not None:
                return datetime.fromtimestamp((self._folder / key).stat().st_mtime, UTC)
            return cast(datetime, self._fs.modified(f"{self._root}/{key}")).astimezone(UTC)

    def delete(self, key: str) -> None:
        """Remove the file of `key`; nothing happens when there is none."""
        _check(key)
        with explained("delete", key), suppress(FileNotFoundError):
            if self._folder is not None:
                (self._folder / key).unlink()
            else:
                self._fs.rm_file(f"{self._root}/{key}")

    def set_aside(self, key: str) -> str:
        """Move the file of `key` out of the way, for a person to look at; where it lies then, within the archive."""
        _check(key)
        aside = f"{ASIDE}/{key.rpartition('/')[2]}"
        with explained("set aside", key):
            if self._folder is not None:
                self._ensure_folder(f"{self._folder}/{ASIDE}")
                (self._folder / key).rename(self._folder / aside)
                _sync_folder(self._folder / ASIDE)
            else:
                self._fs.makedirs(f"{self._root}/{ASIDE}", exist_ok=True)
                self._fs.mv(f"{self._root}/{key}", f"{self._root}/{aside}")
        return aside

    def folders(self) -> Sequence[str]:
        """All folders that files lie in, whether they are there or not."""
        return [f"{first}/{second}" for first, second in _FAN_OUT]

    def list_folder(self, folder: str) -> Iterator[tuple[str, float]]:
        """Names (`folder/file`) of what lies in one of `folders`, each with the seconds since it was written last.

        A name that is no key (`is_key`) is not of our making.
        """
        now = time.time()
        with explained("list", folder), suppress(FileNotFoundError):
            for path in sorted(self._fs.ls(f"{self._root}/{folder}", detail=False)):
                with suppress(FileNotFoundError):
                    written_at = self._fs.modified(path).timestamp()
                    yield f"{folder}/{path.rpartition('/')[2]}", now - written_at

    def free_bytes(self) -> int | None:
        """Bytes that may still be written; None where nobody can say (an object store)."""
        if self._folder is None:
            return None
        with explained("ask for free space"):
            return shutil.disk_usage(self._folder).free

    def sweep(self, older_than_s: float) -> int:
        """Remove temporary files that a killed process left, last written more than `older_than_s` ago.

        Returns
        -------
        int
            How many were removed.
        """
        removed = 0
        limit = time.time() - older_than_s
        with explained("sweep"):
            for path, written_at in self._list_temporary():
                if written_at <= limit:
                    # Another process may sweep, or finish the file, at the same moment.
                    with suppress(FileNotFoundError):
                        self._fs.rm_file(path)
                        removed += 1
        return removed

    # -- a local folder --------------------------------------------------------------------------

    def _sync_name(self, key: str) -> None:
        """See the name of a key's file on the disk."""
        if self._folder is not None:
            _sync_folder(f"{self._folder}/{key[:3]}")

    def _name(self, draft: Draft, path: str) -> None:
        draft.sync()
        folder = path.rpartition("/")[0]
        self._ensure_folder(folder)
        try:
            draft.name(path)
        except FileNotFoundError:
            # The folder was removed behind our back.
            self._durable.clear()
            self._ensure_folder(folder)
            draft.name(path)

    def _ensure_folder(self, path: str) -> None:
        """Make a folder, and make sure that its name and its parents' names are on the disk."""
        if path in self._durable:
            return
        folder = Path(path)
        parents = [folder, *folder.parents]
        new = [parent for parent in parents if not parent.exists()]
        for parent in reversed(new):
            parent.mkdir(mode=_FOLDER_MODE, exist_ok=True)
        for parent in reversed(parents):
            # Another process may have made those below the root, and not have synced yet.
            if parent in new or self._folder in parent.parents:
                _sync_folder(parent.parent)
                self._durable.add(str(parent))

    # -- anywhere else -----------------------------------------------------------------------------

    def _put(self, key: str, draft: Draft) -> None:
        path = f"{self._root}/{key}"
        if self._fs.exists(path):
            return
        draft.flush()
        draft.is_kept = True
        if not _ATOMIC_PUT.isdisjoint(_protocols(self._fs)):
            self._fs.put_file(draft.path, path)
            return
        temporary = f"{self._root}/{TEMPORARY}/{_temporary_name()}"
        try:
            self._fs.makedirs(f"{self._root}/{TEMPORARY}", exist_ok=True)
            self._fs.put_file(draft.path, temporary)
            self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
            self._fs.mv(temporary, path)
        except BaseException:
            with suppress(OSError):
                self._fs.rm_file(temporary)
            raise

    def _list_temporary(self) -> Iterator[tuple[str, float]]:
        folder = f"{self._root}/{TEMPORARY}"
        with suppress(FileNotFoundError):
            for path in self._fs.ls(folder, detail=False):
                with suppress(FileNotFoundError):
                    yield path, self._fs.modified(path).timestamp()


def make_key(sop_instance_uid: str, digest: str) -> str:
    """The key of one content under one SOP Instance UID."""
    name = hashlib.sha256(f"{sop_instance_uid}\n{digest}".encode()).hexdigest()
    return f"{name[0]}/{name[1]}/{name}.dcm"


def is_key(name: str) -> bool:
    """Whether this names a file of an archive."""
    return _KEY.fullmatch(name) is not None


def _check(key: str) -> None:
    if not is_key(key):
        raise ArchiveError(f"{key!r} is no key of an archive.")


def _temporary_name() -> str:
    return f"{os.getpid()}-{secrets.token_hex(8)}"


def _sync_folder(folder: str | Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _protocols(fs: Any) -> set[str]:
    return {fs.protocol} if isinstance(fs.protocol, str) else set(fs.protocol)


@contextmanager
def explained(doing: str, key: str = "") -> Iterator[None]:
    """OSError -> ArchiveFull, ArchiveError: for whoever writes a draft, and in here."""
    try:
        yield
    except OSError as error:
        kind = ArchiveFull if error.errno in _NO_SPACE else ArchiveError
        place = f" {key}" if key else ""
        raise kind(f"Cannot {doing}{place}: {error.strerror or error}") from error
