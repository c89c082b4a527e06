"""Bodies made from an atlas, cut anywhere: bent, stretched, fattened, never the same twice."""

from collections.abc import Mapping
from dataclasses import dataclass

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipelines.training.phantoms import fields, metal, pathology
from pipelines.training.phantoms.atlas import Atlas
from pipelines.training.phantoms.deformation import Pose, to_atlas, turn_thighs
from pipelines.training.phantoms.discs import Discs, slide
from pipelines.training.phantoms.fields import Floats
from pipelines.training.phantoms.images import FAR_OUTSIDE
from pipelines.training.phantoms.pathology import Damage
from pipelines.training.phantoms.patient import Arms, Implant, ImplantKind, Patient
from pipelines.training.phantoms.shapes import Points
from pipelines.training.phantoms.stoutness import Stoutness
from pipelines.training.phantoms.surfaces import DEPTH_UNIT
from pipelines.training.phantoms.tissues import Cut, Tissue

Codes = NDArray[np.uint8]

#: Thickness of the atlases' subcutaneous fat.
ATLAS_FAT_MM = 10.0
_SIDES = ("left", "right")
_SKIN_MM = 1.6
#: Codes of what no atlas names, above all of its own.
_SKIN, _FAT = 255, 254
_OUTSIDE_MM = -100.0  # depth of what is not in the body
_BESIDE_MM = -0.1  # depth of what is next to bone, and not bone
_SCREWS_MM = 40.0  # from the middle of a vertebra: its screws and rods reach no further
_HIP_MM = 120.0  # from the head of the femur, across: nor does the metal of a hip


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plane:
    """Where in the atlas the pixels of a plane lie."""

    shape: tuple[int, int]  #: rows, columns
    moved: Floats  #: all but the femora, shape (coarse rows, coarse columns, 3), mm
    turned: Floats | None  #: the femora, likewise; None where there are none
    at: Floats  #: as `moved`: indices of the atlas's volumes, shape (rows, columns, 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class AtlasBody:
    """A patient made from an atlas; a `Body`."""

    atlas: Atlas
    pose: Pose
    patient: Patient
    names: Mapping[int, str]
    middle: tuple[float, float]  #: x, y of the trunk's axis, mm
    spine: NDArray[np.float64]  #: middles of the vertebral bodies, from below, shape (n, 3), mm
    damage: tuple[Damage, ...]  #: lesions and cracks, placed
    compressions: tuple[pathology.Compression, ...]
    discs: Discs | None = None  #: None: as high as the atlas's
    stoutness: Stoutness | None = None  #: None: bones as stout as the atlas's

    def in_atlas(self, points: Floats) -> Floats:
        """Return where in the atlas points of the patient (LPS, mm) come from; the femora stand elsewhere."""
        source = to_atlas(points, self.pose, self.atlas.femora)
        for compression in self.compressions:
            source[..., 2] += pathology.sink(compression, source)
        if self.discs is not None:
            source[..., 2] += slide(self.discs, source)
        return source

    def cut(self, geometry: hd.VolumeGeometry, index: float) -> Cut:
        """Return the plane at a (fractional) slice index of an axial grid."""
        points = fields.coarse_points(geometry, index)
        rows, columns = geometry.spatial_shape[1:]
        plane = self._plane(points, (rows, columns))
        soft = self._soft(plane, self._added_fat(points, plane.shape))
        bone, depth = self._bones(plane)
        if self.stoutness is not None:
            depth += fields.upsample(self.stoutness.at(plane.moved), *plane.shape)
        depth = np.where((soft == 0) & (depth > 0), np.float32(_BESIDE_MM), depth)
        depth = np.where((bone == 0) & (depth > 0), np.float32(_BESIDE_MM), depth)
        depth[soft == 0] = _OUTSIDE_MM
        table = self.atlas.tissues.copy()
        table[_SKIN], table[_FAT] = Tissue.SKIN, Tissue.FAT
        structures = np.where(depth > 0, bone, np.where(soft >= _FAT, np.uint8(0), soft))
        site = self._site(bone, plane)
        mineral, gap = pathology.damaged(
            pathology.mineral(self.patient, site), self._density(structures, plane), self.patient
        )
        cut = Cut(
            tissues=np.where(depth > 0, table[bone], table[soft]),
            structures=structures,
            depth=depth,
            cortex=pathology.cortex(self.patient, site),
            mineral=mineral,
            gap=gap,
        )
        for implant in self.patient.implants:
            cut = self._with_implant(cut, implant, plane)
        return cut

    def _plane(self, points: Floats, shape: tuple[int, int]) -> _Plane:
        source = self.in_atlas(points)
        hips = dict(zip(_SIDES, self.patient.hips, strict=True))
        hips = {side: hips[self._across(side)] for side in _SIDES}
        moved, turned = turn_thighs(source, self.atlas.femora, hips)
        at = fields.upsample(_indices(self.atlas.soft, moved), *shape)
        return _Plane(shape=shape, moved=moved, turned=turned, at=at)

    def _across(self, side: str) -> str:
        """Return what a side of the atlas is in the patient, and the other way round."""
        return _SIDES[(_SIDES.index(side) + int(self.pose.mirror)) % 2]

    def _added_fat(self, points: Floats, shape: tuple[int, int]) -> Floats:
        """Return by how much the subcutaneous fat is thicker than the atlas's, mm."""
        more = np.float32(self.patient.fat_mm - ATLAS_FAT_MM)
        return fields.upsample(more * (1 + 0.3 * fields.evaluate(self.pose.fat, points)), *shape)

    def _soft(self, plane: _Plane, added: Floats) -> Codes:
        """Return structure codes as if there were no bone, 0 outside of the body."""
        atlas = self.atlas
        codes = _nearest(atlas.soft.array, plane.at)
        # Both grids are isotropic and begin at the same point.
        scale = float(atlas.soft.spacing[0] / atlas.skin.spacing[0])
        depth = _linear(atlas.skin.array, plane.at * scale)
        trunk = depth > -added
        fat = np.isin(codes, [c for c in self.names if atlas.tissues[c] == Tissue.FAT])
        lean = (codes > 0) & ~fat
        codes = np.where((codes == 0) & (depth > 0), np.uint8(_FAT), codes)
        arms = depth < -0.5 * atlas.soft.spacing[0]
        if self.patient.arms is not Arms.DOWN:
            lean &= ~arms
            codes = np.where(arms, np.uint8(0), codes)
        keep = trunk | lean | ((codes > 0) & arms)
        codes = np.where(trunk & (codes == 0), np.uint8(_FAT), codes)
        codes = np.where(keep, codes, np.uint8(0))
        rim = trunk & (depth + added < _SKIN_MM) & ~lean
        return np.asarray(np.where(rim, np.uint8(_SKIN), codes), np.uint8)

    def _bones(self, plane: _Plane) -> tuple[Codes, Floats]:
        """Return the code of the bone here or close by, and mm below its surface."""
        atlas = self.atlas
        bone = _nearest(atlas.bone.array, plane.at)
        depth = _linear(atlas.depth.array, plane.at) * np.float32(DEPTH_UNIT)
        if plane.turned is None or atlas.femur is None or atlas.femur_depth is None:
            return bone, depth
        there = fields.upsample(_indices(atlas.femur, plane.turned), *plane.shape)
        femur = _nearest(atlas.femur.array, there)
        femoral = _linear(atlas.femur_depth.array, there) * np.float32(DEPTH_UNIT)
        femoral[femur == 0] = np.minimum(femoral[femur == 0], _BESIDE_MM)
        # A femur is rigid: where it is, nothing else is.
        bone = np.where((femoral > 0) | (bone == 0), femur, bone)
        return bone, np.where(femoral > 0, femoral, np.maximum(depth, femoral))

    def _site(self, bone: Codes, plane: _Plane) -> pathology.Site:
        codes = [code for code, name in self.names.items() if name in ("femur_left", "femur_right")]
        return pathology.Site(
            tissues=self.atlas.tissues[bone],
            # Of the bone here or close by: a pixel outside of it may be partly inside.
            femur=np.isin(bone, codes),
            away=self._from_head(plane),
            arch=self._arch(plane),
        )

    def _from_head(self, plane: _Plane) -> Floats | None:
        """Return the distance to the nearer femoral head, mm."""
        if plane.turned is None:
            return None
        heads = [np.asarray(femur.head, np.float32) for femur in self.atlas.femora.values()]
        away = [np.linalg.norm(plane.turned - head, axis=-1) for head in heads]
        return fields.upsample(np.minimum.reduce(away), *plane.shape)

    def _arch(self, plane: _Plane) -> Floats | None:
        """Return 1 behind the vertebral bodies and 0 in them."""
        if len(self.spine) < 2:
            return None
        _, behind, height = self.spine.T
        front = np.interp(plane.moved[..., 2], height, behind)
        share = np.clip((plane.moved[..., 1] - front - 16) / 6, 0, 1).astype(np.float32)
        return fields.upsample(share, *plane.shape)

    def _density(self, structures: Codes, plane: _Plane) -> Floats | None:
        """Return the density that all lesions and cracks add, -1 to 1."""
        total: Floats | None = None
        for damage in self.damage:
            points = plane.turned if damage.on_femur else plane.moved
            if points is None:
                continue
            made = pathology.density(damage, points, structures)
            if made is not None:
                total = made if total is None else total + made
        return None if total is None else np.clip(total, -1, 1)

    def _with_implant(self, cut: Cut, implant: Implant, plane: _Plane) -> Cut:
        codes = {name: code for code, name in self.names.items()}
        if implant.kind is ImplantKind.PEDICLE_SCREWS:
            body = self.atlas.centres.get(implant.site)
            if body is None or np.abs(plane.moved[..., 2] - body[2]).min() > _SCREWS_MM:
                return cut
            at = _components(fields.upsample(plane.moved, *plane.shape))
            return metal.add_screws(cut, implant, at, body, codes)
        side = self._across(implant.site)
        femur = self.atlas.femora.get(side)
        if femur is None or plane.turned is None:
            return cut
        turned = _components(fields.upsample(plane.turned, *plane.shape))
        hip = metal.Hip(
            side=side,
            femur=femur,
            turned=turned,
            fixed=_components(fields.upsample(plane.moved, *plane.shape)),
            near=np.hypot(turned[0] - femur.head[0], turned[1] - femur.head[1]) < _HIP_MM,
        )
        return metal.add_to_hip(cut, implant, hip, codes)


def _indices(volume: hd.Volume, points: Floats) -> Floats:
    inverse = volume.inverse_affine
    return np.asarray(points @ inverse[:3, :3].T + inverse[:3, 3], np.float32)


def _components(points: Floats) -> Points:
    return points[..., 0], points[..., 1], points[..., 2]


def _nearest(array: Codes, at: Floats) -> Codes:
    """Look codes up at fractional indices, 0 beyond."""
    nearest = np.rint(at).astype(np.int32)
    limits = np.asarray(array.shape, np.int32)
    beyond = ((nearest < 0) | (nearest >= limits)).any(axis=-1)
    flat = np.ravel_multi_index(tuple(np.moveaxis(nearest, -1, 0)), array.shape, mode="clip")
    found = array.reshape(-1)[flat]
    found[beyond] = 0
    return np.asarray(found)


def _linear(array: NDArray[np.int8], at: Floats) -> Floats:
    """Interpolate depths at fractional indices; beyond, all is far outside."""
    return ndimage.map_coordinates(
        array,
        np.moveaxis(at, -1, 0),
        order=1,
        mode="constant",
        cval=FAR_OUTSIDE,
        output=np.float32,
    )
