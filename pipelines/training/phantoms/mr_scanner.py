"""From signals in a plane to what an MR scanner reconstructs: coil, k-space, noise, artefacts.

Rician noise as in Gudbjartsson and Patz, Magn Reson Med 1995;34:910: Gaussian in both channels, then the magnitude.
Truncation and partial
Fourier are done where they happen, in k-space. Metal moves signal along the read-out direction by its field, which
empties some pixels and
piles up in others; through-plane distortion is left out. All sizes are ours.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class MrScanner:
    """One scanner with one protocol."""

    snr: float  #: of vertebral marrow
    acquired: tuple[float, float]  #: share of the rows' and columns' frequencies that is measured
    partial: float  #: share of k-space along the phase direction; the rest is zero
    phase_axis: int  #: 0 rows, 1 columns
    coil_mm: float  #: over which a surface coil under the back loses two thirds; large: even
    uneven: float  #: amplitude of the bias field
    saturation: float  #: what a saturation band in front of the spine leaves; 1: none
    saturation_mm: float  #: how far in front of the canal it begins
    ghost: float  #: strength of ghosts along the phase direction
    metal_mm: float  #: by which metal moves signal next to it
    highest: float  #: stored value of the brightest pixels


def draw_mr_scanner(rng: np.random.Generator) -> MrScanner:
    """Draw a scanner and its protocol."""
    filtered = rng.random() < 0.5  # vendors even out their coils
    return MrScanner(
        snr=float(rng.uniform(12, 60)),
        acquired=(float(rng.uniform(0.6, 1.0)), float(rng.uniform(0.6, 1.0))),
        partial=float(rng.choice([1.0, 0.875, 0.75, 0.625], p=[0.5, 0.2, 0.2, 0.1])),
        phase_axis=int(rng.integers(2)),
        coil_mm=float(rng.uniform(250, 900) if filtered else rng.uniform(70, 180)),
        uneven=float(rng.uniform(0.02, 0.3)),
        saturation=float(rng.uniform(0.1, 0.5)) if rng.random() < 0.4 else 1.0,
        saturation_mm=float(rng.uniform(35, 70)),
        ghost=float(rng.uniform(0.01, 0.08)) if rng.random() < 0.3 else 0.0,
        metal_mm=float(rng.uniform(2, 8)),
        highest=float(rng.uniform(300, 2500)),
    )


def coil(behind: Floats, slow: Floats, scanner: MrScanner) -> Floats:
    """Return how strongly the coils receive, shape (rows, columns).

    Parameters
    ----------
    behind
        mm behind the canal's axis.
    slow
        A smooth field of unit variance.
    scanner
        Whose coils.
    """
    near = np.exp(np.clip(behind - 40, -400, 0) / np.float32(scanner.coil_mm))
    made = near * np.exp(np.float32(scanner.uneven) * slow)
    if scanner.saturation < 1:
        front = 1 / (1 + np.exp(np.clip((behind + scanner.saturation_mm) / 3, -30, 30)))
        made = made * (1 - (1 - scanner.saturation) * front)
    return np.asarray(made, np.float32)


def distort(signal: Floats, metal: NDArray[np.bool_], scanner: MrScanner, pixel: float) -> Floats:
    """Return the signal as metal moves it along the read-out direction: voids, and where it piles up."""
    if not metal.any():
        return signal
    along = 1 - scanner.phase_axis
    wide = ndimage.gaussian_filter(metal.astype(np.float32), 6.0 / pixel)
    # A dipole's lobes, drawn as the slope of what the metal blurs to.
    slope = ndimage.gaussian_gradient_magnitude(wide, 2.0 / pixel)
    shift = np.sign(np.gradient(wide, axis=along)) * slope + wide
    moved = scanner.metal_mm / pixel * shift / max(float(np.abs(shift).max()), 1e-6)
    image, offset = (signal, moved) if along == 1 else (signal.T, moved.T)
    rows, columns = image.shape
    to = np.arange(columns)[None, :] + offset
    low = np.floor(to).astype(int)
    high = to - low
    made = np.zeros((rows, columns + 2), np.float32)
    lines = np.broadcast_to(np.arange(rows)[:, None], low.shape)
    for step, share in ((0, 1 - high), (1, high)):
        np.add.at(made, (lines, np.clip(low + step, 0, columns + 1)), image * share)
    kept = made[:, :columns]
    return np.asarray(kept if along == 1 else kept.T, np.float32)


def reconstruct(
    received: Floats, marrow: float, scanner: MrScanner, rng: np.random.Generator
) -> Floats:
    """Return the magnitude image of what the coils receive.

    Parameters
    ----------
    received
        float32, shape (rows, columns).
    marrow
        Signal of vertebral marrow, which the noise is relative to.
    scanner
        Matrix, partial Fourier, noise.
    rng
        Source of the noise.
    """
    rows, columns = received.shape
    phase = np.exp(1j * _smooth_phase(rows, columns, rng))
    space = fft.fft2(received * phase)
    windows = [
        _window(
            length, scanner.acquired[axis], scanner.partial if axis == scanner.phase_axis else 1.0
        )
        for axis, length in enumerate((rows, columns))
    ]
    mask = windows[0][:, None] * windows[1][None, :]
    if scanner.ghost:
        lines = np.arange((rows, columns)[scanner.phase_axis])
        pulse = 1 + scanner.ghost * np.sin(2 * np.pi * lines / rng.uniform(3, 9))
        mask = mask * (pulse[:, None] if scanner.phase_axis == 0 else pulse[None, :])
    # Such that what the mask leaves of it has the wanted deviation.
    sigma = marrow / scanner.snr / np.sqrt(float(np.square(mask).mean()))
    white = rng.standard_normal((2, rows, columns), dtype=np.float32)
    noise = (white[0] + 1j * white[1]) * np.float32(sigma * np.sqrt(rows * columns))
    return np.abs(fft.ifft2((space + noise) * mask)).astype(np.float32)


def _window(length: int, acquired: float, partial: float) -> Floats:
    """Return which frequencies are measured, and how a filter weighs them against ringing."""
    frequency = np.abs(fft.fftfreq(length)) * 2
    window = (frequency <= acquired) * (
        0.6 + 0.4 * np.cos(np.pi * np.minimum(frequency / acquired, 1))
    )
    if partial < 1:
        window = window * (fft.fftfreq(length) * 2 > -acquired * (2 * partial - 1))
    return np.asarray(window, np.float32)


def _smooth_phase(rows: int, columns: int, rng: np.random.Generator) -> Floats:
    y, x = np.mgrid[-1 : 1 : rows * 1j, -1 : 1 : columns * 1j].astype(np.float32)
    a, b, c, d = rng.normal(0, 0.6, 4).astype(np.float32)
    return np.asarray(a * x + b * y + c * x * y + d * (x * x - y * y), np.float32)
