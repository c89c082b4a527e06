"""Functional groups of a Segmentation: each made once by highdicom, encoded once, and put together for every frame.

The place and the source image of a slice stand in each of its frames, one per segment (PS3.3 C.7.6.16.1.1: a group is
shared by all frames or by none). As objects, those of a hundred segments take more time and memory than all else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from struct import pack
from typing import Any

from pydicom import DataElement, Dataset
from pydicom.charset import convert_encodings, default_encoding
from pydicom.dataelem import RawDataElement
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import correct_ambiguous_vr_element, write_data_element
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag, Tag
from pydicom.valuerep import AMBIGUOUS_VR

_PER_FRAME = Tag("PerFrameFunctionalGroupsSequence")
_CONTENT = Tag("FrameContentSequence")
_SEGMENT = Tag("SegmentIdentificationSequence")
#: PS3.5 Table 7.5-1: an item, before its length.
_ITEM = pack("<HH", 0xFFFE, 0xE000)

_Encoded = dict[BaseTag, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameOf:
    """What a frame shows: a slice of the source, by its index, and of a BINARY Segmentation a Segment Number."""

    slice_index: int
    segment_number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """Functional groups, encoded."""

    #: Slice -> its position in Dimension Index Values (0020,9157), and what all its frames say.
    of_slice: dict[int, tuple[int, _Encoded]]
    #: Segment Number -> what all its frames say.
    of_segment: dict[int, _Encoded]
    #: Frame Content of one frame, but for the values it ends with.
    content: bytes
    #: Dimensions: the segment, where it is one, and the position.
    dimensions: int


def encode_groups(
    ds: Dataset, slices: Sequence[int], present: Sequence[Sequence[int]]
) -> tuple[FrameOf, ...]:
    """Replace the Per-Frame Functional Groups Sequence (5200,9230) by its encoding, with all frames there shall be.

    It says what highdicom would have it say: pydicom reads an encoded sequence when it is looked at.

    Parameters
    ----------
    ds
        A Segmentation. Of a BINARY one each slice and each segment has at least one frame; of another, all are there.
    slices
        Of each of its frames: the slice.
    present
        Of each slice: its Segment Numbers.

    Returns
    -------
    tuple of FrameOf
        The frames in their order, which is that of highdicom: by segment, then by position.
    """
    known = _read(ds, slices)
    by_place = sorted((place, index) for index, (place, _) in known.of_slice.items())
    holders: dict[int, list[int]] = {}
    for _, index in by_place:
        # Frames of a label map show all segments.
        for number in present[index] if ds.SegmentationType == "BINARY" else (0,):
            holders.setdefault(int(number), []).append(index)
    frames = tuple(
        FrameOf(slice_index=index, segment_number=number)
        for number in sorted(holders)
        for index in holders[number]
    )
    value = b"".join(_item(known, frame) for frame in frames)
    ds[_PER_FRAME] = RawDataElement(_PER_FRAME, "SQ", len(value), value, 0, False, True)
    ds.NumberOfFrames = len(frames)
    return frames


def mark_as_encoded(ds: Dataset) -> None:
    """Have pydicom write encoded elements as they are, when all else of the object is there."""
    for element in ds.elements():
        if element.VR in AMBIGUOUS_VR:
            correct_ambiguous_vr_element(element, ds, is_little_endian=True)
    given: Any = ds.get("SpecificCharacterSet")
    ds.set_original_encoding(
        is_implicit_vr=False,
        is_little_endian=True,
        character_encoding=convert_encodings(given) if given else default_encoding,
    )


def _read(ds: Dataset, slices: Sequence[int]) -> _Known:
    of_slice: dict[int, tuple[int, _Encoded]] = {}
    of_segment: dict[int, _Encoded] = {}
    for index, item in zip(slices, ds.PerFrameFunctionalGroupsSequence, strict=True):
        place = _dimension_index(item)[-1]
        if index not in of_slice:
            own = (element for element in item if element.tag not in (_CONTENT, _SEGMENT))
            of_slice[index] = place, {element.tag: _encoded(element) for element in own}
        if _SEGMENT in item:
            number = int(item[_SEGMENT].value[0].ReferencedSegmentNumber)
            of_segment.setdefault(number, {_SEGMENT: _encoded(item[_SEGMENT])})
    dimensions = len(_dimension_index(item))
    content = _encoded(item[_CONTENT])
    return _Known(
        of_slice=of_slice,
        of_segment=of_segment,
        # PS3.5 6.2: an unsigned long is of four bytes.
        content=content[: -4 * dimensions],
        dimensions=dimensions,
    )


def _dimension_index(item: Dataset) -> list[int]:
    (content,) = item[_CONTENT].value
    if len(content) != 1:
        raise ValueError("Frame Content holds more than Dimension Index Values.")
    value = content.DimensionIndexValues
    return list(value) if isinstance(value, MultiValue) else [value]


def _item(known: _Known, frame: FrameOf) -> bytes:
    """The functional groups of one frame, as an item of the sequence."""
    place, of_slice = known.of_slice[frame.slice_index]
    of_segment = known.of_segment.get(frame.segment_number, {})
    index = (frame.segment_number, place)[-known.dimensions :]
    content = known.content + pack(f"<{len(index)}L", *index)
    encoded = {**of_slice, **of_segment, _CONTENT: content}
    value = b"".join(encoded[tag] for tag in sorted(encoded))
    return _ITEM + pack("<L", len(value)) + value


def _encoded(element: DataElement) -> bytes:
    """A sequence in Explicit VR Little Endian, which every transfer syntax we use has."""
    file = DicomBytesIO()
    file.is_implicit_VR, file.is_little_endian = False, True
    # All texts in there are identifiers, codes and numbers.
    write_data_element(file, element, default_encoding)
    return file.getvalue()
