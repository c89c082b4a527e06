"""SEG and SR of a result: what they say, whom they name, and that the same request makes the same bytes."""

from __future__ import annotations

import dataclasses
import logging
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import volumes
from highdicom.color import CIELabColor
from highdicom.seg import Segmentation
from highdicom.sr import Comprehensive3DSR
from highdicom.sr.utils import find_content_items
from pydicom import Dataset, dcmread
from pydicom.dataelem import RawDataElement
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.tag import BaseTag

from pipelines.errors import ManifestError
from pipelines.evidence.create import create_evidence
from pipelines.evidence.request import EvidenceObject, EvidenceRequest
from pipelines.manifest import CodeSpec
from pipelines.result import Measurement, Notice, QualitativeEvaluation, Segment, SourceSeries
from pipelines.series import read_series

LEFT = CodeSpec(value="7771000", scheme="SCT", meaning="Left")
FEMUR = CodeSpec(value="71341001", scheme="SCT", meaning="Femur")


@pytest.fixture
def source(tmp_path: Path) -> SourceSeries:
    return read_series(volumes.write_series(tmp_path))


def _of(source: SourceSeries, **attributes: Any) -> SourceSeries:
    """The source with other attributes on every slice; None deletes one."""
    for ds in source.datasets:
        for keyword, value in attributes.items():
            if value is None:
                del ds[keyword]
            else:
                setattr(ds, keyword, value)
    return source


def _read(evidence: tuple[EvidenceObject, ...]) -> dict[str, Dataset]:
    """The objects as a receiver sees them."""
    return {item.kind: dcmread(BytesIO(item.encoded)) for item in evidence}


def _find(ds: Dataset, name: Code, *, recursive: bool = True) -> list[Dataset]:
    return find_content_items(ds, name=name, recursive=recursive)


def _texts(ds: Dataset, name: Code) -> set[str]:
    return {item.TextValue for item in _find(ds, name)}


# -- identity -----------------------------------------------------------------------------------


def test_the_same_request_makes_the_same_bytes(source: SourceSeries) -> None:
    first = create_evidence(volumes.make_request(source))
    second = create_evidence(volumes.make_request(source))
    assert [item.kind for item in first] == ["SEG", "SR"]
    for one, other in zip(first, second, strict=True):
        assert one.encoded == other.encoded


def test_another_workitem_makes_other_objects(source: SourceSeries) -> None:
    first = _read(create_evidence(volumes.make_request(source)))
    other = _read(create_evidence(volumes.make_request(source, workitem_uid="2.25.27182818")))
    for kind in ("SEG", "SR"):
        assert first[kind].SOPInstanceUID != other[kind].SOPInstanceUID
        assert first[kind].SeriesInstanceUID != other[kind].SeriesInstanceUID
    # The model is the same.
    assert first["SEG"].DeviceUID == other["SEG"].DeviceUID


def test_a_structure_keeps_its_tracking_uid_from_study_to_study(source: SourceSeries) -> None:
    first = volumes.make_request(source)
    (one, *_) = first.result.segments
    again = dataclasses.replace(
        first, workitem_uid="2.25.27182818", known_findings={one.label: first.tracking_uid(1)}
    )
    objects = _read(create_evidence(again))
    assert objects["SEG"].SegmentSequence[0].TrackingUID == first.tracking_uid(1)
    assert again.tracking_uid(2) != first.tracking_uid(2)
    # A number is no name: the third tumour of today may be the first of last year.
    numbered = dataclasses.replace(one, label=f"{one.label} 1")
    result = dataclasses.replace(again.result, segments=(numbered, *again.result.segments[1:]))
    renamed = dataclasses.replace(
        again, result=result, known_findings={numbered.label: first.tracking_uid(1)}
    )
    assert renamed.tracking_uid(1) != first.tracking_uid(1)


