"""How people are shown a volume: window, colours, radiological planes, letters for the directions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from highdicom import Volume
from numpy.typing import NDArray

from pipelines.result import Segment, SourceSeries

CAUTION = "Research use - unverified - not for diagnosis"
#: Display window in HU (centre, width) for CT: bone and, darker, soft tissue.
_CT_WINDOW = (300.0, 1500.0)
#: Direction of the slices -> directions of rows and columns that radiologists expect: the patient's right on the
#: left of axial and coronal views, anterior on the left of sagittal ones.
_PLANES = {"H": "PL", "F": "PL", "A": "FL", "P": "FL", "L": "FP", "R": "FP"}
_AXIS_NAMES = {"H": "axial", "F": "axial", "A": "coronal", "P": "coronal"}
#: Share of a direction below which its letter is left out: 6 degrees.
_NEGLIGIBLE = 0.1


def window(source: SourceSeries) -> tuple[float, float]:
    """The values shown black and white."""
    if source.datasets[0].get("Modality") == "CT":
        centre, width = _CT_WINDOW
        return centre - width / 2, centre + width / 2
    # Uncalibrated modalities: most of what is there; every fourth voxel says as much.
    low, high = np.percentile(source.volume.array[:, ::4, ::4], (1.0, 99.5))
    return float(low), float(max(high, low + 1))


def colours(segments: Sequence[Segment]) -> NDArray[np.float64]:
    """Label value -> RGB, 0 to 1; shape (segments + 1, 3)."""
    rows = [(0, 0, 0), *(segment.spec.rgb for segment in segments)]
    return np.array(rows, dtype=np.float64) / 255


def in_own_planes(volume: Volume) -> Volume:
    """The same slices in the same order, turned and flipped within their planes to how radiologists look at them."""
    across = volume.get_closest_patient_orientation()[0].value
    return volume.to_patient_orientation(across + _PLANES[across])


def plane_name(volume: Volume) -> str:
    """What the slices are nearest to: `axial`, `coronal` or `sagittal`; `oblique` is put before where they are off."""
    across = volume.get_closest_patient_orientation()[0].value
    name = _AXIS_NAMES.get(across, "sagittal")
    normal = np.abs(volume.direction[:, 0])
    return name if normal.max() > 1 - _NEGLIGIBLE**2 / 2 else f"oblique {name}"


def letters(direction: NDArray[np.float64]) -> str:
    """The value of Patient Orientation (0020,0020) for a direction in LPS, e.g. `L` or `LPH` (PS3.3 C.7.6.1.1.1)."""
    named = [
        ("RL", "AP", "FH")[axis][int(direction[axis] > 0)]
        for axis in np.argsort(-np.abs(direction), kind="stable")
        if abs(direction[axis]) > _NEGLIGIBLE
    ]
    return "".join(named)


def slice_name(source: SourceSeries, index: int) -> str:
    """How people find a slice of the source: `series 3, image 57`, or `frame 12 of 64`."""
    if source.frame_numbers:
        return f"frame {source.frame_numbers[index]} of {len(source.frame_numbers)}"
    ds = source.datasets[index]
    series, number = ds.get("SeriesNumber"), ds.get("InstanceNumber")
    named = f"series {series}, " if series is not None else ""
    return f"{named}image {number}" if number is not None else f"{named}slice {index + 1}"
