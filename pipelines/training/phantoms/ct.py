"""CT image formation: from an acquisition to Hounsfield units on a grid of slices."""

from concurrent.futures import ThreadPoolExecutor

import highdicom as hd
import numpy as np
from numpy.typing import NDArray

from pipelines.training.phantoms import fields
from pipelines.training.phantoms.acquisition import Acquisition
from pipelines.training.phantoms.attenuation import attenuation
from pipelines.training.phantoms.inserts import paint_inserts
from pipelines.training.phantoms.kernel import coloured, filtered
from pipelines.training.phantoms.tissues import FIRST_BONE, Cut, Phantom, Tissue

Floats = NDArray[np.float32]

_LOWEST, _HIGHEST = -1024, 3071  # HU: what 12 bits hold, as in most scanners
_SLICE_NOISE_MM = 3.0  # of the slices that `Scanner.noise_hu` is of


def ct_phantom(acquisition: Acquisition, *, workers: int = 1) -> Phantom:
    """Return the image of a body and its truth on one grid; `workers` slices at a time."""
    geometry = acquisition.grid.geometry
    shape = tuple(geometry.spatial_shape)
    image, tissues = np.empty(shape, np.int16), np.empty(shape, np.uint8)
    structures = np.empty(shape, np.uint8)

    def make(index: int) -> None:
        image[index], tissues[index], structures[index] = _slice(acquisition, index)

    if workers > 1:
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(make, range(shape[0])))
    else:
        for index in range(shape[0]):
            make(index)
    volume = hd.Volume(array=image, affine=geometry.affine, coordinate_system="PATIENT")
    return Phantom(
        image=volume,
        tissues=volume.with_array(tissues),
        structures=volume.with_array(structures),
        names=dict(acquisition.scene.body.names),
        patient=acquisition.scene.body.patient,
        calibration=acquisition.calibration,
    )


def _slice(
    acquisition: Acquisition, index: int
) -> tuple[NDArray[np.int16], NDArray[np.uint8], NDArray[np.uint8]]:
    """Return a slice: HU, tissues, structures."""
    ideal, tissues, structures = _ideal_slice(acquisition, index)
    scanner, geometry = acquisition.scene.scanner, acquisition.grid.geometry
    image = filtered(ideal, acquisition.kernel)
    height = geometry.affine[2, 3] + geometry.affine[2, 0] * index
    error, noise = _artefacts_at(acquisition, float(height))
    image += fields.interpolate(error, *acquisition.coarse)
    image += _noise(acquisition, index, noise)
    made = np.clip(np.rint(image), _LOWEST, _HIGHEST).astype(np.int16)
    if scanner.circle is not None:
        rows, columns = made.shape
        y, x = np.ogrid[:rows, :columns]
        radius = np.hypot(y - (rows - 1) / 2, x - (columns - 1) / 2)
        outside = radius > scanner.circle * max(rows, columns) / 2
        # What the scanner did not reconstruct cannot be segmented either.
        made[outside] = scanner.padding
        tissues[outside], structures[outside] = Tissue.AIR, 0
    return made, tissues, structures


def _ideal_slice(
    acquisition: Acquisition, index: int
) -> tuple[Floats, NDArray[np.uint8], NDArray[np.uint8]]:
    """Average thin planes; the truth is what most of them agree on."""
    grid, look = acquisition.grid, acquisition.scene.appearance
    geometry, count = grid.geometry, grid.subslices
    pixel = float(geometry.spacing[1])
    share = grid.thickness_mm / float(geometry.spacing[0])
    total = np.zeros(geometry.spatial_shape[1:], np.float32)
    planes: list[Cut] = []
    for number in range(count):
        at = index + share * ((number + 0.5) / count - 0.5)
        cut = acquisition.scene.body.cut(geometry, at)
        ideal = attenuation(cut, fields.coarse_points(geometry, at), look, pixel)
        origin = geometry.affine @ (at, 0, 0, 1)
        corner = origin[:3].astype(np.float32)
        paint_inserts(ideal, cut.tissues, acquisition.scene.inserts, corner, pixel)
        air = cut.tissues == Tissue.AIR
        total += np.where(air, acquisition.background, ideal)
        planes.append(cut)
    total /= count
    tissues, structures = _agreed(planes)
    return total, tissues, structures


def _agreed(planes: list[Cut]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return tissues and structures: bone where most planes have it, then what most of those planes have."""
    middle = planes[len(planes) // 2]
    tissues, structures = middle.tissues.copy(), middle.structures.copy()
    codes = np.stack([one.tissues.astype(np.uint16) * 256 + one.structures for one in planes])
    differ = (codes != codes[0]).any(axis=0)
    codes = codes[:, differ]
    bone = codes // 256 >= FIRST_BONE
    most = 2 * bone.sum(axis=0) > len(planes)
    votes = np.sum(codes[:, None] == codes[None], axis=1) * (bone == most)
    # Of as many votes, those of the plane nearest to the middle count.
    votes = votes * len(planes) - np.abs(np.arange(len(planes)) - len(planes) // 2)[:, None]
    best = np.take_along_axis(codes, votes.argmax(axis=0)[None], axis=0)[0]
    tissues[differ], structures[differ] = best // 256, best % 256
    return tissues, structures


def _artefacts_at(acquisition: Acquisition, height: float) -> tuple[Floats, Floats]:
    heights, planes = acquisition.heights, acquisition.artefacts
    at = float(np.interp(height, heights, np.arange(len(heights))))
    low = min(int(at), len(planes) - 1)
    high, share = min(low + 1, len(planes) - 1), np.float32(at - low)
    one, two = planes[low], planes[high]
    return (
        (1 - share) * one.error + share * two.error,
        (1 - share) * one.noise + share * two.noise,
    )


def _noise(acquisition: Acquisition, index: int, relative: Floats) -> Floats:
    """Return correlated noise, HU, shape (rows, columns).

    Overlapping slices share photons: neighbours have noise in common.
    """
    grid, scanner, kernel = acquisition.grid, acquisition.scene.scanner, acquisition.kernel
    spacing = float(grid.geometry.spacing[0])
    overlap = int(np.clip(round(grid.thickness_mm / spacing), 1, 3))
    white = np.zeros(kernel.padded, np.float32)
    for number in range(overlap):
        rng = np.random.default_rng((acquisition.seed, index + number))
        white += rng.standard_normal(kernel.padded, dtype=np.float32)
    white *= np.float32(
        scanner.noise_hu * np.sqrt(_SLICE_NOISE_MM / grid.thickness_mm) / np.sqrt(overlap)
    )
    spread = [fields.interpolate(sector, *acquisition.coarse) for sector in relative]
    return coloured(white, spread, kernel)
