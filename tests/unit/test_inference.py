"""Slice-wise inference: the result lies where the source lies, whatever the network's grid."""

import highdicom as hd
import numpy as np
import pytest
import torch
from torch import nn

from pipelines.inference import (
    Box,
    PatchInference,
    SliceInference,
    bounding_box,
    mirrored,
    segment_patches,
    segment_slices,
)


class Threshold(nn.Module):
    """Says yes where the image is above zero; remembers what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(50.0))
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.shapes.append(tuple(image.shape))
        return image * self.gain


class LeftHalf(nn.Module):
    """Says yes on the left half of the array, whatever the image: no mirror symmetry at all."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(50.0))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        ramp = torch.linspace(1, -1, image.shape[-1]).expand_as(image)
        return ramp * self.gain


def _volume(array: np.ndarray, pixel: float = 1.0) -> hd.Volume:
    return hd.Volume.from_components(
        array, spacing=(3.0, pixel, pixel), coordinate_system="PATIENT",
        position=(0, 0, 0), patient_orientation="FPL",
    )  # fmt: skip


def _whole(volume: hd.Volume) -> Box:
    return Box(slices=(0, volume.shape[0]), rows=(0, volume.shape[1]), columns=(0, volume.shape[2]))


def _disc(rows: int, columns: int, radius: float) -> np.ndarray:
    y, x = np.mgrid[:rows, :columns]
    inside = np.hypot(y - rows * 0.4, x - columns * 0.6) < radius
    return np.where(inside, 1.0, -1.0).astype(np.float32)


def test_same_spacing_gives_every_pixel_back() -> None:
    volume = _volume(np.stack([_disc(50, 70, 5 + k) for k in range(5)]))
    how = SliceInference(pixel_spacing=1.0, stride=16, batch_size=2)
    found = segment_slices(Threshold(), volume, lambda a: a, _whole(volume), how)
    assert found.geometry_equal(volume)
    assert found.array.dtype == np.uint8
    np.testing.assert_array_equal(found.array == 1, volume.array > 0)


@pytest.mark.parametrize("pixel", [0.5, 0.7, 1.6])
def test_other_spacing_is_resampled_there_and_back(pixel: float) -> None:
    volume = _volume(_disc(128, 160, 30)[None].repeat(3, 0), pixel)
    network = Threshold()
    how = SliceInference(pixel_spacing=1.0, stride=16)
    found = segment_slices(network, volume, lambda a: a, _whole(volume), how)
    # The network saw 1 mm, padded to its stride.
    (shape,) = network.shapes
    assert shape == (3, 1, -(-round(128 * pixel) // 16) * 16, -(-round(160 * pixel) // 16) * 16)
    overlap = 2 * ((found.array == 1) & (volume.array > 0)).sum()
    assert overlap / (found.array.sum() + (volume.array > 0).sum()) > 0.98
    # No shift: the centres agree to a tenth of a pixel.
    for mask in (found.array[0] == 1,):
        centre = np.argwhere(mask).mean(axis=0)
        truth = np.argwhere(volume.array[0] > 0).mean(axis=0)
        np.testing.assert_allclose(centre, truth, atol=0.1)


def test_batches_bound_what_the_network_gets_at_once() -> None:
    volume = _volume(np.ones((7, 32, 32), np.float32))
    network = Threshold()
    how = SliceInference(pixel_spacing=1.0, stride=16, batch_size=3)
    segment_slices(network, volume, lambda a: a, _whole(volume), how)
    assert [shape[0] for shape in network.shapes] == [3, 3, 1]


def test_only_the_box_is_segmented() -> None:
    volume = _volume(np.ones((2, 40, 60), np.float32))
    box = Box(slices=(0, 2), rows=(10, 30), columns=(5, 55))
    how = SliceInference(pixel_spacing=1.0, stride=16)
    found = segment_slices(Threshold(), volume, lambda a: a, box, how).array
    assert found[:, 10:30, 5:55].all()
    assert found.sum() == 2 * 20 * 50


def test_modality_values_are_prepared_batch_by_batch() -> None:
    volume = _volume(np.full((4, 16, 16), 300, np.int16))
    how = SliceInference(pixel_spacing=1.0, stride=16, batch_size=2)
    found = segment_slices(
        Threshold(), volume, lambda a: (a - 200).astype(np.float32), _whole(volume), how
    )
    assert found.array.all()


def test_mirrored_answers_are_averaged() -> None:
    volume = _volume(np.zeros((1, 16, 64), np.float32))
    how = SliceInference(pixel_spacing=1.0, stride=16, threshold=0.51)
    half = segment_slices(LeftHalf(), volume, lambda a: a, _whole(volume), how).array
    assert half[..., :32].all()
    assert not half[..., 32:].any()
    both = segment_slices(mirrored(LeftHalf()), volume, lambda a: a, _whole(volume), how).array
    assert not both.any()


def test_what_is_left_is_right_in_a_mirror() -> None:
    """Classes: nothing, left, right; a network that is sure of both sides in any image."""

    class Sides(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.tensor(50.0))

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            ramp = torch.linspace(1, -1, image.shape[-1]).expand_as(image) * self.gain
            return torch.cat([torch.zeros_like(ramp), ramp, -ramp], dim=1)

    volume = _volume(np.zeros((2, 16, 64), np.float32))
    how = SliceInference(pixel_spacing=1.0, stride=16)
    twice = mirrored(Sides(), sides=(0, 2, 1))
    found = segment_slices(twice, volume, lambda a: a, _whole(volume), how).array
    assert (found[..., :32] == 1).all()
    assert (found[..., 32:] == 2).all()
    patches = PatchInference(spacing=(3.0, 1.0, 1.0), patch=(2, 16, 64))
    found = segment_patches(twice, volume, lambda a: a, _whole(volume), patches).array
    assert (found[..., :32] == 1).all()
    assert (found[..., 32:] == 2).all()


def test_bounding_box_has_its_margin_and_stays_in_the_image() -> None:
    mask = np.zeros((3, 50, 60), bool)
    mask[1, 20, 30] = mask[2, 22, 58] = True
    box = bounding_box(_volume(mask, 2.0), margin_mm=7)
    assert box == Box(slices=(0, 3), rows=(16, 27), columns=(26, 60))
    assert bounding_box(_volume(np.zeros((3, 5, 5), bool)), margin_mm=7) is None
