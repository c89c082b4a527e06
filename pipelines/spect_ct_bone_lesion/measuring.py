"""What is said about each lesion and about all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from pydicom.sr.coding import Code
from scipy import ndimage

from pipelines.result import Measurement, QualitativeEvaluation
from pipelines.spect_ct_bone_lesion.segmenting import Lesion, Lesions

_VOLUME = Code("118565006", "SCT", "Volume")
_COUNTS = Code("110821", "DCM", "Nuclear Medicine Tomographic Activity")
_SUV = Code("126401", "DCM", "SUVbw")
_RATIO = Code("126039", "DCM", "Lesion to Background SUV Ratio")
_ATTENUATION = Code("112031", "DCM", "Attenuation Coefficient")
_PROBABILITY = Code("111047", "DCM", "Probability of cancer")
_NUMBER = Code("246206008", "SCT", "Number of lesions")
# PS3.16 has no code for counts by class, nor for the volume of one class: private codes (PS3.16 8.2).
_METASTASES = Code("NUM-METASTASES", "99OSTEONODE", "Number of bone metastases")
_BENIGN = Code("NUM-BENIGN", "99OSTEONODE", "Number of benign bone lesions")
_METASTATIC_VOLUME = Code("VOL-METASTASES", "99OSTEONODE", "Total volume of bone metastases")
_MEAN = Code("373098007", "SCT", "Mean")
_MAXIMUM = Code("56851009", "SCT", "Maximum")
_MILLILITER = Code("mL", "UCUM", "milliliter")
_COUNT_UNIT = Code("{counts}", "UCUM", "Counts")
_SUV_UNIT = Code("g/ml{SUVbw}", "UCUM", "Standardized Uptake Value body weight")
_HOUNSFIELD = Code("[hnsf'U]", "UCUM", "Hounsfield unit")
_PERCENT = Code("%", "UCUM", "Percent")
_NO_UNIT = Code("1", "UCUM", "no units")

_FINDING = Code("121071", "DCM", "Finding")
_MALIGNANT_FINDING = Code("21594007", "SCT", "Malignant")
_BENIGN_FINDING = Code("30807003", "SCT", "Benign")

#: Bone from here on, HU, when voxels of SPECT's size are asked.
_BONE_HU = 150.0
#: From a lesion: nearer bone holds some of its counts, mm.
_APART_MM = 15.0
#: Fewer voxels of normal bone say nothing.
_FEWEST_VOXELS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Signals:
    """Both images on the grid of the labels; None where there is none."""

    counts: NDArray[np.floating] | None
    hounsfield: NDArray[np.floating] | None
    suv_factor: float | None  #: SUVbw per count


def measure_lesion(
    found: Lesions, lesion: Lesion, signals: Signals, normal: float | None
) -> tuple[Measurement, ...]:
    """Measure one lesion.

    Parameters
    ----------
    found
        Labels, spacing in mm.
    lesion
        The one.
    signals
        On the same grid.
    normal
        Counts of normal bone, or None where they are not known.

    Returns
    -------
    tuple of Measurement
        Volume in mL; maximum and mean of counts (or of SUVbw), and the maximum over that of normal bone; mean HU;
        probability of metastasis in percent.
    """
    window = ndimage.find_objects(found.labels.array, lesion.number)[lesion.number - 1]
    inside = found.labels.array[window] == lesion.number
    made = [
        _say(_VOLUME, inside.sum() * found.labels.voxel_volume / 1000, _MILLILITER, lesion.number)
    ]
    if signals.counts is not None:
        counts = signals.counts[window][inside]
        name, unit, factor = _COUNTS, _COUNT_UNIT, 1.0
        if signals.suv_factor is not None:
            name, unit, factor = _SUV, _SUV_UNIT, signals.suv_factor
        for derivation, value in ((_MAXIMUM, counts.max()), (_MEAN, counts.mean(dtype=float))):
            made.append(_say(name, value * factor, unit, lesion.number, derivation))
        if normal is not None:
            # Of counts or of SUV: the factor cancels out.
            made.append(_say(_RATIO, counts.max() / normal, _NO_UNIT, lesion.number, _MAXIMUM))
    if signals.hounsfield is not None:
        mean = signals.hounsfield[window][inside].mean(dtype=float)
        made.append(_say(_ATTENUATION, mean, _HOUNSFIELD, lesion.number, _MEAN))
    made.append(_say(_PROBABILITY, 100 * lesion.probability, _PERCENT, lesion.number))
    return tuple(made)


def state_class(lesion: Lesion) -> QualitativeEvaluation:
    """Return what a lesion is taken for."""
    return QualitativeEvaluation(
        name=_FINDING,
        value=_MALIGNANT_FINDING if lesion.malignant else _BENIGN_FINDING,
        segment_number=lesion.number,
    )


def totals(found: Lesions) -> tuple[Measurement, ...]:
    """Return counts of lesions, by class, and the volume of metastases in mL; zeros where there are none."""
    metastases = [one.number for one in found.lesions if one.malignant]
    voxels = np.bincount(found.labels.array.ravel(), minlength=len(found.lesions) + 1)
    volume = float(voxels[metastases].sum()) * float(found.labels.voxel_volume) / 1000
    return (
        _say(_NUMBER, len(found.lesions), _NO_UNIT),
        _say(_METASTASES, len(metastases), _NO_UNIT),
        _say(_BENIGN, len(found.lesions) - len(metastases), _NO_UNIT),
        _say(_METASTATIC_VOLUME, volume, _MILLILITER),
    )


def normal_bone(labels: hd.Volume, signals: Signals) -> float | None:
    """Return the median counts of bone away from lesions; None without CT, or with too little of such bone.

    What CT shows as dense and is no bone, as contrast medium in the kidneys, is little against the skeleton.
    """
    if signals.counts is None or signals.hounsfield is None:
        return None
    bone = signals.hounsfield >= _BONE_HU
    if labels.array.any():
        away = ndimage.distance_transform_edt(labels.array == 0, sampling=labels.spacing)
        bone &= away > _APART_MM
    counts = signals.counts[bone]
    median = float(np.median(counts)) if counts.size >= _FEWEST_VOXELS else 0.0
    return median if median > 0 else None


def _say(
    name: Code,
    value: float,
    unit: Code,
    number: int | None = None,
    derivation: Code | None = None,
) -> Measurement:
    return Measurement(
        name=name, value=float(value), unit=unit, derivation=derivation, segment_number=number
    )


def measure(found: Lesions, signals: Signals) -> tuple[Sequence[Measurement], float | None]:
    """Return all measurements, and the counts of normal bone that ratios are of."""
    normal = normal_bone(found.labels, signals)
    each = [
        one for lesion in found.lesions for one in measure_lesion(found, lesion, signals, normal)
    ]
    return (*each, *totals(found)), normal
