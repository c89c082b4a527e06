"""The listener over real associations: pynetdicom's and DCMTK's senders, statuses, statements in the audit log."""

from __future__ import annotations

import os
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import pytest
from dicomgen import Geometry, make_instance, make_series, make_uid, save, save_all
from fuzz import pdus
from nodes import free_port, wait_for
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filereader import read_file_meta_info
from pynetdicom import AE, build_context, build_role
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import encode
from pynetdicom.pdu_primitives import (
    AsynchronousOperationsWindowNegotiation,
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
    MaximumLengthNotification,
    SOPClassExtendedNegotiation,
    UserIdentityNegotiation,
)

from migrations.commands import upgrade
from node.config import Config
from node.scp import Scp, storage_sop_classes, transfer_syntaxes
from storage.archive import Archive, make_key, new_digest
from storage.index import Index, events, instances, open_index, studies
from storage.model import Event

CT = "1.2.840.10008.5.1.4.1.1.2"
VERIFICATION = "1.2.840.10008.1.1"
EXPLICIT = "1.2.840.10008.1.2.1"
PRIVATE = "1.2.840.113619.4.30"


@dataclass(kw_only=True)
class Listener:
    """A running SCP with what it keeps."""

    archive: Archive
    index: Index
    port: int
    stop: Callable[[float], None] = lambda grace_s: None
    news: list[float] = field(default_factory=list)

    def events(self, kind: str) -> tuple[Event, ...]:
        return events.list_events(self.index, kind=kind)

    def content(self, sop_instance_uid: str) -> bytes:
        with self.archive.open(instances.get(self.index, sop_instance_uid).archive_key) as file:
            return file.read()


Start = Callable[..., Listener]


@pytest.fixture(params=[True, False], ids=["streaming", "plain"])
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Start]:
    """Start a listener with these settings of [receive], on either path."""
    running: list[tuple[Scp, Index]] = []

    def start(archive: str | None = None, uid_root: str = "2.25", **receive: object) -> Listener:
        url = f"sqlite:///{tmp_path / 'index.sqlite'}"
        upgrade(url)
        listener = Listener(
            archive=Archive(archive or str(tmp_path / "archive")),
            index=open_index(url),
            port=free_port(),
        )
        config = Config.model_validate(
            {
                "node": {"host": "127.0.0.1", "port": listener.port, "uid_root": uid_root},
                "receive": {"streaming": request.param, **receive},
                # Whatever room this machine has; `test_disk.py` is about it.
                "disk": {"low_mb": 0, "full_mb": 0},
            }
        )
        scp = Scp(
            config,
            listener.archive,
            listener.index,
            on_news=lambda: listener.news.append(time.time()),
        )
        scp.start()
        listener.stop = scp.stop
        running.append((scp, listener.index))
        return listener

    yield start
    for scp, index in running:
        scp.stop()
        index.close()


def associate(
    port: int, *contexts: tuple[str, str], called: str = "OSTEONODE", calling: str = "MODALITY"
) -> Association:
    ae = AE(calling)
    ae.acse_timeout = ae.dimse_timeout = 20
    proposed = [build_context(abstract, syntax) for abstract, syntax in contexts]
    return ae.associate("127.0.0.1", port, contexts=proposed, ae_title=called)


def store_bytes(
    assoc: Association, data: bytes, *, uid: str, sop_class: str = CT, context_id: int = 1
) -> int:
    """C-STORE these very bytes, whatever they are; the status."""
    request = C_STORE()
    request.MessageID = 1
    request.AffectedSOPClassUID = sop_class
    request.AffectedSOPInstanceUID = uid
    request.Priority = 2
    request.DataSet = BytesIO(data) if data else None
    assoc._reactor_checkpoint.clear()
    while not assoc._is_paused:
        time.sleep(0.001)
    assoc.dimse.send_msg(request, context_id)
    _, answer = assoc.dimse.get_msg(block=True)
    assoc._reactor_checkpoint.set()
    assert answer is not None, "no answer"
    return int(answer.Status)


def data_of(path: Path) -> bytes:
    """The encoded data set of a DICOM file."""
    length = int.from_bytes(path.read_bytes()[140:144], "little")
    return path.read_bytes()[144 + length :]


def key_of(uid: str, data: bytes) -> str:
    """Where these bytes of this instance lie in the archive."""
    return make_key(uid, new_digest().update(data).hexdigest())


