"""The reconstruction kernel: what it does to the image, and to the noise of the detector."""

from collections.abc import Sequence
from dataclasses import dataclass

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from scipy import fft

from pipelines.training.phantoms.physics import SECTORS, sector_weights
from pipelines.training.phantoms.scanner import Scanner

Floats = NDArray[np.float32]

_MARGIN = 8  # pixels around an image, for what the transform wraps around


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """Transfer functions of slices of one size, for `scipy.fft.rfft2`."""

    padded: tuple[int, int]  #: rows and columns that are transformed
    signal: Floats  #: shape (padded rows, padded columns // 2 + 1)
    noise: Floats  #: shape (4, ...): of white noise, by the direction of the rays that carry it


def make_kernel(geometry: hd.VolumeGeometry, scanner: Scanner) -> Kernel:
    """Return the kernel of a scanner for the slices of a grid; noise keeps its power."""
    rows, columns = (_padded(n) for n in geometry.spatial_shape[1:])
    pixel = float(geometry.spacing[1])
    fy = fft.fftfreq(rows, pixel)[:, None]
    fx = fft.rfftfreq(columns, pixel)[None, :]
    frequency = np.hypot(fx, fy)
    signal = np.exp(-2 * (np.pi * scanner.blur_mm * frequency) ** 2)
    signal *= 1 + scanner.sharpening * (1 - np.exp(-2 * (np.pi * 1.2 * frequency) ** 2))
    # Filtered back-projection of white detector noise: power goes with |f| times kernel squared.
    noise = np.sqrt(frequency) * signal
    noise /= np.sqrt(_mean_power(noise, columns))
    direction = np.arctan2(fy, fx)
    sectors = [noise * sector_weights(direction, sector) for sector in range(SECTORS)]
    return Kernel(
        padded=(rows, columns),
        signal=signal.astype(np.float32),
        noise=np.stack(sectors).astype(np.float32),
    )


def filtered(image: Floats, kernel: Kernel) -> Floats:
    """Return an image (shape (rows, columns), any unit) as the kernel renders it."""
    rows, columns = image.shape
    # Continued at the edges: what lies outside of the field of view is like what is inside.
    widths = [
        (_MARGIN, whole - part - _MARGIN)
        for whole, part in zip(kernel.padded, image.shape, strict=True)
    ]
    spectrum = fft.rfft2(np.pad(image, widths, mode="edge")) * kernel.signal
    made = fft.irfft2(spectrum, kernel.padded)
    return np.ascontiguousarray(
        made[_MARGIN : _MARGIN + rows, _MARGIN : _MARGIN + columns], np.float32
    )


def coloured(white: Floats, spread: Sequence[Floats], kernel: Kernel) -> Floats:
    """Return noise with the spectrum of filtered back-projection.

    Parameters
    ----------
    white
        White noise, shape `kernel.padded`.
    spread
        Of each direction, how strong the noise is; shape (rows, columns).
    kernel
        Of slices of that size.

    Returns
    -------
    numpy.ndarray
        float32, shape (rows, columns), in the unit of `white`.
    """
    rows, columns = spread[0].shape
    spectrum = fft.rfft2(white)
    total = np.zeros((rows, columns), np.float32)
    for sector, strength in zip(kernel.noise, spread, strict=True):
        total += fft.irfft2(spectrum * sector, kernel.padded)[:rows, :columns] * strength
    return total


def _mean_power(half: NDArray[np.float64], columns: int) -> float:
    twice = np.full(half.shape[1], 2.0)
    twice[0] = 1
    if columns % 2 == 0:
        twice[-1] = 1
    return float((half**2 * twice).sum() / (half.shape[0] * columns))


def _padded(length: int) -> int:
    return int(fft.next_fast_len(length + 2 * _MARGIN, real=True))
