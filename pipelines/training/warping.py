"""Warping of slices: what a network learns from differs in shape more than the few bodies it is made of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Warp:
    """How far slices are warped at random: standard deviations."""

    turned: float  #: rad
    scaled: float  #: logarithm of the scale, of rows and of columns
    moved: float  #: pixels, along rows and along columns
    bent: float  #: pixels, each control point along rows and along columns
    control_points: tuple[int, int]  #: along rows and columns, the first and last at the border

    def draw(
        self, shape: tuple[int, int], middle: tuple[float, float], rng: np.random.Generator
    ) -> Floats:
        """Return where the pixels of a warped slice lie in the slice that it is made from.

        Parameters
        ----------
        shape
            Rows and columns of the warped slice.
        middle
            Row and column, in the slice it is made from, of its middle if it is not moved.
        rng
            Source of chance.

        Returns
        -------
        numpy.ndarray
            float64, shape (2, rows, columns): row and column, as `ndimage.map_coordinates` takes them.
        """
        sides = np.array(shape)
        at = np.indices(shape) - ((sides - 1) / 2)[:, None, None]
        angle, size = rng.normal(0, self.turned), np.exp(rng.normal(0, self.scaled, 2))
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * size
        moved = middle + rng.normal(0, self.moved, 2)
        warped = np.tensordot(turn, at, 1) + moved[:, None, None]
        steps = [
            np.linspace(0, count - 1, side)
            for count, side in zip(self.control_points, shape, strict=True)
        ]
        where = np.meshgrid(*steps, indexing="ij")
        for axis in (0, 1):
            bend = rng.normal(0, self.bent, self.control_points)
            warped[axis] += ndimage.map_coordinates(bend, where, order=3, mode="nearest")
        return np.asarray(warped)
