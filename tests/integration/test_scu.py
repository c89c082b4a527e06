"""What we send, over real associations to a recording peer, to DCMTK and to nobody."""

from __future__ import annotations

import math
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from dicomgen import make_instance, make_series, save, save_all
from nodes import free_port, wait_for
from peer import Pacs
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    UID,
    ComprehensiveSRStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
    SegmentationStorage,
)

from node.errors import DeliveryError
from node.scu import (
    Outcome,
    SendItem,
    SendStatus,
    associate,
    echo,
    presentation_contexts,
    read_item,
    send,
    send_paths,
)
from node.store_scu import StoreScu
from pipelines.evidence.frames import Frames, set_pixel_data
from storage.model import Destination

EXPLICIT_AND_IMPLICIT = (str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian))


def send_to(peer: Pacs, paths: list[Path], timeout_s: float = 10.0) -> list[SendStatus]:
    items = [read_item(path) for path in paths]
    return send(peer.destination, items, calling_ae="OSTEONODE", timeout_s=timeout_s)


def data_of(path: Path) -> bytes:
    length = int.from_bytes(path.read_bytes()[140:144], "little")
    return path.read_bytes()[144 + length :]


@pytest.fixture
def series(tmp_path: Path) -> list[Path]:
    return save_all(make_series(), tmp_path / "series")


def test_a_series_goes_out_byte_for_byte_in_one_association(pacs: Pacs, series: list[Path]) -> None:
    statuses = send_to(pacs, series)
    assert [status.status for status in statuses] == [0x0000] * 4
    assert [status.item.path for status in statuses] == series
    assert {status.outcome for status in statuses} == {Outcome.DELIVERED}
    assert [file.data for file in pacs.files] == [data_of(path) for path in series]
    assert {file.calling_ae for file in pacs.files} == {"OSTEONODE"}
    assert pacs.associations == 1


@pytest.mark.parametrize(
    ("status", "outcome"),
    [(0xA700, Outcome.RETRY), (0xA900, Outcome.PERMANENT), (0xC001, Outcome.PERMANENT),
     (0x0122, Outcome.PERMANENT), (0xB000, Outcome.DELIVERED), (0xB007, Outcome.DELIVERED),
     (0x0111, Outcome.DELIVERED), (0x0110, Outcome.RETRY)],
)  # fmt: skip
def test_each_instance_has_its_own_status(
    pacs: Pacs, series: list[Path], status: int, outcome: Outcome
) -> None:
    pacs.statuses[series[1].stem] = status
    statuses = send_to(pacs, series)
    assert [s.status for s in statuses] == [0, status, 0, 0]
    assert statuses[1].outcome is outcome
    assert f"0x{status:04X}" in statuses[1].message


def test_an_association_that_dies_in_the_middle(pacs: Pacs, series: list[Path]) -> None:
    pacs.abort_after = 2
    statuses = send_to(pacs, series)
    assert [s.status for s in statuses] == [0, 0, None, None]
    assert [s.outcome for s in statuses] == [Outcome.DELIVERED] * 2 + [Outcome.RETRY] * 2
    assert "ended the association" in statuses[2].message
    pacs.abort_after = None
    assert {s.outcome for s in send_to(pacs, series[2:])} == {Outcome.DELIVERED}


def test_nothing_goes_out_before_pynetdicoms_loop_has_left_the_connection(
    pacs: Pacs, series: list[Path]
) -> None:
    """It would take the answer, and the peer be sent the instance once more."""
    item = read_item(series[0])
    is_there, may_look = threading.Event(), threading.Event()
    contexts = presentation_contexts([item])
    with associate(pacs.destination, contexts, "OSTEONODE", 10.0) as assoc:
        look = assoc.dul._is_transport_event

        def look_late() -> bool:
            is_there.set()
            may_look.wait()
            return look()

        assoc.dul._is_transport_event = look_late  # type: ignore[method-assign]
        is_there.wait()
        sender = StoreScu(assoc)
        with ThreadPoolExecutor(1) as pool:
            context = assoc.accepted_contexts[0]
            sent = pool.submit(sender.store, item.path, context, item.sop_instance_uid, wait_s=5.0)
            time.sleep(0.3)
            held_back = not pacs.files
            may_look.set()
            assert sent.result() == 0x0000
        assert held_back


