"""References to the source images, in the shapes that the modules want them."""

from __future__ import annotations

from collections.abc import Sequence

from pydicom import Dataset
from pydicom.sr.coding import Code

from pipelines.evidence.request import EvidenceRequest
from storage.model import Evidence


def reference(ds: Dataset, frame_number: int | None = None) -> Dataset:
    """An item of the SOP Instance Reference macro (PS3.3 Table 10-11), or Image SOP Instance Reference (10-3)."""
    item = Dataset()
    item.ReferencedSOPClassUID = ds.SOPClassUID
    item.ReferencedSOPInstanceUID = ds.SOPInstanceUID
    if frame_number is not None:
        item.ReferencedFrameNumber = frame_number
    return item


def reference_of(evidence: Evidence) -> Dataset:
    """What highdicom needs to refer to an instance that was made before."""
    ds = Dataset()
    ds.SOPClassUID = evidence.sop_class_uid
    ds.SOPInstanceUID = evidence.sop_instance_uid
    ds.SeriesInstanceUID = evidence.series_instance_uid
    ds.StudyInstanceUID = evidence.study_instance_uid
    return ds


def slice_reference(request: EvidenceRequest, index: int) -> Dataset:
    """The image, or the frame of one, that is slice `index` of the source."""
    source = request.source
    frame = source.frame_numbers[index] if source.frame_numbers else None
    return reference(source.datasets[index], frame)


def source_references(request: EvidenceRequest) -> list[Dataset]:
    """Each instance of the source once, in the order of its slices."""
    instances = {str(ds.SOPInstanceUID): ds for ds in request.source.datasets}
    return [reference(ds) for ds in instances.values()]


def referenced_series(request: EvidenceRequest, items: Sequence[Dataset]) -> Dataset:
    """An item of Referenced Series Sequence (0008,1115), PS3.3 C.12.2, for instances of the source."""
    series = Dataset()
    series.SeriesInstanceUID = request.source.datasets[0].SeriesInstanceUID
    series.ReferencedInstanceSequence = []
    for item in items:
        instance = Dataset()
        instance.ReferencedSOPClassUID = item.ReferencedSOPClassUID
        instance.ReferencedSOPInstanceUID = item.ReferencedSOPInstanceUID
        series.ReferencedInstanceSequence.append(instance)
    return series


def code_item(code: Code) -> Dataset:
    """An item of a code sequence (PS3.3 Table 8.8-1)."""
    item = Dataset()
    item.CodeValue = code.value
    item.CodingSchemeDesignator = code.scheme_designator
    item.CodeMeaning = code.meaning
    return item
