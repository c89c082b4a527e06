"""From images to numbered lesions with a probability of metastasis."""

from __future__ import annotations

from dataclasses import dataclass

import highdicom as hd
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from pipelines.inference import Engine, mirrored
from pipelines.inference.engine import Network, engine_of
from pipelines.inference.grid import Box, bounding_box
from pipelines.networks.mtunet import STRIDE
from pipelines.spect_ct_bone_lesion.grids import AIR_HU, onto, to_network, to_source
from pipelines.spect_ct_bone_lesion.networks import SLICES
from pipelines.spect_ct_bone_lesion.preprocessing import (
    normalise_ct,
    normalise_spect,
    typical_counts,
)

Floats = NDArray[np.float32]

#: A voxel from this probability of any lesion on is one: training counts lesions three times, which makes odds of three
#: even.
THRESHOLD = 0.75
#: Smaller ones are noise, mL.
_SMALLEST_ML = 0.25
#: What lies less than so much within bone by CT is no lesion of bone, but urine: HU; a share; mm around bone that count
#: as bone, for a lesion may have destroyed its own, and patients breathe between SPECT and CT.
_BONE_HU, _BONE_SHARE, _BONE_MARGIN_MM = 160, 0.6, 5.0
#: Neighbours in a slice.
_IN_SLICE = np.array([[[0] * 3] * 3, [[0, 1, 0], [1, 1, 1], [0, 1, 0]], [[0] * 3] * 3])
_BATCH = 4
#: Darker than this share of what is bright is no patient; voxels around the patient that are looked at.
_BODY_SHARE, _BODY_MARGIN = 0.15, 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """What there is of one patient; at least one."""

    spect: hd.Volume | None = None  #: counts
    ct: hd.Volume | None = None  #: HU

    @property
    def reference(self) -> hd.Volume:
        """The image on whose grid lesions are reported: SPECT where there is one."""
        volume = self.spect if self.spect is not None else self.ct
        if volume is None:
            raise ValueError("there is no image")
        return volume


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesion:
    """One lesion."""

    number: int  #: in the label map
    probability: float  #: of metastasis, given that it is a lesion

    @property
    def malignant(self) -> bool:
        """Whether metastasis is the more likely."""
        return self.probability >= 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesions:
    """What was found."""

    labels: hd.Volume  #: numbers of `lesions`, on the grid of the reference
    lesions: tuple[Lesion, ...]
    malignancy: (
        hd.Volume
    )  #: float32, probability of metastasis in each voxel, on the network's grid
    outside_bone: int  #: what looked like lesions but does not lie in bone by CT: left out


def find_lesions(network: Network, images: Images, *, mirror: bool = True) -> Lesions:
    """Find the lesions of one patient.

    Parameters
    ----------
    network
        That of the images there are; in eval mode.
    images
        In one frame of reference.
    mirror
        Average with what the mirrored slices say: twice the time of the network.
    """
    reference = images.reference
    grid = to_network(reference)
    hounsfield = _hounsfield(images, grid)
    engine = mirrored(network) if mirror else engine_of(network)
    probabilities = _probabilities(engine, _channels(images, grid, hounsfield))
    lesion = np.asarray(probabilities[1] + probabilities[2], np.float32)
    looked_like = _components(grid.with_array(lesion))
    numbers = looked_like if hounsfield is None else _in_bone(looked_like, hounsfield)
    found = to_source(grid.with_array(lesion), reference, THRESHOLD, numbers)
    kept = [int(n) for n in np.unique(found.array) if n > 0]
    order = np.zeros(int(numbers.array.max()) + 1, numbers.array.dtype)
    order[kept] = np.arange(1, len(kept) + 1)
    malignant, either = (
        np.atleast_1d(ndimage.sum(array, numbers.array, kept))
        for array in (probabilities[1], lesion)
    )
    return Lesions(
        labels=found.with_array(_narrow(order[found.array])),
        lesions=tuple(
            Lesion(number=rank, probability=float(part / whole))
            for rank, (part, whole) in enumerate(zip(malignant, either, strict=True), start=1)
        ),
        malignancy=grid.with_array(np.asarray(probabilities[1], np.float32)),
        outside_bone=int(looked_like.array.max()) - int(numbers.array.max()),
    )


def _hounsfield(images: Images, grid: hd.Volume) -> hd.Volume | None:
    """CT on the network's grid, NaN where it does not reach; None if there is none."""
    if images.ct is None:
        return None
    return grid if images.spect is None else onto(grid, images.ct, np.nan)


