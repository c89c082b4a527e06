"""The header of a received data set, read once: from encoded bytes to values that rules and the index use.

Reading stops before pixel data; pixel data is only measured, so that a data set that was cut off is refused at the
door and not found out by a pipeline. The bytes themselves are never changed.
"""

from __future__ import annotations

import math
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO

from pydicom.charset import decode_bytes, python_encoding
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException
from pydicom.filereader import read_dataset
from pydicom.sequence import Sequence

from node.elements import (
    BeyondError,
    Element,
    Encoded,
    Encoding,
    TruncatedError,
    UnreadableError,
    dictionary,
    name,
    read_elements,
)
from node.errors import ReceiveError
from node.mentions import mentioned_uids
from node.ownership import OWN_MANUFACTURER, is_named_ours, may_be_derived
from storage.model import HeaderValue

# PS3.4 Table B.2-1. Of the ranges A9xx and Cxxx the last digits are ours; the conformance statement lists them.
DOES_NOT_MATCH = 0xA900
CANNOT_UNDERSTAND = 0xC000
TRUNCATED = 0xC001
UID_MISSING = 0xC002
UID_INVALID = 0xC003

#: Longer values are no business of a rule.
MAX_VALUE_LENGTH = 1024
#: A sequence's item, or the whole of a short sequence, that is read by pydicom: an object for each element.
MAX_ITEM_LENGTH = 1024 * 1024
#: Most bytes of a deflated data set that are inflated to read its header.
MAX_INFLATED = 64 * 1024 * 1024
_INFLATED_AT_ONCE = 256 * 1024

_IMPLICIT_LITTLE = "1.2.840.10008.1.2"
_EXPLICIT_BIG = "1.2.840.10008.1.2.2"
#: Deflated Explicit VR Little Endian, JPIP Referenced Deflate and its High-Throughput twin.
_DEFLATED = frozenset(
    ("1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205")
)

_SPECIFIC_CHARACTER_SET = 0x00080005
_CONTRIBUTING_EQUIPMENT = 0x0018A001
#: Shared, then Per-frame Functional Groups Sequence.
_FUNCTIONAL_GROUPS = (0x52009229, 0x52009230)
#: What rules read of a frame (PS3.3 C.7.6.16.2, C.8.15.3): functional group, attribute.
_OF_FRAME = (
    ("PlaneOrientationSequence", "ImageOrientationPatient"),
    ("PlanePositionSequence", "ImagePositionPatient"),
    ("PixelMeasuresSequence", "PixelSpacing"),
    ("PixelMeasuresSequence", "SliceThickness"),
    ("PixelMeasuresSequence", "SpacingBetweenSlices"),
    ("CTReconstructionSequence", "ConvolutionKernel"),
    ("CTReconstructionSequence", "ConvolutionKernelGroup"),
    ("CTReconstructionSequence", "ReconstructionAlgorithm"),
    ("CTXRayDetailsSequence", "KVP"),
    ("MRTimingAndRelatedParametersSequence", "RepetitionTime"),
    ("MRTimingAndRelatedParametersSequence", "FlipAngle"),
    ("MREchoSequence", "EffectiveEchoTime"),
)
#: Detector Information Sequence (0054,0022): where the first detector of an NM image lies (PS3.3 C.8.4.11).
_DETECTORS = 0x00540022
_OF_DETECTOR = ("ImageOrientationPatient", "ImagePositionPatient")

_UIDS = {
    0x00080016: "SOPClassUID",
    0x00080018: "SOPInstanceUID",
    0x0020000D: "StudyInstanceUID",
    0x0020000E: "SeriesInstanceUID",
}
_UID = re.compile(r"[0-9.]{1,64}")

