"""Which vertebra is where: what a coarse network sees, and what anatomy allows.

The network says of each coarse voxel which vertebral body it is of, and may err by one in the chest, where vertebrae
look alike. Levels follow each other, so all slices decide together: the most probable path from head to foot that goes
on to the next level or stays (Viterbi, IEEE Trans Inf Theory 1967;13:260).
"""

from __future__ import annotations

from dataclasses import dataclass

import highdicom as hd
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from pipelines.ct_trunk_muscle.anatomy import LEVELS
from pipelines.ct_trunk_muscle.plan import Plan
from pipelines.inference import Network, engine_of
from pipelines.inference.grid import resample

Floats = NDArray[np.float32]

#: A slice with less body than this belongs to no level, mm2; a vertebral body at T4 has 500.
_LEAST_AREA = 120.0
#: No vertebra is lower than this, its disc included, mm.
_SHORTEST_MM = 18.0
#: No vertebral body is higher than this, the blur of the coarse grid included, mm.
_TALLEST_MM = 55.0
#: A slice belongs to a body if it shows this share of the body's largest slice.
_EDGE = 0.3
#: What a body above T4 or below L4 costs, against the logarithm of a belief.
_SURPRISE = 4.0
#: How often the network is wrong however sure it is.
_DOUBT = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """Where a vertebral body is, in mm from the first slice's upper edge downwards."""

    name: str
    top: float
    bottom: float
    middle: float
    whole: bool  #: whether the image holds all of it


def find_levels(network: Network, volume: hd.Volume, plan: Plan) -> tuple[Level, ...]:
    """Find the vertebral bodies T4 to L4 that a series shows, from the head down.

    Parameters
    ----------
    network
        The plan's `levels`.
    volume
        HU, axes (slice to the feet, row to the back, column to the left).
    plan
        Its grid and normalisation.
    """
    coarse = resample(volume, plan.levels.spacing)
    areas = level_areas(network, coarse, plan)
    return trace_levels(areas, float(coarse.spacing[0]))


def level_areas(network: Network, coarse: hd.Volume, plan: Plan) -> Floats:
    """Return the area of each level's body in each coarse slice as the network believes it, mm2, (slices, 13)."""
    engine = engine_of(network)
    ready = torch.from_numpy(plan.fingerprint.intensities.normalise(coarse.array))[None, None]
    multiple = plan.levels.multiples[0]
    padding = [(0, -side % multiple) for side in ready.shape[2:]]
    flat = [side for pair in reversed(padding) for side in pair]
    air = plan.fingerprint.intensities.air
    logits = engine(functional.pad(ready, flat, value=air).to(engine.device))
    depth, rows, columns = coarse.spatial_shape
    believed = torch.softmax(logits[0].float(), dim=0)[1:, :depth, :rows, :columns]
    pixel = float(coarse.spacing[1] * coarse.spacing[2])
    return np.asarray(believed.sum(dim=(2, 3)).T.cpu().numpy() * pixel, np.float32)


def trace_levels(areas: Floats, spacing: float) -> tuple[Level, ...]:
    """Return the levels of the most probable path.

    Parameters
    ----------
    areas
        Believed area of each level's body, mm2, shape (slices, 13), slices to the feet.
    spacing
        From slice to slice, mm.
    """
    path = _best_path(areas, max(1, round(_SHORTEST_MM / spacing)))
    if path is None:
        return ()
    found = []
    for number, name in enumerate(LEVELS):
        inside = np.flatnonzero(path == number)
        area = areas[inside, number]
        if area.max(initial=0) < _LEAST_AREA:
            continue
        inside = inside[area > _EDGE * area.max()]
        area = areas[inside, number]
        found.append(
            Level(
                name=name,
                top=float(inside[0] * spacing),
                bottom=float((inside[-1] + 1) * spacing),
                middle=float((area * (inside + 0.5)).sum() / area.sum() * spacing),
                whole=bool(inside[0] > 0 and inside[-1] < len(areas) - 1),
            )
        )
    # Levels of another height are no spine: the network failed, and none of them can be trusted.
    return tuple(found) if all(one.bottom - one.top <= _TALLEST_MM for one in found) else ()


def _best_path(areas: Floats, shortest: int) -> NDArray[np.int64] | None:
    """Return the level of each slice: -1 above T4, 13 below L4, never falling; None without a body.

    A level that is entered lasts `shortest` slices at least: it has a state for each, of which the last may repeat.
    """
    total = areas.sum(axis=1)
    if total.max() < _LEAST_AREA:
        return None
    # What is seen weakly decides little; above T4 and below L4 nothing should be seen.
    seen = np.clip(total / (2 * _LEAST_AREA), 0, 1)[:, None]
    share = areas / np.maximum(total, 1)[:, None]
    inside = seen * np.log((1 - _DOUBT) * share + _DOUBT / len(LEVELS))
    outside = -_SURPRISE * seen
    scores = np.concatenate([outside, np.repeat(inside, shortest, axis=1), outside], axis=1)
    count = scores.shape[1]
    level = np.concatenate([[-1], np.repeat(np.arange(len(LEVELS)), shortest), [len(LEVELS)]])
    lasting = np.arange(count) % shortest == 0
    lasting[-1] = True
    best, came = scores[0].copy(), np.zeros(scores.shape, np.int64)
    for index in range(1, len(scores)):
        stay = np.where(lasting, best, -np.inf)
        step = np.concatenate([[-np.inf], best[:-1]])
        came[index] = np.arange(count) - (step > stay)
        best = np.maximum(stay, step) + scores[index]
    state = int(best.argmax())
    path = np.empty(len(scores), np.int64)
    for index in range(len(scores) - 1, -1, -1):
        path[index] = level[state]
        state = came[index, state]
    return path
