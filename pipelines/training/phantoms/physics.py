"""What X-rays do to a plane of a body beyond blur: noise by path length, hardening, metal.

All of it is computed from projections of a coarse plane across the whole body, whatever part of
it the image shows.
"""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pipelines.training.phantoms.projector import Projector

Floats = NDArray[np.float32]
_Real = TypeVar("_Real", np.float32, np.float64)

#: A 120 kVp spectrum as a detector weighs it: keV, share (a coarse one, ours).
_SPECTRUM = np.asarray([0.06, 0.16, 0.24, 0.30, 0.18, 0.06])
#: Linear attenuation per mm at 40, 50, 60, 80, 100, 120 keV, with coherent scattering: NIST XCOM, for
#: water, cortical bone after ICRU-44 (1.92 g/cm3), titanium and, as steel, iron.
_WATER = np.asarray([0.02683, 0.02269, 0.02059, 0.01837, 0.01707, 0.01614])
_BONE = np.asarray([0.1278, 0.0814, 0.0604, 0.0428, 0.0356, 0.0324])
_METALS = {
    "titanium": np.asarray([0.9976, 0.5466, 0.3452, 0.1826, 0.1226, 0.0978]),
    "steel": np.asarray([2.856, 1.541, 0.948, 0.468, 0.2925, 0.220]),
}
_REFERENCE = 3  # index of 80 keV, at which tissues keep their Hounsfield units
#: Directions of rays that noise is told apart by.
SECTORS = 4
#: Scanners smooth rays that few photons pass (adaptive filtration, Hsieh, Med Phys 1998;25:2139): noise grows no
#: further beyond this attenuation over the reference, nor beyond this standard deviation of a line integral.
_DARKEST, _STARVED = 2.5, 0.12
#: Of the reference noise: the middle of a water cylinder of this diameter, mm.
_REFERENCE_MM = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Beam:
    """How hard the X-rays are and how well the scanner corrects for them."""

    hardening: float  #: share of the nonlinearity that is left uncorrected, 0 to 1
    metal: str  #: `titanium` or `steel` (cobalt-chromium behaves like it)
    modulation: float  #: how far tube current follows the body: 0 not at all, 1 fully
    electronic: float  #: electronic noise as a share of the photons through the reference


@dataclass(frozen=True, slots=True, kw_only=True)
class Artefacts:
    """What is added to a plane, on the projector's grid, shape (size, size)."""

    error: Floats  #: HU
    noise: Floats  #: shape (4, size, size): noise by direction, relative to the reference


def artefacts(
    plane: Floats, metal: Floats, projector: Projector, beam: Beam, rng: np.random.Generator
) -> Artefacts:
    """Return what noise and beam hardening do to a plane.

    Parameters
    ----------
    plane
        HU without metal, shape (size, size).
    metal
        Share of metal in each pixel, same shape.
    projector
        Of that grid.
    beam
        The X-rays.
    rng
        Photons through metal are few: their noise is part of the streaks.
    """
    soft = np.asarray(np.clip(1 + np.minimum(plane, 100) / 1000, 0, None) * (1 - metal), np.float32)
    excess = np.clip(plane - 100, 0, None) / 1000 * (1 - metal)
    bone = np.asarray(excess * _WATER[_REFERENCE] / _BONE[_REFERENCE], np.float32)
    water, mineral = projector.project(soft), projector.project(bone)
    ideal = _WATER[_REFERENCE] * water + _BONE[_REFERENCE] * mineral
    has_metal = bool((metal > 0.02).any())
    lengths = [(water, _WATER), (mineral, _BONE)]
    if has_metal:
        steel = projector.project(metal)
        lengths.append((steel, _METALS[beam.metal]))
        ideal = ideal + _METALS[beam.metal][_REFERENCE] * steel
    measured = _polychromatic(lengths)
    error = beam.hardening * (_water_corrected(measured) - ideal)
    if has_metal:
        shadow = steel > 0.3
        error[shadow] = _water_corrected(measured)[shadow] - ideal[shadow]
        error[shadow] += _starved(measured[shadow], rng)
    image = projector.reconstruct(error) * np.float32(1000 / _WATER[_REFERENCE])
    return Artefacts(error=np.clip(image, -3000, 3000), noise=_noise(measured, projector, beam))


def sector_weights(angles: NDArray[_Real], sector: int) -> NDArray[_Real]:
    """Return how far directions (rad) belong to a sector: cos squared within 45 degrees of it."""
    away = angles - angles.dtype.type(sector * np.pi / SECTORS)
    away = (away + np.pi / 2) % np.pi - np.pi / 2
    return np.where(np.abs(away) < np.pi / 4, np.cos(2 * away) ** 2, 0)


def _polychromatic(lengths: list[tuple[Floats, NDArray[np.float64]]]) -> Floats:
    transmitted = np.zeros(lengths[0][0].shape, np.float32)
    for index, weight in enumerate(_SPECTRUM):
        exponent = sum(length * np.float32(mu[index]) for length, mu in lengths)
        transmitted += np.float32(weight) * np.exp(-np.asarray(exponent, np.float32))
    return np.asarray(-np.log(np.maximum(transmitted, np.float32(1e-8))), np.float32)


def _water_corrected(measured: Floats) -> Floats:
    """Undo the hardening that water alone causes, as every scanner does."""
    path = np.arange(0, 1200, 4, dtype=np.float32)
    seen = _polychromatic([(path, _WATER)])
    return np.asarray(np.interp(measured, seen, path * _WATER[_REFERENCE]), np.float32)


def _starved(measured: Floats, rng: np.random.Generator) -> Floats:
    photons = 2e5 * np.exp(-measured)
    spread = np.sqrt(1 / np.maximum(photons, 1) + 30 / np.maximum(photons, 1) ** 2)
    noise = rng.standard_normal(measured.shape, dtype=np.float32)
    return np.asarray(noise * np.minimum(spread, _STARVED), np.float32)


def _noise(measured: Floats, projector: Projector, beam: Beam) -> Floats:
    """Return the noise of rays by direction, relative to the middle of the reference."""
    reference = float(_polychromatic([(np.full(1, _REFERENCE_MM, np.float32), _WATER)])[0])
    relative = np.exp(np.clip(measured - reference, -12, _DARKEST)).astype(np.float32)
    variance = relative + np.float32(beam.electronic) * relative**2
    load = float(np.quantile(variance, 0.9))
    variance /= max(load, 1e-6) ** beam.modulation
    rays = variance.reshape(len(projector.angles), -1)
    weighted = []
    for sector in range(SECTORS):
        weight = sector_weights(projector.angles, sector)
        scale = np.float32(1 / max(float(weight.mean()), 1e-6))
        weighted.append((rays * weight[:, None].astype(np.float32) * scale).reshape(-1))
    planes = projector.back_project(np.stack(weighted))
    return np.asarray(np.sqrt(np.maximum(planes, 1e-6)), np.float32)
