"""A spine from formulas for MR: no data needed, cut in any direction."""

from collections.abc import Sequence
from dataclasses import dataclass

import highdicom as hd
import numpy as np
from numpy.typing import NDArray

from pipelines.training.phantoms import bones, fields
from pipelines.training.phantoms.fields import SmoothField
from pipelines.training.phantoms.mr_spine import CANAL_MM, Canal, SpinePlane, Vertebra
from pipelines.training.phantoms.organs import trunk
from pipelines.training.phantoms.patient import ImplantKind, Patient
from pipelines.training.phantoms.shapes import Floats, Points, capsule, cylinder, ellipsoid
from pipelines.training.phantoms.tissues import Cut, Tissue

Codes = NDArray[np.uint8]

#: L5 to T1, as `bones.VERTEBRAE`.
LEVELS = ("L5", "L4", "L3", "L2", "L1", *(f"T{n}" for n in range(12, 0, -1)))
_LUMBAR, _THORACIC = 2, 10  # the levels whose arch stands for all of their kind
_FIRST_THORACIC = 5
_DISC_MM = 8.0
_DEPTH_MM = 17.5  # half, of a vertebral body
_BEHIND_MM = 27.0  # the canal's axis behind that of the bodies
_SCREWS_MM = 40.0
_SACRUM = len(LEVELS) + 1
#: Where one level ends and the next begins, mm.
_BORDERS = np.asarray(bones.VERTEBRAE[1:]) / 2 + np.asarray(bones.VERTEBRAE[:-1]) / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How one procedural spine is bent and built."""

    scale: float
    lordosis_mm: float  #: how far the curves of the spine swing to the front and to the back
    scoliosis_mm: float
    phase: float
    fat_mm: float
    disc_mm: float  #: height of a disc
    slow: SmoothField
    fast: SmoothField


@dataclass(frozen=True, slots=True, kw_only=True)
class ProceduralSpine:
    """A patient's spine made of formulas; a `Spine` whose frame is straight."""

    patient: Patient
    shape: Shape

    @property
    def vertebrae(self) -> tuple[Vertebra, ...]:
        """From above."""
        heights = (*bones.VERTEBRAE, bones.VERTEBRAE[-1] + 20.0)
        return tuple(
            Vertebra(
                name=name,
                code=level + 1,
                centre=(0.0, bones.SPINE_Y, float(heights[level])),
                up=(0.0, 0.0, 1.0),
                half_height=float(heights[level + 1] - heights[level] - self.shape.disc_mm) / 2,
                half_depth=_DEPTH_MM,
            )
            for level, name in reversed(list(enumerate(LEVELS)))
        )

    @property
    def canal(self) -> Canal:
        """A straight tube."""
        heights = np.asarray([-40.0, bones.VERTEBRAE[-1] + 60.0])
        middle = [0.0, bones.SPINE_Y + _BEHIND_MM]
        return Canal(
            heights=heights,
            middles=np.asarray([middle, middle]),
            conus=float(bones.VERTEBRAE[LEVELS.index("L1")] - 12.0),
        )

    def plane(self, geometry: hd.VolumeGeometry, index: float) -> SpinePlane:
        """Return the plane at a (fractional) slice index of a grid of any direction."""
        coarse = self.straighten(fields.coarse_points(geometry, index))
        rows, columns = geometry.spatial_shape[1:]
        at = fields.upsample(coarse, rows, columns)
        textures = [
            fields.upsample(fields.evaluate(field, coarse), rows, columns)
            for field in (self.shape.slow, self.shape.fast)
        ]
        return SpinePlane(cut=self._cut((at[..., 0], at[..., 1], at[..., 2]), textures), at=at)

    def straighten(self, points: Floats) -> Floats:
        """Return where in the straight frame points of the patient lie; shape (..., 3), mm."""
        made = points / np.float32(self.shape.scale)
        z = made[..., 2]
        made[..., 0] -= self.shape.scoliosis_mm * np.sin(2 * np.pi * z / 380 + self.shape.phase)
        # Lumbar to the front, thoracic to the back; neither curve begins at the sacrum.
        curve = np.sin(2 * np.pi * (z - 60) / 420) * np.clip((z - 20) / 80, 0, 1)
        made[..., 1] += self.shape.lordosis_mm * curve
        return np.asarray(made, np.float32)

    def _cut(self, at: Points, textures: Sequence[Floats]) -> Cut:
        x, y, z = at
        tissues = _soft_tissue(at, self.shape, textures)
        inside = (tissues != Tissue.AIR) & (tissues != Tissue.SKIN)
        column = np.hypot(x / 25, (y - bones.SPINE_Y) / 18) < 1
        tissues[column & inside & (z > bones.VERTEBRAE[0] - 22)] = Tissue.DISC
        depth, structures = _bones(at, self.shape.disc_mm)
        solid = (depth > 0) & inside
        tissues[solid] = np.where(structures[solid] == _SACRUM, Tissue.FLAT_BONE, Tissue.SPINE)
        tissues[np.hypot(x / CANAL_MM[0], (y - bones.SPINE_Y - _BEHIND_MM) / CANAL_MM[1]) < 1] = (
            Tissue.CANAL
        )
        for implant in self.patient.implants:
            if implant.kind is ImplantKind.PEDICLE_SCREWS and implant.site in LEVELS:
                tissues[_screws(at, bones.VERTEBRAE[LEVELS.index(implant.site)])] = Tissue.METAL
        return Cut(
            tissues=tissues,
            structures=np.where(tissues >= Tissue.SPINE, structures, 0).astype(np.uint8),
            depth=np.where(inside, depth, np.float32(-100)) * np.float32(self.shape.scale),
            cortex=np.full(tissues.shape, 0.7 * self.patient.cortex, np.float32),
            mineral=np.zeros(tissues.shape, np.float32),
        )


