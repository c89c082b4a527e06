"""Bone lesions of a bone scan: metastases and what looks like them, put into any body.

Sizes, places and densities are ours, of plausible size and not fitted to data. Uptake is drawn so that in the image the
maxima of lesions are, relative to those of healthy vertebrae, what patients have: 5.2 for metastases, 2.1 for
degenerative changes (SUVmax 40.9 and 16.7, against 7.6 to 8.1; Kuji et al., Eur J Hybrid Imaging 2017;1:2).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipelines.training.phantoms import fields, pathology
from pipelines.training.phantoms.fields import Floats, SmoothField
from pipelines.training.phantoms.patient import Patient
from pipelines.training.phantoms.shapes import Point
from pipelines.training.phantoms.tissues import FIRST_BONE, Body, Cut, Tissue

Codes = NDArray[np.uint8]
Box = tuple[slice, slice]

#: Label of each class in the truth.
MALIGNANT, BENIGN = 1, 2
_WOBBLE = 0.16  # of the radius, standard deviation of the surface
_EDGE_MM = 2.5  # over which a lesion blends into its bone


class LesionKind(StrEnum):
    """What it is."""

    SCLEROTIC = "sclerotic"
    LYTIC = "lytic"
    MIXED = "mixed"
    MARROW = "marrow"  #: a metastasis that CT does not show
    TREATED = "treated"  #: a sclerotic metastasis that has no uptake any more
    FACET = "facet"  #: arthrosis of a facet joint
    ENDPLATE = "endplate"  #: osteochondrosis, with an osteophyte where it lies at the rim
    JOINT = "joint"  #: arthrosis of any other joint
    FRACTURE = "fracture"  #: of a rib
    ISLAND = "island"  #: a bone island: dense, without uptake


#: Kind -> share among metastases, range of uptake, range of density (1 sclerosis, -1 lysis).
_METASTASES: Mapping[LesionKind, tuple[float, tuple[float, float], tuple[float, float]]] = {
    LesionKind.SCLEROTIC: (0.42, (3.5, 20), (0.35, 1.0)),
    LesionKind.LYTIC: (0.2, (2.5, 11), (-1.0, -0.5)),
    LesionKind.MIXED: (0.2, (3.5, 17), (0.5, 1.0)),
    LesionKind.MARROW: (0.12, (3.5, 15), (0.0, 0.0)),
    LesionKind.TREATED: (0.06, (0.5, 1.0), (0.6, 1.0)),
}
_BENIGN: Mapping[LesionKind, tuple[float, tuple[float, float], tuple[float, float]]] = {
    LesionKind.FACET: (0.33, (2.3, 6), (0.3, 0.8)),
    LesionKind.ENDPLATE: (0.33, (2.1, 5.5), (0.25, 0.7)),
    LesionKind.JOINT: (0.16, (2, 5), (0.15, 0.6)),
    LesionKind.FRACTURE: (0.1, (4, 12), (0.1, 0.4)),
    LesionKind.ISLAND: (0.08, (0.6, 1.0), (0.8, 1.0)),
}
#: How often a metastasis is in a voxel of this bone, against others.
_SITES = {
    Tissue.SPINE: 3.0,
    Tissue.FLAT_BONE: 1.5,
    Tissue.RIB: 1.5,
    Tissue.LONG_BONE: 0.7,
    Tissue.SKULL: 0.3,
}
#: Of a lesion that has less bone, mL, nobody would see anything; so often another place is tried.
_SMALLEST_ML, _TRIES = 0.5, 8
#: Facet joints lie so far beside and behind the middle of the spinal canal, mm.
_FACET_MM = (17.0, 9.0)
_AROUND_MM = 7.0  # a facet joint


@dataclass(frozen=True, slots=True, kw_only=True)
class BoneLesion:
    """One lesion, in the frame of the patient."""

    kind: LesionKind
    centre: Point  #: LPS, mm
    axes: NDArray[np.float32]  #: rows: principal directions over radii, shape (3, 3), 1/mm
    radius_mm: float  #: the mean one
    uptake: float  #: relative to healthy bone in its place
    density: float  #: 1 sclerosis, -1 lysis
    exophytic: bool  #: grows beyond the bone
    texture: SmoothField  #: of its surface, and of what is inside

    @property
    def label(self) -> int:
        """`MALIGNANT` or `BENIGN`."""
        return MALIGNANT if self.kind in _METASTASES else BENIGN


@dataclass(frozen=True, slots=True, kw_only=True)
class LesionPlane:
    """A lesion in a plane, within the box around it; arrays have the box's shape."""

    lesion: BoneLesion
    box: Box
    height: Floats  #: mm below its surface
    texture: Floats  #: of unit variance


