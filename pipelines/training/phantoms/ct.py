"""CT image formation: from anatomy to Hounsfield units."""

from dataclasses import dataclass

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipelines.training.phantoms import fields
from pipelines.training.phantoms.appearance import Appearance
from pipelines.training.phantoms.inserts import Insert, paint_inserts
from pipelines.training.phantoms.tables import Table, draw_table, table_image
from pipelines.training.phantoms.tissues import FIRST_BONE, Anatomy, Tissue

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scanner:
    """How one series is acquired and reconstructed."""

    table: Table | None
    blur_mm: float  #: standard deviation of the in-plane point spread function
    sharpening: float  #: 0 for a soft kernel, about 1 for a bone kernel
    noise_hu: float
    noise_mm: float  #: correlation length of the noise
    streaks_hu: float  #: amplitude of left-right streaks (photon starvation)
    circle: float | None  #: radius of the reconstructed circle in half field-of-view widths
    padding: int  #: value outside of that circle


def draw_scanner(rng: np.random.Generator) -> Scanner:
    """Draw a scanner and its protocol."""
    bone_kernel = rng.random() < 0.3
    return Scanner(
        table=draw_table(rng) if rng.random() < 0.75 else None,
        blur_mm=rng.uniform(0.35, 0.6) if bone_kernel else rng.uniform(0.45, 1.0),
        sharpening=rng.uniform(0.4, 1.5) if bone_kernel else rng.uniform(0.0, 0.4),
        noise_hu=rng.uniform(10, 60) if bone_kernel else rng.uniform(3, 30),
        noise_mm=rng.uniform(0.3, 0.6) if bone_kernel else rng.uniform(0.4, 1.3),
        streaks_hu=rng.uniform(5, 40) if rng.random() < 0.3 else 0.0,
        circle=rng.uniform(0.93, 1.05) if rng.random() < 0.5 else None,
        padding=int(rng.choice([-2048, -1024, -1000, -3024])),
    )


def ct_image(
    anatomy: Anatomy,
    appearance: Appearance,
    scanner: Scanner,
    inserts: tuple[Insert, ...],
    rng: np.random.Generator,
) -> hd.Volume:
    """Return the CT image of an anatomy.

    Parameters
    ----------
    anatomy
        Axes (slice, row, column); rows run to posterior, columns to the left.
    appearance, scanner, inserts
        The patient, the scanner, and what was added to the patient.
    rng
        Source of the noise.

    Returns
    -------
    highdicom.Volume
        int16, HU, on the grid of the anatomy.
    """
    tissues, depth = anatomy.tissues.array, anatomy.depth.array
    pixel = float(anatomy.tissues.spacing[1])
    points = [_coarse_points(anatomy.tissues, index) for index in range(tissues.shape[0])]
    table = _table_under(anatomy.tissues, scanner.table, rng)
    image = np.empty(tissues.shape, np.int16)
    for index in range(tissues.shape[0]):
        ideal = _attenuation(tissues[index], depth[index], points[index], appearance, pixel)
        origin = anatomy.tissues.affine @ (index, 0, 0, 1)
        paint_inserts(ideal, tissues[index], inserts, origin[:3].astype(np.float32), pixel)
        if table is not None:
            ideal = np.where(tissues[index] == Tissue.AIR, table, ideal)
        image[index] = _measure(ideal, scanner, pixel, rng)
    return anatomy.tissues.with_array(image)


def _coarse_points(volume: hd.Volume, index: int) -> Floats:
    rows, columns = (fields.coarse_indices(n) for n in volume.shape[1:])
    grid = np.stack(
        np.broadcast_arrays(np.float32(index), rows[:, None], columns[None, :]), axis=-1
    )
    return np.asarray(grid @ volume.affine[:3, :3].T + volume.affine[:3, 3], np.float32)


