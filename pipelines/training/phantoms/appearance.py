"""What each tissue of one patient measures in CT, in Hounsfield units."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.training.phantoms.fields import SmoothField, draw_field
from pipelines.training.phantoms.patient import Patient, Phase
from pipelines.training.phantoms.tissues import FIRST_BONE, Tissue

Floats = NDArray[np.float32]

_CODES = 256

#: Mean HU without contrast: (lowest, highest) of the range drawn from.
_NATIVE: dict[Tissue, tuple[float, float]] = {
    Tissue.AIR: (-1000, -1000),
    Tissue.LUNG: (-890, -760),
    Tissue.FAT: (-118, -92),
    Tissue.SKIN: (-20, 50),
    Tissue.MUSCLE: (50, 66),
    Tissue.SOFT: (25, 48),
    Tissue.LIVER: (38, 66),
    Tissue.SPLEEN: (40, 55),
    Tissue.KIDNEY: (25, 38),
    Tissue.VESSEL: (32, 50),
    Tissue.HEART: (32, 50),
    Tissue.BOWEL: (5, 45),
    Tissue.URINE: (-2, 15),
    Tissue.BRAIN: (28, 38),
    Tissue.CANAL: (10, 40),
    Tissue.DISC: (60, 110),
    Tissue.CARTILAGE: (70, 160),
    Tissue.GAS: (-1000, -980),
    Tissue.METAL: (3500, 12000),
}

#: HU added by contrast medium in each phase.
_ENHANCEMENT: dict[Phase, dict[Tissue, tuple[float, float]]] = {
    Phase.NATIVE: {},
    Phase.ARTERIAL: {
        Tissue.VESSEL: (180, 400),
        Tissue.HEART: (150, 330),
        Tissue.KIDNEY: (80, 170),
        Tissue.LIVER: (8, 30),
        Tissue.SPLEEN: (40, 110),
        Tissue.SOFT: (20, 70),
        Tissue.MUSCLE: (0, 8),
        Tissue.BOWEL: (0, 40),
    },
    Phase.VENOUS: {
        Tissue.VESSEL: (90, 160),
        Tissue.HEART: (80, 150),
        Tissue.KIDNEY: (110, 190),
        Tissue.LIVER: (35, 75),
        Tissue.SPLEEN: (55, 95),
        Tissue.SOFT: (25, 60),
        Tissue.MUSCLE: (4, 16),
        Tissue.BOWEL: (10, 55),
    },
    Phase.EXCRETORY: {
        Tissue.VESSEL: (40, 90),
        Tissue.HEART: (40, 85),
        Tissue.KIDNEY: (80, 150),
        Tissue.LIVER: (20, 45),
        Tissue.SPLEEN: (25, 50),
        Tissue.SOFT: (10, 35),
        Tissue.MUSCLE: (2, 12),
        Tissue.BOWEL: (5, 35),
        Tissue.URINE: (150, 1500),
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Appearance:
    """One patient's Hounsfield units.

    Tables are indexed by `Tissue` code, float32, shape (256,).
    """

    patient: Patient
    mean: Floats  #: of bone: its marrow without mineral
    variation: Floats  #: standard deviation of slow changes inside a tissue; of bone: relative
    slope: float  #: HU per mg hydroxyapatite per cm3
    intercept: float  #: HU of water with no mineral
    condensation: float  #: share added to the mineral right under the cortex: end plates, joints
    condensation_mm: float  #: depth at which a third of that is left
    grain: float  #: standard deviation of trabecular texture, a share of the mineral
    bowel_contrast: float  #: HU of oral contrast; the share of bowel filled is `bowel_filled`
    bowel_filled: float
    bowel_gas: float
    slow: SmoothField
    medium: SmoothField
    fast: SmoothField


def draw_appearance(rng: np.random.Generator, patient: Patient) -> Appearance:
    """Draw what a patient's tissues measure."""
    mean = np.zeros(_CODES, np.float32)
    variation = np.full(_CODES, 4.0, np.float32)
    for tissue, bounds in _NATIVE.items():
        mean[tissue] = rng.uniform(*bounds)
    for tissue, bounds in _ENHANCEMENT[patient.phase].items():
        mean[tissue] += rng.uniform(*bounds)
    # Fat between the fibres of muscle makes it darker and streaky.
    mean[Tissue.MUSCLE] -= 150 * patient.muscle_fat
    variation[Tissue.MUSCLE] = 5 + 90 * patient.muscle_fat
    variation[Tissue.FAT] = rng.uniform(4, 14)
    variation[Tissue.LUNG] = 35
    variation[Tissue.BOWEL] = rng.uniform(5, 40)
    variation[Tissue.CARTILAGE] = rng.uniform(5, 60)
    variation[FIRST_BONE:] = rng.uniform(0.1, 0.3) if rng.random() < 0.75 else 0.6
    mean[FIRST_BONE:] = rng.uniform(-35, -15)
    mean[Tissue.LONG_BONE] = rng.uniform(-95, -50)  # yellow marrow
    return Appearance(
        patient=patient,
        mean=mean,
        variation=variation,
        # Hydroxyapatite and 120 kVp; 100 and 140 kVp lie inside the range.
        slope=rng.uniform(1.2, 1.45),
        intercept=rng.normal(0, 4),
        condensation=rng.uniform(0.4, 1.6),
        condensation_mm=rng.uniform(1.2, 4.5),
        grain=rng.uniform(0.12, 0.45),
        bowel_contrast=rng.uniform(150, 600),
        bowel_filled=rng.uniform(0.15, 0.6) if patient.oral_contrast else 0.0,
        bowel_gas=rng.uniform(0.03, 0.3),
        slow=draw_field(rng, 30.0),
        medium=draw_field(rng, 9.0),
        fast=draw_field(rng, 3.5),
    )
