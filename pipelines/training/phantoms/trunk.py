"""The procedural body's trunk muscles: simple shapes with names, painted slice by slice into its wall and back.

The abdominal wall is shared out by depth below the subcutaneous fat and by place around the trunk; muscles of the
back lie in fat behind the spine. Unscaled mm, in the frame of `bones`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.training.phantoms.bones import SPINE_Y
from pipelines.training.phantoms.shapes import Floats
from pipelines.training.phantoms.tissues import Tissue

Codes = NDArray[np.uint8]

#: Without their side.
TRUNK_MUSCLES = (
    "erector_spinae",
    "transversospinalis",
    "psoas_major",
    "quadratus_lumborum",
    "rectus_abdominis",
    "external_oblique",
    "internal_oblique",
    "latissimus_dorsi",
)

#: Heights in which the muscles are, mm above the hip joints: of L4 to T12, of T4.
_WALL = (60.0, 365.0)
_LOWER_WALL = (60.0, 245.0)
_LATISSIMUS = (205.0, 520.0)
_QUADRATUS = (112.0, 262.0)
_PSOAS = (0.0, 270.0)
_BACK = (60.0, 540.0)
#: From the front of the arches backwards there are muscles in fat, mm of y.
_GUTTER_Y = SPINE_Y + 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Wall:
    """A slice of the procedural body before its muscles are painted."""

    depth: Floats  #: mm below the subcutaneous fat; negative outside of it
    thickness: float  #: of the muscular wall, mm
    diaphragm: float  #: height from which on the cavity is the chest's


def paint_muscles(
    tissues: Codes,
    structures: Codes,
    at: tuple[Floats, Floats, float],
    wall: Wall,
    codes: Mapping[str, int],
) -> None:
    """Paint the named muscles of a slice over its soft tissue, in place.

    Parameters
    ----------
    tissues, structures
        Shape (rows, columns).
    at
        x, shape (1, columns); y, shape (rows, 1); z; mm.
    wall
        Where the muscular wall is.
    codes
        Name of a structure -> its code.
    """
    x, y, z = at
    inner = wall.depth > 0
    _fatten_the_back(tissues, x, y, z, wall)
    for side, sign in (("left", 1), ("right", -1)):
        for name, shape in _shapes(x * np.float32(sign), y, z, wall):
            here = shape & inner
            tissues[here], structures[here] = Tissue.MUSCLE, codes[f"{name}_{side}"]


def _fatten_the_back(tissues: Codes, x: Floats, y: Floats, z: float, wall: Wall) -> None:
    """Turn what lies behind the spine, and beside it under the diaphragm, into the fat between the muscles."""
    if not _BACK[0] < z < _BACK[1]:
        return
    front = _GUTTER_Y if z > wall.diaphragm else SPINE_Y - 2
    behind = (y > front) & (np.abs(x) < 72) & (wall.depth > 0)
    tissues[behind] = Tissue.FAT


def _shapes(x: Floats, y: Floats, z: float, wall: Wall) -> list[tuple[str, NDArray[np.bool_]]]:
    """Name and place of the muscles of one side; x grows away from the midline. Later ones lie over earlier ones."""
    chest = float(np.clip((z - 300) / 120, 0, 1))
    layer = wall.depth / wall.thickness
    flank = (x > 64) & (y > -75) & (y < 48)
    shapes: list[tuple[str, NDArray[np.bool_]]] = []
    if _WALL[0] < z < _WALL[1]:
        front = (x > 4) & (x < 58) & (y < 0) & (layer < 0.85)
        shapes += [("rectus_abdominis", front), ("external_oblique", flank & (layer < 0.42))]
    if _LOWER_WALL[0] < z < _LOWER_WALL[1]:
        shapes.append(("internal_oblique", flank & (layer >= 0.42) & (layer < 0.8)))
    if _LATISSIMUS[0] < z < _LATISSIMUS[1]:
        # Narrow above the loin, from the spine's muscles to the armpit higher up.
        outward = 74 + 60 * float(np.clip((z - 230) / 200, 0, 1))
        lateral = (x > 52) & (x < outward) & (y > 30 - 45 * chest)
        shapes.append(("latissimus_dorsi", lateral & (wall.depth < 6.5)))
    if _QUADRATUS[0] < z < _QUADRATUS[1]:
        shapes.append(("quadratus_lumborum", _oval(x, y, (74, SPINE_Y + 26), (17, 10))))
    if _BACK[0] < z < _BACK[1]:
        middle, radii = (36 - 5 * chest, SPINE_Y + 49 - 3 * chest), (22 - 6 * chest, 15 - 4 * chest)
        shapes.append(("erector_spinae", _oval(x, y, middle, radii)))
        medial = _oval(x, y, (12, SPINE_Y + 46), (9 - 3 * chest, 13))
        shapes.append(("transversospinalis", medial & (x > 3)))
    if _PSOAS[0] < z < _PSOAS[1]:
        shapes.append(("psoas_major", _oval(x, y, (45, SPINE_Y + 4), (24, 24))))
    return shapes


def _oval(
    x: Floats, y: Floats, middle: tuple[float, float], radii: tuple[float, float]
) -> NDArray[np.bool_]:
    return np.asarray(np.hypot((x - middle[0]) / radii[0], (y - middle[1]) / radii[1]) < 1)