def procedural_spine(patient: Patient, rng: np.random.Generator) -> ProceduralSpine:
    """Build the spine of a patient from formulas."""
    return ProceduralSpine(
        patient=patient,
        shape=Shape(
            scale=patient.height_m / 1.7 * float(rng.uniform(0.95, 1.05)),
            lordosis_mm=float(rng.uniform(4, 22)),
            scoliosis_mm=patient.scoliosis_mm,
            phase=float(rng.uniform(0, 2 * np.pi)),
            fat_mm=float(np.clip(patient.fat_mm, 5, 45)),
            disc_mm=float(np.clip(rng.normal(_DISC_MM, 1.6), 4, 11)),
            slow=fields.draw_field(rng, 38.0, size=12),
            fast=fields.draw_field(rng, 14.0, size=16),
        ),
    )


def _soft_tissue(at: Points, shape: Shape, textures: Sequence[Floats]) -> Codes:
    x, y, z = at
    slow, fast = textures
    heights = np.linspace(-120, 560, 35)
    widths, depths = np.asarray([trunk(float(height)) for height in heights]).T
    half_width, half_depth = np.interp(z, heights, widths), np.interp(z, heights, depths)
    surface = (np.hypot(x / half_width, (y - 5) / half_depth) - 1) * half_depth - 4 * slow
    tissues = np.full(surface.shape, Tissue.AIR, np.uint8)
    tissues[surface < 0] = Tissue.SKIN
    tissues[surface < -2] = Tissue.FAT
    inner = surface < -shape.fat_mm * (1 + 0.25 * slow)
    tissues[inner] = Tissue.MUSCLE
    # Sheets of fat between the muscles of the back.
    tissues[inner & (np.abs(fast) < 0.1) & (y > bones.SPINE_Y)] = Tissue.FAT
    cavity = (surface < -shape.fat_mm - 13) & (y < bones.SPINE_Y - 12)
    tissues[cavity] = Tissue.FAT
    chest = z > 330
    tissues[cavity & ~chest & (slow + 0.4 * fast > 0.1)] = Tissue.BOWEL
    tissues[cavity & ~chest & (x < -25) & (z > 200) & (slow < 0.4)] = Tissue.LIVER
    tissues[cavity & chest] = np.where(np.abs(x[cavity & chest]) > 35, Tissue.LUNG, Tissue.HEART)
    for side in (-1, 1):
        psoas = (np.hypot((x - 44 * side) / 22, (y - bones.SPINE_Y - 3) / 22) < 1) & inner
        tissues[psoas & (z < 280)] = Tissue.MUSCLE
    vessels = np.minimum(
        np.hypot(x - 12, y - bones.SPINE_Y + 32) - 10, np.hypot(x + 16, y - bones.SPINE_Y + 30) - 10
    )
    tissues[(vessels < 0) & (z > 130) & inner] = Tissue.VESSEL
    return tissues


def _bones(at: Points, disc_mm: float) -> tuple[Floats, Codes]:
    """Return mm below the surface of the bone, and the code of the bone here or close by."""
    x, y, z = at
    # Each pixel looks at its own level alone: all levels of a kind have one shape.
    level = np.searchsorted(_BORDERS, z)
    middle = np.asarray(bones.VERTEBRAE, np.float32)[level]
    pitch = np.append(np.diff(bones.VERTEBRAE), 20.0).astype(np.float32)[level]
    size = (1 - 0.02 * level).astype(np.float32)
    half = (pitch - disc_mm) / 2
    local = z - middle
    # Waisted: end plates are broader than the middle.
    waist = 1 - 0.09 * np.clip(1 - np.square(local / half), 0, 1)
    flat = (x / (size * waist), bones.SPINE_Y + (y - bones.SPINE_Y) / (size * waist), local)
    body = cylinder(flat, (0, bones.SPINE_Y, 0), (25, 18), 1e3)
    body = np.maximum(body, np.abs(local) - half)
    arches = [
        bones.vertebral_arch(x, y, local + np.float32(bones.VERTEBRAE[kind]), kind)
        for kind in (_LUMBAR, _THORACIC)
    ]
    arch = np.where(level < _FIRST_THORACIC, *arches)
    canal = bones.spinal_canal(x, y)
    spine = np.minimum(body, np.maximum(arch, -canal))
    spine = np.where(z > bones.VERTEBRAE[0] - 22, spine, np.float32(1e3))
    sacrum = np.maximum(bones.sacrum(x, y, z), -canal)
    code = np.where(spine <= sacrum, level + 1, _SACRUM).astype(np.uint8)
    distance = np.minimum(spine, sacrum).astype(np.float32)
    return -distance, np.where(distance < 4, code, np.uint8(0))


def _screws(at: Points, height: float) -> NDArray[np.bool_]:
    near = np.abs(at[2] - height) < _SCREWS_MM
    if not near.any():
        return np.asarray(near)
    back = bones.SPINE_Y
    parts = []
    for side in (-1.0, 1.0):
        entry = (19.0 * side, back + 34, height + 3)
        parts.append(capsule(at, (entry, (11.0 * side, back - 10, height + 1)), 2.9))
        parts.append(ellipsoid(at, (19.0 * side, back + 44, height), (4, 4, 30)))
    return np.asarray((np.minimum.reduce(parts) < 0) & near)
