"""Functional groups of a Segmentation, encoded early: what many frames share, once.

The place and the source image of a slice stand in each of its frames, one per segment (PS3.3 C.7.6.16.1.1: a group is
shared by all frames or by none). Writing them item by item takes longer than everything else about a SEG.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import pack
from typing import Any

from pydicom import DataElement, Dataset
from pydicom.charset import convert_encodings, default_encoding
from pydicom.dataelem import RawDataElement
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import correct_ambiguous_vr_element, write_sequence
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag, Tag
from pydicom.valuerep import AMBIGUOUS_VR

_PER_FRAME = Tag("PerFrameFunctionalGroupsSequence")
_CONTENT = Tag("FrameContentSequence")
_OF_SLICE = (Tag("DerivationImageSequence"), Tag("PlanePositionSequence"))
_OF_SEGMENT = (Tag("SegmentIdentificationSequence"),)


def encode_groups(ds: Dataset, slices: Sequence[int], segments: Sequence[int]) -> None:
    """Replace the Per-Frame Functional Groups Sequence (5200,9230) by its encoding.

    The object says what it said: pydicom reads an encoded sequence when it is looked at, and writes it as it is.

    Parameters
    ----------
    ds
        A Segmentation, complete but for what has no ambiguous VR.
    slices, segments
        Of each frame: its slice, and its segment; no segments where no frame has one of its own.
    """
    known: dict[tuple[BaseTag, int], RawDataElement] = {}
    # Of one frame per slice nothing is shared.
    is_shared = len(set(slices)) < len(slices)
    for index, item in enumerate(ds.PerFrameFunctionalGroupsSequence):
        keys = [(tag, slices[index]) for tag in _OF_SLICE if is_shared]
        keys += [(tag, segments[index]) for tag in _OF_SEGMENT if segments]
        for key in keys:
            tag = key[0]
            if tag in item:
                known[key] = item[tag] = known.get(key) or _encoded(item[tag])
        item[_CONTENT] = known[_CONTENT, 0] = _frame_content(
            item[_CONTENT], known.get((_CONTENT, 0))
        )
        _mark_as_encoded(item)
    ds[_PER_FRAME] = _encoded(ds[_PER_FRAME])
    for element in ds.elements():
        if element.VR in AMBIGUOUS_VR:
            correct_ambiguous_vr_element(element, ds, is_little_endian=True)
    _mark_as_encoded(ds)


def _encoded(element: DataElement) -> RawDataElement:
    """A sequence in Explicit VR Little Endian, which every transfer syntax we use has."""
    file = DicomBytesIO()
    file.is_implicit_VR, file.is_little_endian = False, True
    # All texts in there are identifiers, codes and numbers.
    write_sequence(file, element, [default_encoding])
    value = file.getvalue()
    return RawDataElement(element.tag, "SQ", len(value), value, 0, False, True)


def _frame_content(element: DataElement, other: RawDataElement | None) -> RawDataElement:
    """Frame Content, which differs from another frame's in its Dimension Index Values alone."""
    (content,) = element.value
    if other is None or other.value is None or len(content) != 1:
        return _encoded(element)
    index = content.DimensionIndexValues
    # PS3.5 6.2: an unsigned long is of four bytes.
    values = pack(f"<{len(index)}L", *index) if isinstance(index, MultiValue) else pack("<L", index)
    return other._replace(value=other.value[: -len(values)] + values)


def _mark_as_encoded(ds: Dataset) -> None:
    """Else pydicom reads encoded elements before it writes them."""
    given: Any = ds.get("SpecificCharacterSet")
    ds.set_original_encoding(
        is_implicit_vr=False,
        is_little_endian=True,
        character_encoding=convert_encodings(given) if given else default_encoding,
    )
