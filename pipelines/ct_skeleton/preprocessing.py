"""The published preprocessing after the stretcher is gone: threshold, clip, normalise.

The order is the publication's: removal of the stretcher (`stretcher`), thresholding, clipping,
normalisation.
"""

from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

#: Below: air, lung and fat far below water; nothing there can be bone.
THRESHOLD_HU = -200.0
#: Above: dense cortex and metal, told apart by nothing that matters here.
CLIP_HU = 1200.0


class Normalisation(StrEnum):
    """Which range of Hounsfield units becomes -1 to 1."""

    INTERPATIENT = "interpatient"  #: one fixed range for everyone
    INTRAPATIENT = "intrapatient"  #: the range of this patient


def apply_threshold(image: Floats) -> Floats:
    """Set what is below the threshold to the threshold (step 2); HU in, HU out."""
    return np.where(image < THRESHOLD_HU, np.float32(THRESHOLD_HU), image)


def clip(image: Floats) -> Floats:
    """Limit the highest values (step 3); HU in, HU out."""
    return np.minimum(image, np.float32(CLIP_HU))


def normalise(image: Floats, upper: float) -> Floats:
    """Map the threshold to -1 and `upper` HU to 1 (step 4)."""
    return (2 * (image - THRESHOLD_HU) / (upper - THRESHOLD_HU) - 1).astype(np.float32)


def upper_bound(image: Floats, normalisation: Normalisation) -> float:
    """Return the HU that normalisation maps to 1.

    Parameters
    ----------
    image
        HU after `clip`; any shape, all of the patient.
    normalisation
        The variant. Of this patient it is the 99.5th percentile of what is above the threshold,
        for one screw would make the maximum the same for everyone.
    """
    if normalisation is Normalisation.INTERPATIENT:
        return CLIP_HU
    inside = image[image > THRESHOLD_HU]
    highest = float(np.percentile(inside, 99.5)) if inside.size else CLIP_HU
    return float(np.clip(highest, 300.0, CLIP_HU))
