"""Running a slice-wise network over a series, within bounded memory.

Slices are taken in batches: cut to the box that matters, resampled in the plane to the pixel spacing
the network was trained with, segmented, and resampled back. The result lies on the source grid.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from highdicom import Volume
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class InPlaneBox:
    """Rows and columns, end excluded."""

    rows: tuple[int, int]
    columns: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceInference:
    """How a 2D network is run over a volume.

    Attributes
    ----------
    pixel_spacing
        In-plane spacing the network was trained with, mm.
    stride
        Rows and columns given to the network are padded to a multiple of this.
    batch_size
        Slices at once; bounds the memory.
    threshold
        Probability from which a voxel counts as segmented.
    mirror
        Average with the left-right mirrored slice: twice the time.
    """

    pixel_spacing: float
    stride: int
    batch_size: int = 8
    threshold: float = 0.5
    mirror: bool = False


def bounding_box(mask: Volume, margin_mm: float) -> InPlaneBox | None:
    """Return the in-plane box around a mask, over all slices, or None if it is empty.

    Parameters
    ----------
    mask
        bool, axes (slice, row, column).
    margin_mm
        Added on each side, as far as the image reaches.
    """
    flat = np.asarray(mask.array.any(axis=0))
    if not flat.any():
        return None
    spans = []
    for axis in (0, 1):
        found = np.flatnonzero(flat.any(axis=1 - axis))
        margin = int(np.ceil(margin_mm / float(mask.spacing[axis + 1])))
        first, last = int(found[0]) - margin, int(found[-1]) + 1 + margin
        spans.append((max(0, first), min(flat.shape[axis], last)))
    return InPlaneBox(rows=spans[0], columns=spans[1])


def segment_slices(
    network: nn.Module,
    volume: Volume,
    prepare: Callable[[NDArray[Any]], Floats],
    box: InPlaneBox,
    how: SliceInference,
) -> Volume:
    """Segment a volume slice by slice.

    Parameters
    ----------
    network
        Takes float32 (batch, 1, rows, columns), returns logits of the same shape; in eval mode and
        on its device.
    volume
        Modality values, axes (slice, row, column), spacing in mm.
    prepare
        From modality values (batch, rows, columns) to what the network was trained on; air must
        become -1.
    box
        What of each slice is given to the network; the rest is background.
    how
        Spacing, batches, threshold.

    Returns
    -------
    highdicom.Volume
        uint8, 1 where segmented, on the grid of `volume`.
    """
    device = next(network.parameters()).device
    result = np.zeros(volume.shape, np.uint8)
    rows, columns = slice(*box.rows), slice(*box.columns)
    grid = _network_grid(volume, box, how)
    with torch.inference_mode():
        for first in range(0, volume.shape[0], how.batch_size):
            batch = slice(first, first + how.batch_size)
            image = torch.from_numpy(prepare(volume.array[batch, rows, columns]))[:, None]
            segmented = _segment(network, image.to(device), grid, how)
            result[batch, rows, columns] = segmented[:, 0].cpu().numpy()
    return volume.with_array(result)


def _network_grid(volume: Volume, box: InPlaneBox, how: SliceInference) -> tuple[int, int]:
    spacing = volume.spacing[1:]
    lengths = (box.rows[1] - box.rows[0], box.columns[1] - box.columns[0])
    rows, columns = (
        max(1, round(length * float(pixel) / how.pixel_spacing))
        for length, pixel in zip(lengths, spacing, strict=True)
    )
    return rows, columns


def _segment(
    network: nn.Module, image: torch.Tensor, grid: tuple[int, int], how: SliceInference
) -> torch.Tensor:
    """Return uint8 (batch, 1, rows, columns) on the grid of `image`."""
    resampled = functional.interpolate(
        image, size=grid, mode="bilinear", align_corners=False, antialias=True
    )
    padding = [-size % how.stride for size in grid]
    padded = functional.pad(resampled, (0, padding[1], 0, padding[0]), value=-1.0)
    with torch.autocast(image.device.type, torch.bfloat16, enabled=image.device.type == "cuda"):
        logits = network(padded)
        if how.mirror:
            logits = (logits + network(padded.flip(-1)).flip(-1)) / 2
    logits = logits[..., : grid[0], : grid[1]].float()
    fine = functional.interpolate(
        logits, size=image.shape[-2:], mode="bilinear", align_corners=False
    )
    return (torch.sigmoid(fine) >= how.threshold).to(torch.uint8)