def send(listener: Listener, ds: Dataset, path: Path) -> int:
    """Send one instance by pynetdicom; the status."""
    data = data_of(save(ds, path))
    assoc = associate(listener.port, (str(ds.SOPClassUID), str(ds.file_meta.TransferSyntaxUID)))
    assert assoc.is_established
    status = store_bytes(assoc, data, uid=ds.SOPInstanceUID, sop_class=ds.SOPClassUID)
    assoc.release()
    return status


# -- what is taken ------------------------------------------------------------------------------


def test_an_instance_is_kept_whole_with_its_origin(start: Start, tmp_path: Path) -> None:
    listener = start()
    ds = make_instance()
    assert send(listener, ds, tmp_path / "in") == 0x0000
    held = instances.get(listener.index, ds.SOPInstanceUID)
    assert held.calling_ae == "MODALITY"
    assert held.called_ae == "OSTEONODE"
    assert held.transfer_syntax_uid == EXPLICIT
    assert held.header["Modality"] == ("CT",)
    assert not held.own
    content = listener.content(ds.SOPInstanceUID)
    assert held.size == len(content)
    assert content.endswith(data_of(tmp_path / "in" / f"{ds.SOPInstanceUID}.dcm"))
    read = dcmread(BytesIO(content))
    assert read.file_meta.SourceApplicationEntityTitle == "MODALITY"
    assert read == ds


def test_the_end_of_an_association_is_news_and_one_line_a_study(
    start: Start, tmp_path: Path
) -> None:
    listener = start()
    assoc = associate(listener.port, (CT, EXPLICIT))
    for study in (1, 2):
        for ds in make_series(study=study):
            path = save(ds, tmp_path)
            assert store_bytes(assoc, data_of(path), uid=ds.SOPInstanceUID) == 0
    assert store_bytes(assoc, b"junk", uid="1.2.3") == 0xC001
    assert listener.news == []
    assoc.release()
    wait_for("the end", lambda: len(listener.events("instances-received")) == 3)
    lines = {line.study_instance_uid: line for line in listener.events("instances-received")}
    assert lines[make_uid(1, 1)].detail["0x0000"] == 4
    assert lines[make_uid(1, 1)].actor == "MODALITY"
    assert lines[make_uid(1, 2)].detail["added"] == 4
    assert lines[None].detail["0xC001"] == 1
    assert lines[None].outcome == "failure"
    assert lines[None].detail["address"] == "127.0.0.1"
    wait_for("the news", lambda: len(listener.news) == 1)


def test_the_same_instance_twice_is_no_news(start: Start, tmp_path: Path) -> None:
    listener = start()
    ds = make_instance()
    for _ in range(2):
        assert send(listener, ds, tmp_path / "in") == 0x0000
    wait_for("both ends", lambda: len(listener.events("instances-received")) == 2)
    assert len(listener.news) == 1
    study = studies.get(listener.index, ds.StudyInstanceUID)
    assert (study.revision, study.instance_count) == (1, 1)


def test_an_aborted_association_keeps_what_was_acknowledged(start: Start, tmp_path: Path) -> None:
    listener = start()
    ds = make_instance()
    assoc = associate(listener.port, (CT, EXPLICIT))
    path = save(ds, tmp_path)
    assert store_bytes(assoc, data_of(path), uid=ds.SOPInstanceUID) == 0
    assoc.abort()
    wait_for("the end", lambda: listener.events("instances-received"))
    assert listener.events("instances-received")[0].detail["ended"] == "aborted"
    assert instances.get(listener.index, ds.SOPInstanceUID)


@pytest.mark.parametrize("end", ["abort", "connection"])
def test_half_an_instance_leaves_nothing(start: Start, tmp_path: Path, end: str) -> None:
    listener = start()
    ds = make_instance()
    data = data_of(save(ds, tmp_path / "in"))
    assoc = associate(listener.port, (CT, EXPLICIT))
    send_fragments(assoc, fragment(3, command_set(0x0001, ds.SOPInstanceUID)))
    send_fragments(assoc, fragment(0, data[:-100]))
    if end == "abort":
        assoc.abort()
    else:
        cast(Any, assoc.dul.socket).socket.shutdown(socket.SHUT_RDWR)
    wait_for("the end", lambda: listener.events("association"))
    assert not list((tmp_path / "archive" / "tmp").iterdir())
    assert not list((tmp_path / "archive").rglob("*.dcm"))


