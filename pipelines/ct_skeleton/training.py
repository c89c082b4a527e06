"""How the skeleton pipeline is trained and evaluated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import highdicom as hd
import numpy as np
from monai.losses.dice import DiceCELoss
from torch import nn

from pipelines.ct_skeleton.phantoms import (
    HELD_OUT_ATLAS,
    held_out_studies,
    judged_truth,
    training_slices,
)
from pipelines.ct_skeleton.pipeline import PIXEL_SPACING, segment_skeleton
from pipelines.ct_skeleton.preprocessing import (
    CLIP_HU,
    Floats,
    Normalisation,
    apply_threshold,
    clip,
    normalise,
    upper_bound,
)
from pipelines.ct_skeleton.stretcher import body_mask
from pipelines.networks.unet2d import UNet2d
from pipelines.training.case import UNKNOWN, Case
from pipelines.training.crops import slice_crop
from pipelines.training.phantoms.tissues import Phantom, skeleton_of
from pipelines.training.recipe import Draw, Loss, Recipe, Sample, Widths
from pipelines.training.stream import Render, to_sample

#: Rows and columns of a training slice of own data, on the network's grid.
_SIZE = 256
_REFERENCE_HU = 200
#: How often the contrast of a training slice is left as it was imaged.
_SAME_CONTRAST = 0.4
#: Slices as thick as this are a group of their own in the figures.
_THICK_MM = 3.0


def make_network(widths: Widths) -> nn.Module:
    """Return the network with fresh weights; `widths` are the channels of its five levels."""
    return UNet2d(widths) if widths else UNet2d()


def make_loss() -> Loss:
    """Return Dice over the batch + cross entropy."""
    loss: Loss = DiceCELoss(sigmoid=True, batch=True, smooth_nr=1.0, smooth_dr=1.0)
    return loss


def phantom_crops(folder: Path | None) -> Draw:
    """Return what draws a slice of a random patient."""
    return partial(_phantom_crop, training_slices(folder))


def _phantom_crop(render: Render, rng: np.random.Generator) -> Case:
    return _case(render(rng), "phantom")


def phantom_study(folder: Path | None) -> Callable[[int], Case]:
    """Return what makes a study of a body that is not in training, of a seed."""
    return partial(_phantom_case, held_out_studies(folder))


def _phantom_case(study: Callable[[int], Phantom], seed: int) -> Case:
    phantom = study(seed)
    case = replace(_case(phantom, f"phantom-{seed}"), labels=judged_truth(phantom))
    if (case.labels.array == UNKNOWN).any():
        return replace(case, group="head, of which the face is not judged")
    # A thick slice averages bone with what lies above and below it: its truth is a matter of opinion.
    thick = float(case.image.spacing[0]) >= _THICK_MM
    return replace(case, group=f"slices {'from' if thick else 'under'} {_THICK_MM:.0f} mm")


def _case(phantom: Phantom, name: str) -> Case:
    return Case(
        name=name,
        image=phantom.image,
        labels=skeleton_of(phantom.tissues),
        group=str(phantom.patient.sex),
    )


def describe_phantoms(folder: Path | None) -> str:
    """Return which body held-out studies are of."""
    body = HELD_OUT_ATLAS.split("_")[0] if folder else "procedural body"
    return f"{body}, randomly deformed"


def crop(case: Case, rng: np.random.Generator) -> Case:
    """Return a random slice of a study, of 256 x 256 pixels of 1 mm."""
    return slice_crop(case, rng, pixel_spacing=PIXEL_SPACING, size=_SIZE)


def prepare(case: Case, rng: np.random.Generator) -> Sample:
    """Return a one-slice crop as the network will see patients: either normalisation."""
    image = clip(apply_threshold(_other_contrast(case.image.array[0].astype(np.float32), rng)))
    variant = Normalisation(rng.choice(list(Normalisation)))
    upper = upper_bound(image, variant)
    if variant is Normalisation.INTRAPATIENT:
        # One slice stands for a patient whose range it does not tell exactly.
        upper *= float(rng.uniform(0.8, 1.25))
    image = normalise(image, upper * float(rng.uniform(0.95, 1.05)))
    return to_sample(image, case.labels.array[0], rng)


def _other_contrast(image: Floats, rng: np.random.Generator) -> Floats:
    """Another contrast, as of other bodies and tube voltages: that of the body it learns from must not count."""
    if rng.random() < _SAME_CONTRAST:
        return image
    scaled = image * float(rng.uniform(0.88, 1.12)) + float(rng.normal(0, 15))
    # Above water, so that marrow moves against cortex.
    bright = np.clip(scaled / CLIP_HU, 0, None)
    return np.where(scaled > 0, CLIP_HU * bright ** float(rng.uniform(0.8, 1.25)), scaled).astype(
        np.float32
    )


def segment(network: nn.Module, image: hd.Volume, variant: str) -> hd.Volume:
    """Return the skeleton as the product finds it; the variant is a normalisation."""
    return segment_skeleton(network, image, Normalisation(variant))


def threshold(image: hd.Volume) -> hd.Volume:
    """Return what is bone to a threshold inside the body: what the network is compared with."""
    dense = image.array >= _REFERENCE_HU
    return image.with_array((dense & body_mask(image).array).astype(np.uint8))


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
    variants=tuple(Normalisation),
    structures={1: "skeleton"},
    # A slice is cheap to keep and a tenth of a second to make.
    pool=256,
    epochs=5,
    published={"dice": 0.979, "iou": 0.959},
    published_on="77 clinical CT",
    crops_per_case=64,
    references={f"threshold at {_REFERENCE_HU} HU": threshold},
)