@dataclass(frozen=True, slots=True, kw_only=True)
class LesionedBody:
    """A body with lesions; a `Body`."""

    body: Body
    lesions: tuple[BoneLesion, ...]

    @property
    def names(self) -> Mapping[int, str]:
        """Structure code -> name."""
        return self.body.names

    @property
    def patient(self) -> Patient:
        """Who it is."""
        return self.body.patient

    @property
    def middle(self) -> tuple[float, float]:
        """Where the axis of the trunk is: x, y, mm."""
        return self.body.middle

    def cut(self, geometry: hd.VolumeGeometry, index: float) -> Cut:
        """Return the plane at a (fractional) slice index of an axial grid."""
        cut = self.body.cut(geometry, index)
        planes = lesions_in(self.lesions, geometry, index)
        return with_lesions(cut, planes, self.patient) if planes else cut


def lesions_in(
    lesions: Sequence[BoneLesion], geometry: hd.VolumeGeometry, index: float
) -> list[LesionPlane]:
    """Return the lesions that a plane of an axial grid meets."""
    affine = geometry.affine
    z = float(affine[2, 0] * index + affine[2, 3])
    made = []
    for lesion in lesions:
        reach = 2.2 * lesion.radius_mm + _EDGE_MM
        if abs(z - lesion.centre[2]) > reach:
            continue
        box, x, y = _box(geometry, lesion.centre, reach)
        if not x.size or not y.size:
            continue
        points = np.stack(np.broadcast_arrays(x[None, :], y[:, None], np.float32(z)), axis=-1)
        offset = points - np.asarray(lesion.centre, np.float32)
        away = np.linalg.norm(offset @ lesion.axes.T, axis=-1)
        texture = fields.evaluate(lesion.texture, points)
        height = lesion.radius_mm * (1 + np.float32(_WOBBLE) * texture - away)
        if (height > -_EDGE_MM).any():
            made.append(LesionPlane(lesion=lesion, box=box, height=height, texture=texture))
    return made


def _box(geometry: hd.VolumeGeometry, centre: Point, reach: float) -> tuple[Box, Floats, Floats]:
    """Rows and columns of an axial grid within reach of a point, and their x and y, mm."""
    affine, spans = geometry.affine, []
    coordinates = []
    for axis in (1, 0):
        at = affine[axis, 2 - axis] * np.arange(geometry.spatial_shape[2 - axis]) + affine[axis, 3]
        near = np.flatnonzero(np.abs(at - centre[axis]) < reach)
        spans.append(slice(int(near[0]), int(near[-1]) + 1) if near.size else slice(0, 0))
        coordinates.append(at[spans[-1]].astype(np.float32))
    y, x = coordinates
    return (spans[0], spans[1]), x, y


def with_lesions(cut: Cut, planes: Sequence[LesionPlane], patient: Patient) -> Cut:
    """Return a plane whose bone is changed by the lesions in it, as CT sees it."""
    tissues, structures = cut.tissues.copy(), cut.structures.copy()
    depth, cortex, density = cut.depth.copy(), cut.cortex.copy(), np.zeros_like(cut.depth)
    for plane in planes:
        box, lesion = plane.box, plane.lesion
        if lesion.exophytic:
            _grow(tissues[box], structures[box], depth[box], cortex[box], plane)
        bone = tissues[box] >= FIRST_BONE
        share = np.clip(plane.height / _EDGE_MM + 0.5, 0, 1) * bone
        amount = lesion.density * (1 + 0.25 * plane.texture)
        if lesion.kind is LesionKind.MIXED:
            amount = amount * np.where(plane.texture > 0, 1.0, -1.0)
        density[box] += share * amount
    density = np.clip(density, -1, 1)
    mineral, gap = pathology.damaged(cut.mineral, density, patient)
    if cut.gap is not None and gap is not None:
        gap = np.maximum(gap, cut.gap)
    return replace(
        cut,
        tissues=tissues,
        structures=structures,
        depth=depth,
        cortex=cortex,
        mineral=mineral,
        gap=gap,
    )


