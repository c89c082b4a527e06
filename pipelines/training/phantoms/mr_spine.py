"""A spine in a body, cut in any direction: what MR needs to know of a place beside its tissue."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Protocol

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipelines.training.phantoms import fields
from pipelines.training.phantoms.anatomical import AtlasBody
from pipelines.training.phantoms.atlas import Atlas
from pipelines.training.phantoms.discs import DiscMap
from pipelines.training.phantoms.patient import Patient
from pipelines.training.phantoms.tissues import Cut

Floats = NDArray[np.float32]
Point = tuple[float, float, float]

#: Half width and half depth of a canal, mm (ours).
CANAL_MM = (11.0, 8.5)
_VERTEBRA = re.compile(r"[CTL]\d+")
_SMALLEST_MM2, _LARGEST_MM2 = 60.0, 900.0
#: A canal's neighbouring planes: a vertebra's height up and down, so that most of them close a ring of bone.
_NEIGHBOURS_MM = 30.0
_DISC_MM = 7.0
_MIDLINE_MM, _LEAST_DEPTH_MM = 6.0, 6.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Vertebra:
    """One vertebra in the frame of the spine, mm."""

    name: str
    code: int  #: of its structure
    centre: Point  #: of the body
    up: Point  #: unit vector along the spine, to the head
    half_height: float  #: of the body
    half_depth: float  #: of the body, front to back


@dataclass(frozen=True, slots=True, kw_only=True)
class Canal:
    """The spinal canal: a curved tube along z."""

    heights: NDArray[np.float64]  #: increasing, mm
    middles: NDArray[np.float64]  #: x and y at each height, shape (n, 2), mm
    conus: float  #: height at which the cord ends, mm

    def around(self, at: Floats) -> tuple[Floats, Floats]:
        """Return the distance from the axis as a share of the canal, and mm behind the axis; shape (rows, columns)."""
        x, y, z = at[..., 0], at[..., 1], at[..., 2]
        across = x - np.interp(z, self.heights, self.middles[:, 0])
        behind = y - np.interp(z, self.heights, self.middles[:, 1])
        norm = np.hypot(across / CANAL_MM[0], behind / CANAL_MM[1])
        return norm.astype(np.float32), behind.astype(np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpinePlane:
    """One plane of any direction through a body."""

    cut: Cut
    at: Floats  #: places in the frame of the spine, shape (rows, columns, 3), mm


class Spine(Protocol):
    """A posed body with a spine. Knows nothing of how it is imaged."""

    @property
    def patient(self) -> Patient:
        """Who it is."""

    @property
    def vertebrae(self) -> tuple[Vertebra, ...]:
        """From above."""

    @property
    def canal(self) -> Canal:
        """Where the canal runs."""

    def plane(self, geometry: hd.VolumeGeometry, index: float) -> SpinePlane:
        """Return the plane at a (fractional) slice index of a grid of any direction."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AtlasSpine:
    """The spine of a posed atlas; a `Spine` in the frame of the atlas."""

    body: AtlasBody
    vertebrae: tuple[Vertebra, ...]
    canal: Canal

    @property
    def patient(self) -> Patient:
        """Who it is."""
        return self.body.patient

    def plane(self, geometry: hd.VolumeGeometry, index: float) -> SpinePlane:
        """Return the plane at a (fractional) slice index of a grid of any direction."""
        points = fields.coarse_points(geometry, index)
        rows, columns = geometry.spatial_shape[1:]
        return SpinePlane(
            cut=self.body.cut(geometry, index),
            at=fields.upsample(self.body.in_atlas(points), rows, columns),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SpineAtlas:
    """An atlas and what of its spine was measured once."""

    atlas: Atlas
    vertebrae: tuple[Vertebra, ...]
    canal: Canal
    discs: DiscMap

    def pose(self, body: AtlasBody) -> AtlasSpine:
        """Return the spine of a body made of this atlas."""
        return AtlasSpine(body=body, vertebrae=self.vertebrae, canal=self.canal)


def measure_spine(atlas: Atlas) -> SpineAtlas:
    """Find vertebrae and canal of an atlas that names its vertebrae.

    Raises
    ------
    ValueError
        When it names less than three.
    """
    codes = {name: code for code, name in atlas.names.items() if _VERTEBRA.fullmatch(name)}
    middles = {name: atlas.centres[name] for name in codes if name in atlas.centres}
    if len(middles) < 3:
        raise ValueError(f"{atlas.name} names no vertebrae")
    canal = _find_canal(atlas, middles)
    vertebrae = _vertebrae(atlas, middles, codes, canal)
    discs = DiscMap(
        middles=[one.centre for one in vertebrae],
        ups=[one.up for one in vertebrae],
        shares=[_disc_share(atlas, *pair) for pair in pairwise(vertebrae)],
    )
    return SpineAtlas(atlas=atlas, vertebrae=vertebrae, canal=canal, discs=discs)


def _vertebrae(
    atlas: Atlas, middles: Mapping[str, Point], codes: Mapping[str, int], canal: Canal
) -> tuple[Vertebra, ...]:
    order = sorted(middles, key=lambda name: -middles[name][2])
    bodies = [_body(atlas, codes[name], middles[name][2], canal) for name in order]
    places = np.asarray([centre for centre, _ in bodies])
    found = []
    for number, (name, (centre, half_depth)) in enumerate(zip(order, bodies, strict=True)):
        upper, lower = places[max(0, number - 1)], places[min(len(order) - 1, number + 1)]
        up = (upper - lower) / np.linalg.norm(upper - lower)
        between = np.linalg.norm(upper - lower) / (2 if 0 < number < len(order) - 1 else 1)
        found.append(
            Vertebra(
                name=name,
                code=codes[name],
                centre=centre,
                up=(float(up[0]), float(up[1]), float(up[2])),
                half_height=max(5.0, float(between - _DISC_MM) / 2),
                half_depth=half_depth,
            )
        )
    return tuple(found)


def _body(atlas: Atlas, code: int, height: float, canal: Canal) -> tuple[Point, float]:
    """Return the middle of a vertebral body and half its depth: what lies straight in front of the canal."""
    x, y = (float(np.interp(height, canal.heights, part)) for part in canal.middles.T)
    back = y - CANAL_MM[1]
    middle = atlas.bone.map_reference_to_indices(np.asarray([[x, y, height]]))[0, 0]
    reach = _MIDLINE_MM / float(atlas.bone.spacing[0])
    slab = slice(max(0, round(middle - reach)), round(middle + reach) + 1)
    index = np.argwhere((atlas.bone.array[slab] == code) & (atlas.depth.array[slab] > 0))
    points = atlas.bone.map_indices_to_reference(index + np.asarray([slab.start, 0, 0]))
    near = (np.abs(points[:, 0] - x) < _MIDLINE_MM) & (points[:, 1] < back)
    front = points[near, 1]
    depth = back - float(np.quantile(front, 0.02)) if front.size else 2 * _LEAST_DEPTH_MM
    half = float(np.clip(depth / 2, _LEAST_DEPTH_MM, 22))
    return (x, back - half, height), half


def _disc_share(atlas: Atlas, upper: Vertebra, lower: Vertebra) -> float:
    """Return which share of the way from the middle of a vertebral body to the next is neither; 0 where one is missing.

    The median of some parallel lines.
    """
    ends = np.asarray([upper.centre, lower.centre])
    way = ends[0] + np.linspace(0, 1, 101)[:, None] * (ends[1] - ends[0])
    found = []
    for x, y in product((-8.0, 0.0, 8.0), (-6.0, -3.0, 0.0, 3.0, 6.0)):
        index = np.rint(atlas.bone.map_reference_to_indices(np.add(way, (x, y, 0)))).astype(int)
        at = tuple(np.clip(index, 0, np.asarray(atlas.bone.shape) - 1).T)
        bone = np.where(atlas.depth.array[at] > 0, atlas.bone.array[at], 0)
        above, below = (np.flatnonzero(bone == one.code) for one in (upper, lower))
        if above.size and below.size:
            found.append((below[0] - above[-1]) / 100)
    return max(0.0, float(np.median(found))) if found else 0.0


def _find_canal(atlas: Atlas, middles: Mapping[str, Point]) -> Canal:
    """Follow the hole in the vertebrae, plane by plane, and smooth its axis."""
    codes = [code for code, name in atlas.names.items() if _VERTEBRA.fullmatch(name)]
    named = [code for code, name in atlas.names.items() if name == "spinal_canal"]
    pixel = float(atlas.soft.spacing[1]) ** 2
    found = []
    for index in range(atlas.bone.shape[0]):
        place = _hole(atlas, index, codes, named, pixel)
        if place is not None:
            found.append(atlas.bone.map_indices_to_reference(np.asarray([[index, *place]]))[0])
    line = np.asarray(sorted(found, key=lambda point: point[2]))
    if len(line) < 3:
        raise ValueError(f"{atlas.name} has no spinal canal")
    line = _without_strays(line)
    heights = np.arange(line[0, 2], line[-1, 2], 3.0)
    axis = [np.interp(heights, line[:, 2], line[:, part]) for part in (0, 1)]
    smooth = np.stack([ndimage.gaussian_filter1d(part, 4.0, mode="nearest") for part in axis], 1)
    conus = middles["L1"][2] - 12.0 if "L1" in middles else -np.inf
    return Canal(heights=heights, middles=smooth, conus=float(conus))


def _without_strays(line: NDArray[np.float64]) -> NDArray[np.float64]:
    """Leave out what is far from its neighbours' median: a disc inside the rims of two vertebrae is a hole, too."""
    height, depth = line[:, 2], line[:, 1]
    usual = [np.median(depth[np.abs(height - one) < _NEIGHBOURS_MM]) for one in height]
    return np.asarray(line[np.abs(depth - usual) < CANAL_MM[1]])


def _hole(
    atlas: Atlas, index: int, codes: list[int], named: list[int], pixel: float
) -> tuple[float, float] | None:
    """Return row and column of the canal in an axial plane; None where no ring of bone closes."""
    if named:
        inside = atlas.soft.array[index] == named[0]
        if np.count_nonzero(inside) * pixel > _SMALLEST_MM2:
            row, column = ndimage.center_of_mass(inside)
            return float(row), float(column)
    bone = np.isin(atlas.bone.array[index], codes) & (atlas.depth.array[index] > -10)
    if not bone.any():
        return None
    parts, count = ndimage.label(ndimage.binary_fill_holes(bone) & ~bone)
    sizes = np.bincount(parts.ravel(), minlength=count + 1)[1:] * pixel
    fitting = [n for n, size in enumerate(sizes, 1) if _SMALLEST_MM2 < size < _LARGEST_MM2]
    if not fitting:
        return None
    largest = max(fitting, key=lambda n: sizes[n - 1])
    row, column = ndimage.center_of_mass(parts == largest)
    return float(row), float(column)
