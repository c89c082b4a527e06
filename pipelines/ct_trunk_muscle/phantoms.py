"""Which phantoms the muscle pipeline is trained on, evaluated on, and shown with.

Of what two label maps have, one is learned from and the other is held out: the muscles of the loin and the belly from
the abdominal atlas at T10 to L4, those of the chest from the whole body at T4 to T9. Held out is the whole body's loin;
what only one map has is judged on the same body deformed beyond the training range.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from pathlib import Path

import highdicom as hd
import numpy as np

from pipelines.ct_trunk_muscle.anatomy import LEVELS, MUSCLES, NUMBERS, UNKNOWN
from pipelines.ct_trunk_muscle.plan import NetworkPlan, Plan
from pipelines.ct_trunk_muscle.truth import Truth, dense, truth_of
from pipelines.training.case import Case
from pipelines.training.phantoms import bones
from pipelines.training.phantoms.anatomical import AtlasBody
from pipelines.training.phantoms.atlas import Atlas, load_atlas
from pipelines.training.phantoms.deformation import to_atlas
from pipelines.training.phantoms.muscles import complete_muscles
from pipelines.training.phantoms.patient import Arms, Phase, draw_patient
from pipelines.training.phantoms.posing import pose_atlas
from pipelines.training.phantoms.procedural import procedural_body
from pipelines.training.phantoms.render import ImagedRegion, grid_of, image_body
from pipelines.training.phantoms.scanner import draw_scanner
from pipelines.training.phantoms.tissues import Body, Phantom
from pipelines.training.phantoms.wasting import WastedBody, draw_states

#: Label map -> the levels that are learned from it.
TRAINING_LEVELS = {"spl_abdomen.nii.gz": LEVELS[6:], "bp3d_body_1p5mm.nii.gz": LEVELS[:6]}
#: Held out: another body at levels that were not learned from it; and a known one, bent further than in training.
OTHER_BODY, OTHER_LEVELS = "bp3d_body_1p5mm.nii.gz", LEVELS[6:]
#: Of these the other body has scraps there: BodyParts3D has no multifidus, which transversospinalis is in the loin.
OTHER_SCRAPS = ("transversospinalis_left", "transversospinalis_right")
SAME_BODY, BEYOND = "spl_abdomen.nii.gz", 1.6
OTHER_GROUP, BEYOND_GROUP = "another body", "same body, deformed beyond the training range"

_PROCEDURAL_SHARE = 0.12


class Kind(StrEnum):
    """What a training crop is for."""

    SLICE = "slice"  #: one, through the middle of a vertebra
    VOLUME = "volume"
    LEVELS = "levels"  #: coarse, of most of the trunk


#: How far the middle of a crop is from that of a vertebral body, standard deviation: a slice stands for the body, as an
#: annotator chose it; most patches of volumes hold such a slice.
_UP_AND_DOWN_MM = {Kind.SLICE: 1.5, Kind.VOLUME: 15.0, Kind.LEVELS: 60.0}

#: Draws a phantom of the trunk and what is known of it.
DrawTruth = Callable[[np.random.Generator], tuple[Phantom, Truth]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trunk:
    """A body to be imaged, its frame's origin at a level's vertebral body or near it."""

    body: Body
    middle: tuple[float, float, float]  #: of the image, mm
    levels: Sequence[str]  #: that may be learned from


def training_crops(folder: Path | None, plan: Plan, kind: Kind) -> DrawTruth:
    """Return what draws a crop of a random patient on a network's grid.

    Parameters
    ----------
    folder
        Folder of label maps, or None for procedural bodies.
    plan
        Spacing and size of crops.
    kind
        For which network.
    """
    return partial(_draw_crop, _load(folder), plan, kind)


def _draw_crop(
    atlases: Sequence[tuple[Atlas, Sequence[str]]], plan: Plan, kind: Kind, rng: np.random.Generator
) -> tuple[Phantom, Truth]:
    trunk = _draw_trunk(atlases, rng, kind)
    network = {Kind.SLICE: plan.slices, Kind.VOLUME: plan.volume, Kind.LEVELS: plan.levels}[kind]
    phantom = image_body(trunk.body, grid_of(_region(network, kind, rng), trunk.middle), rng)
    return phantom, truth_of(phantom, trunk.levels)


def _region(network: NetworkPlan, kind: Kind, rng: np.random.Generator) -> ImagedRegion:
    patch, spacing = network.patch, network.spacing
    if kind is Kind.SLICE:
        rows, columns = patch
        thickness = float(rng.uniform(0.8, 5))
        return ImagedRegion(
            centre=(0, 0, 0),
            shape=(1, rows, columns),
            pixel_spacing=spacing[0],
            slice_spacing=thickness,
        )
    slices, rows, columns = patch
    return ImagedRegion(
        centre=(0, 0, 0),
        shape=(slices, rows, columns),
        pixel_spacing=spacing[1],
        slice_spacing=spacing[0],
    )


def _draw_trunk(
    atlases: Sequence[tuple[Atlas, Sequence[str]]], rng: np.random.Generator, kind: Kind
) -> Trunk:
    if not atlases or rng.random() < _PROCEDURAL_SHARE:
        return _procedural_trunk(rng, kind)
    shares = np.array([len(levels) for _, levels in atlases], float)
    atlas, levels = atlases[int(rng.choice(len(atlases), p=shares / shares.sum()))]
    level = str(rng.choice(levels))
    body = _posed(atlas, level, rng, strength=1.0)
    middle = _image_middle(rng, kind, _height_of(body, level))
    return Trunk(body=_wasted(body, rng), middle=middle, levels=levels)


def _procedural_trunk(rng: np.random.Generator, kind: Kind) -> Trunk:
    body = procedural_body(draw_patient(rng), rng)
    height = level_height(str(rng.choice(LEVELS))) * body.build.scale
    return Trunk(body=_wasted(body, rng), middle=_image_middle(rng, kind, height), levels=LEVELS)


def _image_middle(
    rng: np.random.Generator, kind: Kind, height: float
) -> tuple[float, float, float]:
    x, y = rng.normal(0, (18, 14))
    return float(x), float(y), height + float(rng.normal(0, _UP_AND_DOWN_MM[kind]))


def level_height(level: str) -> float:
    """Return the height of a vertebral body of the procedural body, unscaled, mm above the hip joints."""
    order = ("L5", "L4", "L3", "L2", "L1", *(f"T{number}" for number in range(12, 0, -1)))
    return bones.VERTEBRAE[order.index(level)]


def _posed(atlas: Atlas, level: str, rng: np.random.Generator, *, strength: float) -> AtlasBody:
    """A random patient; the origin of the frame is the trunk's axis at the height of a vertebral body."""
    x, y, _ = atlas.skin.center_position
    _, behind, height = atlas.centres[level]
    centre = (float(x), float((y + behind) / 2 - 20), height)
    return pose_atlas(atlas, draw_patient(rng), rng, centre, strength=strength)


