"""A series that lacks slices -> its longest run without a gap, and what a reader must know of it.

Nothing is interpolated: a slice that did not come stays unknown, and what lies beyond the gap is left out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydicom import Dataset

from pipelines.geometry import Vectors, decimals
from pipelines.result import Notice

#: Usual gaps up to which the next is no gap in the series.
_GAP = 1.5
#: Share of a step by which a gap may differ from a whole number of steps.
_TOLERANCE = 0.25


def longest_run(datasets: Sequence[Dataset]) -> tuple[list[Dataset], Notice] | None:
    """The longest run of slices that follow each other; of two as long, the first along the normal.

    Parameters
    ----------
    datasets
        Single-frame images of one series in any order, which `pipelines.geometry.fit_grid` refuses for their distances
        and for nothing else.

    Returns
    -------
    datasets, notice
        By position along the normal, and `slices-missing`. None where their distances are no whole numbers of a step,
        or more slices would be missing than there are: that is another grid, or none.
    """
    orientation = decimals(datasets[0], "ImageOrientationPatient", 6)
    normal = np.cross(orientation[:3], orientation[3:])
    along = np.array([decimals(ds, "ImagePositionPatient", 3) for ds in datasets]) @ normal
    order = np.argsort(along, kind="stable")
    along = along[order]
    gaps = np.diff(along)
    step = _usual(gaps)
    steps = np.rint(gaps / step)
    missing = int((steps - 1).sum())
    if np.abs(gaps / step - steps).max() > _TOLERANCE or not 0 < missing <= len(along):
        return None
    ends = np.flatnonzero(steps > 1)
    starts = np.concatenate([[0], ends + 1])
    lengths = np.diff(np.concatenate([starts, [len(along)]]))
    longest = int(lengths.argmax())
    first, count = int(starts[longest]), int(lengths[longest])
    chosen = [datasets[int(index)] for index in order[first : first + count]]
    covered = float(along[first + count - 1] - along[first] + step)
    notice = Notice(
        code="slices-missing",
        message=(
            f"{missing} slice(s) did not come, in {len(ends)} gap(s). Analysed is the longest run without a gap: "
            f"{count} of {len(along)} slices, {covered:.1f} mm of the {along[-1] - along[0] + step:.1f} mm that the "
            "series spans. What lies beyond is in no number."
        ),
    )
    return chosen, notice


def _usual(gaps: Vectors) -> float:
    """Distance of neighbours between which nothing is missing, mm: also where more gaps are wide than not."""
    return float(np.median(gaps[gaps <= _GAP * gaps.min()]))