_NUMBERS = {
    **{"US": "H", "SS": "h", "UL": "I", "SL": "i"},
    **{"UV": "Q", "SV": "q", "FL": "f", "FD": "d"},
}
#: PS3.5 Table 6.2-1: text in which a backslash is a character.
_SINGLE_TEXT = frozenset(("LT", "ST", "UR", "UT"))
#: Text in the data set's character set; the others are ASCII by definition.
_LOCAL_TEXT = frozenset(("LO", "LT", "PN", "SH", "ST", "UC", "UT"))
_TEXT = _SINGLE_TEXT | _LOCAL_TEXT | {"AE", "AS", "CS", "DA", "DS", "DT", "IS", "TM", "UI"}
_ASCII = ("iso8859_1",)
#: PS3.5 6.1.2.5.3: characters at which an ISO 2022 string returns to its first character set.
_RESETS = set(b"\n\f\r\\^=")

#: What pydicom raises on a sequence that is none.
_PYDICOM_ERRORS = (
    *(OSError, EOFError, ValueError, LookupError, TypeError, AttributeError),
    *(NotImplementedError, RecursionError, struct.error, BytesLengthException),
)

Values = tuple[HeaderValue, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedHeader:
    """What the index needs to know of a data set."""

    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    study_instance_uid: str
    #: Keyword -> values; nothing empty, long, binary, private or nested.
    header: dict[str, Values]
    #: True when this product's name stands in the equipment that made or contributed.
    is_evidence: bool
    #: UIDs it mentions, at any depth; none of what a scanner made as it was acquired.
    mentions: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class _Source:
    """An encoded data set, where it begins, and where its top-level elements lie."""

    data: Encoded
    start: int
    encoding: Encoding
    elements: dict[int, Element]


def read_header(
    transfer_syntax_uid: str, data: Encoded, *, start: int = 0, size: int | None = None
) -> ParsedHeader:
    """Read the attributes before pixel data and check that nothing is cut off.

    Parameters
    ----------
    transfer_syntax_uid
        The transfer syntax of the presentation context the data set came in.
    data
        The encoded data set; of a file of any size only the header's pages are read.
    start
        Where it begins in there: behind file meta information.
    size
        Where it ends, when `data` is no more than its beginning.

    Raises
    ------
    node.errors.ReceiveError
        With the status the sender gets and a sentence that names the tag.
    node.elements.BeyondError
        When the beginning does not suffice.
    """
    source = _read_source(transfer_syntax_uid, data, start, len(data) if size is None else size)
    header = dict(_values_by_keyword(source))
    try:
        if "NumberOfFrames" in header and "ImageOrientationPatient" not in header:
            header |= _first_frame(source)
        is_evidence = is_named_ours(header) or _is_evidence(source)
    except _PYDICOM_ERRORS as error:
        raise ReceiveError(
            CANNOT_UNDERSTAND, f"A sequence of the header cannot be read: {type(error).__name__}."
        ) from error
    uids = {keyword: _uid(header, tag, keyword) for tag, keyword in _UIDS.items()}
    return ParsedHeader(
        sop_class_uid=uids["SOPClassUID"],
        sop_instance_uid=uids["SOPInstanceUID"],
        series_instance_uid=uids["SeriesInstanceUID"],
        study_instance_uid=uids["StudyInstanceUID"],
        header=header,
        is_evidence=is_evidence,
        mentions=_mentions(source) if may_be_derived(uids["SOPClassUID"], header) else frozenset(),
    )


def _read_source(transfer_syntax_uid: str, data: Encoded, start: int, size: int) -> _Source:
    if size <= start:
        raise ReceiveError(CANNOT_UNDERSTAND, "There is no data set.")
    encoding = Encoding(
        is_implicit=transfer_syntax_uid == _IMPLICIT_LITTLE,
        is_little=transfer_syntax_uid != _EXPLICIT_BIG,
    )
    is_complete = True
    if transfer_syntax_uid in _DEFLATED:
        if size > len(data):
            raise BeyondError
        data, is_complete = _inflate(data, start)
        start, size = 0, len(data)
    try:
        elements = read_elements(data, encoding, start=start, size=size, is_complete=is_complete)
    except TruncatedError as error:
        raise ReceiveError(TRUNCATED, str(error)) from error
    except UnreadableError as error:
        raise ReceiveError(CANNOT_UNDERSTAND, str(error)) from error
    return _Source(data, start, encoding, {element.tag: element for element in elements})


def _inflate(data: Encoded, start: int) -> tuple[bytes, bool]:
    """PS3.5 A.5: a raw deflate stream. The second value is False when only the beginning was inflated."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated = bytearray()
    try:
        for at in range(start, len(data), _INFLATED_AT_ONCE):
            # What it does not take, it would copy: so little at a time.
            piece = data[at : at + _INFLATED_AT_ONCE]
            inflated += inflater.decompress(piece, MAX_INFLATED - len(inflated))
            if inflater.eof or len(inflated) >= MAX_INFLATED:
                break
    except zlib.error as error:
        raise ReceiveError(CANNOT_UNDERSTAND, f"The data set does not inflate: {error}.") from error
    if not inflater.eof and len(inflated) < MAX_INFLATED:
        raise ReceiveError(TRUNCATED, "The deflated data set ends in the middle.")
    return bytes(inflated), inflater.eof


def _uid(header: dict[str, Values], tag: int, keyword: str) -> str:
    values = header.get(keyword, ())
    if not values:
        raise ReceiveError(UID_MISSING, f"{name(tag)} is missing or empty.")
    if len(values) > 1 or not isinstance(values[0], str) or not _UID.fullmatch(values[0]):
        # The value is not repeated: it may be anything.
        raise ReceiveError(
            UID_INVALID, f"{name(tag)} is no UID (PS3.5 9.1): digits and dots, 64 at most."
        )
    return values[0]


# -- values -------------------------------------------------------------------------------------


def _values_by_keyword(source: _Source) -> Iterator[tuple[str, Values]]:
    encodings = _character_sets(source)
    order, data = source.encoding.order, source.data
    for tag, vr, _, start, end in source.elements.values():
        keyword, kind = dictionary(tag)
        if not keyword or end - start > MAX_VALUE_LENGTH:
            continue
        if vr and vr != "UN":
            kind = vr
        if values := _values(data[start:end], kind, order, encodings):
            yield keyword, values


@lru_cache(maxsize=4096)
def _values(raw: bytes, vr: str, order: str, encodings: tuple[str, ...]) -> Values:
    """The values of an element; of most, the instances of a series have the same."""
    if vr in _TEXT:
        return _texts(raw, vr, encodings if vr in _LOCAL_TEXT else _ASCII)
    if vr in _NUMBERS:
        return _numbers(raw, order + _NUMBERS[vr])
    return ()


def _character_sets(source: _Source) -> tuple[str, ...]:
    """Python's names for Specific Character Set; an unknown term reads as Latin-1, which cannot fail."""
    element = source.elements.get(_SPECIFIC_CHARACTER_SET)
    raw = source.data[element.start : element.end] if element else b""
    terms = raw.decode("ascii", "replace").split("\\")
    return tuple(python_encoding.get(term.strip(" \x00"), "iso8859_1") for term in terms)


def _numbers(raw: bytes, code: str) -> Values:
    count = len(raw) // struct.calcsize(code)
    numbers = struct.unpack_from(f"{code[0]}{count}{code[1]}", raw)
    # JSON has no NaN and no infinity.
    return tuple(number if math.isfinite(number) else str(number) for number in numbers)


def _texts(raw: bytes, vr: str, encodings: tuple[str, ...]) -> Values:
    text = _decode(raw, encodings).rstrip(" \x00")
    if not text:
        return ()
    if vr in _SINGLE_TEXT:
        return (_without_null(text),)
    parts = [_without_null(part.strip(" \x00")) for part in text.split("\\")]
    if vr == "DS":
        return tuple(_number(part, float) for part in parts)
    if vr == "IS":
        return tuple(_number(part, int) for part in parts)
    return tuple(parts)


def _without_null(text: str) -> str:
    # PostgreSQL keeps no NULL in text or JSON: the instance would be refused for good.
    return text.replace("\x00", "\ufffd")


def _number(text: str, kind: Callable[[str], int | float]) -> HeaderValue:
    """A number, or the text when it is none: rules compare what is there."""
    if not text:
        return None
    try:
        value = kind(text)
        return value if math.isfinite(value) else text
    except (ValueError, OverflowError):
        return text


def _decode(raw: bytes, encodings: tuple[str, ...]) -> str:
    if b"\x1b" in raw and len(encodings) > 1:
        try:
            return decode_bytes(raw, list(encodings), _RESETS)
        except (LookupError, UnicodeError):
            return raw.decode("ascii", "replace")
    return raw.decode(encodings[0], "replace")


# -- sequences: only where a rule or the node needs them ----------------------------------------


def _first_frame(source: _Source) -> dict[str, Values]:
    """What rules read of the first frame of an enhanced object (PS3.3 C.7.6.16) or of an NM image."""
    found: dict[str, Values] = {}
    for tag in _FUNCTIONAL_GROUPS:
        for groups in _first_item(source, tag):
            for macro, keyword in _OF_FRAME:
                for item in groups.get(macro, [])[:1]:
                    found |= _nested(item, keyword)
    for detector in _first_item(source, _DETECTORS):
        for keyword in _OF_DETECTOR:
            found |= _nested(detector, keyword)
    return found


def _mentions(source: _Source) -> frozenset[str]:
    # There is one at least: the UIDs were found.
    end = next(reversed(source.elements.values())).end
    return mentioned_uids(source.data, end, source.encoding, start=source.start)


def _nested(item: Dataset, keyword: str) -> dict[str, Values]:
    """One attribute of a sequence's item as rules read it; nothing when it is empty."""
    if item.get(keyword) is None:
        return {}
    element = item[keyword]
    raw = element.value if element.VM > 1 else [element.value]
    texts = [_without_null(str(value).strip(" \x00")) for value in raw]
    # JSON has no NaN and no infinity.
    is_text = element.VR in _TEXT and element.VR not in ("DS", "IS")
    if sum(map(len, texts)) > MAX_VALUE_LENGTH:
        return {}
    values = tuple(text if is_text else _number(text, float) for text in texts)
    return {keyword: values} if any(value not in (None, "") for value in values) else {}


def _is_evidence(source: _Source) -> bool:
    items = _items(source, _CONTRIBUTING_EQUIPMENT)
    return any(item.get("Manufacturer") == OWN_MANUFACTURER for item in items)


def _items(source: _Source, tag: int) -> list[Dataset]:
    """The items of a short top-level sequence, by pydicom; none of a long one."""
    element = source.elements.get(tag)
    if element is None or not 0 < element.end - element.start <= MAX_ITEM_LENGTH:
        return []
    value = _by_pydicom(source.data[element.head : element.end], source.encoding)[tag].value
    # Whatever its VR says: a value that is no sequence has no items.
    return list(value) if isinstance(value, Sequence) else []


def _first_item(source: _Source, tag: int) -> list[Dataset]:
    """The first item of a top-level sequence, if there is one, the others of which may be very many."""
    element = source.elements.get(tag)
    if element is None or element.end - element.start < 8:
        return []
    # PS3.5 6.2.2: the content of UN is Implicit VR Little Endian.
    encoding = Encoding(True, True) if element.vr == "UN" else source.encoding
    start = element.start + 8
    item = struct.unpack_from(encoding.order + "HHI", source.data, element.start)
    length = item[2]
    if item[:2] != (0xFFFE, 0xE000) or MAX_ITEM_LENGTH < length < 0xFFFFFFFF:
        return []
    # PS3.5 7.5: of undefined length, it ends at its delimitation item, at which pydicom stops.
    end = min(element.end, start + min(length, MAX_ITEM_LENGTH))
    return [_by_pydicom(source.data[start:end], encoding)]


def _by_pydicom(data: bytes, encoding: Encoding) -> Dataset:
    return read_dataset(BytesIO(data), encoding.is_implicit, encoding.is_little)
