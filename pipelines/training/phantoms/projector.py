"""Parallel-beam projections of a plane, and their filtered back-projection, at low resolution."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import fft, sparse

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Projector:
    """A sparse Radon transform of square planes.

    An image is flat, shape (size * size,); a sinogram is flat, shape (angles * detectors,).
    """

    size: int  #: pixels along an edge
    pixel: float  #: mm
    angles: Floats  #: directions along the detector, rad, shape (angles,)
    detectors: int
    matrix: "sparse.csr_array[np.float32]"
    transposed: "sparse.csr_array[np.float32]"

    def project(self, image: Floats) -> Floats:
        """Return line integrals (image's unit times mm)."""
        return np.asarray(self.matrix @ image.reshape(-1), np.float32) * np.float32(self.pixel)

    def back_project(self, sinograms: Floats) -> Floats:
        """Return the mean over angles of the rays through each pixel.

        Sinograms have the shape (n, angles * detectors), the images (n, size, size).
        """
        rays = np.ascontiguousarray(sinograms.T)
        images = np.asarray(self.transposed @ rays, np.float32).T / len(self.angles)
        return np.ascontiguousarray(images.reshape(-1, self.size, self.size), np.float32)

    def reconstruct(self, sinogram: Floats) -> Floats:
        """Return the image whose projections a sinogram holds, shape (size, size)."""
        values = sinogram.reshape(len(self.angles), self.detectors)
        length = fft.next_fast_len(2 * self.detectors, real=True)
        # Ram-Lak, made of its samples in space.
        kernel = np.zeros(length)
        kernel[0] = 0.25
        odd = np.arange(1, length // 2, 2)
        kernel[odd] = kernel[-odd] = -1 / (np.pi * odd) ** 2
        ramp = np.real(fft.rfft(kernel)).astype(np.float32) / self.pixel
        filtered = fft.irfft(fft.rfft(values, length, axis=1) * ramp, length, axis=1)
        filtered = np.ascontiguousarray(filtered[:, : self.detectors], np.float32)
        image = self.back_project(filtered.reshape(1, -1))[0]
        return np.asarray(image * np.float32(np.pi), np.float32)


@lru_cache(maxsize=4)
def make_projector(size: int, pixel: float, angles: int) -> Projector:
    """Return the projector of a grid; the same one for the same grid."""
    detectors = int(np.ceil(size * np.sqrt(2))) + 3
    directions = (np.arange(angles) + 0.5) * np.pi / angles
    # Four points a pixel: with one, rays at 45 degrees would hit twice what their neighbours hit.
    inside = np.arange(2 * size) / 2 - (size - 0.5) / 2
    pixels = np.repeat(np.repeat(np.arange(size * size).reshape(size, size), 2, 0), 2, 1).ravel()
    parts = []
    for direction in directions:
        across, along = np.cos(direction) * inside, np.sin(direction) * inside
        place = (across[None, :] + along[:, None] + (detectors - 1) / 2).ravel()
        low = np.floor(place).astype(np.int32)
        share = ((place - low) / 4).astype(np.float32)
        values = np.concatenate([np.float32(0.25) - share, share])
        where = (np.concatenate([low, low + 1]), np.concatenate([pixels, pixels]))
        parts.append(sparse.coo_array((values, where), shape=(detectors, size * size)).tocsr())
    matrix = sparse.vstack(parts, format="csr")
    return Projector(
        size=size,
        pixel=pixel,
        angles=directions.astype(np.float32),
        detectors=detectors,
        matrix=matrix,
        transposed=matrix.T.tocsr(),
    )
