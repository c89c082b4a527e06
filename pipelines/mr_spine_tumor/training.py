"""How the spine tumour pipeline is trained and evaluated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import highdicom as hd
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import nn
from torch.nn import functional

from pipelines.mr_spine_tumor.phantoms import (
    HELD_OUT_ATLAS,
    held_out_studies,
    training_slices,
)
from pipelines.mr_spine_tumor.preprocessing import PIXEL_SPACING, normalise, reference, upright
from pipelines.mr_spine_tumor.segmenting import SMALLEST_TUMOUR_ML, TUMOUR, segment_spine
from pipelines.networks.penn2d import Penn2d
from pipelines.training.case import Case
from pipelines.training.recipe import Draw, Loss, Recipe, Sample, Widths
from pipelines.training.warping import Warp

#: Rows and columns of a sample: three strides of the patches.
SAMPLE = 192
#: How often a sample is around a tumour where there is one, and a crop of own data in a slice with one.
_TUMOUR_SHARE = 0.7
#: What an error in a class counts: tumours are few and small.
_CLASS_WEIGHTS = (1.0, 1.0, 3.0)
#: By which logits of tumours are lowered in the end: training shows them more often than patients have them, and counts
#: their pixels three times. Log 9; more gives a better Dice and misses more (model card).
_TUMOUR_EXCESS = 2.2
#: Bodies of training are few, spines are not: discs of one are half as high as another's.
_WARP = Warp(turned=0.12, scaled=0.12, moved=0.0, bent=4.0 / PIXEL_SPACING, control_points=(6, 6))
#: Pixels added to both parts of a Dice coefficient: a batch without a tumour has one too.
_SMOOTH = 40.0

Floats = NDArray[np.float32]


def make_network(widths: Widths) -> nn.Module:
    """Return the network with fresh weights; `widths` are `Penn2d`'s channels."""
    return Penn2d(widths) if widths else Penn2d()


def make_loss() -> Loss:
    """Return Dice over the batch + weighted cross entropy; the publication's abstract names no loss."""
    return dice_and_cross_entropy


