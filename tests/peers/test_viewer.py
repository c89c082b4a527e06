"""What a radiologist sees: our SEG and SR in the real OHIF, driven in headless Chromium.

Screenshots are kept in `.venv/peers/pictures`: look at them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from functools import partial
from io import BytesIO
from pathlib import Path

import examples
import numpy as np
import pytest
import volumes
from npm import PEERS_FOLDER, unpacked_package
from orthanc import DICOMWEB, Orthanc, running_orthanc
from pydicom import Dataset
from scipy import ndimage
from viewer import Drawn, Viewer, open_viewer, running_site

from pipelines.evidence.outlines import WHOLE, outline_slices
from pipelines.evidence.proof import encode
from pipelines.evidence.refusal import create_refusal_sr
from pipelines.evidence.request import EvidenceRequest
from pipelines.evidence.seg import create_seg
from pipelines.evidence.sr import create_sr

pytestmark = [
    pytest.mark.peer("orthanc", "orthanc-dicomweb", "chromium", "fonts-dejavu-core"),
    pytest.mark.slow,
    pytest.mark.timeout(600),
]
PICTURES = PEERS_FOLDER / "pictures"
#: Labels of OHIF hold no more (DICOMSRDisplayTool).
_MOST_LINES = 5
#: Distance of a colour from the one that was recommended, per channel: CIELab and back.
_COLOUR_OFF = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A study that the viewer can open."""

    name: str
    uid: str
    request: EvidenceRequest


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with running_orthanc(tmp_path_factory.mktemp("orthanc"), plugins=[DICOMWEB]) as running:
        yield running


@pytest.fixture(scope="module")
def site(orthanc: Orthanc, from_npm: Callable[[Callable[[], Path]], Path]) -> Iterator[str]:
    folder = from_npm(partial(unpacked_package, "@ohif/app"))
    with running_site(folder / "dist", orthanc) as address:
        yield address


@pytest.fixture(scope="module", params=["bones", *examples.EXAMPLES])
def shown(
    request: pytest.FixtureRequest, orthanc: Orthanc, tmp_path_factory: pytest.TempPathFactory
) -> Shown:
    """The example of each pipeline, in Orthanc with its SEG and SR."""
    made = {"bones": examples.bones, **examples.EXAMPLES}[request.param]
    example = made(tmp_path_factory.mktemp(request.param))
    PICTURES.mkdir(parents=True, exist_ok=True)
    return Shown(name=request.param, uid=_store(orthanc, example), request=example.request)


def _store(orthanc: Orthanc, example: examples.Example) -> str:
    """Send the study with SEG and SR; its UID."""
    for ds in example.instances:
        orthanc.put(_encoded(ds))
    seg = create_seg(example.request)
    orthanc.put(encode(seg))
    orthanc.put(encode(create_sr(example.request, seg, contours=True)))
    return str(example.instances[0].StudyInstanceUID)


def _encoded(ds: Dataset) -> bytes:
    buffer = BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


# -- what is expected ---------------------------------------------------------------------------


def _lines(request: EvidenceRequest, number: int) -> list[str]:
    """The label of a segment, or of the whole result (0): measurements, and finding site."""
    lines = [
        f"{item.name.meaning}: {_two_decimals(item.value)} {item.unit.value}"
        for item in request.result.measurements
        if item.segment_number == (number or None)
    ]
    if number != WHOLE:
        spec = request.result.segments[number - 1].spec
        anatomical = spec.category.meaning.lower() == "anatomical structure"
        site = spec.site or (spec.type if anatomical else None)
        # SCT 363698007: Finding Site.
        lines += [f"363698007: {site.meaning}"] if site else []
    return lines[:_MOST_LINES]


def _two_decimals(value: float) -> str:
    """A number as OHIF writes it: halves go away from zero (ECMA-262, Number.prototype.toFixed); of zero, nothing."""
    if not value:
        return ""
    return str(Decimal(value).quantize(Decimal("0.01"), ROUND_HALF_UP))


