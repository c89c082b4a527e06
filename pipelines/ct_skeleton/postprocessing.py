"""What is done to the network's answer. The publication states nothing here; this is ours."""

import numpy as np
from highdicom import Volume
from numpy.typing import NDArray
from scipy import ndimage

from pipelines.inference import bounding_box

#: Smaller parts are calcifications, clips and noise. The tip of a rib is larger.
SMALLEST_ML = 0.1
#: Larger holes may be a spinal canal, which is no bone.
LARGEST_HOLE_MM2 = 50.0
#: What bone encloses on all sides is marrow, unless it is more than the largest heel bone holds, or air: a sinus.
LARGEST_CAVITY_ML, SINUS_HU = 60.0, -200
#: A slice between bone and bone is bone if it is as dense as this; a disc is not.
BRIDGE_HU = 150
#: Between slices further apart there is room for a thoracic disc, which is about 4 mm high.
BRIDGE_MM = 3.0
#: Slices this far apart still show the same bones, mm.
NEIGHBOUR_MM = 6.0
#: A hole is marrow if so much of it is bone in both neighbouring slices; what neither has is bone only if it is dense.
_BONE_SHARE, _DENSE_HU = 0.4, 200
_IN_PLANE = ndimage.generate_binary_structure(3, 1) & np.array([0, 1, 0], bool)[:, None, None]
#: Marrow no thicker than this, mm, that is as soft above and below without being bone there, at so much of its area of
#: at least this size, is none: bone ends with a cortex.
OPEN_MM, OPEN_SHARE, _OPEN_MM2 = 15.0, 0.5, 100.0
#: From here on it is metal where there is more of it than there is enamel in a tooth.
METAL_HU, METAL_ML = 2500, 0.5


def bridge_slices(mask: Volume, volume: Volume) -> Volume:
    """Fill dense voxels that one slice leaves out between bone above and bone below.

    A slice along an end plate shows a bright disc without a rim, which alone looks like a vessel.

    Parameters
    ----------
    mask
        uint8, axes (slice, row, column).
    volume
        HU, on the same grid.

    Returns
    -------
    highdicom.Volume
        uint8, on the same grid.
    """
    if float(mask.spacing[0]) > BRIDGE_MM:
        return mask
    bridged = mask.array.copy()
    for index in range(1, mask.shape[0] - 1):
        between = mask.array[index - 1] & mask.array[index + 1]
        bridged[index] |= between & (volume.array[index] >= BRIDGE_HU)
    return mask.with_array(bridged)


def heed_neighbours(mask: Volume, volume: Volume) -> Volume:
    """Decide by the slices above and below what a ring of bone holds: marrow, a spinal canal, or a disc.

    Parameters
    ----------
    mask
        uint8, axes (slice, row, column), spacing in mm.
    volume
        HU, on the same grid.

    Returns
    -------
    highdicom.Volume
        uint8, on the same grid: holes that are bone in both neighbours are filled; what is not dense, larger than
        `LARGEST_HOLE_MM2`, and bone in neither of them is taken out.
    """
    box = bounding_box(mask, 0)
    if box is None or float(mask.spacing[0]) > NEIGHBOUR_MM:
        return mask
    pixel = float(mask.spacing[1] * mask.spacing[2])
    heeded = mask.array.copy()
    was, made, image = mask.array[box.index], heeded[box.index], volume.array[box.index]
    for index in range(1, len(was) - 1):
        below, plane, above = was[index - 1 : index + 2]
        parts, count = ndimage.label(plane == 0)
        share = ndimage.mean(below & above, parts, np.arange(count + 1))
        marrow = _enclosed(parts) & (share >= _BONE_SHARE)
        alone = (plane > 0) & (below == 0) & (above == 0) & (image[index] < _DENSE_HU)
        # A rim of one or two pixels is how bones taper, and no filled hole.
        pieces, _ = ndimage.label(ndimage.binary_opening(alone, iterations=2))
        large = np.bincount(pieces.ravel()) * pixel >= LARGEST_HOLE_MM2
        large[0] = False
        made[index][ndimage.binary_propagation(large[pieces], mask=alone)] = 0
        made[index][marrow[parts]] = 1
    return mask.with_array(heeded)


