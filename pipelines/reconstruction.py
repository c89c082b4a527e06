"""One multi-frame NM reconstruction -> where its frames lie (PS3.3 C.8.4).

Nuclear medicine has no functional groups: Image Position and Orientation of the first slice stand in the NM Detector
module (C.8.4.11), further slices follow along the normal by Spacing Between Slices, whose sign counts (C.8.4.15), and
Slice Vector (C.8.4.8) says which frame is which slice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.multival import MultiValue
from pydicom.tag import Tag
from pydicom.uid import NuclearMedicineImageStorage

from pipelines.errors import InputError, shown
from pipelines.geometry import ORIENTATION_TOLERANCE, decimals

#: PS3.3 C.8.4.8: what Frame Increment Pointer names in a RECON TOMO.
_SLICE_VECTOR = Tag(0x0054, 0x0080)
_SHORTEST_MM = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedFrames:
    """Where the frames of one object lie.

    Attributes
    ----------
    frame_numbers
        Frames, from 1, by increasing position along the normal (row cosines x column cosines).
    affine
        Shape (4, 4), float64: indices (slice, row, column) of the ordered frames -> LPS mm.
    orientation
        Row and column cosines, shape (6,).
    """

    frame_numbers: tuple[int, ...]
    affine: NDArray[np.float64]
    orientation: NDArray[np.float64]

    def position(self, index: int) -> NDArray[np.float64]:
        """Image Position (Patient) of an ordered frame, shape (3,), mm."""
        placed: NDArray[np.float64] = self.affine[:3, 3] + index * self.affine[:3, 0]
        return placed


def is_nuclear(ds: Dataset) -> bool:
    """Whether an instance is of Nuclear Medicine Image Storage, whose frames are placed by this module."""
    return bool(ds.SOPClassUID == NuclearMedicineImageStorage)


def place_frames(ds: Dataset) -> PlacedFrames:
    """Place the frames of a reconstructed tomogram.

    Raises
    ------
    InputError
        `input-not-a-reconstruction`, `input-too-few-slices`, `input-no-geometry` or `input-missing-slices`, naming the
        instance and what is wrong with it.
    """
    frames = _demand_reconstruction(ds)
    detector = _placed_detector(ds)
    orientation = _orthonormal(ds, decimals(detector, "ImageOrientationPatient", 6))
    position = decimals(detector, "ImagePositionPatient", 3)
    rows, columns = decimals(ds, "PixelSpacing", 2)
    step = float(decimals(ds, "SpacingBetweenSlices", 1)[0])
    if min(rows, columns, abs(step)) < _SHORTEST_MM:
        raise InputError(
            f"Instance {shown(ds.SOPInstanceUID)}: PixelSpacing is not positive or SpacingBetweenSlices is zero.",
            code="input-no-geometry",
        )
    slices = _slice_numbers(ds, frames)
    if step < 0:
        # C.8.4.15: "a negative spacing indicates slices are stacked in front of the first slice".
        slices = slices[::-1]
    normal = np.cross(orientation[:3], orientation[3:])
    affine = np.eye(4)
    affine[:3, 0] = normal * abs(step)
    # PS3.3 10.7.1.3: the first value of Pixel Spacing is between rows.
    affine[:3, 1] = orientation[3:] * rows
    affine[:3, 2] = orientation[:3] * columns
    affine[:3, 3] = position + normal * min(0.0, step * (frames - 1))
    return PlacedFrames(frame_numbers=slices, affine=affine, orientation=orientation)


def _demand_reconstruction(ds: Dataset) -> int:
    """Number of Frames of an object that is one volume."""
    kind = list(ds.get("ImageType") or ())
    # PS3.3 C.8.4.9.1.1.3: value 3; other NM images are projections, or gated, with several phases.
    if len(kind) < 3 or kind[2] != "RECON TOMO":
        raise InputError(
            f"Instance {shown(ds.SOPInstanceUID)} is no reconstructed tomogram (value 3 of Image Type): send the "
            "RECON TOMO.",
            code="input-not-a-reconstruction",
        )
    frames = int(ds.get("NumberOfFrames") or 1)
    if frames < 2:
        raise InputError(
            f"Instance {shown(ds.SOPInstanceUID)} has {frames} frame(s): a volume needs two at least.",
            code="input-too-few-slices",
        )
    return frames


def _placed_detector(ds: Dataset) -> Dataset:
    """The item of Detector Information Sequence that places the first slice, with the instance's UID for messages."""
    for item in ds.get("DetectorInformationSequence") or ():
        if item.get("ImagePositionPatient") and item.get("ImageOrientationPatient"):
            placed = Dataset()
            placed.SOPInstanceUID = ds.SOPInstanceUID
            placed.ImagePositionPatient = item.ImagePositionPatient
            placed.ImageOrientationPatient = item.ImageOrientationPatient
            return placed
    raise InputError(
        f"Instance {shown(ds.SOPInstanceUID)} has no Image Position and Orientation (Patient) in its Detector "
        "Information Sequence (0054,0022): it cannot be placed in space.",
        code="input-no-geometry",
    )


def _orthonormal(ds: Dataset, values: NDArray[np.float64]) -> NDArray[np.float64]:
    row, column = values[:3], values[3:]
    lengths = np.array([np.linalg.norm(row), np.linalg.norm(column), 1 + abs(row @ column)])
    if np.abs(lengths - 1).max() > ORIENTATION_TOLERANCE:
        raise InputError(
            f"Instance {shown(ds.SOPInstanceUID)}: ImageOrientationPatient is not a pair of "
            "perpendicular unit vectors.",
            code="input-no-geometry",
        )
    row = row / np.linalg.norm(row)
    column = column - (column @ row) * row
    return np.concatenate([row, column / np.linalg.norm(column)])


def _slice_numbers(ds: Dataset, frames: int) -> tuple[int, ...]:
    """Frame numbers by slice number: without a Slice Vector frame n is slice n."""
    pointers, vector = _values(ds, "FrameIncrementPointer"), _values(ds, "SliceVector")
    if any(Tag(one) != _SLICE_VECTOR for one in pointers):
        raise InputError(
            f"Instance {shown(ds.SOPInstanceUID)}: its frames differ by more than their slice "
            "(Frame Increment Pointer).",
            code="input-not-a-reconstruction",
        )
    if not vector:
        return tuple(range(1, frames + 1))
    numbers = [int(one) for one in vector]
    if sorted(numbers) != list(range(1, frames + 1)):
        raise InputError(
            f"Instance {shown(ds.SOPInstanceUID)}: Slice Vector does not number its {frames} frames 1 to {frames}: "
            "slices are missing or repeated.",
            code="input-missing-slices",
        )
    return tuple(numbers.index(number) + 1 for number in range(1, frames + 1))


def _values(ds: Dataset, keyword: str) -> list[int]:
    """An attribute of one or several values as a list; empty where it is missing."""
    value = ds.get(keyword)
    if value is None:
        return []
    return list(value) if isinstance(value, MultiValue | list) else [value]
