"""From a CT of the trunk to its muscles and vertebral levels, on the grid of the series."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipelines.ct_skeleton.stretcher import body_mask
from pipelines.ct_trunk_muscle.anatomy import BODIES, BODY_CLASS, LEVELS, MIRRORED, NUMBERS
from pipelines.ct_trunk_muscle.levels import Level, find_levels
from pipelines.ct_trunk_muscle.networks import Part
from pipelines.ct_trunk_muscle.plan import Plan
from pipelines.errors import Refused
from pipelines.inference import (
    Box,
    Network,
    PatchInference,
    SliceInference,
    mirrored,
    segment_patches,
    segment_slices,
)
from pipelines.inference.grid import bounding_box

Codes = NDArray[np.uint8]

#: Slices to the feet, rows to the back, columns to the left.
UPRIGHT = "FPL"
#: Of the image around what is measured, for the networks to see, mm.
_CONTEXT_MM = 30.0
#: A slice further than this from a level that is the first or last to be seen belongs to none, mm.
_BEYOND_MM = 25.0
#: The ends of levels are as sharp as the coarse grid, mm.
_BLUR_MM = 6.0
#: Parts of a muscle smaller than this share of its largest are not of it.
_SMALLEST_PART = 0.1
#: Fewer levels than this are no trunk.
_FEWEST_LEVELS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Networks:
    """What segmentation needs; `levels` finds where, the network of `part` says what."""

    muscles: Network
    part: Part
    levels: Network
    plan: Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Trunk:
    """What was found, upright: slices to the feet, rows to the back, columns to the left.

    Attributes
    ----------
    image
        HU, axes (slice, row, column).
    labels
        uint8 segment numbers, on the same grid.
    levels
        From the head down; millimetres from the upper edge of the first slice.
    """

    image: hd.Volume
    labels: hd.Volume
    levels: tuple[Level, ...]

    def slice_of(self, level: Level) -> int:
        """Return the index of the slice through the middle of a level's body."""
        index = int(level.middle / float(self.image.spacing[0]))
        return min(index, self.image.spatial_shape[0] - 1)


def segment_trunk(networks: Networks, volume: hd.Volume, *, mirror: bool = True) -> Trunk:
    """Segment muscles and vertebral bodies from T4 to L4.

    Parameters
    ----------
    networks
        Compiled or modules in eval mode.
    volume
        HU, axial, axes (slice, row, column) in any direction.
    mirror
        Average muscles with what the mirrored image says, as nnU-Net does: twice the time.

    Raises
    ------
    Refused
        `no-trunk`.
    """
    image = volume.to_patient_orientation(UPRIGHT)
    across = bounding_box(body_mask(image), (0.0, 12.0, 12.0))
    if across is None:
        raise Refused("There is no body in the series.", code="no-trunk")
    box = Box(slices=(0, image.shape[0]), rows=across.rows, columns=across.columns)
    part: hd.Volume = image[box.index]  # type: ignore[index]  # highdicom's annotation knows no triple
    levels = find_levels(networks.levels, part, networks.plan)
    if len(levels) < _FEWEST_LEVELS:
        raise Refused(
            "No trunk was found: of the vertebral levels T4 to L4 "
            + (f"only {levels[0].name} is seen." if levels else "none is seen."),
            code="no-trunk",
        )
    first, last = _measured_slices(levels, image)
    context = int(np.ceil(_CONTEXT_MM / float(image.spacing[0])))
    around = (max(0, first - context), min(image.shape[0], last + context))
    asked = mirrored(networks.muscles, MIRRORED) if mirror else networks.muscles
    seen = Box(slices=around, rows=box.rows, columns=box.columns)
    classes = _classes(replace(networks, muscles=asked), image, seen)
    labels = np.zeros(image.spatial_shape, np.uint8)
    labels[first:last] = classes.array[first:last]
    labels = _numbered(_largest_parts(labels), levels, float(image.spacing[0]))
    return Trunk(image=image, labels=image.with_array(labels), levels=levels)


def _classes(networks: Networks, image: hd.Volume, box: Box) -> hd.Volume:
    plan = networks.plan
    intensities = plan.fingerprint.intensities

    def prepare(hounsfield: NDArray[Any]) -> NDArray[np.float32]:
        return intensities.normalise(hounsfield.astype(np.float32))

    if networks.part is Part.SLICES:
        how = SliceInference(
            pixel_spacing=plan.slices.spacing[0],
            stride=plan.slices.multiples[0],
            padding=intensities.air,
        )
        return segment_slices(networks.muscles, image, prepare, box, how)
    z, y, x = plan.volume.spacing
    slices, rows, columns = plan.volume.patch
    patches = PatchInference(
        spacing=(z, y, x), patch=(slices, rows, columns), padding=intensities.air
    )
    return segment_patches(networks.muscles, image, prepare, box, patches)


def _measured_slices(levels: tuple[Level, ...], image: hd.Volume) -> tuple[int, int]:
    """Return first and last slice (excluded) of T4 to L4, or to the end of the image if that comes before."""
    spacing = float(image.spacing[0])
    length = image.shape[0] * spacing
    top, bottom = max(0.0, levels[0].top - _BLUR_MM), levels[-1].bottom + _BLUR_MM
    if levels[0].name != LEVELS[0] and top < _BEYOND_MM:
        top = 0.0
    if levels[-1].name != LEVELS[-1] and length - bottom < _BEYOND_MM:
        bottom = length
    return int(top / spacing), min(image.shape[0], int(np.ceil(bottom / spacing)))


def _largest_parts(classes: Codes) -> Codes:
    """Remove what lies apart from a muscle and is small."""
    made = classes.copy()
    for number, window in enumerate(ndimage.find_objects(classes), start=1):
        if window is None or number == BODY_CLASS:
            continue
        parts, count = ndimage.label(classes[window] == number)
        if count > 1:
            sizes = np.bincount(parts.ravel())
            sizes[0] = 0
            small = np.flatnonzero(sizes < _SMALLEST_PART * sizes.max())
            made[window][np.isin(parts, small[small > 0])] = 0
    return made


def _numbered(classes: Codes, levels: tuple[Level, ...], spacing: float) -> Codes:
    """Give vertebral bodies the number of their level: the discs between two are shared out."""
    made = np.where(classes <= len(NUMBERS), classes, np.uint8(0))
    heights = (np.arange(len(classes)) + 0.5) * spacing
    between = [(one.bottom + two.top) / 2 for one, two in pairwise(levels)]
    limits = [levels[0].top - _BLUR_MM, *between, levels[-1].bottom + _BLUR_MM]
    for level, (top, bottom) in zip(levels, pairwise(limits), strict=True):
        inside = np.flatnonzero((heights >= top) & (heights < bottom))
        made[inside] = np.where(
            classes[inside] == BODY_CLASS, np.uint8(BODIES[level.name]), made[inside]
        )
    return made
