"""The segments as an RT Structure Set (PS3.3 A.19) for radiotherapy planning: closed planar contours on each slice.

Contours run along the edges of the pixels (`keyslices.polygons`), so a planning system that fills them finds the same
voxels again; `rtproof` does that. A hole is cut out by a keyhole, the technique of PS3.3 C.8.8.6.3: a channel without
width joins it to its outline. So each contour stands for itself, and a system that adds contours up and one that takes
them by XOR see the same region.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from highdicom import SOPClass
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import RTStructureSetStorage
from pydicom.valuerep import DA, TM
from scipy.spatial import cKDTree

from pipelines.evidence.equipment import algorithm_identification
from pipelines.evidence.header import content_time, finish, frame_of_reference_uid, new_instance
from pipelines.evidence.keyslices import Contour, plane_polygons
from pipelines.evidence.references import (
    code_item,
    slice_reference,
    source_references,
)
from pipelines.evidence.request import EvidenceRequest
from pipelines.evidence.seg import segment_numbers
from pipelines.evidence.views import CAUTION
from pipelines.result import Segment

KIND = "RTSTRUCT"
#: Detached Study Management (retired): what Referenced Study items name, by custom and by PS3.3 C.8.8.5.
_STUDY_CLASS = "1.2.840.10008.3.1.2.3.1"


def create_rtstruct(request: EvidenceRequest) -> Dataset | None:
    """Make the structure set of a result: a ROI for each segment that has voxels.

    Returns
    -------
    Dataset
        With file meta information, Explicit VR Little Endian; None when no segment has a voxel.
    """
    numbers = segment_numbers(request.result)
    if not numbers:
        return None
    ds = new_instance(
        request,
        KIND,
        sop_class_uid=RTStructureSetStorage,
        modality="RTSTRUCT",
        content_dated=False,
    )
    # PS3.3 C.8.8.1, Type 2: nobody operated it.
    ds.OperatorsName = None
    _add_structure_set(ds, request)
    contours = _contours(request)
    segments = [one for one in request.result.segments if one.number in numbers]
    voxels = _voxels(request)
    ds.StructureSetROISequence = [
        _roi(request, one, numbers[one.number], voxels[one.number]) for one in segments
    ]
    ds.ROIContourSequence = [
        _roi_contour(one, numbers[one.number], contours[one.number]) for one in segments
    ]
    ds.RTROIObservationsSequence = [_observation(one, numbers[one.number]) for one in segments]
    # PS3.3 C.8.8.16: nobody has looked at it yet.
    ds.ApprovalStatus = "UNAPPROVED"
    finish(ds, request)
    return ds


def _add_structure_set(ds: SOPClass, request: EvidenceRequest) -> None:
    """PS3.3 C.8.8.5 Structure Set and C.7.4.1 Frame of Reference."""
    started = content_time(request)
    ds.StructureSetLabel = request.manifest.name.upper()[:16]
    ds.StructureSetName = request.manifest.title
    ds.StructureSetDescription = f"{CAUTION}. Contours by software."
    ds.StructureSetDate = DA(started.date())
    ds.StructureSetTime = TM(started.time().replace(tzinfo=None))
    ds.FrameOfReferenceUID = frame_of_reference_uid(request)
    ds.PositionReferenceIndicator = request.source.datasets[0].get("PositionReferenceIndicator")
    series = Dataset()
    series.SeriesInstanceUID = request.source.datasets[0].SeriesInstanceUID
    series.ContourImageSequence = source_references(request)
    study = Dataset()
    study.ReferencedSOPClassUID = _STUDY_CLASS
    study.ReferencedSOPInstanceUID = ds.StudyInstanceUID
    study.RTReferencedSeriesSequence = [series]
    frame = Dataset()
    frame.FrameOfReferenceUID = ds.FrameOfReferenceUID
    frame.RTReferencedStudySequence = [study]
    ds.ReferencedFrameOfReferenceSequence = [frame]


def _roi(request: EvidenceRequest, segment: Segment, number: int, voxels: int) -> Dataset:
    item = Dataset()
    item.ROINumber = number
    item.ReferencedFrameOfReferenceUID = frame_of_reference_uid(request)
    item.ROIName = segment.label
    # In cm3.
    item.ROIVolume = f"{voxels * float(request.result.label_map.voxel_volume) / 1000:.8g}"
    item.ROIGenerationAlgorithm = "AUTOMATIC"
    item.ROIGenerationDescription = f"{request.manifest.name} {request.manifest.version}"
    item.ROIDerivationAlgorithmIdentificationSequence = algorithm_identification(request)
    return item


def _roi_contour(segment: Segment, number: int, contours: Sequence[Dataset]) -> Dataset:
    """PS3.3 C.8.8.6."""
    item = Dataset()
    item.ReferencedROINumber = number
    item.ROIDisplayColor = list(segment.spec.rgb)
    item.ContourSequence = list(contours)
    for place, contour in enumerate(item.ContourSequence, start=1):
        contour.ContourNumber = place
    return item


def _observation(segment: Segment, number: int) -> Dataset:
    """PS3.3 C.8.8.8: what it is, in codes; whether it is to be spared or treated is not ours to say."""
    spec = segment.spec
    item = Dataset()
    item.ObservationNumber = number
    item.ReferencedROINumber = number
    item.ROIObservationLabel = segment.label[:16]
    identification = code_item(spec.type.to_code())
    if spec.laterality:
        side = code_item(spec.laterality.to_code())
        identification.SegmentedPropertyTypeModifierCodeSequence = [side]
    item.RTROIIdentificationCodeSequence = [identification]
    item.SegmentedPropertyCategoryCodeSequence = [code_item(spec.category.to_code())]
    organ = spec.category.to_code() in (
        codes.cid7150.AnatomicalStructure,
        codes.cid7150.Tissue,
    )
    item.RTROIInterpretedType = "ORGAN" if organ else None
    item.ROIInterpreter = None
    return item


def _contours(request: EvidenceRequest) -> Mapping[int, list[Dataset]]:
    """Items of Contour Sequence (3006,0040) of each segment, slice by slice."""
    found: dict[int, list[Dataset]] = {one.number: [] for one in request.result.segments}
    affine = request.result.label_map.affine
    for index, plane in enumerate(request.result.label_map.array):
        if not plane.any():
            continue
        # On the image itself: a slice may miss its place on the regular grid by a tenth of the spacing.
        origin = np.array(request.source.datasets[index].ImagePositionPatient, np.float64)
        for number, regions in plane_polygons(plane).items():
            for lines in regions:
                points = _keyhole(lines)
                places = origin + points @ np.stack([affine[:3, 2], affine[:3, 1]])
                found[number].append(_contour(request, index, places))
    return found


def _contour(request: EvidenceRequest, index: int, places: NDArray[np.float64]) -> Dataset:
    item = Dataset()
    item.ContourImageSequence = [slice_reference(request, index)]
    item.ContourGeometricType = "CLOSED_PLANAR"
    item.NumberOfContourPoints = len(places)
    # To the micrometre: 16 characters hold that of any place (PS3.5 6.2, DS).
    item.ContourData = [f"{value + 0.0:.3f}" for value in np.round(places, 3).ravel()]
    return item


def _keyhole(lines: Sequence[Contour]) -> NDArray[np.float64]:
    """One line around a region with holes, not closed; (points, 2), (column, row).

    Each hole is entered and left by the same channel, from the nearest corner of what is joined already. What a
    channel crosses it crosses twice, there and back, so by either filling rule it changes nothing.
    """
    whole = lines[0][:-1]
    for line in lines[1:]:
        hole = line[:-1]
        distances, nearest = (np.atleast_1d(values) for values in cKDTree(whole).query(hole))
        entry = int(distances.argmin())
        here = int(nearest[entry])
        around = np.roll(hole, -entry, axis=0)
        # In to the hole, around it, and back the same way.
        whole = np.concatenate([whole[: here + 1], around, around[:1], whole[here:]])
    return whole


def _voxels(request: EvidenceRequest) -> NDArray[np.int64]:
    counts = np.zeros(len(request.result.segments) + 1, np.int64)
    for plane in request.result.label_map.array:
        counts += np.bincount(plane.ravel(), minlength=counts.size)
    return counts
