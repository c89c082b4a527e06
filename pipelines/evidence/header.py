"""What every object we make shares: patient and study of the source, our series, our name, the time."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from copy import copy
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Any

from highdicom import SpecificCharacterSetValues
from pydicom import Dataset
from pydicom.charset import convert_encodings
from pydicom.datadict import dictionary_VR
from pydicom.valuerep import DA, TM

from pipelines.evidence.equipment import contributing_equipment
from pipelines.evidence.request import EvidenceRequest, statements
from pipelines.result import AnalysisResult
from pipelines.uids import derive_series_uid, derive_sop_instance_uid, derive_uid

#: Our series come after everything a modality makes.
FIRST_SERIES_NUMBER = 9000
#: Type 2 of Patient and General Study that highdicom reads from the source (PS3.3 C.7.1.1, C.7.2.1).
_PATIENT_AND_STUDY = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
)
#: What highdicom reads from each further slice that is its own ...
_SLICE = ("SOPClassUID", "SOPInstanceUID", "ImagePositionPatient")
#: ... and what all slices of a series have in common.
_SERIES = ("StudyInstanceUID", "SeriesInstanceUID", "Modality", "Rows", "Columns")


def source_images(request: EvidenceRequest) -> list[Dataset]:
    """The source slices as highdicom wants them: one orientation, the grid's spacing, no missing Type 2.

    The data sets of the source are left as they are. Values that DICOM does not allow (a birth date of zeros) are
    emptied, never replaced.
    """
    datasets, volume = request.source.datasets, request.source.volume
    first = Dataset()
    for element in datasets[0]:
        # A copy: pydicom assigns to an element in place, and the source's would change with it.
        first.add(copy(element))
    for keyword in _PATIENT_AND_STUDY:
        setattr(first, keyword, _valid(first, keyword))
    # highdicom logs a name that it finds unusual: it gets the names in `finish` only.
    first.PatientName = first.ReferringPhysicianName = None
    images = [first]
    for ds in datasets[1:]:
        image = Dataset()
        for keyword in _SLICE:
            if keyword in ds:
                image.add(ds[keyword])
        images.append(image)
    shared = Dataset()
    for keyword in _SERIES:
        if keyword in first:
            shared.add(first[keyword])
    shared.FrameOfReferenceUID = frame_of_reference_uid(request)
    shared.ImageOrientationPatient = datasets[0].ImageOrientationPatient
    shared.PixelSpacing = datasets[0].PixelSpacing
    shared.SliceThickness = _slice_thickness(datasets[0]) or _decimal(volume.spacing[0])
    # Vendors write all kinds of things here; the grid is what the slices' positions say.
    shared.SpacingBetweenSlices = _decimal(volume.spacing[0])
    for image in images:
        image.update(shared)
    _mark_lossy(first, datasets)
    return images


def frame_of_reference_uid(request: EvidenceRequest) -> str:
    """The source's Frame of Reference UID; where it has none, one that stands for this series alone."""
    given = request.source.volume.frame_of_reference_uid
    return (
        str(given)
        if given
        else derive_uid(
            request.installation.uid_root,
            "frame of reference",
            str(request.source.datasets[0].SeriesInstanceUID),
        )
    )


def series_attributes(request: EvidenceRequest, kind: str) -> dict[str, Any]:
    """Arguments of every highdicom constructor: our series, our equipment, the time the analysis started."""
    root, uid = request.installation.uid_root, request.workitem_uid
    manifest, started = request.manifest, content_time(request)
    # One number per workitem, so that a viewer's list keeps SEG and SR of a run together.
    offset = int(derive_uid(root, "series number", uid).rsplit(".", 1)[1]) % 450
    date, time = DA(started.date()), TM(started.time().replace(tzinfo=None))
    return {
        "series_instance_uid": derive_series_uid(root, workitem_uid=uid, kind=kind),
        "series_number": FIRST_SERIES_NUMBER + 2 * offset + (kind.partition("/")[0] != "SEG"),
        "sop_instance_uid": derive_sop_instance_uid(root, workitem_uid=uid, kind=kind),
        "instance_number": 1,
        "manufacturer": manifest.manufacturer,
        "manufacturer_model_name": manifest.name,
        "software_versions": [
            manifest.version,
            f"OsteoNode {request.installation.software_version}",
        ],
        "device_serial_number": request.installation.serial_number,
        "institution_name": request.installation.institution or None,
        "series_description": _series_description(manifest.title),
        "content_qualification": "RESEARCH",
        "content_date": date,
        "content_time": time,
        "series_date": date,
        "series_time": time,
        "specific_character_set": character_set(request),
    }


def finish(ds: Dataset, request: EvidenceRequest) -> None:
    """What highdicom leaves out or invents: equipment, time zone, names, creation time."""
    source, started = request.source.datasets[0], content_time(request)
    ds.ContributingEquipmentSequence = contributing_equipment(request, source, started)
    ds.DeviceUID = request.device_uid
    ds.InstanceCreationDate, ds.InstanceCreationTime = ds.ContentDate, ds.ContentTime
    ds.TimezoneOffsetFromUTC = started.strftime("%z")
    _identify_private_schemes(ds, request.result)
    for keyword in ("PatientName", "ReferringPhysicianName"):
        setattr(ds, keyword, source.get(keyword))


