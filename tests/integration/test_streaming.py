"""What comes goes to the disk as it comes: memory, and many senders at once. A real node, a real sender of ours."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from dicomgen import make_instance, save
from nodes import Node
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from node import scu
from node.scu import Outcome, SendItem
from storage.index import instances
from storage.model import Destination

#: Bytes of pixel data, and what the node may grow by while they come.
LARGE = 400 << 20
GROWTH_MB = 40


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(folder=tmp_path / "node")
    made.start()
    yield made
    made.stop()


def destination(node: Node) -> Destination:
    return Destination(name="NODE", host="127.0.0.1", port=node.port, called_ae="OSTEONODE")


def item(path: Path, sop_instance_uid: str) -> SendItem:
    return SendItem(
        path=path,
        sop_class_uid=str(CTImageStorage),
        sop_instance_uid=sop_instance_uid,
        transfer_syntax_uid=str(ExplicitVRLittleEndian),
    )


def save_large(path: Path) -> SendItem:
    """A CT image of so many frames, most of it a hole in its file."""
    ds = make_instance(instance=2)
    ds.NumberOfFrames = LARGE // (ds.Rows * ds.Columns * 2)
    ds.PixelData = b""
    small = save(ds, path)
    header = small.read_bytes()
    # PS3.5 7.1.2: the last element's length, in Explicit VR with four bytes.
    assert header[-12:-4] == b"\xe0\x7f\x10\x00OW\x00\x00"
    with small.open("r+b") as file:
        file.seek(-4, 2)
        file.write(struct.pack("<I", LARGE))
        file.truncate(len(header) + LARGE)
    return item(small, str(ds.SOPInstanceUID))


def peak_mb(pid: int) -> float:
    """The most memory that a process had since it was told to forget it."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))


def test_a_large_instance_takes_no_more_memory_than_a_small_one(node: Node, tmp_path: Path) -> None:
    small = make_instance()
    large = save_large(tmp_path / "large")
    assert node.process is not None
    pid = node.process.pid
    for one in (item(save(small, tmp_path), str(small.SOPInstanceUID)), large):
        # proc(5): 5 sets the peak back to what it has now.
        Path(f"/proc/{pid}/clear_refs").write_text("5")
        before = peak_mb(pid)
        (status,) = scu.send(destination(node), [one], calling_ae="CT1", timeout_s=60)
        assert status.outcome is Outcome.DELIVERED, status.message
        assert peak_mb(pid) - before < GROWTH_MB
    kept = [path.stat().st_size for path in (tmp_path / "node").rglob("*.dcm")]
    assert max(kept) > LARGE


def test_sixty_four_associations_at_once(node: Node, tmp_path: Path) -> None:
    images = [make_instance(instance=number) for number in range(1, 65)]
    items = [item(save(ds, tmp_path / "in"), str(ds.SOPInstanceUID)) for ds in images]
    with ThreadPoolExecutor(len(items)) as pool:
        statuses = pool.map(
            lambda one: scu.send(destination(node), [one], calling_ae="CT1", timeout_s=60), items
        )
        assert {status.outcome for (status,) in statuses} == {Outcome.DELIVERED}
    with node.index() as index:
        held = instances.of_uids(index, [one.sop_instance_uid for one in items])
    assert len(held) == len(items)