@pytest.mark.parametrize("cut", [1, 5, 6, 7, 12, 13, 4096])
def test_pdus_may_be_cut_anywhere(start: Start, tmp_path: Path, cut: int) -> None:
    """A message in three PDUs, one of them with command and data, written in pieces of so many bytes."""
    listener = start()
    ds = make_instance()
    data = data_of(save(ds, tmp_path / "in"))
    assoc = associate(listener.port, (CT, EXPLICIT))
    request = command_set(0x0001, ds.SOPInstanceUID)
    pdus = (
        [fragment(1, request[:9])],
        [fragment(3, request[9:]), fragment(0, data[:700]), fragment(0, b"")],
        [fragment(0, data[700:]), fragment(2, b"")],
    )
    bodies = [b"".join(pdu) for pdu in pdus]
    written = b"".join(struct.pack(">BxI", 0x04, len(body)) + body for body in bodies)
    connection = cast(Any, assoc.dul.socket).socket
    assoc._reactor_checkpoint.clear()
    wait_for("the loop to stop", lambda: assoc._is_paused)
    for at in range(0, len(written), cut):
        connection.sendall(written[at : at + cut])
    _, answer = assoc.dimse.get_msg(block=True)
    assoc._reactor_checkpoint.set()
    assert cast(Any, answer).Status == 0x0000
    assert listener.content(ds.SOPInstanceUID).endswith(data)
    assoc.release()


def test_every_storage_class_and_every_transfer_syntax_is_accepted(start: Start) -> None:
    listener = start()
    classes = sorted(storage_sop_classes())
    for uid in ("66.4", "66.7", "66.8", "30", "88.34", "481.3", "104.1", "2.1"):
        assert f"1.2.840.10008.5.1.4.1.1.{uid}" in classes
    for first in range(0, len(classes), 100):
        part = classes[first : first + 100]
        assoc = associate(listener.port, *((uid, EXPLICIT) for uid in part))
        assert {context.abstract_syntax for context in assoc.accepted_contexts} == set(part)
        assoc.release()
    syntaxes = sorted(transfer_syntaxes())
    assoc = associate(listener.port, *((CT, syntax) for syntax in syntaxes))
    assert {c.transfer_syntax[0] for c in assoc.accepted_contexts} == set(syntaxes)
    assoc.release()


def test_the_syntax_proposed_first_is_taken(start: Start) -> None:
    listener = start()
    for syntaxes in ([EXPLICIT, "1.2.840.10008.1.2.4.80"], ["1.2.840.10008.1.2.4.80", EXPLICIT]):
        ae = AE("MODALITY")
        context = build_context(CT, syntaxes)
        assoc = ae.associate("127.0.0.1", listener.port, contexts=[context], ae_title="OSTEONODE")
        assert assoc.accepted_contexts[0].transfer_syntax == [syntaxes[0]]
        assoc.release()


def test_extended_negotiation_is_not_answered(start: Start) -> None:
    """As the conformance statement says (7.3, 8): the association is accepted, and the defaults hold."""
    listener = start()
    window = AsynchronousOperationsWindowNegotiation()
    window.maximum_number_operations_invoked = window.maximum_number_operations_performed = 5
    extended = SOPClassExtendedNegotiation()
    extended.sop_class_uid, extended.service_class_application_information = CT, b"\x02"
    identity = UserIdentityNegotiation()
    identity.user_identity_type, identity.primary_field = 1, b"nobody"
    identity.positive_response_requested = True
    ae = AE("MODALITY")
    ae.add_requested_context(CT)
    assoc = ae.associate(
        "127.0.0.1",
        listener.port,
        ae_title="OSTEONODE",
        ext_neg=[window, extended, identity, build_role(CT, scu_role=True, scp_role=True)],
    )
    assert assoc.is_established
    answered = {type(item) for item in cast(Any, assoc.acceptor.primitive).user_information}
    assert answered == {
        MaximumLengthNotification,
        ImplementationClassUIDNotification,
        ImplementationVersionNameNotification,
    }
    assoc.release()


