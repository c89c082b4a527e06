"""Who is imaged: a patient drawn from a seed, with distributions that have a source.

Source
------
Trabecular density: Jang et al., Radiology 2019;291:360, 20,374 adults at 120 kV: L1 measures 226
(SD 44) HU below the age of 30 and 89 (SD 38) HU from 90 on. We draw a straight line between these
two, 2.15 HU a year (they fit 2.5), for both sexes.

All else is ours, of plausible size and not fitted to data: height, fat, muscle, the poses of the
hips, and the cortex, which thins slowly from 30 on and in women faster from 50 on.
Implants, lesions and fractures are more frequent than in a hospital, to be met in training.
"""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

Point = tuple[float, float, float]


class Sex(StrEnum):
    """Of the skeleton."""

    FEMALE = "female"
    MALE = "male"


class Arms(StrEnum):
    """Where the arms are."""

    DOWN = "down"  #: beside the trunk
    UP = "up"  #: beside the head; nothing of them is in the image
    AWAY = "away"  #: not in the body at all


class Phase(StrEnum):
    """Where the contrast medium has got to."""

    NATIVE = "native"
    ARTERIAL = "arterial"
    VENOUS = "venous"
    EXCRETORY = "excretory"


class ImplantKind(StrEnum):
    """What metal there may be."""

    HIP_PROSTHESIS = "hip_prosthesis"
    FEMORAL_PLATE = "femoral_plate"
    CERCLAGE = "cerclage"
    PEDICLE_SCREWS = "pedicle_screws"


class FractureKind(StrEnum):
    """How a bone is broken."""

    COMPRESSION = "compression"
    CRACK = "crack"


@dataclass(frozen=True, slots=True, kw_only=True)
class HipPose:
    """How a femur stands in its joint, in degrees from the source's pose."""

    flexion: float = 0.0  #: thigh to the front
    abduction: float = 0.0  #: thigh to the side
    rotation: float = 0.0  #: toes inward


@dataclass(frozen=True, slots=True, kw_only=True)
class Implant:
    """Metal in the body."""

    kind: ImplantKind
    site: str  #: `left` or `right`; of screws: the vertebra
    size: float  #: 1 is the middle size


@dataclass(frozen=True, slots=True, kw_only=True)
class Fracture:
    """A broken bone."""

    kind: FractureKind
    structure: str  #: a vertebra, a rib or a femur (its neck)
    severity: float  #: compression: height lost, 0 to 0.5; crack: width of the gap, mm


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesion:
    """A round lesion of the marrow: sclerotic if positive, lytic if negative."""

    structure: str
    radius_mm: float
    density: float  #: -1 to 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Patient:
    """One patient. Nothing here depends on how the patient is imaged."""

    sex: Sex
    age: int
    height_m: float
    fat_mm: float  #: of the subcutaneous fat over the flank
    muscle: float  #: bulk; 1 is the source's
    muscle_fat: float  #: share of fat in muscle, 0 to 0.4
    trabecular_mg: float  #: mineral in the marrow of L1, mg hydroxyapatite per cm3
    cortical_mg: float  #: mineral in cortical bone, mg hydroxyapatite per cm3
    cortex: float  #: thickness of all cortices; 1 is a young man's
    scoliosis_mm: float  #: amplitude of the sideways curve of the spine
    hips: tuple[HipPose, HipPose]  #: left, right
    arms: Arms
    phase: Phase
    oral_contrast: bool
    lesions: tuple[Lesion, ...] = ()
    fractures: tuple[Fracture, ...] = ()
    implants: tuple[Implant, ...] = ()

    def has_implant(self, site: str) -> bool:
        """Return whether there is metal at a site: `left`, `right` or a vertebra."""
        return any(implant.site == site for implant in self.implants)


