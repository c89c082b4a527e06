"""What each tissue of one patient measures in CT, in Hounsfield units."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.training.phantoms.fields import SmoothField, draw_field
from pipelines.training.phantoms.tissues import FIRST_BONE, Tissue

Floats = NDArray[np.float32]

_CODES = 64

#: Mean HU without contrast: (lowest, highest) of the range drawn from.
_NATIVE: dict[Tissue, tuple[float, float]] = {
    Tissue.AIR: (-1000, -1000),
    Tissue.LUNG: (-900, -720),
    Tissue.FAT: (-125, -75),
    Tissue.SKIN: (-60, 60),
    Tissue.MUSCLE: (20, 75),
    Tissue.SOFT: (0, 60),
    Tissue.LIVER: (30, 75),
    Tissue.SPLEEN: (35, 60),
    Tissue.KIDNEY: (20, 45),
    Tissue.VESSEL: (25, 55),
    Tissue.HEART: (25, 55),
    Tissue.BOWEL: (-10, 60),
    Tissue.URINE: (-5, 20),
    Tissue.BRAIN: (25, 42),
    Tissue.CANAL: (0, 45),
    Tissue.DISC: (50, 120),
    Tissue.CARTILAGE: (60, 180),
    Tissue.GAS: (-1000, -950),
}

#: HU added by contrast medium, where it arrives.
_ENHANCEMENT: dict[Tissue, tuple[float, float]] = {
    Tissue.VESSEL: (60, 420),
    Tissue.HEART: (60, 350),
    Tissue.KIDNEY: (60, 220),
    Tissue.LIVER: (20, 80),
    Tissue.SPLEEN: (30, 110),
    Tissue.SOFT: (0, 60),
    Tissue.MUSCLE: (0, 20),
    Tissue.BOWEL: (0, 70),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Appearance:
    """One patient's Hounsfield units.

    Tables are indexed by `Tissue` code, float32, shape (64,).
    """

    mean: Floats
    variation: Floats  #: standard deviation of slow changes inside a tissue, HU
    cortex_mm: Floats  #: thickness of the cortex
    cortex_hu: float
    condensation_hu: float  #: added to marrow right under the cortex: end plates, joints
    condensation_mm: float  #: depth at which a third of that is left
    grain: float  #: standard deviation of trabecular texture, HU
    bowel_contrast: float  #: HU of oral contrast; the share of bowel filled is `bowel_filled`
    bowel_filled: float
    bowel_gas: float
    lesion_hu: float  #: added to marrow inside lesions: sclerotic if positive, lytic if negative
    lesion_share: float
    slow: SmoothField
    medium: SmoothField
    fast: SmoothField


def draw_appearance(rng: np.random.Generator, *, contrast: bool | None = None) -> Appearance:
    """Draw a patient; `contrast` None leaves intravenous and oral contrast to chance."""
    enhanced = rng.random() < 0.5 if contrast is None else contrast
    oral = rng.random() < 0.4 if contrast is None else contrast
    mean = np.zeros(_CODES, np.float32)
    variation = np.full(_CODES, 5.0, np.float32)
    for tissue, bounds in _NATIVE.items():
        mean[tissue] = rng.uniform(*bounds)
    if enhanced:
        for tissue, bounds in _ENHANCEMENT.items():
            mean[tissue] += rng.uniform(*bounds)
        if rng.random() < 0.3:
            mean[Tissue.URINE] = rng.uniform(100, 1500)
    variation[Tissue.FAT] = rng.uniform(3, 14)
    variation[Tissue.LUNG] = 35
    variation[Tissue.BOWEL] = rng.uniform(5, 40)
    variation[Tissue.CARTILAGE] = rng.uniform(5, 60)
    _draw_marrow(rng, mean, variation)
    return Appearance(
        mean=mean,
        variation=variation,
        cortex_mm=_draw_cortex(rng),
        cortex_hu=rng.uniform(350, 1300),
        condensation_hu=rng.uniform(0, 350),
        condensation_mm=rng.uniform(1.0, 4.0),
        grain=rng.uniform(5, 90),
        bowel_contrast=rng.uniform(120, 700),
        bowel_filled=rng.uniform(0.1, 0.6) if oral else 0.0,
        bowel_gas=rng.uniform(0.0, 0.3),
        lesion_hu=rng.choice([-1, 1]) * rng.uniform(80, 500),
        lesion_share=rng.uniform(0.0, 0.12) if rng.random() < 0.5 else 0.0,
        slow=draw_field(rng, 30.0),
        medium=draw_field(rng, 9.0),
        fast=draw_field(rng, 4.0),
    )


def _draw_marrow(rng: np.random.Generator, mean: Floats, variation: Floats) -> None:
    # One density for the skeleton, from osteoporotic to dense; yellow marrow in the limbs.
    density = rng.uniform(-20, 330) if rng.random() < 0.9 else rng.uniform(300, 600)
    for tissue in Tissue:
        if tissue >= FIRST_BONE:
            mean[tissue] = density * rng.uniform(0.6, 1.2) + rng.uniform(-40, 40)
            # Patchy marrow, dark between dense: degeneration, lesions, red and yellow side by side.
            patchy = rng.random() < 0.35
            variation[tissue] = rng.uniform(60, 180) if patchy else rng.uniform(10, 80)
    mean[Tissue.LONG_BONE] = rng.uniform(-110, 350)
    variation[Tissue.LONG_BONE] = rng.uniform(20, 160)
    mean[Tissue.SKULL] += 250


def _draw_cortex(rng: np.random.Generator) -> Floats:
    cortex = np.full(_CODES, 1.0, np.float32)
    thickness = rng.uniform(0.5, 1.4)
    cortex[Tissue.SPINE] = thickness * rng.uniform(0.6, 1.2)
    cortex[Tissue.RIB] = thickness * rng.uniform(0.6, 1.4)
    cortex[Tissue.FLAT_BONE] = thickness * rng.uniform(0.8, 1.8)
    cortex[Tissue.LONG_BONE] = thickness * rng.uniform(0.7, 6.0)
    cortex[Tissue.SKULL] = thickness * rng.uniform(1.0, 3.0)
    return cortex
