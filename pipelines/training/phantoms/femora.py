"""The femur as a rigid body: where its head, neck and shaft are, and how it turns in the joint."""

from dataclasses import dataclass

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipelines.training.phantoms.patient import HipPose

Floats = NDArray[np.float32]
Point = tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Femur:
    """Landmarks of one femur, LPS, mm."""

    head: Point  #: centre of the head and of the joint
    radius: float  #: of the head
    root: Point  #: where the axes of neck and shaft meet
    shaft: Point  #: a point on the axis of the shaft, further down


def find_femur(mask: hd.Volume, side: str) -> Femur:
    """Find the landmarks of a femur.

    Parameters
    ----------
    mask
        uint8, 1 in the femur; axes (slice, row, column), slices to the head, columns to the left.
    side
        `left` or `right`.
    """
    box = ndimage.find_objects(mask.array)[0]
    inside = np.pad(mask.array[box] > 0, 1)
    spacing = float(mask.spacing[0])
    depth = ndimage.distance_transform_edt(inside)
    # The head: the deepest point of the top 50 mm, on the side of the other leg.
    top = max(0, inside.shape[0] - round(50 / spacing))
    head = np.unravel_index(int(depth[top:].argmax()), depth[top:].shape)
    centre = np.asarray(head, float) + np.asarray([top, 0, 0])
    radius = float(depth[top:].max()) * spacing
    levels = [round(centre[0] - down / spacing) for down in (80, 130)]
    upper, lower = (_middle(inside, max(1, level)) for level in levels)
    slope = (upper - lower) / max(1e-6, upper[0] - lower[0])
    root = upper + slope * (centre[0] - 38 / spacing - upper[0])
    offset = np.asarray([part.start - 1 for part in box])
    points = mask.map_indices_to_reference(np.stack([centre, root, lower]) + offset)
    one, two, three = ((float(x), float(y), float(z)) for x, y, z in points)
    return Femur(head=one, radius=radius, root=two, shaft=three)


def _middle(inside: NDArray[np.bool_], level: int) -> NDArray[np.float64]:
    while not inside[level].any():
        level += 1
    row, column = np.argwhere(inside[level]).mean(axis=0)
    return np.asarray([level, row, column])


def rotation(pose: HipPose, side: str, share: Floats | float = 1.0) -> Floats:
    """Return the matrices that turn a thigh back from its pose into the source's.

    Parameters
    ----------
    pose
        How the femur stands.
    side
        `left` or `right`: abduction and rotation are mirrored.
    share
        How much of the pose applies, any shape.

    Returns
    -------
    numpy.ndarray
        float32, shape (*share.shape, 3, 3), acting on column vectors (x, y, z) from the head.
    """
    sign = 1.0 if side == "left" else -1.0
    share = np.asarray(share, np.float32)
    flexion = -np.deg2rad(pose.flexion) * share
    abduction = np.deg2rad(pose.abduction) * sign * share
    turn = np.deg2rad(pose.rotation) * sign * share
    # The shaft points down, -z. Forward: to the front is -y, to the left +x.
    matrix = _about(0, flexion) @ _about(1, -abduction) @ _about(2, -turn)
    return np.ascontiguousarray(np.swapaxes(matrix, -1, -2), np.float32)


def _about(axis: int, angle: Floats) -> Floats:
    first, second = (axis + 1) % 3, (axis + 2) % 3
    matrix = np.zeros((*angle.shape, 3, 3), np.float32)
    matrix[..., axis, axis] = 1
    matrix[..., first, first] = matrix[..., second, second] = np.cos(angle)
    matrix[..., first, second], matrix[..., second, first] = -np.sin(angle), np.sin(angle)
    return matrix
