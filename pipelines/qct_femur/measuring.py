"""What is said about each femur: volume, Hounsfield units, mineral, and what keeps them from being said."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from pydicom.sr.coding import Code
from scipy import ndimage

from pipelines.qct_femur.anatomy import Head, distances
from pipelines.qct_femur.calibration import Calibration, Source
from pipelines.qct_femur.segmenting import Side
from pipelines.result import Measurement, Notice, QualitativeEvaluation

_VOLUME = Code("118565006", "SCT", "Volume")
_ATTENUATION = Code("112031", "DCM", "Attenuation Coefficient")
_MILLILITER = Code("mL", "UCUM", "milliliter")
_HOUNSFIELD = Code("[hnsf'U]", "UCUM", "Hounsfield unit")
_MG_PER_CM3 = Code("mg/cm3", "UCUM", "mg/cm^3")
_GRAM = Code("g", "UCUM", "gram")
_MEAN = Code("373098007", "SCT", "Mean")
_STANDARD_DEVIATION = Code("386136009", "SCT", "Standard Deviation")
# PS3.16 has no code for volumetric mineral density or mineral content: private codes (PS3.16 8.2).
_DENSITY = Code("VBMD", "99OSTEONODE", "Integral volumetric bone mineral density")
_CONTENT = Code("BMC", "99OSTEONODE", "Bone mineral content")

_QUALITY = Code("130550", "DCM", "Imaging Series Quality")
_INCOMPLETE = Code("130576", "DCM", "Anatomy coverage incomplete")
_FINDING = Code("121071", "DCM", "Finding")
_NOT_EVALUATED = Code("373121007", "SCT", "Not Evaluated")
_NOT_VISUALIZED = Code("122288", "DCM", "Not visualized")
_IMPLANT = Code("40388003", "SCT", "Implant")
_PRESENT = Code("52101004", "SCT", "Present")
_METHOD = Code("122422", "DCM", "Calibration Method")
# PS3.16 has no values for this concept.
_METHODS = {
    Source.PHANTOM: Code("CAL-PHANTOM", "99OSTEONODE", "Phantom scanned with the patient"),
    Source.SCANNER: Code("CAL-SCANNER", "99OSTEONODE", "Calibration of the scanner"),
    Source.NONE: Code("CAL-NONE", "99OSTEONODE", "Density not calibrated"),
}

#: A femur has this many voxels next to what was not imaged before it counts as cut.
_CUT_VOXELS = 8
#: No tissue around a femur measures less; padding and air beyond the reconstructed circle do.
_NOT_IMAGED_HU = -1000
#: Of this share of a head's radius, this share of voxels is bone.
_CORE, _FILLED = 0.7, 0.97
#: Gaps that a ball of this radius cannot enter take less than the rest; phantoms have 0.993 at least.
_CLOSING_MM, _SMOOTH = 6.0, 0.98
#: Above and medial of its head's centre a femur has nothing further away than this many of the head's radii; what lies
#: there, in balls of its head, is hip bone taken along. Of 480 femora of the body that training bends 99 % have up to
#: 0.02 (worst 0.076); with the bone within 12 mm of them, in one of ten, 95 % have 0.23 and more (least 0.083,
#: middle 0.50), with that within 25 mm 0.24 and more. The limit is the geometric mean of 0.076 and 0.23.
_BEYOND, _MOST_BEYOND = 1.3, 0.13
#: A proximal femur is as large as this many balls of its head: 439 of these femora, those that are not cut, have 2.6 to
#: 3.6 (middle 3.0), and so have they as the network finds them; half of one has 1.2 to 2.0. Upwards the size alone
#: tells little: with the bone within 12 mm they have 3.9 to 5.5. With a trochanter for a head they have 5.7 and more.
_FEWEST_BALLS, _MOST_BALLS = 2.0, 4.5


class State(StrEnum):
    """What became of one side."""

    MEASURED = "measured"
    CUT = "cut"  #: the field of view ends in it
    PATCHY = "patchy"  #: what was found is not one solid bone: the network failed
    HEADLESS = "headless"  #: its head is out of view, so what is proximal cannot be told
    IMPLANT = "implant"
    NOT_SEEN = "not seen"


@dataclass(frozen=True, slots=True, kw_only=True)
class Statements:
    """What is said about a result or one side of it."""

    measurements: tuple[Measurement, ...] = ()
    evaluations: tuple[QualitativeEvaluation, ...] = ()
    notices: tuple[Notice, ...] = ()


def measure(
    volume: hd.Volume, mask: hd.Volume, calibration: Calibration, number: int, state: State
) -> tuple[Measurement, ...]:
    """Measure one proximal femur.

    Parameters
    ----------
    volume
        HU, axes (slice, row, column), spacing in mm.
    mask
        bool, on the same grid.
    calibration
        HU to mg/cm3.
    number
        The segment.
    state
        Of a femur that is cut, volume and content are left out: they are not those of a proximal femur.

    Returns
    -------
    tuple of Measurement
        Volume in mL; mean and standard deviation in HU; calibrated, density in mg/cm3 and content in g.
    """
    inside = volume.array[mask.array]
    if inside.size == 0:
        return ()
    millilitres = inside.size * float(volume.voxel_volume) / 1000
    mean = float(inside.mean(dtype=np.float64))
    deviation = float(inside.std(dtype=np.float64))
    density = calibration.slope * mean + calibration.intercept
    whole = state is State.MEASURED

    def say(name: Code, value: float, unit: Code, derivation: Code | None = None) -> Measurement:
        return Measurement(
            name=name, value=value, unit=unit, derivation=derivation, segment_number=number
        )

    measured = [say(_VOLUME, millilitres, _MILLILITER)] if whole else []
    measured += [
        say(_ATTENUATION, mean, _HOUNSFIELD, _MEAN),
        say(_ATTENUATION, deviation, _HOUNSFIELD, _STANDARD_DEVIATION),
    ]
    if calibration.is_known:
        measured.append(say(_DENSITY, density, _MG_PER_CM3))
        if whole:
            # A cubic centimetre is a millilitre.
            measured.append(say(_CONTENT, density * millilitres / 1000, _GRAM))
    return tuple(measured)


def is_cut(volume: hd.Volume, mask: hd.Volume) -> bool:
    """Whether a femur goes on beyond what was imaged: slices, borders, or the reconstructed circle.

    Parameters
    ----------
    volume
        HU, axes (slice, row, column).
    mask
        bool, on the same grid.
    """
    windows = ndimage.find_objects(mask.array.astype(np.uint8))
    if not windows:
        return False
    around = tuple(slice(max(0, part.start - 2), part.stop + 2) for part in windows[0])
    grown = ndimage.binary_dilation(mask.array[around], iterations=2)
    beyond = np.count_nonzero(grown & (volume.array[around] <= _NOT_IMAGED_HU))
    edges = [
        np.count_nonzero(mask.array.take(index, axis=axis))
        for axis in range(3)
        for index in (0, -1)
    ]
    return bool(max(*edges, beyond) >= _CUT_VOXELS)


def is_solid(mask: hd.Volume, head: Head, side: Side, *, cut: bool) -> bool:
    """Whether a mask can be a proximal femur: its head filled, no gaps, no hip bone, enough of neck and shaft.

    Parameters
    ----------
    mask
        bool, the proximal part, axes (slice, row, column), affine LPS in mm.
    head
        The ball that was fitted to its head.
    side
        Of the patient.
    cut
        Whether the field of view ends in it: then less of it may be there.
    """
    ball = distances(mask, head.centre) < _CORE * head.radius
    if np.count_nonzero(mask.array & ball) < _FILLED * np.count_nonzero(ball):
        return False
    if np.count_nonzero(mask.array) < _SMOOTH * np.count_nonzero(_closed(mask)):
        return False
    balls, beyond = balls_of(mask, head, side)
    return beyond <= _MOST_BEYOND and balls <= _MOST_BALLS and (cut or balls >= _FEWEST_BALLS)


def balls_of(mask: hd.Volume, head: Head, side: Side) -> tuple[float, float]:
    """Return how large a mask is, and how much of it lies beyond the head, in balls of that head.

    Parameters
    ----------
    mask
        bool, the proximal part, axes (slice, row, column), affine LPS in mm.
    head
        The ball that was fitted to its head.
    side
        Of the patient: beyond is above and medial of the head's centre, where a hip bone is and no femur.
    """
    offsets = np.argwhere(mask.array) @ mask.affine[:3, :3].T + mask.affine[:3, 3] - head.centre
    far = np.linalg.norm(offsets, axis=1) > _BEYOND * head.radius
    # The neck points up and to the middle of the body; x runs to the left.
    inwards = offsets[:, 2] > side * offsets[:, 0]
    ball = 4 / 3 * np.pi * head.radius**3 / mask.voxel_volume
    return len(offsets) / ball, float(np.count_nonzero(far & inwards)) / ball


def _closed(mask: hd.Volume) -> NDArray[np.bool_]:
    """A mask and what a ball of `_CLOSING_MM` cannot reach from outside of it, in the box around it."""
    window = ndimage.find_objects(mask.array.astype(np.uint8))[0]
    margin = [(int(np.ceil(_CLOSING_MM / spacing)) + 1,) * 2 for spacing in mask.spacing]
    inside = np.pad(mask.array[window], margin)
    grown = ndimage.distance_transform_edt(~inside, sampling=mask.spacing) <= _CLOSING_MM
    shrunk = ndimage.distance_transform_edt(grown, sampling=mask.spacing) > _CLOSING_MM
    return np.asarray(shrunk | inside)


def statements_of(state: State, side: str, number: int) -> Statements:
    """Return what is said, in codes and in a sentence, about a side besides its measurements."""
    if state is State.MEASURED:
        return Statements()
    code, sentence, said = _SAID[state]
    return Statements(
        evaluations=tuple(
            QualitativeEvaluation(name=name, value=value, segment_number=number)
            for name, value in said
        ),
        notices=(
            Notice(code=f"femur-{side}-{code}", message=f"The {side} proximal femur {sentence}"),
        ),
    )


#: State -> end of the notice's code, sentence, coded questions and answers.
_SAID: Mapping[State, tuple[str, str, tuple[tuple[Code, Code], ...]]] = {
    State.CUT: (
        "incomplete",
        "is cut by the field of view: no volume and no content, the rest is of the imaged part.",
        ((_QUALITY, _INCOMPLETE),),
    ),
    State.PATCHY: (
        "patchy",
        "was not found as one solid bone, so the segmentation has failed: not evaluated, look at the images.",
        ((_FINDING, _NOT_EVALUATED),),
    ),
    State.HEADLESS: (
        "without-head",
        "is seen without its head, so its proximal part cannot be told: not evaluated.",
        ((_QUALITY, _INCOMPLETE), (_FINDING, _NOT_EVALUATED)),
    ),
    State.IMPLANT: (
        "implant",
        "has metal in it or beside it: not evaluated.",
        ((_IMPLANT, _PRESENT), (_FINDING, _NOT_EVALUATED)),
    ),
    State.NOT_SEEN: (
        "not-seen",
        "was not found in the field of view: not measured.",
        ((_FINDING, _NOT_VISUALIZED),),
    ),
}


def calibration_statements(calibration: Calibration) -> Statements:
    """Return what is said about the calibration of the whole result."""
    method = QualitativeEvaluation(name=_METHOD, value=_METHODS[calibration.source])
    return Statements(evaluations=(method,), notices=calibration.notices)
