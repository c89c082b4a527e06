"""Stacks of slices as spines are imaged: sagittal, axial and coronal, angulated, with gaps; of an atlas or of
formulas."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum

import highdicom as hd
import numpy as np
from numpy.typing import NDArray

from pipelines.training.phantoms.deformation import to_atlas
from pipelines.training.phantoms.discs import DiscHeights, draw_discs
from pipelines.training.phantoms.mr_procedural import procedural_spine
from pipelines.training.phantoms.mr_spine import AtlasSpine, Point, Spine, SpineAtlas
from pipelines.training.phantoms.paraspinal import draw_paraspinal
from pipelines.training.phantoms.patient import (
    FractureKind,
    Implant,
    ImplantKind,
    Patient,
    draw_patient,
)
from pipelines.training.phantoms.posing import pose_atlas
from pipelines.training.phantoms.stoutness import draw_stoutness

#: How often there are screws in some vertebra; patients with tumours often have them.
_METAL_SHARE = 0.05


class Plane(StrEnum):
    """How slices lie."""

    SAGITTAL = "sagittal"
    AXIAL = "axial"
    CORONAL = "coronal"


#: Where slices, rows and columns run to.
ORIENTATIONS = {Plane.SAGITTAL: "LFP", Plane.AXIAL: "FPL", Plane.CORONAL: "PFL"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """One stack of slices."""

    plane: Plane
    slices: int
    rows: int
    columns: int
    pixel_spacing: float  #: mm
    slice_spacing: float  #: from slice to slice, the gap included, mm
    tilt: tuple[float, float, float] = (0.0, 0.0, 0.0)  #: about x, y and z, rad


def draw_stack(rng: np.random.Generator, plane: Plane | None = None) -> Stack:
    """Draw a protocol of spine MR: field of view, matrix, thickness with gap, angulation."""
    plane = plane or Plane(rng.choice(list(Plane), p=[0.65, 0.28, 0.07]))
    axial = plane is Plane.AXIAL
    field = float(rng.uniform(160, 220) if axial else rng.uniform(240, 380))
    matrix = int(rng.choice([256, 320, 384, 448, 512]))
    turn = rng.normal(0, 0.06, 3)
    if axial:
        turn[0] += rng.normal(0, 0.2)  # along the disc
    return Stack(
        plane=plane,
        slices=int(rng.integers(18, 31) if axial else rng.integers(11, 20)),
        rows=matrix,
        columns=matrix,
        pixel_spacing=field / matrix,
        slice_spacing=float(rng.uniform(3.3, 5.5)),
        tilt=(float(turn[0]), float(turn[1]), float(turn[2])),
    )


def geometry_of(stack: Stack, centre: Point = (0.0, 0.0, 0.0)) -> hd.VolumeGeometry:
    """Return the grid of a stack, its middle at a point of the patient (LPS, mm)."""
    shape = (stack.slices, stack.rows, stack.columns)
    upright = hd.VolumeGeometry.from_components(
        shape,
        spacing=(stack.slice_spacing, stack.pixel_spacing, stack.pixel_spacing),
        coordinate_system="PATIENT",
        center_position=(0.0, 0.0, 0.0),
        patient_orientation=ORIENTATIONS[stack.plane],
    )
    affine = upright.affine.copy()
    affine[:3] = _turned(stack.tilt) @ affine[:3]
    affine[:3, 3] += centre
    return hd.VolumeGeometry(affine, shape, coordinate_system="PATIENT")


def draw_spine_patient(rng: np.random.Generator, levels: tuple[str, ...]) -> Patient:
    """Draw a patient as MR of the spine meets them: now and then with screws, of the given vertebrae."""
    patient = draw_patient(rng, contrast=False)
    screws: tuple[Implant, ...] = ()
    if levels and rng.random() < _METAL_SHARE:
        site = levels[int(rng.integers(len(levels)))]
        screws = (Implant(kind=ImplantKind.PEDICLE_SCREWS, site=site, size=1.0),)
    kept = tuple(one for one in patient.fractures if one.kind is FractureKind.COMPRESSION)
    return replace(patient, lesions=(), fractures=kept, implants=screws)


#: Draws a patient, and the point of the patient around which images are centred, LPS, mm.
DrawSpine = Callable[[np.random.Generator], tuple[Spine, Point]]


def procedural_spines(rng: np.random.Generator) -> tuple[Spine, Point]:
    """Draw a spine from formulas, and a point in one of its vertebrae."""
    patient = draw_spine_patient(rng, ("L2", "L3", "L4", "T10", "T12"))
    spine = procedural_spine(patient, rng)
    vertebrae = spine.vertebrae[3:]
    target = vertebrae[int(rng.integers(len(vertebrae)))]
    straight = np.asarray(target.centre, np.float32)
    # The frame of the spine is bent; going back needs one small step of correction.
    point = straight * np.float32(spine.shape.scale)
    for _ in range(3):
        point = point + (straight - spine.straighten(point)) * np.float32(spine.shape.scale)
    return spine, _point(point)


def atlas_spines(
    atlas: SpineAtlas,
    levels: tuple[str, ...] = (),
    *,
    varied: bool = False,
) -> DrawSpine:
    """Return what draws a spine from an atlas, in or near one of the given levels (none: all).

    `varied`: to learn from, discs and bones differ from the atlas's by more than patients' do from patients'.
    """
    discs = DiscHeights.ANY if varied else DiscHeights.USUAL
    wanted = [one for one in atlas.vertebrae if not levels or one.name in levels]
    names = tuple(one.name for one in wanted)

    def draw(rng: np.random.Generator) -> tuple[Spine, Point]:
        patient = draw_spine_patient(rng, names)
        target = wanted[int(rng.integers(len(wanted)))]
        body = pose_atlas(draw_paraspinal(rng, atlas.atlas), patient, rng, target.centre)
        body = replace(body, discs=draw_discs(rng, atlas.discs, discs))
        if varied:
            body = replace(body, stoutness=draw_stoutness(rng))
        spine: AtlasSpine = atlas.pose(body)
        point = np.zeros(3, np.float32)
        for _ in range(3):  # where in the patient the deformed vertebra has come to lie
            away = (
                np.asarray(target.centre) - to_atlas(point[None], body.pose, atlas.atlas.femora)[0]
            )
            point = point + np.linalg.solve(body.pose.matrix.astype(float), away)
            point = point.astype(np.float32)
        return spine, _point(point)

    return draw


def _turned(angles: tuple[float, float, float]) -> NDArray[np.float64]:
    """Return the matrix that turns about x, y and z."""
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        first, second = (axis + 1) % 3, (axis + 2) % 3
        turn = np.eye(3)
        turn[first, first] = turn[second, second] = np.cos(angle)
        turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
        matrix = matrix @ turn
    return matrix


def _point(vector: NDArray[np.floating]) -> Point:
    x, y, z = vector
    return float(x), float(y), float(z)
