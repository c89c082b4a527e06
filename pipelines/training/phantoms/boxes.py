"""Boxes around what a mask holds: what is far from it need not be looked at."""

import numpy as np
from numpy.typing import NDArray

Box = tuple[slice, ...]


def bounding_box(where: NDArray[np.bool_], margins: tuple[int, ...] | None = None) -> Box:
    """Return the smallest box that holds all that is true, and a margin where the array has one.

    Parameters
    ----------
    where
        Any shape; something in it is true.
    margins
        Elements along each axis; None: none.
    """
    box = []
    for axis, margin in enumerate(margins or (0,) * where.ndim):
        others = tuple(other for other in range(where.ndim) if other != axis)
        found = np.flatnonzero(where.any(axis=others))
        box.append(
            slice(
                max(0, int(found[0]) - margin),
                min(where.shape[axis], int(found[-1]) + 1 + margin),
            )
        )
    return tuple(box)
