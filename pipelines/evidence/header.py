"""What every object we make shares: patient and study of the source, our series, our name, the time."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from copy import copy
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Any

from highdicom import SOPClass, SpecificCharacterSetValues
from pydicom import Dataset
from pydicom.charset import convert_encodings
from pydicom.datadict import dictionary_VR
from pydicom.sr.coding import Code
from pydicom.uid import ExplicitVRLittleEndian
from pydicom.valuerep import DA, TM

from pipelines.evidence.copied import tidy
from pipelines.evidence.equipment import contributing_equipment
from pipelines.evidence.request import EvidenceRequest, Request
from pipelines.uids import derive_series_uid, derive_sop_instance_uid, derive_uid

#: PS3.5 6.2, and the forms with delimiters of its older editions.
_DATE = re.compile(r"\d{8}|\d{4}[.-]\d{2}[.-]\d{2}")
_TIME = re.compile(r"\d{2}(:?\d{2}(:?\d{2}(\.\d{1,6})?)?)? *")
#: Our series come after everything a modality makes.
FIRST_SERIES_NUMBER = 9000
#: Kind of evidence -> what its series' description says besides; by place, its place among the series of a run.
_KINDS = {
    "SEG": "",
    "SR": "",
    "SC": "pictures",
    "PDF": "report",
    "RTSTRUCT": "contours",
    "KO": "key images",
}
#: Series numbers of a run: of the kinds above, and room for more.
_NUMBERS_PER_RUN = 10
_RUNS = 900
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
    first = first_header(datasets[0])
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


def first_header(ds: Dataset) -> Dataset:
    """A copy of the data set that patient and study are taken from, as highdicom wants it: no missing Type 2."""
    first = Dataset()
    for element in ds:
        # A copy: pydicom assigns to an element in place, and the source's would change with it.
        first.add(copy(element))
    for keyword in _PATIENT_AND_STUDY:
        setattr(first, keyword, _valid(first, keyword))
    # highdicom logs a name that it finds unusual: it gets the names in `finish` only.
    first.PatientName = first.ReferringPhysicianName = None
    return first


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


def series_attributes(request: Request, kind: str, *, what: str = "") -> dict[str, Any]:
    """Arguments of every highdicom constructor: our series, our equipment, the time the analysis started.

    `what` stands in the series' description where `kind` has no word for it.
    """
    root, uid = request.installation.uid_root, request.workitem_uid
    manifest, started = request.manifest, content_time(request)
    date, time = DA(started.date()), TM(started.time().replace(tzinfo=None))
    return {
        "series_instance_uid": derive_series_uid(root, workitem_uid=uid, kind=kind),
        "series_number": _series_number(request, kind),
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
        "series_description": _series_description(manifest.title, _KINDS.get(kind, what)),
        "content_qualification": "RESEARCH",
        "content_date": date,
        "content_time": time,
        "series_date": date,
        "series_time": time,
        "specific_character_set": character_set(request),
    }


def new_instance(
    request: EvidenceRequest,
    kind: str,
    *,
    sop_class_uid: str,
    modality: str,
    content_dated: bool = True,
) -> SOPClass:
    """An instance of a class that highdicom does not make: patient, study, series, equipment, SOP Common.

    `content_dated` says whether the class has Content Date and Time.
    """
    image, arguments = source_images(request)[0], series_attributes(request, kind)
    if not content_dated:
        del arguments["content_date"], arguments["content_time"]
    ds = SOPClass(
        study_instance_uid=image.StudyInstanceUID,
        sop_class_uid=sop_class_uid,
        modality=modality,
        transfer_syntax_uid=ExplicitVRLittleEndian,
        **arguments,
    )
    ds.copy_patient_and_study_information(image)
    return ds


def finish(ds: Dataset, request: Request, *, also: Sequence[Code] = ()) -> None:
    """What highdicom leaves out or invents: equipment, time zone, names, creation time.

    `also` are codes that `ds` has and the request does not.
    """
    source, started = request.header, content_time(request)
    ds.ContributingEquipmentSequence = contributing_equipment(request, source, started)
    ds.DeviceUID = request.device_uid
    ds.InstanceCreationDate = DA(started.date())
    ds.InstanceCreationTime = TM(started.time().replace(tzinfo=None))
    ds.TimezoneOffsetFromUTC = started.strftime("%z")
    _identify_private_schemes(ds, (*request.codes, *also))
    for keyword in ("PatientName", "ReferringPhysicianName"):
        setattr(ds, keyword, source.get(keyword))
    tidy(ds)


def _identify_private_schemes(ds: Dataset, said: Iterable[Code]) -> None:
    """PS3.3 C.12.1.1.2: who answers for codes that no standard has; their designators begin with 99 (PS3.16 8)."""
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


def content_time(request: Request) -> datetime:
    """`started_at` in the time zone of the study.

    PS3.3 C.12.1.1.8: Timezone Offset From UTC holds for every date and time of the object, those copied from the
    study included. Where the source does not say, its times are local times of the hospital, as are the node's.
    """
    return request.started_at.astimezone(_time_zone(request.header))


def character_set(request: Request) -> str | list[str] | None:
    """The source's Specific Character Set if it is defined and holds our own texts too, else UTF-8."""
    value = request.header.get("SpecificCharacterSet")
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


def _own_texts(request: Request) -> Iterable[str]:
    manifest = request.manifest
    yield from (manifest.title, manifest.manufacturer, request.installation.institution)
    yield from (str(value) for value in request.parameters.values())
    yield from request.texts


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
                # Python takes four characters of any kind for a pickled date: "A\r\nB" is in October 16653.
                return DA(value) if _DATE.fullmatch(str(value)) else None
            case "TM":
                return TM(value) if _TIME.fullmatch(str(value)) else None
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


def _series_number(request: Request, kind: str) -> int:
    """The numbers of a run lie together, so that a viewer's list keeps its series together.

    Forms of one kind (`SEG/labelmap/rle`, `SR with contours`) share a number: no destination gets two of them.
    """
    known = list(_KINDS)
    place = known.index(re.split(r"[ /]", kind)[0])
    run = derive_uid(request.installation.uid_root, "series number", request.workitem_uid)
    return FIRST_SERIES_NUMBER + _NUMBERS_PER_RUN * (int(run.rsplit(".", 1)[1]) % _RUNS) + place


def _series_description(title: str, what: str) -> str:
    """At most 64 characters (LO), the warning whole."""
    before, after = "AI - ", f"{', ' if what else ''}{what} - research, unverified"
    return f"{before}{title[: 64 - len(before) - len(after)].rstrip()}{after}"


def _decimal(value: float) -> str:
    """Decimal String of at most 16 characters (PS3.5 6.2)."""
    return f"{value:.10g}"
