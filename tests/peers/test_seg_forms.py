"""What dciodvfy and dcmqi make of every form of a SEG; neither shares code with us."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import segs
import SimpleITK as sitk
import volumes
from numpy.typing import NDArray

from pipelines.evidence.proof import encode
from pipelines.evidence.seg import SegForm, create_seg
from pipelines.result import SourceSeries

Points = NDArray[np.float64]

#: From PyPI (extra `dev`), beside the interpreter.
SEGIMAGE2ITKIMAGE = Path(sys.executable).with_name("segimage2itkimage")
#: What Debian's dciodvfy of 2022 says of any label map, which came to the standard in 2024.
TOO_NEW = ("Error - Information Object Not found", "(from one) with SegmentNumber of 0")
#: The forms that dcmqi 1.5.7 reads. Its DCMTK decodes no RLE of single bits (DCMTK #1178) and takes JPEG-LS for lossy.
READ_BY_DCMQI = ("binary, native", "labelmap, native", "labelmap, rle")
#: The dciodvfy of 2022 takes a quarter of an hour for 3,000 frames.
SHORT = [name for name in segs.SOURCES if name != "2,000 slices"]


def _write(source: SourceSeries, form: SegForm, folder: Path) -> Path:
    seg = create_seg(volumes.make_request(source), form)
    assert seg is not None
    path = folder / "seg.dcm"
    path.write_bytes(encode(seg))
    return path


@pytest.mark.peer("dicom3tools")
@pytest.mark.parametrize("form", segs.FORMS)
@pytest.mark.parametrize("name", SHORT)
def test_dciodvfy_finds_no_error(tmp_path: Path, name: str, form: str) -> None:
    path = _write(segs.SOURCES[name](tmp_path), segs.FORMS[form], tmp_path)
    done = subprocess.run(
        ["/usr/bin/dciodvfy", "-new", str(path)], capture_output=True, text=True, check=False
    )
    lines = (done.stdout + done.stderr).splitlines()
    assert lines, "dciodvfy said nothing"
    errors = [line for line in lines if line.startswith("Error")]
    if form.startswith("labelmap"):
        errors = [line for line in errors if not line.endswith(TOO_NEW)]
    assert errors == []


@pytest.mark.parametrize("form", READ_BY_DCMQI)
@pytest.mark.parametrize("name", segs.SOURCES)
def test_dcmqi_reads_the_same_segments_in_the_same_place(
    tmp_path: Path, name: str, form: str
) -> None:
    if not SEGIMAGE2ITKIMAGE.exists():
        pytest.skip("dcmqi is not installed (pip install dcmqi)")
    source = segs.SOURCES[name](tmp_path)
    path, out = _write(source, segs.FORMS[form], tmp_path), tmp_path / "out"
    out.mkdir()
    subprocess.run(
        [SEGIMAGE2ITKIMAGE, "--inputDICOM", path, "--outputDirectory", out, "-t", "nrrd"],
        check=True,
        capture_output=True,
    )

    read = [sitk.ReadImage(file) for file in sorted(out.glob("*.nrrd"))]
    labels = volumes.make_label_map(source)
    numbers = [number for number in (1, 2) if (labels.array == number).any()]
    assert len(read) == (1 if form.startswith("labelmap") else len(numbers))
    for rank, number in enumerate(numbers, start=1):
        expected = np.argwhere(labels.array == number) @ labels.affine[:3, :3].T
        found = np.concatenate([_points(image, rank) for image in read])
        np.testing.assert_allclose(
            _sorted(found), _sorted(expected + labels.affine[:3, 3]), atol=1e-3
        )


def _points(image: sitk.Image, value: int) -> Points:
    """Where the voxels of a value lie, LPS mm; shape (voxels, 3)."""
    indices = np.argwhere(sitk.GetArrayFromImage(image) == value)[:, ::-1]
    direction = np.array(image.GetDirection()).reshape(3, 3)
    points: Points = (indices * image.GetSpacing()) @ direction.T + image.GetOrigin()
    return points


def _sorted(points: Points) -> Points:
    rounded = np.round(points, 2)
    return points[np.lexsort(rounded.T)]
