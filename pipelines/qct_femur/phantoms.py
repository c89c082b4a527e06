"""Which phantoms the femur pipeline is trained on, evaluated on, and shown with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import highdicom as hd
import numpy as np

from pipelines.qct_femur.anatomy import cut_proximal
from pipelines.qct_femur.segmenting import COARSE_MM, CROP, CROP_OFFSET, FINE_MM, Side
from pipelines.training.case import Case
from pipelines.training.phantoms.atlas import Atlas, load_atlas
from pipelines.training.phantoms.patient import Lesion, Patient, draw_patient
from pipelines.training.phantoms.procedural import ProceduralOptions, procedural_phantom
from pipelines.training.phantoms.render import ImagedRegion, Subject, anatomical_phantom
from pipelines.training.phantoms.scanner import draw_scanner
from pipelines.training.phantoms.tissues import Phantom, structure_of
from pipelines.training.recipe import Draw

#: The body that training bends, and another one, for evaluation only.
TRAINING_ATLAS = "bp3d_body_1p5mm.nii.gz"
HELD_OUT_ATLAS = "xcat50_wholebody_2mm.nii.gz"
#: How often a training crop is fine, around one femur; the others are coarse, anywhere in the body.
FINE_SHARE = 0.5
#: Slices, rows, columns of a coarse training crop.
COARSE_CROP = (80, 80, 96)
#: How often a coarse crop is at the height of the hips.
_HIP_SHARE = 0.75
#: How often a training crop is of a patient with lesions in the femora, and how often those are sclerotic.
_LESION_SHARE, _SCLEROTIC_SHARE = 0.25, 0.3


def training_crops(folder: Path | None) -> Draw:
    """Return what draws a crop of a random patient, with whole femora labelled 1 (left) and 2 (right).

    Parameters
    ----------
    folder
        Folder of label maps, or None for procedural bodies.
    """
    if folder is None:
        return _procedural_crop
    return partial(_atlas_crop, load_atlas(folder / TRAINING_ATLAS))


def held_out_studies(folder: Path | None) -> Callable[[int], Case]:
    """Return what makes a phantom study of a seed, with proximal femora labelled 1 (left) and 2 (right).

    Parameters
    ----------
    folder
        Folder of label maps, or None for procedural bodies of other seeds.
    """
    if folder is None:
        return _procedural_study
    return partial(_atlas_study, load_atlas(folder / HELD_OUT_ATLAS))


def demo_study(seed: int) -> hd.Volume:
    """Return the CT of a procedural pelvis on a calibration phantom: HU, axes (slice, row, column)."""
    rng = np.random.default_rng(seed)
    patient = replace(draw_patient(rng, contrast=False), implants=())
    scanner = replace(draw_scanner(rng), calibrated=True, circle=None)
    options = ProceduralOptions(
        slices=90,
        rows=220,
        columns=250,
        pixel_spacing=1.6,
        slice_spacing=2.5,
        middle=-35.0,
        across=(0.0, 25.0),
    )
    subject = Subject(patient=patient, scanner=scanner)
    return procedural_phantom(options, seed=seed, subject=subject).image


def proximal_femora(phantom: Phantom) -> hd.Volume:
    """Return the truth about a study: uint8, 1 left, 2 right proximal femur; none on a side with an implant."""
    sides = [
        number
        for number, name in ((1, "left"), (2, "right"))
        if not phantom.patient.has_implant(name)
    ]
    whole = whole_femora(phantom)
    return cut_proximal(whole.with_array(np.where(np.isin(whole.array, sides), whole.array, 0)))


def whole_femora(phantom: Phantom) -> hd.Volume:
    """Return where the femora are: uint8, 1 left, 2 right, on the phantom's grid."""
    left, right = (structure_of(phantom, f"femur_{side}") for side in ("left", "right"))
    return left.with_array((left.array + 2 * right.array).astype(np.uint8))


def _procedural_crop(rng: np.random.Generator) -> Case:
    fine = rng.random() < FINE_SHARE
    spacing = FINE_MM if fine else COARSE_MM
    shape = CROP if fine else COARSE_CROP
    options = ProceduralOptions(
        slices=shape[0],
        rows=shape[1] + 16,
        columns=round(420 / spacing),
        pixel_spacing=spacing,
        slice_spacing=spacing,
        middle=CROP_OFFSET[2] if fine else float(rng.uniform(-100, 400)),
        contrast=None,
    )
    return _crop_of(procedural_phantom(options, seed=int(rng.integers(2**62))))


