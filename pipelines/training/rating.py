"""How sure a method is of each true lesion, for areas under ROC curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import highdicom as hd
import numpy as np
from scipy import ndimage

from pipelines.training.case import Case
from pipelines.training.delong import Area, Difference, areas

#: Lesions of fewer voxels are edges of one that the grid has lost.
_FEWEST_VOXELS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Rating:
    """One true lesion, as one method sees it."""

    case: str
    variant: str
    lesion: int  #: from 1, in the order of the case's lesions, whatever the method
    positive: bool
    score: float


def rate_lesions(
    case: Case, variant: str, score: hd.Volume, rated: tuple[int, int]
) -> tuple[Rating, ...]:
    """Rate each connected true lesion by the mean score within it.

    A lesion that a method does not see has a low score, so what is missed counts against it as what is mistaken.

    Parameters
    ----------
    case
        Its labels are looked at.
    variant
        Name of the method.
    score
        float, how likely each voxel is positive, on the grid of the labels.
    rated
        Label of positive lesions, and of negative ones.
    """
    ratings: list[Rating] = []
    for value in rated:
        lesions, count = ndimage.label(case.labels.array == value, np.ones((3, 3, 3)))
        numbers = np.arange(1, count + 1)
        means = ndimage.mean(score.array, lesions, numbers)
        sizes = np.bincount(lesions.ravel(), minlength=count + 1)[1:]
        for mean, size in zip(np.atleast_1d(means), sizes, strict=True):
            if size >= _FEWEST_VOXELS:
                ratings.append(
                    Rating(
                        case=case.name,
                        variant=variant,
                        lesion=len(ratings) + 1,
                        positive=value == rated[0],
                        score=float(mean),
                    )
                )
    return tuple(ratings)


def compare_ratings(
    ratings: Sequence[Rating],
) -> tuple[dict[str, Area], tuple[Difference, ...]]:
    """Return each method's area and the tests between them, over the lesions that all of them rated."""
    variants = list(dict.fromkeys(one.variant for one in ratings))
    by_lesion: dict[tuple[str, int], dict[str, Rating]] = {}
    for one in ratings:
        by_lesion.setdefault((one.case, one.lesion), {})[one.variant] = one
    # A study that one method declined is paired with nothing.
    whole = [found for found in by_lesion.values() if len(found) == len(variants)]
    if not whole:
        return {}, ()
    scores = {name: [found[name].score for found in whole] for name in variants}
    return areas(scores, [found[variants[0]].positive for found in whole])
