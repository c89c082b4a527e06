"""What our own check of an object is made of, and the checks that every object of ours passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from pydicom import Dataset
from pydicom.uid import RTStructureSetStorage

#: Sentences that name an attribute and what is wrong with it.
Faults = Iterator[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that must hold."""

    name: str
    #: Where the standard, or IHE AIR, or a display says so.
    clause: str
    faults: Callable[[Dataset], Faults]


def missing(ds: Dataset, *keywords: str, within: str = "") -> Faults:
    """Type 1 attributes that are not there or have no value."""
    for keyword in keywords:
        if keyword not in ds or ds[keyword].is_empty:
            yield f"{within}{keyword} is missing"


def unlike(ds: Dataset, within: str = "", /, **wanted: object) -> Faults:
    """Attributes that have another value than the one they must have."""
    for keyword, value in wanted.items():
        if ds.get(keyword) != value:
            yield f"{within}{keyword} is {ds.get(keyword)!r}, not {value!r}"


def uncoded(ds: Dataset, keyword: str, within: str = "") -> Faults:
    """A Code Sequence (PS3.3 8.8) without its triplet, or of a retired scheme."""
    items = ds.get(keyword) or ()
    if not items:
        yield f"{within}{keyword} is missing"
    for item in items:
        yield from missing(
            item, "CodeValue", "CodingSchemeDesignator", "CodeMeaning", within=f"{within}{keyword}."
        )
        # PS3.16 8.1: SNOMED RT identifiers are not to be used any more.
        if item.get("CodingSchemeDesignator") in ("SRT", "SNM3", "99SDM"):
            yield f"{within}{keyword}.CodingSchemeDesignator is {item.CodingSchemeDesignator}"


def _file(ds: Dataset) -> Faults:
    yield from missing(ds, "SOPClassUID", "SOPInstanceUID")
    if ds.file_meta.get("MediaStorageSOPInstanceUID") != ds.get("SOPInstanceUID"):
        yield "MediaStorageSOPInstanceUID is not the SOPInstanceUID"
    if ds.file_meta.get("MediaStorageSOPClassUID") != ds.get("SOPClassUID"):
        yield "MediaStorageSOPClassUID is not the SOPClassUID"


def _study(ds: Dataset) -> Faults:
    yield from missing(ds, "StudyInstanceUID")
    for keyword in (
        "PatientName",
        "PatientID",
        "PatientBirthDate",
        "PatientSex",
        "StudyDate",
        "StudyTime",
        "ReferringPhysicianName",
        "StudyID",
        "AccessionNumber",
    ):
        # Type 2: there, but empty where the source does not say.
        if keyword not in ds:
            yield f"{keyword} is missing"


def _series(ds: Dataset) -> Faults:
    yield from missing(
        ds, "Modality", "SeriesInstanceUID", "SeriesNumber", "InstanceNumber", "SeriesDescription"
    )


def _equipment(ds: Dataset) -> Faults:
    yield from missing(
        ds, "Manufacturer", "ManufacturerModelName", "DeviceSerialNumber", "SoftwareVersions"
    )


def _contributing_equipment(ds: Dataset) -> Faults:
    ours = [
        item
        for item in ds.get("ContributingEquipmentSequence") or ()
        for purpose in item.get("PurposeOfReferenceCodeSequence") or ()
        if (purpose.get("CodeValue"), purpose.get("CodingSchemeDesignator")) == ("109102", "DCM")
    ]
    if not ours:
        yield "ContributingEquipmentSequence has no Processing Equipment (109102, DCM)"
    for item in ours:
        yield from missing(
            item,
            "Manufacturer",
            "ManufacturerModelName",
            "SoftwareVersions",
            "DeviceUID",
            within="ContributingEquipmentSequence.",
        )


def _times(ds: Dataset) -> Faults:
    # PS3.3 C.8.8.5: a structure set has a date of its own.
    own = "StructureSet" if ds.SOPClassUID == RTStructureSetStorage else "Content"
    yield from missing(ds, f"{own}Date", f"{own}Time", "TimezoneOffsetFromUTC")


#: Of every object.
COMMON: Final = (
    Check(name="file", clause="PS3.10 7.1", faults=_file),
    Check(name="patient and study", clause="PS3.3 C.7.1.1, C.7.2.1", faults=_study),
    Check(name="series", clause="PS3.3 C.7.3.1", faults=_series),
    Check(name="equipment", clause="PS3.3 C.7.5.2", faults=_equipment),
    Check(name="algorithm", clause="IHE AIR 6.5.3.1", faults=_contributing_equipment),
    Check(name="times", clause="PS3.3 C.12.1, IHE AIR 6.5.3.1", faults=_times),
)
