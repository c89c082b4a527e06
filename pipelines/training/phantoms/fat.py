"""Fat that label maps leave out, slice by slice, in place.

Codes have the axes (slice, row, column); `pixel` is their spacing within a slice, mm.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipelines.training.phantoms.boxes import bounding_box

Codes = NDArray[np.uint8]

_REACH_MM = 24.0  # of the flesh around an organ
_LAYER_MM = 12.0  # of it: under the skin


def wrap(codes: Codes, fat: int, pixel: float) -> None:
    """Fill the gaps between labelled organs with fat and add subcutaneous fat."""
    pad = int(_REACH_MM / pixel) + 2
    for plane in codes:
        if not plane.any():
            continue
        near = np.pad(ndimage.distance_transform_edt(plane == 0) * pixel < _REACH_MM, pad)
        grown = ndimage.binary_fill_holes(np.pad(plane > 0, pad) | near)
        inner = ndimage.distance_transform_edt(grown) * pixel > _REACH_MM - _LAYER_MM
        inner = inner[pad:-pad, pad:-pad]
        plane[inner & (plane == 0)] = fat


def marble(codes: Codes, body: int, bones: list[int], fat: int, pixel: float) -> None:
    """Turn the outer layer of an unlabelled body, and much of its inside, into fat.

    What lies deep under the skin and away from bone is the abdomen's and the pelvis's filling: fat
    between loops of bowel, which a coarse smooth pattern imitates.
    """
    rng = np.random.default_rng(0)
    pattern = ndimage.gaussian_filter(rng.standard_normal([n // 4 + 2 for n in codes.shape]), 1.5)
    pattern = ndimage.zoom(pattern, 4, order=1, grid_mode=True, mode="nearest")
    limit = np.quantile(pattern, 0.45)
    for index, whole in enumerate(codes):
        if not whole.any():
            continue
        box = bounding_box(whole > 0, (1, 1))  # the air next to the skin, to be away from
        plane = whole[box]
        depth = ndimage.distance_transform_edt(plane > 0) * pixel
        clear = ndimage.distance_transform_edt(~np.isin(plane, bones)) * pixel
        filling = (depth > 45) & (clear > 14)
        loose = pattern[index][box] < limit
        plane[(plane == body) & ((depth < 12) | (filling & loose))] = fat
