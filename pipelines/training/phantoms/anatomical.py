"""Bodies made from an atlas: bent, stretched, fattened, turned, never the same twice."""

from dataclasses import dataclass

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipelines.training.phantoms import fields
from pipelines.training.phantoms.atlas import ARM_BIT, DEPTH_UNIT, Atlas
from pipelines.training.phantoms.fields import Floats, SmoothField
from pipelines.training.phantoms.tissues import Anatomy, Tissue


@dataclass(frozen=True, slots=True, kw_only=True)
class Deformation:
    """Where in the atlas a point of the patient lies.

    Both frames have their origin in the middle of the imaged region; LPS, mm.
    """

    centre: Floats  #: of the imaged region in the atlas, shape (3,), mm
    matrix: Floats  #: shape (3, 3)
    bend_mm: float  #: amplitude of a sideways curve of the spine
    bend_phase: float
    amplitude_mm: tuple[float, float]  #: of the coarse and the fine displacement
    coarse: tuple[SmoothField, SmoothField, SmoothField]
    fine: tuple[SmoothField, SmoothField, SmoothField]
    arms: bool
    fat_mm: float  #: fat added under the skin


def draw_deformation(
    rng: np.random.Generator, centre: Floats, *, strength: float = 1.0
) -> Deformation:
    """Draw a body around a point of the atlas; `strength` 0 leaves the atlas as it is."""
    turn = rng.normal(0, [0.06, 0.06, 0.12]) * strength
    size = np.exp(rng.normal(-0.05, [0.1, 0.1, 0.1]) * strength)
    mirror = np.diag([rng.choice([-1.0, 1.0]), 1, 1])
    return Deformation(
        centre=np.asarray(centre, np.float32),
        matrix=(mirror @ _rotation(turn) / size).astype(np.float32),
        bend_mm=float(rng.normal(0, 12) * strength),
        bend_phase=float(rng.uniform(0, 2 * np.pi)),
        amplitude_mm=(float(rng.uniform(0, 9) * strength), float(rng.uniform(0, 2.2) * strength)),
        coarse=_three_fields(rng, 70.0),
        fine=_three_fields(rng, 22.0),
        arms=bool(rng.random() < 0.35),
        fat_mm=float(rng.uniform(0, 45)) if rng.random() < 0.4 * strength else 0.0,
    )


def deform(atlas: Atlas, deformation: Deformation, geometry: hd.VolumeGeometry) -> Anatomy:
    """Return the deformed atlas on a grid.

    Parameters
    ----------
    atlas
        The body.
    deformation
        What becomes of it.
    geometry
        Grid in the patient's frame: axes (slice, row, column), LPS, mm.

    Returns
    -------
    Anatomy
        On that grid.
    """
    shape = tuple(geometry.spatial_shape)
    tissues = np.empty(shape, np.uint8)
    depth = np.empty(shape, np.float32)
    for index in range(shape[0]):
        at = _atlas_indices(atlas, deformation, geometry, index)
        tissues[index], depth[index] = _look_up(atlas, at, arms=deformation.arms)
        _add_fat(tissues[index], deformation.fat_mm / float(geometry.spacing[1]))
    volume = hd.Volume(array=tissues, affine=geometry.affine, coordinate_system="PATIENT")
    return Anatomy(tissues=volume, depth=volume.with_array(depth))


def _three_fields(
    rng: np.random.Generator, spacing: float
) -> tuple[SmoothField, SmoothField, SmoothField]:
    one, two, three = (fields.draw_field(rng, spacing, size=12) for _ in range(3))
    return one, two, three


def _rotation(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        first, second = (axis + 1) % 3, (axis + 2) % 3
        turn = np.eye(3)
        turn[first, first] = turn[second, second] = np.cos(angle)
        turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
        matrix = matrix @ turn
    return matrix


def _atlas_indices(
    atlas: Atlas, deformation: Deformation, geometry: hd.VolumeGeometry, index: int
) -> Floats:
    """Return fractional atlas indices of a slice's pixels, shape (rows, columns, 3).

    The displacement is smooth, so all of it is computed on a coarse grid.
    """
    _, rows, columns = geometry.spatial_shape
    i, j = fields.coarse_indices(rows), fields.coarse_indices(columns)
    grid = np.stack(np.broadcast_arrays(np.float32(index), i[:, None], j[None, :]), axis=-1)
    points = (grid @ geometry.affine[:3, :3].T + geometry.affine[:3, 3]).astype(np.float32)
    moved = points.copy()
    for amplitude, three in zip(
        deformation.amplitude_mm, (deformation.coarse, deformation.fine), strict=True
    ):
        for axis, field in enumerate(three):
            moved[..., axis] += amplitude * fields.evaluate(field, points)
    phase = 2 * np.pi * points[..., 2] / 350 + deformation.bend_phase
    moved[..., 0] += deformation.bend_mm * np.sin(phase)
    moved = moved @ deformation.matrix.T + deformation.centre
    inverse = atlas.soft.inverse_affine
    return fields.upsample(
        (moved @ inverse[:3, :3].T + inverse[:3, 3]).astype(np.float32), rows, columns
    )


def _look_up(atlas: Atlas, at: Floats, *, arms: bool) -> tuple[NDArray[np.uint8], Floats]:
    nearest = np.rint(at).astype(np.int32)
    shape = np.asarray(atlas.soft.shape, np.int32)
    outside = ((nearest < 0) | (nearest >= shape)).any(axis=-1)
    flat = np.ravel_multi_index(tuple(np.moveaxis(nearest, -1, 0)), atlas.soft.shape, mode="clip")
    soft = atlas.soft.array.reshape(-1)[flat]
    family = atlas.family.array.reshape(-1)[flat]
    depth = ndimage.map_coordinates(
        atlas.depth.array, np.moveaxis(at, -1, 0), order=1, mode="nearest", output=np.float32
    )
    depth *= DEPTH_UNIT
    gone = outside if arms else outside | (soft & ARM_BIT > 0)
    depth[gone] = -100.0
    soft = np.where(gone, np.uint8(Tissue.AIR), soft & ~np.uint8(ARM_BIT))
    bone = np.where(family > 0, family, np.uint8(Tissue.FLAT_BONE))
    return np.where(depth > 0, bone, soft).astype(np.uint8), depth


def _add_fat(tissues: NDArray[np.uint8], pixels: float) -> None:
    if pixels < 1 or not (tissues == Tissue.AIR).any():
        return
    # Chessboard distance by a box filter is far cheaper than the exact one, then rounded.
    body = ndimage.binary_fill_holes(tissues != Tissue.AIR).astype(np.float32)
    near = ndimage.gaussian_filter(body, pixels / 2) > 0.08
    grown = near & (tissues == Tissue.AIR) & (body == 0)
    tissues[tissues == Tissue.SKIN] = Tissue.FAT
    tissues[grown] = Tissue.FAT
    solid = (tissues != Tissue.AIR).astype(np.float32)
    edge = ndimage.uniform_filter(solid, 5) < 0.7
    tissues[grown & edge] = Tissue.SKIN
