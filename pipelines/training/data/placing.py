"""Labels on their image: by place in the patient, never by array order."""

from __future__ import annotations

import numpy as np
from highdicom import Volume
from numpy.typing import NDArray

from pipelines.errors import TrainingError

#: Voxels by which a label's corner may miss the image's grid: headers round.
PLACE_TOLERANCE = 0.25


def place_labels(labels: Volume, image: Volume, name: str) -> Volume:
    """Bring a label map onto its image's grid by flips, transposition and shifts; nothing is resampled.

    Parameters
    ----------
    labels
        Whole numbers, any axes, LPS in mm; may cover a part of the image.
    image
        Whose grid is wanted.
    name
        Of the file, for the error.

    Returns
    -------
    highdicom.Volume
        Of the type of `labels`, on the grid of `image`; 0 where the labels say nothing.

    Raises
    ------
    TrainingError
        `training-label-misplaced`, when they lie on another grid, or reach beyond the image.
    """
    to_image = np.linalg.inv(image.affine) @ labels.affine
    turn = np.round(to_image[:3, :3])
    shift = np.round(to_image[:3, 3])
    ends = np.array(labels.spatial_shape) - 1.0
    corners = np.array(np.meshgrid(*[(0.0, end) for end in ends])).reshape(3, -1)
    off = (to_image[:3, :3] - turn) @ corners + (to_image[:3, 3] - shift)[:, None]
    signed_permutation = np.array_equal(np.abs(turn) @ np.abs(turn).T, np.eye(3))
    if not signed_permutation or np.abs(off).max() > PLACE_TOLERANCE:
        raise TrainingError(
            f"{name}: the labels do not lie on their image: {_difference(labels, image, off)}. Export them on the grid "
            "of the images they were drawn on.",
            code="training-label-misplaced",
        )
    return image.with_array(_moved(labels.array, turn, shift, image.spatial_shape, name))


def _moved(
    array: NDArray[np.integer],
    turn: NDArray[np.float64],
    shift: NDArray[np.float64],
    shape: tuple[int, ...],
    name: str,
) -> NDArray[np.integer]:
    """Paste labels whose index i belongs at `turn @ i + shift`."""
    source_axes = np.abs(turn).argmax(axis=1)
    signs = turn.sum(axis=1)
    ours = array.transpose(source_axes)[tuple(slice(None, None, int(sign)) for sign in signs)]
    size = np.array(ours.shape)
    first = np.where(signs < 0, shift - (size - 1), shift).astype(int)
    start, stop = np.maximum(first, 0), np.minimum(first + size, shape)
    placed = np.zeros(shape, array.dtype)
    inside = ours[
        tuple(
            slice(a, b) for a, b in zip(start - first, np.maximum(stop, start) - first, strict=True)
        )
    ]
    if np.count_nonzero(inside) != np.count_nonzero(ours):
        raise TrainingError(
            f"{name}: {np.count_nonzero(ours) - np.count_nonzero(inside)} labelled voxels lie outside of the image; "
            "give the whole series that the labels were drawn on.",
            code="training-label-misplaced",
        )
    if inside.size:
        placed[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = inside
    return placed


def _difference(labels: Volume, image: Volume, off: NDArray[np.float64]) -> str:
    if not np.allclose(sorted(labels.spacing), sorted(image.spacing), rtol=1e-2):
        spacings = (
            " x ".join(f"{size:.3g}" for size in volume.spacing) for volume in (labels, image)
        )
        return "voxels of {} mm on an image of {} mm".format(*spacings)
    if (
        np.abs(
            np.abs(labels.unit_vectors() @ np.array(image.unit_vectors()).T).max(axis=1) - 1
        ).max()
        > 1e-3
    ):
        return "their axes are turned against each other"
    return f"they are {np.abs(off).max():.2f} voxels off the grid"
