"""The label map as a Segmentation (PS3.3 A.51), on the source's slice grid, in the form its reader knows.

Displays are built for this: same Rows and Columns as the source, frames in its planes, each pointing at its source
image (or the frame of it), one referenced series, no empty segment.

highdicom makes the object, of slices of a few pixels: as many as it takes to show each slice and each segment once. Of
whole slices it would look at each once per segment. Further frames (`groups`) and the pixels (`frames`) follow, and
`proof` reads all of it back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from highdicom.color import CIELabColor
from highdicom.seg import Segmentation, SegmentDescription
from highdicom.sr import CodedConcept
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import UID

from pipelines.evidence.equipment import algorithm_identification
from pipelines.evidence.frames import Frames, listed, set_pixel_data, values_by_slice
from pipelines.evidence.groups import FrameOf, encode_groups, mark_as_encoded
from pipelines.evidence.header import finish, series_attributes, source_images
from pipelines.evidence.multiframe import by_frame, with_functional_groups
from pipelines.evidence.profile import Compression, SegmentationType
from pipelines.evidence.request import EvidenceRequest
from pipelines.result import AnalysisResult, Segment, SourceSeries
from pipelines.uids import derive_uid

KIND = "SEG"
_IMPOSSIBLE = (SegmentationType.BINARY, Compression.JPEG_LS)


@dataclass(frozen=True, slots=True, kw_only=True)
class SegForm:
    """One way to write a SEG; the same result in another form is another object.

    Raises
    ------
    ValueError
        When the pixels cannot be so encoded, or the form is none.
    """

    segmentation: SegmentationType = SegmentationType.BINARY
    compression: Compression = Compression.NATIVE

    def __post_init__(self) -> None:
        if self.segmentation is SegmentationType.NONE:
            raise ValueError("a SEG is binary or labelmap")
        # PS3.5 8.2.3: JPEG-LS is for samples of 2 to 16 bits.
        if (self.segmentation, self.compression) == _IMPOSSIBLE:
            raise ValueError("jpeg-ls takes no single bits: a binary SEG is native or rle")

    @property
    def kind_key(self) -> str:
        """What its UIDs are derived from: `SEG` as ever for BINARY native, else e.g. `SEG/labelmap/jpeg-ls`."""
        return KIND if self == SegForm() else f"{KIND}/{self.segmentation}/{self.compression}"


#: What every reader knows.
BINARY: SegForm = SegForm()


def segment_numbers(result: AnalysisResult) -> dict[int, int]:
    """Number in the result -> Segment Number (0062,0004) in the SEG, of the segments that have voxels.

    Displays hang or refuse on a segment without frames, and PS3.3 C.8.20.2 wants 1, 2, 3 ...: so empty segments are
    left out and the rest move up. Tracking UIDs, not numbers, identify a segment across objects.
    """
    return _ranks(values_by_slice(result.label_map.array))


def create_seg(request: EvidenceRequest, form: SegForm = BINARY) -> Dataset | None:
    """Make the SEG of a result; None when no segment has a voxel.

    Native Pixel Data is a stream (`frames.FrameStream`) on the label map of the request: written as it is read.
    """
    values = values_by_slice(request.result.label_map.array)
    numbers = _ranks(values)
    if not numbers:
        return None
    present = [[numbers[int(value)] for value in some] for some in values]
    planes = listed(_fewest(present))
    images, frame_numbers = source_images(request), request.source.frame_numbers
    if frame_numbers:
        images = [with_functional_groups(images, frame_numbers)]
        planes = planes[by_frame(frame_numbers)]
    for image in images:
        # New elements: those that are there are the source's too.
        image.add_new("Rows", "US", planes.shape[1])
        image.add_new("Columns", "US", planes.shape[2])
    ds = Segmentation(
        source_images=images,
        pixel_array=planes,
        segmentation_type=form.segmentation.name,
        segment_descriptions=[
            _description(request, segment, numbers[segment.number])
            for segment in request.result.segments
            if segment.number in numbers
        ],
        content_label=request.manifest.name.upper()[:16],
        content_description=request.manifest.title,
        **series_attributes(request, form.kind_key),
    )
    shown = encode_groups(ds, _slices(ds, request.source), present)
    frames = _frames(ds, request, numbers, shown)
    set_pixel_data(ds, frames, UID(form.compression.transfer_syntax_uid))
    finish(ds, request)
    # PS3.3 Table 10-12: Type 2, and nobody's.
    ds.ContentCreatorName = None
    body_part = request.source.datasets[0].get("BodyPartExamined")
    if body_part:
        ds.BodyPartExamined = body_part
    _set_dimension_organization(ds, request, form)
    mark_as_encoded(ds)
    return ds


def _ranks(values: list[NDArray[np.integer]]) -> dict[int, int]:
    present = np.unique(np.concatenate(values))
    return {int(number): rank for rank, number in enumerate(present, start=1)}


def _fewest(present: Sequence[Sequence[int]]) -> list[Sequence[int]]:
    """Of the segments of each slice, one, and those that no slice before has."""
    seen: set[int] = set()
    kept: list[Sequence[int]] = []
    for some in present:
        new = [number for number in some if number not in seen]
        seen.update(new)
        kept.append(new or some[:1])
    return kept


def _slices(ds: Dataset, source: SourceSeries) -> list[int]:
    """Which slice each frame of the object shows."""
    groups = ds.PerFrameFunctionalGroupsSequence
    positions = [item.PlanePositionSequence[0].ImagePositionPatient for item in groups]
    found: list[int] = _nearest_slices(np.array(positions, dtype=np.float64), source).tolist()
    return found


def _frames(
    ds: Dataset, request: EvidenceRequest, numbers: Mapping[int, int], shown: Sequence[FrameOf]
) -> Frames:
    """The pixels of what the frames show."""
    labels = request.result.label_map.array
    values = {rank: number for number, rank in numbers.items()}
    is_binary = ds.SegmentationType == "BINARY"
    segments = [values[frame.segment_number] for frame in shown] if is_binary else []
    table = np.zeros(max(numbers) + 1, np.uint8 if ds.BitsAllocated <= 8 else np.uint16)
    for number, rank in numbers.items():
        table[number] = rank
    return Frames(
        labels=labels,
        slices=np.array([frame.slice_index for frame in shown], np.int64),
        # Of one type, NumPy compares 16 at a time.
        segments=np.array(segments, dtype=labels.dtype),
        table=table,
    )


def _nearest_slices(positions: NDArray[np.float64], source: SourceSeries) -> NDArray[np.int64]:
    """Indices of the slices that lie at positions; shapes (frames, 3) in LPS mm and (frames,)."""
    normal = source.volume.affine[:3, 0] / source.volume.spacing[0]
    slices = np.array([ds.ImagePositionPatient for ds in source.datasets], dtype=np.float64)
    # Slices are in order along the normal: halfway to the next one begins the next.
    along = slices @ normal
    return np.searchsorted((along[1:] + along[:-1]) / 2, positions @ normal).astype(np.int64)


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


def _set_dimension_organization(ds: Dataset, request: EvidenceRequest, form: SegForm) -> None:
    """Replace the random Dimension Organization UID: the same request makes the same object."""
    parts = ["dimension organization", request.workitem_uid]
    if form.segmentation is not SegmentationType.BINARY:
        # Frames of a label map have no segment to be ordered by.
        parts.append(form.segmentation)
    uid = derive_uid(request.installation.uid_root, *parts)
    for item in (*ds.DimensionOrganizationSequence, *ds.DimensionIndexSequence):
        item.DimensionOrganizationUID = uid
