"""How well a segmentation agrees with the truth."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from highdicom import Volume
from numpy.typing import NDArray
from scipy import ndimage

from pipelines.training.options import Spread

Mask = NDArray[np.bool_]

#: Figures of which the highest is the worst.
_DISTANCES = ("surface_mm", "hausdorff95_mm")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One study's figures. F1 of voxels is the Dice coefficient and so not repeated."""

    dice: float
    iou: float
    sensitivity: float
    specificity: float
    precision: float
    accuracy: float
    surface_mm: float  #: average symmetric surface distance
    hausdorff95_mm: float  #: 95th percentile of the symmetric surface distances
    volume_ml: float
    true_volume_ml: float


def compare(found: Volume, truth: Volume) -> Figures:
    """Compare a segmentation with the truth.

    Parameters
    ----------
    found, truth
        uint8 or bool, nonzero in the structure, axes (slice, row, column), spacing in mm, on the
        same grid.

    Returns
    -------
    Figures
        Two empty masks agree perfectly; distances are NaN if one of them is empty.
    """
    ours, real = found.array > 0, truth.array > 0
    hit = int((ours & real).sum())
    wrong, missed = int(ours.sum()) - hit, int(real.sum()) - hit
    rejected = ours.size - hit - wrong - missed
    distances = _surface_distances(ours, real, found.spacing)
    millilitre = found.voxel_volume / 1000
    return Figures(
        dice=_share(2 * hit, 2 * hit + wrong + missed),
        iou=_share(hit, hit + wrong + missed),
        sensitivity=_share(hit, hit + missed),
        specificity=_share(rejected, rejected + wrong),
        precision=_share(hit, hit + wrong),
        accuracy=_share(hit + rejected, ours.size),
        surface_mm=float(distances.mean()) if distances.size else float("nan"),
        hausdorff95_mm=float(np.percentile(distances, 95)) if distances.size else float("nan"),
        volume_ml=(hit + wrong) * millilitre,
        true_volume_ml=(hit + missed) * millilitre,
    )


def spreads(figures: Sequence[Figures]) -> dict[str, Spread]:
    """Return mean, standard deviation and worst case of each figure that is not a volume."""
    names = ("dice", "iou", "sensitivity", "specificity", "precision", "accuracy", *_DISTANCES)
    result = {}
    for name in names:
        values = np.asarray([getattr(figure, name) for figure in figures])
        worst = np.nanmax(values) if name in _DISTANCES else np.nanmin(values)
        result[name] = Spread(
            mean=float(np.nanmean(values)), sd=float(np.nanstd(values)), worst=float(worst)
        )
    return result


def volume_agreement(figures: Sequence[Figures]) -> dict[str, float]:
    """Return R2 of the volumes, their bias, and the 95 % limits of agreement (Bland-Altman), mL."""
    ours = np.asarray([figure.volume_ml for figure in figures])
    real = np.asarray([figure.true_volume_ml for figure in figures])
    difference = ours - real
    spread = float(((real - real.mean()) ** 2).sum())
    width = 1.96 * float(difference.std(ddof=1)) if len(figures) > 1 else float("nan")
    bias = float(difference.mean())
    return {
        "r2": 1 - float((difference**2).sum()) / spread if spread > 0 else float("nan"),
        "bias_ml": bias,
        "lower_ml": bias - width,
        "upper_ml": bias + width,
    }


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 1.0


def _surface_distances(ours: Mask, real: Mask, spacing: Sequence[float]) -> NDArray[np.floating]:
    """Return the distance of each surface voxel of one mask to the other's surface, both ways."""
    if not ours.any() or not real.any():
        return np.empty(0)
    window = ndimage.find_objects((ours | real).astype(np.uint8))[0]
    ours, real = ours[window], real[window]
    surfaces = [mask & ~ndimage.binary_erosion(mask) for mask in (ours, real)]
    return np.concatenate(
        [
            ndimage.distance_transform_edt(~there, sampling=spacing)[here]
            for here, there in (surfaces, surfaces[::-1])
        ]
    )