def test_a_slow_peer_is_given_up(pacs: Pacs, series: list[Path]) -> None:
    pacs.delay_s = 3.0
    began = time.monotonic()
    statuses = send_to(pacs, series, timeout_s=0.5)
    assert time.monotonic() - began < 4 * pacs.delay_s
    assert [s.status for s in statuses] == [None] * 4
    assert {s.outcome for s in statuses} == {Outcome.RETRY}


@contextmanager
def link(peer: Pacs, *, bytes_per_s: float, stops_after: float = math.inf) -> Iterator[Destination]:
    """A way to the peer that carries so much, and then nothing more."""
    opened: list[socket.socket] = []

    def carry(source: socket.socket, to: socket.socket, rate: float) -> None:
        carried = 0
        with suppress(OSError):
            while carried < stops_after and (piece := source.recv(65536)):
                to.sendall(piece)
                carried += len(piece)
                time.sleep(len(piece) / rate)

    def serve() -> None:
        with suppress(OSError):
            ours, _ = server.accept()
            theirs = socket.create_connection(("127.0.0.1", peer.port))
            opened.extend((ours, theirs))
            for ends in ((ours, theirs, bytes_per_s), (theirs, ours, math.inf)):
                threading.Thread(target=carry, args=ends, daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=serve, daemon=True).start()
        called = peer.destination.called_ae
        port = server.getsockname()[1]
        yield Destination(name="SLOW", host="127.0.0.1", port=port, called_ae=called)
    for connection in opened:
        connection.close()


@pytest.fixture
def large(tmp_path: Path) -> SendItem:
    """More than the buffers of two sockets hold."""
    ds = make_instance()
    ds.Rows = ds.Columns = 2000
    ds.NumberOfFrames = 4
    ds.PixelData = bytes(2000 * 2000 * 2 * 4)
    return read_item(save(ds, tmp_path / "large"))


def test_a_slow_link_is_no_slow_peer(pacs: Pacs, large: SendItem) -> None:
    with link(pacs, bytes_per_s=16e6) as destination:
        (status,) = send(destination, [large], calling_ae="OSTEONODE", timeout_s=0.5)
    assert status.outcome is Outcome.DELIVERED, status.message


def test_a_peer_that_stops_reading_is_given_up(pacs: Pacs, large: SendItem) -> None:
    began = time.monotonic()
    with link(pacs, bytes_per_s=1e9, stops_after=1e6) as destination:
        (status,) = send(destination, [large], calling_ae="OSTEONODE", timeout_s=1)
    assert status.outcome is Outcome.RETRY
    assert time.monotonic() - began < 10


def test_a_dead_peer_and_one_that_comes_back(series: list[Path]) -> None:
    peer = Pacs(port=free_port())
    statuses = send_to(peer, series)
    assert {(s.status, s.outcome) for s in statuses} == {(None, Outcome.RETRY)}
    assert "cannot be reached" in statuses[0].message
    with peer:
        assert {s.outcome for s in send_to(peer, series)} == {Outcome.DELIVERED}
    assert {s.outcome for s in send_to(peer, series)} == {Outcome.RETRY}


def test_a_peer_that_does_not_know_us_rejects_with_a_reason(pacs: Pacs, series: list[Path]) -> None:
    wrong = Destination(name="PACS", host="127.0.0.1", port=pacs.port, called_ae="OTHER")
    statuses = send(wrong, [read_item(series[0])], calling_ae="OSTEONODE", timeout_s=5)
    assert statuses[0].outcome is Outcome.RETRY
    assert "Called AE title not recognised" in statuses[0].message
    with pytest.raises(DeliveryError, match="Called AE title not recognised"):
        echo(wrong, calling_ae="OSTEONODE", timeout_s=5)


