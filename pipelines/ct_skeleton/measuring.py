"""What is said about the segmented skeleton: volume, Hounsfield units, what the field of view cut."""

from dataclasses import dataclass

import numpy as np
from highdicom import Volume
from pydicom.sr.coding import Code

from pipelines.result import Measurement, Notice, QualitativeEvaluation
from storage.model import Parameters

_VOLUME = Code("118565006", "SCT", "Volume")
_ATTENUATION = Code("112031", "DCM", "Attenuation Coefficient")
_MILLILITER = Code("mL", "UCUM", "milliliter")
_HOUNSFIELD = Code("[hnsf'U]", "UCUM", "Hounsfield unit")
_PERCENT = Code("%", "UCUM", "percent")
_MEAN = Code("373098007", "SCT", "Mean")
_STANDARD_DEVIATION = Code("386136009", "SCT", "Standard Deviation")
_PERCENTILES = {
    5: Code("371888009", "SCT", "5th Percentile Value of population"),
    50: Code("373099004", "SCT", "Median Value of population"),
    95: Code("371889001", "SCT", "95th Percentile Value of population"),
}
# PS3.16 has no code for a share of volume within bounds of attenuation: private codes (PS3.16 8.2).
_DENSE = Code("BONE-DENSE", "99OSTEONODE", "Fraction of dense bone")
_LOW = Code("BONE-LOW", "99OSTEONODE", "Fraction of low density bone")

_QUALITY = Code("130550", "DCM", "Imaging Series Quality")
_INCOMPLETE = Code("130576", "DCM", "Anatomy coverage incomplete")


@dataclass(frozen=True, slots=True, kw_only=True)
class Incompleteness:
    """What is said about a skeleton that goes on beyond the images; empty if it does not."""

    evaluations: tuple[QualitativeEvaluation, ...] = ()
    notices: tuple[Notice, ...] = ()


def measure_bone(
    volume: Volume, skeleton: Volume, parameters: Parameters
) -> tuple[Measurement, ...]:
    """Measure the bone of a CT.

    Parameters
    ----------
    volume
        HU, axes (slice, row, column), spacing in mm.
    skeleton
        uint8, 1 in bone, on the same grid.
    parameters
        `dense_hu`: from here on bone is dense; `low_density_hu`: below, it is of low density.

    Returns
    -------
    tuple of Measurement
        Volume in mL; and, if there is any bone, mean, standard deviation and percentiles in HU and
        the fractions in percent.
    """
    inside = volume.array[skeleton.array > 0]
    millilitres = inside.size * skeleton.voxel_volume / 1000
    measured = [_measurement(_VOLUME, millilitres, _MILLILITER)]
    if inside.size == 0:
        return tuple(measured)
    inside = inside.astype(np.float32)
    mean, deviation = float(inside.mean(dtype=np.float64)), float(inside.std(dtype=np.float64))
    measured += [
        _measurement(_ATTENUATION, mean, _HOUNSFIELD, _MEAN),
        _measurement(_ATTENUATION, deviation, _HOUNSFIELD, _STANDARD_DEVIATION),
    ]
    for value, (_, code) in zip(
        np.percentile(inside, list(_PERCENTILES)), _PERCENTILES.items(), strict=True
    ):
        measured.append(_measurement(_ATTENUATION, float(value), _HOUNSFIELD, code))
    dense = 100 * float((inside >= float(parameters["dense_hu"])).mean())
    low = 100 * float((inside < float(parameters["low_density_hu"])).mean())
    return (
        *measured,
        _measurement(_DENSE, dense, _PERCENT),
        _measurement(_LOW, low, _PERCENT),
    )


def incompleteness(skeleton: Volume) -> Incompleteness:
    """Say whether the field of view cuts the skeleton.

    Parameters
    ----------
    skeleton
        uint8, 1 in bone, axes (slice, row, column).
    """
    bone = skeleton.array > 0
    places = []
    if bone[0].any() or bone[-1].any():
        places.append("the first or last slice")
    if bone[:, [0, -1], :].any() or bone[:, :, [0, -1]].any():
        places.append("the border of the images")
    if not places:
        return Incompleteness()
    return Incompleteness(
        evaluations=(QualitativeEvaluation(name=_QUALITY, value=_INCOMPLETE, segment_number=1),),
        notices=(
            Notice(
                code="skeleton-incomplete",
                message=f"The skeleton is cut by {' and by '.join(places)}: "
                "volume and fractions are those of the imaged part.",
            ),
        ),
    )


def _measurement(
    name: Code, value: float, unit: Code, derivation: Code | None = None
) -> Measurement:
    return Measurement(name=name, value=value, unit=unit, derivation=derivation, segment_number=1)
