"""How an atlas is bent and stretched to become a patient: from the patient's points to its own."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.training.phantoms import fields
from pipelines.training.phantoms.femora import Femur, rotation
from pipelines.training.phantoms.fields import Floats, SmoothField
from pipelines.training.phantoms.patient import HipPose, Patient, Sex

_ATLAS_HEIGHT_M = 1.72


@dataclass(frozen=True, slots=True, kw_only=True)
class Pose:
    """Where in the atlas a point of the patient lies.

    The patient's frame has its origin in the middle of the imaged region; LPS, mm.
    """

    centre: Floats  #: of the imaged region in the atlas, shape (3,), mm
    matrix: Floats  #: shape (3, 3)
    mirror: bool
    taper: float  #: how much broader the pelvis is than the chest, as a share
    bend_mm: float  #: amplitude of a sideways curve of the spine
    bend_phase: float
    amplitude_mm: tuple[float, float]  #: of the coarse and the fine displacement
    coarse: tuple[SmoothField, SmoothField, SmoothField]
    fine: tuple[SmoothField, SmoothField, SmoothField]
    fat: SmoothField  #: where the fat under the skin is thicker and thinner


def draw_pose(
    rng: np.random.Generator,
    patient: Patient,
    centre: tuple[float, float, float],
    *,
    strength: float,
) -> Pose:
    """Draw how an atlas is bent and stretched to become a patient; `strength` as in `pose_atlas`."""
    turn = rng.normal(0, [0.05, 0.05, 0.1]) * strength
    height = patient.height_m / _ATLAS_HEIGHT_M
    girth = height * patient.muscle
    spread = rng.normal(0, [0.045, 0.05, 0.035])
    size = np.exp((np.log([girth, girth, height]) + spread) * strength)
    mirror = bool(rng.random() < 0.5) and strength > 0
    flip = np.diag([-1.0 if mirror else 1.0, 1, 1])
    female = patient.sex is Sex.FEMALE
    return Pose(
        centre=np.asarray(centre, np.float32),
        matrix=(flip @ _turned_by(turn) / size).astype(np.float32),
        mirror=mirror,
        taper=float(rng.normal(0.05 if female else 0.0, 0.02)) * strength,
        bend_mm=patient.scoliosis_mm * strength,
        bend_phase=float(rng.uniform(0, 2 * np.pi)),
        amplitude_mm=(float(rng.uniform(0, 9) * strength), float(rng.uniform(0, 2.2) * strength)),
        coarse=_three_fields(rng, 70.0),
        fine=_three_fields(rng, 22.0),
        fat=fields.draw_field(rng, 90.0, size=8),
    )


def to_atlas(points: Floats, pose: Pose, femora: Mapping[str, Femur]) -> Floats:
    """Return where in the atlas points of the patient lie, its thighs not yet turned.

    Parameters
    ----------
    points
        float32, shape (..., 3), mm.
    pose
        The patient's.
    femora
        Of the atlas: their heads tell where the pelvis is.
    """
    moved = points.copy()
    for amplitude, three in zip(pose.amplitude_mm, (pose.coarse, pose.fine), strict=True):
        if amplitude > 0:
            for axis, field in enumerate(three):
                moved[..., axis] += amplitude * fields.evaluate(field, points)
    phase = 2 * np.pi * points[..., 2] / 350 + pose.bend_phase
    moved[..., 0] += pose.bend_mm * np.sin(phase)
    moved = moved @ pose.matrix.T + pose.centre
    if pose.taper and femora:
        heads = np.mean([femur.head for femur in femora.values()], axis=0)
        share = np.tanh((moved[..., 2] - heads[2] - 180) / 150)
        moved[..., 0] = heads[0] + (moved[..., 0] - heads[0]) * (1 + pose.taper * share)
    return moved


def turn_thighs(
    source: Floats, femora: Mapping[str, Femur], hips: Mapping[str, HipPose]
) -> tuple[Floats, Floats | None]:
    """Return where soft tissue and, rigidly, the nearer femur come from.

    Parameters
    ----------
    source
        Points of the atlas as it stands, float32, shape (..., 3), mm.
    femora
        Side of the atlas -> its femur.
    hips
        Side of the atlas -> how the patient's femur stands.

    Returns
    -------
    tuple of numpy.ndarray
        Both like `source`; None for the femora where all points are far above them.
    """
    lowest = float(source[..., 2].min())
    if not femora or lowest > max(f.head[2] for f in femora.values()) + 70:
        return source, None
    soft, turned = source.copy(), source.copy()
    middle = np.mean([femur.head[0] for femur in femora.values()])
    for side, femur in femora.items():
        sign = 1.0 if side == "left" else -1.0
        head = np.asarray(femur.head, np.float32)
        from_head = source - head
        # Flesh follows the thigh gradually, from the groin down and from the midline out.
        out = np.clip(((source[..., 0] - middle) * sign) / 50, 0, 1)
        share = np.clip((40 - from_head[..., 2]) / 110, 0, 1) * out
        turns = rotation(hips[side], side, np.asarray(share, np.float32))
        followed = (turns @ from_head[..., None])[..., 0] + head
        rigid = from_head @ rotation(hips[side], side).T + head
        here = (source[..., 0] - middle) * sign > 0
        soft[here], turned[here] = followed[here], rigid[here]
    return soft, turned


def _three_fields(
    rng: np.random.Generator, spacing: float
) -> tuple[SmoothField, SmoothField, SmoothField]:
    one, two, three = (fields.draw_field(rng, spacing, size=12) for _ in range(3))
    return one, two, three


def _turned_by(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the matrix that turns about x, y and z by small angles, rad."""
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        first, second = (axis + 1) % 3, (axis + 2) % 3
        turn = np.eye(3)
        turn[first, first] = turn[second, second] = np.cos(angle)
        turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
        matrix = matrix @ turn
    return matrix
