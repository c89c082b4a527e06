"""How well a segmentation agrees with the truth."""

from collections.abc import Sequence

import numpy as np
from highdicom import Volume
from numpy.typing import NDArray
from scipy import ndimage

from pipelines.training.figures import Figures, Spread, Summary

Mask = NDArray[np.bool_]

#: Figures from 0 to 1, of which the lowest is the worst.
_SHARES = ("dice", "iou", "sensitivity", "specificity", "precision", "accuracy")
#: Figures in mm, of which the highest is the worst.
_DISTANCES = ("surface_mm", "hausdorff95_mm")


def compare(found: Volume, truth: Volume, known: Mask | None = None) -> Figures:
    """Compare a segmentation with the truth.

    Parameters
    ----------
    found, truth
        uint8 or bool, nonzero in the structure, axes (slice, row, column), spacing in mm, on the
        same grid.
    known
        Of the same shape: where there is a truth; voxels elsewhere count for nothing. None: everywhere.

    Returns
    -------
    Figures
        Two empty masks agree perfectly; distances are NaN if one of them is empty.
    """
    known = np.ones(truth.array.shape, bool) if known is None else known
    ours, real = (found.array > 0) & known, (truth.array > 0) & known
    hit = int((ours & real).sum())
    wrong, missed = int(ours.sum()) - hit, int(real.sum()) - hit
    judged = int(np.count_nonzero(known))
    rejected = judged - hit - wrong - missed
    distances = _surface_distances(ours, real, known, found.spacing)
    millilitre = found.voxel_volume / 1000
    return Figures(
        dice=_share(2 * hit, 2 * hit + wrong + missed),
        iou=_share(hit, hit + wrong + missed),
        sensitivity=_share(hit, hit + missed),
        specificity=_share(rejected, rejected + wrong),
        precision=_share(hit, hit + wrong),
        accuracy=_share(hit + rejected, judged),
        surface_mm=float(distances.mean()) if distances.size else float("nan"),
        hausdorff95_mm=float(np.percentile(distances, 95)) if distances.size else float("nan"),
        volume_ml=(hit + wrong) * millilitre,
        true_volume_ml=(hit + missed) * millilitre,
    )


def summarise(figures: Sequence[Figures]) -> Summary:
    """Return what the figures of one structure in several studies come to."""
    present = [figure for figure in figures if figure.true_volume_ml > 0]
    absent = [figure for figure in figures if figure.true_volume_ml == 0]
    invented = sum(figure.volume_ml > 0 for figure in absent)
    return Summary(
        present=len(present),
        missed=sum(figure.volume_ml == 0 for figure in present),
        absent=len(absent) - invented,
        invented=invented,
        figures=spreads(present),
        agreement=volume_agreement(present),
    )


def spreads(figures: Sequence[Figures]) -> dict[str, Spread]:
    """Return mean, standard deviation and worst case of each figure that is not a volume.

    A figure that is not defined in a study is left out of it; NaN where it is defined in none.
    """
    result = {}
    for name in (*_SHARES, *_DISTANCES):
        values = np.asarray([getattr(figure, name) for figure in figures], np.float64)
        values = values[np.isfinite(values)]
        if not values.size:
            result[name] = Spread(mean=float("nan"), sd=float("nan"), worst=float("nan"))
            continue
        worst = values.max() if name in _DISTANCES else values.min()
        result[name] = Spread(mean=float(values.mean()), sd=float(values.std()), worst=float(worst))
    return result


def volume_agreement(figures: Sequence[Figures]) -> dict[str, float]:
    """Return R2 of the volumes, their bias, and the 95 % limits of agreement (Bland-Altman), mL."""
    if not figures:
        return dict.fromkeys(("r2", "bias_ml", "lower_ml", "upper_ml"), float("nan"))
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


def _surface_distances(
    ours: Mask, real: Mask, known: Mask, spacing: Sequence[float]
) -> NDArray[np.floating]:
    """Return the distance of each surface voxel of one mask to the other's surface, both ways.

    What a mask has on its other side where nobody knows is no surface.
    """
    if not ours.any() or not real.any():
        return np.empty(0)
    window = ndimage.find_objects((ours | real).astype(np.uint8))[0]
    ours, real, unknown = ours[window], real[window], ~known[window]
    surfaces = [mask & ~ndimage.binary_erosion(mask | unknown) for mask in (ours, real)]
    return np.concatenate(
        [
            ndimage.distance_transform_edt(~there, sampling=spacing)[here]
            for here, there in (surfaces, surfaces[::-1])
        ]
    )