def _grow(
    tissues: Codes, structures: Codes, depth: Floats, cortex: Floats, plane: LesionPlane
) -> None:
    """Let bone grow beyond its surface, in place."""
    free = (tissues < FIRST_BONE) & (tissues != Tissue.AIR) & (tissues != Tissue.CANAL)
    new = free & (plane.height > 0)
    host = structures[tissues >= FIRST_BONE]
    if not new.any() or not host.size:
        return
    depth[new] = plane.height[new]
    structures[new] = np.bincount(host).argmax()
    tissues[new] = Tissue.SPINE
    cortex[new] = 1.0


def labels_of(planes: Sequence[LesionPlane], bone: NDArray[np.bool_]) -> Codes:
    """Return the truth about a plane: uint8, `MALIGNANT`, `BENIGN` or 0, of the shape of `bone`.

    Parameters
    ----------
    planes
        What `lesions_in` found.
    bone
        Where there is bone, what lesions have added included: a lesion ends with it.
    """
    labels = np.zeros(bone.shape, np.uint8)
    for plane in planes:
        inside = (plane.height > 0) & bone[plane.box]
        # A metastasis in an arthrotic joint is a metastasis.
        free = inside & (labels[plane.box] != MALIGNANT)
        labels[plane.box][free] = plane.lesion.label
    return labels


# -- drawing ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Anatomy:
    """What is known of a body before lesions are put into it: planes of a coarse grid, stacked."""

    geometry: hd.VolumeGeometry  #: axes (slice, row, column)
    tissues: Codes
    structures: Codes
    depth: Floats  #: mm below the surface of bone
    cuts: tuple[Cut, ...]  #: the planes


def draw_lesions(
    anatomy: Anatomy, rng: np.random.Generator, *, slices: slice, metastases: int, benign: int
) -> tuple[BoneLesion, ...]:
    """Put lesions into the bones of a body.

    Parameters
    ----------
    anatomy
        The body.
    rng
        Source of chance.
    slices
        Where their middles are.
    metastases, benign
        How many; fewer where there is no place for their kind.
    """
    places = _places(anatomy, slices)
    made = []
    for table, count in ((_METASTASES, metastases), (_BENIGN, benign)):
        kinds = list(table)
        shares = np.asarray([table[kind][0] for kind in kinds])
        for _ in range(count):
            kind = kinds[int(rng.choice(len(kinds), p=shares / shares.sum()))]
            at = places[kind] if kind in places else places[LesionKind.SCLEROTIC]
            for _ in range(_TRIES if len(at.indices) else 0):
                lesion = _draw_one(kind, table[kind][1:], anatomy, at, rng)
                if _bone_ml(lesion, anatomy) >= _SMALLEST_ML:
                    made.append(lesion)
                    break
    return tuple(made)


def _bone_ml(lesion: BoneLesion, anatomy: Anatomy) -> float:
    """How much bone lies in a lesion, mL."""
    geometry = anatomy.geometry
    planes = (
        (plane, anatomy.tissues[index])
        for index in range(anatomy.tissues.shape[0])
        for plane in lesions_in((lesion,), geometry, index)
    )
    voxels = sum(
        np.count_nonzero((plane.height > 0) & (tissues[plane.box] >= FIRST_BONE))
        for plane, tissues in planes
    )
    return voxels * float(np.prod(geometry.spacing)) / 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidates:
    indices: NDArray[np.intp]  #: shape (n, 3)
    weights: NDArray[np.float64]  #: sum 1


def _places(anatomy: Anatomy, slices: slice) -> dict[LesionKind, _Candidates]:
    tissues, depth = anatomy.tissues[slices], anatomy.depth[slices]
    bone = tissues >= FIRST_BONE
    spine = tissues == Tissue.SPINE
    inner = bone & (depth > 1)
    weights = np.zeros(256)
    for tissue, weight in _SITES.items():
        weights[tissue] = weight
    joints = joint_share(anatomy.structures[slices], bone) > 0
    facets = _facets(tissues, anatomy.geometry)
    rim = spine & (depth < 5) & _beside_disc(tissues, anatomy.geometry) & ~facets
    first = slices.indices(anatomy.tissues.shape[0])[0]
    marks = {
        LesionKind.SCLEROTIC: inner,
        LesionKind.FACET: facets,
        LesionKind.ENDPLATE: rim,
        LesionKind.JOINT: joints & ~spine,
        LesionKind.FRACTURE: tissues == Tissue.RIB,
        LesionKind.ISLAND: inner,
    }
    made = {}
    for kind, where in marks.items():
        found = np.argwhere(where)
        share = weights[tissues[where]] if kind is LesionKind.SCLEROTIC else np.ones(len(found))
        total = share.sum()
        made[kind] = _Candidates(
            indices=found + np.asarray((first, 0, 0)), weights=share / max(total, 1e-9)
        )
    return made


