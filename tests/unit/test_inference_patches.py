"""Patch-wise inference: what comes back is what the network says, where the source says it is."""

import highdicom as hd
import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn
from torch.nn import functional

from pipelines.inference import (
    Box,
    PatchInference,
    bounding_box,
    put_back,
    resample,
    segment_patches,
)

ODD_SPACING = (1.3, 0.9, 1.1)


class Pointwise(nn.Module):
    """Several classes, each voxel by itself: patches must give what the whole image gives."""

    def __init__(self, classes: int = 1) -> None:
        super().__init__()
        numbers = torch.arange(classes, dtype=torch.float32).view(1, classes, 1, 1, 1)
        self.gain = nn.Parameter(numbers + 1)
        self.bias = nn.Parameter(-(numbers**2) / 8)
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.shapes.append(tuple(image.shape))
        return image * self.gain + self.bias


def _clouds(shape: tuple[int, int, int]) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, 30, shape)
    return np.asarray(ndimage.gaussian_filter(noise, 3), np.float32)


def _volume(array: np.ndarray, spacing: tuple[float, ...] = ODD_SPACING) -> hd.Volume:
    return hd.Volume.from_components(
        array, spacing=spacing, coordinate_system="PATIENT",
        position=(5, 6, 7), patient_orientation="FPL",
    )  # fmt: skip


def _whole(volume: hd.Volume) -> Box:
    slices, rows, columns = volume.shape
    return Box(slices=(0, slices), rows=(0, rows), columns=(0, columns))


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("spacing", [ODD_SPACING, (2, 2, 2), (0.8, 1.5, 1), (5, 1, 1)])
def test_patches_say_what_the_whole_image_says(
    classes: int, spacing: tuple[float, float, float]
) -> None:
    volume = _volume(_clouds((73, 60, 50)))
    box = Box(slices=(3, 70), rows=(4, 55), columns=(0, 50))
    network = Pointwise(classes).eval()
    how = PatchInference(spacing=spacing, patch=(16, 24, 24), source_slices=5)
    found = segment_patches(network, volume, lambda image: image, box, how)

    image = torch.from_numpy(resample(volume[box.index], spacing).array)[None, None]
    with torch.inference_mode():
        logits = functional.interpolate(
            network(image), size=box.shape, mode="trilinear", align_corners=False
        )
    expected = np.zeros(volume.shape, np.uint8)
    expected[box.index] = (logits[:, 0] >= 0 if classes == 1 else logits.argmax(1))[0].numpy()
    assert found.geometry_equal(volume)
    assert found.array.dtype == np.uint8
    assert len(np.unique(expected)) == max(2, classes)
    # Sums in another order decide a voxel in a million otherwise.
    assert (found.array != expected).sum() <= 2


