"""Metal: where an implant lies, as distances in the frame of the bone that carries it."""

import numpy as np
from numpy.typing import NDArray

from pipelines.training.phantoms.femora import Femur
from pipelines.training.phantoms.patient import Implant, ImplantKind
from pipelines.training.phantoms.shapes import Points, capsule, cone

Floats = NDArray[np.float32]
Vector = NDArray[np.float64]


def in_femur(at: Points, femur: Femur, implant: Implant, side: str) -> Floats:
    """Return the distance (mm, negative inside) to the part of an implant that moves with a femur.

    Parameters
    ----------
    at
        x, y, z in the frame of the femur, LPS, mm; float32, any shape.
    femur
        Its landmarks.
    implant
        A prosthesis, a plate or cerclage wires.
    side
        `left` or `right`, where the lateral side is.
    """
    head, root, shaft = (np.asarray(p, float) for p in (femur.head, femur.root, femur.shaft))
    down = (shaft - root) / np.linalg.norm(shaft - root)
    lateral = np.asarray([1.0 if side == "left" else -1.0, 0, 0])
    lateral -= down * (lateral @ down)
    lateral /= np.linalg.norm(lateral)
    if implant.kind is ImplantKind.HIP_PROSTHESIS:
        return _stem(at, head, root, down, implant.size)
    if implant.kind is ImplantKind.FEMORAL_PLATE:
        return _plate(at, root, down, lateral)
    return _wires(at, root, down, lateral)


def in_hip(at: Points, femur: Femur, implant: Implant, side: str) -> Floats | None:
    """Return the distance to what stays with the hip bone: the cup of a prosthesis."""
    if implant.kind is not ImplantKind.HIP_PROSTHESIS:
        return None
    outer = femur.radius + 3.0
    x, y, z = (axis - middle for axis, middle in zip(at, femur.head, strict=True))
    away = np.sqrt(x * x + y * y + z * z)
    # A hemisphere that opens down and to the side, 45 degrees.
    outward = 1.0 if side == "left" else -1.0
    opening = (outward * x - z) / np.sqrt(2)
    shell = np.maximum(away - outer, (outer - 4.0) - away)
    return np.asarray(np.maximum(shell, opening), np.float32)


def resected(at: Points, femur: Femur) -> NDArray[np.bool_]:
    """Return what the surgeon takes off for a prosthesis: the head and most of the neck."""
    head, root = np.asarray(femur.head), np.asarray(femur.root)
    neck = (root - head) / np.linalg.norm(root - head)
    along = sum((axis - middle) * part for axis, middle, part in zip(at, head, neck, strict=True))
    return np.asarray(along < 0.62 * np.linalg.norm(root - head))


def screws(at: Points, body: tuple[float, float, float]) -> Floats:
    """Return the distance to the two pedicle screws of a vertebra and the rods behind them."""
    x, y, z = body
    parts = []
    for side in (-1.0, 1.0):
        entry = (x + 19 * side, y + 36, z + 3)
        parts.append(capsule(at, (entry, (x + 11 * side, y - 8, z + 1)), 2.9))
        parts.append(capsule(at, ((x + 19 * side, y + 44, z - 22), (entry[0], y + 44, z + 26)), 3))
        parts.append(capsule(at, (entry, (entry[0], y + 45, z + 3)), 5.5))
    return np.asarray(np.minimum.reduce(parts), np.float32)


def _stem(at: Points, head: Vector, root: Vector, down: Vector, size: float) -> Floats:
    ball = capsule(at, (_point(head), _point(head)), 14.0 * size)
    neck = capsule(at, (_point(head), _point(root)), 6.5 * size)
    stem = cone(at, (_point(root - 4 * down), _point(root + 115 * size * down)), (10.0 * size, 4.0))
    return np.asarray(np.minimum.reduce([ball, neck, stem]), np.float32)


def _plate(at: Points, root: Vector, down: Vector, lateral: Vector) -> Floats:
    top, low = root + 21 * lateral, root + 16.5 * lateral + 130 * down
    parts = [capsule(at, (_point(top), _point(low)), 3.5)]
    for level in (35, 60, 85, 110):
        start = root + 17 * lateral + level * down
        parts.append(capsule(at, (_point(start), _point(start - 31 * lateral)), 2.2))
    toward = root - 30 * lateral - 24 * down
    parts.append(capsule(at, (_point(top + 12 * down), _point(toward)), 5.5))
    return np.asarray(np.minimum.reduce(parts), np.float32)


def _wires(at: Points, root: Vector, down: Vector, lateral: Vector) -> Floats:
    forward = np.cross(down, lateral)
    offsets = [axis - middle for axis, middle in zip(at, root, strict=True)]
    u, v, w = (
        sum(offset * part for offset, part in zip(offsets, axis, strict=True))
        for axis in (lateral, forward, down)
    )
    rings = [np.hypot(np.hypot(u, v) - 17.0, w - level) - 0.9 for level in (30, 55, 85)]
    return np.asarray(np.minimum.reduce(rings), np.float32)


def _point(vector: Vector) -> tuple[float, float, float]:
    x, y, z = vector
    return float(x), float(y), float(z)
