"""Where a bone-seeking tracer goes: what each tissue of one patient holds, relative to muscle.

Three hours after 99mTc-diphosphonate. All ranges are ours, of plausible size and not fitted to data.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import highdicom as hd
import numpy as np
from numpy.typing import NDArray

from pipelines.training.phantoms import fields
from pipelines.training.phantoms.fields import Floats, SmoothField
from pipelines.training.phantoms.spect_lesions import LesionKind, LesionPlane
from pipelines.training.phantoms.tissues import FIRST_BONE, Cut, Tissue

_UPTAKE: Mapping[Tissue, tuple[float, float]] = {
    Tissue.AIR: (0, 0),
    Tissue.GAS: (0, 0),
    Tissue.METAL: (0, 0),
    Tissue.LUNG: (0.35, 0.6),
    Tissue.FAT: (0.3, 0.6),
    Tissue.SKIN: (0.5, 0.9),
    Tissue.MUSCLE: (1, 1),
    Tissue.SOFT: (0.9, 1.4),
    Tissue.LIVER: (0.9, 1.8),
    Tissue.SPLEEN: (0.9, 1.5),
    Tissue.KIDNEY: (5, 18),
    Tissue.VESSEL: (1.2, 2.2),
    Tissue.HEART: (1.1, 1.9),
    Tissue.BOWEL: (0.8, 1.5),
    Tissue.URINE: (10, 70),
    Tissue.BRAIN: (0.3, 0.6),
    Tissue.CANAL: (0.8, 1.3),
    Tissue.DISC: (0.8, 1.4),
    Tissue.CARTILAGE: (1, 3),
    Tissue.SPINE: (5.5, 9),
    Tissue.RIB: (3, 5.5),
    Tissue.FLAT_BONE: (4, 7.5),
    Tissue.LONG_BONE: (1.8, 3.5),
    Tissue.SKULL: (2, 5),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Uptake:
    """One patient's tracer."""

    mean: Floats  #: by `Tissue` code, shape (256,), relative to muscle
    joints: float  #: what bone at a joint holds more than other bone, a share
    variation: float  #: of healthy bone, standard deviation, a share
    slow: SmoothField


def draw_uptake(rng: np.random.Generator) -> Uptake:
    """Draw how a patient's tissues take up the tracer."""
    mean = np.ones(256, np.float32)
    for tissue, (low, high) in _UPTAKE.items():
        mean[tissue] = rng.uniform(low, high)
    # How much goes to bone at all: kidneys, age, time since the injection.
    mean[FIRST_BONE:] *= np.exp(rng.normal(0, 0.2))
    return Uptake(
        mean=mean,
        joints=rng.uniform(0.05, 0.45),
        variation=rng.uniform(0.06, 0.2),
        slow=fields.draw_field(rng, 25.0),
    )


def activity(
    cut: Cut, planes: list[LesionPlane], uptake: Uptake, joints: Floats, grid: hd.VolumeGeometry
) -> Floats:
    """Return what a thin plane holds, relative to muscle.

    Parameters
    ----------
    cut
        The plane with its lesions in place, shape (rows, columns).
    planes
        Its lesions.
    uptake
        The patient.
    joints
        1 where bones meet, else 0, same shape.
    grid
        Of the pixels: their size tells what share of a pixel is bone.

    Returns
    -------
    numpy.ndarray
        float32, shape (rows, columns).
    """
    pixel = float(grid.spacing[1])
    bone = cut.tissues >= FIRST_BONE
    around = uptake.mean[np.where(bone, np.uint8(Tissue.MUSCLE), cut.tissues)]
    healthy = uptake.mean[np.where(bone, cut.tissues, np.uint8(Tissue.SPINE))]
    healthy = healthy * (1 + np.float32(uptake.joints) * joints)
    share = np.clip(cut.depth / pixel + 0.5, 0, 1) * bone
    held = around * (1 - share) + healthy * share
    for plane in planes:
        inside = np.clip(plane.height / pixel + 0.5, 0, 1) * np.maximum(
            share[plane.box], bone[plane.box] * np.float32(0.6)
        )
        taken = plane.lesion.uptake * healthy[plane.box] * _within(plane)
        held[plane.box] = held[plane.box] * (1 - inside) + taken * inside
    return np.asarray(held, np.float32)


def _within(plane: LesionPlane) -> NDArray[np.float32]:
    """How uptake is spread within a lesion, about 1: what destroys bone lives at its rim."""
    spread = 1 + 0.2 * plane.texture
    if plane.lesion.kind is LesionKind.LYTIC:
        deep = np.clip(plane.height / plane.lesion.radius_mm, 0, 1)
        spread = spread * (1.15 - 0.5 * deep)
    return np.asarray(np.maximum(spread, 0.2), np.float32)


def vary(held: Floats, uptake: Uptake, grid: hd.VolumeGeometry, index: int) -> Floats:
    """Return a plane whose uptake varies slowly from place to place, as in life."""
    points = fields.coarse_points(grid, index)
    field = fields.upsample(fields.evaluate(uptake.slow, points), *held.shape)
    return np.asarray(held * np.maximum(1 + uptake.variation * field, 0.3), np.float32)