def test_memory_is_bound_by_layers_of_patches_and_not_by_the_volume(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shapes: list[tuple[int, ...]] = []
    interpolate = functional.interpolate

    def counted(image: torch.Tensor, **how: object) -> torch.Tensor:
        shapes.append(tuple(image.shape))
        return interpolate(image, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(functional, "interpolate", counted)
    volume = _volume(_clouds((90, 40, 40)), (1, 1, 1))
    network = Pointwise(7).eval()
    how = PatchInference(spacing=(2, 2, 2), patch=(8, 16, 16), batch_size=2, source_slices=3)
    segment_patches(network, volume, lambda image: image, _whole(volume), how)
    assert {shape[2:] for shape in network.shapes} == {(8, 16, 16)}
    assert max(shape[0] for shape in network.shapes) == 2
    # Logits reach the source's grid three slices at a time.
    of_classes = [shape for shape in shapes if shape[1] == 7]
    assert sum(shape[0] for shape in of_classes) == 90
    assert max(shape[0] for shape in of_classes) == 3


def test_an_image_smaller_than_a_patch_is_padded_with_air() -> None:
    volume = _volume(_clouds((9, 20, 70)), (1, 1, 1))
    seen: list[torch.Tensor] = []

    class Seeing(Pointwise):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            seen.append(image)
            return super().forward(image)

    how = PatchInference(spacing=(1, 1, 1), patch=(16, 24, 24), padding=-7.0)
    found = segment_patches(Seeing().eval(), volume, lambda image: image, _whole(volume), how)
    np.testing.assert_array_equal(found.array, volume.array >= 0)
    assert all((image[:, :, 9:] == -7).all() for image in seen)
    assert all((image[:, :, :, 20:] == -7).all() for image in seen)


@pytest.mark.parametrize("spacing", [(1.0, 0.7, 0.7), (3.0, 1.6, 0.8), (2.5, 0.45, 0.45)])
@pytest.mark.parametrize("turned", [False, True])
def test_the_result_lies_where_the_source_lies(
    spacing: tuple[float, float, float], turned: bool
) -> None:
    """A ball is found at its place in the patient, in mm, whatever the grid."""
    extent = np.asarray([60.0, 80.0, 90.0])
    shape = tuple(int(length / step) for length, step in zip(extent, spacing, strict=True))
    tilt = np.radians(20 if turned else 0)
    direction = np.asarray(
        [[0, 0, 1], [np.sin(tilt), np.cos(tilt), 0], [np.cos(tilt), -np.sin(tilt), 0]]
    )
    affine = np.eye(4)
    affine[:3, :3] = direction * np.asarray(spacing)
    affine[:3, 3] = (-31.0, 17.0, 240.0)
    empty = hd.Volume(np.zeros(shape, np.float32), affine, coordinate_system="PATIENT")
    indices = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1).reshape(-1, 3)
    places = empty.map_indices_to_reference(indices)
    centre = empty.map_indices_to_reference(np.asarray([shape]) // 2)[0]
    ball = 12.0 - np.linalg.norm(places - centre, axis=1).reshape(shape)
    source = empty.with_array(ball.astype(np.float32))
    for axes in ((), (0,), (1, 2)):
        series = source.flip_spatial(axes) if axes else source
        upright = series.to_patient_orientation("FPL")
        how = PatchInference(spacing=(1.5, 1.5, 1.5), patch=(24, 24, 24))
        found = segment_patches(
            Pointwise().eval(), upright, lambda image: image, _whole(upright), how
        )
        result = put_back(found, series)
        assert result.geometry_equal(series)
        inside = result.map_indices_to_reference(np.argwhere(result.array > 0))
        np.testing.assert_allclose(inside.mean(axis=0), centre, atol=0.25 * max(spacing))
        volume = len(inside) * result.voxel_volume
        assert volume == pytest.approx(4 / 3 * np.pi * 12**3, rel=0.05)


@pytest.mark.parametrize("spacing", [(1.5, 1.5, 1.5), (0.5, 3.0, 0.6)])
def test_resampling_keeps_places(spacing: tuple[float, float, float]) -> None:
    """A ramp along each axis has the value of its own position at the new voxels."""
    shape = (40, 50, 60)
    empty = _volume(np.zeros(shape, np.int16))
    for axis in range(3):
        along = np.arange(shape[axis], dtype=np.int16) * 100
        ramp = np.zeros(shape, np.int16) + np.moveaxis(along[:, None, None], 0, axis)
        found = resample(empty.with_array(ramp), spacing)
        assert found.array.dtype == np.float32
        inner = np.argwhere(np.ones(found.shape, bool))[:: found.array.size // 500]
        places = found.map_indices_to_reference(inner)
        source = empty.map_reference_to_indices(places)[:, axis]
        keep = (source > 4) & (source < shape[axis] - 5)
        np.testing.assert_allclose(found.array[tuple(inner[keep].T)], source[keep] * 100, atol=15)


def test_what_is_finer_than_the_new_voxels_is_smoothed_and_not_skipped() -> None:
    stripes = np.zeros((8, 64, 64), np.int16)
    stripes[:, ::2] = 1000
    found = resample(_volume(stripes, (1, 1, 1)), (1, 4, 4)).array
    np.testing.assert_allclose(found[:, 2:-2], 500, atol=30)


def test_bounding_box_has_three_margins() -> None:
    mask = np.zeros((30, 50, 60), bool)
    mask[10, 20, 30] = mask[12, 22, 58] = True
    box = bounding_box(_volume(mask, (3, 2, 2)), margin_mm=(3, 7, 0))
    assert box == Box(slices=(9, 14), rows=(16, 27), columns=(30, 59))
    assert box.shape == (5, 11, 29)