def _attenuation(
    tissues: NDArray[np.uint8], depth: Floats, points: Floats, look: Appearance, pixel: float
) -> Floats:
    """One slice before the scanner sees it: float32 HU, shape (rows, columns)."""
    slow, medium, fast = (
        fields.upsample(fields.evaluate(field, points), *tissues.shape)
        for field in (look.slow, look.medium, look.fast)
    )
    texture = 0.7 * medium + 0.7 * fast
    soft = look.mean[tissues] + look.variation[tissues] * medium
    _fill_bowel(soft, tissues == Tissue.BOWEL, slow, look)
    # Blood against muscle in the heart, cortex against medulla in the kidney.
    dark = ((tissues == Tissue.HEART) | (tissues == Tissue.KIDNEY)) & (slow + 0.5 * medium < -0.3)
    soft[dark] = 0.5 * (soft[dark] + look.mean[Tissue.MUSCLE])

    bone = tissues >= FIRST_BONE
    soft[bone] = look.mean[Tissue.MUSCLE]
    marrow = np.where(bone, look.mean[tissues] + look.variation[tissues] * texture, 0.0)
    marrow += look.grain * fast
    marrow += look.condensation_hu * np.exp(-np.maximum(depth, 0) / look.condensation_mm)
    if look.lesion_share > 0:
        threshold = np.sqrt(2) * _inverse_tail(look.lesion_share)
        marrow += look.lesion_hu * np.clip(3 * (slow + 0.4 * medium - threshold), 0, 1)
    thickness = look.cortex_mm[tissues] * np.clip(1 + 0.4 * slow, 0.4, 2)
    cortical = np.clip((thickness - depth) / pixel + 0.5, 0, 1)
    hard = cortical * look.cortex_hu + (1 - cortical) * marrow
    share = np.clip(depth / pixel + 0.5, 0, 1)
    return np.asarray((1 - share) * soft + share * hard, np.float32)


def _inverse_tail(share: float) -> float:
    """Return about z with P(Z > z) = share for a standard normal Z (Chernoff's bound)."""
    return float(np.sqrt(max(0.0, -np.log(2 * share))))


def _fill_bowel(soft: Floats, bowel: NDArray[np.bool_], slow: Floats, look: Appearance) -> None:
    # The slow field has unit variance: its quantiles share the bowel out among contents.
    contents = ndimage.gaussian_filter(slow, 1.0)
    uniform = 0.5 * (1 + np.tanh(0.8 * contents))
    soft[bowel & (uniform < look.bowel_filled)] = look.bowel_contrast
    soft[bowel & (uniform > 1 - look.bowel_gas)] = -950.0


def _table_under(
    tissues: hd.Volume, table: Table | None, rng: np.random.Generator
) -> Floats | None:
    body = np.flatnonzero((tissues.array != Tissue.AIR).any(axis=(0, 2)))
    if table is None or body.size == 0:
        return None
    pixel = float(tissues.spacing[1])
    _, rows, columns = tissues.shape
    x = (np.arange(columns, dtype=np.float32) - columns / 2) * pixel + rng.uniform(-25, 25)
    y = (np.arange(rows, dtype=np.float32) - body[-1]) * pixel + table.sink
    return table_image(table, x, y, pixel)


def _measure(ideal: Floats, scanner: Scanner, pixel: float, rng: np.random.Generator) -> Floats:
    image: Floats = ndimage.gaussian_filter(ideal, scanner.blur_mm / pixel)
    if scanner.sharpening > 0:
        image += scanner.sharpening * (image - ndimage.gaussian_filter(image, 1.2 / pixel))
    noise = rng.standard_normal(image.shape, dtype=np.float32)
    noise = ndimage.gaussian_filter(noise, scanner.noise_mm / pixel)
    image += noise * (scanner.noise_hu / max(float(noise.std()), 1e-6))
    if scanner.streaks_hu > 0:
        # Rays through the widest, densest rows are starved of photons.
        load = np.clip(image + 1000, 0, None).sum(axis=1, keepdims=True)
        streaks = rng.standard_normal(image.shape, dtype=np.float32)
        streaks = ndimage.gaussian_filter1d(streaks, 30 / pixel, axis=1) * np.sqrt(30 / pixel) * 2
        image += streaks * scanner.streaks_hu * (load / max(float(load.max()), 1.0)) ** 2
    image = np.clip(np.rint(image), -1024, 3071)
    if scanner.circle is not None:
        rows, columns = image.shape
        y, x = np.ogrid[:rows, :columns]
        radius = np.hypot(y - (rows - 1) / 2, x - (columns - 1) / 2)
        image[radius > scanner.circle * max(rows, columns) / 2] = scanner.padding
    return image
