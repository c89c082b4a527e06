"""Phantoms from an atlas: draw a patient and a scanner, then image any grid of slices."""

from dataclasses import dataclass

import highdicom as hd
import numpy as np

from pipelines.training.phantoms.anatomical import deform, draw_deformation
from pipelines.training.phantoms.appearance import draw_appearance
from pipelines.training.phantoms.atlas import Atlas
from pipelines.training.phantoms.ct import ct_image, draw_scanner
from pipelines.training.phantoms.inserts import draw_inserts
from pipelines.training.phantoms.tissues import FIRST_BONE, Anatomy, Phantom, Tissue


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagedRegion:
    """Which part of an atlas is imaged, and how finely."""

    centre: tuple[float, float, float]  #: in the atlas, LPS, mm
    shape: tuple[int, int, int]  #: slices, rows, columns
    pixel_spacing: float  #: mm
    slice_spacing: float  #: mm; also the slice thickness
    subslices: int = 1  #: thin slices averaged into one


def anatomical_phantom(
    atlas: Atlas, region: ImagedRegion, *, seed: int, strength: float = 1.0
) -> Phantom:
    """Return a CT image of a random patient made from an atlas.

    Parameters
    ----------
    atlas
        The body that is deformed.
    region
        Grid and place.
    seed
        Same seed, same arguments: same phantom.
    strength
        How far the patient may be from the atlas; 0 is the atlas itself.

    Returns
    -------
    Phantom
        Axes (slice, row, column); slices run to the feet, rows to the back, columns to the left.
        The origin of its frame is the region's centre.
    """
    rng = np.random.default_rng(seed)
    deformation = draw_deformation(rng, np.asarray(region.centre, np.float32), strength=strength)
    appearance, scanner = draw_appearance(rng), draw_scanner(rng)
    geometry = _geometry(region, region.subslices)
    inserts = draw_inserts(rng, geometry)
    anatomy = deform(atlas, deformation, geometry)
    image = ct_image(anatomy, appearance, scanner, inserts, rng)
    # What the scanner did not reconstruct cannot be segmented either.
    anatomy.tissues.array[image.array <= scanner.padding] = Tissue.AIR
    if region.subslices == 1:
        return Phantom(image=image, tissues=anatomy.tissues)
    return _average(image, anatomy, region)


def _geometry(region: ImagedRegion, subslices: int) -> hd.VolumeGeometry:
    slices, rows, columns = region.shape
    return hd.VolumeGeometry.from_components(
        (slices * subslices, rows, columns),
        spacing=(region.slice_spacing / subslices, region.pixel_spacing, region.pixel_spacing),
        coordinate_system="PATIENT",
        center_position=(0.0, 0.0, 0.0),
        patient_orientation="FPL",
    )


def _average(image: hd.Volume, anatomy: Anatomy, region: ImagedRegion) -> Phantom:
    """Average thin slices into thick ones; a voxel is bone if at least half of it is."""
    thin = (region.shape[0], region.subslices, *region.shape[1:])
    averaged = np.rint(image.array.reshape(thin).mean(axis=1)).astype(np.int16)
    tissues = anatomy.tissues.array.reshape(thin)
    kept = tissues[:, region.subslices // 2].copy()
    bone = (tissues >= FIRST_BONE).mean(axis=1) >= 0.5
    is_bone = kept >= FIRST_BONE
    kept[bone & ~is_bone] = tissues.max(axis=1)[bone & ~is_bone]
    soft = np.where(tissues >= FIRST_BONE, 0, tissues).max(axis=1)
    kept[~bone & is_bone] = soft[~bone & is_bone]
    affine = _geometry(region, 1).affine
    made = hd.Volume(array=averaged, affine=affine, coordinate_system="PATIENT")
    return Phantom(image=made, tissues=made.with_array(kept))
