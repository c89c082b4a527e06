"""What OHIF's libraries make of our SEG and SR: cornerstone's and dcmjs's adapters, run by Node.js."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import volumes
from highdicom import Volume
from npm import node_packages

from pipelines.evidence.outlines import outline_slices
from pipelines.evidence.proof import encode
from pipelines.evidence.request import EvidenceRequest
from pipelines.evidence.seg import create_seg, segment_numbers
from pipelines.evidence.sr import create_sr
from pipelines.series import read_series
from pipelines.training.phantoms.dicom import SeriesOptions, write_ct_series

pytestmark = [pytest.mark.peer("nodejs", "npm"), pytest.mark.slow]
READER = Path(__file__).parent / "npm" / "read.mjs"


@pytest.fixture(scope="module")
def packages(from_npm: Callable[[Callable[[], Path]], Path]) -> Path:
    return from_npm(node_packages)


@pytest.mark.parametrize(
    ("orientation", "reverse"),
    [("axial", False), ("axial", True), ("axial, columns flipped", False), ("oblique", False)],
)
def test_they_read_the_same_labels_volumes_and_slices(
    packages: Path, tmp_path: Path, orientation: str, reverse: bool
) -> None:
    paths = _write(tmp_path, orientation, SeriesOptions(reverse=reverse))
    request = volumes.make_request(read_series(paths))
    read = _read(packages, tmp_path, request, paths)
    _check_segments(read["seg"], request)
    _check_report(read["sr"], request)


def test_they_read_a_seg_without_its_empty_segments(packages: Path, tmp_path: Path) -> None:
    paths = _write(tmp_path, "axial", SeriesOptions())
    source = read_series(paths)
    specs = [volumes.make_spec(number) for number in (1, 2, 3)]
    labels = source.volume.with_array((source.volume.array == 700).astype(np.uint8) * 2)
    result = volumes.make_result(source, specs, labels)
    request = volumes.make_request(source, specs=specs, result=result)
    read = _read(packages, tmp_path, request, paths)
    _check_segments(read["seg"], request)
    _check_report(read["sr"], request)


def _write(folder: Path, orientation: str, options: SeriesOptions) -> list[Path]:
    """Files of a series of square pixels.

    cornerstone 5.6.8 takes the distance of rows for that of columns where it places what an SR draws
    (`imageToWorldCoords`): nobody's outlines are right on others.
    """
    made = volumes.make_volume(orientation)
    affine = made.affine.copy()
    affine[:3, 2] *= made.spacing[1] / made.spacing[2]
    square = Volume(array=made.array, affine=affine, coordinate_system="PATIENT")
    return write_ct_series(square, folder, seed=7, options=options)


def _read(packages: Path, folder: Path, request: EvidenceRequest, images: list[Path]) -> Any:
    """What the adapters understand, as `read.mjs` prints it."""
    seg = create_seg(request)
    for name, ds in (("seg", seg), ("sr", create_sr(request, seg, contours=True))):
        (folder / f"made-{name}").write_bytes(encode(ds))
    # Node.js looks for packages beside the script.
    reader = packages / READER.name
    reader.write_bytes(READER.read_bytes())
    done = subprocess.run(
        ["node", reader, folder / "made-seg", folder / "made-sr", *images],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def _check_segments(seg: Any, request: EvidenceRequest) -> None:
    numbers = segment_numbers(request.result)
    assert not seg["overlapping"]
    assert seg["segments"] == [
        {
            "number": numbers[segment.number],
            "label": segment.label,
            "tracking": request.tracking_uid(segment.number),
        }
        for segment in request.result.segments
        if segment.number in numbers
    ]
    source, labels = request.source, request.result.label_map.array
    for ds, plane in zip(source.datasets, labels, strict=True):
        expected = np.zeros_like(plane)
        for number, written in numbers.items():
            expected[plane == number] = written
        read = np.array(seg["labels"][str(ds.SOPInstanceUID)]).reshape(plane.shape)
        np.testing.assert_array_equal(read, expected)


def _check_report(report: Any, request: EvidenceRequest) -> None:
    source, labels = request.source, request.result.label_map
    slices = outline_slices(request.result)
    volume_of = {
        request.tracking_uid(number): np.count_nonzero(labels.array == number)
        * float(labels.voxel_volume)
        / 1000
        for number in slices
    }
    assert report["volumes"] == pytest.approx(volume_of)
    outlines = {item["tracking"]: item for item in report["outlines"]}
    assert len(outlines) == len(report["outlines"])
    assert set(outlines) == set(volume_of)
    for number, index in slices.items():
        outline = outlines[request.tracking_uid(number)]
        assert outline["image"] == source.datasets[index].SOPInstanceUID
        assert outline["finding"] == request.result.segments[number - 1].spec.type.meaning
        # LPS mm back to indices: the line runs half a pixel outside of the pixels.
        assert outline["points"][0] == outline["points"][-1]
        points = source.volume.map_reference_to_indices(np.array(outline["points"]))
        np.testing.assert_allclose(points[:, 0], index, atol=1e-3)
        inside = np.argwhere(labels.array[index] == number)
        np.testing.assert_allclose(points[:, 1:].min(axis=0), inside.min(axis=0) - 0.5, atol=1e-3)
        np.testing.assert_allclose(points[:, 1:].max(axis=0), inside.max(axis=0) + 0.5, atol=1e-3)