def joint_share(structures: Codes, bone: NDArray[np.bool_]) -> Floats:
    """Return 1 where two bones lie within two voxels of each other, else 0; float32, same shape."""
    codes = np.where(bone, structures, 0)
    highest = ndimage.maximum_filter(codes, 3)
    lowest = ndimage.minimum_filter(np.where(bone, structures, np.uint8(255)), 3)
    return np.asarray(bone & (highest != lowest) & (lowest < 255), np.float32)


def _beside_disc(tissues: Codes, geometry: hd.VolumeGeometry) -> NDArray[np.bool_]:
    """Where a disc, or another vertebra's end plate, lies within about a centimetre above or below."""
    reach = max(1, round(9 / float(geometry.spacing[0])))
    disc = (tissues == Tissue.DISC) | (tissues == Tissue.CARTILAGE)
    near: NDArray[np.bool_] = ndimage.maximum_filter(disc, (2 * reach + 1, 3, 3))
    return near


def _facets(tissues: Codes, geometry: hd.VolumeGeometry) -> NDArray[np.bool_]:
    """Bone of the spine around where facet joints are: by their cartilage, or the place of the canal in a slice."""
    near, other = np.zeros(tissues.shape, bool), tissues != Tissue.CARTILAGE
    if not other.all():
        near |= ndimage.distance_transform_edt(other, sampling=geometry.spacing) < _AROUND_MM
    row_mm, column_mm = (float(value) for value in geometry.spacing[1:])
    rows, columns = np.ogrid[: tissues.shape[1], : tissues.shape[2]]
    for index, plane in enumerate(tissues):
        canal = np.argwhere(plane == Tissue.CANAL)
        if not len(canal):
            continue
        row, column = canal.mean(axis=0)
        for side in (-1, 1):
            across = (columns - column) * column_mm - side * _FACET_MM[0]
            near[index] |= np.hypot(across, (rows - row) * row_mm - _FACET_MM[1]) < _AROUND_MM
    found: NDArray[np.bool_] = near & (tissues == Tissue.SPINE)
    return found


def _draw_one(
    kind: LesionKind,
    ranges: tuple[tuple[float, float], tuple[float, float]],
    anatomy: Anatomy,
    at: _Candidates,
    rng: np.random.Generator,
) -> BoneLesion:
    index = at.indices[rng.choice(len(at.indices), p=at.weights)] + rng.uniform(-0.5, 0.5, 3)
    x, y, z = anatomy.geometry.map_indices_to_reference(index[None])[0]
    radius, flatness = _draw_size(kind, rng)
    radii = radius * np.exp(rng.normal(0, 0.2, 3))
    radii[2] *= flatness
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    if flatness < 1:
        turn = np.eye(3)
    (low, high), density = ranges
    return BoneLesion(
        kind=kind,
        centre=(float(x), float(y), float(z)),
        axes=(turn / radii[:, None]).astype(np.float32),
        radius_mm=float(np.cbrt(radii.prod())),
        uptake=float(np.exp(rng.uniform(np.log(low), np.log(high)))),
        density=float(rng.uniform(*density)),
        exophytic=kind is LesionKind.FACET or (kind is LesionKind.ENDPLATE and rng.random() < 0.7),
        texture=fields.draw_field(rng, max(4.0, radius / 1.5), 12),
    )


def _draw_size(kind: LesionKind, rng: np.random.Generator) -> tuple[float, float]:
    """Mean radius in mm, and the height as a share of the width."""
    match kind:
        case LesionKind.FACET:
            return float(rng.uniform(5.5, 10)), 1.0
        case LesionKind.ENDPLATE:
            return float(rng.uniform(7, 14)), float(rng.uniform(0.4, 0.7))
        case LesionKind.JOINT:
            return float(rng.uniform(7, 14)), 1.0
        case LesionKind.FRACTURE:
            return float(rng.uniform(6, 10)), 1.0
        case LesionKind.ISLAND:
            return float(rng.uniform(3.5, 6)), 1.0
    return float(np.exp(rng.uniform(np.log(5.5), np.log(19)))), 1.0
