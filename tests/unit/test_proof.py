"""A SEG that does not say what the label map says is refused, whatever is wrong with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import volumes
from numpy.typing import NDArray
from pydicom import Dataset

from pipelines.errors import UnprovenError
from pipelines.evidence.proof import prove
from pipelines.evidence.request import EvidenceRequest
from pipelines.evidence.seg import create_seg
from pipelines.series import read_series

Masks = NDArray[np.uint8]


def _request(folder: Path, orientation: str = "axial") -> EvidenceRequest:
    return volumes.make_request(read_series(volumes.write_series(folder, orientation=orientation)))


def _seg(request: EvidenceRequest) -> Dataset:
    seg = create_seg(request)
    assert seg is not None
    return seg


@pytest.mark.parametrize("orientation", volumes.ORIENTATIONS)
def test_our_own_seg_is_proven(tmp_path: Path, orientation: str) -> None:
    request = _request(tmp_path, orientation)
    residuals = prove(_seg(request), request.result, request.source)
    array = volumes.make_volume().array
    for residual, value in zip(residuals, (400, 700), strict=True):
        voxels = int((array == value).sum())
        assert residual.voxels == voxels
        assert (residual.voxels_off, residual.voxels_differing) == (0, 0)
        assert residual.volume_ml == pytest.approx(voxels * np.prod(volumes.SPACING) / 1000)
        assert residual.volume_off_ml == pytest.approx(0, abs=1e-6)
        assert residual.centroid_off_mm == pytest.approx(0, abs=1e-4)


def _pixels(seg: Dataset) -> bytes:
    """Pixel Data; that of an object never written is a stream."""
    value = seg.PixelData
    if isinstance(value, bytes):
        return value
    value.seek(0)
    content: bytes = value.read()
    value.seek(0)
    return content


def _masks(seg: Dataset) -> Masks:
    bits = np.unpackbits(np.frombuffer(_pixels(seg), np.uint8), bitorder="little")
    shape = (int(seg.NumberOfFrames), int(seg.Rows), int(seg.Columns))
    return bits[: np.prod(shape)].reshape(shape)


def _set_masks(change: Callable[[Masks], Masks]) -> Callable[[Dataset], None]:
    def spoil(seg: Dataset) -> None:
        packed = np.packbits(change(_masks(seg)).ravel(), bitorder="little").tobytes()
        seg.PixelData = packed + b"\x00" * (len(packed) % 2)

    return spoil


def _one_voxel_more(masks: Masks) -> Masks:
    changed = masks.copy()
    changed[0, 0, 0] = 1
    return changed


def _mirror_positions(seg: Dataset) -> None:
    frames = seg.PerFrameFunctionalGroupsSequence
    positions = [item.PlanePositionSequence for item in frames]
    for item, position in zip(frames, positions[::-1], strict=True):
        item.PlanePositionSequence = position


def _mirror_columns(seg: Dataset) -> None:
    """Rows run the other way, said by the orientation alone: the masks are as they were."""
    plane = seg.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0]
    plane.ImageOrientationPatient = [-1, 0, 0, 0, 1, 0]


def _shift(seg: Dataset) -> None:
    for item in seg.PerFrameFunctionalGroupsSequence:
        item.PlanePositionSequence[0].ImagePositionPatient[0] += volumes.SPACING[2]


def _swap_segments(seg: Dataset) -> None:
    first, second = seg.SegmentSequence
    first.TrackingID, second.TrackingID = second.TrackingID, first.TrackingID


def _other_spacing(seg: Dataset) -> None:
    seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing = [0.8, 0.8]


def _thinner(seg: Dataset) -> None:
    seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SpacingBetweenSlices = 1.0


def _lose_a_frame(seg: Dataset) -> None:
    masks = _masks(seg)
    del seg.PerFrameFunctionalGroupsSequence[2]
    seg.NumberOfFrames -= 1
    _set_masks(lambda _: np.delete(masks, 2, axis=0))(seg)


def _cut_pixels(seg: Dataset) -> None:
    seg.PixelData = _pixels(seg)[:-300]


def _other_frame_of_reference(seg: Dataset) -> None:
    seg.FrameOfReferenceUID = "2.25.99"


def _unknown_segment(seg: Dataset) -> None:
    seg.SegmentSequence[0].TrackingID = "Somebody's bone"


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(_set_masks(lambda masks: masks[:, :, ::-1]), id="columns flipped"),
        pytest.param(_set_masks(lambda masks: masks[:, ::-1, :]), id="rows flipped"),
        pytest.param(_set_masks(lambda masks: masks[::-1]), id="frames reversed"),
        pytest.param(_set_masks(lambda masks: np.roll(masks, 1, axis=2)), id="shifted by a pixel"),
        pytest.param(_set_masks(_one_voxel_more), id="one voxel more"),
        pytest.param(_mirror_positions, id="positions reversed"),
        pytest.param(_mirror_columns, id="orientation mirrored"),
        pytest.param(_shift, id="positions shifted by a pixel"),
        pytest.param(_swap_segments, id="segments swapped"),
        pytest.param(_other_spacing, id="other pixel spacing"),
        pytest.param(_thinner, id="other slice spacing"),
        pytest.param(_lose_a_frame, id="a frame lost"),
        pytest.param(_cut_pixels, id="pixels cut"),
        pytest.param(_other_frame_of_reference, id="other frame of reference"),
        pytest.param(_unknown_segment, id="unknown segment"),
    ],
)
def test_a_spoilt_seg_is_refused(tmp_path: Path, spoil: Callable[[Dataset], None]) -> None:
    request = _request(tmp_path)
    seg = _seg(request)
    spoil(seg)
    with pytest.raises(UnprovenError) as raised:
        prove(seg, request.result, request.source)
    assert raised.value.code == "evidence-unproven"


def test_a_mask_that_is_its_own_mirror_image_is_refused_by_its_place(tmp_path: Path) -> None:
    """Count, volume and centroid of two blocks side by side are those of their mirror image."""
    source = read_series(volumes.write_series(tmp_path))
    labels = np.zeros(volumes.SHAPE, np.uint8)
    labels[3, 10:20, 5], labels[4, 10:20, 37] = 1, 1
    labels[4, 10:20, 6], labels[3, 10:20, 36] = 1, 1
    specs = (volumes.make_spec(1),)
    request = volumes.make_request(
        source,
        specs=specs,
        result=volumes.make_result(source, specs, source.volume.with_array(labels)),
    )
    seg = _seg(request)
    _set_masks(lambda masks: masks[:, :, ::-1])(seg)
    with pytest.raises(UnprovenError, match="in another place"):
        prove(seg, request.result, request.source)
