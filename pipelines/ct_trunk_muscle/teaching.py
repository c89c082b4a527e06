"""What the networks learn from: samples, labels between labelled slices, and the loss of what is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch.nn import functional

from pipelines.ct_trunk_muscle.anatomy import BODIES, BODY_CLASS, MIRRORED, UNKNOWN
from pipelines.ct_trunk_muscle.plan import Plan
from pipelines.inference import Network, engine_of
from pipelines.training.case import Case
from pipelines.training.recipe import Sample
from pipelines.training.warping import Warp

Codes = NDArray[np.uint8]
Floats = NDArray[np.float32]
_Number = TypeVar("_Number", np.uint8, np.float32)

#: A teacher who is less sure than this says nothing.
_SURE = 0.6
#: Nor does it speak this far, mm, from slices that were labelled, or between two that lie further apart than twice it.
_NEAR_MM = 25.0
_SLICES_AT_ONCE = 8
#: How often a sample is warped, and how, standard deviations: angle, logarithm of the scales of rows and columns, mm by
#: which it is moved, and by which each of some control points is, logarithm of the scale along the patient.
_WARPED_SHARE = 0.8
_TURNED, _SCALED, _MOVED_MM, _BENT_MM = 0.12, 0.15, 12.0, 10.0
_CONTROL_POINTS = (6, 8)
_STRETCHED = 0.1
_SMOOTH = 1e-5


def masked_loss(logits: torch.Tensor, truth: torch.Tensor, weight: float = 1.0) -> torch.Tensor:
    """Return 1 - soft Dice over the batch + cross entropy, as nnU-Net's, of known voxels alone.

    Parameters
    ----------
    logits
        float32, shape (batch, classes, ...).
    truth
        Class numbers as float32, shape (batch, 1, ...); `UNKNOWN` counts for nothing.
    weight
        Of all classes but the background in the cross entropy.

    Notes
    -----
    Dice is averaged over the classes that the batch's truth has: a class without a labelled voxel would have a
    coefficient of the noise of its few probabilities.
    """
    labels = truth[:, 0].long()
    known = labels != UNKNOWN
    classes = logits.shape[1]
    weights = torch.full((classes,), weight, device=logits.device)
    weights[0] = 1.0
    entropy = functional.cross_entropy(
        logits, labels, weights, ignore_index=UNKNOWN, reduction="sum"
    )
    entropy = entropy / weights[labels[known]].sum().clamp(min=1)
    real = (
        functional.one_hot(torch.where(known, labels, 0), classes).movedim(-1, 1).to(logits.dtype)
    )
    found = torch.softmax(logits, dim=1) * known[:, None]
    real = real * known[:, None]
    axes = (0, *range(2, logits.ndim))
    overlap, found_size, size = (found * real).sum(axes), found.sum(axes), real.sum(axes)
    dice = (2 * overlap[1:] + _SMOOTH) / (found_size[1:] + size[1:] + _SMOOTH)
    present = (size[1:] > 0).to(logits.dtype)
    missed = ((1 - dice) * present).sum() / present.sum().clamp(min=1)
    return entropy + missed


def class_labels(numbers: Codes) -> Codes:
    """Return the classes of `slices` and `volume` of segment numbers: all vertebral bodies are one class."""
    lut = np.arange(256, dtype=np.uint8)
    lut[list(BODIES.values())] = BODY_CLASS
    return lut[numbers]


def level_labels(numbers: Codes) -> Codes:
    """Return the classes of `levels` of segment numbers: muscles are background."""
    lut = np.zeros(256, np.uint8)
    lut[UNKNOWN] = UNKNOWN
    for level, number in enumerate(BODIES.values(), start=1):
        lut[number] = level
    return lut[numbers]


def teach(teacher: Network, case: Case, plan: Plan) -> Case:
    """Fill the slices between labelled ones with what a network of slices is sure of.

    Parameters
    ----------
    teacher
        The plan's `slices`.
    case
        A crop on the grid of the plan's `volume`; labels are classes, `UNKNOWN` where not labelled.
    plan
        Its normalisation.
    """
    labels = case.labels.array.copy()
    known = (labels != UNKNOWN).any(axis=(1, 2))
    wanted = np.flatnonzero(_near(known, float(case.image.spacing[0])) & ~known)
    ready = plan.fingerprint.intensities.normalise(case.image.array[wanted].astype(np.float32))
    for first in range(0, len(wanted), _SLICES_AT_ONCE):
        part = slice(first, first + _SLICES_AT_ONCE)
        labels[wanted[part]] = _sure_labels(teacher, ready[part], plan)
    return replace(case, labels=case.labels.with_array(labels))


def _near(known: NDArray[np.bool_], spacing: float) -> NDArray[np.bool_]:
    """Which slices lie near enough to a labelled one."""
    if not known.any():
        return known
    away = ndimage.distance_transform_edt(~known) * spacing
    return np.asarray(away <= _NEAR_MM)


def _sure_labels(teacher: Network, slices: Floats, plan: Plan) -> Codes:
    engine = engine_of(teacher)
    multiple = plan.slices.multiples[0]
    rows, columns = slices.shape[1:]
    image = torch.from_numpy(slices)[:, None].to(engine.device)
    padding = (0, -columns % multiple, 0, -rows % multiple)
    with torch.inference_mode():
        logits = engine(functional.pad(image, padding, value=plan.fingerprint.intensities.air))
        sure, labels = torch.softmax(logits[..., :rows, :columns], dim=1).max(dim=1)
    said = torch.where(sure >= _SURE, labels, UNKNOWN)
    return np.asarray(said.cpu().numpy(), np.uint8)


# -- samples --------------------------------------------------------------------------------------


def to_sample(
    case: Case,
    plan: Plan,
    patch: tuple[int, ...],
    mirrored: Callable[[Codes], Codes],
    rng: np.random.Generator,
) -> Sample:
    """Return a crop as a network sees patients: cut or padded to its patch, varied, normalised, mirrored by chance.

    Parameters
    ----------
    case
        Image in HU and labels that are classes of a network, axes (slice, row, column).
    plan
        Its normalisation.
    patch
        Of the network; two sides are one slice.
    mirrored
        What labels are in a mirror.
    rng
        Source of chance.
    """
    shape = patch if len(patch) == 3 else (1, *patch)
    window = _place(case.labels.array, shape, rng)
    if rng.random() < _WARPED_SHARE:
        image, labels = _warped(case, window, shape, rng)
    else:
        image = _cut(case.image.array.astype(np.float32), window, shape, -1000.0)
        labels = _cut(case.labels.array, window, shape, UNKNOWN)
    if len(patch) == 3 and rng.random() < 0.4:
        image = _thicken(image, rng)
    # Scanners differ: in slope, offset and noise.
    image = image * float(rng.uniform(0.94, 1.06)) + float(rng.normal(0, 10))
    if rng.random() < 0.3:
        image += rng.normal(0, rng.uniform(2, 15), image.shape).astype(np.float32)
    ready = plan.fingerprint.intensities.normalise(image)
    if rng.random() < 0.5:
        ready, labels = np.flip(ready, 2), np.flip(mirrored(labels), 2)
    if len(patch) == 2:
        ready, labels = ready[0], labels[0]
    return (
        torch.from_numpy(np.ascontiguousarray(ready, np.float32)[None]),
        torch.from_numpy(np.ascontiguousarray(labels, np.float32)[None]),
    )


def swap_sides(labels: Codes) -> Codes:
    """Return muscle classes with left and right exchanged."""
    lut = np.arange(256, dtype=np.uint8)
    lut[: len(MIRRORED)] = MIRRORED
    return lut[labels]


def _place(labels: Codes, shape: tuple[int, ...], rng: np.random.Generator) -> tuple[int, ...]:
    """First voxel of the patch: anywhere inside, or centred where the crop is smaller."""
    room = np.array(labels.shape) - shape
    return tuple(int(rng.integers(0, free + 1)) if free > 0 else int(free // 2) for free in room)


def _cut(
    array: NDArray[_Number], first: tuple[int, ...], shape: tuple[int, ...], outside: float
) -> NDArray[_Number]:
    made = np.full(shape, outside, array.dtype)
    source, target = [], []
    for start, side, length in zip(first, shape, array.shape, strict=True):
        low, high = max(0, start), min(length, start + side)
        source.append(slice(low, high))
        target.append(slice(low - start, high - start))
    made[tuple(target)] = array[tuple(source)]
    return made


def _warped(
    case: Case, first: tuple[int, ...], shape: tuple[int, ...], rng: np.random.Generator
) -> tuple[Floats, Codes]:
    """Cut a patch that is moved, turned, scaled and bent, all slices alike: bodies differ more than label maps do."""
    rows, columns = shape[1:]
    pixel = float(case.image.spacing[1])
    warp = Warp(
        turned=_TURNED,
        scaled=_SCALED,
        moved=_MOVED_MM / pixel,
        bent=_BENT_MM / pixel,
        control_points=_CONTROL_POINTS,
    )
    middle = (first[1] + (rows - 1) / 2, first[2] + (columns - 1) / 2)
    at = warp.draw((rows, columns), middle, rng)
    # One slice stays what it is: its neighbours are not in the crop.
    stretch = np.exp(rng.normal(0, _STRETCHED)) if shape[0] > 1 else 1.0
    along = first[0] + (shape[0] - 1) / 2 + stretch * (np.arange(shape[0]) - (shape[0] - 1) / 2)
    points = np.empty((3, *shape))
    points[0], points[1:] = along[:, None, None], at[:, None]
    image = ndimage.map_coordinates(
        case.image.array.astype(np.float32), points, order=1, cval=-1000.0
    )
    return image, ndimage.map_coordinates(case.labels.array, points, order=0, cval=UNKNOWN)


def _thicken(image: Floats, rng: np.random.Generator) -> Floats:
    """Average along the patient as slices thicker than the grid's do."""
    size = int(rng.integers(2, 4))
    return np.asarray(ndimage.uniform_filter1d(image, size, axis=0), np.float32)
