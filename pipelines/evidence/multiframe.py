"""A multi-frame source without functional groups (NM), as highdicom wants multi-frame images to be."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from highdicom import PixelMeasuresSequence, PlaneOrientationSequence, PlanePositionSequence
from pydicom import Dataset


def by_frame(frame_numbers: Sequence[int]) -> list[int]:
    """Indices of the slices in the order of their frames."""
    return [int(index) for index in np.argsort(frame_numbers)]


def with_functional_groups(slices: Sequence[Dataset], frame_numbers: Sequence[int]) -> Dataset:
    """One image of all slices, which says by functional groups where its frames lie; never written.

    highdicom reads the place of frames from functional groups (PS3.3 C.7.6.16), which PS3.3 A.5 does not have: NM
    places the first frame only. What it makes of them are the plane positions of a Segmentation and, for each of its
    frames, the frame of the source it was drawn on.

    Parameters
    ----------
    slices
        From `header.source_images`, one per frame.
    frame_numbers
        Which frame each is, from 1.
    """
    ordered = [slices[index] for index in by_frame(frame_numbers)]
    # All of the header stands in the first slice, whichever frame that is.
    ds = Dataset()
    ds.update(slices[0])
    del ds.ImagePositionPatient
    ds.NumberOfFrames = len(ordered)
    shared = Dataset()
    shared.PixelMeasuresSequence = PixelMeasuresSequence(
        pixel_spacing=ds.PixelSpacing,
        slice_thickness=ds.SliceThickness,
        spacing_between_slices=ds.SpacingBetweenSlices,
    )
    shared.PlaneOrientationSequence = PlaneOrientationSequence(
        coordinate_system="PATIENT", image_orientation=ds.ImageOrientationPatient
    )
    ds.SharedFunctionalGroupsSequence = [shared]
    ds.PerFrameFunctionalGroupsSequence = [_frame(one) for one in ordered]
    return ds


def _frame(one: Dataset) -> Dataset:
    groups = Dataset()
    groups.PlanePositionSequence = PlanePositionSequence(
        coordinate_system="PATIENT", image_position=one.ImagePositionPatient
    )
    return groups