def test_algorithm_is_the_same_in_equipment_segments_and_report(source: SourceSeries) -> None:
    objects = _read(create_evidence(volumes.make_request(source)))
    seg, sr = objects["SEG"], objects["SR"]
    expected = ("OsteoNode", "ct_bone", "1.2.3", seg.DeviceUID)
    for ds in (seg, sr):
        scanner, ours = ds.ContributingEquipmentSequence
        assert scanner.PurposeOfReferenceCodeSequence[0].CodeValue == "109101"
        assert ours.PurposeOfReferenceCodeSequence[0].CodeValue == "109102"
        assert (
            ours.Manufacturer,
            ours.ManufacturerModelName,
            ours.SoftwareVersions,
            ours.DeviceUID,
        ) == expected
        assert ours.InstitutionName == ds.InstitutionName == "Test Hospital"
        assert (ds.Manufacturer, ds.ManufacturerModelName) == expected[:2]
        assert ds.SoftwareVersions == ["1.2.3", "OsteoNode 0.1.0"]
        assert ds.DeviceSerialNumber == "SN-1"
        assert ds.DeviceUID == seg.DeviceUID
    item = seg.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0]
    assert (item.AlgorithmSource, item.AlgorithmName, item.AlgorithmVersion) == expected[:3]
    assert item.AlgorithmParameters == "threshold=300.0"
    assert seg.SegmentSequence[0].SegmentAlgorithmName == "ct_bone"
    assert _texts(sr, codes.DCM.DeviceObserverManufacturer) == {"OsteoNode"}
    assert _texts(sr, codes.DCM.DeviceObserverModelName) == {"ct_bone"}
    assert _texts(sr, codes.DCM.AlgorithmName) == {"ct_bone"}
    assert _texts(sr, codes.DCM.AlgorithmVersion) == {"1.2.3"}
    (observer,) = _find(sr, codes.DCM.DeviceObserverUID)
    assert seg.DeviceUID == observer.UID


def test_device_uid_follows_the_weights(source: SourceSeries) -> None:
    request = volumes.make_request(source)
    weights = request.manifest.weights
    assert weights is not None
    retrained = request.manifest.model_copy(
        update={"weights": weights.model_copy(update={"sha256": "cd" * 32})}
    )
    assert dataclasses.replace(request, manifest=retrained).device_uid != request.device_uid


def test_patient_and_study_are_the_source_s(source: SourceSeries) -> None:
    attributes = {
        "PatientName": "Müller^Jörg",
        "PatientID": "4711",
        "IssuerOfPatientID": "Test Hospital",
        "AccessionNumber": "ACC-7",
        "StudyID": "S1",
        "PatientSize": "1.71",
    }
    objects = _read(create_evidence(volumes.make_request(_of(source, **attributes))))
    for ds in objects.values():
        for keyword, value in attributes.items():
            assert str(ds[keyword].value) == value
        assert ds.StudyInstanceUID == source.datasets[0].StudyInstanceUID
        assert ds.SpecificCharacterSet == "ISO_IR 192"
        assert ds.SeriesDescription == "AI - Bone in CT - research, unverified"
        assert ds.ContentQualification == "RESEARCH"
        assert ds.SeriesNumber >= 9000
    assert objects["SEG"].BodyPartExamined == "ABDOMEN"
    assert objects["SEG"].SeriesNumber != objects["SR"].SeriesNumber


def test_what_the_source_lacks_is_not_invented(source: SourceSeries) -> None:
    lacking = _of(
        source, PatientName=None, AccessionNumber=None, StudyID=None, PatientSex="U", StudyTime=None
    )
    for ds in _read(create_evidence(volumes.make_request(lacking))).values():
        for keyword in ("PatientName", "AccessionNumber", "StudyID", "PatientSex", "StudyTime"):
            assert ds[keyword].value in ("", None)


def test_the_source_is_left_as_it_is(source: SourceSeries) -> None:
    before = [ds.to_json() for ds in source.datasets]
    create_evidence(volumes.make_request(source))
    assert [ds.to_json() for ds in source.datasets] == before


