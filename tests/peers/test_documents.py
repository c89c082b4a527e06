"""What others make of captures, PDF, structure set and key objects: dciodvfy, DCMTK and poppler."""

from __future__ import annotations

import subprocess
from pathlib import Path

import documents
import hips
import numpy as np
import pytest
import volumes
from numpy.typing import NDArray
from pydicom import Dataset

from pipelines.evidence.capture import create_captures
from pipelines.evidence.keyobjects import create_key_objects
from pipelines.evidence.pdf import create_pdf
from pipelines.evidence.proof import encode
from pipelines.evidence.request import EvidenceRequest
from pipelines.evidence.rtstruct import create_rtstruct
from pipelines.evidence.views import CAUTION
from pipelines.manifest import CodeSpec
from pipelines.qct_femur.pipeline import run
from pipelines.result import SourceSeries
from pipelines.training.phantoms.dicom import ct_series

LEFT = CodeSpec(value="7771000", scheme="SCT", meaning="Left")


def _objects(request: EvidenceRequest) -> dict[str, Dataset]:
    """One of each kind; of the captures a page and a picture."""
    page, *pictures = create_captures(request)
    made = {
        "page": page,
        "picture": pictures[0] if pictures else None,
        "PDF": create_pdf(request),
        "RTSTRUCT": create_rtstruct(request),
        "KO": create_key_objects(request),
    }
    return {kind: ds for kind, ds in made.items() if ds is not None}


def _write(folder: Path, ds: Dataset) -> Path:
    path = folder / "object.dcm"
    path.write_bytes(encode(ds))
    return path


def _run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _verdicts(folder: Path, made: dict[str, Dataset]) -> dict[str, list[str]]:
    verdicts = {}
    for kind, ds in made.items():
        done = _run("/usr/bin/dciodvfy", "-new", _write(folder, ds))
        lines = (done.stdout + done.stderr).splitlines()
        assert lines, "dciodvfy said nothing"
        verdicts[kind] = [line for line in lines if line.startswith("Error")]
    return verdicts


def _without_body_part(source: SourceSeries) -> SourceSeries:
    for ds in source.datasets:
        del ds.BodyPartExamined
    return source


@pytest.mark.peer("dicom3tools")
@pytest.mark.parametrize("orientation", ["axial", "oblique", "sagittal"])
def test_dciodvfy_finds_no_error(tmp_path: Path, orientation: str) -> None:
    specs = (volumes.make_spec(1), volumes.make_spec(2, laterality=LEFT))
    source = documents.named_source(tmp_path, orientation)
    made = _objects(volumes.make_request(source, specs=specs))
    assert _verdicts(tmp_path, made) == {
        "page": [], "picture": [], "PDF": [], "RTSTRUCT": [], "KO": [],
    }  # fmt: skip


@pytest.mark.peer("dicom3tools")
def test_dciodvfy_finds_no_error_without_a_body_part(tmp_path: Path) -> None:
    source = _without_body_part(documents.named_source(tmp_path))
    verdicts = _verdicts(tmp_path, _objects(volumes.make_request(source)))
    assert set(map(tuple, verdicts.values())) == {()}


@pytest.mark.peer("dicom3tools")
def test_dciodvfy_finds_no_error_in_evidence_of_nuclear_medicine(tmp_path: Path) -> None:
    made = _objects(volumes.make_request(documents.nm_source(tmp_path)))
    verdicts = _verdicts(tmp_path, made)
    assert len(verdicts) == 5
    assert set(map(tuple, verdicts.values())) == {()}


@pytest.mark.peer("dicom3tools")
def test_dciodvfy_finds_no_error_when_nothing_is_found(tmp_path: Path) -> None:
    request = documents.nothing_found(documents.named_source(tmp_path))
    assert _verdicts(tmp_path, _objects(request)) == {"page": [], "PDF": []}


