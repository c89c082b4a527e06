"""Boxes, resampling, and the way back: where things lie between the source's grid and the network's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from highdicom import Volume
from numpy.typing import NDArray
from torch.nn import functional

Floats = NDArray[np.float32]

#: Slices converted to float32 at once.
_CHUNK = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """Part of a volume: first and last index, end excluded."""

    slices: tuple[int, int]
    rows: tuple[int, int]
    columns: tuple[int, int]

    @property
    def index(self) -> tuple[slice, slice, slice]:
        """What cuts it out of an array with the axes (slice, row, column), or of a Volume."""
        return slice(*self.slices), slice(*self.rows), slice(*self.columns)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Slices, rows and columns."""
        first, second, third = (end - start for start, end in self._spans)
        return first, second, third

    @property
    def _spans(self) -> tuple[tuple[int, int], ...]:
        return self.slices, self.rows, self.columns


def bounding_box(mask: Volume, margin_mm: float | Sequence[float]) -> Box | None:
    """Return the box around a mask, or None if it is empty.

    Parameters
    ----------
    mask
        bool or a label map, axes (slice, row, column).
    margin_mm
        Added on each side, as far as the image reaches; one for all axes, or one for each.
    """
    margins = np.broadcast_to(np.asarray(margin_mm, float), 3)
    plane = np.any(mask.array, axis=0)
    if not plane.any():
        return None
    filled = (np.any(mask.array, axis=(1, 2)), np.any(plane, axis=1), np.any(plane, axis=0))
    spans = []
    for axis, line in enumerate(filled):
        found = np.flatnonzero(line)
        margin = int(np.ceil(margins[axis] / float(mask.spacing[axis])))
        first, last = int(found[0]) - margin, int(found[-1]) + 1 + margin
        spans.append((max(0, first), min(mask.shape[axis], last)))
    return Box(slices=spans[0], rows=spans[1], columns=spans[2])


def grid_of(shape: Sequence[int], spacing: Sequence[float], wanted: Sequence[float]) -> list[int]:
    """Return the number of voxels per axis that covers the same extent at about another spacing."""
    return [
        max(1, round(length * float(step) / float(target)))
        for length, step, target in zip(shape, spacing, wanted, strict=True)
    ]


def resample(volume: Volume, spacing: Sequence[float]) -> Volume:
    """Return the same extent at another spacing, linearly, smoothed where the new voxels are larger.

    Parameters
    ----------
    volume
        Any number type, axes (slice, row, column), spacing in mm.
    spacing
        Wanted, mm. The extent is divided into whole voxels, so what comes out differs by up to half a
        voxel per axis length; the affine of the result is exact.

    Returns
    -------
    highdicom.Volume
        float32, in the same place.
    """
    shape = grid_of(volume.shape, volume.spacing, spacing)
    between = np.empty((volume.shape[0], *shape[1:]), np.float32)
    for first in range(0, volume.shape[0], _CHUNK):
        chunk = np.ascontiguousarray(volume.array[first : first + _CHUNK], np.float32)
        between[first : first + _CHUNK] = shrink(torch.from_numpy(chunk)[:, None], shape[1:])[:, 0]
    # Planes as rows of pixels: the same two-dimensional filter, along the slices only.
    flat = torch.from_numpy(between.reshape(1, 1, volume.shape[0], -1))
    array = shrink(flat, (shape[0], flat.shape[-1])).reshape(shape).numpy()
    scale = np.asarray(volume.shape, float) / shape
    affine = volume.affine.copy()
    # Edges, not centres, stay where they were.
    affine[:3, 3] += affine[:3, :3] @ ((scale - 1) / 2)
    affine[:3, :3] *= scale
    return Volume(
        array=array,
        affine=affine,
        coordinate_system=volume.coordinate_system,
        frame_of_reference_uid=volume.frame_of_reference_uid,
    )


def shrink(image: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Resample (batch, channel, rows, columns) to `size`, linearly, without aliasing; edges stay."""
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    # Several times as fast as SimpleITK's resampling with the smoothing it needs before.
    return functional.interpolate(
        image, size=tuple(size), mode="bilinear", align_corners=False, antialias=True
    )


def enlarge(logits: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Resample logits (batch, class, rows, columns) to `size`, linearly; edges stay."""
    if tuple(logits.shape[-2:]) == tuple(size):
        return logits
    return functional.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=False)


def decide(logits: torch.Tensor, threshold: float) -> torch.Tensor:
    """Return labels, uint8 without the class axis (1), of logits (batch, class, ...).

    One class: 1 where its probability reaches `threshold`. Several: the number of the most probable,
    0 being background.
    """
    if logits.shape[1] == 1:
        bound = float(np.log(threshold / (1 - threshold)))
        return (logits[:, 0] >= bound).to(torch.uint8)
    # On a CPU 35 times as fast as argmax, which walks from class to class for each voxel.
    return logits.max(dim=1).indices.to(torch.uint8)


def put_back(result: Volume, source: Volume) -> Volume:
    """Return a result found on a flipped or turned source in the source's own order of axes.

    Parameters
    ----------
    result
        On the grid of `source.to_patient_orientation(...)`, whichever that was.
    source
        Axes (slice, row, column); gives the geometry.
    """
    back = result.to_patient_orientation(source.get_closest_patient_orientation())
    return source.with_array(np.ascontiguousarray(back.array))


def as_image(array: NDArray[Any]) -> torch.Tensor:
    """Return float32 (slices, 1, rows, columns) of an array (slices, rows, columns)."""
    return torch.from_numpy(np.ascontiguousarray(array, np.float32))[:, None]