def _identify_private_schemes(ds: Dataset, result: AnalysisResult) -> None:
    """PS3.3 C.12.1.1.2: who answers for codes that no standard has; their designators begin with 99 (PS3.16 8)."""
    said = [item.name for item in statements(result)]
    said += [item.value for item in result.evaluations]
    private = sorted({c.scheme_designator for c in said if c.scheme_designator.startswith("99")})
    if not private:
        return
    ds.CodingSchemeIdentificationSequence = []
    for designator in private:
        scheme = Dataset()
        scheme.CodingSchemeDesignator = designator
        scheme.CodingSchemeName = f"{designator.removeprefix('99')} private codes"
        scheme.CodingSchemeResponsibleOrganization = ds.Manufacturer
        ds.CodingSchemeIdentificationSequence.append(scheme)


def content_time(request: EvidenceRequest) -> datetime:
    """`started_at` in the time zone of the study.

    PS3.3 C.12.1.1.8: Timezone Offset From UTC holds for every date and time of the object, those copied from the
    study included. Where the source does not say, its times are local times of the hospital, as are the node's.
    """
    return request.started_at.astimezone(_time_zone(request.source.datasets[0]))


def character_set(request: EvidenceRequest) -> str | list[str] | None:
    """The source's Specific Character Set if it is defined and holds our own texts too, else UTF-8."""
    value = request.source.datasets[0].get("SpecificCharacterSet")
    terms = [] if not value else [value] if isinstance(value, str) else list(value)
    if len(terms) > 1:
        # PS3.3 C.12.1.1.2: an empty first term of several stands for this one; highdicom takes no empty one.
        terms[0] = terms[0] or "ISO 2022 IR 6"
    defined = {item.value for item in SpecificCharacterSetValues}
    texts = [text for text in _own_texts(request) if not text.isascii()]
    # Terms of a code extension hold what their escape sequences reach: we do not try.
    known = all(term in defined for term in terms)
    if known and (not texts or (len(terms) == 1 and _encodable(texts, terms[0]))):
        return None if not terms else terms[0] if len(terms) == 1 else [str(term) for term in terms]
    return "ISO_IR 192"


def _own_texts(request: EvidenceRequest) -> Iterable[str]:
    manifest, result = request.manifest, request.result
    yield from (manifest.title, manifest.manufacturer, request.installation.institution)
    yield from (str(value) for value in request.parameters.values())
    yield from (notice.message for notice in result.notices)
    for segment in result.segments:
        spec = segment.spec
        yield segment.label
        yield from (code.meaning for code in (spec.category, spec.type, spec.site) if code)
    yield from (item.name.meaning for item in statements(result))
    yield from (item.unit.meaning for item in result.measurements)
    yield from (item.value.meaning for item in result.evaluations)


def _encodable(texts: Sequence[str], term: str) -> bool:
    try:
        for text in texts:
            text.encode(convert_encodings(term)[0])
    except UnicodeEncodeError:
        return False
    return True


def _valid(ds: Dataset, keyword: str) -> Any:
    """The value of a Type 2 attribute, or nothing if there is none or DICOM does not allow it."""
    value = ds.get(keyword)
    if value is None or value == "":
        return None
    try:
        match dictionary_VR(keyword):
            case "DA":
                return DA(value)
            case "TM":
                return TM(value)
    except ValueError:
        return None
    # PS3.3 C.7.1.1: enumerated values of Patient's Sex.
    return None if keyword == "PatientSex" and value not in ("M", "F", "O") else value


def _slice_thickness(ds: Dataset) -> Any:
    """Slice Thickness (0018,0050), Type 2; None where there is none or it is no positive number."""
    try:
        value = ds.get("SliceThickness")
        return value if value is not None and 0 < float(value) < float("inf") else None
    except (TypeError, ValueError):
        return None


def _mark_lossy(first: Dataset, datasets: Sequence[Dataset]) -> None:
    """PS3.3 C.7.6.1.1.5: once lossy, always lossy, and one such slice is enough."""
    for ds in datasets:
        if ds.get("LossyImageCompression") == "01":
            first.LossyImageCompression = "01"
            for keyword in ("LossyImageCompressionRatio", "LossyImageCompressionMethod"):
                if ds.get(keyword):
                    first.add(ds[keyword])
            return
    first.LossyImageCompression = "00"


def _time_zone(source: Dataset) -> tzinfo | None:
    """The zone of the source's times; None, the zone of this machine, where it does not say."""
    match = re.fullmatch(r"([+-])(\d{2})(\d{2})", str(source.get("TimezoneOffsetFromUTC") or ""))
    if match is None:
        return None
    offset = timedelta(hours=int(match[2]), minutes=int(match[3]))
    if offset >= timedelta(hours=24):
        return UTC
    return timezone(-offset if match[1] == "-" else offset)


def _series_description(title: str) -> str:
    """At most 64 characters (LO), the warning whole."""
    before, after = "AI - ", " - research, unverified"
    return f"{before}{title[: 64 - len(before) - len(after)].rstrip()}{after}"


def _decimal(value: float) -> str:
    """Decimal String of at most 16 characters (PS3.5 6.2)."""
    return f"{value:.10g}"