def draw_patient(rng: np.random.Generator, *, contrast: bool | None = None) -> Patient:
    """Draw a patient; `contrast` None leaves the contrast medium to chance."""
    sex = Sex(rng.choice(list(Sex)))
    age = int(np.clip(rng.normal(60, 17), 18, 96))
    enhanced = rng.random() < 0.55 if contrast is None else contrast
    oral = rng.random() < 0.35 if contrast is None else contrast
    trabecular, cortical, cortex = _draw_bone(rng, sex, age)
    female = sex is Sex.FEMALE
    return Patient(
        sex=sex,
        age=age,
        height_m=float(np.clip(rng.normal(1.61 if female else 1.75, 0.07), 1.4, 2.05)),
        fat_mm=float(np.clip(rng.gamma(3.5, 6.0 if female else 4.5), 3, 60)),
        muscle=float(rng.normal(0.93 if female else 1.0, 0.05)),
        muscle_fat=float(np.clip(rng.normal(0.04 + 0.0025 * max(0, age - 30), 0.05), 0, 0.4)),
        trabecular_mg=trabecular,
        cortical_mg=cortical,
        cortex=cortex,
        scoliosis_mm=float(rng.normal(0, 22 if rng.random() < 0.12 else 4)),
        hips=(_draw_hip(rng), _draw_hip(rng)),
        arms=Arms(rng.choice(list(Arms), p=[0.3, 0.3, 0.4])),
        phase=Phase(rng.choice(list(Phase)[1:], p=[0.25, 0.55, 0.2])) if enhanced else Phase.NATIVE,
        oral_contrast=bool(oral),
        lesions=_draw_lesions(rng),
        fractures=_draw_fractures(rng, trabecular),
        implants=_draw_implants(rng, age),
    )


def _draw_bone(rng: np.random.Generator, sex: Sex, age: int) -> tuple[float, float, float]:
    # L1 in HU, as published; to mineral with 0.8 mg/cm3 per HU, a usual slope at 120 kV (ours).
    attenuation = float(np.clip(rng.normal(226 - 2.15 * (age - 27), 41), 15, 340))
    female = sex is Sex.FEMALE
    thinning = 1 - 0.003 * max(0, age - 30) - (0.003 * max(0, age - 50) if female else 0.0)
    cortex = (0.93 if female else 1.0) * thinning * float(np.exp(rng.normal(0, 0.12)))
    cortical = float(rng.normal(1130, 60)) - 1.2 * max(0, age - 40)
    return 0.8 * attenuation, cortical, cortex


def _draw_hip(rng: np.random.Generator) -> HipPose:
    flexion, abduction, rotation = rng.normal([2, 2, 0], [5, 4, 9])
    return HipPose(
        flexion=float(np.clip(flexion, -8, 18)),
        abduction=float(np.clip(abduction, -7, 14)),
        rotation=float(np.clip(rotation, -22, 22)),
    )


def _draw_lesions(rng: np.random.Generator) -> tuple[Lesion, ...]:
    if rng.random() > 0.12:
        return ()
    places = ["L1", "L2", "L3", "L4", "L5", "T12", "T10", "T8", "sacrum", "hip_bone_left",
              "hip_bone_right", "femur_left", "femur_right"]  # fmt: skip
    kind = rng.choice([-1.0, 1.0])
    return tuple(
        Lesion(
            structure=str(rng.choice(places)),
            radius_mm=float(rng.uniform(3, 16)),
            density=float(kind * rng.uniform(0.3, 1)),
        )
        for _ in range(rng.integers(1, 7))
    )


def _draw_fractures(rng: np.random.Generator, trabecular: float) -> tuple[Fracture, ...]:
    made = []
    # 80 mg/cm3: the usual limit of osteoporosis in QCT of the spine.
    if rng.random() < (0.3 if trabecular < 80 else 0.05):
        levels = rng.choice(["T7", "T8", "T11", "T12", "L1", "L2", "L3", "L4"], rng.integers(1, 3))
        made += [
            Fracture(
                kind=FractureKind.COMPRESSION,
                structure=str(level),
                severity=float(rng.uniform(0.2, 0.45)),
            )
            for level in np.unique(levels)
        ]
    if rng.random() < 0.04:
        place = rng.choice(["rib_left_7", "rib_right_8", "rib_left_9", "rib_right_10",
                            "femur_left", "femur_right"])  # fmt: skip
        gap = float(rng.uniform(0.8, 3))
        made.append(Fracture(kind=FractureKind.CRACK, structure=str(place), severity=gap))
    return tuple(made)


def _draw_implants(rng: np.random.Generator, age: int) -> tuple[Implant, ...]:
    made: list[Implant] = []
    if rng.random() < 0.04 + 0.001 * max(0, age - 50):
        kinds = list(ImplantKind)[:3]
        kind = ImplantKind(rng.choice(kinds, p=[0.65, 0.25, 0.1]))
        site = str(rng.choice(["left", "right"]))
        made.append(Implant(kind=kind, site=site, size=float(rng.uniform(0.9, 1.12))))
    if rng.random() < 0.02:
        first = int(rng.integers(2, 5))
        made += [
            Implant(kind=ImplantKind.PEDICLE_SCREWS, site=f"L{level}", size=1.0)
            for level in range(first, min(first + 2, 6))
        ]
    return tuple(made)
