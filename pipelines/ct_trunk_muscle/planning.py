"""From a training set's fingerprint to a plan, by rules, as nnU-Net does (Isensee et al., Nature Methods 2021;18:203).

Theirs: median spacing, but a low percentile along an axis of slices much thicker than the pixels are wide; patches in
proportion to the median study, shrunk where they are largest for it until they fit; levels while a side can be halved;
clipping to percentiles of the foreground and z-score; a coarser grid where a patch would see too little of the patient.
Ours: what must fit is not a GPU's memory but a workstation's patience, given in voxels; and the network of slices has
the pixels, the channels and in the plane the patch of the network of volumes, which it teaches and which begins as it:
half a trunk does not say which half it is.

    python -m pipelines.ct_trunk_muscle.planning --atlas DIR --phantoms 24 --out plan.json
    python -m pipelines.ct_trunk_muscle.planning --data DIR --out plan.json
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.ct_trunk_muscle.anatomy import LEVELS, NUMBERS, UNKNOWN
from pipelines.ct_trunk_muscle.phantoms import training_studies
from pipelines.ct_trunk_muscle.plan import Fingerprint, Intensities, NetworkPlan, Plan
from pipelines.errors import TrainingError
from pipelines.manifest import read_manifest
from pipelines.training.case import Case
from pipelines.training.data.dataset import find_cases

#: Voxels of a patch that a workstation without GPU learns from in seconds.
PIXELS, VOXELS, LEVEL_VOXELS = 40_000, 400_000, 150_000
#: A slice spacing above this many pixels' is told apart from them.
_ANISOTROPIC = 3.0
#: Of the median study, the least share that a patch of volumes shall see; nnU-Net: a quarter.
_LEAST_SEEN = 0.15
_COARSER = 1.02
#: No side of the deepest features is shorter; no more levels; the first and the most channels.
_SHORTEST, _MOST_LEVELS = 4, 5
_FIRST_CHANNELS, _MOST_CHANNELS = 24, 128
#: A patch's slices are a multiple of this.
_DEPTH_MULTIPLE = 8
_LEVEL_CHANNELS = (16, 32, 64, 96)
#: Softer is not the body: lung and air.
_BODY_HU = -300.0
_SAMPLES = 20_000  # voxels of a study's foreground that are looked at


def fingerprint(cases: Iterable[Case]) -> Fingerprint:
    """Measure a training set.

    Parameters
    ----------
    cases
        HU with labels; labels of 255 are unknown. Axial, axes (slice, row, column).

    Raises
    ------
    TrainingError
        `training-data-empty` without a labelled voxel.
    """
    rng = np.random.default_rng(0)
    spacings, extents, values = [], [], []
    for case in cases:
        spacings.append(np.asarray(case.image.spacing, float))
        extents.append(_extent(case))
        labels = case.labels.array
        found = case.image.array[(labels > 0) & (labels != UNKNOWN)]
        if found.size:
            values.append(rng.choice(found, min(_SAMPLES, found.size), replace=False))
    if not values:
        raise TrainingError("No study has a labelled voxel.", code="training-data-empty")
    spacing = np.median(spacings, axis=0)
    foreground = np.concatenate(values).astype(float)
    low, high = np.percentile(foreground, (0.5, 99.5))
    return Fingerprint(
        cases=len(spacings),
        spacing=_triple(spacing),
        finest_slices=round(float(np.percentile([one[0] for one in spacings], 10)), 3),
        extent=_triple(np.median(extents, axis=0)),
        intensities=Intensities(
            low=round(float(low), 1),
            high=round(float(high), 1),
            mean=round(float(foreground.mean()), 2),
            sd=round(float(foreground.std()), 2),
        ),
    )


def derive_plan(measured: Fingerprint) -> Plan:
    """Derive grids, patches and networks from a fingerprint; the same fingerprint gives the same plan."""
    extent = np.asarray(measured.extent)
    spacing = np.asarray(measured.spacing)
    if spacing[0] > _ANISOTROPIC * spacing[1:].min():
        spacing[0] = max(measured.finest_slices, float(spacing[1:].min()))
    spacing = _coarsened(extent, spacing)
    pixel = (float(spacing[1]), float(spacing[2]))
    patch = fit_patch(extent[1:] / pixel, PIXELS, multiple=32)
    channels = _channels(patch)
    slab = (_depth(patch, extent[0] / spacing[0]), *patch)
    coarse = float(np.cbrt(extent.prod() / LEVEL_VOXELS))
    return Plan(
        classes=("background", *NUMBERS, "vertebral_body"),
        level_classes=("background", *LEVELS),
        fingerprint=measured,
        slices=NetworkPlan(
            spacing=pixel,
            patch=patch,
            channels=channels,
            halvings=_halvings(patch, channels),
            batch_size=_batch(patch, 8),
        ),
        volume=NetworkPlan(
            spacing=_triple(spacing),
            patch=slab,
            channels=channels,
            halvings=_halvings(slab, channels),
            batch_size=2,
        ),
        levels=NetworkPlan(
            spacing=(round(coarse, 2),) * 3,
            patch=fit_patch(extent / coarse, LEVEL_VOXELS, multiple=2 ** len(_LEVEL_CHANNELS)),
            channels=_LEVEL_CHANNELS,
            halvings=(len(_LEVEL_CHANNELS),) * 3,
            batch_size=4,
        ),
    )


def _coarsened(extent: NDArray[np.float64], spacing: NDArray[np.float64]) -> NDArray[np.float64]:
    """Coarsen, the finest axes first, until a patch of volumes sees enough of the median study."""
    spacing = spacing.copy()
    while _LEAST_SEEN * float((extent / spacing).prod()) > VOXELS:
        finer = spacing < spacing.max() / 1.01
        spacing[finer if finer.any() else slice(None)] *= _COARSER
    return np.asarray(spacing.round(2))


def _depth(patch: tuple[int, ...], slices: float) -> int:
    """As many slices of that patch as fit, no more than the median study has."""
    most = min(VOXELS // int(np.prod(patch)), int(np.ceil(slices)))
    return max(_DEPTH_MULTIPLE, most // _DEPTH_MULTIPLE * _DEPTH_MULTIPLE)


def fit_patch(
    shape: Sequence[float] | NDArray[np.float64], most: int, *, multiple: int
) -> tuple[int, ...]:
    """Return the largest patch of at most so many voxels, in proportion to a shape and no larger than it needs.

    Parameters
    ----------
    shape
        Voxels of the median study, each axis.
    most
        Voxels.
    multiple
        Of which every side is one.
    """
    whole = np.asarray(shape, float)
    patch = np.maximum(np.ceil(whole / multiple), 1).astype(int) * multiple
    while patch.prod() > most and (patch > multiple).any():
        share = np.where(patch > multiple, patch / whole, 0)
        patch[int(share.argmax())] -= multiple
    return tuple(int(side) for side in patch)


def _channels(patch: Sequence[int]) -> tuple[int, ...]:
    """Levels while the shortest side can be halved, from half resolution on; channels double."""
    levels = 1
    while (
        levels < _MOST_LEVELS
        and min(patch) // 2 ** (levels + 1) >= _SHORTEST
        and all(side % 2 ** (levels + 1) == 0 for side in patch)
    ):
        levels += 1
    return tuple(min(_MOST_CHANNELS, _FIRST_CHANNELS * 2**level) for level in range(levels))


def _halvings(patch: Sequence[int], channels: Sequence[int]) -> tuple[int, ...]:
    """How often each side of a patch is halved: at each level that leaves it long enough."""
    return tuple(
        sum(side // 2**level >= _SHORTEST for level in range(1, len(channels) + 1))
        for side in patch
    )


def _batch(patch: Sequence[int], most: int) -> int:
    return int(np.clip(8 * PIXELS // int(np.prod(patch)), 2, most))


def _extent(case: Case) -> NDArray[np.float64]:
    """Millimetres of the box around all that is as dense as tissue."""
    dense = case.image.array > _BODY_HU
    sides = []
    for axis, spacing in enumerate(case.image.spacing):
        line = np.flatnonzero(dense.any(axis=tuple({0, 1, 2} - {axis})))
        sides.append((line[-1] - line[0] + 1) * float(spacing) if line.size else 0.0)
    return np.asarray(sides)


def _triple(values: NDArray[np.float64]) -> tuple[float, float, float]:
    first, second, third = (round(float(value), 3) for value in values)
    return first, second, third


def main() -> None:
    """Write the plan of a training set."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", maxsplit=1)[0])
    parser.add_argument("--data", type=Path, help="folder of own labelled studies")
    parser.add_argument("--atlas", type=Path, help="folder of label maps; else procedural bodies")
    parser.add_argument("--phantoms", type=int, default=24, help="phantom studies to measure")
    parser.add_argument("--out", type=Path, required=True, help="the plan")
    given = parser.parse_args()
    cases: Iterable[Case]
    if given.data is not None:
        manifest = read_manifest(Path(__file__).resolve().parent)
        cases = (ref.load() for ref in find_cases(given.data, manifest).cases)
    else:
        study = training_studies(given.atlas)
        cases = (study(seed) for seed in range(given.phantoms))
    plan = derive_plan(fingerprint(cases))
    plan.write(given.out)
    print(plan.model_dump_json(indent=2))


if __name__ == "__main__":
    main()
