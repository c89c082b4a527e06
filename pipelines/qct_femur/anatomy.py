"""The femoral head as a ball, and what of a femur counts as proximal.

Proximal is what lies within `REACH` diameters of the head from the head's centre. The cut across the shaft is so a
piece of a sphere of about 10 cm, nearly flat; it needs no axis of a shaft that the images may not show, and is the
same however the patient lies. The truth of phantoms and what the network finds are cut by this one rule.
"""

from dataclasses import dataclass, replace

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipelines.qct_femur.grids import crop

Points = NDArray[np.float64]

#: Diameters of the head from its centre: ends below the lesser trochanter.
REACH = 2.0
#: Radii of femoral heads, from a child of school age to a giant, mm.
SMALLEST_MM, LARGEST_MM = 14.0, 34.0
#: A head lies in the upper end of what is seen of its femur.
_TOP_MM = 75.0
#: Of the directions in which a bone is seen to end, this share at least must end where the ball does: no head is a
#: perfect ball.
_LEAST_SUPPORT = 0.38
#: The same of those that point up: nothing of a femur lies on top of its head, but a shaft goes on.
_LEAST_ON_TOP = 0.15
#: A small ball must fit better: support times radius, mm. Of 48 femora of phantoms heads have 8.6 and more (one 7.6),
#: trochanters 7.5 at most, what the images cut off of one 7.9.
_LEAST_SCORE = 8.3
#: Of all directions, those in which it ends in view.
_LEAST_SEEN = 0.5
_DIRECTIONS = 600
_CANDIDATES = 6
_ROUNDS = 4
#: No head is a perfect ball: once it is found, all directions count in which it ends within this share of the radius.
#: 439 femora of the body that training bends so have 2.6 to 3.6 balls of their heads; from the first fit 2.6 to 4.1.
_WIDE = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The ball that fits a femoral head."""

    centre: Points  #: x, y, z, LPS, mm
    radius: float  #: mm
    support: float  #: share of directions in which the bone ends where the ball does

    @property
    def reach(self) -> float:
        """How far from the centre the proximal femur goes, mm."""
        return REACH * 2 * self.radius


def fit_head(femur: hd.Volume) -> Head | None:
    """Find the head of one femur.

    Parameters
    ----------
    femur
        Nonzero in one femur, marrow included, or in what is seen of it; axes (slice, row, column), affine LPS in mm.

    Returns
    -------
    Head or None
        None where no part of it is a ball of a head's size.
    """
    window = ndimage.find_objects((femur.array > 0).astype(np.uint8))
    if not window:
        return None
    filled = ndimage.binary_fill_holes(femur.array[window[0]] > 0)
    part = crop(femur, window[0]).with_array(filled.astype(np.uint8))
    # One voxel of background around it: a distance must not end at the border of the box.
    inside = part.pad(1)
    surface = _continued(part, _on_borders(window[0], femur.spatial_shape))
    best: Head | None = None
    for centre, radius in _candidates(inside.array > 0, inside):
        head = _refine(surface, centre, radius)
        if head is not None and (best is None or _score(head) > _score(best)):
            best = head
    return None if best is None else _widened(surface, best)


def proximal_part(femur: hd.Volume, head: Head) -> hd.Volume:
    """Return the part of a femur within the head's reach; uint8, on the same grid."""
    near = distances(femur, head.centre) <= head.reach
    return femur.with_array(((femur.array > 0) & near).astype(np.uint8))


def cut_proximal(femora: hd.Volume) -> hd.Volume:
    """Return the proximal parts of labelled femora; a femur whose head is not found has none.

    Parameters
    ----------
    femora
        uint8, 1 left and 2 right femur, or what is seen or labelled of it.

    Returns
    -------
    highdicom.Volume
        uint8, 1 left and 2 right, on the same grid.
    """
    labels = np.zeros(femora.spatial_shape, np.uint8)
    for number in (1, 2):
        femur = femora.with_array((femora.array == number).astype(np.uint8))
        head = fit_head(femur)
        if head is not None:
            labels[proximal_part(femur, head).array > 0] = number
    return femora.with_array(labels)


def distances(volume: hd.Volume, point: Points) -> NDArray[np.float32]:
    """Return the distance of every voxel's centre from a point, mm; shape of the volume."""
    affine = volume.affine
    total: NDArray[np.float32] = np.zeros(volume.spatial_shape, np.float32)
    for axis in range(3):
        i, j, k = (
            (affine[axis, d] * np.arange(n)).astype(np.float32)
            for d, n in enumerate(volume.spatial_shape)
        )
        offset = np.float32(affine[axis, 3] - point[axis])
        total += (i[:, None, None] + j[None, :, None] + k[None, None, :] + offset) ** 2
    return np.sqrt(total)


def _score(head: Head) -> float:
    # The trochanters hold balls too, smaller and more buried.
    return head.support * head.radius


def _candidates(mask: NDArray[np.bool_], volume: hd.Volume) -> list[tuple[Points, float]]:
    """Return the largest balls inside of the upper end of a mask, none in another."""
    depth = ndimage.distance_transform_edt(mask, sampling=volume.spacing)
    heights = _heights(volume)
    depth[(heights < heights[mask].max() - _TOP_MM) | ~mask] = 0
    found: list[tuple[Points, float]] = []
    for _ in range(_CANDIDATES):
        place = np.unravel_index(int(depth.argmax()), depth.shape)
        radius = float(depth[place])
        if radius < 0.5 * SMALLEST_MM:
            break
        centre = np.asarray(volume.map_indices_to_reference(np.array([place]))[0])
        found.append((centre, radius))
        depth[distances(volume, centre) < radius] = 0
    return found


