"""The procedural body's soft tissue, painted slice by slice: outline, cavities, organs, vessels."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.training.phantoms.bones import SPINE_Y
from pipelines.training.phantoms.patient import Patient
from pipelines.training.phantoms.shapes import Floats, Point, capsule, ellipsoid
from pipelines.training.phantoms.tissues import Tissue
from pipelines.training.phantoms.trunk import Wall, paint_muscles

Codes = NDArray[np.uint8]

_DIAPHRAGM = 330.0
_CROTCH = -60.0
#: Half width and half depth of the trunk over z, mm.
_HEIGHTS = (-80.0, 0.0, 60.0, 140.0, 230.0, 330.0, 430.0, 520.0)
_WIDTHS = (188.0, 190.0, 180.0, 158.0, 150.0, 158.0, 168.0, 160.0)
_DEPTHS = (100.0, 112.0, 112.0, 110.0, 112.0, 116.0, 114.0, 95.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """How one procedural patient is built."""

    scale: float
    fat_mm: float
    muscle_mm: float
    loops: tuple[tuple[Point, float], ...]  #: middle and radius of each bowel loop, mm


def draw_build(rng: np.random.Generator, patient: Patient) -> Build:
    """Draw what a patient leaves open."""
    loops = tuple(
        (
            (rng.uniform(-85, 85), rng.uniform(-75, -15), rng.uniform(20, 240)),
            rng.uniform(11, 24),
        )
        for _ in range(60)
    )
    return Build(
        scale=patient.height_m / 1.7 * rng.uniform(0.97, 1.03),
        fat_mm=float(np.clip(patient.fat_mm, 6, 34)),
        muscle_mm=13 * patient.muscle * rng.uniform(0.85, 1.15),
        loops=loops,
    )


def trunk(z: float) -> tuple[float, float]:
    """Return half width and half depth of the trunk at height z, mm."""
    return float(np.interp(z, _HEIGHTS, _WIDTHS)), float(np.interp(z, _HEIGHTS, _DEPTHS))


def paint_soft_tissue(
    x: Floats, y: Floats, z: float, build: Build, codes: Mapping[str, int]
) -> tuple[Codes, Codes]:
    """Return the soft tissue of one slice.

    Parameters
    ----------
    x
        float32, shape (1, columns), mm.
    y
        float32, shape (rows, 1), mm.
    z
        Height of the slice, mm.
    build
        The patient.
    codes
        Name of a structure -> its code.

    Returns
    -------
    tuple of numpy.ndarray
        uint8 `Tissue` codes and structure codes, shape (rows, columns).
    """
    surface = _outline(x, y, z)
    tissues = np.zeros(surface.shape, np.uint8)
    structures = np.zeros(surface.shape, np.uint8)
    tissues[surface < 0] = Tissue.SKIN
    tissues[surface < -2] = Tissue.FAT
    inner = surface < -build.fat_mm
    tissues[inner] = Tissue.MUSCLE
    cavity = surface < -build.fat_mm - build.muscle_mm
    if z > _CROTCH:
        cavity &= (y < SPINE_Y - 2) | (z > _DIAPHRAGM)
        if z < 0:
            cavity &= np.hypot(x / 70, y / 60) < 1
        tissues[cavity] = Tissue.LUNG if z > _DIAPHRAGM + 20 else Tissue.FAT
        level = np.full((1, 1), z, np.float32)
        for tissue, name, distance in _organs(x, y, level, build):
            here = (distance < 0) & cavity
            tissues[here], structures[here] = tissue, codes.get(name, 0)
        wall = Wall(
            depth=-surface - np.float32(build.fat_mm),
            thickness=build.muscle_mm,
            diaphragm=_DIAPHRAGM,
        )
        paint_muscles(tissues, structures, (x, y, z), wall, codes)
    return tissues, structures


def _outline(x: Floats, y: Floats, z: float) -> Floats:
    if z > _CROTCH:
        half_width, half_depth = trunk(z)
        norm = np.hypot(x / half_width, (y - 5) / half_depth)
        return np.asarray((norm - 1) * half_depth, np.float32)
    shrink = 1 + (z - _CROTCH) / 1500
    legs = [np.hypot((x - 96 * side) / (92 * shrink), (y - 5) / (98 * shrink)) for side in (-1, 1)]
    return np.asarray((np.minimum(*legs) - 1) * 92 * shrink, np.float32)


def _organs(x: Floats, y: Floats, z: Floats, build: Build) -> Iterator[tuple[Tissue, str, Floats]]:
    """Yield tissue, name and distance, later ones over earlier ones."""
    at = (x, y, z)
    yield Tissue.MUSCLE, "", _dome(*at)
    for middle, radius in build.loops:
        if abs(z.item() - middle[2]) < radius:
            yield Tissue.BOWEL, "", ellipsoid(at, middle, (radius, radius, radius))
    yield Tissue.LIVER, "liver", ellipsoid(at, (-62, -8, 285), (82, 82, 75))
    yield Tissue.SPLEEN, "spleen", ellipsoid(at, (98, 25, 275), (32, 42, 48))
    yield Tissue.BOWEL, "stomach", ellipsoid(at, (55, -35, 270), (42, 36, 50))
    for side, height, name in ((-1, 205, "kidney_right"), (1, 215, "kidney_left")):
        middle = (62.0 * side, 22.0, float(height))
        yield Tissue.KIDNEY, name, ellipsoid(at, middle, (28, 27, 55))
        yield Tissue.URINE, "", ellipsoid(at, (50.0 * side, 18.0, height), (10, 9, 18))
    yield Tissue.URINE, "urinary_bladder", ellipsoid(at, (0, -42, 18), (42, 36, 32))
    yield Tissue.BOWEL, "", capsule(at, ((0, 22, -20), (0, 15, 70)), 17)  # rectum
    yield Tissue.HEART, "heart", ellipsoid(at, (28, -30, 385), (55, 48, 50))
    yield Tissue.VESSEL, "aorta", capsule(at, ((14, 2, 135), (20, 8, 560)), 11.5)
    vena_cava = capsule(at, ((-18, 2, 135), (-22, -6, 380)), 11)
    yield Tissue.VESSEL, "inferior_vena_cava", vena_cava
    for side in (-1, 1):
        iliac = capsule(at, ((10.0 * side, 2, 135), (62.0 * side, -30, 15)), 6.5)
        yield Tissue.VESSEL, "", iliac
    yield Tissue.GAS, "", capsule(at, ((0, -5, 450), (0, -10, 600)), 9)  # trachea


def _dome(x: Floats, y: Floats, z: Floats) -> Floats:
    return ellipsoid((x, y, z), (0, -5, 290), (135, 100, 68))
