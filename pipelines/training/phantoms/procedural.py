"""A body from formulas: no data needed, exact truth, any part from the thighs to the chest."""

from dataclasses import dataclass

import highdicom as hd
import numpy as np
from numpy.typing import NDArray

from pipelines.training.phantoms import bones, organs
from pipelines.training.phantoms.appearance import draw_appearance
from pipelines.training.phantoms.ct import ct_image, draw_scanner
from pipelines.training.phantoms.shapes import Floats
from pipelines.training.phantoms.tissues import Anatomy, Phantom, Tissue


@dataclass(frozen=True, slots=True, kw_only=True)
class ProceduralOptions:
    """What is imaged of the procedural body.

    Heights are mm above the hip joints: 0 pelvis, 180 abdomen, 420 chest, -150 thighs.
    """

    slices: int = 40
    rows: int = 256
    columns: int = 256
    pixel_spacing: float = 1.6  #: mm
    slice_spacing: float = 5.0  #: mm
    middle: float = 60.0  #: height of the middle slice, mm
    contrast: bool | None = True  #: contrast medium; None leaves it to chance


def procedural_phantom(options: ProceduralOptions, *, seed: int) -> Phantom:
    """Return a CT image of a procedural body and the tissues in it.

    Parameters
    ----------
    options
        Grid and region.
    seed
        Same seed, same options: same phantom.

    Returns
    -------
    Phantom
        Axes (slice, row, column); slices run to the feet, rows to the back, columns to the left.
    """
    rng = np.random.default_rng(seed)
    anatomy = procedural_anatomy(options, organs.draw_build(rng))
    appearance = draw_appearance(rng, contrast=options.contrast)
    image = ct_image(anatomy, appearance, draw_scanner(rng), (), rng)
    return Phantom(image=image, tissues=anatomy.tissues)


def procedural_anatomy(options: ProceduralOptions, build: organs.Build) -> Anatomy:
    """Return which tissue lies where in the region of the options."""
    shape = (options.slices, options.rows, options.columns)
    geometry = hd.VolumeGeometry.from_components(
        shape,
        spacing=(options.slice_spacing, options.pixel_spacing, options.pixel_spacing),
        coordinate_system="PATIENT",
        center_position=(0.0, 15.0, options.middle),
        patient_orientation="FPL",
    )
    x, y = (
        (geometry.affine[axis, 2 - axis] * np.arange(shape[2 - axis]) + geometry.affine[axis, 3])
        / build.scale
        for axis in (0, 1)
    )
    heights = (geometry.affine[2, 0] * np.arange(shape[0]) + geometry.affine[2, 3]) / build.scale
    tissues = np.empty(shape, np.uint8)
    depth = np.empty(shape, np.float32)
    for index, z in enumerate(heights):
        across, down = x.astype(np.float32)[None, :], y.astype(np.float32)[:, None]
        tissues[index] = organs.paint_soft_tissue(across, down, float(z), build)
        depth[index] = _add_bones(tissues[index], across, down, float(z)) * build.scale
    volume = hd.Volume(
        array=tissues,
        affine=geometry.affine,
        coordinate_system="PATIENT",
        frame_of_reference_uid=None,
    )
    return Anatomy(tissues=volume, depth=volume.with_array(depth))


def _add_bones(tissues: NDArray[np.uint8], x: Floats, y: Floats, z: float) -> Floats:
    """Put the bones that a slice cuts into its tissues; return mm below the bone surface."""
    level = np.full((1, 1), z, np.float32)
    canal = bones.spinal_canal(x, y)
    found: list[tuple[Tissue, Floats]] = []
    if z > bones.VERTEBRAE[0] - 25:
        nearest = bones.nearest_vertebra(z)
        disc = np.hypot(x / 25, (y - bones.SPINE_Y) / 18) < 1
        tissues[disc] = Tissue.DISC
        for vertebra in range(max(0, nearest - 1), min(nearest + 2, len(bones.VERTEBRAE))):
            arch = np.maximum(bones.vertebral_arch(x, y, level, vertebra), -canal)
            body = bones.vertebral_body(x, y, level, vertebra)
            found.append((Tissue.SPINE, np.minimum(arch, body)))
        tissues[canal < 0] = Tissue.CANAL
    if z > 180:
        half_width, half_depth = organs.trunk(z)
        found.append((Tissue.RIB, bones.ribs(x, y, level, half_width - 38, half_depth - 22)))
    if z > 330:
        found.append((Tissue.FLAT_BONE, bones.sternum(x, y, level, 5 - half_depth + 30)))
    if z < 190:
        found.append((Tissue.FLAT_BONE, np.maximum(bones.sacrum(x, y, level), -canal)))
        found += [(Tissue.FLAT_BONE, bones.hip_bone(x, y, level, side)) for side in (-1, 1)]
    if z < 40:
        found += [(Tissue.LONG_BONE, bones.femur(x, y, level, side)) for side in (-1, 1)]
    depth = np.full(tissues.shape, -1e3, np.float32)
    inside = (tissues != Tissue.AIR) & (tissues != Tissue.SKIN)
    for tissue, distance in found:
        bone = (distance < 0) & inside
        tissues[bone] = tissue
        depth = np.where(inside, np.maximum(depth, -distance), depth)
    return depth
