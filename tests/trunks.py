"""A trunk of rods and blocks whose density says what they are, and networks that read it: for ct_trunk_muscle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import highdicom as hd
import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.ct_trunk_muscle.anatomy import BODY_CLASS, CLASSES, LEVEL_CLASSES, LEVELS, NUMBERS
from pipelines.ct_trunk_muscle.networks import Part
from pipelines.ct_trunk_muscle.pipeline import TrunkModel
from pipelines.ct_trunk_muscle.plan import read_plan
from pipelines.ct_trunk_muscle.segmenting import Networks
from pipelines.inference import Engine, engine_of
from pipelines.manifest import read_manifest
from pipelines.registry import BUILT_IN

MANIFEST = read_manifest(BUILT_IN / "ct_trunk_muscle")
#: Networks that read the densities of the scene do not know what is left in a mirror.
PARAMETERS = {**MANIFEST.parameters, "mirror": False}
PLAN = read_plan(BUILT_IN / "ct_trunk_muscle" / "plan.json")
#: Slices, rows, columns, mm.
SPACING = (3.0, 2.0, 2.0)
#: A vertebra with its disc, and its body, mm; a muscle's side.
PITCH_MM, BODY_MM, MUSCLE_MM = 30.0, 24.0, 20.0
SOFT_HU = 40
ROWS, COLUMNS = 120, 190
_MARGIN_MM = 9.0


def muscle_hu(number: int) -> int:
    """What a muscle measures in the scene."""
    return 100 + 20 * number


def body_hu(level: str) -> int:
    """What a vertebral body measures."""
    return 480 + 20 * (1 + LEVELS.index(level))


def scene(levels: Sequence[str] = LEVELS, *, orientation: str = "FPL") -> hd.Volume:
    """A trunk that shows these levels from edge to edge."""
    slices = round((2 * _MARGIN_MM + PITCH_MM * len(levels)) / SPACING[0])
    image = np.full((slices, ROWS, COLUMNS), -1000, np.int16)
    y, x = np.ogrid[:ROWS, :COLUMNS]
    image[:, np.hypot((y - 60) / 52, (x - 95) / 88) < 1] = SOFT_HU
    for rows, columns, number in places():
        image[:, rows, columns] = muscle_hu(number)
    for index, level in enumerate(levels):
        image[body_slices(index), 50:68, 84:106] = body_hu(level)
    volume = hd.Volume.from_components(
        image,
        spacing=SPACING,
        coordinate_system="PATIENT",
        center_position=(0.0, 0.0, 0.0),
        patient_orientation="FPL",
    )
    return volume.to_patient_orientation(orientation)


def body_slices(index: int) -> slice:
    """Slices of a vertebral body, counted from the highest one in the scene."""
    first = (_MARGIN_MM + PITCH_MM * index + (PITCH_MM - BODY_MM) / 2) / SPACING[0]
    return slice(round(first), round(first + BODY_MM / SPACING[0]))


def places() -> list[tuple[slice, slice, int]]:
    """Rows, columns and number of the muscles: rods, left ones on the left."""
    found = []
    side = round(MUSCLE_MM / SPACING[1])
    for index, number in enumerate(NUMBERS.values()):
        pair, is_left = index // 2, index % 2 == 0
        row = 25 + 20 * (pair % 4)
        away = 22 + 22 * (pair // 4)
        column = 95 + away if is_left else 95 - away - side
        found.append((slice(row, row + side), slice(column, column + side), number))
    return found


def model() -> TrunkModel:
    """What `load` makes, with networks that read the scene's densities."""
    networks = Networks(
        muscles=_engine(read_muscles), part=Part.VOLUME, levels=_engine(_levels), plan=PLAN
    )
    return TrunkModel(networks=lambda _part: networks, manifest=MANIFEST)


def _engine(infer: Any) -> Engine:
    return replace(engine_of(torch.nn.Conv3d(1, 1, 1)), infer=infer)


def _hounsfield(image: torch.Tensor) -> torch.Tensor:
    intensities = PLAN.fingerprint.intensities
    return image * intensities.sd + intensities.mean


def _solid(image: torch.Tensor) -> torch.Tensor:
    """HU of the thing that a voxel is of, 0 in soft tissue: its borders are averaged with what lies around it."""
    hounsfield = _hounsfield(image)[:, 0]
    densest = torch.nn.functional.max_pool3d(hounsfield[:, None], 3, stride=1, padding=1)[:, 0]
    return torch.where(hounsfield > (densest + SOFT_HU) / 2, densest, 0.0)


def read_muscles(image: torch.Tensor) -> torch.Tensor:
    """Logits of a network of volumes that knows the scene's muscles and bodies by their density."""
    solid = _solid(image)
    found = torch.zeros(image.shape[0], CLASSES, *image.shape[2:])
    found[:, 0] = 0.5
    for number in NUMBERS.values():
        found[:, number] = ((solid - muscle_hu(number)).abs() < 9).float()
    found[:, BODY_CLASS] = (solid > body_hu("T4") - 9).float()
    return 20 * found


def _levels(image: torch.Tensor) -> torch.Tensor:
    solid = _solid(image)
    found = torch.zeros(image.shape[0], LEVEL_CLASSES, *image.shape[2:])
    found[:, 0] = 0.5
    for number, level in enumerate(LEVELS, start=1):
        found[:, number] = ((solid - body_hu(level)).abs() < 9).float()
    return 20 * found


def truth(volume: hd.Volume) -> NDArray[np.uint8]:
    """Muscle numbers of the scene, shape as the volume."""
    found = np.zeros(volume.spatial_shape, np.uint8)
    for number in NUMBERS.values():
        found[volume.array == muscle_hu(number)] = number
    return found