def test_no_name_reaches_a_log(source: SourceSeries, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        create_evidence(volumes.make_request(_of(source, PatientName="DOE JANE", PatientID="XY77")))
    assert "DOE" not in caplog.text
    assert "XY77" not in caplog.text


@pytest.mark.parametrize(
    ("given", "institution", "written"),
    [
        ("ISO_IR 100", "Test Hospital", "ISO_IR 100"),
        ("ISO_IR 100", "Universitätsklinikum", "ISO_IR 100"),
        ("ISO_IR 144", "Universitätsklinikum", "ISO_IR 192"),
        (None, "Test Hospital", None),
        (None, "Universitätsklinikum", "ISO_IR 192"),
    ],
)
def test_character_set_holds_the_source_s_texts_and_ours(
    source: SourceSeries, given: str | None, institution: str, written: str | None
) -> None:
    request = volumes.make_request(_of(source, SpecificCharacterSet=given))
    installation = dataclasses.replace(request.installation, institution=institution)
    for ds in _read(
        create_evidence(dataclasses.replace(request, installation=installation))
    ).values():
        assert ds.get("SpecificCharacterSet") == written
        assert ds.InstitutionName == institution


def test_a_japanese_name_comes_back_whole(tmp_path: Path) -> None:
    # PS3.5 H.3.1: such names come with an empty first term.
    name = "Yamada^Tarou=山田^太郎=やまだ^たろう"

    def rename(datasets: list[Dataset]) -> None:
        for ds in datasets:
            ds.SpecificCharacterSet = ["", "ISO 2022 IR 87"]
            ds.PatientName = name

    source = read_series(volumes.write_series(tmp_path, change=rename))
    for ds in _read(create_evidence(volumes.make_request(source))).values():
        assert list(ds.SpecificCharacterSet) == ["ISO 2022 IR 6", "ISO 2022 IR 87"]
        assert ds.PatientName == name


@pytest.mark.parametrize("given", [b"abc ", b"1\\2 ", b"0 ", b"-1", b""])
def test_a_slice_thickness_that_is_none_is_the_slice_spacing(tmp_path: Path, given: bytes) -> None:
    files = volumes.write_series(tmp_path)
    for file in files:
        ds = dcmread(file)
        ds.SliceThickness = None
        raw = RawDataElement(BaseTag(0x00180050), "DS", len(given), given, 0, False, True)
        ds._dict[BaseTag(0x00180050)] = raw
        ds.save_as(file)
    source = read_series(files)
    seg = _read(create_evidence(volumes.make_request(source)))["SEG"]
    measures = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert float(measures.SliceThickness) == pytest.approx(float(source.volume.spacing[0]))


@pytest.mark.parametrize(
    ("offset", "time"), [("+0000", "050607"), ("+0530", "103607"), ("-0700", "220607")]
)
def test_times_are_in_the_time_zone_of_the_study(
    source: SourceSeries, offset: str, time: str
) -> None:
    for ds in _read(
        create_evidence(volumes.make_request(_of(source, TimezoneOffsetFromUTC=offset)))
    ).values():
        assert ds.TimezoneOffsetFromUTC == offset
        assert ds.ContentTime == ds.SeriesTime == ds.InstanceCreationTime == time
        assert ds.ContentDate == ("20260303" if offset == "-0700" else "20260304")


def test_without_a_time_zone_times_are_local(source: SourceSeries) -> None:
    started = datetime(2026, 7, 1, 12, tzinfo=UTC)
    local = started.astimezone()
    for ds in _read(create_evidence(volumes.make_request(source, started_at=started))).values():
        assert ds.TimezoneOffsetFromUTC == local.strftime("%z")
        assert ds.ContentTime == local.strftime("%H%M%S")


# -- SEG ----------------------------------------------------------------------------------------


def test_seg_is_binary_on_the_source_grid(source: SourceSeries) -> None:
    request = volumes.make_request(source)
    seg = _read(create_evidence(request))["SEG"]

    assert seg.SOPClassUID == "1.2.840.10008.5.1.4.1.1.66.4"
    assert seg.SegmentationType == "BINARY"
    assert seg.SegmentsOverlap == "NO"
    assert seg.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
    assert (seg.Rows, seg.Columns) == volumes.SHAPE[1:]
    assert seg.FrameOfReferenceUID == source.datasets[0].FrameOfReferenceUID
    (series,) = seg.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == source.datasets[0].SeriesInstanceUID
    measures = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert float(measures.SpacingBetweenSlices) == pytest.approx(volumes.SPACING[0])
    positions = {ds.SOPInstanceUID: ds.ImagePositionPatient for ds in source.datasets}
    for groups in seg.PerFrameFunctionalGroupsSequence:
        (image,) = groups.DerivationImageSequence[0].SourceImageSequence
        assert (
            groups.PlanePositionSequence[0].ImagePositionPatient
            == positions[image.ReferencedSOPInstanceUID]
        )
    volume = Segmentation.from_dataset(seg).get_volume(combine_segments=True)
    expected = request.result.label_map
    np.testing.assert_array_equal(
        volume.match_geometry(expected).array, expected.array.astype(volume.array.dtype)
    )


def test_segments_say_what_the_manifest_says(source: SourceSeries) -> None:
    specs = (volumes.make_spec(1, site=FEMUR, laterality=LEFT), volumes.make_spec(2))
    request = volumes.make_request(source, specs=specs)
    first, second = _read(create_evidence(request))["SEG"].SegmentSequence
    assert (first.SegmentNumber, second.SegmentNumber) == (1, 2)
    assert first.SegmentLabel == first.TrackingID == "Bone 1"
    assert first.TrackingUID == request.tracking_uid(1) != second.TrackingUID
    assert first.SegmentAlgorithmType == "AUTOMATIC"
    assert first.SegmentedPropertyTypeCodeSequence[0].CodeValue == "272673000"
    (side,) = first.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence
    assert side.CodeValue == LEFT.value
    assert first.AnatomicRegionSequence[0].CodeValue == FEMUR.value
    assert "AnatomicRegionSequence" not in second
    colour = CIELabColor.from_dicom_value(first.RecommendedDisplayCIELabValue).to_rgb()
    assert np.abs(np.subtract(colour, (230, 200, 100))).max() <= 1


def test_one_lossy_slice_makes_the_seg_lossy(source: SourceSeries) -> None:
    source.datasets[3].LossyImageCompression = "01"
    source.datasets[3].LossyImageCompressionRatio = 9
    seg = _read(create_evidence(volumes.make_request(source)))["SEG"]
    assert seg.LossyImageCompression == "01"
    assert seg.LossyImageCompressionRatio == 9


def test_without_frame_of_reference_the_seg_gets_one_for_the_series(tmp_path: Path) -> None:
    def change(datasets: list[Dataset]) -> None:
        for ds in datasets:
            del ds.FrameOfReferenceUID

    source = read_series(volumes.write_series(tmp_path, change=change))
    uids = {
        _read(create_evidence(volumes.make_request(source, workitem_uid=uid)))[
            "SEG"
        ].FrameOfReferenceUID
        for uid in ("2.25.1", "2.25.2")
    }
    assert len(uids) == 1


# -- empty segments -----------------------------------------------------------------------------


def test_an_empty_segment_is_a_measured_zero(source: SourceSeries) -> None:
    specs = [volumes.make_spec(number) for number in (1, 2, 3)]
    labels = volumes.make_label_map(source)
    labels = labels.with_array(np.where(labels.array == 2, 3, 0).astype(np.uint8))
    request = volumes.make_request(
        source, specs=specs, result=volumes.make_result(source, specs, labels)
    )
    objects = _read(create_evidence(request))

    # PS3.3 C.8.20.2: numbers run from 1, so the one segment with voxels is segment 1.
    (segment,) = objects["SEG"].SegmentSequence
    assert (segment.SegmentNumber, segment.TrackingID) == (1, "Bone 3")
    groups = _groups(objects["SR"])
    assert [group.ContentTemplateSequence[0].TemplateIdentifier for group in groups] == [
        "1501",
        "1501",
        "1411",
    ]
    assert _volume(groups[0]) == 0.0
    (reference,) = _find(groups[2], codes.DCM.ReferencedSegment)
    item = reference.ReferencedSOPSequence[0]
    assert item.ReferencedSegmentNumber == 1
    assert item.ReferencedSOPInstanceUID == objects["SEG"].SOPInstanceUID


def test_nothing_found_is_a_report_without_seg(source: SourceSeries) -> None:
    specs = (volumes.make_spec(1),)
    nothing = source.volume.with_array(np.zeros(volumes.SHAPE, np.uint8))
    result = dataclasses.replace(volumes.make_result(source, specs, nothing), measurements=())
    (report,) = create_evidence(volumes.make_request(source, specs=specs, result=result))
    assert report.kind == "SR"
    (group,) = _groups(report.ds)
    assert _volume(group) == 0.0
    assert any("volume of zero" in text for text in _texts(report.ds, codes.DCM.Comment))


# -- SR -----------------------------------------------------------------------------------------


def _groups(ds: Dataset) -> list[Dataset]:
    return _find(ds, codes.DCM.MeasurementGroup)


def _volume(group: Dataset) -> float:
    (item,) = _find(group, codes.SCT.Volume)
    return float(item.MeasuredValueSequence[0].NumericValue)


def test_sr_is_a_complete_unverified_measurement_report(source: SourceSeries) -> None:
    objects = _read(create_evidence(volumes.make_request(source)))
    sr = objects["SR"]
    assert sr.SOPClassUID == "1.2.840.10008.5.1.4.1.1.88.34"
    assert (sr.CompletionFlag, sr.VerificationFlag) == ("COMPLETE", "UNVERIFIED")
    assert sr.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    assert sr.ConceptNameCodeSequence[0].CodeValue == "126000"
    names = [item.ConceptNameCodeSequence[0].CodeMeaning for item in sr.ContentSequence]
    # TID 1500 prescribes this order.
    assert names[0] == "Language of Content Item and Descendants"
    assert names[-4:] == [
        "Procedure reported",
        "Image Library",
        "Imaging Measurements",
        "Qualitative Evaluations",
    ]
    (study,) = sr.CurrentRequestedProcedureEvidenceSequence
    listed = {
        item.ReferencedSOPInstanceUID
        for series in study.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    }
    images = {ds.SOPInstanceUID for ds in source.datasets}
    assert listed == images | {objects["SEG"].SOPInstanceUID}
    library = _find(sr, codes.DCM.ImageLibrary)[0]
    assert {
        item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
        for item in library.ContentSequence[0].ContentSequence
        if item.ValueType == "IMAGE"
    } == images
    # highdicom's own reader takes it.
    content = Comprehensive3DSR.from_dataset(sr).content
    assert len(content.get_volumetric_roi_measurement_groups()) == 2


def test_groups_are_tied_to_their_segments(source: SourceSeries) -> None:
    specs = (volumes.make_spec(1, site=FEMUR, laterality=LEFT), volumes.make_spec(2))
    request = volumes.make_request(source, specs=specs)
    objects = _read(create_evidence(request))
    for group, segment in zip(_groups(objects["SR"]), objects["SEG"].SegmentSequence, strict=True):
        assert group.ContentTemplateSequence[0].TemplateIdentifier == "1411"
        (tracking,) = _find(group, codes.DCM.TrackingUniqueIdentifier)
        assert segment.TrackingUID == tracking.UID
        assert _texts(group, codes.DCM.TrackingIdentifier) == {segment.TrackingID}
        (reference,) = _find(group, codes.DCM.ReferencedSegment)
        assert reference.ReferencedSOPSequence[0].ReferencedSegmentNumber == segment.SegmentNumber
        (series,) = _find(group, codes.DCM.SourceSeriesForSegmentation)
        assert source.datasets[0].SeriesInstanceUID == series.UID
        (finding,) = _find(group, codes.DCM.Finding)
        assert finding.ConceptCodeSequence[0].CodeValue == "272673000"
        for number in (item for item in group.ContentSequence if item.ValueType == "NUM"):
            assert _texts(number, codes.DCM.AlgorithmName) == {"ct_bone"}
    left, other = _groups(objects["SR"])
    (site,) = _find(left, codes.SCT.FindingSite)
    assert site.ConceptCodeSequence[0].CodeValue == FEMUR.value
    assert site.ContentSequence[0].ConceptCodeSequence[0].CodeValue == LEFT.value
    # Anatomy implies its own site.
    (site,) = _find(other, codes.SCT.FindingSite)
    assert site.ConceptCodeSequence[0].CodeValue == "272673000"


def test_numbers_codes_and_notices_arrive(source: SourceSeries) -> None:
    specs = (volumes.make_spec(1), volumes.make_spec(2))
    question = Code("246112005", "SCT", "Severity")
    answer = Code("255604002", "SCT", "Mild")
    result = volumes.make_result(source, specs)
    result = dataclasses.replace(
        result,
        measurements=(
            *result.measurements,
            Measurement(name=codes.SCT.Volume, value=1 / 3, unit=Code("mL", "UCUM", "milliliter")),
        ),
        evaluations=(
            QualitativeEvaluation(name=question, value=answer, segment_number=1),
            QualitativeEvaluation(name=question, value=answer),
        ),
        notices=(Notice(code="cut", message="Cut by the field of view."),),
    )
    sr = _read(create_evidence(volumes.make_request(source, specs=specs, result=result)))["SR"]

    first, second, whole = _groups(sr)
    voxel = np.prod(volumes.SPACING) / 1000
    voxels = [int((volumes.make_volume().array == value).sum()) for value in (400, 700)]
    assert _volume(first) == pytest.approx(voxels[0] * voxel)
    assert _volume(second) == pytest.approx(voxels[1] * voxel)
    (mean,) = _find(second, codes.DCM.AttenuationCoefficient)
    assert mean.MeasuredValueSequence[0].NumericValue == 700
    assert _find(mean, codes.DCM.Derivation)[0].ConceptCodeSequence[0].CodeMeaning == "Mean"
    assert whole.ContentTemplateSequence[0].TemplateIdentifier == "1501"
    assert _volume(whole) == pytest.approx(1 / 3)
    assert [len(_find(group, question)) for group in (first, second, whole)] == [1, 0, 1]
    assert _find(first, question)[0].ConceptCodeSequence[0].CodeValue == answer.value
    comments = _texts(sr, codes.DCM.Comment)
    assert "Cut by the field of view." in comments
    assert any("not for diagnosis" in text for text in comments)


def test_private_codes_say_whose_they_are(source: SourceSeries) -> None:
    plain = _read(create_evidence(volumes.make_request(source)))["SR"]
    assert "CodingSchemeIdentificationSequence" not in plain
    share = Code("X-1", "99OURS", "Share")
    specs = (volumes.make_spec(1), volumes.make_spec(2))
    result = dataclasses.replace(
        volumes.make_result(source, specs),
        measurements=(Measurement(name=share, value=5.0, unit=Code("%", "UCUM", "percent")),),
    )
    sr = _read(create_evidence(volumes.make_request(source, specs=specs, result=result)))["SR"]
    (scheme,) = sr.CodingSchemeIdentificationSequence
    assert scheme.CodingSchemeDesignator == "99OURS"
    assert scheme.CodingSchemeResponsibleOrganization == sr.Manufacturer


def test_procedure_is_the_source_s_else_the_manifest_s(source: SourceSeries) -> None:
    def reported(request: EvidenceRequest) -> str:
        (item,) = _find(_read(create_evidence(request))["SR"], codes.DCM.ProcedureReported)
        value: str = item.ConceptCodeSequence[0].CodeMeaning
        return value

    assert reported(volumes.make_request(source)) == "Computed tomography"
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "P5", "99LOCAL", "CT hip"
    assert reported(volumes.make_request(_of(source, ProcedureCodeSequence=[code]))) == "CT hip"


# -- results that break the contract ------------------------------------------------------------


def _measured(value: float, segment_number: int) -> tuple[Measurement, ...]:
    unit = Code("mL", "UCUM", "milliliter")
    return (
        Measurement(name=codes.SCT.Volume, value=value, unit=unit, segment_number=segment_number),
    )


_SHIFT = np.array([[1, 0, 0, 5], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], float)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda result: {"measurements": _measured(float("nan"), 1)}, "is nan"),
        (lambda result: {"measurements": _measured(1.0, 9)}, "names segment 9"),
        (lambda result: {"segments": result.segments[:1]}, "holds the value 2"),
        (lambda result: {"segments": result.segments[::-1]}, "numbers must run"),
        (
            lambda result: {
                "segments": tuple(
                    Segment(number=item.number, spec=item.spec, label="Bone")
                    for item in result.segments
                )
            },
            "unique",
        ),
        (lambda result: {"label_map": result.label_map.astype(np.float32)}, "float32"),
        (lambda result: {"label_map": result.label_map[:5]}, "grid"),
        (
            lambda result: {
                "label_map": type(result.label_map)(
                    array=result.label_map.array,
                    affine=_SHIFT @ result.label_map.affine,
                    coordinate_system="PATIENT",
                    frame_of_reference_uid=result.label_map.frame_of_reference_uid,
                )
            },
            "grid",
        ),
    ],
)
def test_results_that_break_the_contract_are_refused(
    source: SourceSeries, change: Any, sentence: str
) -> None:
    request = volumes.make_request(source)
    broken = dataclasses.replace(request.result, **change(request.result))
    with pytest.raises(ManifestError, match=sentence) as raised:
        create_evidence(dataclasses.replace(request, result=broken))
    assert raised.value.code == "result-invalid"