def test_a_private_class_is_accepted_when_configured(start: Start, tmp_path: Path) -> None:
    ds = make_instance()
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = PRIVATE
    listener = start(private_sop_classes=[PRIVATE])
    assert send(listener, ds, tmp_path) == 0
    assert instances.get(listener.index, ds.SOPInstanceUID).sop_class_uid == PRIVATE


def test_several_associations_at_once(start: Start, tmp_path: Path) -> None:
    listener = start()
    statuses: list[int] = []

    def send_series(number: int) -> None:
        assoc = associate(listener.port, (CT, EXPLICIT), calling=f"MODALITY{number}")
        for ds in make_series(series=number):
            path = save(ds, tmp_path / str(number))
            statuses.append(store_bytes(assoc, data_of(path), uid=ds.SOPInstanceUID))
        assoc.release()

    threads = [threading.Thread(target=send_series, args=(n,)) for n in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [0] * 32
    study = studies.get(listener.index, make_uid(1, 1))
    assert (study.instance_count, study.series_count, study.revision) == (32, 8, 32)


def test_evidence_of_a_node_is_marked_as_own(start: Start, tmp_path: Path) -> None:
    listener = start(uid_root="1.2.826.0.1.99")
    by_equipment, by_root, neither = (make_instance(instance=n) for n in (1, 2, 3))
    equipment = Dataset()
    equipment.Manufacturer = "OsteoNode"
    by_equipment.ContributingEquipmentSequence = [equipment]
    by_root.SOPInstanceUID = by_root.file_meta.MediaStorageSOPInstanceUID = "1.2.826.0.1.99.7"
    for ds, own in ((by_equipment, True), (by_root, True), (neither, False)):
        assert send(listener, ds, tmp_path) == 0
        assert instances.get(listener.index, ds.SOPInstanceUID).own is own
    assert studies.get(listener.index, neither.StudyInstanceUID).revision == 1


# -- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "status"),
    [
        (lambda data, ds: b"this is not DICOM at all", 0xC001),
        (lambda data, ds: b"", 0xC000),
        (lambda data, ds: data[:-10], 0xC001),
        (lambda data, ds: data[:400], 0xC001),
        (lambda data, ds: data.replace(b"\x08\x00\x18\x00UI", b"\x08\x00\x19\x00UI"), 0xC002),
        (lambda data, ds: data.replace(ds.SOPInstanceUID[:6].encode(), b"../../"), 0xC003),
        (lambda data, ds: data.replace(CT.encode(), CT[:-1].encode() + b"4"), 0xA900),
    ],
    ids=["text", "empty", "cut pixels", "cut header", "no UID", "path", "other class"],
)  # fmt: skip
def test_a_bad_data_set_is_refused_and_the_association_goes_on(
    start: Start, tmp_path: Path, change: Callable[[bytes, Dataset], bytes], status: int
) -> None:
    listener = start()
    ds = make_instance()
    data = data_of(save(ds, tmp_path / "in"))
    assoc = associate(listener.port, (CT, EXPLICIT))
    assert store_bytes(assoc, change(data, ds), uid=ds.SOPInstanceUID) == status
    assert not list((tmp_path / "archive").rglob("*.dcm"))
    assert store_bytes(assoc, data, uid=ds.SOPInstanceUID) == 0x0000
    assoc.release()


def test_another_instance_than_the_request_names_is_refused(start: Start, tmp_path: Path) -> None:
    listener = start()
    assoc = associate(listener.port, (CT, EXPLICIT))
    data = data_of(save(make_instance(), tmp_path))
    assert store_bytes(assoc, data, uid="1.2.3") == 0xA900
    assoc.release()


def test_a_context_of_another_class_is_refused(start: Start, tmp_path: Path) -> None:
    listener = start()
    ds = make_instance()
    assoc = associate(listener.port, ("1.2.840.10008.5.1.4.1.1.4", EXPLICIT))
    data = data_of(save(ds, tmp_path))
    assert store_bytes(assoc, data, uid=ds.SOPInstanceUID) == 0x0122
    assoc.release()