def _height_of(body: AtlasBody, level: str) -> float:
    """Return z of a vertebral body's middle in the patient's frame, mm, near the origin."""
    target = np.asarray(body.atlas.centres[level])
    behind = float(target[1] - body.pose.centre[1])
    heights = np.arange(-40, 41, dtype=np.float32)
    points = np.zeros((heights.size, 3), np.float32)
    points[:, 1], points[:, 2] = behind, heights
    found = to_atlas(points, body.pose, body.atlas.femora)
    return float(heights[int(np.abs(found[:, 2] - target[2]).argmin())])


def _wasted(body: Body, rng: np.random.Generator) -> WastedBody:
    return WastedBody(body=body, states=draw_states(rng, body.patient, MUSCLES))


def _load(folder: Path | None) -> list[tuple[Atlas, Sequence[str]]]:
    if folder is None:
        return []
    return [
        (load_atlas(folder / name, complete_muscles), levels)
        for name, levels in TRAINING_LEVELS.items()
    ]


# -- whole studies --------------------------------------------------------------------------------


def training_studies(folder: Path | None) -> Callable[[int], Case]:
    """Return what makes a whole study of a body of the training set, of a seed: what a plan is derived from."""
    if folder is None:
        return _procedural_study
    return partial(_training_study, _load(folder))


def _training_study(atlases: Sequence[tuple[Atlas, Sequence[str]]], seed: int) -> Case:
    atlas, levels = atlases[seed % len(atlases)]
    imaged = [level for level in LEVELS if level in atlas.centres]
    return _study(atlas, levels, seed, imaged=imaged)


