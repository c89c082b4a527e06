"""Phantoms from an atlas: draw a patient and a scanner, then image any grid of slices."""

from dataclasses import dataclass

import highdicom as hd
import numpy as np

from pipelines.training.phantoms.acquisition import Grid, Scene, acquire
from pipelines.training.phantoms.appearance import draw_appearance
from pipelines.training.phantoms.atlas import Atlas
from pipelines.training.phantoms.ct import ct_phantom
from pipelines.training.phantoms.inserts import draw_inserts
from pipelines.training.phantoms.patient import Patient, Phase, draw_patient
from pipelines.training.phantoms.posing import pose_atlas
from pipelines.training.phantoms.scanner import Scanner, draw_scanner
from pipelines.training.phantoms.tissues import Body, Phantom

Point = tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagedRegion:
    """Which part of an atlas is imaged, and how finely."""

    centre: Point  #: in the atlas, LPS, mm
    shape: tuple[int, int, int]  #: slices, rows, columns
    pixel_spacing: float  #: mm
    slice_spacing: float  #: mm, from slice to slice
    slice_thickness: float | None = None  #: mm; None: the slice spacing


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """Who is imaged by what; what is None is drawn from the seed."""

    patient: Patient | None = None
    scanner: Scanner | None = None
    contrast: bool | None = None  #: of a drawn patient; None leaves it to chance
    strength: float = 1.0  #: how far the body may be from its source; 0 is the source itself


def anatomical_phantom(
    atlas: Atlas,
    region: ImagedRegion,
    *,
    seed: int,
    subject: Subject | None = None,
    workers: int = 1,
) -> Phantom:
    """Return a CT image of a random patient made from an atlas.

    Parameters
    ----------
    atlas
        The body that is deformed.
    region
        Grid and place.
    seed
        Same seed, same arguments: same phantom.
    subject
        Patient and scanner, where they are not to be drawn.
    workers
        Slices made at a time.

    Returns
    -------
    Phantom
        Axes (slice, row, column); slices run to the feet, rows to the back, columns to the left.
        The origin of its frame is the region's centre.
    """
    subject = subject or Subject()
    rng = np.random.default_rng(seed)
    patient = subject.patient or draw_patient(rng, contrast=subject.contrast)
    body = pose_atlas(atlas, patient, rng, region.centre, strength=subject.strength)
    return image_body(body, grid_of(region), rng, scanner=subject.scanner, workers=workers)


def image_body(
    body: Body,
    grid: Grid,
    rng: np.random.Generator,
    *,
    scanner: Scanner | None = None,
    workers: int = 1,
) -> Phantom:
    """Return a CT image of a posed body; a scanner of None is drawn."""
    appearance = draw_appearance(rng, body.patient)
    scanner = scanner or draw_scanner(rng)
    inserts = draw_inserts(rng, grid.geometry, enhanced=body.patient.phase is not Phase.NATIVE)
    scene = Scene(body=body, appearance=appearance, scanner=scanner, inserts=inserts)
    return ct_phantom(acquire(scene, grid, rng), workers=workers)


def grid_of(region: ImagedRegion, middle: Point = (0.0, 0.0, 0.0)) -> Grid:
    """Return the grid of a region, its middle somewhere in the patient's frame (mm)."""
    geometry = hd.VolumeGeometry.from_components(
        region.shape,
        spacing=(region.slice_spacing, region.pixel_spacing, region.pixel_spacing),
        coordinate_system="PATIENT",
        center_position=middle,
        patient_orientation="FPL",
    )
    return Grid(
        geometry=geometry,
        thickness_mm=region.slice_thickness or region.slice_spacing,
    )
