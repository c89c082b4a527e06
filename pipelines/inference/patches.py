"""Networks of patches: `segment_patches`.

Patches slide over the network's grid with overlap and are averaged with Gaussian weights (MONAI), one layer of
patches at a time. A plane that no further layer reaches is finished: it is resampled to the source's grid and
decided at once, so that logits of the whole volume, of many classes, never exist.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from highdicom import Volume
from monai.inferers.utils import sliding_window_inference
from torch.nn import functional

from pipelines.inference.engine import Engine, Network, engine_of
from pipelines.inference.grid import Box, Floats, decide, enlarge, resample

#: Of the patch: MONAI's width of the Gaussian, and the least weight at its edge.
_SIGMA, _LEAST = 0.125, 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchInference:
    """How a 3D network is run over a volume.

    Attributes
    ----------
    spacing
        Which the network was trained with: slices, rows, columns, mm.
    patch
        Slices, rows and columns of its input.
    overlap
        Share of a patch that the next one covers again; 0.5 costs three to five times as much as 0.25.
    batch_size
        Patches at once; bounds the memory.
    threshold
        Probability from which a voxel counts as segmented, for a network of one class.
    padding
        What is added, after `prepare`, around an image smaller than a patch.
    source_slices
        Slices of the source decided at once; bounds the memory.
    """

    spacing: tuple[float, float, float]
    patch: tuple[int, int, int]
    overlap: float = 0.25
    batch_size: int = 2
    threshold: float = 0.5
    padding: float = -1.0
    source_slices: int = 4


def segment_patches(
    network: Network,
    volume: Volume,
    prepare: Callable[[Floats], Floats],
    box: Box,
    how: PatchInference,
) -> Volume:
    """Segment a part of a volume patch by patch.

    Parameters
    ----------
    network
        Takes float32 (batch, 1, slices, rows, columns), returns logits (batch, classes, slices, rows, columns).
    volume
        Modality values, axes (slice, row, column), spacing in mm.
    prepare
        From modality values, float32 (slices, rows, columns) on the network's grid, to what the network was
        trained on.
    box
        What is looked at; the rest is background.
    how
        Spacing, patch, overlap, threshold.

    Returns
    -------
    highdicom.Volume
        uint8 labels on the grid of `volume`: 1 where a network of one class says so, else the number of the most
        probable class.
    """
    engine = engine_of(network)
    part = volume[box.index]  # type: ignore[index]  # highdicom's annotation knows no triple
    image = torch.from_numpy(prepare(resample(part, how.spacing).array))
    labels = np.zeros(volume.shape, np.uint8)
    inside = labels[box.index]
    with torch.inference_mode():
        planes = _finished_planes(engine, image, how)
        for first, logits in _on_source_slices(planes, image.shape[0], inside.shape[0], how):
            decided = decide(enlarge(logits, inside.shape[1:]), how.threshold)
            inside[first : first + len(decided)] = decided.cpu().numpy()
    return volume.with_array(labels)


def _finished_planes(
    engine: Engine, image: torch.Tensor, how: PatchInference
) -> Iterator[torch.Tensor]:
    """Yield logits (planes, classes, rows, columns) on the network's grid, in order, all planes once."""
    depth, rows, columns = image.shape
    padding = [max(0, least - length) for least, length in zip(how.patch, image.shape, strict=True)]
    padded = functional.pad(image, (0, padding[2], 0, padding[1], 0, padding[0]), value=how.padding)
    weights = _weights(how.patch[0]).to(engine.device)[:, None, None, None]
    totals = norms = None
    for start, following in pairwise([*_starts(padded.shape[0], how), depth]):
        layer = padded[start : start + how.patch[0]].to(engine.device)
        logits = sliding_window_inference(
            layer[None, None], how.patch, how.batch_size, engine, how.overlap, mode="gaussian"
        )[0].transpose(0, 1)[:, :, :rows, :columns]
        if totals is None or norms is None:
            totals, norms = torch.zeros_like(logits), torch.zeros_like(weights)
        totals.addcmul_(logits, weights)
        norms += weights
        del logits, layer
        done = following - start
        yield totals[:done].div_(norms[:done])
        totals, norms = _moved(totals, done), _moved(norms, done)


def _starts(length: int, how: PatchInference) -> list[int]:
    """First planes of the layers of patches: evenly spaced, overlapping by at least `overlap`."""
    free = length - how.patch[0]
    count = int(np.ceil(free / max(1, how.patch[0] * (1 - how.overlap)))) + 1
    return [round(start) for start in np.linspace(0, free, count)]


def _weights(length: int) -> torch.Tensor:
    distance = torch.arange(length) - (length - 1) / 2
    return torch.exp(-((distance / (_SIGMA * length)) ** 2) / 2).clamp(min=_LEAST)


def _moved(planes: torch.Tensor, done: int) -> torch.Tensor:
    """Drop the first planes, and as many empty ones at the end."""
    return torch.cat([planes[done:], torch.zeros_like(planes[:done])])


def _on_source_slices(
    planes: Iterator[torch.Tensor], depth: int, slices: int, how: PatchInference
) -> Iterator[tuple[int, torch.Tensor]]:
    """Interpolate between planes: yield the first slice, and logits (slices, classes, rows, columns)."""
    positions = ((np.arange(slices) + 0.5) * depth / slices - 0.5).clip(0, depth - 1)
    lower = np.floor(positions).astype(int)
    upper = np.minimum(lower + 1, depth - 1)
    held, offset, first = next(planes), 0, 0
    while first < slices:
        known = int(np.searchsorted(upper, offset + len(held)))
        last = min(first + how.source_slices, known)
        if last == first:
            drop = min(int(lower[first]) - offset, len(held))
            held, offset = torch.cat([held[drop:], next(planes)]), offset + drop
            continue
        share = torch.from_numpy(positions[first:last] - lower[first:last]).to(held)
        below, above = held[lower[first:last] - offset], held[upper[first:last] - offset]
        yield first, torch.lerp(below, above, share[:, None, None, None])
        first = last