def dice_and_cross_entropy(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Return 1 - mean Dice over the batch + cross entropy.

    Parameters
    ----------
    logits
        float32, shape (batch, 3, rows, columns): background, vertebrae, tumours.
    truth
        float32, shape (batch, 1, rows, columns): the number of the class.
    """
    classes = truth[:, 0].long()
    weights = torch.tensor(_CLASS_WEIGHTS, device=logits.device)
    entropy = functional.cross_entropy(logits, classes, weight=weights)
    real = functional.one_hot(classes, logits.shape[1]).movedim(-1, 1)[:, 1:].to(logits.dtype)
    found = logits.softmax(dim=1)[:, 1:]
    axes = (0, 2, 3)
    overlap = 2 * (found * real).sum(axes) + _SMOOTH
    dice = overlap / (found.sum(axes) + real.sum(axes) + _SMOOTH)
    return (1 - dice).mean() + entropy


def calibrate(network: nn.Module) -> None:
    """Let tumours be as rare as in patients: lower the bias of their logits, in place."""
    if not isinstance(network, Penn2d):
        raise TypeError(f"{type(network).__name__} is no Penn2d")
    bias = network.leave.bias
    if bias is not None:
        with torch.no_grad():
            bias[TUMOUR] -= _TUMOUR_EXCESS


def phantom_crops(folder: Path | None) -> Draw:
    """Return what draws a slice of a random patient."""
    return training_slices(folder)


def phantom_study(folder: Path | None) -> Callable[[int], Case]:
    """Return what makes a study of a body that is not in training, of a seed."""
    return held_out_studies(folder)


def describe_phantoms(folder: Path | None) -> str:
    """Return which body held-out studies are of."""
    body = HELD_OUT_ATLAS.split("_")[0] if folder else "procedural body"
    return f"{body}, randomly deformed, with tumours and look-alikes"


def crop(case: Case, rng: np.random.Generator) -> Case:
    """Return a slice of a study, on the network's grid: often one with a tumour."""
    image, labels = upright(case.image), upright(case.labels)
    with_tumour = np.flatnonzero((labels.array == TUMOUR).any(axis=(1, 2)))
    with_any = np.flatnonzero(labels.array.any(axis=(1, 2)))
    choice = with_tumour if with_tumour.size and rng.random() < _TUMOUR_SHARE else with_any
    index = int(rng.choice(choice)) if choice.size else int(rng.integers(image.shape[0]))
    zoom = [float(spacing) / PIXEL_SPACING for spacing in image.spacing[1:]]
    plane = _resized(image.array[index].astype(np.float32), zoom, order=1)
    truth = _resized(labels.array[index].astype(np.float32), zoom, order=0).astype(np.uint8)
    affine = np.diag([float(image.spacing[0]), PIXEL_SPACING, PIXEL_SPACING, 1.0])
    volume = hd.Volume(array=plane[None], affine=affine, coordinate_system="PATIENT")
    return Case(
        name=case.name, image=volume, labels=volume.with_array(truth[None]), group=case.group
    )


def _resized(plane: Floats, zoom: list[float], *, order: Literal[0, 1]) -> Floats:
    if order:  # smoothed where the new pixels are larger
        plane = ndimage.gaussian_filter(plane, [max(0.0, 0.5 / part - 0.5) for part in zoom])
    made = ndimage.zoom(plane, zoom, order=order, grid_mode=True, mode="nearest")
    return np.asarray(made, np.float32)


def prepare(case: Case, rng: np.random.Generator) -> Sample:
    """Return a square of a slice as the network will see patients: warped and lit a little differently."""
    plane, truth = case.image.array[0].astype(np.float32), case.labels.array[0]
    bright = reference(plane) * float(np.exp(rng.normal(0, 0.15)))
    row, column = _draw_middle(truth, rng)
    at = _WARP.draw((SAMPLE, SAMPLE), (row, column), rng)
    image = ndimage.map_coordinates(plane, at, order=1)
    label = ndimage.map_coordinates(truth, at, order=0)
    ready = normalise(image, bright) + 1
    ready = ready ** np.float32(np.exp(rng.normal(0, 0.15))) - 1
    if (
        rng.random() < 0.5
    ):  # left and right in axial and coronal slices; sagittal ones face both ways
        ready, label = ready[:, ::-1], label[:, ::-1]
    return (
        torch.from_numpy(np.ascontiguousarray(ready, np.float32)[None]),
        torch.from_numpy(np.ascontiguousarray(label, np.float32)[None]),
    )


def _draw_middle(truth: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.float64]:
    """Row and column that a sample is centred on."""
    points = np.argwhere(truth == TUMOUR)
    if not (points.size and rng.random() < _TUMOUR_SHARE):
        points = np.argwhere(truth > 0)
    if not points.size:
        return np.asarray(rng.uniform(0.3, 0.7, 2) * truth.shape)
    return np.asarray(points[rng.integers(len(points))] + rng.normal(0, SAMPLE / 7, 2))


def segment(network: nn.Module, image: hd.Volume, variant: str) -> hd.Volume:
    """Return vertebrae (1) and tumours (2) as the product finds them; there is one variant."""
    del variant
    return segment_spine(network, image, SMALLEST_TUMOUR_ML)


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
    finish=calibrate,
    structures={1: "vertebrae", 2: "tumours"},
    published={
        "dice": 0.911,
        "iou": 0.838,
        "sensitivity": 0.911,
        "precision": 0.906,
        "accuracy": 0.932,
    },
    published_on="clinical MR",
    pool=256,
    crops_per_case=32,
    epochs=4,
    batch_size=6,
    learning_rate=2e-3,
    weight_decay=1e-4,
)
