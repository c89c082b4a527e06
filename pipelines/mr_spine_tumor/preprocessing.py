"""From MR values, whose unit means nothing, to what the network was trained on."""

from typing import Any

import numpy as np
from highdicom import Volume
from numpy.typing import NDArray

Floats = NDArray[np.float32]

#: In-plane spacing that the network works at, mm.
PIXEL_SPACING = 1.0
#: What there is nothing of, after `normalise`.
NOTHING = -1.0

_DARK = 0.06  # of the brightest: air and noise
_HIGHEST = 2.5


def reference(array: NDArray[Any]) -> float:
    """Return the value that counts as bright: the 80th percentile of what is not dark.

    Parameters
    ----------
    array
        MR values of a slice or of a series, any shape. Of a series some of it is enough.
    """
    brightest = float(np.percentile(array, 99.5))
    bright = array[array > _DARK * brightest]
    return max(float(np.percentile(bright, 80)) if bright.size else brightest, 1e-6)


def normalise(array: NDArray[Any], bright: float) -> Floats:
    """Return values for the network, float32 of the same shape: -1 is nothing, 0 is as bright as `bright`."""
    scaled = np.asarray(array, np.float32) / np.float32(bright)
    return np.asarray(np.clip(scaled, 0, _HIGHEST) - 1, np.float32)


def upright(volume: Volume) -> Volume:
    """Return a volume as the network has seen patients, by the plane that its slices are nearest to.

    Sagittal: rows to the feet, columns to the back. Axial: rows to the back, columns to the left. Coronal: rows to
    the feet, columns to the
    left.
    """
    normal = np.abs(np.asarray(volume.unit_vectors()[0]))
    return volume.to_patient_orientation(("LFP", "PFL", "FPL")[int(normal.argmax())])
