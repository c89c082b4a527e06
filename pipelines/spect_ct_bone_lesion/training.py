"""How the lesion pipeline is trained and evaluated: three sets of inputs side by side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import highdicom as hd
import numpy as np
import torch
from monai.losses.dice import DiceCELoss
from numpy.typing import NDArray
from scipy import ndimage
from torch import nn

from pipelines.errors import TrainingError
from pipelines.inference.grid import resample
from pipelines.spect_ct_bone_lesion.grids import (
    AIR_HU,
    PIXEL_MM,
    UPRIGHT,
    onto,
    score_on_source,
    to_network,
)
from pipelines.spect_ct_bone_lesion.networks import (
    CLASSES,
    SLICES,
    Inputs,
    LesionNetworks,
    schedule,
)
from pipelines.spect_ct_bone_lesion.phantoms import (
    HELD_OUT_ATLAS,
    held_out_studies,
    training_crops,
)
from pipelines.spect_ct_bone_lesion.preprocessing import (
    normalise_ct,
    normalise_spect,
    typical_counts,
)
from pipelines.spect_ct_bone_lesion.segmenting import Images, Lesions, find_lesions
from pipelines.training.case import Case, Found
from pipelines.training.recipe import Draw, Loss, Recipe, Sample, Widths
from pipelines.training.warping import Warp

#: Rows and columns of a sample, pixels: a whole trunk from side to side.
SIZE = (128, 192)
#: How often a sample shows a lesion; patients have more slices without.
_LESION_SHARE = 0.5
_METASTASIS, _BENIGN = 1, 2
#: How slices are warped, both images and the truth alike.
_WARP = Warp(turned=0.1, scaled=0.1, moved=0.0, bent=4.0 / PIXEL_MM, control_points=(5, 7))
#: Slices of a crop of own data.
_SLAB = 6
#: Weight of each class in the cross entropy: lesions are rare.
_WEIGHTS = (1.0, 3.0, 3.0)


def make_network(widths: Widths) -> nn.Module:
    """Return the three networks with fresh weights; `widths` are the channels of the four levels of each."""
    return LesionNetworks(widths)


def make_loss() -> Loss:
    """Return Dice over the batch + cross entropy, averaged over the three networks."""
    one: Loss = DiceCELoss(
        include_background=False,
        to_onehot_y=True,
        softmax=True,
        batch=True,
        smooth_nr=1.0,
        smooth_dr=1.0,
        weight=torch.tensor(_WEIGHTS),
    )

    def loss(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        parts = [one(part, truth) for part in torch.split(logits, CLASSES, dim=1)]
        return torch.stack(parts).mean()

    return loss


def phantom_crops(folder: Path | None) -> Draw:
    """Return what draws some slices of a random patient."""
    return training_crops(folder)


def phantom_study(folder: Path | None) -> Callable[[int], Case]:
    """Return what makes a study of a body that is not in training, of a seed."""
    return held_out_studies(folder)


def describe_phantoms(folder: Path | None) -> str:
    """Return which body held-out studies are of."""
    body = HELD_OUT_ATLAS.split(".")[0] if folder else "procedural body"
    return f"{body}, randomly deformed, lesions drawn into it"


def crop(case: Case, rng: np.random.Generator) -> Case:
    """Return some slices of a study, both images on the network's pixels.

    Raises
    ------
    TrainingError
        `training-no-partner`, when a study has no CT.
    """
    ct = case.partners.get("ct")
    if ct is None:
        raise TrainingError(
            f"Study {case.name} has no CT beside its SPECT: the three networks learn from pairs.",
            code="training-no-partner",
        )
    spect = to_network(case.image)
    truth = case.labels.to_patient_orientation(UPRIGHT)
    labels = np.zeros(spect.spatial_shape, np.uint8)
    for value in (_METASTASIS, _BENIGN):
        one = truth.with_array((truth.array == value).astype(np.float32))
        labels[resample(one, spect.spacing).array >= 0.5] = value
    first = _draw_index(labels, rng) - _SLAB // 2
    first = int(np.clip(first, 0, max(0, labels.shape[0] - _SLAB)))
    window = slice(first, first + _SLAB)
    image: hd.Volume = spect[window]
    return replace(
        case,
        image=image,
        labels=image.with_array(labels[window]),
        partners={"ct": onto(image, ct, AIR_HU)},
    )


def prepare(case: Case, rng: np.random.Generator) -> Sample:
    """Return a slice of a crop and its neighbours as the networks will see patients, of both images, as channels."""
    index = _draw_index(case.labels.array, rng)
    around = np.arange(index - SLICES // 2, index + SLICES // 2 + 1)
    around = around.clip(0, case.image.shape[0] - 1)
    typical = typical_counts(case.image.array) * float(np.exp(rng.normal(0, 0.2)))
    spect = normalise_spect(case.image.array[around].astype(np.float32), typical)
    hounsfield = case.partners["ct"].array[around].astype(np.float32)
    hounsfield = hounsfield * float(rng.uniform(0.93, 1.07)) + float(rng.normal(0, 12))
    ct, truth = normalise_ct(hounsfield), case.labels.array[index].astype(np.float32)
    # Each with the order of its interpolation, and what is outside.
    layers: tuple[tuple[NDArray[np.float32], Literal[0, 1], float], ...] = (
        *((one, 1, float(spect.min())) for one in spect),
        *((one, 1, float(ct.min())) for one in ct),
        (truth, 0, 0.0),
    )
    at = _draw_view(truth.shape, rng)
    cut = [
        ndimage.map_coordinates(layer, at, order=order, cval=outside)
        for layer, order, outside in layers
    ]
    if rng.random() < 0.5:
        cut = [np.flip(layer, 1) for layer in cut]
    ready = np.ascontiguousarray(np.stack(cut), np.float32)
    return torch.from_numpy(ready[:-1]), torch.from_numpy(ready[-1:])


def _draw_index(labels: NDArray[np.uint8], rng: np.random.Generator) -> int:
    """A slice, mostly one with a lesion."""
    with_lesion = np.flatnonzero(labels.any(axis=(1, 2)))
    if with_lesion.size and rng.random() < _LESION_SHARE:
        return int(rng.choice(with_lesion))
    return int(rng.integers(labels.shape[0]))


def _draw_view(shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float64]:
    """Places of a window about the middle of a slice; half of the slices are warped."""
    room = np.maximum(np.abs(np.subtract(shape, SIZE)) / 2, 8)
    row, column = (np.asarray(shape) - 1) / 2 + rng.uniform(-1, 1, 2) * room
    if rng.random() < 0.5:
        return _WARP.draw(SIZE, (row, column), rng)
    # As it is: to interpolate is to smooth, which patients' slices are not.
    rows, columns = SIZE
    first = np.rint((row - (rows - 1) / 2, column - (columns - 1) / 2))
    return np.indices(SIZE, np.float64) + first[:, None, None]


def segment(network: nn.Module, image: hd.Volume, variant: str) -> hd.Volume:
    """Return what SPECT alone shows: 1 metastasis, 2 benign lesion; a case with its partner goes to `find`."""
    return find(network, Case(name="", image=image, labels=image), variant).labels


def find(network: nn.Module, case: Case, variant: str) -> Found:
    """Return the lesions of a case as the product finds them with a set of inputs, on the grid of SPECT.

    Parameters
    ----------
    network
        `LesionNetworks`.
    case
        SPECT, and CT among its partners where the variant needs it.
    variant
        One of `Inputs`.
    """
    if not isinstance(network, LesionNetworks):
        raise TypeError(f"{type(network).__name__} is no LesionNetworks")
    inputs, ct = Inputs(variant), case.partners.get("ct")
    if inputs is not Inputs.SPECT and ct is None:
        raise TrainingError(
            f"Study {case.name} has no CT: {inputs} cannot be evaluated.",
            code="training-no-partner",
        )
    images = Images(
        spect=None if inputs is Inputs.CT else case.image,
        ct=None if inputs is Inputs.SPECT else ct,
    )
    found = find_lesions(network.of(inputs), images)
    classes = _by_class(found)
    if inputs is not Inputs.CT:
        return Found(labels=classes, score=score_on_source(found.malignancy, case.image))
    # CT alone is reported on its own grid; it is compared with the others on theirs.
    return Found(
        labels=_sampled(classes, case.image), score=_linearly(found.malignancy, case.image)
    )


def _by_class(found: Lesions) -> hd.Volume:
    table = np.zeros(len(found.lesions) + 1, np.uint8)
    for lesion in found.lesions:
        table[lesion.number] = _METASTASIS if lesion.malignant else _BENIGN
    return found.labels.with_array(table[found.labels.array])


def _sampled(labels: hd.Volume, image: hd.Volume) -> hd.Volume:
    """Each class where it fills most of a voxel of another image."""
    made = np.zeros(image.spatial_shape, np.uint8)
    for value in (_METASTASIS, _BENIGN):
        one = labels.with_array((labels.array == value).astype(np.float32))
        made[_linearly(one, image).array >= 0.5] = value
    return image.with_array(made)


def _linearly(volume: hd.Volume, image: hd.Volume) -> hd.Volume:
    on_image = onto(image.to_patient_orientation(UPRIGHT), volume, 0.0)
    back = on_image.to_patient_orientation(image.get_closest_patient_orientation())
    return image.with_array(np.ascontiguousarray(back.array, np.float32))


RECIPE = Recipe(
    folder=Path(__file__).resolve().parent,
    make_network=make_network,
    make_loss=make_loss,
    phantom_crops=phantom_crops,
    phantom_study=phantom_study,
    describe_phantoms=describe_phantoms,
    crop=crop,
    prepare=prepare,
    segment=segment,
    find=find,
    rated=(_METASTASIS, _BENIGN),
    schedule=schedule,
    variants=tuple(Inputs),
    structures={_METASTASIS: "bone metastases", _BENIGN: "benign bone lesions"},
    published={"dice": 0.963},
    published_on="SPECT/CT (SPECT 0.940, CT 0.962, with transfer learning 0.984)",
    folds=5,
    # A crop has several slices, and each is augmented anew.
    epochs=6,
    phantoms=8000,
    batch_size=8,
    learning_rate=2e-3,
    weight_decay=1e-4,
    pool=160,
)
