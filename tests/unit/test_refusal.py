"""The report of a workitem without a result: what it says, of whom, and that odd sources do not stop it."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import volumes
from pydicom import Dataset, dcmread
from pydicom.dataelem import RawDataElement
from pydicom.tag import BaseTag
from pydicom.uid import CTImageStorage

from pipelines.evidence.proof import encode
from pipelines.evidence.refusal import create_refusal_sr
from pipelines.evidence.request import RefusalRequest
from pipelines.evidence.sr import create_sr
from pipelines.series import read_series

NOT_ATTEMPTED, FAILED = "111225", "111224"


def _bare(number: int, **attributes: Any) -> Dataset:
    """What the node knows of every instance, and nothing else."""
    ds = Dataset()
    ds.SOPClassUID = CTImageStorage
    ds.SOPInstanceUID = f"2.25.1.{number}"
    ds.StudyInstanceUID = "2.25.2"
    ds.SeriesInstanceUID = "2.25.3"
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return ds


def _refusal(*sources: tuple[Dataset, ...], **changes: Any) -> RefusalRequest:
    request = volumes.make_refusal(sources or ((_bare(1), _bare(2)),))
    return replace(request, **changes)


def _written(request: RefusalRequest) -> Dataset:
    return dcmread(BytesIO(encode(create_refusal_sr(request))))


def _said(ds: Dataset) -> dict[str, tuple[str, str]]:
    """Name -> (designator, value) of each coded evaluation."""
    evaluations = ds.ContentSequence[-1]
    assert evaluations.ConceptNameCodeSequence[0].CodeMeaning == "Qualitative Evaluations"
    found = {}
    for item in evaluations.ContentSequence:
        if item.ValueType == "CODE":
            (value,) = item.ConceptCodeSequence
            said = value.get("CodeValue") or value.LongCodeValue
            found[item.ConceptNameCodeSequence[0].CodeMeaning] = value.CodingSchemeDesignator, said
    return found


@pytest.mark.parametrize(
    ("code", "status", "reason"),
    [
        ("no-trunk", NOT_ATTEMPTED, "110513"),
        ("input-modality", NOT_ATTEMPTED, "110522"),
        ("input-missing-slices", NOT_ATTEMPTED, "110523"),
        ("input-mixed-orientation", NOT_ATTEMPTED, "110521"),
        ("time-limit", FAILED, "110527"),
        ("pipeline-crashed", FAILED, "110501"),
    ],
)
def test_it_says_why_in_codes(code: str, status: str, reason: str) -> None:
    ds = _written(_refusal(code=code))
    assert _said(ds) == {
        "Summary of Analyses": ("DCM", status),
        "Discontinuation reason": ("DCM", reason),
        "Discontinuation reason in detail": ("99OSTEONODE", code),
    }
    (scheme,) = ds.CodingSchemeIdentificationSequence
    assert scheme.CodingSchemeDesignator == "99OSTEONODE"


def test_it_says_why_in_a_sentence() -> None:
    ds = _written(_refusal(message="Die Füße fehlen.", code="no-feet"))
    items = ds.ContentSequence[-1].ContentSequence
    texts = [item.TextValue for item in items if item.ValueType == "TEXT"]
    assert "Die Füße fehlen." in texts
    assert any("There is no result" in text for text in texts)
    assert ds.SpecificCharacterSet == "ISO_IR 192"
    assert ds.SeriesDescription == "AI - Bone in CT, not done - research, unverified"


def test_every_instance_of_every_source_is_evidence() -> None:
    other = _bare(9, SeriesInstanceUID="2.25.4")
    ds = _written(_refusal((_bare(1), _bare(2)), (other,)))
    (study,) = ds.CurrentRequestedProcedureEvidenceSequence
    assert study.StudyInstanceUID == ds.StudyInstanceUID == "2.25.2"
    assert {
        item.SeriesInstanceUID: len(item.ReferencedSOPSequence)
        for item in study.ReferencedSeriesSequence
    } == {"2.25.3": 2, "2.25.4": 1}


def test_it_is_complete_and_of_the_same_algorithm_as_a_result(tmp_path: Path) -> None:
    source = read_series(volumes.write_series(tmp_path))
    result = create_sr(volumes.make_request(source), None)
    ds = _written(_refusal(source.datasets))
    assert (ds.CompletionFlag, ds.VerificationFlag) == ("COMPLETE", "UNVERIFIED")
    assert ds.DeviceUID == result.DeviceUID
    assert ds.ContributingEquipmentSequence[-1].DeviceUID == result.DeviceUID
    for keyword in ("PatientID", "PatientName", "StudyInstanceUID", "StudyDate", "AccessionNumber"):
        assert ds.get(keyword) == source.datasets[0].get(keyword)
    assert ds.SeriesInstanceUID != result.SeriesInstanceUID


def test_the_same_refusal_makes_the_same_bytes_and_another_reason_another_object() -> None:
    first, again = (encode(create_refusal_sr(_refusal())) for _ in range(2))
    assert first == again
    other = create_refusal_sr(_refusal(code="no-spine"))
    assert other.SOPInstanceUID != dcmread(BytesIO(first)).SOPInstanceUID


def test_what_cannot_be_read_does_not_stop_it() -> None:
    damaged = _bare(1, PatientID="7", PatientSex="UNKNOWN", TimezoneOffsetFromUTC="?")
    for tag, vr, value in ((0x00280030, "DS", b"wide"), (0x00280010, "US", b"\x01")):
        damaged[tag] = RawDataElement(BaseTag(tag), vr, len(value), value, 0, False, True)
    damaged["StudyDate"] = RawDataElement(BaseTag(0x00080020), "DA", 8, b"00000000", 0, False, True)
    ds = _written(_refusal((damaged, _bare(2))))
    assert ds.PatientID == "7"
    assert ds.PatientSex == ""
    assert not ds.StudyDate