@pytest.mark.parametrize(
    ("settings", "names", "reason"),
    [
        ({}, {"called": "SOMEBODY"}, "called AE title not recognized"),
        ({"calling_ae": ["CT_ONE"]}, {"calling": "CT_TWO"}, "calling AE title not recognized"),
    ],
)
def test_a_wrong_ae_title_is_rejected_with_its_reason(
    start: Start, settings: dict[str, object], names: dict[str, str], reason: str
) -> None:
    listener = start(**settings)
    assoc = associate(listener.port, (CT, EXPLICIT), **names)
    assert assoc.is_rejected
    rejected = assoc.acceptor.primitive
    assert rejected.diagnostic == (7 if "called" in names else 3)
    wait_for("the line", lambda: listener.events("association-rejected"))
    (line,) = listener.events("association-rejected")
    assert line.detail["reason"] == reason
    assert line.outcome == "failure"


def test_one_association_too_many_is_rejected_for_now(start: Start) -> None:
    listener = start(max_associations=1)
    first = associate(listener.port, (VERIFICATION, EXPLICIT))
    second = associate(listener.port, (VERIFICATION, EXPLICIT))
    assert first.is_established
    assert second.is_rejected
    # PS3.8 Table 9-21: transient, presentation related, local limit exceeded.
    primitive = second.acceptor.primitive
    assert (primitive.result, primitive.result_source, primitive.diagnostic) == (2, 3, 2)
    first.release()


@pytest.mark.parametrize("uid", [PRIVATE, "1.2.840.10008.5.1.4.38.1", "1.2.840.10008.1.3.10"])
def test_an_unknown_class_is_no_context_of_ours(start: Start, uid: str) -> None:
    listener = start()
    assoc = associate(listener.port, (uid, EXPLICIT), (VERIFICATION, EXPLICIT))
    assert [c.abstract_syntax for c in assoc.rejected_contexts] == [uid]
    assert assoc.rejected_contexts[0].result == 0x03
    assert assoc.send_c_echo().Status == 0x0000
    assoc.release()


@pytest.mark.parametrize(
    "junk",
    [b"GET / HTTP/1.1\r\n\r\n", b"\x04\x00\xff\xff\xff\xff", b"\x01\x00\x00\x00\x00\x04junk"],
)
def test_what_is_no_dicom_peer_is_dropped(start: Start, junk: bytes) -> None:
    listener = start()
    with socket.create_connection(("127.0.0.1", listener.port), timeout=10) as connection:
        connection.sendall(junk)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(4096):
            pass
    assoc = associate(listener.port, (VERIFICATION, EXPLICIT))
    assert assoc.send_c_echo().Status == 0x0000
    assoc.release()


def fragment(control: int, value: bytes) -> bytes:
    """One presentation data value of context 1 (PS3.8 Table 9-23)."""
    return struct.pack(">IBB", len(value) + 2, 1, control) + value


def command_set(field: int, uid: str, data_set_type: int = 1) -> bytes:
    """A command set of that Command Field, Message ID 1 (PS3.7 E.1)."""
    ds = Dataset()
    ds.AffectedSOPClassUID, ds.AffectedSOPInstanceUID = CT, uid
    ds.CommandField, ds.MessageID, ds.CommandDataSetType = field, 1, data_set_type
    return bytes(encode(ds, True, True) or b"")


def send_fragments(assoc: Association, *fragments: bytes) -> None:
    """A P-DATA-TF PDU, past pynetdicom."""
    body = b"".join(fragments)
    assert assoc.dul.socket is not None
    assoc.dul.socket.send(struct.pack(">BxI", 0x04, len(body)) + body)


def test_a_request_in_the_middle_of_another_ends_the_association(
    start: Start, tmp_path: Path
) -> None:
    listener = start()
    ds = make_instance()
    data = data_of(save(ds, tmp_path / "in"))
    request = command_set(0x0001, ds.SOPInstanceUID)
    assoc = associate(listener.port, (CT, EXPLICIT))
    send_fragments(assoc, fragment(3, request), fragment(0, data[:-100]))
    send_fragments(assoc, fragment(3, request), fragment(2, data))
    wait_for("the abort", lambda: assoc.is_aborted, 10)
    wait_for("the line", lambda: listener.events("association"))
    assert not list((tmp_path / "archive").rglob("*.dcm")), "two data sets became one"


def test_an_unknown_command_is_answered_with_an_abort(start: Start) -> None:
    listener = start()
    assoc = associate(listener.port, (CT, EXPLICIT))
    send_fragments(assoc, fragment(3, command_set(0x9999, "1.2.3", 0x0101)))
    wait_for("the abort", lambda: assoc.is_aborted, 10)
    wait_for("the line", lambda: listener.events("association"))


