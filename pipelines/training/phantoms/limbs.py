"""Feet and hands from formulas: many small bones side by side, which no label map of training bodies has.

Where bones lie and how large they are is ours, by eye: enough for a network to see that what a thin cortex encloses is
marrow, in a bone of the size of a toe as in one of the size of a heel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import highdicom as hd
import numpy as np

from pipelines.training.phantoms import fields, pathology
from pipelines.training.phantoms.fields import Floats, SmoothField, draw_field
from pipelines.training.phantoms.patient import Patient, draw_patient
from pipelines.training.phantoms.render import ImagedRegion, grid_of, image_body
from pipelines.training.phantoms.shapes import Point, Points, cone
from pipelines.training.phantoms.tissues import Cut, Phantom, Tissue

_NAMES = {1: "shaft", 2: "short_bone", 3: "ray"}
#: Code -> tissue.
_KINDS = np.array([0, Tissue.LONG_BONE, Tissue.FLAT_BONE, Tissue.LONG_BONE], np.uint8)
_SKIN_MM = 1.6
_LEAN_MM = 5.0  # around bones: tendons and muscles
_UNEVEN_MM, _BUMP_MM = 1.2, 14.0  # of surfaces: how far, and from bump to bump
_OUTSIDE_MM = -100.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Bone:
    """A rod with round ends that tapers; `code` of `LimbBody.names`."""

    code: int
    ends: tuple[Point, Point]  #: LPS, mm
    radii: tuple[float, float]  #: mm

    def moved(self, matrix: np.ndarray, scale: float, offset: Point) -> Bone:
        """Return it scaled and turned about the joint, then moved."""
        one, two = (
            tuple(float(v) for v in scale * (matrix @ np.asarray(end)) + offset)
            for end in self.ends
        )
        radii = (scale * self.radii[0], scale * self.radii[1])
        return replace(self, ends=(one, two), radii=radii)  # type: ignore[arg-type]


def _rays(
    bases: Sequence[Point], tips: Sequence[Point], radius: float, joints: Sequence[float]
) -> list[Bone]:
    """Fingers or toes with their metacarpal or metatarsal: `joints` are shares of the way from base to tip."""
    made = []
    for base, tip in zip(bases, tips, strict=True):
        start, along = np.asarray(base), np.asarray(tip) - np.asarray(base)
        cuts = [0.0, *joints, 1.0]
        for number, (low, high) in enumerate(pairwise(cuts)):
            size = radius * 0.85**number
            # Rods end round: two radii and a joint lie between two axes.
            gap = (size + 1.0) / float(np.linalg.norm(along))
            one, two = start + (low + gap) * along, start + max(low + gap, high - gap) * along
            ends = (_point(one), _point(two))
            made.append(Bone(code=3, ends=ends, radii=(size, 0.85 * size)))
    return made


def _point(vector: np.ndarray) -> Point:
    x, y, z = (float(value) for value in vector)
    return x, y, z


def _bone(code: int, one: Point, two: Point, radius: float, other: float | None = None) -> Bone:
    return Bone(code=code, ends=(one, two), radii=(radius, radius if other is None else other))


#: A left foot, its ankle at the origin, toes to the front (-y).
FOOT = (
    _bone(1, (-3, 2, 32), (-6, 4, 300), 20, 13),  # tibia
    _bone(1, (22, 8, -6), (24, 10, 300), 8.5, 6),  # fibula
    _bone(2, (-2, 6, -3), (-5, -20, -6), 17, 13),  # talus
    _bone(2, (4, 36, -36), (8, -12, -36), 18, 13),  # calcaneus
    _bone(2, (-14, -43, -10), (-3, -45, -10), 10.5),  # navicular
    _bone(2, (16, -36, -26), (18, -50, -26), 11.5),  # cuboid
    *(_bone(2, (x, -62, -12), (x, -68, -13), 8) for x in (-19.0, -4.0, 10.0)),  # cuneiforms
    *_rays(
        [(-18, -78, -14), (-6, -80, -12), (5, -78, -13), (16, -64, -18), (26, -60, -22)],
        [(-30, -190, -34), (-8, -196, -32), (8, -188, -32), (22, -174, -33), (34, -158, -34)],
        8.0,
        (0.55, 0.8),
    ),
)
#: A left hand, its wrist at the origin, fingers down (-z), palm to the front.
HAND = (
    _bone(1, (-10, 0, 12), (-12, 2, 240), 13, 8),  # radius
    _bone(1, (14, 3, 10), (12, 4, 240), 8, 8),  # ulna
    *(_bone(2, (x, 0, -8), (x, 1, -12), 7) for x in (-17.0, -2.0, 13.0)),
    *(_bone(2, (x, 1, -24), (x, 0, -27), 6.5) for x in (-22.0, -8.0, 6.0, 19.0)),
    *_rays(
        [(-26, -4, -30), (-14, 0, -36), (-3, 0, -38), (8, 0, -37), (19, 2, -35)],
        [(-72, -26, -110), (-26, -8, -182), (-4, -8, -192), (14, -8, -184), (34, -6, -166)],
        5.5,
        (0.4, 0.65, 0.85),
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LimbBody:
    """Both feet or both hands of a patient; a `Body`."""

    patient: Patient
    bones: tuple[Bone, ...]
    flesh_mm: float  #: from bone to skin
    uneven: SmoothField
    names: Mapping[int, str]
    middle: tuple[float, float] = (0.0, 0.0)

    def cut(self, geometry: hd.VolumeGeometry, index: float) -> Cut:
        """Return the plane at a (fractional) slice index of an axial grid."""
        affine = geometry.affine
        rows, columns = geometry.spatial_shape[1:]
        x = (affine[0, 2] * np.arange(columns) + affine[0, 3]).astype(np.float32)[None, :]
        y = (affine[1, 1] * np.arange(rows) + affine[1, 3]).astype(np.float32)[:, None]
        z = np.full((1, 1), affine[2, 0] * index + affine[2, 3], np.float32)
        away, code = self._nearest((x, y, z))
        bumps = fields.evaluate(self.uneven, fields.coarse_points(geometry, index))
        depth = -away - _UNEVEN_MM * fields.upsample(bumps, rows, columns)
        depth[away > self.flesh_mm] = _OUTSIDE_MM
        soft = np.select(
            [away > self.flesh_mm, away > self.flesh_mm - _SKIN_MM, away > _LEAN_MM],
            [np.uint8(Tissue.AIR), np.uint8(Tissue.SKIN), np.uint8(Tissue.FAT)],
            np.uint8(Tissue.MUSCLE),
        )
        site = pathology.Site(tissues=_KINDS[code], femur=np.zeros((rows, columns), bool))
        return Cut(
            tissues=np.where(depth > 0, _KINDS[code], soft),
            structures=np.where(depth > 0, code, np.uint8(0)),
            depth=depth,
            cortex=pathology.cortex(self.patient, site),
            mineral=pathology.mineral(self.patient, site),
        )

    def _nearest(self, at: Points) -> tuple[Floats, np.ndarray]:
        """Return the distance to the nearest bone, and its code."""
        x, y, z = at
        shape = np.broadcast_shapes(x.shape, y.shape)
        away = np.full(shape, -2 * _OUTSIDE_MM, np.float32)
        code = np.zeros(shape, np.uint8)
        for bone in self.bones:
            heights = [end[2] for end in bone.ends]
            reach = max(bone.radii) + self.flesh_mm
            if not min(heights) - reach < z.item() < max(heights) + reach:
                continue
            distance = cone((x, y, z), bone.ends, bone.radii)
            closer = distance < away
            away, code = np.where(closer, distance, away), np.where(closer, bone.code, code)
        return away, code.astype(np.uint8)


def limb_body(rng: np.random.Generator) -> LimbBody:
    """Draw both feet, or both hands, of a patient; their joints lie at the height of 0, left and right of it."""
    patient = replace(draw_patient(rng, contrast=False), lesions=(), fractures=(), implants=())
    feet = bool(rng.random() < 0.6)
    apart = float(rng.uniform(45, 110) if feet else rng.uniform(60, 200))
    bones: list[Bone] = []
    for sign in (1.0, -1.0):
        pose = _turned(rng, feet=feet)
        scale = patient.height_m / 1.72 * float(rng.uniform(0.85, 1.12))
        offset = (sign * apart, float(rng.normal(0, 12)), float(rng.normal(0, 12)))
        mirror = np.diag([sign, 1.0, 1.0])
        bones += [bone.moved(mirror @ pose, scale, offset) for bone in (FOOT if feet else HAND)]
    return LimbBody(
        patient=patient,
        bones=tuple(bones),
        flesh_mm=float(np.clip(6 + 0.3 * patient.fat_mm, 7, 16)),
        uneven=draw_field(rng, _BUMP_MM),
        names=_NAMES,
    )


def _turned(rng: np.random.Generator, *, feet: bool) -> np.ndarray:
    """Draw how a limb is held: toes lowered and turned out; hands turned about the forearm."""
    lowered, out, roll = np.radians(
        (rng.uniform(-10, 60), rng.normal(8, 12), rng.normal(0, 10))
        if feet
        else (rng.normal(0, 15), rng.uniform(-90, 90), rng.normal(0, 15))
    )
    c, s = np.cos(lowered), np.sin(lowered)
    about_x = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    c, s = np.cos(out), np.sin(out)
    about_z = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    c, s = np.cos(roll), np.sin(roll)
    about_y = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    return np.asarray(about_z @ about_x @ about_y)


def limb_slice(rng: np.random.Generator, *, pixel_spacing: float, size: int) -> Phantom:
    """Return a slice of 0.6 to 6 mm across feet or hands, with its truth.

    Parameters
    ----------
    rng
        Source of chance.
    pixel_spacing
        mm.
    size
        Rows and columns.
    """
    body = limb_body(rng)
    ends = [end for bone in body.bones for end in bone.ends]
    # Somewhere around a bone: a rod of 300 mm counts as much as a toe.
    middle = np.asarray(ends[rng.integers(len(ends))]) + rng.normal(0, (35, 25, 10))
    region = ImagedRegion(
        centre=(0.0, 0.0, 0.0),
        shape=(1, size, size),
        pixel_spacing=pixel_spacing,
        slice_spacing=float(rng.uniform(0.6, 6)),
    )
    return image_body(body, grid_of(region, _point(middle)), rng)
