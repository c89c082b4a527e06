"""The label map as a Segmentation (PS3.3 A.51): BINARY, on the source's slice grid.

Displays are built for this form: same Rows and Columns as the source, frames in its planes, each pointing at its
source image (or the frame of it), one referenced series, no empty segment.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from highdicom.color import CIELabColor
from highdicom.seg import Segmentation, SegmentDescription
from highdicom.sr import CodedConcept
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from pipelines.evidence.equipment import algorithm_identification
from pipelines.evidence.header import finish, series_attributes, source_images
from pipelines.evidence.multiframe import by_frame, with_functional_groups
from pipelines.evidence.request import EvidenceRequest
from pipelines.result import AnalysisResult, Segment
from pipelines.uids import derive_uid

KIND = "SEG"


def segment_numbers(result: AnalysisResult) -> dict[int, int]:
    """Number in the result -> Segment Number (0062,0004) in the SEG, of the segments that have voxels.

    Displays hang or refuse on a segment without frames, and PS3.3 C.8.20.2 wants 1, 2, 3 ...: so empty segments are
    left out and the rest move up. Tracking UIDs, not numbers, identify a segment across objects.
    """
    present = np.zeros(len(result.segments) + 1, bool)
    for plane in result.label_map.array:
        present[np.unique(plane[plane > 0])] = True
    return {int(number): rank for rank, number in enumerate(np.flatnonzero(present), start=1)}


def create_seg(request: EvidenceRequest) -> Dataset | None:
    """Make the SEG of a result; None when no segment has a voxel."""
    numbers = segment_numbers(request.result)
    if not numbers:
        return None
    images, labels = source_images(request), request.result.label_map.array
    frames = request.source.frame_numbers
    if frames:
        images, labels = [with_functional_groups(images, frames)], labels[by_frame(frames)]
    ds = Segmentation(
        source_images=images,
        pixel_array=_renumbered(labels, numbers),
        segmentation_type="BINARY",
        segment_descriptions=[
            _description(request, segment, numbers[segment.number])
            for segment in request.result.segments
            if segment.number in numbers
        ],
        transfer_syntax_uid=ExplicitVRLittleEndian,
        content_label=request.manifest.name.upper()[:16],
        content_description=request.manifest.title,
        **series_attributes(request, KIND),
    )
    finish(ds, request)
    body_part = request.source.datasets[0].get("BodyPartExamined")
    if body_part:
        ds.BodyPartExamined = body_part
    _set_dimension_organization(ds, request)
    return ds


def _renumbered(array: NDArray[Any], numbers: Mapping[int, int]) -> NDArray[Any]:
    if all(number == rank for number, rank in numbers.items()):
        return array
    table = np.zeros(int(max(numbers)) + 1, array.dtype)
    for number, rank in numbers.items():
        table[number] = rank
    renumbered: NDArray[Any] = table[array]
    return renumbered


def _description(request: EvidenceRequest, segment: Segment, number: int) -> SegmentDescription:
    spec = segment.spec
    red, green, blue = spec.rgb
    item = SegmentDescription(
        segment_number=number,
        segment_label=segment.label,
        segmented_property_category=spec.category.to_code(),
        segmented_property_type=spec.type.to_code(),
        algorithm_type="AUTOMATIC",
        algorithm_identification=algorithm_identification(request),
        # PS3.3 C.8.20.4: each is required if the other is present.
        tracking_id=segment.label,
        tracking_uid=request.tracking_uid(segment.number),
        anatomic_regions=[spec.site.to_code()] if spec.site else None,
        display_color=CIELabColor.from_rgb(red, green, blue),
    )
    if spec.laterality:
        side = CodedConcept.from_code(spec.laterality.to_code())
        item.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [side]
    return item


def _set_dimension_organization(ds: Dataset, request: EvidenceRequest) -> None:
    """Replace the random Dimension Organization UID: the same request makes the same object."""
    uid = derive_uid(request.installation.uid_root, "dimension organization", request.workitem_uid)
    for item in (*ds.DimensionOrganizationSequence, *ds.DimensionIndexSequence):
        item.DimensionOrganizationUID = uid
