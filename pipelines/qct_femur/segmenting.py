"""From a CT of any region to the proximal femora in it: coarsely everywhere, then finely around each.

One network does both, at 4 mm over the whole series and at 1.5 mm in a crop around each femur. All grids run along the
patient's axes, so the order and direction of slices, rows and columns do not matter; a right femur's crop runs to
the right, so that the network sees left ones only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import highdicom as hd
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from pipelines.inference import Network, engine_of
from pipelines.networks.vnet3d import stride_of
from pipelines.qct_femur.anatomy import Head, distances, fit_head
from pipelines.qct_femur.grids import AIR_HU, covering_grid, crop, patient_grid, resample, window_of

#: mm of the network's two grids.
COARSE_MM, FINE_MM = 4.0, 1.5
#: Slices, rows, columns of a fine crop: 192 x 144 x 144 mm.
CROP = (128, 96, 96)
#: From the head's centre to the middle of a left crop: to the left, to the back, to the head, mm.
CROP_OFFSET = (26.0, 6.0, -50.0)
LOWEST_HU, HIGHEST_HU = -200.0, 1200.0

#: Smaller parts of the coarse answer are no femur, mL; what is cut to less could not be measured either.
_SMALLEST_ML = 12.0
#: Coarse slices computed at once, and how many of them only give context to the next.
_SLAB, _OVERLAP = 96, 16
_STRIDE = stride_of()
#: Logit from which a voxel of a fine crop is of the femur, a probability of 0.38. From 0 on, sensitivity is below the
#: publication's; chosen on phantom studies that no figure of the model card is of.
_LEAST_LOGIT = -0.5
#: From a fine crop to the second one, whose answer is averaged with the first's: half a voxel along each axis, mm.
_HALF_VOXEL = np.full(3, FINE_MM / 2)
#: A head found this far from where the crop was laid asks for another crop, mm; so does an upper end without a head:
#: the crop may have been laid too low. There are so many crops at most.
_MISPLACED_MM, _LOOKS = 10.0, 6
#: Two femora lie at least this far apart sideways, and at most this far in height, mm.
_APART_MM, _LEVEL_MM = 70.0, 150.0
#: A head lies in this upper part of what is seen of its femur, mm.
_UPPER_MM = 60.0
#: From the head to the middle of its femur, sideways, mm: less does not tell the side.
_LATERAL_MM = 5.0


class Side(IntEnum):
    """Side of the patient; the value is the direction of x in LPS."""

    LEFT = 1
    RIGHT = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a femur was found coarsely; `head` is None where its head was not seen in this pass."""

    side: Side
    middle: NDArray[np.float64]  #: x, y, z of the head, or about where it would be; LPS, mm
    head: Head | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Femur:
    """One proximal femur, on the source's grid."""

    side: Side
    head: Head
    mask: hd.Volume  #: bool, proximal part


def normalise(image: NDArray[Any]) -> NDArray[np.float32]:
    """Map Hounsfield units to -1 (air, fat) ... 1 (dense cortex), clipped."""
    clipped = np.clip(image.astype(np.float32), LOWEST_HU, HIGHEST_HU)
    return np.asarray(2 * (clipped - LOWEST_HU) / (HIGHEST_HU - LOWEST_HU) - 1, np.float32)


def locate(network: Network, volume: hd.Volume) -> tuple[Place, ...]:
    """Find the femora in a series: none, one, or left and right.

    Parameters
    ----------
    network
        `VNet3d`, compiled or in eval mode.
    volume
        HU, axes (slice, row, column) in any orientation.
    """
    coarse = resample(volume, covering_grid(volume, COARSE_MM))
    found = _logits(network, coarse.array) > 0
    parts, count = ndimage.label(found, structure=np.ones((3, 3, 3)))
    smallest = _SMALLEST_ML * 1000 / COARSE_MM**3
    pieces = []
    for number in range(1, count + 1):
        part = parts == number
        if part.sum() >= smallest:
            pieces.append(_piece(coarse.with_array(part)))
    return _by_side(_pair(pieces), volume)


def segment_femur(network: Network, volume: hd.Volume, place: Place) -> Femur | None:
    """Segment the proximal femur at a place, on the grid of the series; None if its head is not to be seen.

    Parameters
    ----------
    network
        `VNet3d`, compiled or in eval mode.
    volume
        HU, axes (slice, row, column) in any orientation.
    place
        From `locate`.
    """
    at = place.middle
    for _ in range(_LOOKS):
        look = _look(network, volume, at, place.side)
        if look is None:
            return None
        head, logits = fit_head(look.femur), look.logits
        better = _upper_end(look.femur) if head is None else head.centre
        if float(np.linalg.norm(better - at)) < _MISPLACED_MM:
            break
        at = better
    if head is None:
        return None
    again = _look(network, volume, at + _HALF_VOXEL, place.side)
    answers = [logits] if again is None else [logits, again.logits]
    return Femur(side=place.side, head=head, mask=_on_source(answers, volume, head))


def crop_grid(head: NDArray[np.float64], side: Side) -> hd.VolumeGeometry:
    """Return the fine grid around a femoral head (x, y, z, LPS, mm)."""
    right, back, up = CROP_OFFSET
    return patient_grid(head + np.array([side * right, back, up]), CROP, FINE_MM, side=side)


