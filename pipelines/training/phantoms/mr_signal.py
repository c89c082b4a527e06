"""What tissues measure in T1-weighted MR: relaxation, proton density, fat, and gadolinium.

Sources
-------
T1 at 3 T and T2: de Bazelaire et al., Radiology 2004;230:652 (kidney, liver, spleen, paravertebral muscle, marrow of
L4, subcutaneous
fat). They found T1 21 % longer at 3 T than at 1.5 T; we draw the field strength and shorten by that.
Relaxivity: Rohrer et al., Invest Radiol 2005;40:715, gadopentetate in plasma.
Fat of vertebral marrow: Baum et al., Front Endocrinol 2018;9:141, 32.0 (8.0) % of men and 27.2 (6.0) % of women in
their twenties; that it
rises by 0.4 % a year from there is ours, as are the ranges below: what each tissue takes up minutes after a usual
dose, all tissues that
were not measured there (disc, cord, cerebrospinal fluid, cartilage, organs), and the uptake of tumours.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.training.phantoms.patient import Patient, Sex
from pipelines.training.phantoms.tissues import FIRST_BONE, Tissue

Floats = NDArray[np.float32]
Bounds = tuple[float, float]

#: Codes beside those of `Tissue`, for what MR tells apart in the spinal canal.
CSF, CORD, EPIDURAL_FAT, VEINS = 64, 65, 66, 67

_CODES = 256
_LONGER_AT_3T = 1.21
#: 1/(mmol/L s): of longitudinal and transverse relaxation, at 1.5 T and 3 T.
_RELAXIVITY = {1.5: (4.1, 4.6), 3.0: (3.7, 5.2)}
_FAT_T1, _FAT_T2 = 382.0, 68.0  # ms, at 3 T


@dataclass(frozen=True, slots=True, kw_only=True)
class Substance:
    """What a voxel holds: ranges to draw from."""

    t1: Bounds  #: of its water at 3 T, ms
    t2: Bounds  #: of its water, ms
    protons: Bounds = (0.8, 0.95)  #: water is 1
    fat: Bounds = (0.0, 0.0)  #: share of the protons that are fat's
    uptake: Bounds = (0.0, 0.0)  #: of gadolinium, mmol/L


@dataclass(frozen=True, slots=True, kw_only=True)
class Weighting:
    """A spin-echo sequence, T1-weighted."""

    field: float  #: T, 1.5 or 3.0
    tr: float  #: ms
    te: float  #: ms
    fat_left: float  #: share of the fat's signal that is left; 1 without fat suppression
    enhanced: bool  #: whether there is gadolinium

    @property
    def fat_suppressed(self) -> bool:
        """Whether the fat is dark."""
        return self.fat_left < 0.5


_NOTHING = Substance(t1=(1000, 1000), t2=(50, 50), protons=(0.0, 0.02))
_SUBSTANCES: Mapping[int, Substance] = {
    Tissue.AIR: _NOTHING,
    Tissue.GAS: _NOTHING,
    Tissue.METAL: _NOTHING,
    Tissue.LUNG: Substance(t1=(1200, 1400), t2=(20, 40), protons=(0.05, 0.15), uptake=(0.2, 0.6)),
    Tissue.FAT: Substance(t1=(900, 1000), t2=(30, 40), fat=(0.88, 0.97)),
    Tissue.SKIN: Substance(t1=(850, 950), t2=(25, 35), protons=(0.6, 0.8), uptake=(0.0, 0.2)),
    Tissue.MUSCLE: Substance(t1=(860, 940), t2=(26, 33), fat=(0.01, 0.04), uptake=(0.04, 0.14)),
    Tissue.SOFT: Substance(t1=(700, 1000), t2=(40, 70), uptake=(0.1, 0.4)),
    Tissue.LIVER: Substance(t1=(740, 880), t2=(30, 38), uptake=(0.15, 0.35)),
    Tissue.SPLEEN: Substance(t1=(1300, 1360), t2=(52, 70), uptake=(0.2, 0.5)),
    Tissue.KIDNEY: Substance(t1=(1100, 1600), t2=(70, 90), uptake=(0.5, 1.5)),
    Tissue.VESSEL: Substance(t1=(1600, 1900), t2=(100, 200), protons=(0.05, 0.9), uptake=(0.3, 0.9)),
    Tissue.HEART: Substance(t1=(1100, 1500), t2=(45, 80), protons=(0.3, 0.8), uptake=(0.2, 0.6)),
    Tissue.BOWEL: Substance(t1=(900, 2000), t2=(50, 150), protons=(0.4, 0.95), uptake=(0.05, 0.4)),
    Tissue.URINE: Substance(t1=(2500, 4000), t2=(300, 900), protons=(0.95, 1.0), uptake=(0.0, 1.0)),
    Tissue.BRAIN: Substance(t1=(1000, 1300), t2=(80, 100), uptake=(0.0, 0.02)),
    Tissue.CANAL: Substance(t1=(2500, 4000), t2=(300, 1000), protons=(0.95, 1.0)),
    Tissue.DISC: Substance(t1=(800, 1300), t2=(45, 110), protons=(0.6, 0.9), uptake=(0.0, 0.05)),
    Tissue.CARTILAGE: Substance(t1=(1000, 1250), t2=(25, 40), protons=(0.6, 0.8)),
    CSF: Substance(t1=(3000, 4300), t2=(800, 2000), protons=(0.98, 1.0), uptake=(0.0, 0.01)),
    CORD: Substance(t1=(880, 1050), t2=(70, 85), protons=(0.78, 0.86), uptake=(0.0, 0.02)),
    EPIDURAL_FAT: Substance(t1=(900, 1000), t2=(30, 40), fat=(0.75, 0.95), uptake=(0.0, 0.2)),
    VEINS: Substance(t1=(1600, 1900), t2=(60, 150), protons=(0.6, 0.9), uptake=(0.4, 1.2)),
}  # fmt: skip
_MARROW_WATER = Substance(t1=(900, 1300), t2=(38, 52), protons=(0.65, 0.8), uptake=(0.0, 0.12))


@dataclass(frozen=True, slots=True, kw_only=True)
class MrLook:
    """What one patient's tissues measure in one sequence."""

    signal: Floats  #: by `Tissue` code or one of ours, shape (256,); of bone: its marrow
    weighting: Weighting
    marrow_fat: float  #: share of fat in vertebral marrow

    @property
    def marrow(self) -> float:
        """The signal of vertebral marrow."""
        return float(self.signal[Tissue.SPINE])


