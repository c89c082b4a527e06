"""Networks of slices: `segment_slices`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from highdicom import Volume
from numpy.typing import NDArray
from torch.nn import functional

from pipelines.inference.engine import Engine, Network, engine_of
from pipelines.inference.grid import (
    Box,
    Floats,
    as_image,
    decide,
    enlarge,
    grid_of,
    shrink,
)


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
        Slices at once; bounds the memory. On a CPU more than four are slower: they leave its caches.
    threshold
        Probability from which a voxel counts as segmented, for a network of one class.
    padding
        What air is after `prepare`.
    """

    pixel_spacing: float
    stride: int
    batch_size: int = 4
    threshold: float = 0.5
    padding: float = -1.0


def segment_slices(
    network: Network,
    volume: Volume,
    prepare: Callable[[NDArray[Any]], Floats],
    box: Box,
    how: SliceInference,
) -> Volume:
    """Segment a volume slice by slice.

    Parameters
    ----------
    network
        Takes float32 (batch, 1, rows, columns), returns logits (batch, classes, rows, columns).
    volume
        Modality values, axes (slice, row, column), spacing in mm.
    prepare
        From modality values (slices, rows, columns) to what the network was trained on.
    box
        What is looked at; the rest is background. One for all slices: a network that normalises by group or
        instance sees its size, and says something else in another box.
    how
        Spacing, batches, threshold.

    Returns
    -------
    highdicom.Volume
        uint8 labels on the grid of `volume`: 1 where a network of one class says so, else the number of the most
        probable class.
    """
    engine = engine_of(network)
    result = np.zeros(volume.shape, np.uint8)
    grid = grid_of(box.shape[1:], volume.spacing[1:], (how.pixel_spacing,) * 2)
    with torch.inference_mode():
        for first in range(*box.slices, how.batch_size):
            batch = slice(first, min(first + how.batch_size, box.slices[1]))
            image = as_image(prepare(volume.array[batch, *box.index[1:]]))
            logits = _infer(engine, shrink(image.to(engine.device), grid), how)
            labels = decide(enlarge(logits, box.shape[1:]), how.threshold)
            result[batch, *box.index[1:]] = labels.cpu().numpy()
    return volume.with_array(result)


def _infer(engine: Engine, image: torch.Tensor, how: SliceInference) -> torch.Tensor:
    """Return logits (batch, classes, rows, columns) of an image on the network's grid, whatever its size."""
    rows, columns = image.shape[-2:]
    padding = (0, -columns % how.stride, 0, -rows % how.stride)
    return engine(functional.pad(image, padding, value=how.padding))[..., :rows, :columns]
