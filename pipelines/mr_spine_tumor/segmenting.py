"""Vertebrae and tumours of a series, as label maps on its own grid."""

from __future__ import annotations

from functools import partial

import numpy as np
from highdicom import Volume
from numpy.typing import NDArray
from scipy import ndimage

from pipelines.inference import Box, Network, SliceInference, mirrored, put_back, segment_slices
from pipelines.mr_spine_tumor.preprocessing import (
    NOTHING,
    PIXEL_SPACING,
    normalise,
    reference,
    upright,
)
from pipelines.networks.penn2d import STRIDE

#: Classes of the network, and values of the label map of `segment_spine`.
VERTEBRAE, TUMOUR = 1, 2
#: As in the manifest.
SMALLEST_TUMOUR_ML = 0.3

#: Pieces of vertebrae that are smaller are none, but heads of ribs and the like; lumbar ones alone would bear 4 mL.
_SMALLEST_PIECE_ML = 2.0
_TOUCHING = np.ones((3, 3, 3), bool)


def segment_spine(
    network: Network, volume: Volume, smallest_ml: float, *, mirror: bool = True
) -> Volume:
    """Return where vertebrae and tumours are.

    Parameters
    ----------
    network
        `Penn2d`, compiled or as it is.
    volume
        MR values, axes (slice, row, column), affine LPS in mm; slices in any direction and order.
    smallest_ml
        What is smaller is no tumour.
    mirror
        Average with what the mirrored slices say: twice the time.

    Returns
    -------
    highdicom.Volume
        uint8, 1 in vertebrae, 2 in tumours, on the grid of `volume`.
    """
    turned = upright(volume)
    slices, rows, columns = turned.shape
    # Every fourth row and column is enough for a percentile.
    prepare = partial(normalise, bright=reference(turned.array[:, ::4, ::4]))
    how = SliceInference(pixel_spacing=PIXEL_SPACING, stride=STRIDE, padding=NOTHING)
    whole = Box(slices=(0, slices), rows=(0, rows), columns=(0, columns))
    asked = mirrored(network) if mirror else network
    found = segment_slices(asked, turned, prepare, whole, how)
    return put_back(_without_specks(found, smallest_ml), volume)


def number_tumours(labels: Volume) -> tuple[NDArray[np.uint16], int]:
    """Return each tumour's number (from 1, the largest first, 0 elsewhere), and how many there are.

    A tumour is what touches, corners included: slices lie far apart, and what grows obliquely must not fall into
    pieces.
    """
    parts, count = ndimage.label(labels.array == TUMOUR, _TOUCHING)
    sizes = np.bincount(parts.ravel(), minlength=count + 1)[1:]
    table = np.zeros(count + 1, np.uint16)
    table[np.argsort(-sizes, kind="stable") + 1] = np.arange(1, count + 1)
    return table[parts], count


def _without_specks(labels: Volume, smallest_ml: float) -> Volume:
    """Turn tumours that are too small into what is around them, and drop small pieces of vertebrae."""
    array = labels.array.copy()
    millilitre = labels.voxel_volume / 1000
    parts, count = _small_parts(array == TUMOUR, smallest_ml / millilitre)
    for number, window in enumerate(ndimage.find_objects(parts, max_label=count), start=1):
        if window is None:
            continue
        around = tuple(slice(max(0, part.start - 1), part.stop + 1) for part in window)
        inside = parts[around] == number
        shell = array[around][ndimage.binary_dilation(inside, _TOUCHING) & ~inside]
        array[around][inside] = VERTEBRAE if 2 * np.count_nonzero(shell) > shell.size else 0
    # A tumour may be all that holds a vertebra together.
    pieces, _ = _small_parts(array > 0, _SMALLEST_PIECE_ML / millilitre)
    array[(pieces > 0) & (array == VERTEBRAE)] = 0
    return labels.with_array(array)


def _small_parts(mask: NDArray[np.bool_], fewest: float) -> tuple[NDArray[np.signedinteger], int]:
    """Return the numbers of the parts of fewer voxels, 0 elsewhere, and the highest number there may be."""
    parts, count = ndimage.label(mask, _TOUCHING)
    parts[(np.bincount(parts.ravel(), minlength=count + 1) >= fewest)[parts]] = 0
    return parts, count
