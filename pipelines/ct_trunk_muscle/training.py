"""How the muscle pipeline is trained, in stages, and evaluated.

Only slices through the middle of a vertebra need labels. The network of slices learns from them; the network of volumes
learns from them too and, between them, from what the first is sure of; the coarse network of levels learns which
vertebra is which. `full` trains the network of volumes on labels of every slice, to see what sparse labels cost.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import highdicom as hd
import numpy as np
from torch import nn

from pipelines.ct_trunk_muscle.anatomy import NUMBERS
from pipelines.ct_trunk_muscle.networks import Part, TrunkNetworks, load_networks
from pipelines.ct_trunk_muscle.phantoms import (
    BEYOND_GROUP,
    DrawTruth,
    Kind,
    held_out_studies,
    training_crops,
)
from pipelines.ct_trunk_muscle.plan import PLAN_NAME, NetworkPlan, Plan, read_plan
from pipelines.ct_trunk_muscle.segmenting import UPRIGHT, Networks, segment_trunk
from pipelines.ct_trunk_muscle.teaching import (
    class_labels,
    level_labels,
    masked_loss,
    swap_sides,
    teach,
    to_sample,
)
from pipelines.ct_trunk_muscle.truth import Codes, Truth, dense, sparse
from pipelines.errors import TrainingError
from pipelines.inference import Network
from pipelines.inference.grid import put_back
from pipelines.qct_femur.grids import resample
from pipelines.training.case import UNKNOWN, Case
from pipelines.training.recipe import Draw, Loss, Recipe, Sample, Widths

_FOLDER = Path(__file__).resolve().parent
#: Voxels by which own crops are larger than a patch, for patches to differ.
_ROOM = 16
#: A vertebral body is a hundredth of the coarse image at most: unweighted, a network does not begin to see it.
_BODIES_WEIGHT = 30.0
_KINDS = {Part.SLICES: Kind.SLICE, Part.VOLUME: Kind.VOLUME, Part.LEVELS: Kind.LEVELS}


@cache
def shipped_plan() -> Plan:
    """The plan beside the weights."""
    return read_plan(_FOLDER / PLAN_NAME)


def make_network(part: Part, widths: Widths) -> nn.Module:
    """Return all networks with fresh weights; `widths` are the channels of the one that is trained."""
    plan = shipped_plan()
    if widths:
        wider = _network_plan(plan, part).model_copy(update={"channels": widths})
        plan = plan.model_copy(update={part.value: wider})
    return TrunkNetworks(plan, part)


def make_loss(part: Part) -> Loss:
    """Return Dice + cross entropy over what is labelled."""
    return partial(masked_loss, weight=_BODIES_WEIGHT if part is Part.LEVELS else 1.0)


def phantom_study(folder: Path | None) -> Callable[[int], Case]:
    """Return what makes a study that is not in training, of a seed."""
    return held_out_studies(folder)


def describe_phantoms(folder: Path | None) -> str:
    """Return which bodies held-out studies are of."""
    if folder is None:
        return "procedural body, randomly built"
    return f"bp3d at T10 to L4, not learned from there, and of spl ({BEYOND_GROUP})"


def judged(case: Case) -> Case:
    """Return a study with its muscles alone; slices without any label were not labelled, and are not judged.

    So in training too (`own_crop`). Bodies are helpers: where they lie there is no muscle.
    """
    labels = case.labels.to_patient_orientation(UPRIGHT)
    muscles = np.where(labels.array <= max(NUMBERS.values()), labels.array, np.uint8(0))
    muscles[labels.array == UNKNOWN] = UNKNOWN
    muscles[~labels.array.any(axis=(1, 2))] = UNKNOWN
    back = labels.with_array(muscles).to_patient_orientation(
        case.labels.get_closest_patient_orientation()
    )
    return replace(case, labels=case.labels.with_array(np.ascontiguousarray(back.array)))


def segment(network: nn.Module, image: hd.Volume, variant: str) -> hd.Volume:
    """Return the muscles as the product finds them, or as the network of slices alone does."""
    if not isinstance(network, TrunkNetworks):
        raise TypeError(f"networks of a plan are needed, not {type(network).__name__}")
    part = Part(variant)
    networks = Networks(
        muscles=network.get_submodule(part),
        part=part,
        levels=network.levels,
        plan=shipped_plan(),
    )
    return put_back(segment_trunk(networks, image).labels, image)


# -- crops ----------------------------------------------------------------------------------------


def phantom_crops(part: Part, teacher: Network | None, full: bool, folder: Path | None) -> Draw:
    """Return what draws a labelled crop of a random patient for a network."""
    draw = training_crops(folder, shipped_plan(), _KINDS[part])
    return partial(_phantom_crop, draw, part, teacher, full)


def _phantom_crop(
    draw: DrawTruth, part: Part, teacher: Network | None, full: bool, rng: np.random.Generator
) -> Case:
    phantom, truth = draw(rng)
    while not truth.planes or (not full and not truth.middles):
        phantom, truth = draw(rng)
    case = Case(name="phantom", image=phantom.image, labels=_labels(truth, part, full))
    return case if teacher is None else teach(teacher, case, shipped_plan())


def _labels(truth: Truth, part: Part, full: bool) -> hd.Volume:
    # Of bodies the helper label has all slices; of muscles physicians drew one for each.
    labels = dense(truth) if full or part is Part.LEVELS else sparse(truth)
    return labels.with_array(_classes_of(part)(labels.array))


def _classes_of(part: Part) -> Callable[[Codes], Codes]:
    return level_labels if part is Part.LEVELS else class_labels


def own_crop(part: Part, teacher: Network | None, case: Case, rng: np.random.Generator) -> Case:
    """Return a random crop of a labelled study; slices without any label were not labelled.

    Parameters
    ----------
    part
        The network it is for.
    teacher
        Fills slices between labelled ones, None: nobody.
    case
        Labels are segment numbers.
    rng
        Source of chance.
    """
    plan = shipped_plan()
    image, labels = (volume.to_patient_orientation(UPRIGHT) for volume in (case.image, case.labels))
    labelled = np.flatnonzero(labels.array.any(axis=(1, 2)))
    if not labelled.size:
        raise TrainingError(
            f"{case.name} has no labelled slice; leave the study out.", code="training-data-empty"
        )
    index = int(rng.choice(labelled))
    points = np.argwhere(labels.array[index])
    row, column = points[rng.integers(len(points))]
    centre = image.map_indices_to_reference(np.array([[index, row, column]]))[0]
    grid = _grid(_network_plan(plan, part), centre, float(image.spacing[0]))
    cropped = resample(image, grid)
    classes = _classes_of(part)(_nearest(labels, cropped, labelled))
    truth = cropped.with_array(classes)
    made = Case(name=case.name, image=cropped, labels=truth, group=case.group)
    return made if teacher is None else teach(teacher, made, plan)


def _grid(network: NetworkPlan, centre: np.ndarray, thickness: float) -> hd.VolumeGeometry:
    """Upright, around a point; of a slice network: one slice as thick as the source's."""
    one_slice = len(network.patch) == 2
    shape = (1, *network.patch) if one_slice else network.patch
    spacing = (thickness, *network.spacing) if one_slice else network.spacing
    room = [side + _ROOM if side > 1 else 1 for side in shape]
    return hd.VolumeGeometry.from_components(
        room,
        spacing=spacing,
        coordinate_system="PATIENT",
        center_position=[float(value) for value in centre],
        patient_orientation=UPRIGHT,
    )