def _heights(volume: hd.Volume) -> NDArray[np.float32]:
    """z of every voxel, mm."""
    i, j, k = (
        (volume.affine[2, d] * np.arange(n)).astype(np.float32)
        for d, n in enumerate(volume.spatial_shape)
    )
    return np.asarray(i[:, None, None] + j[None, :, None] + k[None, None, :])


def _on_borders(window: tuple[slice, ...], shape: tuple[int, ...]) -> tuple[tuple[bool, bool], ...]:
    """Whether a box begins and ends where the images do, for each axis."""
    return tuple(
        (part.start == 0, part.stop == length) for part, length in zip(window, shape, strict=True)
    )


def _continued(part: hd.Volume, cut: tuple[tuple[bool, bool], ...]) -> hd.Volume:
    """Return float32: 1 in the bone; where the images end, it goes on, so that it has no surface there."""
    more = [int(np.ceil((1.8 * LARGEST_MM + 6) / spacing)) for spacing in part.spacing]
    on = [(n * first, n * last) for n, (first, last) in zip(more, cut, strict=True)]
    off = [(int(not first), int(not last)) for first, last in cut]
    array = np.pad(np.pad(part.array.astype(np.float32), on, mode="edge"), off)
    affine = np.array(part.affine)
    before = [a[0] + b[0] for a, b in zip(on, off, strict=True)]
    affine[:3, 3] -= affine[:3, :3] @ np.array(before)
    return hd.Volume(array=array, affine=affine, coordinate_system="PATIENT")


def _refine(surface: hd.Volume, centre: Points, radius: float) -> Head | None:
    """Fit a ball to the surface around a ball inside; None when it is no head."""
    directions = _directions()
    support, near = 0.0, np.zeros(len(directions), bool)
    for round_number in range(_ROUNDS):
        longest = 1.8 * radius + 4
        lengths = _ray_lengths(surface, centre, longest)
        middle = np.median(lengths) if round_number == 0 else radius
        tolerance = max((0.2 if round_number == 0 else 0.07) * radius, 1.5)
        near = np.abs(lengths - middle) < tolerance
        seen = float((lengths < longest - 1).mean())
        if seen < _LEAST_SEEN or near.mean() < 0.2:
            return None
        support = float(near.mean()) / seen
        centre, radius = _ball_through(centre + directions[near] * lengths[near, None])
        if not 0.5 * SMALLEST_MM < radius < LARGEST_MM:
            return None
    on_top = float(near[directions[:, 2] > 0.5].mean())
    if radius < SMALLEST_MM or support < _LEAST_SUPPORT or on_top < _LEAST_ON_TOP:
        return None
    head = Head(centre=centre, radius=radius, support=support)
    return head if _score(head) >= _LEAST_SCORE else None


def _widened(surface: hd.Volume, head: Head) -> Head:
    """Fit the ball again to the whole of a head: what fits best may be one side of it, and too small."""
    directions = _directions()
    centre, radius = head.centre, head.radius
    for _ in range(_ROUNDS):
        lengths = _ray_lengths(surface, centre, 1.8 * radius + 4)
        near = np.abs(lengths - radius) < _WIDE * radius
        centre, radius = _ball_through(centre + directions[near] * lengths[near, None])
        if not SMALLEST_MM <= radius <= LARGEST_MM:
            return head
    return replace(head, centre=centre, radius=radius)


def _ray_lengths(surface: hd.Volume, centre: Points, longest: float) -> Points:
    """Return how far from a centre the bone goes in each direction, mm, at most about `longest`."""
    step = 0.5
    along = np.arange(0, longest, step)
    points = centre + _directions()[:, None, :] * along[None, :, None]
    inverse = surface.inverse_affine
    at = points @ inverse[:3, :3].T + inverse[:3, 3]
    values = ndimage.map_coordinates(
        surface.array, np.moveaxis(at, -1, 0), order=1, output=np.float32
    )
    outside = values < 0.5
    first = np.where(outside.any(axis=1), outside.argmax(axis=1), along.size)
    # Between the last sample inside and the first outside, by their values.
    rows = np.arange(first.size)
    after = values[rows, np.minimum(first, along.size - 1)]
    before = values[rows, np.maximum(first - 1, 0)]
    share = np.clip((before - 0.5) / np.maximum(before - after, 1e-6), 0, 1)
    return np.asarray((first - 1 + share) * step)


def _ball_through(points: Points) -> tuple[Points, float]:
    """Least squares: |p|^2 = 2 c.p + (r^2 - |c|^2), after Pratt (1987) without his constraint."""
    middle = points.mean(axis=0)
    local = points - middle
    system = np.column_stack([2 * local, np.ones(len(local))])
    solution, *_ = np.linalg.lstsq(system, (local**2).sum(axis=1), rcond=None)
    centre = solution[:3]
    return centre + middle, float(np.sqrt(max(0.0, solution[3] + centre @ centre)))


def _directions() -> Points:
    """Unit vectors spread evenly (Fibonacci's sphere), shape (n, 3)."""
    number = np.arange(_DIRECTIONS) + 0.5
    polar = np.arccos(1 - 2 * number / _DIRECTIONS)
    turn = np.pi * (1 + 5**0.5) * number
    return np.column_stack(
        [np.cos(turn) * np.sin(polar), np.sin(turn) * np.sin(polar), np.cos(polar)]
    )
