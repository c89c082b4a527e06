"""Metal in or at a femur: nothing that is measured there would be true."""

import highdicom as hd
import numpy as np
from numpy.typing import NDArray

from pipelines.qct_femur.segmenting import Side

Points = NDArray[np.float64]

#: Less is a clip, a wire end or noise, mL.
IMPLANT_ML = 0.4
#: Of metal from a femoral head, its acetabulum or shaft, mm.
_NEAR_MM = 110.0
#: Sideways from the middle of the body, mm: nearer are spine, sacrum and bowel; further, hands.
_LATERAL_MM = (45.0, 190.0)


def find_metal(volume: hd.Volume, least_hu: float) -> Points:
    """Return x, y, z (LPS, mm) of every voxel of a series from `least_hu` on, shape (n, 3)."""
    found = np.argwhere(volume.array >= least_hu)
    return np.asarray(found @ volume.affine[:3, :3].T + volume.affine[:3, 3])


def has_implant(metal: Points, middle: Points, voxel_volume: float) -> bool:
    """Whether there is an implant's volume of metal around a femoral head.

    Parameters
    ----------
    metal
        From `find_metal`.
    middle
        x, y, z of the head, or of what is seen of the femur, mm.
    voxel_volume
        Of the series, mm3.
    """
    # Downwards as far as a stem or a plate goes within what is measured.
    near = np.linalg.norm(metal - middle, axis=1) < _NEAR_MM
    same_leg = np.abs(metal[:, 0] - middle[0]) < _LATERAL_MM[0] + 25.0
    return bool((near & same_leg).sum() * voxel_volume / 1000 >= IMPLANT_ML)


def implant_beside(metal: Points, volume: hd.Volume, side: Side, height: float | None) -> bool:
    """Whether a side where no femur was found has an implant instead.

    Parameters
    ----------
    metal
        From `find_metal`.
    volume
        The series, HU: where the middle of the body is.
    side
        The side.
    height
        z of the other femoral head, mm; None if there is none.
    """
    if metal.size == 0:
        return False
    lateral = side * (metal[:, 0] - _middle_of_body(volume))
    there = (lateral > _LATERAL_MM[0]) & (lateral < _LATERAL_MM[1])
    if height is not None:
        there &= np.abs(metal[:, 2] - height) < _NEAR_MM
    return bool(there.sum() * volume.voxel_volume / 1000 >= IMPLANT_ML)


def _middle_of_body(volume: hd.Volume) -> float:
    """x of the middle of what is denser than fat, mm."""
    step = [max(1, n // 64) for n in volume.spatial_shape]
    solid = np.argwhere(volume.array[:: step[0], :: step[1], :: step[2]] > -200) * step
    if solid.size == 0:
        return float(volume.center_position[0])
    return float((solid.mean(axis=0) @ volume.affine[:3, :3].T + volume.affine[:3, 3])[0])
