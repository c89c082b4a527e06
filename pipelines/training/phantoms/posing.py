"""From an atlas and a patient to a body: posed, with its lesions, fractures and implants placed."""

import re
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pipelines.training.phantoms import pathology
from pipelines.training.phantoms.anatomical import ATLAS_FAT_MM, AtlasBody
from pipelines.training.phantoms.atlas import Atlas
from pipelines.training.phantoms.deformation import Pose, draw_pose
from pipelines.training.phantoms.metal import metal_names
from pipelines.training.phantoms.names import mirrored
from pipelines.training.phantoms.pathology import Places
from pipelines.training.phantoms.patient import HipPose, Patient
from pipelines.training.phantoms.shapes import Point


def pose_atlas(
    atlas: Atlas,
    patient: Patient,
    rng: np.random.Generator,
    centre: Point,
    *,
    strength: float = 1.0,
) -> AtlasBody:
    """Pose an atlas as a patient.

    Parameters
    ----------
    atlas
        The body that is deformed.
    patient
        Who it becomes. Lesions, fractures and implants of parts the atlas does not have are left
        out of the returned body's patient.
    rng
        Draws the deformation.
    centre
        Point of the atlas (LPS, mm) that becomes the origin of the patient's frame.
    strength
        How far the patient may be from the atlas; 0 is the atlas itself.
    """
    pose = draw_pose(rng, patient, centre, strength=strength)
    names = mirrored(atlas.names) if pose.mirror else dict(atlas.names)
    patient = pathology.restrict(patient, set(names.values()))
    names |= dict(enumerate(metal_names(patient), start=max(names) + 1))
    if strength == 0:
        patient = replace(patient, fat_mm=ATLAS_FAT_MM, hips=(HipPose(), HipPose()))
    codes = {name: code for code, name in names.items()}
    centres = {code: atlas.centres.get(name) for code, name in atlas.names.items()}
    places = Places(
        codes=codes,
        middles={
            name: middle
            for name, code in codes.items()
            if (middle := centres.get(code)) is not None
        },
        draw=lambda name, chance: _draw_place(atlas, codes[name], chance),
    )
    return AtlasBody(
        atlas=atlas,
        pose=pose,
        patient=patient,
        names=names,
        middle=_middle(atlas, pose),
        spine=_spine(atlas),
        damage=pathology.place(patient, places, rng),
        compressions=pathology.compress(patient, places.middles),
    )


def _middle(atlas: Atlas, pose: Pose) -> tuple[float, float]:
    """Return where the axis of the trunk comes to lie: x, y, mm."""
    axis = np.asarray(atlas.skin.center_position) - pose.centre
    axis[2] = 0
    x, y, _ = np.linalg.solve(pose.matrix.astype(float), axis)
    return float(x), float(y)


def _spine(atlas: Atlas) -> NDArray[np.float64]:
    middles = [middle for name, middle in atlas.centres.items() if re.fullmatch(r"[CTL]\d+", name)]
    return np.asarray(sorted(middles, key=lambda point: point[2])).reshape(-1, 3)


def _draw_place(atlas: Atlas, code: int, rng: np.random.Generator) -> tuple[Point, Point]:
    """Return a point in a bone and the direction in which the bone runs there."""
    name = atlas.names[code]
    if name.startswith("femur"):
        femur = atlas.femora[name.removeprefix("femur_")]
        head, root = np.asarray(femur.head), np.asarray(femur.root)
        where = head + (root - head) * rng.uniform(0.5, 0.75)
        axis = (root - head) / np.linalg.norm(root - head)
        return _point(where), _point(axis)
    found = np.argwhere((atlas.bone.array == code) & (atlas.depth.array > 0))
    if found.size == 0:
        return atlas.centres[name], (0.0, 0.0, 1.0)
    one = found[rng.integers(len(found))]
    near = found[np.linalg.norm(found - one, axis=1) < 12]
    _, _, axes = np.linalg.svd(near - near.mean(axis=0), full_matrices=False)
    return _point(atlas.bone.map_indices_to_reference(one[None])[0]), _point(axes[0][::-1])


def _point(vector: NDArray[np.float64]) -> Point:
    x, y, z = vector
    return float(x), float(y), float(z)
