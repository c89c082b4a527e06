"""What is said about the muscles: volume, Hounsfield units, areas at vertebral levels, and what is not whole."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.sr.coding import Code
from scipy import ndimage

from pipelines.ct_trunk_muscle.anatomy import (
    BODIES,
    INDEX_LEVEL,
    LEVEL_CODES,
    LEVELS,
    NUMBERS,
)
from pipelines.ct_trunk_muscle.segmenting import Trunk
from pipelines.result import Measurement, Notice, QualitativeEvaluation

_VOLUME = Code("118565006", "SCT", "Volume")
_AREA = Code("42798000", "SCT", "Area")
_ATTENUATION = Code("112031", "DCM", "Attenuation Coefficient")
_MEAN = Code("373098007", "SCT", "Mean")
# PS3.16 has no code for it: a private one (PS3.16 8.2).
_INDEX = Code("SMI", "99OSTEONODE", "Skeletal muscle index")
_MILLILITER = Code("mL", "UCUM", "milliliter")
_HOUNSFIELD = Code("[hnsf'U]", "UCUM", "Hounsfield unit")
_CM2 = Code("cm2", "UCUM", "square centimeter")
_CM2_PER_M2 = Code("cm2/m2", "UCUM", "square centimeter per square meter")

_QUALITY = Code("130550", "DCM", "Imaging Series Quality")
_INCOMPLETE = Code("130576", "DCM", "Anatomy coverage incomplete")
_FINDING = Code("121071", "DCM", "Finding")
_NOT_VISUALIZED = Code("122288", "DCM", "Not visualized")

#: No tissue measures less: padding beyond the reconstructed circle does.
_NOT_IMAGED_HU = -1020
#: A muscle has this many voxels next to what was not imaged before it counts as cut.
_CUT_VOXELS = 8
#: Statures of people, m: others are a slip of the keyboard.
_STATURES = (0.5, 2.6)


@dataclass(frozen=True, slots=True, kw_only=True)
class Statements:
    """What is said about a result."""

    measurements: tuple[Measurement, ...] = ()
    evaluations: tuple[QualitativeEvaluation, ...] = ()
    notices: tuple[Notice, ...] = ()


def measure(trunk: Trunk, header: Dataset | None) -> Statements:
    """Measure the muscles and say what is not whole.

    Parameters
    ----------
    trunk
        What was found.
    header
        Of any slice: Patient's Size (0010,1020), m.

    Returns
    -------
    Statements
        Of each muscle volume (mL), mean (HU), and area (cm2) in the slice through the middle of each vertebral body
        that is whole in the image; of all muscles together area, and at L3 the index, area over squared stature.
        No area is said of a slice in which the muscle is cut by the field of view.
    """
    edge = _edge(trunk)
    measurements: list[Measurement] = []
    evaluations: list[QualitativeEvaluation] = []
    cut: list[str] = []
    for name, number in NUMBERS.items():
        mask = trunk.labels.array == number
        if not mask.any():
            evaluations.append(_say(_FINDING, _NOT_VISUALIZED, number))
            continue
        measurements += _muscle(trunk, mask, number, edge)
        if _is_cut(trunk, mask, edge):
            evaluations.append(_say(_QUALITY, _INCOMPLETE, number))
            cut.append(name.replace("_", " "))
    notices = _cut_notice(cut)
    totals, said = _totals(trunk, edge, header)
    seen = {level.name: level for level in trunk.levels}
    for level, number in BODIES.items():
        if level not in seen:
            evaluations.append(_say(_FINDING, _NOT_VISUALIZED, number))
        elif not seen[level].whole:
            evaluations.append(_say(_QUALITY, _INCOMPLETE, number))
    return Statements(
        measurements=(*measurements, *totals),
        evaluations=tuple(evaluations),
        notices=(*notices, *said),
    )


def _say(name: Code, value: Code, number: int) -> QualitativeEvaluation:
    return QualitativeEvaluation(name=name, value=value, segment_number=number)


def _muscle(
    trunk: Trunk, mask: NDArray[np.bool_], number: int, edge: NDArray[np.bool_]
) -> list[Measurement]:
    millilitres = float(mask.sum() * trunk.image.voxel_volume / 1000)
    mean = float(trunk.image.array[mask].mean(dtype=np.float64))
    made = [
        Measurement(name=_VOLUME, value=millilitres, unit=_MILLILITER, segment_number=number),
        Measurement(
            name=_ATTENUATION, value=mean, unit=_HOUNSFIELD, derivation=_MEAN, segment_number=number
        ),
    ]
    for level, index in _middles(trunk):
        plane = mask[index]
        if plane.any() and not _touches(plane, edge[index]):
            made.append(_area(trunk, plane, level, number))
    return made


def _totals(
    trunk: Trunk, edge: NDArray[np.bool_], header: Dataset | None
) -> tuple[list[Measurement], tuple[Notice, ...]]:
    """Areas of all muscles together, and the index; none in a slice where one of them is cut."""
    made: list[Measurement] = []
    stature = _stature(header)
    notices: tuple[Notice, ...] = ()
    for level, index in _middles(trunk):
        plane = np.isin(trunk.labels.array[index], list(NUMBERS.values()))
        if not plane.any() or _touches(plane, edge[index]):
            continue
        area = _area(trunk, plane, level, None)
        made.append(area)
        if level != INDEX_LEVEL:
            continue
        if stature is None:
            notices = (
                Notice(
                    code="stature-unknown",
                    message="No skeletal muscle index: Patient's Size is not in the header, or no stature.",
                ),
            )
        else:
            made.append(
                Measurement(
                    name=_INDEX,
                    value=area.value / stature**2,
                    unit=_CM2_PER_M2,
                    site=LEVEL_CODES[INDEX_LEVEL],
                )
            )
    return made, notices


def _area(trunk: Trunk, plane: NDArray[np.bool_], level: str, number: int | None) -> Measurement:
    pixel = float(trunk.image.spacing[1] * trunk.image.spacing[2])
    return Measurement(
        name=_AREA,
        value=float(plane.sum()) * pixel / 100,
        unit=_CM2,
        site=LEVEL_CODES[level],
        segment_number=number,
    )


def _middles(trunk: Trunk) -> list[tuple[str, int]]:
    """Level and slice through its middle, of vertebral bodies that are whole in the image."""
    return [(level.name, trunk.slice_of(level)) for level in trunk.levels if level.whole]


def _stature(header: Dataset | None) -> float | None:
    value = header.get("PatientSize") if header is not None else None
    try:
        metres = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return metres if _STATURES[0] <= metres <= _STATURES[1] else None


# -- the field of view ----------------------------------------------------------------------------


def _edge(trunk: Trunk) -> NDArray[np.bool_]:
    """Return what lies at the border of a slice or next to what was not reconstructed; shape as the image."""
    edge = trunk.image.array <= _NOT_IMAGED_HU
    disc = ndimage.generate_binary_structure(2, 1)[None]
    edge = ndimage.binary_dilation(edge, disc, iterations=2)
    edge[:, :2], edge[:, -2:], edge[:, :, :2], edge[:, :, -2:] = True, True, True, True
    return np.asarray(edge)


def _touches(plane: NDArray[np.bool_], edge: NDArray[np.bool_]) -> bool:
    return int((plane & edge).sum()) >= _CUT_VOXELS


def _is_cut(trunk: Trunk, mask: NDArray[np.bool_], edge: NDArray[np.bool_]) -> bool:
    """Whether a muscle goes on beyond the image: in a slice, or above or below it inside of T4 to L4."""
    seen = {level.name for level in trunk.levels if level.whole}
    above = LEVELS[0] not in seen and int(mask[0].sum()) >= _CUT_VOXELS
    below = LEVELS[-1] not in seen and int(mask[-1].sum()) >= _CUT_VOXELS
    return above or below or int((mask & edge).sum()) >= _CUT_VOXELS


def _cut_notice(cut: list[str]) -> tuple[Notice, ...]:
    if not cut:
        return ()
    verb = "are" if len(cut) > 1 else "is"
    return (
        Notice(
            code="muscle-incomplete",
            message=f"{', '.join(cut)} {verb} cut by the field of view: volume and mean are of the imaged part.",
        ),
    )
