"""What others make of our evidence: dciodvfy, dcmqi and DCMTK, none of which shares code with us."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import hips
import numpy as np
import pytest
import SimpleITK as sitk
import spines
import volumes
from numpy.typing import NDArray
from pydicom import dcmread

from pipelines.comparison import compare
from pipelines.evidence.create import create_evidence
from pipelines.evidence.proof import encode
from pipelines.evidence.refusal import create_refusal_sr
from pipelines.evidence.rejection import create_rejection
from pipelines.evidence.request import EvidenceRequest
from pipelines.evidence.seg import create_seg
from pipelines.evidence.sr import create_sr
from pipelines.manifest import CodeSpec
from pipelines.mr_spine_tumor.phantoms import demo_study
from pipelines.mr_spine_tumor.pipeline import run as find_tumours
from pipelines.qct_femur.pipeline import run
from pipelines.result import SourceSeries
from pipelines.series import read_series
from pipelines.training.phantoms.dicom import SeriesOptions, ct_series
from pipelines.training.phantoms.spect_dicom import write_nm_series
from storage.model import Evidence, Prior, PriorReference

#: From PyPI (extra `dev`), beside the interpreter.
SEGIMAGE2ITKIMAGE = Path(sys.executable).with_name("segimage2itkimage")
TID1500READER = Path(sys.executable).with_name("tid1500reader")

Points = NDArray[np.float64]


def _write(folder: Path, request: EvidenceRequest) -> dict[str, Path]:
    paths = {}
    for item in create_evidence(request):
        paths[item.kind] = folder / f"{item.kind}.dcm"
        paths[item.kind].write_bytes(item.encoded)
    return paths


def _request(folder: Path, orientation: str = "axial", *, reverse: bool = False) -> EvidenceRequest:
    options = SeriesOptions(reverse=reverse)
    series = folder / "series"
    series.mkdir()
    source = read_series(volumes.write_series(series, orientation=orientation, options=options))
    left = CodeSpec(value="7771000", scheme="SCT", meaning="Left")
    femur = CodeSpec(value="71341001", scheme="SCT", meaning="Femur")
    specs = (volumes.make_spec(1), volumes.make_spec(2, site=femur, laterality=left))
    return volumes.make_request(source, specs=specs)


def _write_with_outlines(folder: Path, request: EvidenceRequest) -> Path:
    path = folder / "outlines.dcm"
    path.write_bytes(encode(create_sr(request, create_seg(request), contours=True)))
    return path


def _errors(path: Path) -> list[str]:
    done = subprocess.run(
        ["/usr/bin/dciodvfy", "-new", str(path)], capture_output=True, text=True, check=False
    )
    lines = (done.stdout + done.stderr).splitlines()
    assert lines, "dciodvfy said nothing"
    return [line for line in lines if line.startswith("Error")]


@pytest.mark.peer("dicom3tools")
@pytest.mark.parametrize("with_outlines", [False, True])
def test_dciodvfy_finds_no_error_in_a_report_that_compares(
    tmp_path: Path, with_outlines: bool
) -> None:
    request = _request(tmp_path)
    prior = Prior(
        workitem_uid="2.25.1",
        pipeline_version="1.2.3",
        interval_days=412,
        volumes_ml={segment.label: 1.0 for segment in request.result.segments},
        evidence=(
            PriorReference(
                study_instance_uid="1.2.3.4",
                series_instance_uid="1.2.3.4.5",
                sop_class_uid="1.2.840.10008.5.1.4.1.1.88.34",
                sop_instance_uid="1.2.3.4.5.6",
            ),
        ),
    )
    result = compare(request.result, prior, pipeline_version="1.2.3")
    assert len(result.measurements) > len(request.result.measurements)
    request = replace(request, result=result, prior=prior)
    path = _write_with_outlines(tmp_path, request) if with_outlines else None
    assert _errors(path or _write(tmp_path, request)["SR"]) == []


@pytest.mark.peer("dicom3tools")
@pytest.mark.parametrize("orientation", ["axial", "oblique", "sagittal"])
def test_dciodvfy_finds_no_error(tmp_path: Path, orientation: str) -> None:
    paths = _write(tmp_path, _request(tmp_path, orientation))
    assert {kind: _errors(path) for kind, path in paths.items()} == {"SEG": [], "SR": []}


@pytest.mark.peer("dicom3tools")
def test_dciodvfy_finds_no_error_in_a_report_with_outlines(tmp_path: Path) -> None:
    assert _errors(_write_with_outlines(tmp_path, _request(tmp_path))) == []
    files = write_nm_series(volumes.make_volume(), tmp_path, seed=7)
    request = volumes.make_request(read_series(files))
    assert _errors(_write_with_outlines(tmp_path, request)) == []
    nothing = volumes.make_label_map(request.source).array * np.uint8(0)
    result = replace(request.result, label_map=request.source.volume.with_array(nothing))
    path = tmp_path / "nothing.dcm"
    report = create_sr(replace(request, result=result), None, contours=True)
    path.write_bytes(encode(report))
    assert _errors(path) == []


@pytest.mark.peer("dicom3tools", "dcmtk")
@pytest.mark.parametrize("code", ["no-trunk", "input-mixed-orientation"])
def test_a_refusal_is_valid(tmp_path: Path, code: str) -> None:
    source = _request(tmp_path).source
    refusal = replace(volumes.make_refusal([source.datasets]), code=code)
    path = tmp_path / "refusal.dcm"
    path.write_bytes(encode(create_refusal_sr(refusal)))
    assert _errors(path) == []
    done = subprocess.run(
        ["/usr/bin/dsrdump", "+Pl", str(path)], capture_output=True, text=True, check=True
    )
    assert f"({code},99OSTEONODE," in done.stdout
    assert '(111225,DCM,"Not Attempted")' in done.stdout
    assert not [line for line in done.stderr.splitlines() if line.startswith(("E:", "F:"))]


@pytest.mark.peer("dicom3tools")
@pytest.mark.parametrize("orientation", ["axial", "oblique"])
def test_dciodvfy_finds_no_error_in_nuclear_medicine_and_its_evidence(
    tmp_path: Path, orientation: str
) -> None:
    files = write_nm_series(volumes.make_volume(orientation), tmp_path, seed=7)
    assert _errors(files[0]) == []
    paths = _write(tmp_path, volumes.make_request(read_series(files)))
    assert {kind: _errors(path) for kind, path in paths.items()} == {"SEG": [], "SR": []}


@pytest.mark.peer("dicom3tools")
def test_dciodvfy_finds_no_error_when_segments_are_empty(tmp_path: Path) -> None:
    source = _request(tmp_path).source
    specs = [volumes.make_spec(number) for number in (1, 2, 3)]
    nothing = source.volume.with_array(np.zeros(volumes.SHAPE, np.uint8))
    some = source.volume.with_array((source.volume.array == 700).astype(np.uint8) * 2)
    for name, labels in (("nothing", nothing), ("some", some)):
        folder = tmp_path / name
        folder.mkdir()
        result = volumes.make_result(source, specs, labels)
        paths = _write(folder, volumes.make_request(source, specs=specs, result=result))
        assert ("SEG" in paths) == (name == "some")
        for path in paths.values():
            assert _errors(path) == []


@pytest.mark.peer("dicom3tools")
@pytest.mark.shared
def test_dciodvfy_finds_no_error_on_the_real_ct(tmp_path: Path, shared_data: Path) -> None:
    source = read_series(sorted((shared_data / "ct-abdomen").glob("*.dcm"))[60:90])
    labels = source.volume.with_array((source.volume.array > 250).astype(np.uint8))
    specs = (volumes.make_spec(1),)
    result = volumes.make_result(source, specs, labels)
    for path in _write(tmp_path, volumes.make_request(source, specs=specs, result=result)).values():
        assert _errors(path) == []


@pytest.mark.peer("dicom3tools")
@pytest.mark.parametrize(
    ("orientation", "sides", "slope"), [("HPL", [1, 2], 0.8), ("FAL", [1], 0.0)]
)
def test_dciodvfy_finds_no_error_in_evidence_of_qct_femur(
    tmp_path: Path, orientation: str, sides: list[int], slope: float
) -> None:
    """Private codes and their units, sides, and a side that is said not to be seen."""
    volume = hips.scene(hips.grid(orientation=orientation), sides=sides)
    source = SourceSeries(volume=volume, datasets=tuple(ct_series(volume, seed=3)))
    parameters = {**hips.PARAMETERS, "calibration_slope": slope}
    result = run(hips.model_that_sees_density(), {"ct": source}, parameters)
    request = volumes.make_request(
        source, result=result, manifest=hips.MANIFEST, parameters=parameters
    )
    paths = _write(tmp_path, request)
    assert {kind: _errors(path) for kind, path in paths.items()} == {"SEG": [], "SR": []}


@pytest.mark.peer("dicom3tools")
@pytest.mark.parametrize("balls", [spines.BALLS, ()])
def test_dciodvfy_finds_no_error_in_evidence_of_mr_spine_tumor(
    tmp_path: Path, balls: tuple[object, ...]
) -> None:
    """Several segments of one type, measurements of the whole, a private code, and a study without a tumour."""
    source = spines.source(spines.scene(spines.grid(), balls))
    result = find_tumours(spines.model_that_sees_brightness(), {"mr": source}, spines.PARAMETERS)
    request = volumes.make_request(
        source, result=result, manifest=spines.MANIFEST, parameters=spines.PARAMETERS
    )
    paths = _write(tmp_path, request)
    assert {kind: _errors(path) for kind, path in paths.items()} == {"SEG": [], "SR": []}


@pytest.mark.peer("dicom3tools")
def test_dciodvfy_finds_no_error_in_an_mr_phantom(tmp_path: Path) -> None:
    path = tmp_path / "mr.dcm"
    demo_study(1)[0].save_as(path, enforce_file_format=True)
    assert _errors(path) == []


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("orientation", volumes.ORIENTATIONS)
def test_dcmqi_reads_the_same_mask_in_the_same_place(
    tmp_path: Path, orientation: str, reverse: bool
) -> None:
    if not SEGIMAGE2ITKIMAGE.exists():
        pytest.skip("dcmqi is not installed (pip install dcmqi)")
    request = _request(tmp_path, orientation, reverse=reverse)
    path = _write(tmp_path, request)["SEG"]

    subprocess.run(
        [SEGIMAGE2ITKIMAGE, "--inputDICOM", path, "--outputDirectory", tmp_path, "-t", "nrrd"],
        check=True,
        capture_output=True,
    )

    made = volumes.make_volume(orientation)
    for number, value in ((1, 400), (2, 700)):
        places = np.argwhere(made.array == value)
        expected = places @ made.affine[:3, :3].T + made.affine[:3, 3]
        read = _points(sitk.ReadImage(tmp_path / f"{number}.nrrd"))
        np.testing.assert_allclose(_sorted(read), _sorted(expected), atol=1e-3)


def _points(image: sitk.Image) -> Points:
    """Where the voxels of a mask lie, LPS mm."""
    places = np.argwhere(sitk.GetArrayFromImage(image))[:, ::-1]
    return np.array(
        [image.TransformContinuousIndexToPhysicalPoint(place.astype(float)) for place in places]
    )


def _sorted(points: Points) -> Points:
    rounded = np.round(points, 3)
    return points[np.lexsort(rounded.T)]


@pytest.mark.peer("dcmtk")
def test_dsrdump_reads_the_report(tmp_path: Path) -> None:
    request = _request(tmp_path)
    path = _write(tmp_path, request)["SR"]
    done = subprocess.run(
        # +Pl: long values whole.
        ["/usr/bin/dsrdump", "+Pl", str(path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Comprehensive 3D SR Document" in done.stdout
    assert "COMPLETE" in done.stdout
    assert 'CODE:(,,"Finding")=(272673000,SCT,"Bone")' in done.stdout
    assert f'UIDREF:(,,"Tracking Unique Identifier")="{request.tracking_uid(2)}"' in done.stdout
    assert "Bone 2 is cut by the field of view." in done.stdout
    assert not [line for line in done.stderr.splitlines() if line.startswith(("E:", "F:"))]


@pytest.mark.peer("dcmtk")
def test_dsrdump_reads_the_report_with_outlines(tmp_path: Path) -> None:
    path = _write_with_outlines(tmp_path, _request(tmp_path))
    done = subprocess.run(
        ["/usr/bin/dsrdump", "+Pl", str(path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.count('SCOORD:(,,"Image Region")=(POLYLINE') == 2
    assert not [line for line in done.stderr.splitlines() if line.startswith(("E:", "F:"))]


@pytest.mark.parametrize("outlines", [False, True])
def test_dcmqi_reads_the_measurements_of_each_segment(tmp_path: Path, outlines: bool) -> None:
    if not TID1500READER.exists():
        pytest.skip("dcmqi is not installed (pip install dcmqi)")
    request = _request(tmp_path)
    paths = _write(tmp_path, request)
    path = _write_with_outlines(tmp_path, request) if outlines else paths["SR"]
    read = tmp_path / "read.json"

    subprocess.run(
        [TID1500READER, "--inputDICOM", path, "--outputMetadata", read],
        check=True,
        capture_output=True,
    )

    groups = json.loads(read.read_text(encoding="utf-8"))["Measurements"]
    measured = [group for group in groups if group["measurementItems"]]
    assert [group["TrackingIdentifier"] for group in measured] == ["Bone 1", "Bone 2"]
    for number, group in enumerate(measured, start=1):
        assert group["TrackingUniqueIdentifier"] == request.tracking_uid(number)
        assert group["ReferencedSegment"] == number
        stated = [
            item.value for item in request.result.measurements if item.segment_number == number
        ]
        values = [float(item["value"]) for item in group["measurementItems"]]
        assert values == pytest.approx(stated)


@pytest.mark.peer("dcmtk")
def test_dcmdump_reads_the_seg(tmp_path: Path) -> None:
    path = _write(tmp_path, _request(tmp_path))["SEG"]
    done = subprocess.run(
        ["/usr/bin/dcmdump", "+P", "NumberOfFrames", "+P", "SegmentationType", str(path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "BINARY" in done.stdout
    assert done.stderr == ""


@pytest.mark.peer("dicom3tools")
def test_dciodvfy_finds_no_error_in_a_line_of_results(tmp_path: Path) -> None:
    """The report that names its predecessor, and the note that rejects what was replaced."""
    first = _request(tmp_path)
    old = tuple(
        Evidence(
            sop_instance_uid=str(one.ds.SOPInstanceUID),
            sop_class_uid=str(one.ds.SOPClassUID),
            series_instance_uid=str(one.ds.SeriesInstanceUID),
            study_instance_uid=str(one.ds.StudyInstanceUID),
            transfer_syntax_uid=str(one.ds.file_meta.TransferSyntaxUID),
            workitem_uid=first.workitem_uid,
            kind=one.kind,
            archive_key="",
            size=0,
            digest="",
            created_at=first.started_at,
            profiles=one.profiles,
        )
        for one in create_evidence(first)
    )
    second = replace(
        first,
        workitem_uid="2.25.99",
        replaced=old,
        tracked_as=first.workitem_uid,
    )
    paths = _write(tmp_path, second)
    newer = dcmread(paths["SR"])
    (document,) = (
        newer.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence
    )
    assert document.ReferencedSOPInstanceUID == next(
        one.sop_instance_uid for one in old if one.kind == "SR"
    )
    notes = [
        create_rejection(
            dcmread(paths[kind], stop_before_pixels=True),
            old,
            uid_root="2.25",
            workitem_uid=second.workitem_uid,
        )
        for kind in ("SR", "SR")
    ]
    assert notes[0].encoded == notes[1].encoded
    paths["REJECTION"] = tmp_path / "REJECTION.dcm"
    paths["REJECTION"].write_bytes(notes[0].encoded)
    assert {kind: _errors(path) for kind, path in paths.items()} == {kind: [] for kind in paths}