def _channels(images: Images, grid: hd.Volume, hounsfield: hd.Volume | None) -> Floats:
    """What the network sees, shape (channels, slices, rows, columns)."""
    made = []
    if images.spect is not None:
        made.append(normalise_spect(grid.array, typical_counts(images.spect.array)))
    if hounsfield is not None:
        made.append(normalise_ct(np.nan_to_num(hounsfield.array, nan=AIR_HU)))
    return np.stack(made)


def _probabilities(engine: Engine, channels: Floats) -> Floats:
    """Probability of background, metastasis and benign lesion, shape (3, slices, rows, columns)."""
    result = np.zeros((3, *channels.shape[1:]), np.float32)
    result[0] = 1
    box = _body(channels)
    if box is None:
        return result
    part = channels[:, *box.index]
    rows, columns = part.shape[2:]
    padding = [(0, 0), (0, 0), (0, -rows % STRIDE), (0, -columns % STRIDE)]
    # What is beyond the images is as dark as what is darkest in them.
    padded = np.stack([np.pad(one, padding[1:], constant_values=float(one.min())) for one in part])
    with torch.inference_mode():
        for first in range(0, part.shape[1], _BATCH):
            batch = torch.from_numpy(_with_neighbours(padded, first, first + _BATCH))
            logits = engine(batch.to(engine.device))[..., :rows, :columns]
            found = logits.softmax(dim=1).cpu().numpy().swapaxes(0, 1)
            last = box.slices[0] + first + found.shape[1]
            window = (slice(box.slices[0] + first, last), *box.index[1:])
            result[:, *window] = found
    return result


def _with_neighbours(images: Floats, first: int, last: int) -> Floats:
    """Return slices with their neighbours as channels: (slices, images x `SLICES`, rows, columns)."""
    middles = np.arange(first, min(last, images.shape[1]))
    seen = middles[:, None] + np.arange(SLICES) - SLICES // 2
    # Axes: image, slice, its neighbours, rows, columns.
    stacked = images[:, seen.clip(0, images.shape[1] - 1)].swapaxes(0, 1)
    return np.ascontiguousarray(stacked.reshape(len(middles), -1, *images.shape[2:]))


def _body(channels: Floats) -> Box | None:
    """The box around the patient: where the last channel, CT if there is one, is not air."""
    image = channels[-1]
    lowest = float(image.min())
    body = image > lowest + _BODY_SHARE * (float(np.percentile(image, 99)) - lowest)
    grid = hd.Volume(array=body, affine=np.eye(4), coordinate_system="PATIENT")
    return bounding_box(grid, _BODY_MARGIN)


def _components(lesion: hd.Volume) -> hd.Volume:
    """Number connected lesions, without the smallest; uint8 or uint16."""
    numbers, count = ndimage.label(lesion.array >= THRESHOLD, np.ones((3, 3, 3)))
    sizes = np.bincount(numbers.ravel(), minlength=count + 1) * float(lesion.voxel_volume) / 1000
    return lesion.with_array(_renumbered(numbers, sizes >= _SMALLEST_ML))


def _in_bone(numbers: hd.Volume, hounsfield: hd.Volume) -> hd.Volume:
    """Leave out what does not lie in bone; what may be bone, for CT does not reach there, is taken for it."""
    if not numbers.array.any():
        return numbers
    dark, _ = ndimage.label(hounsfield.array <= _BONE_HU, _IN_SLICE)
    edges = (dark[:, [0, -1]], dark[:, :, [0, -1]])
    # Marrow may be as dark as muscle: what bone encloses in a slice is bone.
    outside = np.zeros(int(dark.max()) + 1, bool)
    outside[np.concatenate([edge.ravel() for edge in edges])] = True
    outside[0] = False
    bone = ~outside[dark]
    near = bone
    if bone.any():
        away = ndimage.distance_transform_edt(~bone, sampling=numbers.spacing)
        near = np.asarray(away <= _BONE_MARGIN_MM)
    lesions = numbers.array.ravel()
    inside = np.bincount(lesions, near.ravel())
    return numbers.with_array(
        _renumbered(numbers.array, inside >= _BONE_SHARE * np.bincount(lesions))
    )


def _renumbered(numbers: NDArray[np.integer], keep: NDArray[np.bool_]) -> NDArray[np.integer]:
    """Number lesions that are kept from 1 on; `keep` has the others' and the background's place too."""
    keep[0] = False
    return _narrow(np.where(keep, np.cumsum(keep), 0)[numbers])


def _narrow(numbers: NDArray[np.integer]) -> NDArray[np.integer]:
    """As uint8 where that holds them, else uint16."""
    return numbers.astype(np.uint8 if numbers.max(initial=0) < 256 else np.uint16)
