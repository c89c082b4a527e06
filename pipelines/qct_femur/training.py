"""How the femur pipeline is trained and evaluated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import highdicom as hd
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import nn
from torch.nn import functional

from pipelines.networks.vnet3d import VNet3d
from pipelines.qct_femur.anatomy import cut_proximal, distances, fit_head
from pipelines.qct_femur.grids import AIR_HU, patient_grid, resample
from pipelines.qct_femur.phantoms import (
    COARSE_CROP,
    FINE_SHARE,
    HELD_OUT_ATLAS,
    held_out_studies,
    training_crops,
)
from pipelines.qct_femur.pipeline import segment_femora
from pipelines.qct_femur.segmenting import (
    COARSE_MM,
    FINE_MM,
    Side,
    crop_grid,
    middle_of,
    normalise,
)
from pipelines.training.case import UNKNOWN, Case
from pipelines.training.recipe import Draw, Loss, Recipe, Sample, Widths

#: Sides of a sample, voxels: 96 mm finely, 256 mm coarsely.
SAMPLE = 64
#: Value of a truth that is not judged.
UNJUDGED = -1.0
#: Voxels added to both parts of a Dice coefficient: a sample without a femur has one too.
_SMOOTH = 50.0

Floats = NDArray[np.float32]


def make_network(widths: Widths) -> nn.Module:
    """Return the network with fresh weights; `widths` are the channels of its levels, full resolution first."""
    return VNet3d(widths) if widths else VNet3d()


def make_loss() -> Loss:
    """Return Dice + cross entropy; the publication's second term, the L2 norm of the weights, is the weight decay."""
    return dice_and_cross_entropy