def held_out_studies(folder: Path | None) -> Callable[[int], Case]:
    """Return what makes a phantom study of a seed, labelled from its highest to its lowest level.

    Parameters
    ----------
    folder
        Folder of label maps, or None for procedural bodies of other seeds.
    """
    if folder is None:
        return _procedural_study
    other = load_atlas(folder / OTHER_BODY, complete_muscles)
    same = load_atlas(folder / SAME_BODY, complete_muscles)
    return partial(_held_out_study, other, same)


def _held_out_study(other: Atlas, same: Atlas, seed: int) -> Case:
    if seed % 2:
        return _without(OTHER_SCRAPS, _study(other, OTHER_LEVELS, seed, group=OTHER_GROUP))
    levels = TRAINING_LEVELS[SAME_BODY]
    return _study(same, levels, seed, strength=BEYOND, group=BEYOND_GROUP)


def _without(muscles: Sequence[str], case: Case) -> Case:
    """Return a study in which nobody knows where some muscles are."""
    labels = case.labels.array.copy()
    labels[np.isin(labels, [NUMBERS[muscle] for muscle in muscles])] = UNKNOWN
    return replace(case, labels=case.labels.with_array(labels))


def _study(  # noqa: PLR0913 - one per thing in which studies differ
    atlas: Atlas,
    levels: Sequence[str],
    seed: int,
    *,
    imaged: Sequence[str] = (),
    strength: float = 1.0,
    group: str = "",
) -> Case:
    """A study of the levels `imaged` (none: those that are labelled), its labels of `levels`."""
    rng = np.random.default_rng(seed)
    imaged = imaged or levels
    middle = imaged[len(imaged) // 2]
    body = _posed(atlas, middle, rng, strength=strength)
    spacing, pixel = float(rng.uniform(2.0, 5.0)), float(rng.uniform(0.8, 1.0))
    # From below the lowest to above the highest level, no further: beyond it the atlas may end.
    heights = [atlas.centres[level][2] for level in imaged]
    length = (max(heights) - min(heights) + 24) / float(body.pose.matrix[2, 2])
    between = (max(heights) + min(heights)) / 2 - atlas.centres[middle][2]
    region = ImagedRegion(
        centre=(0, 0, 0),
        shape=(round(length / spacing), round(320 / pixel), round(430 / pixel)),
        pixel_spacing=pixel,
        slice_spacing=spacing,
    )
    offset = _height_of(body, middle) + between / float(body.pose.matrix[2, 2])
    wasted = _wasted(body, rng)
    return _case(image_body(wasted, grid_of(region, (0, 0, offset)), rng), seed, levels, group)


def _procedural_study(seed: int) -> Case:
    rng = np.random.default_rng(seed)
    body = procedural_body(draw_patient(rng), rng)
    spacing = float(rng.uniform(3.0, 5.0))
    region = ImagedRegion(
        centre=(0, 0, 0),
        shape=(round(390 / spacing), 170, 240),
        pixel_spacing=1.6,
        slice_spacing=spacing,
    )
    middle = (0.0, 15.0, level_height("T11") * body.build.scale)
    phantom = image_body(_wasted(body, rng), grid_of(region, middle), rng)
    return _case(phantom, seed, LEVELS, "")


def _case(phantom: Phantom, seed: int, levels: Sequence[str], group: str) -> Case:
    return Case(
        name=f"phantom-{seed}",
        image=phantom.image,
        labels=dense(truth_of(phantom, levels), beyond=0),
        group=group,
    )


def demo_study(seed: int) -> hd.Volume:
    """Return the CT of a procedural trunk, T12 to L4, whose left psoas is wasted: HU, axes (slice, row, column)."""
    rng = np.random.default_rng(seed)
    patient = replace(
        draw_patient(rng, contrast=False),
        phase=Phase.NATIVE,
        fat_mm=12.0,
        arms=Arms.AWAY,
        implants=(),
    )
    body = procedural_body(patient, rng)
    region = ImagedRegion(
        centre=(0, 0, 0), shape=(56, 190, 260), pixel_spacing=1.5, slice_spacing=4.0
    )
    scanner = replace(draw_scanner(rng), circle=None, calibrated=False)
    states = tuple(
        replace(state, lipid=0.35, loss_mm=4.0) if state.muscle == "psoas_major_left" else state
        for state in draw_states(rng, patient, MUSCLES)
    )
    wasted = WastedBody(body=body, states=states)
    grid = grid_of(region, (0.0, 15.0, level_height("L1") * body.build.scale))
    return image_body(wasted, grid, rng, scanner=scanner).image
