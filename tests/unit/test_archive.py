"""The archive: names, durability, failures; locally and behind fsspec."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry

from storage.archive import TEMPORARY, Archive, make_key, new_digest
from storage.errors import ArchiveError, ArchiveFull

UID = "1.2.826.0.1.3680043.8.498.1"


class AtomicPutFileSystem(MemoryFileSystem):
    """As an object store: known by a protocol whose put is atomic."""

    protocol = ("s3",)


class FullFileSystem(MemoryFileSystem):
    """A store without space."""

    protocol = "full"

    def put_file(self, lpath: str, rpath: str, **kwargs: Any) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))


def digest(content: bytes) -> str:
    return new_digest().update(content).hexdigest()


def files(folder: Path) -> list[Path]:
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


@pytest.fixture(params=["folder", "prepared", "file", "memory", "s3"])
def archive(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Archive]:
    if request.param == "folder":
        yield Archive(str(tmp_path / "archive"))
    elif request.param == "prepared":
        prepared = Archive(str(tmp_path / "archive"))
        prepared.prepare()
        yield prepared
    elif request.param == "file":
        yield Archive(f"file://{tmp_path}/archive")
    elif request.param == "memory":
        yield Archive(f"memory://{tmp_path}/archive")
    else:
        monkeypatch.setitem(_registry, "s3", AtomicPutFileSystem)
        yield Archive(f"s3://bucket{tmp_path}/archive")


def test_written_parts_are_read_back_as_one_file(archive: Archive) -> None:
    parts = [b"ab", bytearray(b"cd"), memoryview(b"efgh")[1:3], b""]
    key = archive.write(UID, digest(b"abcdfg"), parts)
    with archive.open(key) as file:
        assert file.read() == b"abcdfg"
    assert archive.exists(key)
    assert archive.size(key) == 6
    assert UID not in key


def test_same_content_twice_is_one_file_and_another_lies_beside(archive: Archive) -> None:
    first = archive.write(UID, digest(b"first"), [b"first"])
    assert archive.write(UID, digest(b"first"), [b"first"]) == first
    second = archive.write(UID, digest(b"second"), [b"second"])
    assert first != second
    with archive.open(first) as file:
        assert file.read() == b"first"
    with archive.open(second) as file:
        assert file.read() == b"second"


def test_same_content_under_two_uids_is_two_files(archive: Archive) -> None:
    assert archive.write("1.2.3", digest(b"x"), [b"x"]) != archive.write(
        "1.2.4", digest(b"x"), [b"x"]
    )


def test_delete_removes_once_and_then_does_nothing(archive: Archive) -> None:
    key = archive.write(UID, digest(b"x"), [b"x"])
    archive.delete(key)
    archive.delete(key)
    assert not archive.exists(key)


def test_missing_file_is_an_archive_error(archive: Archive) -> None:
    key = make_key(UID, digest(b"never written"))
    with pytest.raises(ArchiveError, match=key):
        archive.open(key)
    with pytest.raises(ArchiveError, match=key):
        archive.size(key)


@pytest.mark.parametrize(
    "key",
    [
        "../../etc/passwd",
        "/etc/passwd",
        "tmp/1-2",
        "",
        "a/b/" + "a" * 64 + ".dcm",
        make_key(UID, "0") + "\n",
        make_key(UID, "0").upper(),
    ],
)
@pytest.mark.parametrize("method", ["open", "local_path", "exists", "size", "delete"])
def test_only_keys_are_taken(archive: Archive, method: str, key: str) -> None:
    with pytest.raises(ArchiveError, match="no key"):
        getattr(archive, method)(key)


def test_another_process_opens_the_same_archive_by_its_url(archive: Archive) -> None:
    key = archive.write(UID, digest(b"x"), [b"x"])
    reopened = pickle.loads(pickle.dumps(archive))  # noqa: S301 - our own
    with reopened.open(key) as file:
        assert file.read() == b"x"


def test_files_are_at_hand_on_this_machine_while_they_are_needed(
    archive: Archive, tmp_path: Path
) -> None:
    keys = [archive.write(UID, digest(content), [content]) for content in (b"one", b"two")]
    with archive.local_files(keys, scratch=tmp_path / "scratch") as paths:
        assert [path.read_bytes() for path in paths] == [b"one", b"two"]
    assert not list(tmp_path.glob("scratch/*"))
    assert all(archive.exists(key) for key in keys)
    missing = make_key(UID, digest(b"never written"))
    with (
        pytest.raises(ArchiveError, match=missing),
        archive.local_files([*keys, missing], scratch=tmp_path / "scratch"),
    ):
        pass
    assert not list(tmp_path.glob("scratch/*"))


def test_a_failing_source_leaves_nothing(archive: Archive) -> None:
    def parts() -> Iterator[bytes]:
        yield b"half"
        raise ConnectionResetError("the peer went away")

    with pytest.raises(ArchiveError, match="went away"):
        archive.write(UID, digest(b"x"), parts())
    assert archive.sweep(0) == 0
    assert not archive.exists(make_key(UID, digest(b"x")))


def test_sweep_removes_stale_temporary_files_only(archive: Archive) -> None:
    key = archive.write(UID, digest(b"x"), [b"x"])
    temporary = f"{archive._root}/{TEMPORARY}/123-abc"
    archive._fs.pipe_file(temporary, b"left by a killed process")
    assert archive.sweep(3600) == 0
    assert archive._fs.exists(temporary)
    time.sleep(0.02)
    assert archive.sweep(0.01) == 1
    assert not archive._fs.exists(temporary)
    assert archive.exists(key)


def test_unknown_protocol_is_an_archive_error() -> None:
    with pytest.raises(ArchiveError, match="nosuch"):
        Archive("nosuch://host/path")


def test_full_remote_store_is_archive_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_registry, "full", FullFileSystem)
    with pytest.raises(ArchiveFull):
        Archive(f"full://{tmp_path}").write(UID, digest(b"x"), [b"x"])


# -- a local folder -------------------------------------------------------------------------------


@pytest.fixture
def local(tmp_path: Path) -> Archive:
    return Archive(str(tmp_path / "archive"))


def test_local_path_is_where_the_file_lies(local: Archive, tmp_path: Path) -> None:
    key = local.write(UID, digest(b"x"), [b"x"])
    assert local.local_path(key) == tmp_path / "archive" / key
    assert files(tmp_path / "archive") == [Path(key)]
    assert Archive("memory://elsewhere").local_path(key) is None


def test_others_on_the_machine_read_nothing(local: Archive, tmp_path: Path) -> None:
    local.write(UID, digest(b"x"), [b"x"])
    for path in (tmp_path / "archive").rglob("*"):
        assert path.stat().st_mode & 0o007 == 0, path


def test_more_parts_than_one_system_call_takes(local: Archive) -> None:
    parts = [bytes([n % 256]) * (n % 7) for n in range(5000)]
    content = b"".join(parts)
    with local.open(local.write(UID, digest(content), iter(parts))) as file:
        assert file.read() == content


def test_a_short_write_is_continued(local: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a direct write as well, which then is none any more: what is left is not aligned."""
    whole = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, part: whole(descriptor, part[:1000]))
    content = bytes(range(256)) * 40
    with local.open(local.write(UID, digest(b"x"), [content[:5000], content[5000:]])) as file:
        assert file.read() == content


