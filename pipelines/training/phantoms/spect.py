"""SPECT image formation, and phantoms of SPECT/CT: one body with its lesions, imaged by both.

A bone SPECT is approximated in image space: activity is blurred as a collimator does, more in the middle of the body
than under its surface, scatter is added, attenuation is corrected or, on cameras without CT, is not; Poisson noise
falls on the counts of each voxel and the reconstruction's filter smooths both. Nothing is projected.
"""

from dataclasses import dataclass, replace

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipelines.training.phantoms.acquisition import Grid
from pipelines.training.phantoms.fields import Floats
from pipelines.training.phantoms.patient import Patient
from pipelines.training.phantoms.render import image_body
from pipelines.training.phantoms.scanner import Scanner, draw_scanner
from pipelines.training.phantoms.spect_activity import activity, draw_uptake, vary
from pipelines.training.phantoms.spect_lesions import (
    Anatomy,
    BoneLesion,
    LesionedBody,
    draw_lesions,
    joint_share,
    labels_of,
    lesions_in,
    with_lesions,
)
from pipelines.training.phantoms.tissues import FIRST_BONE, Body, Phantom, Tissue

#: Linear attenuation of 140 keV in soft tissue, 1/mm (NIST XCOM, water).
_MU = 0.0154
#: Planes beyond those asked for, of which blur brings something in.
_MARGIN = 4
#: Smaller pieces of truth, mL, are none: nobody would draw them.
_SMALLEST_ML = 0.25
_FWHM = 2.3548  # full widths at half maximum in a standard deviation


@dataclass(frozen=True, slots=True, kw_only=True)
class Camera:
    """One gamma camera with one protocol."""

    surface_mm: float  #: resolution (FWHM) under the skin, of the reconstruction before its filter
    centre_mm: float  #: in the middle of a body
    filter_mm: float  #: FWHM of the filter after reconstruction
    counts: float  #: in a voxel of muscle
    corrected: float  #: share of attenuation that is corrected; 0 on cameras without CT
    scatter: float  #: scattered counts left in the window, a share
    shift_mm: tuple[float, float, float]  #: of the patient between CT and SPECT
    scale: float  #: stored value per count