def _atlas_crop(atlas: Atlas, rng: np.random.Generator) -> Case:
    seed = int(rng.integers(2**62))
    head, side = _draw_head(atlas, rng)
    if rng.random() < FINE_SHARE:
        lateral, back, up = CROP_OFFSET
        centre = np.array(head) + np.array([side * lateral, back, up]) + rng.normal(0, 6, 3)
        region = _region(centre, CROP, FINE_MM)
    else:
        x, _, _ = atlas.soft.center_position
        height = head[2] if rng.random() < _HIP_SHARE else _any_height(atlas, rng)
        centre = np.array([x, head[1], height]) + rng.normal(0, [40, 25, 60])
        region = _region(centre, COARSE_CROP, COARSE_MM)
    subject = Subject(patient=draw_diseased(rng)) if rng.random() < _LESION_SHARE else None
    return _crop_of(anatomical_phantom(atlas, region, seed=seed, subject=subject))


def draw_diseased(rng: np.random.Generator) -> Patient:
    """Draw a patient with lesions in both femora, most of them lytic: there cortex and marrow are gone."""
    kind = 1.0 if rng.random() < _SCLEROTIC_SHARE else -1.0
    lesions = tuple(
        Lesion(
            structure=f"femur_{side}",
            radius_mm=float(rng.uniform(5, 18)),
            density=kind * float(rng.uniform(0.4, 1)),
        )
        for side in ("left", "right")
        for _ in range(rng.integers(1, 4))
    )
    return replace(draw_patient(rng), lesions=lesions)


def _crop_of(phantom: Phantom) -> Case:
    return Case(name="phantom", image=phantom.image, labels=whole_femora(phantom))


def _any_height(atlas: Atlas, rng: np.random.Generator) -> float:
    corners = np.array([[0, 0, 0], np.array(atlas.soft.spatial_shape) - 1])
    low, high = sorted(float(z) for _, _, z in atlas.soft.map_indices_to_reference(corners))
    return float(rng.uniform(low + 100, high - 100))


def _draw_head(atlas: Atlas, rng: np.random.Generator) -> tuple[Sequence[float], Side]:
    side = Side(int(rng.choice([1, -1])))
    return atlas.femora[side.name.lower()].head, side


def _region(centre: np.ndarray, shape: tuple[int, int, int], spacing: float) -> ImagedRegion:
    x, y, z = (float(value) for value in centre)
    return ImagedRegion(centre=(x, y, z), shape=shape, pixel_spacing=spacing, slice_spacing=spacing)


def _study_case(phantom: Phantom, seed: int) -> Case:
    return Case(
        name=f"phantom-{seed}",
        image=phantom.image,
        labels=proximal_femora(phantom),
        group=str(phantom.patient.sex),
    )


def _procedural_study(seed: int) -> Case:
    rng = np.random.default_rng(seed)
    spacing = float(rng.uniform(1.2, 2.0))
    options = ProceduralOptions(
        slices=round(220 / spacing),
        rows=200,
        columns=260,
        pixel_spacing=1.6,
        slice_spacing=spacing,
        middle=float(rng.uniform(-45, -25)),
        contrast=None,
    )
    return _study_case(procedural_phantom(options, seed=seed), seed)


def _atlas_study(atlas: Atlas, seed: int) -> Case:
    rng = np.random.default_rng(seed)
    left, right = (np.array(atlas.femora[side].head) for side in ("left", "right"))
    x, y, z = (left + right) / 2 + rng.normal(0, [8, 8, 6])
    spacing = float(rng.uniform(1.0, 2.5))
    pixel = float(rng.uniform(0.8, 1.0))
    region = ImagedRegion(
        centre=(float(x), float(y), float(z) - 35.0),
        shape=(round(230 / spacing), round(300 / pixel), round(440 / pixel)),
        pixel_spacing=pixel,
        slice_spacing=spacing,
    )
    return _study_case(anatomical_phantom(atlas, region, seed=seed), seed)
