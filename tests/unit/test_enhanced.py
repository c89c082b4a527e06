"""Enhanced CT and MR: each frame in its place, values as its functional groups say, and refusals by name."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import enhanced
import numpy as np
import pytest
import volumes
from pydicom import Dataset

from pipelines.errors import InputError
from pipelines.series import read_series


@pytest.mark.parametrize("modality", enhanced.SOP_CLASSES)
@pytest.mark.parametrize("orientation", volumes.ORIENTATIONS)
def test_frames_lie_where_the_slices_were(tmp_path: Path, orientation: str, modality: str) -> None:
    source = read_series(enhanced.write_enhanced(tmp_path, orientation, modality))

    made = volumes.make_volume(orientation)
    place = np.argwhere(source.volume.array == volumes.MARK_VALUE)
    expected = made.affine @ [*volumes.MARK, 1]
    np.testing.assert_allclose(
        source.volume.map_indices_to_reference(place)[0], expected[:3], atol=1e-6
    )
    assert source.volume.array.dtype == np.int16
    assert sorted(source.frame_numbers) == list(range(1, volumes.SHAPE[0] + 1))
    for index, ds in enumerate(source.datasets):
        np.testing.assert_allclose(
            np.array(ds.ImagePositionPatient, float),
            source.volume.map_indices_to_reference(np.array([[index, 0, 0]]))[0],
            atol=1e-6,
        )
        assert "PixelData" not in ds
        assert "PerFrameFunctionalGroupsSequence" not in ds


def test_a_frame_may_have_its_own_rescale(tmp_path: Path) -> None:
    def change(ds: Dataset) -> None:
        (shared,) = ds.SharedFunctionalGroupsSequence
        (said,) = shared.PixelValueTransformationSequence
        del shared.PixelValueTransformationSequence
        for number, item in enumerate(ds.PerFrameFunctionalGroupsSequence):
            own = deepcopy(said)
            own.RescaleIntercept = said.RescaleIntercept + number
            item.PixelValueTransformationSequence = [own]

    source = read_series(enhanced.write_enhanced(tmp_path, change=change))
    plain = volumes.make_volume().array
    for index, number in enumerate(source.frame_numbers):
        np.testing.assert_array_equal(source.volume.array[index], plain[index] + number - 1)


def _tilt(ds: Dataset) -> None:
    for item in ds.PerFrameFunctionalGroupsSequence:
        place = item.PlanePositionSequence[0]
        x, y, z = place.ImagePositionPatient
        place.ImagePositionPatient = [x, y + 0.3 * (z - 100), z]


def _time_series(ds: Dataset) -> None:
    frames = ds.PerFrameFunctionalGroupsSequence
    frames[1].PlanePositionSequence = frames[0].PlanePositionSequence


def _lose_a_group(ds: Dataset) -> None:
    del ds.PerFrameFunctionalGroupsSequence[3]


def _lose_the_orientation(ds: Dataset) -> None:
    del ds.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence


def _keep_one(ds: Dataset) -> None:
    del ds.PerFrameFunctionalGroupsSequence[1:]
    ds.NumberOfFrames = 1
    ds.PixelData = ds.PixelData[: len(ds.PixelData) // volumes.SHAPE[0]]


def _cut(ds: Dataset) -> None:
    ds.PixelData = ds.PixelData[:1000]


@pytest.mark.parametrize(
    ("code", "spoil"),
    [
        ("input-gantry-tilt", _tilt),
        ("input-duplicate-positions", _time_series),
        ("input-no-geometry", _lose_a_group),
        ("input-no-geometry", _lose_the_orientation),
        ("input-too-few-slices", _keep_one),
        ("input-declared-size", _cut),
    ],
)
def test_what_is_no_volume_is_refused(
    tmp_path: Path, code: str, spoil: Callable[[Dataset], None]
) -> None:
    with pytest.raises(InputError) as refused:
        read_series(enhanced.write_enhanced(tmp_path, change=spoil))
    assert refused.value.code == code


def test_two_volumes_in_a_series_are_refused(tmp_path: Path) -> None:
    (path,) = enhanced.write_enhanced(tmp_path)
    with pytest.raises(InputError) as refused:
        read_series([path, path])
    assert refused.value.code == "input-several-volumes"