def test_a_data_set_without_a_command_ends_the_association(start: Start) -> None:
    """PS3.8 E.1; what nobody asked for was kept for ever."""
    listener = start()
    assoc = associate(listener.port, (CT, EXPLICIT))
    send_fragments(assoc, fragment(0, b"x" * 1000))
    wait_for("the abort", lambda: assoc.is_aborted, 10)
    wait_for("the line", lambda: listener.events("association"))


def test_a_command_set_without_end_ends_the_association(start: Start) -> None:
    listener = start()
    assoc = associate(listener.port, (CT, EXPLICIT))
    for _ in range(8):
        send_fragments(assoc, fragment(1, b"\x00" * 15000))
    wait_for("the abort", lambda: assoc.is_aborted, 10)


def test_a_command_whose_number_has_an_odd_length_ends_the_association(start: Start) -> None:
    """pydicom raises of it in the upper layer's thread, which died."""
    listener = start()
    assoc = associate(listener.port, (VERIFICATION, EXPLICIT))
    encoded = command_set(0x0030, "1.2.3", 0x0101)
    kind = b"\x00\x00\x00\x08\x02\x00\x00\x00\x01\x01"
    assert kind in encoded
    broken = encoded.replace(kind, b"\x00\x00\x00\x08\x01\x00\x00\x00\x01")
    send_fragments(assoc, fragment(3, broken))
    wait_for("the abort", lambda: assoc.is_aborted, 10)
    wait_for("the line", lambda: listener.events("association"))


def test_thousands_of_tiny_fragments_are_one_data_set(start: Start, tmp_path: Path) -> None:
    """Empty ones among them; as views they would cost a hundred times their size."""
    listener = start()
    ds = make_instance()
    data = data_of(save(ds, tmp_path / "in"))
    assoc = associate(listener.port, (CT, EXPLICIT))
    send_fragments(assoc, fragment(3, command_set(0x0001, ds.SOPInstanceUID)))
    tiny = [fragment(0, data[at : at + 1]) + fragment(0, b"") for at in range(len(data))]
    for at in range(0, len(tiny), 500):
        send_fragments(assoc, *tiny[at : at + 500])
    send_fragments(assoc, fragment(2, b""))
    wait_for("the file", lambda: list((tmp_path / "archive").rglob("*.dcm")), 10)
    assoc.release()
    wait_for("the line", lambda: listener.events("instances-received"), 10)
    assert listener.content(ds.SOPInstanceUID).endswith(data)


def even_context(request: bytes) -> bytes:
    """The A-ASSOCIATE-RQ with presentation context ID 2."""
    return request.replace(b"\x01\x00\x00\x00\x30", b"\x02\x00\x00\x00\x30")


def no_transfer_syntax(request: bytes) -> bytes:
    """The A-ASSOCIATE-RQ with a reserved item in place of the transfer syntax."""
    return request.replace(b"\x40\x00\x00\x13", b"\x45\x00\x00\x13")