def remove_open_marrow(mask: Volume, volume: Volume) -> Volume:
    """Take out what is soft, thin, and has no cortex towards the slices above and below: brain or a canal.

    Parameters
    ----------
    mask
        uint8, axes (slice, row, column), spacing in mm.
    volume
        HU, on the same grid.

    Returns
    -------
    highdicom.Volume
        uint8, on the same grid.
    """
    box = bounding_box(mask, 0)
    if box is None:
        return mask
    closed = mask.array.copy()
    window = closed[box.index]
    soft = (window > 0) & (volume.array[box.index] < _DENSE_HU)
    # Rims of one or two pixels are how bones taper.
    cores = ndimage.binary_opening(soft, _IN_PLANE, iterations=2)
    parts, count = ndimage.label(cores)
    above, below = np.zeros_like(cores), np.zeros_like(cores)
    above[1:], below[:-1] = cores[1:] & (window[:-1] == 0), cores[:-1] & (window[1:] == 0)
    open_above, open_below = (
        np.bincount(parts[side], minlength=count + 1) for side in (above, below)
    )
    spacing, pixel = float(mask.spacing[0]), float(mask.spacing[1] * mask.spacing[2])
    taken = np.zeros(count + 1, bool)
    for part, where in enumerate(ndimage.find_objects(parts), start=1):
        thin = (where[0].stop - where[0].start) * spacing <= OPEN_MM
        # What the first or last slice cuts goes on beyond it.
        if thin and where[0].start > 0 and where[0].stop < len(window):
            area = np.count_nonzero((parts[where] == part).any(axis=0))
            least = min(open_above[part], open_below[part])
            taken[part] = area * pixel >= _OPEN_MM2 and least >= OPEN_SHARE * area
    if taken.any():
        window[ndimage.binary_dilation(taken[parts], _IN_PLANE, iterations=3, mask=soft)] = 0
    return mask.with_array(closed)


def fill_small_holes(mask: Volume) -> Volume:
    """Fill what bone encloses in a slice, if it is smaller than `LARGEST_HOLE_MM2`.

    Parameters
    ----------
    mask
        uint8, axes (slice, row, column), spacing in mm.

    Returns
    -------
    highdicom.Volume
        Of the same type, on the same grid.
    """
    box = bounding_box(mask, 0)
    if box is None:
        return mask
    filled = mask.array.copy()
    largest = LARGEST_HOLE_MM2 / float(mask.spacing[1] * mask.spacing[2])
    for plane in filled[box.index]:
        plane[_small_holes(plane, largest)] = 1
    return mask.with_array(filled)


def fill_cavities(mask: Volume, volume: Volume) -> Volume:
    """Fill what bone encloses on all sides: marrow which the network took for something else.

    Parameters
    ----------
    mask
        uint8, axes (slice, row, column), spacing in mm.
    volume
        HU, on the same grid.

    Returns
    -------
    highdicom.Volume
        uint8, on the same grid.
    """
    box = bounding_box(mask, 0)
    if box is None:
        return mask
    filled = mask.array.copy()
    window = filled[box.index]
    parts, count = ndimage.label(window == 0)
    if count == 0:
        return mask
    inside = parts > 0
    sizes = np.bincount(parts[inside], minlength=count + 1) * mask.voxel_volume / 1000
    dense = ndimage.mean(volume.array[box.index], parts, np.arange(count + 1)) > SINUS_HU
    marrow = (sizes <= LARGEST_CAVITY_ML) & dense & _enclosed(parts)
    window[marrow[parts]] = 1
    return mask.with_array(filled)


def remove_metal(mask: Volume, volume: Volume) -> Volume:
    """Take implants out: metal is no bone, and after clipping the network cannot tell it from a dense cortex.

    Parameters
    ----------
    mask
        uint8, axes (slice, row, column), spacing in mm.
    volume
        HU, on the same grid.

    Returns
    -------
    highdicom.Volume
        uint8, on the same grid.
    """
    metal = mask.with_array((volume.array >= METAL_HU).astype(np.uint8))
    box = bounding_box(metal, 0)
    if box is None:
        return mask
    parts, _ = ndimage.label(metal.array[box.index])
    large = np.bincount(parts.ravel()) * mask.voxel_volume >= METAL_ML * 1000
    large[0] = False
    kept = mask.array.copy()
    kept[box.index][large[parts]] = 0
    return mask.with_array(kept)


def remove_specks(mask: Volume) -> Volume:
    """Remove connected parts (26 neighbours) of less than `SMALLEST_ML`.

    Parameters
    ----------
    mask
        uint8 or bool, axes (slice, row, column), spacing in mm.

    Returns
    -------
    highdicom.Volume
        Of the same type, on the same grid.
    """
    box = bounding_box(mask, 0)
    if box is None:
        return mask
    kept = mask.array.copy()
    window = kept[box.index]
    parts, _ = ndimage.label(window, structure=np.ones((3, 3, 3)))
    # Bone is a few percent of the window: what follows is done there only.
    inside = window > 0
    numbers = parts[inside]
    smallest = SMALLEST_ML * 1000 / mask.voxel_volume
    window[inside] = (np.bincount(numbers) >= smallest)[numbers]
    return mask.with_array(kept)


def _small_holes(plane: NDArray[np.uint8], largest: float) -> NDArray[np.bool_]:
    """Return the holes of a plane of at most `largest` pixels."""
    parts, _ = ndimage.label(plane == 0)
    small = (np.bincount(parts.ravel()) <= largest) & _enclosed(parts)
    return np.asarray(small[parts])


def _enclosed(parts: NDArray[np.signedinteger]) -> NDArray[np.bool_]:
    """Say of each numbered part, 0 is none, whether it reaches no side of the array."""
    enclosed = np.ones(int(parts.max(initial=0)) + 1, bool)
    for axis in range(parts.ndim):
        for end in (0, -1):
            enclosed[np.unique(parts.take(end, axis=axis))] = False
    enclosed[0] = False
    return enclosed
