"""What a C-STORE answer means for a delivery, and how a file head and a command set are written."""

from __future__ import annotations

from io import BytesIO

import pytest
from pydicom import dcmread
from pydicom.filereader import read_dataset
from pynetdicom.status import STORAGE_SERVICE_CLASS_STATUS

from node.command import StoreCommand, encode_store_response, read_store_command
from node.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, encode_file_meta
from node.scu import Outcome, classify, describe


@pytest.mark.parametrize("status", [0x0000, 0xB000, 0xB006, 0xB007, 0x0111])
def test_success_warnings_and_duplicates_are_delivered(status: int) -> None:
    assert classify(status) is Outcome.DELIVERED


@pytest.mark.parametrize("status", [None, 0xA700, 0xA701, 0xA7FF, 0x0110, 0x0213])
def test_what_may_pass_is_tried_again(status: int | None) -> None:
    assert classify(status) is Outcome.RETRY


@pytest.mark.parametrize("status", [0xA900, 0xA9FF, 0xC000, 0xCFFF, 0x0122, 0x0117, 0x0124])
def test_what_will_not_pass_is_permanent(status: int) -> None:
    assert classify(status) is Outcome.PERMANENT


def test_no_failure_of_the_standard_counts_as_delivered() -> None:
    for status, (category, _) in STORAGE_SERVICE_CLASS_STATUS.items():
        is_delivered = classify(status) is Outcome.DELIVERED
        # PS3.7 C.5.7: a duplicate is a failure of the request, and the instance is there.
        assert is_delivered == (category in ("Success", "Warning") or status == 0x0111), hex(status)


def test_a_status_is_described_with_its_number() -> None:
    assert describe(0xA700) == "0xA700 Refused: Out of Resources"
    assert describe(0xC123) == "0xC123 Error: Cannot understand"
    assert describe(0x0122).startswith("0x0122 Refused: SOP Class not supported")


def test_the_head_of_a_file_is_read_back_by_pydicom() -> None:
    head = encode_file_meta(
        sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
        sop_instance_uid="1.2.3",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        source_ae="CT_ONE",
    )
    meta = dcmread(BytesIO(head)).file_meta
    assert meta.MediaStorageSOPClassUID == "1.2.840.10008.5.1.4.1.1.2"
    assert meta.MediaStorageSOPInstanceUID == "1.2.3"
    assert meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
    assert meta.ImplementationClassUID == IMPLEMENTATION_CLASS_UID
    assert meta.ImplementationVersionName == IMPLEMENTATION_VERSION_NAME
    assert meta.SourceApplicationEntityTitle == "CT_ONE"
    assert meta.FileMetaInformationGroupLength == len(head) - 128 - 4 - 12


def test_a_response_is_read_back_by_pydicom() -> None:
    request = StoreCommand(
        message_id=7, sop_class_uid="1.2.840.10008.5.1.4.1.1.2", sop_instance_uid="1.2.34",
        has_data_set=True,
    )  # fmt: skip
    pdu = encode_store_response(5, request, 0xA700)
    assert pdu[0] == 0x04
    assert int.from_bytes(pdu[2:6], "big") == len(pdu) - 6
    assert int.from_bytes(pdu[6:10], "big") == len(pdu) - 10
    assert pdu[10:12] == b"\x05\x03"
    ds = read_dataset(BytesIO(pdu[12:]), is_implicit_VR=True, is_little_endian=True)
    assert ds.CommandGroupLength == len(pdu) - 12 - 12
    assert ds.CommandField == 0x8001
    assert ds.MessageIDBeingRespondedTo == 7
    assert ds.CommandDataSetType == 0x0101
    assert ds.Status == 0xA700
    assert ds.AffectedSOPClassUID == "1.2.840.10008.5.1.4.1.1.2"
    assert ds.AffectedSOPInstanceUID == "1.2.34"


@pytest.mark.parametrize(
    "encoded",
    [b"\x00\x00\x00\x01\x02", b"\x00\x00\x00\x01\xff\x00\x00\x00ab", b"\x08\x00\x16\x00\0\0\0\0"],
)
def test_bytes_that_are_no_command_set_are_refused(encoded: bytes) -> None:
    with pytest.raises(ValueError, match=r"command set"):
        read_store_command(encoded)
