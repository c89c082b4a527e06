"""A disk that fills up: a small file system of its own, real associations."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from dicomgen import Geometry, make_series
from nodes import free_port
from pynetdicom import AE
from pynetdicom.association import Association

from migrations.commands import upgrade
from node.config import Config
from node.scp import Scp
from storage.archive import Archive
from storage.index import Index, events, instances, open_index

CT = "1.2.840.10008.5.1.4.1.1.2"
MB = 1_000_000


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """16 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    url = f"sqlite:///{tmp_path / 'index.sqlite'}"
    upgrade(url)
    with open_index(url) as opened:
        yield opened


def associate(port: int) -> Association:
    ae = AE("CT1")
    ae.add_requested_context(CT)
    return ae.associate("127.0.0.1", port, ae_title="OSTEONODE")


def fill(folder: Path, left: int) -> None:
    """Leave so many bytes free; what was filled before is taken away."""
    filler = folder / "filler"
    filler.unlink(missing_ok=True)
    disk = os.statvfs(folder)
    filler.write_bytes(bytes(disk.f_bavail * disk.f_frsize - left))
    # An answer of the file system holds for half a second.
    time.sleep(0.6)


@pytest.mark.parametrize("watched", [True, False])
def test_a_disk_that_fills_up(small_disk: Path, index: Index, watched: bool) -> None:
    port = free_port()
    marks = {"low_mb": 6, "full_mb": 3} if watched else {"low_mb": 0, "full_mb": 0}
    config = Config.model_validate(
        {
            "node": {"host": "127.0.0.1", "port": port, "data": str(small_disk)},
            "disk": marks,
        }
    )
    archive = Archive(str(small_disk / "archive"))
    archive.prepare()
    one, two, three, four = make_series(geometry=Geometry(slices=4))
    with Scp(config, archive, index):
        assoc = associate(port)
        assert assoc.send_c_store(one).Status == 0x0000
        if watched:
            fill(small_disk, 5 * MB)
            # Who is there goes on; who comes is asked to come again (PS3.8 Table 9-21).
            assert assoc.send_c_store(two).Status == 0x0000
            refused = associate(port)
            assert refused.is_rejected
            primitive = refused.acceptor.primitive
            assert primitive is not None
            reason = (primitive.result, primitive.result_source, primitive.diagnostic)
            assert reason == (2, 3, 2)
            fill(small_disk, 2 * MB)
        else:
            assert assoc.send_c_store(two).Status == 0x0000
            fill(small_disk, 0)
        assert assoc.send_c_store(three).Status == 0xA700
        fill(small_disk, 12 * MB)
        assert assoc.send_c_store(three).Status == 0x0000
        assoc.release()
        later = associate(port)
        assert later.send_c_store(four).Status == 0x0000
        later.release()
    for ds in (one, two, three, four):
        assert archive.exists(instances.get(index, ds.SOPInstanceUID).archive_key)
    said = [e.kind for e in events.list_events(index) if e.kind.startswith("disk-")]
    assert said == (["disk-low", "disk-full", "disk-enough"] if watched else [])
    if watched:
        (line,) = events.list_events(index, kind="association-rejected")
        assert line.detail["reason"] == "the disk is nearly full"