def middle_of(mask: hd.Volume) -> NDArray[np.float64]:
    """Return the mean x, y, z of a mask's voxels, LPS, mm."""
    place = np.argwhere(mask.array).mean(axis=0)
    return np.asarray(mask.affine[:3, :3] @ place + mask.affine[:3, 3])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Piece:
    """A connected part of the coarse answer."""

    mask: hd.Volume  #: bool
    head: Head | None
    middle: NDArray[np.float64]  #: x, y, z of the head, or of the upper end; LPS, mm

    @property
    def rank(self) -> tuple[bool, int]:
        """Those with a head first, then the largest."""
        return self.head is None, -int(self.mask.array.sum())


def _piece(mask: hd.Volume) -> _Piece:
    head = fit_head(mask)
    return _Piece(mask=mask, head=head, middle=_upper_end(mask) if head is None else head.centre)


def _upper_end(mask: hd.Volume) -> NDArray[np.float64]:
    """Return about where a head would be: the middle of the upper 60 mm; slices run to the head."""
    top = int(np.flatnonzero(mask.array.any(axis=(1, 2)))[-1])
    upper = mask.array.copy()
    upper[: max(0, top - round(_UPPER_MM / mask.spacing[0]))] = False
    return middle_of(mask.with_array(upper))


def _pair(pieces: list[_Piece]) -> list[_Piece]:
    """Return the best piece, and the best of those that may be the femur of the other side."""
    ordered = sorted(pieces, key=lambda piece: piece.rank)
    for other in ordered[1:]:
        apart = np.abs(other.middle - ordered[0].middle)
        if apart[0] >= _APART_MM and apart[2] <= _LEVEL_MM:
            return [ordered[0], other]
    return ordered[:1]


def _by_side(found: list[_Piece], volume: hd.Volume) -> tuple[Place, ...]:
    """Left and right of what was found: of two by their order, of one by where its head points."""
    if len(found) == 2:
        found = sorted(found, key=lambda piece: -float(piece.middle[0]))
        sides = [Side.LEFT, Side.RIGHT]
    else:
        sides = [_side_of(piece, volume) for piece in found]
    return tuple(
        Place(side=side, middle=piece.middle, head=piece.head)
        for piece, side in zip(found, sides, strict=True)
    )


def _side_of(piece: _Piece, volume: hd.Volume) -> Side:
    if piece.head is not None:
        near = piece.mask.array & (distances(piece.mask, piece.head.centre) < piece.head.reach)
        lateral = float(middle_of(piece.mask.with_array(near))[0] - piece.head.centre[0])
        # The head points to the middle of the body.
        if abs(lateral) >= _LATERAL_MM:
            return Side.LEFT if lateral > 0 else Side.RIGHT
    return Side.LEFT if piece.middle[0] > float(volume.center_position[0]) else Side.RIGHT


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    """What one fine crop shows."""

    femur: hd.Volume  #: bool
    logits: hd.Volume  #: positive in the femur alone


def _look(
    network: Network, volume: hd.Volume, head: NDArray[np.float64], side: Side
) -> _Look | None:
    """Look for the femur whose head is about there; None: there is none."""
    image = resample(volume, crop_grid(head, side))
    logits = image.with_array(_logits(network, image.array) - _LEAST_LOGIT)
    femur = _femur_at(logits, head)
    return None if femur is None else _Look(femur=femur, logits=_only(logits, femur))


def _logits(network: Network, image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Run the network over an image in slabs; HU in, logits out, same shape."""
    engine = engine_of(network)
    padding = [(0, -n % _STRIDE) for n in image.shape]
    prepared = np.pad(normalise(image), padding, constant_values=-1.0)
    answer = np.empty(prepared.shape, np.float32)
    length = prepared.shape[0]
    at_once = length if length <= CROP[0] else _SLAB
    start = 0
    while True:
        stop = min(length, start + at_once)
        slab = torch.from_numpy(prepared[start:stop])[None, None].to(engine.device)
        skip = _OVERLAP if start else 0
        answer[start + skip : stop] = engine(slab)[0, 0, skip:].float().cpu().numpy()
        if stop == length:
            break
        start = stop - 2 * _OVERLAP
    return answer[tuple(slice(0, n) for n in image.shape)]


def _femur_at(logits: hd.Volume, head: NDArray[np.float64]) -> hd.Volume | None:
    """Return the one connected part whose head is about there, its holes filled; None if there is none."""
    parts, count = ndimage.label(logits.array > 0)
    if count == 0:
        return None
    # The part with most voxels near the head: the other femur of a narrow pelvis may reach into the crop.
    near = distances(logits, head) < 40.0
    sizes = np.bincount(parts[near], minlength=count + 1)
    sizes[0] = 0
    if sizes.max() == 0:
        return None
    part = ndimage.binary_fill_holes(parts == int(sizes.argmax()))
    return logits.with_array(np.asarray(part))


def _only(logits: hd.Volume, femur: hd.Volume) -> hd.Volume:
    """Return logits that are positive in the femur alone, and as they were around it."""
    array = logits.array.copy()
    array[(array > 0) & ~femur.array] = -1.0
    array[(array <= 0) & femur.array] = 1.0
    return logits.with_array(array)


def _on_source(answers: Sequence[hd.Volume], volume: hd.Volume, head: Head) -> hd.Volume:
    mask = np.zeros(volume.spatial_shape, bool)
    window = window_of(volume, answers[0].get_geometry())
    if window is not None:
        part = crop(volume, window).get_geometry()
        fine = [resample(logits, part, outside=float(AIR_HU)) for logits in answers]
        found = sum(one.array for one in fine) > 0
        mask[window] = found & (distances(fine[0], head.centre) <= head.reach)
    return volume.with_array(mask)
