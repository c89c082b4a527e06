"""What a worker that is faked makes: as much of SEG and SR as the node reads of them."""

from __future__ import annotations

from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from node.worker import PerformTask
from pipelines.uids import derive_series_uid, derive_sop_instance_uid

#: SOP Class of each kind that the fake worker makes.
MADE = {"SEG": "1.2.840.10008.5.1.4.1.1.66.4", "SR": "1.2.840.10008.5.1.4.1.1.88.34"}


def header_of(task: PerformTask, kind: str, seed: str) -> Dataset:
    """As much of an instance as a rejection note takes from it."""
    ds = Dataset()
    ds.SOPClassUID = MADE[kind]
    ds.SOPInstanceUID = derive_sop_instance_uid("2.25", workitem_uid=task.workitem_uid, kind=seed)
    ds.SeriesInstanceUID = derive_series_uid("2.25", workitem_uid=task.workitem_uid, kind=seed)
    ds.StudyInstanceUID = task.study_instance_uid
    for keyword in (
        *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyID"),
        *("StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName"),
    ):
        setattr(ds, keyword, "")
    ds.SeriesNumber, ds.SeriesDate, ds.SeriesTime = 9011, "20260301", "120000"
    ds.Manufacturer, ds.ManufacturerModelName = "OsteoNode", "threshold_bone"
    ds.SoftwareVersions, ds.DeviceSerialNumber, ds.DeviceUID = "1.0.0", "1", "2.25.5"
    ds.TimezoneOffsetFromUTC = "+0000"
    purpose = Dataset()
    purpose.CodeValue, purpose.CodingSchemeDesignator = "109102", "DCM"
    purpose.CodeMeaning = "Processing Equipment"
    equipment = Dataset()
    equipment.PurposeOfReferenceCodeSequence = [purpose]
    for keyword in ("Manufacturer", "ManufacturerModelName", "SoftwareVersions", "DeviceUID"):
        equipment.add(ds[keyword])
    ds.ContributingEquipmentSequence = [equipment]
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    return ds
