"""Which phantoms of SPECT/CT the lesion pipeline is trained on, evaluated on, and shown with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import highdicom as hd
import numpy as np
from pydicom import Dataset

from pipelines.inference.grid import resample
from pipelines.spect_ct_bone_lesion.grids import UPRIGHT
from pipelines.training.case import Case
from pipelines.training.phantoms.acquisition import Grid
from pipelines.training.phantoms.anatomical import AtlasBody
from pipelines.training.phantoms.atlas import Atlas, load_atlas
from pipelines.training.phantoms.dicom import SeriesOptions, ct_series
from pipelines.training.phantoms.facets import part_facets
from pipelines.training.phantoms.paraspinal import draw_paraspinal, fill_paraspinal
from pipelines.training.phantoms.patient import Patient, Phase, draw_patient
from pipelines.training.phantoms.posing import pose_atlas
from pipelines.training.phantoms.procedural import procedural_body
from pipelines.training.phantoms.spect import (
    SpectCt,
    SpectCtOptions,
    plain_patient,
    spect_ct_phantom,
)
from pipelines.training.phantoms.spect_dicom import SPECT_SERIES, nm_image, of_study
from pipelines.training.phantoms.stoutness import draw_stoutness
from pipelines.training.phantoms.tissues import Body
from pipelines.training.phantoms.ureters import add_ureters, draw_ureters, part_ureters
from pipelines.training.recipe import Draw

#: The body that training bends, and another one (of a real CT, T9 to pelvis), for evaluation only.
TRAINING_ATLAS = "bp3d_body_1p5mm.nii.gz"
HELD_OUT_ATLAS = "spl_abdomen.nii.gz"
#: How often a crop is of a body from formulas instead: another shape of everything.
_PROCEDURAL_SHARE = 0.15
#: Slices, rows and columns of SPECT in a training crop.
_CROP = (6, 76, 108)
#: Voxels of SPECT, mm: usual matrices of usual cameras.
_VOXELS_MM = (3.9, 4.42, 4.42, 4.8)
#: Lesions of each class in a training crop, on average.
_LESIONS = 1.3
_STUDY_MM = 4.42
#: What ureters hold is drawn apart from all else of a study.
_URETERS = 1
#: The CT of a study: pixel and slice, mm.
_CT_MM = (1.95, 3.75)


def training_crops(folder: Path | None) -> Draw:
    """Return what draws some slices of a random patient, both images on the network's pixels.

    Parameters
    ----------
    folder
        Folder of label maps, or None for procedural bodies.
    """
    if folder is None:
        return partial(_crop, None)
    return partial(_crop, training_body(folder))


def training_body(folder: Path) -> Atlas:
    """Return the body that training bends, with what its map lacks: thick muscles of the back, and ureters."""
    return load_atlas(folder / TRAINING_ATLAS, lambda labels: add_ureters(fill_paraspinal(labels)))


def held_out_studies(folder: Path | None) -> Callable[[int], Case]:
    """Return what makes a phantom study of a seed: SPECT with its labels, and CT as its partner.

    Parameters
    ----------
    folder
        Folder of label maps, or None for procedural bodies of other seeds.
    """
    return partial(_study, None if folder is None else _held_out_body(folder))


def _held_out_body(folder: Path) -> Atlas:
    """Another body, its arches parted by facet joints and its ureters into what may be full or empty."""
    return load_atlas(folder / HELD_OUT_ATLAS, lambda labels: part_ureters(part_facets(labels)))


def demo_study(seed: int) -> list[Dataset]:
    """Return a DICOM study of a procedural trunk with lesions of both classes: the CT, and a multi-frame NM image."""
    made = example(seed)
    ct = SeriesOptions(
        study_description="Phantom SPECT/CT",
        series_description="Phantom CT of SPECT/CT",
        body_part_examined="WHOLEBODY",
        patient=made.ct.patient,
    )
    spect = nm_image(made.spect, seed=seed, options=of_study(SPECT_SERIES, ct))
    return [*ct_series(made.ct.image, seed=seed, options=ct), spect]


def example(seed: int) -> SpectCt:
    """Return SPECT and CT of a procedural trunk with lesions of both classes, and the truth about them."""
    rng = np.random.default_rng(seed)
    body = procedural_body(_unenhanced(rng), rng)
    return _image(body, (0.0, 5.0, 170.0), (56, 76, 96), (4, 3), rng)


def _crop(atlas: Atlas | None, rng: np.random.Generator) -> Case:
    if atlas is None or rng.random() < _PROCEDURAL_SHARE:
        body: Body = procedural_body(_enhanced_or_not(rng), rng)
        middle = (*body.middle, float(rng.uniform(-120, 460)))
    else:
        heads = [femur.head[2] for femur in atlas.femora.values()]
        drawn = draw_ureters(rng, draw_paraspinal(rng, atlas))
        height = float(rng.uniform(min(heads) - 120, min(heads) + 620))
        posed = _posed(drawn, rng, _enhanced_or_not(rng), height)
        body = replace(posed, stoutness=draw_stoutness(rng))
        middle = (*body.middle, 0.0)
    voxel = float(rng.choice(_VOXELS_MM))
    options = SpectCtOptions(
        spect=_grid(_CROP, (voxel,) * 3, middle),
        ct=Grid(
            geometry=_grid(
                (_CROP[0], 2 * _CROP[1], 2 * _CROP[2]), (voxel, voxel / 2, voxel / 2), middle
            ),
            thickness_mm=voxel,
        ),
        metastases=int(rng.poisson(_LESIONS)),
        benign=int(rng.poisson(_LESIONS)),
    )
    made = spect_ct_phantom(body, options, rng)
    # The CT has the network's pixels already; SPECT comes onto them as in the product.
    spect = resample(made.spect, made.ct.image.spacing)
    return Case(name="phantom", image=spect, labels=made.ct_labels, partners={"ct": made.ct.image})


def _study(atlas: Atlas | None, seed: int) -> Case:
    rng = np.random.default_rng(seed)
    counts = (0 if rng.random() < 0.2 else int(rng.integers(1, 9)), int(rng.integers(0, 7)))
    if atlas is None:
        body: Body = procedural_body(_unenhanced(rng), rng)
        made = _image(body, (0.0, 5.0, 190.0), (64, 76, 100), counts, rng)
    else:
        drawn = draw_ureters(np.random.default_rng((_URETERS, seed)), atlas)
        body = _posed(drawn, rng, _unenhanced(rng), float(atlas.soft.center_position[2]))
        made = _image(body, (*body.middle, 0.0), (60, 84, 100), counts, rng)
    return Case(
        name=f"phantom-{seed}",
        image=made.spect,
        labels=made.labels,
        partners={"ct": made.ct.image},
        group="with metastases" if counts[0] else "without metastasis",
    )


def _image(
    body: Body,
    middle: tuple[float, float, float],
    shape: tuple[int, int, int],
    counts: tuple[int, int],
    rng: np.random.Generator,
) -> SpectCt:
    """Both images of a body, the CT on a grid of its own that covers the same."""
    pixel, slice_mm = _CT_MM
    extent = [n * _STUDY_MM for n in shape]
    finer = (
        round(extent[0] / slice_mm),
        round(extent[1] / pixel),
        round(extent[2] / pixel),
    )
    options = SpectCtOptions(
        spect=_grid(shape, (_STUDY_MM,) * 3, middle),
        ct=Grid(geometry=_grid(finer, (slice_mm, pixel, pixel), middle), thickness_mm=slice_mm),
        metastases=counts[0],
        benign=counts[1],
    )
    return spect_ct_phantom(body, options, rng)


def _enhanced_or_not(rng: np.random.Generator) -> Patient:
    """A patient to learn from: here and there CT has contrast medium."""
    return plain_patient(draw_patient(rng, contrast=None))


def _unenhanced(rng: np.random.Generator) -> Patient:
    """A patient as most have bone SPECT/CT: its CT corrects for attenuation, which contrast medium would disturb."""
    return replace(_enhanced_or_not(rng), phase=Phase.NATIVE, oral_contrast=False)


def _posed(atlas: Atlas, rng: np.random.Generator, patient: Patient, height: float) -> AtlasBody:
    x, y, _ = atlas.soft.center_position
    return pose_atlas(atlas, patient, rng, (float(x), float(y), height))


def _grid(
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
    middle: tuple[float, float, float],
) -> hd.VolumeGeometry:
    return hd.VolumeGeometry.from_components(
        shape,
        spacing=spacing,
        coordinate_system="PATIENT",
        center_position=middle,
        patient_orientation=UPRIGHT,
    )
