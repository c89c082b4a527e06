"""A patient in a CT scanner: what is known of an acquisition before its first slice is made."""

from dataclasses import dataclass

import highdicom as hd
import numpy as np
from numpy.typing import NDArray

from pipelines.training.phantoms import fields
from pipelines.training.phantoms.appearance import Appearance
from pipelines.training.phantoms.attenuation import attenuation
from pipelines.training.phantoms.calibration import (
    BLOCK_MM,
    Calibration,
    paint_calibration,
    place_calibration,
)
from pipelines.training.phantoms.inserts import Insert
from pipelines.training.phantoms.kernel import Kernel, make_kernel
from pipelines.training.phantoms.physics import Artefacts, artefacts
from pipelines.training.phantoms.projector import Projector, make_projector
from pipelines.training.phantoms.scanner import Scanner
from pipelines.training.phantoms.tables import AIR_HU, table_image
from pipelines.training.phantoms.tissues import Body, Cut, Tissue

Floats = NDArray[np.float32]

#: Coarse planes: pixels along an edge, mm a pixel, directions, mm between planes.
_PLAIN = (90, 6.0, 60, 10.0)
_WITH_METAL = (132, 4.0, 120, 4.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """What is reconstructed."""

    geometry: hd.VolumeGeometry  #: axes (slice, row, column); rows to the back, columns to the left
    thickness_mm: float  #: of the slices, whatever their distance

    @property
    def subslices(self) -> int:
        """Thin planes that are averaged into one slice; an odd number, so that one of two tissues has most of them."""
        return 1 + 2 * int(np.clip(round((self.thickness_mm - 0.75) / 3), 0, 2))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Who lies in which scanner."""

    body: Body
    appearance: Appearance  #: what the body's tissues measure
    scanner: Scanner
    inserts: tuple[Insert, ...] = ()  #: what was added to the patient


@dataclass(frozen=True, slots=True, kw_only=True)
class Acquisition:
    """All that a slice is made of; slices do not depend on each other."""

    scene: Scene
    grid: Grid
    background: Floats  #: table and calibration phantom alone, HU, shape (rows, columns)
    calibration: Calibration | None
    heights: Floats  #: of the coarse planes, mm, increasing
    artefacts: tuple[Artefacts, ...]
    coarse: tuple[Floats, Floats]  #: rows and columns of the grid as indices of a coarse plane
    kernel: Kernel
    seed: int


def acquire(scene: Scene, grid: Grid, rng: np.random.Generator) -> Acquisition:
    """Put a patient into a scanner: the coarse planes, the table, the kernel.

    Parameters
    ----------
    scene
        Patient and scanner.
    grid
        What is reconstructed.
    rng
        Source of all noise.
    """
    body = scene.body
    size, pixel, angles, step = _WITH_METAL if body.patient.implants else _PLAIN
    planes = _coarse_geometry(body, grid.geometry, size, (pixel, step))
    cuts = [body.cut(planes, index) for index in range(planes.spatial_shape[0])]
    projector = make_projector(size, pixel, angles)
    made = tuple(
        _plane_artefacts(scene, cut, fields.coarse_points(planes, index), projector, rng)
        for index, cut in enumerate(cuts)
    )
    background, calibration = _background(cuts, planes, grid.geometry, scene)
    heights = planes.affine[2, 3] + planes.affine[2, 0] * np.arange(len(cuts))
    order = np.argsort(heights)
    x, y = _axes(grid.geometry)
    left, top = planes.affine[0, 3], planes.affine[1, 3]
    return Acquisition(
        scene=scene,
        grid=grid,
        background=background,
        calibration=calibration,
        heights=heights[order].astype(np.float32),
        artefacts=tuple(made[index] for index in order),
        coarse=((y - top) / np.float32(pixel), (x - left) / np.float32(pixel)),
        kernel=make_kernel(grid.geometry, scene.scanner),
        seed=int(rng.integers(2**62)),
    )


def _coarse_geometry(
    body: Body, geometry: hd.VolumeGeometry, size: int, spacing: tuple[float, float]
) -> hd.VolumeGeometry:
    pixel, step = spacing
    low, high = sorted(
        float(geometry.affine[2, 3] + geometry.affine[2, 0] * index)
        for index in (0, geometry.spatial_shape[0] - 1)
    )
    return hd.VolumeGeometry.from_components(
        (max(1, int(np.ceil((high - low) / step)) + (high > low)), size, size),
        spacing=(step, pixel, pixel),
        coordinate_system="PATIENT",
        center_position=(*body.middle, (low + high) / 2),
        patient_orientation="FPL",
    )


def _plane_artefacts(
    scene: Scene, cut: Cut, points: Floats, projector: Projector, rng: np.random.Generator
) -> Artefacts:
    plane = attenuation(cut, points, scene.appearance, projector.pixel)
    metal = cut.tissues == Tissue.METAL
    plane[metal] = scene.appearance.mean[Tissue.MUSCLE]
    return artefacts(plane, metal.astype(np.float32), projector, scene.scanner.beam, rng)


def _axes(geometry: hd.VolumeGeometry) -> tuple[Floats, Floats]:
    """Return x of the columns and y of the rows, mm."""
    _, rows, columns = geometry.spatial_shape
    affine = geometry.affine
    x = affine[0, 3] + affine[0, 2] * np.arange(columns)
    y = affine[1, 3] + affine[1, 1] * np.arange(rows)
    return x.astype(np.float32), y.astype(np.float32)


def _background(
    cuts: list[Cut], planes: hd.VolumeGeometry, geometry: hd.VolumeGeometry, scene: Scene
) -> tuple[Floats, Calibration | None]:
    """Return what lies around the patient: shape (rows, columns), HU; and the rods in it."""
    scanner, appearance = scene.scanner, scene.appearance
    x, y = _axes(geometry)
    image = np.full((y.size, x.size), AIR_HU, np.float32)
    rows = [np.flatnonzero((cut.tissues != Tissue.AIR).any(axis=1)) for cut in cuts]
    lowest = [int(found[-1]) for found in rows if found.size]
    if not lowest:
        return image, None
    back = float(planes.affine[1, 3] + planes.affine[1, 1] * (max(lowest) + 0.5))
    middle = planes.affine[0, 3] + planes.affine[0, 2] * (planes.spatial_shape[2] - 1) / 2
    calibration = None
    top = back
    if scanner.calibrated:
        top += BLOCK_MM[1]
        calibration = place_calibration(
            float(middle) + scanner.couch_mm, back - 2, appearance.slope, appearance.intercept
        )
    if scanner.table is not None:
        table = scanner.table
        pixel = float(abs(geometry.spacing[1]))
        below = y - np.float32(top - table.sink)
        image = table_image(table, x - np.float32(middle + scanner.couch_mm), below, pixel)
    if calibration is not None:
        paint_calibration(image, calibration, x, y)
    return image, calibration