@pytest.mark.parametrize("change", [even_context, no_transfer_syntax])
def test_a_request_that_is_none_is_answered_with_an_abort(
    start: Start, change: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads of the association died of them, and the connection stayed."""
    listener = start()
    died: list[object] = []
    monkeypatch.setattr(threading, "excepthook", died.append)
    request = pdus.associate_rq([(VERIFICATION, EXPLICIT)])
    assert change(request) != request
    with socket.create_connection(("127.0.0.1", listener.port), timeout=10) as connection:
        connection.sendall(change(request))
        assert connection.recv(4096)[:1] == b"\x07"
    assert not died


def test_an_abort_from_nobody_is_answered_with_an_abort(start: Start) -> None:
    """PS3.8 Table 9-26: there is no source 4; the upper layer's thread died of it."""
    listener = start()
    with socket.create_connection(("127.0.0.1", listener.port), timeout=10) as connection:
        connection.sendall(pdus.associate_rq([(VERIFICATION, EXPLICIT)]))
        assert connection.recv(4096)[:1] == b"\x02"
        connection.sendall(b"\x07\x00\x00\x00\x00\x04\x00\x00\x04\x00")
        assert connection.recv(4096)[:1] == b"\x07"


def test_a_peer_that_does_not_wait_for_the_answer_is_hung_up_on(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PS3.8 Table 9-10, Sta3: the acceptance that comes too late killed the upper layer's thread."""
    listener = start()
    died: list[object] = []
    monkeypatch.setattr(threading, "excepthook", died.append)
    for _ in range(5):
        request = pdus.associate_rq([(VERIFICATION, EXPLICIT)])
        with socket.create_connection(("127.0.0.1", listener.port), timeout=10) as connection:
            connection.sendall(request + pdus.RELEASE_RQ)
            while connection.recv(4096)[:1] not in (b"\x07", b""):
                pass
    wait_for("the lines", lambda: len(listener.events("association")) == 5)
    assert not died


def test_a_silent_peer_is_given_up(start: Start) -> None:
    listener = start(idle_timeout_s=0.5)
    assoc = associate(listener.port, (VERIFICATION, EXPLICIT))
    assert assoc.is_established
    wait_for("the abort", lambda: assoc.is_aborted, 10)
    wait_for("the line", lambda: listener.events("association"))
    assert listener.events("association")[0].outcome == "failure"


def test_a_full_disk_is_out_of_resources_until_there_is_room(start: Start, tmp_path: Path) -> None:
    mount = tmp_path / "small"
    mount.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(mount)],
        check=False, capture_output=True,
    )  # fmt: skip
    if mounted.returncode:
        pytest.skip("cannot mount a small tmpfs here (root with CAP_SYS_ADMIN can)")
    try:
        listener = start(archive=str(mount / "archive"))
        filler = mount / "filler"
        filler.write_bytes(b"x" * 240_000)
        ds = make_instance(geometry=Geometry(rows=128, columns=128))
        assert send(listener, ds, tmp_path / "in") == 0xA700
        assert not instances.of_uids(listener.index, (ds.SOPInstanceUID,))
        filler.unlink()
        assert send(listener, ds, tmp_path / "in") == 0x0000
        assert dcmread(BytesIO(listener.content(ds.SOPInstanceUID))) == ds
    finally:
        subprocess.run(["umount", "-l", str(mount)], check=True)


def test_a_file_that_may_not_grow_is_out_of_resources(start: Start, tmp_path: Path) -> None:
    """The same without root: a process that may write no file over 64 KiB (RLIMIT_FSIZE)."""
    data = data_of(save(make_instance(), tmp_path / "in"))
    big = data_of(save(_big_instance(), tmp_path / "in"))
    code = """
import resource, signal, sys
from pathlib import Path
from migrations.commands import upgrade
from node.receiving import Received, receive
from storage.archive import Archive
from storage.index import open_index
folder = Path(sys.argv[1])
url = f"sqlite:///{folder / 'limited.sqlite'}"
upgrade(url)
index, archive = open_index(url), Archive(str(folder / "limited"))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
for name, uid in zip(sys.argv[2::2], sys.argv[3::2]):
    data = Path(name).read_bytes()
    received = Received(sop_class_uid="1.2.840.10008.5.1.4.1.1.2", sop_instance_uid=uid,
        transfer_syntax_uid="1.2.840.10008.1.2.1", calling_ae="A", called_ae="B")
    print(hex(receive(received, data, archive, index).status))
print(len(list((folder / "limited").rglob("*.dcm"))))
"""
    (tmp_path / "big").write_bytes(big)
    (tmp_path / "small").write_bytes(data)
    arguments = [str(tmp_path), str(tmp_path / "big"), _big_instance().SOPInstanceUID,
                 str(tmp_path / "small"), make_instance().SOPInstanceUID]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        check=True, capture_output=True, text=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    answers = [line for line in done.stdout.splitlines() if re.fullmatch(r"0x\w+|\d+", line)]
    assert answers == ["0xa700", "0x0", "1"]


def _big_instance() -> Dataset:
    ds = make_instance(instance=2)
    ds.Rows = ds.Columns = 1024
    ds.PixelData = b"\x00" * (2 << 20)
    return ds


# -- other senders, other people's files --------------------------------------------------------


@pytest.mark.peer("dcmtk")
def test_dcmtk_echoes_and_stores(start: Start, tmp_path: Path) -> None:
    listener = start()
    address = ["-aec", "OSTEONODE", "127.0.0.1", str(listener.port)]
    subprocess.run(["/usr/bin/echoscu", *address], check=True)
    save_all(make_series(), tmp_path / "in")
    command = ["/usr/bin/storescu", "+sd", "-pdu", "131072", *address, str(tmp_path / "in")]
    subprocess.run(command, check=True, env={**os.environ, "TCP_NODELAY": "1"})
    assert studies.get(listener.index, make_uid(1, 1)).instance_count == 4


