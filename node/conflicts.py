"""Two contents under one SOP Instance UID: how they differ, and which counts.

The content that came first counts. Another is kept beside it, flagged and audited, and changes nothing: a sender that
gives other bytes the same UID breaks PS3.3 C.12.1, and which of the two is right is no question of time. A PACS that
writes patient data anew, or encodes anew, does this to whole studies; whether that matters is seen from what differs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydicom import Dataset
from pydicom.datadict import keyword_for_tag
from pydicom.tag import BaseTag

from node.header import read_header
from pipelines.errors import InputError
from pipelines.reading import READ_ERRORS, read_file
from storage.archive import Archive
from storage.errors import ArchiveError, NotFound
from storage.index import Index, conflicts, instances
from storage.model import ConflictingInstance, Instance

_IDENTITY: Final = frozenset(
    {
        *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "IssuerOfPatientID"),
        *("OtherPatientIDs", "OtherPatientIDsSequence", "AccessionNumber", "StudyID"),
        *("StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID", "ReferringPhysicianName"),
    }
)
#: What a result depends on, beside the pixels.
_IMAGE: Final = frozenset(
    {
        *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"),
        *("FrameOfReferenceUID", "Rows", "Columns", "NumberOfFrames", "SpacingBetweenSlices"),
        *("RescaleSlope", "RescaleIntercept", "BitsStored", "BitsAllocated", "HighBit"),
        *("PixelRepresentation", "PhotometricInterpretation", "SamplesPerPixel", "Modality"),
        *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "ImageType"),
        *("Units", "DecayCorrection", "DetectorInformationSequence"),
    }
)
_PIXELS: Final = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """How one content differs from the one that counts. Names of attributes, never their values."""

    sop_instance_uid: str
    digest: str
    calling_ae: str
    received_at: str
    #: Attributes that say whose it is; that images are read with; all others.
    identity: tuple[str, ...] = ()
    image: tuple[str, ...] = ()
    other: tuple[str, ...] = ()
    #: Whether encoded pixels differ; None where they are encoded in different ways.
    pixels: bool | None = False
    transfer_syntax: bool = False
    #: A sentence where it cannot be compared.
    unread: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Conflicts of a study in numbers: contents in which something of that kind differs."""

    contents: int
    instances: int
    identity: int
    image: int
    pixels: int
    #: Nothing differs but attributes that neither say whose it is nor what the image is, or the encoding.
    other_only: int
    #: Not looked at: too many, or unreadable.
    not_compared: int


def differences(
    archive: Archive, index: Index, found: Iterable[ConflictingInstance], *, scratch: Path
) -> tuple[Difference, ...]:
    """Compare each content kept beside with the one that counts."""
    return tuple(
        _difference(archive, instances.get(index, one.sop_instance_uid), one, scratch)
        for one in found
    )


def summarize(found: Iterable[ConflictingInstance], compared: Iterable[Difference]) -> Summary:
    """Differences in numbers."""
    found, compared = tuple(found), tuple(compared)
    read = [one for one in compared if not one.unread]
    return Summary(
        contents=len(found),
        instances=len({one.sop_instance_uid for one in found}),
        identity=sum(bool(one.identity) for one in read),
        image=sum(bool(one.image) for one in read),
        pixels=sum(one.pixels is True for one in read),
        other_only=sum(not (one.identity or one.image or one.pixels) for one in read),
        not_compared=len(found) - len(read),
    )


def accept(  # noqa: PLR0913 - one act
    archive: Archive, index: Index, sop_instance_uid: str, digest: str, *, actor: str, study: str
) -> None:
    """Let the content whose digest begins so count: see `storage.index.conflicts.accept`.

    Raises
    ------
    NotFound, ChangeRefused, ReceiveError, ArchiveError
    """
    beside = [
        one for one in conflicts.of_study(index, study) if one.sop_instance_uid == sop_instance_uid
    ]
    chosen = [one for one in beside if one.digest.startswith(digest)]
    if len(chosen) != 1:
        raise NotFound(
            f"{len(chosen)} contents kept beside instance {sop_instance_uid} have a digest that begins with "
            f"{digest!r}; `osteonode studies conflicts` lists them."
        )
    (one,) = chosen
    with archive.open(one.archive_key) as file:
        content = file.read()
    # PS3.10 7.1: the group length of the file meta information ends at byte 144.
    meta_length = int.from_bytes(content[140:144], "little")
    parsed = read_header(one.transfer_syntax_uid, content[144 + meta_length :])
    conflicts.accept(index, sop_instance_uid, digest=one.digest, header=parsed.header, actor=actor)


def _difference(
    archive: Archive, held: Instance, other: ConflictingInstance, scratch: Path
) -> Difference:
    known: dict[str, Any] = {
        "sop_instance_uid": other.sop_instance_uid,
        "digest": other.digest,
        "calling_ae": other.calling_ae,
        "received_at": other.received_at.isoformat(timespec="seconds"),
        "transfer_syntax": held.transfer_syntax_uid != other.transfer_syntax_uid,
    }
    try:
        with archive.local_files([held.archive_key, other.archive_key], scratch=scratch) as paths:
            one, two = (read_file(path) for path in paths)
            names = _names(one, two)
            same_encoding = held.transfer_syntax_uid == other.transfer_syntax_uid
            pixels = None if not same_encoding else _pixels(one) != _pixels(two)
    except (ArchiveError, InputError, *READ_ERRORS) as error:
        return Difference(**known, unread=f"It cannot be compared: {type(error).__name__}.")
    return Difference(
        **known,
        identity=tuple(name for name in names if name in _IDENTITY),
        image=tuple(name for name in names if name in _IMAGE),
        other=tuple(name for name in names if name not in _IDENTITY | _IMAGE),
        pixels=pixels,
    )


def _names(one: Dataset, two: Dataset) -> list[str]:
    """Top-level attributes that differ, in order of their tags."""
    tags = sorted((set(one.keys()) | set(two.keys())) - _PIXELS)
    return [
        keyword_for_tag(tag) or f"({tag >> 16:04X},{tag & 0xFFFF:04X})"
        for tag in tags
        if _value(one, tag) != _value(two, tag)
    ]


def _value(ds: Dataset, tag: BaseTag) -> object:
    if tag not in ds:
        return None
    try:
        return ("value", ds[tag].value)
    except READ_ERRORS:
        return ("bytes", ds.get_item(tag).value)


def _pixels(ds: Dataset) -> list[object]:
    return [ds.get_item(tag).value if tag in ds else None for tag in sorted(_PIXELS)]