def test_a_port_that_answers_nothing(series: list[Path]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        peer = Pacs(port=server.getsockname()[1])
        began = time.monotonic()
        statuses = send_to(peer, series[:1], timeout_s=0.5)
        assert time.monotonic() - began < 5
        assert statuses[0].outcome is Outcome.RETRY
        assert "does not answer" in statuses[0].message


def test_no_such_host(series: list[Path]) -> None:
    nowhere = Destination(name="PACS", host="no.such.host.invalid", port=104, called_ae="PACS")
    statuses = send(nowhere, [read_item(series[0])], calling_ae="OSTEONODE", timeout_s=5)
    assert statuses[0].outcome is Outcome.RETRY
    assert "no such host" in statuses[0].message


def _evidence(sop_class: str, syntax: str, folder: Path) -> Path:
    ds = make_instance(instance=hash((sop_class, syntax)) % 1000)
    ds.SOPClassUID = sop_class
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    return save(ds, folder)


@pytest.mark.parametrize("sop_class", [SegmentationStorage, ComprehensiveSRStorage])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
def test_evidence_goes_to_a_peer_that_takes_implicit_only(
    tmp_path: Path, sop_class: str, syntax: str
) -> None:
    path = _evidence(sop_class, syntax, tmp_path)
    with Pacs(transfer_syntaxes=[str(ImplicitVRLittleEndian)]) as pacs:
        assert send_to(pacs, [path])[0].status == 0x0000
        assert pacs.files[0].transfer_syntax_uid == ImplicitVRLittleEndian
        assert pacs.received[0] == dcmread(path)


def test_deflated_goes_out_deflated_where_taken(pacs: Pacs, tmp_path: Path) -> None:
    path = _evidence(SegmentationStorage, DeflatedExplicitVRLittleEndian, tmp_path)
    assert send_to(pacs, [path])[0].status == 0x0000
    assert pacs.files[0].transfer_syntax_uid == DeflatedExplicitVRLittleEndian
    assert pacs.files[0].data == data_of(path)


def test_a_syntax_the_peer_does_not_take_is_permanent_for_that_one(tmp_path: Path) -> None:
    plain = save(make_instance(), tmp_path)
    compressed = make_instance(instance=2)
    compressed.compress(RLELossless, generate_instance_uid=False)
    packed = save(compressed, tmp_path)
    with Pacs(transfer_syntaxes=EXPLICIT_AND_IMPLICIT) as pacs:
        refused, taken = send_to(pacs, [packed, plain])
        assert (refused.status, refused.outcome) == (None, Outcome.PERMANENT)
        assert "does not accept CT Image Storage in RLE Lossless" in refused.message
        assert taken.outcome is Outcome.DELIVERED


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless])
@pytest.mark.parametrize("taken", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_what_we_compressed_is_decompressed_for_a_peer_that_does_not_take_it(
    tmp_path: Path, syntax: UID, taken: UID
) -> None:
    original = make_instance()
    original.SOPClassUID = SegmentationStorage
    packed = deepcopy(original)
    packed.file_meta = FileMetaDataset()
    packed.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    packed.compress(syntax, generate_instance_uid=False)
    item = replace(read_item(save(packed, tmp_path)), may_decompress=True)
    with Pacs(transfer_syntaxes=[str(taken)]) as pacs:
        (status,) = send(pacs.destination, [item], calling_ae="OSTEONODE", timeout_s=5)
        assert status.status == 0x0000, status.message
        assert pacs.files[0].transfer_syntax_uid == taken
        (received,) = pacs.received
    assert received.SOPInstanceUID == original.SOPInstanceUID
    assert (received.pixel_array == original.pixel_array).all()
    with Pacs() as pacs:
        send(pacs.destination, [item], calling_ae="OSTEONODE", timeout_s=5)
        assert pacs.files[0].transfer_syntax_uid == syntax


def test_a_binary_seg_in_rle_is_packed_into_bits_again(tmp_path: Path) -> None:
    """Three frames of 5 x 7 pixels: no frame ends on a byte."""
    ds = make_instance()
    ds.SOPClassUID = SegmentationStorage
    ds.Rows, ds.Columns, ds.NumberOfFrames = 5, 7, 3
    ds.BitsAllocated = ds.BitsStored = 1
    ds.HighBit = ds.PixelRepresentation = 0
    frames = np.random.default_rng(1).integers(0, 2, (3, 5, 7), dtype=np.uint8)
    ones = np.ones(3, dtype=np.uint8)
    stored = Frames(labels=frames, slices=np.arange(3), segments=ones, table=ones[:0])
    set_pixel_data(ds, stored, RLELossless)
    item = replace(read_item(save(ds, tmp_path)), may_decompress=True)
    with Pacs(transfer_syntaxes=EXPLICIT_AND_IMPLICIT) as pacs:
        (status,) = send(pacs.destination, [item], calling_ae="OSTEONODE", timeout_s=5)
        assert status.status == 0x0000, status.message
        (received,) = pacs.received
    assert len(received.PixelData) == 14
    assert (received.pixel_array == frames).all()


def test_a_peer_that_takes_nothing_of_a_batch_is_permanent_too(tmp_path: Path) -> None:
    compressed = make_instance()
    compressed.compress(RLELossless, generate_instance_uid=False)
    with Pacs(transfer_syntaxes=EXPLICIT_AND_IMPLICIT) as pacs:
        (refused,) = send_to(pacs, [save(compressed, tmp_path)])
    assert refused.outcome is Outcome.PERMANENT
    assert "does not accept CT Image Storage in RLE Lossless" in refused.message


def test_a_file_that_cannot_be_read_now_is_tried_again_and_holds_up_no_other(
    pacs: Pacs, series: list[Path]
) -> None:
    items = [read_item(path) for path in series]
    series[0].unlink()
    statuses = send(pacs.destination, items, calling_ae="OSTEONODE", timeout_s=5)
    assert [s.outcome for s in statuses] == [Outcome.RETRY] + [Outcome.DELIVERED] * 3


def test_more_kinds_than_presentation_contexts(pacs: Pacs, tmp_path: Path) -> None:
    classes = [f"1.2.840.10008.5.1.4.1.1.{end}" for end in ("2", "4", "7", "66.4", "128", "20")]
    syntaxes = [ExplicitVRLittleEndian, JPEG2000Lossless, *(f"1.2.3.{n}" for n in range(12))]
    path = save(make_instance(), tmp_path)
    items = [
        SendItem(path=path, sop_class_uid=sop_class, sop_instance_uid=f"1.2.{a}.{b}",
                 transfer_syntax_uid=str(syntax))
        for a, sop_class in enumerate(classes)
        for b, syntax in enumerate(syntaxes)
    ]  # fmt: skip
    statuses = send(pacs.destination, items, calling_ae="OSTEONODE", timeout_s=5)
    assert [s.item for s in statuses] == items
    assert pacs.associations == 2


def test_echo(pacs: Pacs) -> None:
    assert 0 < echo(pacs.destination, calling_ae="OSTEONODE", timeout_s=5) < 5
    pacs.stop()
    with pytest.raises(DeliveryError, match="cannot be reached"):
        echo(pacs.destination, calling_ae="OSTEONODE", timeout_s=5)


def test_folders_are_sent_and_other_files_named(pacs: Pacs, tmp_path: Path) -> None:
    paths = save_all(make_series(), tmp_path / "in" / "deep")
    (tmp_path / "in" / "notes.txt").write_text("no DICOM")
    directory = Dataset()
    directory.file_meta = FileMetaDataset()
    directory.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    directory.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    directory.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    directory.save_as(tmp_path / "in" / "DICOMDIR", enforce_file_format=True)
    progress = list(
        send_paths(pacs.destination, [tmp_path / "in"], calling_ae="SENDER", timeout_s=5)
    )
    assert {step.total for step in progress} == {6}
    skipped = {step.path.name: step.skipped for step in progress if step.skipped}
    assert skipped.keys() == {"notes.txt", "DICOMDIR"}
    assert "no DICM prefix" in skipped["notes.txt"]
    assert "DICOMDIR" in skipped["DICOMDIR"]
    assert sorted(step.path for step in progress if step.status) == sorted(paths)
    assert len(pacs.files) == 4


def test_a_path_that_is_not_there_is_named(pacs: Pacs, tmp_path: Path) -> None:
    (step,) = send_paths(pacs.destination, [tmp_path / "no"], calling_ae="SENDER", timeout_s=5)
    assert "cannot be read" in step.skipped


def test_a_file_with_a_spoilt_header_ends_nothing(
    pacs: Pacs, series: list[Path], tmp_path: Path
) -> None:
    spoilt = tmp_path / "spoilt.dcm"
    # (0002,0000) of three bytes: no UL has that length.
    spoilt.write_bytes(bytes(128) + b"DICM\x02\x00\x00\x00UL\x03\x00abc\x00")
    progress = list(
        send_paths(pacs.destination, [spoilt, *series], calling_ae="SENDER", timeout_s=5)
    )
    assert [step.path for step in progress if step.skipped] == [spoilt]
    assert len(pacs.files) == len(series)


@pytest.fixture
def storescp(tmp_path: Path) -> Iterator[tuple[Destination, Path]]:
    """DCMTK's receiver, and the folder it fills."""
    port, folder = free_port(), tmp_path / "storescp"
    folder.mkdir()
    process = subprocess.Popen(["/usr/bin/storescp", "-od", str(folder), "+xa", str(port)])
    destination = Destination(name="DCMTK", host="127.0.0.1", port=port, called_ae="DCMTK")

    def answers() -> bool:
        with socket.socket() as connection:
            return connection.connect_ex(("127.0.0.1", port)) == 0

    wait_for("storescp", answers, 10)
    yield destination, folder
    process.terminate()
    process.wait(10)


@pytest.mark.peer("dcmtk")
def test_dcmtk_receives(storescp: tuple[Destination, Path], series: list[Path]) -> None:
    destination, folder = storescp
    items = [read_item(path) for path in series]
    statuses = send(destination, items, calling_ae="OSTEONODE", timeout_s=10)
    assert [s.status for s in statuses] == [0x0000] * 4
    received = {str(ds.SOPInstanceUID): ds for ds in map(dcmread, folder.iterdir())}
    assert received == {path.stem: dcmread(path) for path in series}


def test_an_answer_is_not_taken_for_a_request(pacs: Pacs, tmp_path: Path) -> None:
    """On a busy machine every thread of pynetdicom may be stopped anywhere: here, both at the worst place."""
    path = save(make_instance(), tmp_path)
    contexts = presentation_contexts([read_item(path)])
    with associate(pacs.destination, contexts, calling_ae="OSTEONODE", timeout_s=3.0) as assoc:
        passes, takes = assoc._reactor_checkpoint.wait, assoc.dimse.get_msg

        def passes_late(timeout: float | None = None) -> bool:
            passed = passes(timeout)
            time.sleep(0.3)
            return passed

        def takes_late(block: bool = False) -> object:
            if block:
                time.sleep(0.6)
            return takes(block)

        assoc._reactor_checkpoint.wait = passes_late  # type: ignore[method-assign]
        assoc.dimse.get_msg = takes_late  # type: ignore[assignment,method-assign]
        time.sleep(0.5)
        for _ in range(2):
            assert assoc.send_c_store(path).get("Status") == 0x0000