@pytest.mark.parametrize(
    ("number", "kind"),
    [(errno.ENOSPC, ArchiveFull), (errno.EDQUOT, ArchiveFull), (errno.EIO, ArchiveError)],
)
@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_failing_disk_is_named_and_leaves_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    kind: type[ArchiveError],
    call: str,
) -> None:
    archive = Archive(str(tmp_path))

    def fail(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(kind, match=os.strerror(number)) as caught:
            archive.write(UID, digest(b"x"), [b"x"])
    assert type(caught.value) is kind
    assert files(tmp_path) == []
    archive.write(UID, digest(b"x"), [b"x"])


def test_file_then_folder_are_synced_before_the_key_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = Archive(str(tmp_path))
    synced: list[tuple[Path, bool]] = []
    key = make_key(UID, digest(b"x"))
    sync = os.fsync

    def record(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        synced.append((path, (tmp_path / key).exists()))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    assert archive.write(UID, digest(b"x"), [b"x"]) == key
    folder = (tmp_path / key).parent
    # The file before it has its name; new folders' names in their parents; the file's name in its folder.
    assert [(path.parent if n == 0 else path, named) for n, (path, named) in enumerate(synced)] == [
        (tmp_path / "tmp", False),
        (tmp_path, False),
        (folder.parent, False),
        (folder, True),
    ]
    synced.clear()
    archive.write(UID, digest(b"x"), [b"x"])
    assert synced == [(folder, True)]


def test_a_prepared_archive_syncs_nothing_but_the_file_and_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = Archive(str(tmp_path))
    archive.prepare()
    archive.prepare()
    assert len(list(tmp_path.glob("?/?"))) == 256
    synced: list[Path] = []
    monkeypatch.setattr(os, "fsync", lambda n: synced.append(Path(f"/proc/self/fd/{n}").readlink()))
    key = archive.write(UID, digest(b"x"), [b"x"])
    assert len(synced) == 2
    assert synced[1] == (tmp_path / key).parent


def test_a_file_has_no_name_before_it_is_whole(tmp_path: Path) -> None:
    archive = Archive(str(tmp_path))
    archive.prepare()
    content = bytes(range(256)) * 3000
    with archive.draft(b"head") as draft:
        draft.write([content[:500_000], content[500_000:]])
        draft.sync()
        assert files(tmp_path) == []
        key = archive.keep(draft, UID)
        assert draft.is_kept
    assert (tmp_path / key).read_bytes() == b"head" + content
    with archive.draft(b"other head") as again:
        again.write([content])
        assert archive.keep(again, UID) == key
        assert not again.is_kept
    assert (tmp_path / key).read_bytes() == b"head" + content
    with archive.draft() as dropped:
        dropped.write([content])
    assert len(files(tmp_path)) == 1


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL])
def test_where_a_file_must_have_a_name_it_has_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """NFS, CIFS and others know no `O_TMPFILE`."""
    real = os.open

    def open_named(path: str, flags: int, *rest: Any, **named: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(number, os.strerror(number))
        return real(path, flags, *rest, **named)

    monkeypatch.setattr(os, "open", open_named)
    archive = Archive(str(tmp_path))
    archive.prepare()
    with archive.draft() as draft:
        draft.write([b"x"])
        assert [path.parent.name for path in files(tmp_path)] == ["tmp"]
        key = archive.keep(draft, UID)
    assert files(tmp_path) == [Path(key)]


def test_folders_removed_behind_our_back_are_made_again(local: Archive, tmp_path: Path) -> None:
    local.prepare()
    shutil.rmtree(tmp_path / "archive")
    key = local.write(UID, digest(b"x"), [b"x"])
    local.delete(key)
    (tmp_path / "archive" / key).parent.rmdir()
    (tmp_path / "archive" / "tmp").rmdir()
    assert local.write(UID, digest(b"x"), [b"x"]) == key
    assert local.exists(key)


def test_threads_writing_the_same_and_different_contents(local: Archive, tmp_path: Path) -> None:
    def write(thread: int) -> None:
        for n in range(20):
            content = str(n).encode()
            local.write(UID, digest(content), [content])
            own = f"{thread} {n}".encode()
            local.write(UID, digest(own), [own])

    _run([lambda thread=thread: write(thread) for thread in range(8)])  # type: ignore[misc]
    assert len(files(tmp_path / "archive")) == 20 + 8 * 20
    assert all(path.suffix == ".dcm" for path in files(tmp_path / "archive"))


def _run(tasks: list[Callable[[], None]]) -> None:
    failures: list[BaseException] = []

    def guarded(task: Callable[[], None]) -> None:
        try:
            task()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(task,)) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
