"""What is labelled of a phantom: densely, or as physicians do who draw one slice of each vertebra."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipelines.ct_trunk_muscle.anatomy import BODIES, LEVELS, NOT_JUDGED, NUMBERS, UNKNOWN
from pipelines.training.phantoms.tissues import Phantom

Codes = NDArray[np.uint8]
Mask = NDArray[np.bool_]

#: Arches and processes are thinner than twice this, bodies are not.
_ARCH_MM = 6.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """All that is known of a phantom.

    Attributes
    ----------
    labels
        uint8 segment numbers of muscles and vertebral bodies, `UNKNOWN` where nobody says; axes (slice, row, column).
    planes
        Level -> first and last slice of its body.
    middles
        Level -> the slice through the middle of its body, of bodies that are wholly in the image.
    """

    labels: hd.Volume
    planes: Mapping[str, tuple[int, int]]
    middles: Mapping[str, int]


def truth_of(phantom: Phantom, levels: Collection[str] = LEVELS) -> Truth:
    """Return what is known of a phantom; of vertebral bodies only those of some levels.

    Parameters
    ----------
    phantom
        Axial, axes (slice, row, column).
    levels
        Those that the body was labelled at.
    """
    lut = np.zeros(256, np.uint8)
    for code, name in phantom.names.items():
        lut[code] = UNKNOWN if name in NOT_JUDGED else NUMBERS.get(name, 0)
    labels = lut[phantom.structures.array]
    codes = {name: code for code, name in phantom.names.items()}
    planes: dict[str, tuple[int, int]] = {}
    middles: dict[str, int] = {}
    for level in LEVELS:
        if level not in levels or level not in codes:
            continue
        body = vertebral_body(phantom.structures.array == codes[level], phantom.image.spacing[1])
        found = np.flatnonzero(body.any(axis=(1, 2)))
        if not found.size:
            continue
        labels[body] = BODIES[level]
        planes[level] = int(found[0]), int(found[-1])
        whole = found[0] > 0 and found[-1] < len(labels) - 1
        if whole or len(labels) == 1:
            middles[level] = round(float(found.mean()))
    return Truth(labels=phantom.image.with_array(labels), planes=planes, middles=middles)


def sparse(truth: Truth) -> hd.Volume:
    """Return the labels of the slices through the middle of a vertebra; all else is `UNKNOWN`."""
    labels = np.full_like(truth.labels.array, UNKNOWN)
    for index in truth.middles.values():
        labels[index] = truth.labels.array[index]
    return truth.labels.with_array(labels)


def dense(truth: Truth, *, beyond: int = UNKNOWN) -> hd.Volume:
    """Return the labels of all slices from the highest to the lowest labelled body; `beyond` elsewhere."""
    labels = np.full_like(truth.labels.array, beyond)
    if truth.planes:
        first = min(start for start, _ in truth.planes.values())
        last = max(stop for _, stop in truth.planes.values())
        labels[first : last + 1] = truth.labels.array[first : last + 1]
    return truth.labels.with_array(labels)


def vertebral_body(vertebra: Mask, pixel: float) -> Mask:
    """Return a vertebra without its arch: in each slice the largest part that a disc of 13 mm fits into.

    Parameters
    ----------
    vertebra
        Axes (slice, row, column).
    pixel
        Pixel spacing, mm.
    """
    body = np.zeros_like(vertebra)
    for index in np.flatnonzero(vertebra.any(axis=(1, 2))):
        window = ndimage.find_objects(vertebra[index].astype(np.uint8))[0]
        plane = np.pad(vertebra[index][window], 1)
        deep = ndimage.distance_transform_edt(plane) * pixel >= _ARCH_MM
        parts, count = ndimage.label(deep)
        if not count:
            continue
        largest = parts == 1 + int(np.bincount(parts.ravel())[1:].argmax())
        near = ndimage.distance_transform_edt(~largest) * pixel < _ARCH_MM
        body[index][window] = (near & plane)[1:-1, 1:-1]
    return body
