"""What is said of the tumours and the vertebrae: volume, longest axial diameter, enhancement, count."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from highdicom import Volume
from numpy.typing import NDArray
from pydicom.sr.coding import Code
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError
from scipy.spatial.distance import pdist

from pipelines.mr_spine_tumor.sequence import Contrast, MrSequence
from pipelines.result import Measurement, Notice, QualitativeEvaluation

Mask = NDArray[np.bool_]

_VOLUME = Code("118565006", "SCT", "Volume")
_LONG_AXIS = Code("103339001", "SCT", "Long axis")
_COUNT = Code("246206008", "SCT", "Number of lesions")
_TOTAL = Code("255619001", "SCT", "Total")
_MILLILITER = Code("mL", "UCUM", "milliliter")
_MILLIMETER = Code("mm", "UCUM", "millimeter")
_NO_UNITS = Code("1", "UCUM", "no units")
# PS3.16 has no code for a signal relative to that of normal marrow: a private one (PS3.16 8.2).
_ENHANCEMENT = Code("MARROW-RATIO", "99OSTEONODE", "Signal ratio of tumour to normal marrow")

_QUALITY = Code("130550", "DCM", "Imaging Series Quality")
_INCOMPLETE = Code("130576", "DCM", "Anatomy coverage incomplete")

#: Of marrow: mm away from tumours and from the surface, within which signal is not that of normal marrow.
_FROM_TUMOUR_MM, _FROM_SURFACE_MM = 8.0, 2.5
#: Fewer voxels than this are no marrow to compare with.
_FEWEST_VOXELS = 50
#: The coil's sensitivity is compared over this distance, mm.
_NEAR_MM = 60.0


def measure_tumours(
    volume: Volume, vertebrae: Mask, numbers: NDArray[np.uint16], count: int
) -> tuple[Measurement, ...]:
    """Measure each tumour.

    Parameters
    ----------
    volume
        MR values, axes (slice, row, column), affine LPS in mm.
    vertebrae
        Where they are, without tumours.
    numbers
        The number of each tumour from 1, 0 elsewhere; its segment's is one more.
    count
        How many there are.

    Returns
    -------
    tuple of Measurement
        Per tumour: volume in mL, longest axial diameter in mm, and, where there is normal marrow near, the ratio of
        its mean signal to the
        marrow's.
    """
    marrow = normal_marrow(volume, vertebrae, numbers > 0)
    places = np.argwhere(marrow)
    marrow_mm = np.asarray(volume.map_indices_to_reference(places), np.float64).reshape(-1, 3)
    values = volume.array[marrow].astype(np.float64)
    made = []
    for number, window in enumerate(ndimage.find_objects(numbers, max_label=count), start=1):
        inside = numbers[window] == number
        indices = np.argwhere(inside) + [part.start for part in window]
        millimetres = np.asarray(volume.map_indices_to_reference(indices))
        millilitres = len(indices) * float(volume.voxel_volume) / 1000
        made += [
            _measurement(_VOLUME, millilitres, _MILLILITER, number + 1),
            _measurement(
                _LONG_AXIS, axial_diameter(millimetres, volume.spacing), _MILLIMETER, number + 1
            ),
        ]
        ratio = _ratio(volume.array[window][inside], millimetres, marrow_mm, values)
        if ratio is not None:
            made.append(_measurement(_ENHANCEMENT, ratio, _NO_UNITS, number + 1))
    return tuple(made)


def measure_all(
    volume: Volume, vertebrae: Mask, numbers: NDArray[np.uint16], count: int
) -> tuple[Measurement, ...]:
    """Measure vertebrae (segment 1), and count and add up the tumours; zeros are said."""
    millilitre = float(volume.voxel_volume) / 1000
    tumours = np.count_nonzero(numbers) * millilitre
    made = [
        _measurement(_VOLUME, np.count_nonzero(vertebrae) * millilitre, _MILLILITER, 1),
        _measurement(_COUNT, float(count), _NO_UNITS),
        Measurement(name=_VOLUME, value=tumours, unit=_MILLILITER, derivation=_TOTAL),
    ]
    if not count:
        made.append(_measurement(_VOLUME, 0.0, _MILLILITER, 2))
    return tuple(made)


def axial_diameter(points: NDArray[np.float64], spacing: Sequence[float]) -> float:
    """Return the longest distance of two points of a tumour across the patient's long axis, mm.

    The tumour is looked at along the patient's z axis, whatever the slices' direction; half a voxel is added at each
    end.

    Parameters
    ----------
    points
        Middles of its voxels, LPS, shape (n, 3), mm.
    spacing
        Of the voxels: slices, rows, columns; mm.
    """
    flat = np.unique(np.round(points[:, :2], 3), axis=0)
    try:
        ends = flat[ConvexHull(flat).vertices]
    except (QhullError, ValueError):  # on one line, or too few for a hull
        ends = flat
    longest = float(pdist(ends).max()) if len(ends) > 1 else 0.0
    return longest + float(min(spacing))


def normal_marrow(volume: Volume, vertebrae: Mask, tumours: Mask) -> Mask:
    """Return vertebrae away from their surface and from tumours.

    Parameters
    ----------
    volume
        Gives the spacing, mm.
    vertebrae, tumours
        bool, on its grid.
    """
    # Within the slices: a few thick ones have no inside along their normal.
    inside = np.zeros_like(vertebrae)
    spacing = volume.spacing[1:]
    for index, plane in enumerate(vertebrae | tumours):
        if plane.any():
            depth = ndimage.distance_transform_edt(np.pad(plane, 1), sampling=spacing)
            inside[index] = depth[1:-1, 1:-1] > _FROM_SURFACE_MM
    inside &= vertebrae
    if tumours.any():
        away = ndimage.distance_transform_edt(~tumours, sampling=volume.spacing)
        inside &= away > _FROM_TUMOUR_MM
    return inside


def _ratio(
    tumour: NDArray[np.generic],
    points: NDArray[np.float64],
    marrow: NDArray[np.float64],
    values: NDArray[np.float64],
) -> float | None:
    """Mean signal of a tumour over the median of normal marrow near it, for coils are uneven; else of all of it."""
    if len(values) < _FEWEST_VOXELS:
        return None
    near = np.linalg.norm(marrow - points.mean(axis=0), axis=1) < _NEAR_MM
    used = values[near] if np.count_nonzero(near) >= _FEWEST_VOXELS else values
    middle = float(np.median(used))
    return float(tumour.mean(dtype=np.float64)) / middle if middle > 0 else None


def statements(
    volume: Volume, labels: NDArray[np.uint8], count: int, sequence: MrSequence
) -> tuple[tuple[QualitativeEvaluation, ...], tuple[Notice, ...]]:
    """Return what is said in codes and in sentences.

    Parameters
    ----------
    volume
        Axes (slice, row, column).
    labels
        1 in vertebrae, 2 in tumours.
    count
        How many tumours there are.
    sequence
        What the header says.
    """
    evaluations, notices = [], []
    if not count:
        notices.append(Notice(code="no-tumour", message="No tumour was segmented."))
    cut = _cut(labels == 2)
    if cut:
        evaluations.append(QualitativeEvaluation(name=_QUALITY, value=_INCOMPLETE))
        notices.append(
            Notice(
                code="tumour-incomplete",
                message=f"A tumour is cut by {cut}: its volume and diameter are those of the imaged part.",
            )
        )
    if sequence.contrast is not Contrast.GIVEN:
        notices.append(
            Notice(
                code="contrast-not-required",
                message="The header does not say that contrast medium was given: the network has seen none such, and "
                "tumours that need it to be seen are missed.",
            )
        )
    if float(volume.spacing[0]) > 1.5 * max(volume.spacing[1:]):
        notices.append(
            Notice(
                code="thick-slices",
                message=f"Slices lie {volume.spacing[0]:.1f} mm apart: volumes and diameters are as coarse as that.",
            )
        )
    return tuple(evaluations), tuple(notices)


def _cut(tumour: Mask) -> str:
    """What the field of view cuts tumours by; empty where it does not."""
    places = []
    if tumour[0].any() or tumour[-1].any():
        places.append("the first or last slice")
    if tumour[:, [0, -1], :].any() or tumour[:, :, [0, -1]].any():
        places.append("the border of the images")
    return " and by ".join(places)


def _measurement(name: Code, value: float, unit: Code, segment: int | None = None) -> Measurement:
    return Measurement(name=name, value=value, unit=unit, segment_number=segment)
