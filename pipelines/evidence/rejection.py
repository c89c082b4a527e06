"""A newer result replaces one that was sent: the rejection note that says so (IHE RAD IOCM, RAD TF-3 4.66).

A Key Object Selection whose title is a reason of rejection, and which names what is not to be used any more. Of four
reasons only (113001, DCM, "Rejected for Quality Reasons") fits: the result was made of images that were not all there.
The others (patient safety, wrong worklist entry, retention policy) would say what is not so, or hide what may be kept
for quality control. No modifier of PS3.16 CID 7011 fits; the description says it in words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from highdicom.ko import KeyObjectSelection, KeyObjectSelectionDocument
from highdicom.sr import DeviceObserverIdentifyingAttributes, ObserverContext
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian

from pipelines.evidence.gate import check_iod
from pipelines.evidence.proof import encode
from pipelines.evidence.readback import read_back
from pipelines.evidence.references import reference_of
from pipelines.evidence.request import EvidenceObject
from pipelines.uids import derive_series_uid, derive_sop_instance_uid
from storage.model import Evidence

KIND: Final = "REJECTION"
_DESCRIPTION: Final = (
    "Superseded: the study or its rule changed, and the analysis was made anew. "
    "The newer result of {model} {version} is in the same study."
)
#: As `pipelines.evidence.header` numbers series: ten to a run, this one last.
_PLACE: Final = 9
_PATIENT_AND_STUDY: Final = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "IssuerOfPatientID"),
    *("StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "StudyDescription"),
    *("AccessionNumber", "ReferringPhysicianName", "SpecificCharacterSet"),
)
#: What says who made it; the note is made by who made the newer result.
_EQUIPMENT: Final = (
    "ContributingEquipmentSequence",
    "DeviceUID",
    "InstanceCreationDate",
    "InstanceCreationTime",
    "TimezoneOffsetFromUTC",
)


def rejection_kind(rejected: Sequence[Evidence]) -> str:
    """The string that a note's UIDs derive from: who was sent more gets another note."""
    return " ".join([KIND, *sorted(one.sop_instance_uid for one in rejected)])


def create_rejection(
    newer: Dataset, rejected: Sequence[Evidence], *, uid_root: str, workitem_uid: str
) -> EvidenceObject:
    """Make the note; the same newer result and the same old one give the same bytes.

    Parameters
    ----------
    newer
        Header of an instance of the newer result: patient, study, equipment and time are taken from it.
    rejected
        What is not to be used any more, all of the same study.
    uid_root, workitem_uid
        Of the newer result: what the note's UIDs derive from, beside what it rejects.

    Raises
    ------
    UnprovenError
        When it breaks its IOD.
    """
    ds = _document(newer, rejected, uid_root=uid_root, workitem_uid=workitem_uid)
    encoded = encode(ds)
    check_iod(read_back(encoded).ds)
    return EvidenceObject(kind=KIND, ds=ds, encoded=encoded)


def _document(
    newer: Dataset, rejected: Sequence[Evidence], *, uid_root: str, workitem_uid: str
) -> Dataset:
    references = [reference_of(one) for one in rejected]
    first, kind = _with_study(references[0], newer), rejection_kind(rejected)
    versions = newer.SoftwareVersions
    content = KeyObjectSelection(
        document_title=codes.DCM.RejectedForQualityReasons,
        referenced_objects=references,
        observer_device_context=_observer(newer),
        description=_DESCRIPTION.format(
            model=newer.ManufacturerModelName,
            version=versions if isinstance(versions, str) else versions[0],
        ),
    )
    ds = KeyObjectSelectionDocument(
        evidence=[first, *references[1:]],
        content=content,
        series_instance_uid=derive_series_uid(uid_root, workitem_uid=workitem_uid, kind=kind),
        sop_instance_uid=derive_sop_instance_uid(uid_root, workitem_uid=workitem_uid, kind=kind),
        series_number=int(newer.SeriesNumber) // 10 * 10 + _PLACE,
        instance_number=1,
        manufacturer=newer.Manufacturer,
        manufacturer_model_name=newer.ManufacturerModelName,
        software_versions=versions if isinstance(versions, str) else list(versions),
        device_serial_number=newer.DeviceSerialNumber,
        institution_name=newer.get("InstitutionName") or None,
        series_description="AI - rejection note: superseded result",
        content_date=newer.SeriesDate,
        content_time=newer.SeriesTime,
        series_date=newer.SeriesDate,
        series_time=newer.SeriesTime,
        transfer_syntax_uid=ExplicitVRLittleEndian,
    )
    for keyword in (*_PATIENT_AND_STUDY, *_EQUIPMENT):
        if keyword in newer:
            ds.add(newer[keyword])
    return ds


def _with_study(reference: Dataset, newer: Dataset) -> Dataset:
    """The first reference, with what highdicom takes from it; names are put in later, as they are."""
    whole = Dataset()
    for keyword in _PATIENT_AND_STUDY:
        setattr(whole, keyword, newer.get(keyword))
    whole.PatientName = whole.ReferringPhysicianName = None
    whole.update(reference)
    return whole


def _observer(newer: Dataset) -> ObserverContext:
    """TID 1002 and 1004: the algorithm that made the newer result."""
    return ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=DeviceObserverIdentifyingAttributes(
            uid=newer.DeviceUID,
            name=newer.ManufacturerModelName,
            manufacturer_name=newer.Manufacturer,
            model_name=newer.ManufacturerModelName,
            serial_number=newer.DeviceSerialNumber,
        ),
    )
