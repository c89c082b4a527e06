"""From one plane of an anatomy to Hounsfield units, before any scanner has seen them."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipelines.training.phantoms import fields
from pipelines.training.phantoms.appearance import Appearance
from pipelines.training.phantoms.boxes import Box, bounding_box
from pipelines.training.phantoms.tissues import FIRST_BONE, Cut, Tissue

Floats = NDArray[np.float32]


def attenuation(cut: Cut, points: Floats, look: Appearance, pixel: float) -> Floats:
    """Return what a plane would measure in a perfect scanner.

    Bone surfaces and the cortex are averaged over a pixel by their depth (partial volume).

    Parameters
    ----------
    cut
        The plane, shape (rows, columns).
    points
        Its coarse pixels, shape (coarse rows, coarse columns, 3), mm.
    look
        The patient.
    pixel
        Pixel spacing, mm.

    Returns
    -------
    numpy.ndarray
        float32, HU, shape (rows, columns).
    """
    shape = cut.tissues.shape
    slow, medium, fast = (
        fields.upsample(fields.evaluate(field, points), *shape)
        for field in (look.slow, look.medium, look.fast)
    )
    soft = _soft_tissue(cut, slow, medium, look)
    if cut.lipid is not None:
        _infiltrate(soft, cut.tissues, cut.lipid, fast, look)
    bone = cut.depth > -0.75 * pixel
    if not bone.any():
        return soft
    box = bounding_box(bone)
    textures = (slow[box], medium[box], fast[box])
    soft[box] = _with_bone(soft[box], _part(cut, box), textures, look, pixel)
    return soft


def _soft_tissue(cut: Cut, slow: Floats, medium: Floats, look: Appearance) -> Floats:
    tissues = cut.tissues
    soft = look.mean[tissues] + look.variation[tissues] * medium
    lung = tissues == Tissue.LUNG
    if lung.any():  # vessels
        soft[lung & (np.abs(medium) < 0.05) & (slow > 0)] = look.mean[Tissue.MUSCLE]
    bowel = tissues == Tissue.BOWEL
    if bowel.any():
        _fill_bowel(soft, bowel, slow, look)
    # Blood against muscle in the heart, cortex against medulla in the kidney.
    organs = (tissues == Tissue.HEART) | (tissues == Tissue.KIDNEY)
    if organs.any():
        dark = organs & (slow + 0.5 * medium < -0.3)
        soft[dark] = 0.5 * (soft[dark] + look.mean[Tissue.MUSCLE])
    soft[tissues >= FIRST_BONE] = look.mean[Tissue.MUSCLE]
    return np.asarray(soft, np.float32)


def _infiltrate(
    soft: Floats, tissues: NDArray[np.uint8], lipid: Floats, fast: Floats, look: Appearance
) -> None:
    """Put fat between the fibres of muscle, in streaks that keep its share on average, in place."""
    here = (lipid > 0) & (tissues == Tissue.MUSCLE)
    if not here.any():
        return
    share = lipid[here]
    # Steep enough that much of it is fat or none; tanh is odd, so the mean share stays.
    streaks = np.tanh(2.5 * fast[here]) * np.minimum(share, 1 - share)
    soft[here] += (share + streaks) * (look.mean[Tissue.FAT] - look.mean[Tissue.MUSCLE])


def _with_bone(
    soft: Floats, cut: Cut, textures: tuple[Floats, Floats, Floats], look: Appearance, pixel: float
) -> Floats:
    slow, medium, fast = textures
    depth, tissues = cut.depth, cut.tissues
    bone = tissues >= FIRST_BONE
    spread = look.variation[FIRST_BONE]
    texture = 1 + spread * (0.8 * medium + 0.6 * slow) + look.grain * fast
    texture += look.condensation * np.exp(-np.maximum(depth, 0) / look.condensation_mm)
    mineral = cut.mineral * np.maximum(texture, 0.1)
    marrow = look.mean[np.where(bone, tissues, FIRST_BONE)] + look.intercept + look.slope * mineral
    # Thin cortices are porous, and blend into the trabeculae under them.
    solid = np.clip(0.72 + 0.08 * cut.cortex, 0, 1)
    hard = look.intercept + look.slope * look.patient.cortical_mg * solid
    thickness = cut.cortex * np.clip(1 + 0.25 * slow, 0.5, 1.6)
    # A pixel across a plane surface: the shares of what lies outside, in the cortex, and inside.
    inside = np.clip(depth / pixel + 0.5, 0, 1)
    core = np.clip((depth - thickness) / pixel + 0.5, 0, 1)
    if cut.gap is not None:
        hard = hard * (1 - cut.gap) + 40 * cut.gap
        marrow = marrow * (1 - cut.gap) + 40 * cut.gap
    metal = tissues == Tissue.METAL
    made = (1 - inside) * soft + (inside - core) * hard + core * marrow
    return np.asarray(np.where(metal, soft, made), np.float32)


def _fill_bowel(soft: Floats, bowel: NDArray[np.bool_], slow: Floats, look: Appearance) -> None:
    # The slow field has unit variance: its quantiles share the bowel out among contents.
    contents = ndimage.gaussian_filter(slow, 1.0)
    uniform = 0.5 * (1 + np.tanh(0.8 * contents))
    soft[bowel & (uniform < look.bowel_filled)] = look.bowel_contrast
    soft[bowel & (uniform > 1 - look.bowel_gas)] = -970.0


def _part(cut: Cut, box: Box) -> Cut:
    return Cut(
        tissues=cut.tissues[box],
        structures=cut.structures[box],
        depth=cut.depth[box],
        cortex=cut.cortex[box],
        mineral=cut.mineral[box],
        gap=None if cut.gap is None else cut.gap[box],
        lipid=None if cut.lipid is None else cut.lipid[box],
    )
