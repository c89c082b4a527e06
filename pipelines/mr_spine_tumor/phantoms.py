"""Which phantoms the pipeline is trained on, evaluated on, and shown with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from pydicom import Dataset

from pipelines.mr_spine_tumor.preprocessing import PIXEL_SPACING
from pipelines.training.case import Case
from pipelines.training.phantoms.atlas import load_atlas
from pipelines.training.phantoms.facets import part_facets
from pipelines.training.phantoms.mr import MrOptions, MrPhantom, mr_phantom
from pipelines.training.phantoms.mr_dicom import mr_series
from pipelines.training.phantoms.mr_growths import Choice
from pipelines.training.phantoms.mr_signal import draw_weighting
from pipelines.training.phantoms.mr_spine import SpineAtlas, measure_spine
from pipelines.training.phantoms.mr_stacks import (
    DrawSpine,
    Plane,
    Stack,
    atlas_spines,
    draw_stack,
    geometry_of,
    procedural_spines,
)
from pipelines.training.phantoms.paraspinal import fill_paraspinal
from pipelines.training.recipe import Draw

#: The body that training bends, and another one, for evaluation only. The third body's skeleton is one label: it
#: names no vertebrae.
TRAINING_ATLAS = "bp3d_body_1p5mm.nii.gz"
HELD_OUT_ATLAS = "spl_abdomen.nii.gz"
#: Vertebrae that the held-out body shows with all that is around them.
_HELD_OUT_LEVELS = ("L1", "L2", "L3", "L4")
#: Rows and columns of a training slice; `prepare` cuts its sample out of it.
CROP = 256
_PROCEDURAL_SHARE = 0.1  # beside the atlas: another shape of everything
#: mm by which a training slice misses the middle of its vertebra, across the slice and within it.
_ACROSS = {Plane.SAGITTAL: 10.0, Plane.AXIAL: 9.0, Plane.CORONAL: 13.0}
_WITHIN = 22.0
#: With it, the first seeds of the demo show all its tumours.
_DEMO = 7


def training_slices(folder: Path | None) -> Draw:
    """Return what draws a slice of a random patient, labelled 1 (vertebrae) and 2 (tumours).

    Parameters
    ----------
    folder
        Folder of label maps, or None for procedural bodies.
    """
    if folder is None:
        return partial(_training_slice, procedural_spines, 0.0)
    drawn = atlas_spines(training_body(folder), varied=True)
    return partial(_training_slice, drawn, _PROCEDURAL_SHARE)


def training_body(folder: Path) -> SpineAtlas:
    """Return the body that training bends: its arches parted, its muscles, which lie in a bed of fat, as patients'."""
    return measure_spine(
        load_atlas(folder / TRAINING_ATLAS, lambda labels: fill_paraspinal(part_facets(labels)))
    )


def _training_slice(draw: DrawSpine, procedural: float, rng: np.random.Generator) -> Case:
    spine, point = (procedural_spines if rng.random() < procedural else draw)(rng)
    stack = draw_stack(rng)
    slab = replace(stack, slices=1, rows=CROP, columns=CROP, pixel_spacing=PIXEL_SPACING)
    upright = np.asarray(geometry_of(slab).unit_vectors())
    shift = rng.normal(0, [_ACROSS[stack.plane], _WITHIN, _WITHIN]) @ upright
    x, y, z = np.asarray(point) + shift
    geometry = geometry_of(slab, (float(x), float(y), float(z)))
    phantom = mr_phantom(spine, geometry, rng, MrOptions(planes=2))
    return Case(name="phantom", image=phantom.image, labels=phantom.labels)


def held_out_studies(folder: Path | None) -> Callable[[int], Case]:
    """Return what makes a phantom study of a seed, of a body that is not in training.

    Parameters
    ----------
    folder
        Folder of label maps, or None for procedural bodies of other seeds.
    """
    if folder is None:
        return partial(_study, procedural_spines)
    atlas = measure_spine(load_atlas(folder / HELD_OUT_ATLAS, part_facets))
    return partial(_study, atlas_spines(atlas, _HELD_OUT_LEVELS))


def _study(draw: DrawSpine, seed: int) -> Case:
    rng = np.random.default_rng(seed)
    spine, point = draw(rng)
    phantom = mr_phantom(spine, geometry_of(draw_stack(rng), point), rng)
    fat = "fat-suppressed" if phantom.weighting.fat_suppressed else "fat bright"
    return Case(name=f"phantom-{seed}", image=phantom.image, labels=phantom.labels, group=fat)


def demo_phantom(seed: int, *, tumours: int = 2) -> MrPhantom:
    """Return a sagittal study of a procedural spine with fat suppression, tumours in view, and the truth about it."""
    rng = np.random.default_rng((_DEMO, seed))
    spine, point = procedural_spines(rng)
    stack = Stack(
        plane=Plane.SAGITTAL,
        slices=15,
        rows=320,
        columns=320,
        pixel_spacing=0.9,
        slice_spacing=4.0,
    )
    options = MrOptions(
        weighting=draw_weighting(rng, fat_suppressed=True),
        choice=Choice(fewest=tumours, tumours=tumours, look_alikes=1, veins=0.6),
    )
    return mr_phantom(spine, geometry_of(stack, point), rng, options)


def demo_study(seed: int) -> Sequence[Dataset]:
    """Return the MR series of a procedural spine that the demo sends."""
    return mr_series(demo_phantom(seed), seed=seed)
