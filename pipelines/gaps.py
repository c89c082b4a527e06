"""A series that lacks slices -> its longest run without a gap, and what a reader must know of it.

Nothing is interpolated: a slice that did not come stays unknown, and what lies beyond the gap is left out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydicom import Dataset

from pipelines.geometry import SAME_PLACE_MM, Vectors, decimals
from pipelines.result import Notice

#: Usual gaps up to which the next is no gap in the series.
_GAP = 1.5


def longest_run(datasets: Sequence[Dataset]) -> tuple[list[Dataset], Notice | None]:
    """The longest run of slices that follow each other; of two as long, the first along the normal.

    Parameters
    ----------
    datasets
        At least two single-frame images of one series, in any order.

    Returns
    -------
    datasets, notice
        By position along the normal, and `slices-missing`; all as they were given, and None, where nothing is missing
        or where they are no stack of slices (`pipelines.geometry.fit_grid` says why).

    Raises
    ------
    InputError
        `input-no-geometry`, naming the instance.
    """
    orientation = decimals(datasets[0], "ImageOrientationPatient", 6)
    normal = np.cross(orientation[:3], orientation[3:])
    along = np.array([decimals(ds, "ImagePositionPatient", 3) for ds in datasets]) @ normal
    order = np.argsort(along, kind="stable")
    along = along[order]
    gaps = np.diff(along)
    if gaps.min() < SAME_PLACE_MM:
        return list(datasets), None
    step = _usual(gaps)
    ends = np.flatnonzero(gaps > _GAP * step)
    if not ends.size:
        return list(datasets), None
    starts = np.concatenate([[0], ends + 1])
    lengths = np.diff(np.concatenate([starts, [len(along)]]))
    longest = int(lengths.argmax())
    first, count = int(starts[longest]), int(lengths[longest])
    chosen = [datasets[int(index)] for index in order[first : first + count]]
    return chosen, _notice(along, gaps[ends], step, first=first, count=count)


def _usual(gaps: Vectors) -> float:
    """Distance of neighbours between which nothing is missing, mm: also where more gaps are wide than not."""
    return float(np.median(gaps[gaps <= _GAP * gaps.min()]))


def _notice(along: Vectors, wide: Vectors, step: float, *, first: int, count: int) -> Notice:
    missing = int(np.rint(wide / step - 1).sum())
    last = first + count - 1
    return Notice(
        code="slices-missing",
        message=(
            f"{missing} slice(s) did not come, in {len(wide)} gap(s). Analysed is the longest run without a gap: "
            f"{count} of {len(along)} slices, {along[last] - along[first] + step:.1f} mm of the "
            f"{along[-1] - along[0] + step:.1f} mm that the series spans. What lies beyond is in no number."
        ),
    )