@dataclass(frozen=True, slots=True, kw_only=True)
class SpectCt:
    """Both images of one patient and the truth about them."""

    spect: hd.Volume  #: uint16, axes (slice, row, column)
    labels: hd.Volume  #: uint8, `MALIGNANT` or `BENIGN`, on the grid of `spect`
    ct: Phantom
    ct_labels: hd.Volume  #: on the grid of the CT
    lesions: tuple[BoneLesion, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SpectCtOptions:
    """What is imaged, and how many lesions there are."""

    spect: hd.VolumeGeometry  #: axes (slice, row, column), isotropic, slices to the feet
    ct: Grid
    metastases: int
    benign: int


def draw_camera(rng: np.random.Generator) -> Camera:
    """Draw a camera and its protocol."""
    surface = rng.uniform(5, 8)
    return Camera(
        surface_mm=surface,
        centre_mm=surface + rng.uniform(1, 6),
        filter_mm=rng.uniform(4, 9),
        counts=float(np.exp(rng.uniform(np.log(2), np.log(14)))),
        corrected=1.0 if rng.random() < 0.8 else rng.uniform(0, 0.3),
        scatter=rng.uniform(0.02, 0.2),
        shift_mm=tuple(rng.normal(0, 1.0, 3)),
        scale=float(np.exp(rng.uniform(np.log(3), np.log(40)))),
    )


def plain_patient(patient: Patient) -> Patient:
    """Return the patient without lesions, fractures and metal: here lesions are `spect_lesions`, and named."""
    return replace(patient, lesions=(), fractures=(), implants=())


def spect_ct_phantom(body: Body, options: SpectCtOptions, rng: np.random.Generator) -> SpectCt:
    """Return SPECT and CT of a posed body, with lesions drawn into it.

    Parameters
    ----------
    body
        Without lesions of its own (`plain_patient`).
    options
        Grids and lesions.
    rng
        Source of all chance.
    """
    anatomy = _anatomy(body, options.spect)
    inside = slice(_MARGIN, anatomy.tissues.shape[0] - _MARGIN)
    lesions = draw_lesions(
        anatomy, rng, slices=inside, metastases=options.metastases, benign=options.benign
    )
    held, labels = _held(body, anatomy, lesions, rng)
    image = camera_image(held, anatomy, draw_camera(rng), rng)[inside]
    spect = _volume(image, options.spect)
    truth = spect.with_array(np.ascontiguousarray(labels[inside]))
    ct = image_body(
        LesionedBody(body=body, lesions=lesions), options.ct, rng, scanner=_low_dose(rng)
    )
    return SpectCt(
        spect=spect,
        labels=_without_specks(truth),
        ct=ct,
        ct_labels=_without_specks(_truth(ct, lesions)),
        lesions=lesions,
    )


def camera_image(
    held: Floats, anatomy: Anatomy, camera: Camera, rng: np.random.Generator
) -> NDArray[np.uint16]:
    """Return what a camera reconstructs.

    Parameters
    ----------
    held
        Activity relative to muscle, float32, shape (slices, rows, columns), isotropic voxels.
    anatomy
        Of the same grid.
    camera
        The camera.
    rng
        Of the counts.

    Returns
    -------
    numpy.ndarray
        uint16, same shape.
    """
    voxel = float(anatomy.geometry.spacing[1])
    body = anatomy.tissues != Tissue.AIR
    # Slices run to the feet, rows to the back, columns to the left.
    moved = ndimage.shift(
        held, np.asarray(camera.shift_mm) / voxel, order=1, mode="nearest", prefilter=False
    )
    depth = ndimage.gaussian_filter(body.astype(np.float32), (0, 45 / voxel, 45 / voxel))
    middle = np.clip((depth - 0.5) / 0.4, 0, 1)
    near, far = (
        ndimage.gaussian_filter(moved, width / _FWHM / voxel)
        for width in (camera.surface_mm, camera.centre_mm)
    )
    seen = near + middle * (far - near)
    if camera.corrected < 1:
        seen *= _attenuation(body, voxel) ** (1 - camera.corrected)
    seen += camera.scatter * ndimage.gaussian_filter(seen, (2, 40 / voxel, 40 / voxel))
    counts = rng.poisson(np.maximum(seen, 0) * camera.counts).astype(np.float32)
    smooth = ndimage.gaussian_filter(counts, camera.filter_mm / _FWHM / voxel)
    stored: NDArray[np.uint16] = np.clip(np.rint(smooth * camera.scale), 0, 65535).astype(np.uint16)
    return stored


def _attenuation(body: NDArray[np.bool_], voxel: float) -> Floats:
    """Mean transmission over directions (Chang, IEEE Trans Nucl Sci 1978;25:638), of uniform soft tissue.

    Four directions: along rows and columns, from either end.
    """
    total = np.zeros(body.shape, np.float32)
    for axis in (1, 2):
        for turned in (body, np.flip(body, axis)):
            path = np.cumsum(turned, axis=axis, dtype=np.float32) * np.float32(voxel)
            through = np.exp(-_MU * path)
            total += through if turned is body else np.flip(through, axis)
    return np.asarray(total / 4, np.float32)


def _anatomy(body: Body, geometry: hd.VolumeGeometry) -> Anatomy:
    """Cut a body at the planes of a grid and at `_MARGIN` more at both ends."""
    grid = _padded(geometry)
    cuts = [body.cut(grid, index) for index in range(grid.spatial_shape[0])]
    return Anatomy(
        geometry=grid,
        tissues=np.stack([cut.tissues for cut in cuts]),
        structures=np.stack([cut.structures for cut in cuts]),
        depth=np.stack([cut.depth for cut in cuts]),
        cuts=tuple(cuts),
    )


def _held(
    body: Body, anatomy: Anatomy, lesions: tuple[BoneLesion, ...], rng: np.random.Generator
) -> tuple[Floats, NDArray[np.uint8]]:
    """Activity and truth, planes with their lesions; shape (slices, rows, columns)."""
    grid, uptake = anatomy.geometry, draw_uptake(rng)
    joints = joint_share(anatomy.structures, anatomy.tissues >= FIRST_BONE)
    held = np.empty(anatomy.tissues.shape, np.float32)
    labels = np.zeros(anatomy.tissues.shape, np.uint8)
    for index, healthy in enumerate(anatomy.cuts):
        planes = lesions_in(lesions, grid, index)
        cut = with_lesions(healthy, planes, body.patient) if planes else healthy
        labels[index] = labels_of(planes, cut.tissues >= FIRST_BONE)
        held[index] = vary(activity(cut, planes, uptake, joints[index], grid), uptake, grid, index)
    return held, labels


def _truth(ct: Phantom, lesions: tuple[BoneLesion, ...]) -> hd.Volume:
    bone = ct.tissues.array >= FIRST_BONE
    labels = np.zeros(bone.shape, np.uint8)
    for index, plane in enumerate(bone):
        labels[index] = labels_of(lesions_in(lesions, ct.image.get_geometry(), index), plane)
    return ct.image.with_array(labels)


def _without_specks(labels: hd.Volume) -> hd.Volume:
    parts, _ = ndimage.label(labels.array, np.ones((3, 3, 3)))
    few = np.bincount(parts.ravel()) * float(labels.voxel_volume) < _SMALLEST_ML * 1000
    return labels.with_array(np.where(few[parts], np.uint8(0), labels.array))


def _low_dose(rng: np.random.Generator) -> Scanner:
    """The CT of a SPECT/CT serves attenuation correction and finding one's way: noisy, and without rods."""
    scanner = draw_scanner(rng)
    return replace(
        scanner, noise_hu=scanner.noise_hu * rng.uniform(1, 2.2), calibrated=False, circle=None
    )


def _padded(geometry: hd.VolumeGeometry) -> hd.VolumeGeometry:
    affine = np.array(geometry.affine)
    affine[:3, 3] -= _MARGIN * affine[:3, 0]
    slices, rows, columns = geometry.spatial_shape
    return hd.VolumeGeometry(
        affine, (slices + 2 * _MARGIN, rows, columns), coordinate_system="PATIENT"
    )


def _volume(array: NDArray[np.uint16], geometry: hd.VolumeGeometry) -> hd.Volume:
    return hd.Volume(
        array=np.ascontiguousarray(array), affine=geometry.affine, coordinate_system="PATIENT"
    )
