"""The gate: what we make passes it, and what is missing is named with its clause."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import segs
import volumes
from pydicom import Dataset

from pipelines.errors import UnprovenError
from pipelines.evidence.gate import check_iod, checks_of
from pipelines.evidence.proof import encode
from pipelines.evidence.readback import read_back
from pipelines.evidence.refusal import create_refusal_sr
from pipelines.evidence.seg import create_seg
from pipelines.evidence.sr import create_sr

Spoil = Callable[[Dataset], object]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Dataset]:
    request = volumes.make_request(segs.SOURCES["axial"](tmp_path_factory.mktemp("axial")))
    seg = create_seg(request)
    label_map = create_seg(request, segs.FORMS["labelmap, rle"])
    assert seg is not None
    assert label_map is not None
    return {"SEG": seg, "LABELMAP": label_map, "SR": create_sr(request, seg)}


@pytest.fixture
def made(sound: dict[str, Dataset]) -> dict[str, Dataset]:
    """For a test to spoil."""
    return deepcopy(sound)


def _check(ds: Dataset) -> tuple[str, ...]:
    return check_iod(read_back(encode(ds)).ds)


def test_what_we_make_passes(made: dict[str, Dataset]) -> None:
    assert _check(made["SEG"])[-2:] == ("frames", "sources")
    assert _check(made["LABELMAP"]) == _check(made["SEG"])
    assert _check(made["SR"])[-1] == "measurements"


def test_every_check_has_its_clause(made: dict[str, Dataset]) -> None:
    for ds in made.values():
        for check in checks_of(ds):
            assert check.clause.startswith(("PS3.", "IHE"))


def _segment(ds: Dataset) -> Dataset:
    item: Dataset = ds.SegmentSequence[-1]
    return item


def _frame(ds: Dataset) -> Dataset:
    item: Dataset = ds.PerFrameFunctionalGroupsSequence[2]
    return item


def _measures(ds: Dataset) -> Dataset:
    item: Dataset = ds.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    return item


def _drop(keyword: str, of: Callable[[Dataset], Dataset] = lambda ds: ds) -> Spoil:
    return lambda ds: of(ds).__delitem__(keyword)


def _set(keyword: str, value: object, of: Callable[[Dataset], Dataset] = lambda ds: ds) -> Spoil:
    return lambda ds: setattr(of(ds), keyword, value)


def _retire_a_code(ds: Dataset) -> None:
    _segment(ds).SegmentedPropertyTypeCodeSequence[0].CodingSchemeDesignator = "SRT"


def _share_a_tracking_uid(ds: Dataset) -> None:
    ds.SegmentSequence[-2].TrackingUID = _segment(ds).TrackingUID


def _second_series(ds: Dataset) -> None:
    ds.ReferencedSeriesSequence.append(ds.ReferencedSeriesSequence[0])


def _empty_segment(ds: Dataset) -> None:
    item = deepcopy(_segment(ds))
    item.SegmentNumber, item.TrackingID, item.TrackingUID = 3, "Other", "2.25.7"
    ds.SegmentSequence.append(item)


def _foreign_source(ds: Dataset) -> None:
    image = _frame(ds).DerivationImageSequence[0].SourceImageSequence[0]
    image.ReferencedSOPInstanceUID = "2.25.9"


def _same_index(ds: Dataset) -> None:
    first, second = ds.PerFrameFunctionalGroupsSequence[:2]
    second.FrameContentSequence = first.FrameContentSequence


def _drop_our_equipment(ds: Dataset) -> None:
    del ds.ContributingEquipmentSequence[-1]


def _skip_a_number(ds: Dataset) -> None:
    _segment(ds).SegmentNumber = 7


_SEG_FAULTS: list[tuple[str, Spoil]] = [
    ("DeviceSerialNumber", _set("DeviceSerialNumber", "")),
    ("AccessionNumber", _drop("AccessionNumber")),
    ("TimezoneOffsetFromUTC", _drop("TimezoneOffsetFromUTC")),
    ("109102", _drop_our_equipment),
    ("Modality", _set("Modality", "OT")),
    ("ImageType", _set("ImageType", ["DERIVED", "SECONDARY"])),
    ("SegmentsOverlap", _drop("SegmentsOverlap")),
    ("HighBit", _set("HighBit", 3)),
    ("LossyImageCompression", _drop("LossyImageCompression")),
    ("ContentLabel", _set("ContentLabel", "")),
    ("ContentCreatorName", _drop("ContentCreatorName")),
    ("SegmentNumber", _skip_a_number),
    ("SegmentAlgorithmName", _drop("SegmentAlgorithmName", _segment)),
    ("SegmentLabel", _set("SegmentLabel", "", _segment)),
    (
        "SegmentedPropertyCategoryCodeSequence",
        _drop("SegmentedPropertyCategoryCodeSequence", _segment),
    ),
    ("SRT", _retire_a_code),
    ("RecommendedDisplayCIELabValue", _drop("RecommendedDisplayCIELabValue", _segment)),
    ("TrackingUID is missing", _drop("TrackingUID", _segment)),
    ("not of one segment alone", _share_a_tracking_uid),
    ("SpacingBetweenSlices", _drop("SpacingBetweenSlices", _measures)),
    ("FrameOfReferenceUID", _drop("FrameOfReferenceUID")),
    ("ReferencedSeriesSequence has 2 items", _second_series),
    ("not of the referenced series", _foreign_source),
    ("SourceImageSequence is missing", _drop("DerivationImageSequence", _frame)),
    ("ImagePositionPatient", _drop("PlanePositionSequence", _frame)),
    ("DimensionIndexValues", _drop("FrameContentSequence", _frame)),
    ("not of one frame alone", _same_index),
    ("NumberOfFrames|for 3 frames", _set("NumberOfFrames", 3)),
]


@pytest.mark.parametrize(("attribute", "spoil"), _SEG_FAULTS, ids=[row[0] for row in _SEG_FAULTS])
@pytest.mark.parametrize("kind", ["SEG", "LABELMAP"])
def test_a_fault_of_a_seg_is_named(
    made: dict[str, Dataset], kind: str, attribute: str, spoil: Spoil
) -> None:
    ds = made[kind]
    spoil(ds)
    with pytest.raises(UnprovenError, match=attribute) as raised:
        _check(ds)
    assert raised.value.code == "evidence-invalid"


@pytest.mark.parametrize(
    ("kind", "attribute", "spoil"),
    [
        ("SEG", "have no frame", _empty_segment),
        ("SEG", "ReferencedSegmentNumber", _drop("SegmentIdentificationSequence", _frame)),
        ("SEG", "BitsAllocated is 8", _set("BitsAllocated", 8)),
        ("LABELMAP", "PixelPaddingValue", _drop("PixelPaddingValue")),
        ("LABELMAP", "SegmentNumber runs", lambda ds: ds.SegmentSequence.pop(0)),
        ("LABELMAP", "SOPClassUID", _set("SegmentationType", "BINARY")),
    ],
)
def test_a_fault_of_one_form_is_named(
    made: dict[str, Dataset], kind: str, attribute: str, spoil: Spoil
) -> None:
    ds = made[kind]
    spoil(ds)
    with pytest.raises(UnprovenError, match=attribute):
        _check(ds)


def test_jpeg_ls_of_single_bits_is_refused(made: dict[str, Dataset]) -> None:
    ds = read_back(encode(made["SEG"])).ds
    ds.file_meta.TransferSyntaxUID = segs.FORMS["labelmap, jpeg-ls"].compression.transfer_syntax_uid
    with pytest.raises(UnprovenError, match="TransferSyntaxUID is JPEG-LS"):
        check_iod(ds)


def _imaging_measurements(ds: Dataset) -> Dataset:
    (found,) = (
        item for item in ds.ContentSequence if item.ConceptNameCodeSequence[0].CodeValue == "126010"
    )
    return found


def _of_group(ds: Dataset, name: str) -> Dataset:
    return next(
        item
        for item in _imaging_measurements(ds).ContentSequence[0].ContentSequence
        if item.ConceptNameCodeSequence[0].CodeValue == name
    )


def _without(ds: Dataset, name: str) -> None:
    ds.ContentSequence = [
        item for item in ds.ContentSequence if item.ConceptNameCodeSequence[0].CodeValue != name
    ]


def _remove_from_group(name: str) -> Spoil:
    return lambda ds: _without(_imaging_measurements(ds).ContentSequence[0], name)


def _remove_from_root(name: str) -> Spoil:
    return lambda ds: _without(ds, name)


def _strip_a_number(ds: Dataset) -> None:
    del _of_group(ds, "118565006").ContentSequence


def _strip_a_unit(ds: Dataset) -> None:
    del _of_group(ds, "118565006").MeasuredValueSequence[0].MeasurementUnitsCodeSequence


def _two_segments(ds: Dataset) -> None:
    _of_group(ds, "121191").ReferencedSOPSequence[0].ReferencedSegmentNumber = [1, 2]


def _no_evidence_of_the_seg(ds: Dataset) -> None:
    _of_group(ds, "121191").ReferencedSOPSequence[0].ReferencedSOPInstanceUID = "2.25.5"


@pytest.mark.parametrize(
    ("attribute", "spoil"),
    [
        ("CompletionFlag", _set("CompletionFlag", "PARTIAL")),
        ("VerificationFlag", _set("VerificationFlag", "VERIFIED")),
        ("TemplateIdentifier", _drop("ContentTemplateSequence")),
        ("has no Imaging Measurements", _remove_from_root("126010")),
        ("Device Observer UID", _remove_from_root("121012")),
        ("Procedure Reported", _remove_from_root("121058")),
        ("112039", _remove_from_group("112039")),
        ("112040", _remove_from_group("112040")),
        ("a NUM has no ContentSequence", _strip_a_number),
        ("MeasurementUnitsCodeSequence", _strip_a_unit),
        ("not one segment", _two_segments),
        ("not in the evidence", _no_evidence_of_the_seg),
        ("StudyInstanceUID", _set("StudyInstanceUID", "")),
    ],
)
def test_a_fault_of_a_report_is_named(
    made: dict[str, Dataset], attribute: str, spoil: Spoil
) -> None:
    ds = made["SR"]
    spoil(ds)
    with pytest.raises(UnprovenError, match=attribute):
        _check(ds)


def test_reports_with_outlines_or_without_measurements_pass(tmp_path: Path) -> None:
    request = volumes.make_request(segs.SOURCES["axial"](tmp_path))
    assert "places" in _check(create_sr(request, create_seg(request), contours=True))
    empty = request.source.volume.with_array(request.result.label_map.array * np.uint8(0))
    nothing = replace(request, result=replace(request.result, label_map=empty))
    _check(create_sr(nothing, None, contours=True))
    _check(create_refusal_sr(volumes.make_refusal([request.source.datasets])))


def test_a_group_without_a_place_among_others_is_named(tmp_path: Path) -> None:
    request = volumes.make_request(segs.SOURCES["axial"](tmp_path))
    ds = create_sr(request, create_seg(request), contours=True)
    del _imaging_measurements(ds).ContentSequence[1]
    with pytest.raises(UnprovenError, match="have no SCOORD, as others have"):
        _check(ds)


def test_no_value_of_the_patient_is_in_a_refusal(made: dict[str, Dataset]) -> None:
    ds = made["SEG"]
    del ds.SegmentsOverlap, ds.StudyDate
    with pytest.raises(UnprovenError) as raised:
        _check(ds)
    for keyword in ("PatientName", "PatientID", "AccessionNumber"):
        assert str(ds[keyword].value) not in str(raised.value)
