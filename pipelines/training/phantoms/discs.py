"""Discs higher or lower than an atlas's: how bodies and discs share the length of a spine differs from patient to
patient, and from atlas to atlas (a disc is 0.23 of what lies between the middles of two vertebrae of one of ours, half
of it in another)."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from pipelines.training.phantoms.fields import Floats

Point = tuple[float, float, float]

#: By how much less steep the way through a disc is, of all discs of a spine and of one: 0.75 doubles its height. Ours,
#: wider than in patients, for a network not to learn heights.
_COMMON, _SPREAD, _MOST = (-0.3, 0.75), 0.1, 0.85
#: A disc as a share of what lies between the middles of two vertebrae: mean, and spreads of all discs of a spine and of
#: one. In the middle they are 10.0 (1.9) mm high at L1/L2 to 13.8 (2.0) mm at L4/L5 ("Measuring Dimensions of Lumbar
#: Intervertebral Discs in Normal Subjects", Anatomical Sciences Journal, A-10-159-1), or 9.1 (1.3) mm at all levels
#: (doi 10.1055/a-1994-0879); vertebrae are 30 to 36 mm apart.
_USUAL, _USUAL_SPREADS = 0.31, (0.05, 0.03)
#: mm beside, in front of and behind the middle of a body at which its arch and its surroundings stay where they are.
_BESIDE_MM, _FRONT_MM, _BACK_MM, _EDGE_MM = 32.0, 35.0, 21.0, 3.0


class DiscHeights(StrEnum):
    """Which heights are drawn."""

    ANY = "any"  #: half to twice the atlas's, to learn from
    USUAL = "usual"  #: patients', whatever the atlas's


@dataclass(frozen=True, slots=True, kw_only=True)
class Discs:
    """Heights of the discs between vertebrae, in the frame of the atlas."""

    middles: Floats  #: of the vertebral bodies from above, shape (n, 3), mm
    ups: Floats  #: unit vectors along the spine, shape (n, 3)
    growth: Floats  #: of each disc, -1 to 1: 0 is the atlas's height; shape (n - 1,)


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscMap:
    """Where the discs of an atlas are, and how high."""

    middles: Sequence[Point]  #: of the vertebral bodies from above, n of them, mm
    ups: Sequence[Point]  #: unit vectors along the spine, n of them
    shares: Sequence[
        float
    ]  #: each disc's of what lies between two middles, n - 1 of them; 0: not known


def draw_discs(rng: np.random.Generator, discs: DiscMap, heights: DiscHeights) -> Discs:
    """Draw the heights of a patient's discs.

    Parameters
    ----------
    rng
        Source of chance.
    discs
        The atlas's.
    heights
        Which; a disc whose height in the atlas is not known keeps it, where usual ones are asked for.
    """
    if heights is DiscHeights.ANY:
        growth = rng.uniform(*_COMMON) + rng.normal(0, _SPREAD, len(discs.shares))
    else:
        shares = np.asarray(discs.shares)
        common, own = _USUAL_SPREADS
        wanted = _USUAL + rng.normal(0, common) + rng.normal(0, own, shares.size)
        growth = np.where(shares > 0, _growth(shares, np.clip(wanted, 0.15, 0.5)), 0.0)
    return Discs(
        middles=np.asarray(discs.middles, np.float32),
        ups=np.asarray(discs.ups, np.float32),
        growth=np.clip(growth, -_MOST, _MOST).astype(np.float32),
    )


def _growth(shares: NDArray[np.float64], wanted: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the growth that makes discs of one share those of another: `slide`'s wave, solved for a disc's edge."""
    return np.asarray((wanted - shares) * np.pi / np.sin(np.pi * wanted))


def slide(discs: Discs, points: Floats) -> Floats:
    """Return by how much points between the middles of two vertebral bodies lie too low, mm.

    Middles of bodies and of discs stay where they are.

    Parameters
    ----------
    discs
        Whose.
    points
        float32, shape (..., 3), mm.

    Returns
    -------
    numpy.ndarray
        float32, shape (...).
    """
    moved = np.zeros(points.shape[:-1], np.float32)
    heights = [(points - middle) @ up for middle, up in zip(discs.middles, discs.ups, strict=True)]
    for number, growth in enumerate(discs.growth):
        below, above = -heights[number], heights[number + 1]
        between = (below > 0) & (above > 0)
        if not between.any():
            continue
        share = below[between] / (below[between] + above[between])
        upper, lower = discs.middles[number : number + 2]
        axis = upper + share[:, None] * (lower - upper)
        length = np.float32(np.linalg.norm(upper - lower))
        wave = growth * length * np.sin(2 * np.pi * share) / (2 * np.pi)
        moved[between] = -wave * _around(points[between] - axis)
    return moved


def _around(offset: Floats) -> NDArray[np.floating]:
    """1 in a vertebral body, 0 in its arch and far away."""
    x, y = offset[:, 0], offset[:, 1]
    back = 1 / (1 + np.exp(np.clip((y - _BACK_MM) / _EDGE_MM, -30, 30)))
    front = np.exp(-0.5 * np.square(np.minimum(y, 0) / _FRONT_MM))
    return np.asarray(back * front * np.exp(-0.5 * np.square(x / _BESIDE_MM)))