@pytest.mark.peer("dicom3tools")
def test_dciodvfy_finds_no_error_in_evidence_of_qct_femur(tmp_path: Path) -> None:
    """Private codes, sides, and one that is not seen."""
    volume = hips.scene(hips.grid(orientation="HPL"), sides=[1])
    source = SourceSeries(volume=volume, datasets=tuple(ct_series(volume, seed=3)))
    parameters = {**hips.PARAMETERS, "calibration_slope": 0.8}
    result = run(hips.model_that_sees_density(), {"ct": source}, parameters)
    request = volumes.make_request(
        source, result=result, manifest=hips.MANIFEST, parameters=parameters
    )
    verdicts = _verdicts(tmp_path, _objects(request))
    assert len(verdicts) == 5
    assert set(map(tuple, verdicts.values())) == {()}


@pytest.mark.peer("dcmtk")
def test_dcmtk_shows_the_captures_as_they_were_drawn(tmp_path: Path) -> None:
    for ds in create_captures(volumes.make_request(documents.named_source(tmp_path)))[:2]:
        picture = tmp_path / "picture.ppm"
        done = _run("/usr/bin/dcmj2pnm", "--write-raw-pnm", _write(tmp_path, ds), picture)
        assert (done.returncode, done.stderr) == (0, "")
        np.testing.assert_array_equal(_portable_pixmap(picture), documents.pixels(ds))


def _portable_pixmap(path: Path) -> NDArray[np.uint8]:
    content = path.read_bytes()
    magic, width, height, depth = content.split(maxsplit=4)[:4]
    assert (magic, depth) == (b"P6", b"255")
    shape = (int(height), int(width), 3)
    return np.frombuffer(content[-int(np.prod(shape)) :], np.uint8).reshape(shape)


@pytest.mark.peer("dcmtk")
def test_dcmdump_reads_every_kind(tmp_path: Path) -> None:
    for ds in _objects(volumes.make_request(documents.named_source(tmp_path))).values():
        done = _run("/usr/bin/dcmdump", "+P", "SOPInstanceUID", _write(tmp_path, ds))
        assert str(ds.SOPInstanceUID) in done.stdout
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.peer("dcmtk")
def test_dsrdump_prints_the_key_objects(tmp_path: Path) -> None:
    ds = create_key_objects(volumes.make_request(documents.named_source(tmp_path)))
    assert ds is not None
    done = _run("/usr/bin/dsrdump", "+Pl", _write(tmp_path, ds))
    assert done.returncode == 0
    assert "Key Object Selection Document" in done.stdout
    assert '<CONTAINER:(,,"Of Interest")' in done.stdout
    assert done.stdout.count("<contains IMAGE:") == 2
    assert "Where each segment is largest." in done.stdout
    assert not [line for line in done.stderr.splitlines() if line.startswith(("E:", "F:"))]


@pytest.mark.peer("poppler-utils")
def test_poppler_reads_the_report(tmp_path: Path) -> None:
    request = volumes.make_request(documents.named_source(tmp_path))
    ds = create_pdf(request)
    path = tmp_path / "report.pdf"
    path.write_bytes(ds.EncapsulatedDocument[: ds.EncapsulatedDocumentLength])
    done = _run("/usr/bin/pdftotext", "-layout", path, "-")
    assert (done.returncode, done.stderr) == (0, "")
    for text in (
        "Bone in CT", CAUTION, "Bone 2 is cut by the field of view.", "Bone 1", "Volume", "mL",
        "ct_bone 1.2.3, by OsteoNode", request.device_uid, "see the DICOM header", "page 1 of",
    ):  # fmt: skip
        assert text in done.stdout
    assert "secret" not in done.stdout.lower()
    fonts = _run("/usr/bin/pdffonts", path).stdout.splitlines()[2:]
    # Name, type, encoding, then whether it is embedded.
    assert fonts
    assert all(" yes yes yes " in line for line in fonts)
