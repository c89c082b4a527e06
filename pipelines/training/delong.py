"""Areas under ROC curves of the same cases by several methods, and whether they differ.

DeLong, DeLong and Clarke-Pearson, Biometrics 1988;44:837, by the midranks of Sun and Xu, IEEE Signal Process Lett
2014;21:1389.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

_CONFIDENCE = 0.95

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Area:
    """How well one method tells positive cases from negative ones."""

    auc: float
    lower: float  #: of the 95 % confidence interval
    upper: float
    positives: int
    negatives: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Two methods on the same cases."""

    first: str
    second: str
    auc: float  #: the first one's minus the second one's
    z: float
    p: float  #: two-sided


def areas(
    scores: Mapping[str, Sequence[float]], positive: Sequence[bool]
) -> tuple[dict[str, Area], tuple[Difference, ...]]:
    """Return each method's area, and DeLong's test of each pair.

    Parameters
    ----------
    scores
        Method -> a score of each case, higher where it is more likely positive; the same cases in the same order.
    positive
        Whether each case is positive.

    Returns
    -------
    tuple
        Method -> area, and a difference for each pair. Areas are NaN where one kind of case is missing; with less than
        two of a kind there is no interval and no test.
    """
    names, truth = list(scores), np.asarray(positive, bool)
    table = np.asarray([scores[name] for name in names], np.float64).reshape(len(names), -1)
    hits, misses = table[:, truth], table[:, ~truth]
    area, covariance = _areas(hits, misses)
    width = float(stats.norm.ppf(0.5 + _CONFIDENCE / 2))
    found = {}
    for index, name in enumerate(names):
        half = width * math.sqrt(max(0.0, covariance[index, index]))
        found[name] = Area(
            auc=float(area[index]),
            lower=max(0.0, float(area[index]) - half),
            upper=min(1.0, float(area[index]) + half),
            positives=hits.shape[1],
            negatives=misses.shape[1],
        )
    pairs = combinations(range(len(names)), 2)
    return found, tuple(_difference(names, area, covariance, pair) for pair in pairs)


def _areas(hits: Floats, misses: Floats) -> tuple[Floats, Floats]:
    """Areas, shape (methods,), and their covariance, shape (methods, methods)."""
    methods, (m, n) = len(hits), (hits.shape[1], misses.shape[1])
    if not m or not n:
        return np.full(methods, np.nan), np.full((methods, methods), np.nan)
    # Midranks: equal scores share the mean of their ranks.
    among_all = stats.rankdata(np.concatenate([hits, misses], axis=1), axis=1)
    of_hits = among_all[:, :m] - stats.rankdata(hits, axis=1)
    of_misses = among_all[:, m:] - stats.rankdata(misses, axis=1)
    # Of each positive case, the share of negative ones below it; of each negative one, that of positive ones above.
    below, above = of_hits / n, 1 - of_misses / m
    area = below.mean(axis=1)
    if min(m, n) < 2:
        return area, np.full((methods, methods), np.nan)
    covariance = np.atleast_2d(np.cov(below)) / m + np.atleast_2d(np.cov(above)) / n
    return area, covariance


def _difference(
    names: Sequence[str], area: Floats, covariance: Floats, pair: tuple[int, int]
) -> Difference:
    one, two = pair
    apart = float(area[one] - area[two])
    variance = float(covariance[one, one] + covariance[two, two] - 2 * covariance[one, two])
    z = math.nan
    if variance > 0:
        z = apart / math.sqrt(variance)
    elif variance == 0 and apart == 0:
        z = 0.0  # both rank all cases alike
    p = float(2 * stats.norm.sf(abs(z)))
    return Difference(first=names[one], second=names[two], auc=apart, z=z, p=p)