@pytest.mark.peer("dcmtk")
def test_deflated_is_kept_deflated(start: Start, tmp_path: Path) -> None:
    listener = start()
    ds = make_instance()
    address = ["-aec", "OSTEONODE", "127.0.0.1", str(listener.port)]
    path = save(ds, tmp_path / "in")
    subprocess.run(["/usr/bin/storescu", "-xd", *address, str(path)], check=True)
    held = instances.get(listener.index, ds.SOPInstanceUID)
    assert held.transfer_syntax_uid == "1.2.840.10008.1.2.1.99"
    assert dcmread(BytesIO(listener.content(ds.SOPInstanceUID))) == ds


@pytest.mark.shared
@pytest.mark.filterwarnings("ignore:.*:UserWarning:pydicom")
def test_compressed_series_are_kept_byte_for_byte(start: Start, shared_data: Path) -> None:
    listener = start()
    seen: Counter[str] = Counter()
    for path in sorted((shared_data / "interop" / "compressed").rglob("*.dcm")):
        ds = dcmread(path, stop_before_pixels=True)
        syntax, uid = str(ds.file_meta.TransferSyntaxUID), str(ds.SOPInstanceUID)
        sop_class, data = str(ds.SOPClassUID), data_of(path)
        assoc = associate(listener.port, (sop_class, syntax))
        assert store_bytes(assoc, data, uid=uid, sop_class=sop_class) == 0, path
        assoc.release()
        seen[syntax] += 1
        # By key: the folders hold the same instances in several syntaxes, all are kept.
        with listener.archive.open(key_of(uid, data)) as file:
            content = file.read()
        assert content.endswith(data)
        assert (
            dcmread(BytesIO(content), stop_before_pixels=True).file_meta.TransferSyntaxUID == syntax
        )
    assert len(seen) >= 5, seen


@pytest.mark.shared
@pytest.mark.filterwarnings("ignore:.*:UserWarning:pydicom")
def test_every_malformed_file_gets_an_answer(start: Start, shared_data: Path) -> None:
    """Taken or refused, the association lives on, and what was taken is there byte for byte."""
    listener = start()
    answers: Counter[int] = Counter()
    for path in sorted(
        p for p in (shared_data / "interop" / "malformed").rglob("*") if p.is_file()
    ):
        content = path.read_bytes()
        data = content
        syntax, uid, sop_class = "1.2.840.10008.1.2", "1.2.3", CT
        if content[128:132] == b"DICM":
            meta = read_file_meta_info(path)
            syntax = str(meta.get("TransferSyntaxUID", syntax))
            uid = str(meta.get("MediaStorageSOPInstanceUID", uid))
            sop_class = str(meta.get("MediaStorageSOPClassUID", sop_class))
            data = data_of(path)
        syntax = syntax if syntax in transfer_syntaxes() else EXPLICIT
        sop_class = sop_class if sop_class in storage_sop_classes() else CT
        assoc = associate(listener.port, (sop_class, syntax))
        status = store_bytes(assoc, data, uid=uid, sop_class=sop_class)
        answers[status] += 1
        assert status in (0x0000, 0xA900) or status >> 12 == 0xC, (path, hex(status))
        again = store_bytes(assoc, b"x", uid="1.2", sop_class=sop_class)
        assert again >> 12 == 0xC, "the association is over"
        assoc.release()
        if status == 0:
            with listener.archive.open(key_of(uid, data)) as file:
                assert file.read().endswith(data)
    assert sum(answers.values()) >= 70, answers
    assert answers[0] > 40, answers


def test_receiving_needs_no_network_library_of_the_models() -> None:
    code = "import sys, node.scp; print({'torch', 'monai'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.stdout.strip() == "set()"


def test_stopping_hangs_up_on_a_connection_that_never_asked(start: Start) -> None:
    """There is no association to abort yet (PS3.8 9.2.3, Sta2): pynetdicom's thread would die of it, loudly."""
    listener = start()
    with socket.create_connection(("127.0.0.1", listener.port)) as silent:
        time.sleep(0.3)
        listener.stop(0.0)
        silent.settimeout(10)
        assert silent.recv(1) == b""
