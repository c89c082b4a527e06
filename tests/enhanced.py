"""Enhanced multi-frame CT and MR of the volumes of `volumes`, frames in an order of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import volumes
from highdicom import PixelMeasuresSequence, PlaneOrientationSequence, PlanePositionSequence
from pydicom import Dataset
from pydicom.uid import EnhancedCTImageStorage, EnhancedMRImageStorage

from pipelines.training.phantoms.dicom import ct_series

SOP_CLASSES = {"CT": EnhancedCTImageStorage, "MR": EnhancedMRImageStorage}
#: Which slice each frame shows: no order at all.
SLICES = (3, 1, 2, 0, 10, 9, 8, 7, 6, 5, 4)
#: Stored in functional groups, or meaningless in a multi-frame image.
_OF_SLICE = (
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SliceThickness",
    "SpacingBetweenSlices",
    "RescaleIntercept",
    "RescaleSlope",
    "RescaleType",
)


def enhanced_image(orientation: str = "axial", modality: str = "CT") -> Dataset:
    """An enhanced image; orientation, pixel measures and values are shared, positions are the frames' own."""
    slices = ct_series(volumes.make_volume(orientation), seed=7)
    first = slices[0]
    ds = Dataset()
    ds.update(first)
    ds.file_meta = first.file_meta
    ds.Modality = modality
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = SOP_CLASSES[modality]
    ds.NumberOfFrames = len(SLICES)
    ds.PixelData = b"".join(slices[index].PixelData for index in SLICES)
    shared = Dataset()
    shared.PixelMeasuresSequence = PixelMeasuresSequence(
        pixel_spacing=first.PixelSpacing, slice_thickness=first.SliceThickness
    )
    shared.PlaneOrientationSequence = PlaneOrientationSequence(
        coordinate_system="PATIENT", image_orientation=first.ImageOrientationPatient
    )
    values = Dataset()
    values.RescaleIntercept, values.RescaleSlope = first.RescaleIntercept, first.RescaleSlope
    values.RescaleType = "HU" if modality == "CT" else "US"
    shared.PixelValueTransformationSequence = [values]
    ds.SharedFunctionalGroupsSequence = [shared]
    ds.PerFrameFunctionalGroupsSequence = [_frame(slices[index]) for index in SLICES]
    for keyword in _OF_SLICE:
        if keyword in ds:
            del ds[keyword]
    return ds


def write_enhanced(
    folder: Path,
    orientation: str = "axial",
    modality: str = "CT",
    *,
    change: Callable[[Dataset], Any] | None = None,
) -> list[Path]:
    """The file of an enhanced image; `change` may spoil it before it is written."""
    ds = enhanced_image(orientation, modality)
    if change is not None:
        change(ds)
    path = folder / "enhanced.dcm"
    ds.save_as(path, enforce_file_format=True)
    return [path]


def _frame(one: Dataset) -> Dataset:
    groups = Dataset()
    groups.PlanePositionSequence = PlanePositionSequence(
        coordinate_system="PATIENT", image_position=np.array(one.ImagePositionPatient, float)
    )
    return groups