def draw_weighting(rng: np.random.Generator, *, fat_suppressed: bool | None = None) -> Weighting:
    """Draw a T1-weighted spin-echo sequence after gadolinium; `fat_suppressed` None leaves that to chance."""
    suppressed = rng.random() < 0.35 if fat_suppressed is None else fat_suppressed
    return Weighting(
        field=float(rng.choice([1.5, 3.0], p=[0.65, 0.35])),
        tr=float(rng.uniform(400, 800)),
        te=float(rng.uniform(8, 16)),
        fat_left=float(rng.uniform(0.05, 0.25)) if suppressed else 1.0,
        enhanced=True,
    )


def draw_mr_look(rng: np.random.Generator, patient: Patient, weighting: Weighting) -> MrLook:
    """Draw what a patient's tissues measure."""
    table = np.zeros(_CODES, np.float32)
    for code, substance in _SUBSTANCES.items():
        table[code] = draw_signal(rng, substance, weighting)
    # Fat between the fibres of muscle.
    fat = float(table[Tissue.FAT])
    table[Tissue.MUSCLE] += patient.muscle_fat * (fat - table[Tissue.MUSCLE])
    share = marrow_fat(rng, patient)
    for code in range(FIRST_BONE, FIRST_BONE + 5):
        yellow = min(0.95, share + (0.35 if code == Tissue.LONG_BONE else 0.0))
        marrow = Substance(
            t1=_MARROW_WATER.t1,
            t2=_MARROW_WATER.t2,
            protons=_MARROW_WATER.protons,
            fat=(yellow, yellow),
            uptake=_MARROW_WATER.uptake,
        )
        table[code] = draw_signal(rng, marrow, weighting)
    return MrLook(signal=table, weighting=weighting, marrow_fat=share)


def marrow_fat(rng: np.random.Generator, patient: Patient) -> float:
    """Draw the share of fat in vertebral marrow."""
    mean, spread = (0.272, 0.06) if patient.sex is Sex.FEMALE else (0.32, 0.08)
    return float(np.clip(rng.normal(mean + 0.004 * (patient.age - 25), spread), 0.1, 0.8))


def draw_signal(rng: np.random.Generator, substance: Substance, weighting: Weighting) -> float:
    """Draw what a substance measures: spin echo, relaxation times of water and fat, fast exchange with gadolinium."""
    t1, t2, protons, fat, uptake = (
        float(rng.uniform(*bounds))
        for bounds in (
            substance.t1,
            substance.t2,
            substance.protons,
            substance.fat,
            substance.uptake,
        )
    )
    r1, r2 = (value / 1000 for value in _RELAXIVITY[weighting.field])
    shorter = 1.0 if weighting.field == 3.0 else 1 / _LONGER_AT_3T
    dose = uptake if weighting.enhanced else 0.0
    water = _spin_echo(weighting, 1 / (t1 * shorter) + r1 * dose, 1 / t2 + r2 * dose)
    fatty = _spin_echo(weighting, 1 / (_FAT_T1 * shorter), 1 / _FAT_T2) * weighting.fat_left
    return protons * ((1 - fat) * water + fat * fatty)


def _spin_echo(weighting: Weighting, rate1: float, rate2: float) -> float:
    return float((1 - np.exp(-weighting.tr * rate1)) * np.exp(-weighting.te * rate2))