def _nearest(labels: hd.Volume, grid: hd.Volume, labelled: np.ndarray) -> Codes:
    """Labels at the grid's voxels; `UNKNOWN` where the nearest slice is not labelled or too far, and outside."""
    indices = np.stack(np.meshgrid(*map(np.arange, grid.spatial_shape), indexing="ij"), axis=-1)
    points = grid.map_indices_to_reference(indices.reshape(-1, 3))
    at = np.asarray(labels.map_reference_to_indices(points)).reshape(*grid.spatial_shape, 3)
    nearest = np.rint(at).astype(int)
    shape = np.asarray(labels.spatial_shape)
    inside = ((nearest >= 0) & (nearest < shape)).all(axis=-1)
    z, y, x = np.moveaxis(nearest.clip(0, shape - 1), -1, 0)
    away = np.abs(at[..., 0] - nearest[..., 0]) * float(labels.spacing[0])
    reach = max(0.5 * float(grid.spacing[0]), 0.75)
    known = inside & np.isin(z, labelled) & (away <= reach + 1e-6)
    return np.where(known, labels.array[z, y, x], np.uint8(UNKNOWN)).astype(np.uint8)


def prepare(part: Part, case: Case, rng: np.random.Generator) -> Sample:
    """Return a crop as the network will see patients."""
    plan = shipped_plan()
    network = _network_plan(plan, part)
    mirrored = _unchanged if part is Part.LEVELS else swap_sides
    return to_sample(case, plan, network.patch, mirrored, rng)


def _unchanged(labels: Codes) -> Codes:
    return labels


def _network_plan(plan: Plan, part: Part) -> NetworkPlan:
    return {Part.SLICES: plan.slices, Part.VOLUME: plan.volume, Part.LEVELS: plan.levels}[part]


def _begin_volume(network: nn.Module) -> None:
    if isinstance(network, TrunkNetworks):
        network.begin_volume()


# -- recipes --------------------------------------------------------------------------------------


def _stage(part: Part, init: Path | None, *, full: bool = False, taught: bool = False) -> Recipe:
    """The recipe of a stage; `init` holds the weights of those before."""
    teacher: Network | None = None
    if taught:
        if init is None:
            raise TrainingError(
                "The stage volume is taught by the network of slices: train --stage slices first and give its weights "
                "with --init.",
                code="training-stage",
            )
        teacher = load_networks(init, shipped_plan(), "cpu").slices
    return replace(
        RECIPE,
        stages={},
        teacher=init if taught else None,
        make_network=partial(make_network, part),
        make_loss=partial(make_loss, part),
        phantom_crops=partial(phantom_crops, part, teacher, full),
        crop=partial(own_crop, part, teacher),
        prepare=partial(prepare, part),
        batch_size=_network_plan(shipped_plan(), part).batch_size,
        finish=_begin_volume if part is Part.SLICES else None,
    )


RECIPE = Recipe(
    folder=_FOLDER,
    make_network=partial(make_network, Part.VOLUME),
    make_loss=partial(make_loss, Part.VOLUME),
    phantom_crops=partial(phantom_crops, Part.VOLUME, None, False),
    phantom_study=phantom_study,
    describe_phantoms=describe_phantoms,
    crop=partial(own_crop, Part.VOLUME, None),
    judged=judged,
    prepare=partial(prepare, Part.VOLUME),
    segment=segment,
    variants=(Part.SLICES, Part.VOLUME),
    structures={number: name.replace("_", " ") for name, number in NUMBERS.items()},
    published={"dice": 0.769},
    published_on="2,009 clinical slices",
    folds=5,
    phantoms=4000,
    epochs=8,
    batch_size=2,
    learning_rate=3e-3,
    weight_decay=1e-4,
    pool=32,
    stages={
        "slices": partial(_stage, Part.SLICES),
        "volume": partial(_stage, Part.VOLUME, taught=True),
        "levels": partial(_stage, Part.LEVELS),
        "full": partial(_stage, Part.VOLUME, full=True),
    },
)