def dice_and_cross_entropy(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Return 1 - Dice of each sample (Milletari's squares in the denominator) + cross entropy, averaged.

    Of each sample and not of the batch: a femur has twenty times more voxels finely than coarsely. Cross entropy,
    which the publication does not have, tells samples without a femur what is wrong; Dice is flat there.

    Parameters
    ----------
    logits
        float32, shape (batch, 1, slices, rows, columns).
    truth
        Same shape: 1 in a femur, 0 elsewhere, `UNJUDGED` where nobody knows.
    """
    judged = (truth >= 0).to(logits.dtype)
    real = truth.clamp(min=0)
    found = torch.sigmoid(logits) * judged
    axes = (1, 2, 3, 4)
    overlap, total = (found * real).sum(axes), (found**2).sum(axes) + (real**2).sum(axes)
    dice = (2 * overlap + _SMOOTH) / (total + _SMOOTH)
    entropy = functional.binary_cross_entropy_with_logits(logits, real, weight=judged)
    return (1 - dice).mean() + entropy


def phantom_crops(folder: Path | None) -> Draw:
    """Return what draws a crop of a random patient."""
    return training_crops(folder)


def phantom_study(folder: Path | None) -> Callable[[int], Case]:
    """Return what makes a study of a body that is not in training, of a seed."""
    return held_out_studies(folder)


def describe_phantoms(folder: Path | None) -> str:
    """Return which body held-out studies are of."""
    body = HELD_OUT_ATLAS.split("_")[0] if folder else "procedural body"
    return f"{body}, randomly deformed and posed"


def crop(case: Case, rng: np.random.Generator) -> Case:
    """Return a fine crop around a labelled femur, or a coarse one near it.

    Own labels may be of the whole femur or of its proximal part: beyond the reach of the head what is not labelled is
    `UNKNOWN`.
    """
    labelled = np.unique(case.labels.array[case.labels.array > 0])
    if labelled.size == 0:
        return _crop_anywhere(case, rng)
    number = int(rng.choice(labelled))
    femur = case.labels.with_array((case.labels.array == number).astype(np.uint8))
    head = fit_head(femur)
    middle = middle_of(femur) if head is None else head.centre
    side = Side.LEFT if number == 1 else Side.RIGHT
    if rng.random() < FINE_SHARE:
        grid = crop_grid(middle + rng.normal(0, 6, 3), side)
    else:
        grid = patient_grid(middle + rng.normal(0, 40, 3), COARSE_CROP, COARSE_MM)
    image = resample(case.image, grid)
    labels = np.zeros(grid.spatial_shape, np.uint8)
    for value in (1, 2):
        one = case.labels.with_array((case.labels.array == value).astype(np.float32))
        labels[resample(one, grid, outside=0).array >= 0.5] = value
    if head is not None:
        beyond = distances(image, head.centre) > head.reach
        below = _heights(image) < head.centre[2] - 0.5 * head.reach
        labels[(labels == 0) & beyond & below] = UNKNOWN
    return Case(name=case.name, image=image, labels=image.with_array(labels), group=case.group)


def _crop_anywhere(case: Case, rng: np.random.Generator) -> Case:
    """A coarse crop of a study without a femur: what is none."""
    index = rng.uniform(0, np.array(case.image.spatial_shape) - 1)
    middle = case.image.map_indices_to_reference(index[None])[0]
    image = resample(case.image, patient_grid(middle, COARSE_CROP, COARSE_MM))
    labels = image.with_array(np.zeros(image.spatial_shape, np.uint8))
    return Case(name=case.name, image=image, labels=labels, group=case.group)


def judged(case: Case) -> Case:
    """Return a study whose labels are cut to the proximal femora, as the pipeline reports them.

    A labelled femur in which no head is found stays as it was labelled: it is looked for, and missed if it is not
    found. To leave it out would turn what is hard into what is not there.
    """
    whole, cut = case.labels.array, cut_proximal(case.labels).array.copy()
    for number in (1, 2):
        if not (cut == number).any():
            cut[(whole == number) & (cut == 0)] = number
    return replace(case, labels=case.labels.with_array(cut))


def prepare(case: Case, rng: np.random.Generator) -> Sample:
    """Return a random cube of a crop as the network will see patients: fine ones as left femora."""
    fine = float(case.image.spacing[1]) < (FINE_MM + COARSE_MM) / 2
    labels = case.labels.array
    right = np.count_nonzero(labels == 2) > np.count_nonzero(labels == 1)
    mirrored = right if fine else rng.random() < 0.5
    orientation = "HPR" if mirrored else "HPL"
    image = case.image.to_patient_orientation(orientation).array
    truth = case.labels.to_patient_orientation(orientation).array
    window = _draw_window(truth, rng)
    hounsfield = image[window].astype(np.float32)
    target = np.where(truth[window] == UNKNOWN, UNJUDGED, truth[window] > 0).astype(np.float32)
    hounsfield = _thicken(hounsfield, rng) if fine and rng.random() < 0.5 else hounsfield
    hounsfield = hounsfield * float(rng.uniform(0.93, 1.07)) + float(rng.normal(0, 12))
    if rng.random() < 0.2:
        beyond = _beyond(hounsfield.shape, rng)
        hounsfield[beyond], target[beyond] = AIR_HU, 0.0
    ready = normalise(hounsfield)
    return torch.from_numpy(ready[None]), torch.from_numpy(target[None])


def _draw_window(truth: NDArray[np.uint8], rng: np.random.Generator) -> tuple[slice, ...]:
    """A cube of `SAMPLE` voxels, mostly around a labelled one, inside of the crop."""
    room = np.maximum(0, np.array(truth.shape) - SAMPLE)
    labelled = np.argwhere((truth[::4, ::4, ::4] > 0) & (truth[::4, ::4, ::4] != UNKNOWN)) * 4
    if len(labelled) and rng.random() < 0.75:
        near = labelled[rng.integers(len(labelled))] + rng.normal(0, SAMPLE / 6, 3)
        first = np.clip(np.rint(near - SAMPLE / 2), 0, room).astype(int)
    else:
        first = rng.integers(0, room + 1)
    return tuple(slice(int(start), int(start) + SAMPLE) for start in first)


def _thicken(image: Floats, rng: np.random.Generator) -> Floats:
    """Blur along the patient as slices of 2 to 5 mm would, and sample as they are far apart."""
    thickness = float(rng.uniform(2, 5)) / FINE_MM
    blurred = ndimage.gaussian_filter1d(image, 0.35 * thickness, axis=0)
    length = image.shape[0]
    at = np.arange(rng.uniform(0, thickness), length, thickness)
    low = np.clip(np.searchsorted(at, np.arange(length)) - 1, 0, len(at) - 2)
    share = ((np.arange(length) - at[low]) / thickness).clip(0, 1)[:, None, None]
    planes = blurred[np.clip(np.rint(at), 0, length - 1).astype(int)]
    return np.asarray((1 - share) * planes[low] + share * planes[low + 1], np.float32)


def _beyond(shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.bool_]:
    """What a field of view leaves out: up to two thirds from one end of an axis."""
    beyond = np.zeros(shape, bool)
    axis = int(rng.integers(3))
    cut = int(rng.uniform(0.05, 0.65) * shape[axis])
    index: list[slice] = [slice(None)] * 3
    index[axis] = slice(0, cut) if rng.random() < 0.5 else slice(shape[axis] - cut, None)
    beyond[tuple(index)] = True
    return beyond


def _heights(volume: hd.Volume) -> Floats:
    """z of every slice of a grid along the patient's axes, mm; broadcasts."""
    z = volume.affine[2, 0] * np.arange(volume.spatial_shape[0]) + volume.affine[2, 3]
    return np.asarray(z[:, None, None], np.float32)


def segment(network: nn.Module, image: hd.Volume, variant: str) -> hd.Volume:
    """Return the proximal femora as the product finds them."""
    return segment_femora(network, image, variant)


RECIPE = Recipe(
    folder=Path(__file__).resolve().parent,
    make_network=make_network,
    make_loss=make_loss,
    phantom_crops=phantom_crops,
    phantom_study=phantom_study,
    describe_phantoms=describe_phantoms,
    crop=crop,
    judged=judged,
    prepare=prepare,
    segment=segment,
    structures={1: "left proximal femur", 2: "right proximal femur"},
    published={"dice": 0.9815, "sensitivity": 0.9852, "specificity": 0.9992, "r2": 0.9956},
    published_on="397 clinical QCT",
    folds=10,
    test_share=0.1,
    phantoms=2000,
    epochs=10,
    batch_size=4,
    learning_rate=3e-3,
    weight_decay=1e-3,
    pool=48,
)
