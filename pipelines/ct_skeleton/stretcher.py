"""Removal of the stretcher: where on an axial CT the patient is, and where the table."""

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Mask = NDArray[np.bool_]

AIR_HU = -1000
#: Softer than fat, harder than lung, foam and mattress.
SOLID_HU = -200.0
#: The body is looked for on pixels of about this size: a table needs no finer ones.
_COARSE_MM = 2.0
#: Sheets and shells thinner than twice this fall off before hollows are filled ...
_SHEET_MM = 2.5
#: ... and what is still thinner than twice this, afterwards.
_SHELL_MM = 6.0
#: A filled outline is a body if at least this much of it is solid; a hollow table's is not.
_SOLID_SHARE = 0.3
#: Parts smaller than this share of the largest are things, not limbs.
_SMALLEST_PART = 0.02


def body_mask(volume: hd.Volume) -> hd.Volume:
    """Return where the patient is, without the table.

    Table tops, mattress covers, rails, cables and blankets are thin or hollow; a body is thick, or
    encloses lungs with a wall that makes up much of its area.

    Parameters
    ----------
    volume
        HU, axes (slice, row, column), axial.

    Returns
    -------
    highdicom.Volume
        bool, on the same grid, air inside of the body included.
    """
    step = max(1, round(_COARSE_MM / float(min(volume.spacing[1:]))))
    pixel = float(min(volume.spacing[1:])) * step
    solid = volume.array > SOLID_HU
    coarse = np.stack([_body_in_plane(plane[::step, ::step], pixel) for plane in solid])
    coarse = _without_things(coarse)
    mask = np.empty(solid.shape, bool)
    for index, plane in enumerate(solid):
        mask[index] = _refine(coarse[index], plane, step)
    return volume.with_array(mask)


def remove_stretcher(volume: hd.Volume, body: hd.Volume) -> hd.Volume:
    """Set everything outside of the body to air: the first step of the publication.

    Parameters
    ----------
    volume
        HU, axes (slice, row, column).
    body
        bool, from `body_mask`.
    """
    return volume.with_array(np.where(body.array, volume.array, volume.dtype.type(AIR_HU)))


def _body_in_plane(solid: Mask, pixel: float) -> Mask:
    # What touches the image's edge goes on beyond it: an opening must not eat it there.
    pad = 2 + round(_SHELL_MM / pixel)
    padded = np.pad(solid, pad, mode="edge")
    whole = ndimage.binary_opening(padded, _disc(_SHEET_MM / pixel))
    parts, count = ndimage.label(whole)
    for number, window in enumerate(ndimage.find_objects(parts, count), start=1):
        part = parts[window] == number
        filled = ndimage.binary_fill_holes(part)
        if part.sum() >= _SOLID_SHARE * filled.sum():
            whole[window] |= filled
    thick = ndimage.binary_opening(whole, _disc(_SHELL_MM / pixel))
    return np.asarray(thick[pad:-pad, pad:-pad], bool)


def _without_things(mask: Mask) -> Mask:
    parts, count = ndimage.label(mask)
    if count < 2:
        return mask
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    return np.asarray((sizes >= _SMALLEST_PART * sizes.max())[parts])


def _refine(coarse: Mask, solid: Mask, step: int) -> Mask:
    """Return a plane's body on the full grid: the coarse one, its edge as the image has it."""
    grown = ndimage.binary_dilation(coarse, iterations=2)
    core = ndimage.binary_erosion(coarse, border_value=1)
    grown, core = (
        np.repeat(np.repeat(mask, step, 0), step, 1)[: solid.shape[0], : solid.shape[1]]
        for mask in (grown, core)
    )
    return np.asarray(core | (grown & solid))


def _disc(radius: float) -> Mask:
    reach = max(1, round(radius))
    y, x = np.ogrid[-reach : reach + 1, -reach : reach + 1]
    return np.asarray(x * x + y * y <= reach * reach + 0.25)