def _placed(request: EvidenceRequest, points: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """(column, row) from the first pixel's corner -> where it is in a viewport of (rows, columns) pixels.

    The image fills the viewport, middle on middle, rows down and columns to the right.
    """
    _, height, width = request.source.volume.spacing
    rows, columns = request.source.volume.shape[1:]
    scale = min(shape[0] / (rows * height), shape[1] / (columns * width))
    middle = np.array([columns, rows]) / 2
    places: np.ndarray = (points - middle) * (width, height) * scale
    return places + np.array([shape[1], shape[0]]) / 2


def _box(request: EvidenceRequest, mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """First and last x and y of a mask in the viewport: ((x, y), (x, y))."""
    rows, columns = np.nonzero(mask)
    corners = np.array([[columns.min(), rows.min()], [columns.max() + 1, rows.max() + 1]])
    return _placed(request, corners, shape)


def _pixel(request: EvidenceRequest, shape: tuple[int, ...]) -> float:
    """The side of an image's pixel in the viewport, the longer one."""
    one = _placed(request, np.array([[0, 0], [1, 1]]), shape)
    return float(np.abs(one[1] - one[0]).max())


# -- what is seen -------------------------------------------------------------------------------


def _index_shown(viewer: Viewer, request: EvidenceRequest) -> int:
    """The slice of the label map that the viewer shows."""
    text = viewer.slice_text()
    if request.source.frame_numbers:
        (frame,) = re.findall(r"\((\d+)/", text)
        return request.source.frame_numbers.index(int(frame))
    (number,) = re.findall(r"I:(\d+)", text)
    numbers = [int(ds.InstanceNumber) for ds in request.source.datasets]
    return numbers.index(int(number))


def _check_segments(viewer: Viewer, request: EvidenceRequest) -> None:
    """Each segment of the slice that is shown has its colour, in its place."""
    pixels = viewer.viewport()
    plane = request.result.label_map.array[_index_shown(viewer, request)]
    shown = [segment for segment in request.result.segments if (plane == segment.number).any()]
    assert shown, "the viewer does not show a slice with segments"
    slack = 1.5 * _pixel(request, pixels.shape)
    for segment in shown:
        off = np.abs(pixels.astype(int) - segment.spec.rgb).max(axis=2)
        rows, columns = np.nonzero(off <= _COLOUR_OFF)
        assert rows.size > 20, f"{segment.label} is not drawn"
        seen = np.array([[columns.min(), rows.min()], [columns.max() + 1, rows.max() + 1]])
        same = [s.number for s in shown if s.spec.rgb == segment.spec.rgb]
        expected = _box(request, np.isin(plane, same), pixels.shape)
        np.testing.assert_allclose(seen, expected, atol=slack, err_msg=segment.label)


def _largest_part(mask: np.ndarray) -> np.ndarray:
    """The part that, its holes filled, is largest."""
    places, count = ndimage.label(mask)
    parts = [ndimage.binary_fill_holes(places == number) for number in range(1, count + 1)]
    return np.asarray(max(parts, key=np.count_nonzero))


def _check_outline(
    drawn: Drawn, request: EvidenceRequest, mask: np.ndarray, shape: tuple[int, ...]
) -> None:
    """The outline lies around the largest part of the segment, to a tenth of a pixel of the image."""
    seen = np.array([drawn.points.min(axis=0), drawn.points.max(axis=0)])
    expected = _box(request, _largest_part(mask), shape)
    slack = 0.1 * _pixel(request, shape) + 0.1
    np.testing.assert_allclose(seen, expected, atol=slack)


def _check_picture(pixels: np.ndarray, drawn: Drawn) -> None:
    """The outline is in the picture, in its colour, where the page says that it is."""
    (left, top), (right, bottom) = (
        np.floor(drawn.points.min(axis=0)).astype(int) - 2,
        np.ceil(drawn.points.max(axis=0)).astype(int) + 3,
    )
    part = pixels[max(top, 0) : bottom, max(left, 0) : right].astype(int)
    # A dashed line of 1.5 pixels is blended with what lies below.
    close = np.abs(part - drawn.rgb).max(axis=2) < 100
    assert close.sum() > 5, "the outline is not in the picture"


def _check_report(viewer: Viewer, request: EvidenceRequest) -> None:
    """Going from measurement to measurement, the viewer shows each segment's outline and label on its slice."""
    slices = outline_slices(request.result)
    numbers = {request.tracking_uid(number): number for number in slices}
    labels, missing = request.result.label_map.array, set(slices)
    for _ in range(2 * len(slices) + 2):
        index, found = _index_shown(viewer, request), viewer.drawn()
        pixels = viewer.viewport()
        for drawn in found:
            number = numbers[drawn.uid]
            assert slices[number] == index
            assert list(drawn.lines) == _lines(request, number)
            if number != WHOLE:
                _check_outline(drawn, request, labels[index] == number, pixels.shape)
            _check_picture(pixels, drawn)
            missing.discard(number)
        if not missing:
            return
        viewer.next_measurement()
    raise AssertionError(f"never shown: {sorted(missing)}")


def test_ohif_draws_the_seg(shown: Shown, site: str) -> None:
    with open_viewer(site, shown.uid) as viewer:
        viewer.open("SEG")
        viewer.confirm()
        viewer.wait_for_colour(shown.request.result.segments[0].spec.rgb)
        viewer.picture(PICTURES / f"{shown.name}-seg.png")
        _check_segments(viewer, shown.request)


def test_ohif_opens_the_report_at_its_outlines(shown: Shown, site: str) -> None:
    with open_viewer(site, shown.uid) as viewer:
        viewer.open("SR")
        viewer.drawn()
        viewer.picture(PICTURES / f"{shown.name}-sr.png")
        _check_report(viewer, shown.request)


@pytest.mark.parametrize("name", ["refusal", "nothing"])
def test_ohif_shows_a_report_without_measurements_as_text(
    name: str, orthanc: Orthanc, site: str, tmp_path: Path
) -> None:
    seed = {"refusal": 41, "nothing": 42}[name]
    source = examples.empty_study(tmp_path, seed=seed)
    for ds in source.instances:
        orthanc.put(_encoded(ds))
    request = source.request
    refusal = volumes.make_refusal([request.source.datasets])
    report = (
        create_refusal_sr(refusal) if name == "refusal" else create_sr(request, None, contours=True)
    )
    orthanc.put(encode(report))
    with open_viewer(site, str(source.instances[0].StudyInstanceUID)) as viewer:
        viewer.open("SR")
        title = {"refusal": "Analysis not done", "nothing": "Nothing was segmented"}[name]
        text = viewer.text_with(title)
        viewer.picture(PICTURES / f"{name}-sr.png")
    assert ("The series shows no trunk." if name == "refusal" else "No voxel was segmented") in text
