"""What the networks see: counts relative to the patient's own, and Hounsfield units of soft tissue and bone."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

#: Counts below this share of what is bright are no patient. Kidneys and bladder, less than a tenth of an image, do not
#: decide what is typical: slices with them have to look like those without.
_LOWEST_SHARE = 0.2
_BRIGHT_PERCENTILE = 90
_LOWEST_HU, _HIGHEST_HU = -250.0, 1250.0
_CENTRE_HU, _SCALE_HU = 200.0, 400.0


def typical_counts(counts: NDArray[Any]) -> float:
    """Return the median of what a patient counts: the unit of `normalise_spect`.

    Parameters
    ----------
    counts
        Not negative, any shape. A whole examination, or slices of it across the whole body.

    Returns
    -------
    float
        Above zero, also where nothing was counted.
    """
    bright = float(np.percentile(counts, _BRIGHT_PERCENTILE))
    inside = counts[counts > _LOWEST_SHARE * bright]
    return max(float(np.median(inside)), 1e-6) if inside.size else 1.0


def normalise_spect(counts: Floats, typical: float) -> Floats:
    """Return counts as the networks see them: the logarithm of one plus their ratio to what is typical, centred."""
    return np.asarray(np.log1p(np.maximum(counts, 0) / np.float32(typical)) - 1.0, np.float32)


def normalise_ct(hounsfield: Floats) -> Floats:
    """Return Hounsfield units as the networks see them."""
    clipped = np.clip(hounsfield, _LOWEST_HU, _HIGHEST_HU)
    return np.asarray((clipped - _CENTRE_HU) / _SCALE_HU, np.float32)
