"""A pelvis with femora from formulas, on any grid, and a network that sees them: what tests of qct_femur share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import highdicom as hd
import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.inference import engine_of
from pipelines.manifest import read_manifest
from pipelines.qct_femur.anatomy import REACH
from pipelines.qct_femur.pipeline import FemurModel
from pipelines.qct_femur.segmenting import HIGHEST_HU, LOWEST_HU
from pipelines.registry import BUILT_IN
from pipelines.training.phantoms import bones

MANIFEST = read_manifest(BUILT_IN / "qct_femur")
PARAMETERS: dict[str, Any] = dict(MANIFEST.parameters)
#: Of the scene: what a femur measures, what other bone does, and soft tissue.
FEMUR_HU, BONE_HU, SOFT_HU = 700, 300, 40
RADIUS = 24.0
#: Centres of the heads in the scene, LPS, mm.
HEADS = {1: (90.0, 0.0, 0.0), 2: (-90.0, 0.0, 0.0)}


def _sees_density(image: torch.Tensor) -> torch.Tensor:
    """Logits of a network that takes all from 500 HU on for femur."""
    hounsfield = (image + 1) / 2 * (HIGHEST_HU - LOWEST_HU) + LOWEST_HU
    return (hounsfield - 500) / 50


def model_that_sees_density() -> FemurModel:
    """What `load` makes, with a network that is exact on `scene`."""
    network = engine_of(torch.nn.Conv3d(1, 1, 1))
    return FemurModel(network=replace(network, infer=_sees_density), manifest=MANIFEST)


def grid(
    *,
    orientation: str = "HPL",
    shape: tuple[int, int, int] = (110, 100, 160),
    spacing: Sequence[float] = (2.0, 2.0, 2.0),
    centre: Sequence[float] = (0.0, 10.0, -55.0),
) -> hd.VolumeGeometry:
    """A grid around the hips; sizes are those of slices to the head, rows to the back, columns to the left."""
    straight = hd.VolumeGeometry.from_components(
        shape, spacing=spacing, coordinate_system="PATIENT",
        center_position=centre, patient_orientation="HPL",
    )  # fmt: skip
    return straight.to_patient_orientation(orientation)


def oblique() -> hd.VolumeGeometry:
    """The same, angulated about two axes."""
    first, second = np.radians(17.0), np.radians(-14.0)
    about_x = np.array(
        [[1, 0, 0], [0, np.cos(first), -np.sin(first)], [0, np.sin(first), np.cos(first)]]
    )
    about_y = np.array(
        [[np.cos(second), 0, np.sin(second)], [0, 1, 0], [-np.sin(second), 0, np.cos(second)]]
    )
    shape = (140, 130, 180)
    affine = np.eye(4)
    affine[:3, :3] = about_y @ about_x @ np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0.0]]) * 2.0
    affine[:3, 3] = (0, 10, -55) - affine[:3, :3] @ (np.array(shape) - 1) / 2
    return hd.VolumeGeometry(affine=affine, spatial_shape=shape, coordinate_system="PATIENT")


def scene(geometry: hd.VolumeGeometry, *, sides: Sequence[int] = (1, 2)) -> hd.Volume:
    """A pelvis with femora, in HU, on any grid."""
    x, y, z = points(geometry)
    image = np.full(geometry.spatial_shape, SOFT_HU, np.int16)
    image[np.hypot(x / 170, (y - 10) / 110) > 1] = -1000
    for side in (1, 2):
        sign = 1 if side == 1 else -1
        image[bones.hip_bone(x, y, z, sign) < 0] = BONE_HU
        if side in sides:
            image[bones.femur(x, y, z, sign) < 0] = FEMUR_HU
    return hd.Volume(array=image, affine=geometry.affine, coordinate_system="PATIENT")


def truth(geometry: hd.VolumeGeometry, side: int) -> NDArray[np.bool_]:
    """The proximal femur of the scene by its formula."""
    x, y, z = points(geometry)
    femur = bones.femur(x, y, z, 1 if side == 1 else -1) < 0
    cx, cy, cz = HEADS[side]
    near = np.sqrt((x - cx) ** 2 + (y - cy) ** 2 + (z - cz) ** 2) <= REACH * 2 * RADIUS
    return np.asarray(femur & near)


def points(geometry: hd.VolumeGeometry) -> tuple[NDArray[np.float32], ...]:
    """x, y, z of every voxel, LPS, mm."""
    i, j, k = np.meshgrid(
        *(np.arange(n, dtype=np.float32) for n in geometry.spatial_shape), indexing="ij"
    )
    affine = geometry.affine.astype(np.float32)
    x, y, z = (
        affine[a, 0] * i + affine[a, 1] * j + affine[a, 2] * k + affine[a, 3] for a in range(3)
    )
    return x, y, z
