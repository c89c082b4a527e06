"""One enhanced multi-frame image -> a header per frame, as a slice of its own would have (PS3.3 C.7.6.16).

Enhanced CT, MR and PET say where a frame lies, and what its values mean, in functional groups: shared by all frames, or
for each. With a header per frame the rest of the way is that of any series: `geometry.fit_grid` places the frames, or
says why they are no volume.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from pydicom import Dataset
from pydicom.uid import EnhancedCTImageStorage, EnhancedMRImageStorage, EnhancedPETImageStorage

from pipelines.errors import InputError, shown

_SOP_CLASSES: Final = (EnhancedCTImageStorage, EnhancedMRImageStorage, EnhancedPETImageStorage)
#: Functional group -> what a slice says of itself.
_OF_SLICE: Final = {
    "PixelMeasuresSequence": ("PixelSpacing", "SliceThickness"),
    "PlanePositionSequence": ("ImagePositionPatient",),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "PixelValueTransformationSequence": ("RescaleIntercept", "RescaleSlope", "RescaleType"),
}
_GROUPS: Final = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")


def is_enhanced(ds: Dataset) -> bool:
    """Whether an instance is an enhanced image whose frames are placed by this module."""
    return ds.SOPClassUID in _SOP_CLASSES


def frame_headers(ds: Dataset) -> list[Dataset]:
    """A header for each frame, in their order: the image's, and what its functional groups say of the frame.

    Parameters
    ----------
    ds
        Enhanced CT, MR or PET; its Pixel Data is left out.

    Raises
    ------
    InputError
        `input-no-geometry`, when functional groups are missing; `input-too-few-slices`, when there is one frame.
    """
    shared = ds.get(_GROUPS[0]) or [Dataset()]
    frames = ds.get(_GROUPS[1]) or ()
    if len(frames) != int(ds.get("NumberOfFrames") or 1):
        raise InputError(
            f"Instance {shown(ds.SOPInstanceUID)} has {len(frames)} functional groups for "
            f"{shown(ds.get('NumberOfFrames'))} frames (PerFrameFunctionalGroupsSequence).",
            code="input-no-geometry",
        )
    if len(frames) < 2:
        raise InputError(
            f"Instance {shown(ds.SOPInstanceUID)} has {len(frames)} frame(s): a volume needs two at least.",
            code="input-too-few-slices",
        )
    common = Dataset()
    for element in ds:
        if element.keyword not in (*_GROUPS, "PixelData"):
            common.add(element)
    common.file_meta = ds.file_meta
    return [_header(common, (frame, shared[0])) for frame in frames]


def _header(common: Dataset, groups: Iterable[Dataset]) -> Dataset:
    header = Dataset()
    header.update(common)
    header.file_meta = common.file_meta
    for sequence, keywords in _OF_SLICE.items():
        # PS3.3 C.7.6.16.1.1: a functional group is shared or per frame, never both.
        item = next((group[sequence][0] for group in groups if group.get(sequence)), Dataset())
        for keyword in keywords:
            if keyword in item:
                header[keyword] = item[keyword]
    return header
