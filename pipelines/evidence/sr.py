"""The measurements of a result as a Comprehensive 3D SR, TID 1500 "Measurement Report" (PS3.16).

One group per segment: TID 1411 where the SEG has it (tied by Referenced Segment and tracking UID), TID 1501 where it
has no voxel, so that a measured zero is said and not silent. What concerns the whole result has a TID 1501 group of
its own. Notices are text under Qualitative Evaluations (TID 1500 Row 14).

With contours, beside each of these groups stands its outline on one slice (TID 1410); those that have no place in the
images move to Qualitative Evaluations, for OHIF shows nothing of a report that has one under Imaging Measurements; and
if that leaves no measurement, the report has another title, for OHIF shows it as text then, and no Image Library.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from highdicom.sr import (
    Comprehensive3DSR,
    FindingSite,
    LongitudinalTemporalOffsetFromEvent,
    MeasurementsAndQualitativeEvaluations,
    ReferencedSegment,
    SourceSeriesForSegmentation,
    TimePointContext,
    TrackingIdentifier,
    VolumetricROIMeasurementsAndQualitativeEvaluations,
)
from highdicom.sr import Measurement as MeasurementTemplate
from highdicom.sr import QualitativeEvaluation as QualitativeEvaluationTemplate
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from pipelines.comparison import CHANGE, DAY
from pipelines.evidence.codes import MILLILITER, PRIVATE_SCHEME
from pipelines.evidence.equipment import algorithm_statement
from pipelines.evidence.header import finish, series_attributes, source_images
from pipelines.evidence.library import image_library
from pipelines.evidence.outlines import WHOLE, WHOLE_RESULT, planar_groups
from pipelines.evidence.references import reference_of
from pipelines.evidence.report import Group, Said, measurement_report
from pipelines.evidence.request import EvidenceRequest, statements
from pipelines.evidence.seg import KIND as SEG_KIND
from pipelines.evidence.seg import segment_numbers
from pipelines.result import AnalysisResult, Measurement, Segment

KIND = "SR"
_TITLE_OF_NOTHING = Code("NOTHING-FOUND", PRIVATE_SCHEME, "Nothing was segmented")
_NOTHING_FOUND = (
    "No voxel was segmented: every structure looked for has a volume of zero, and there is no SEG."
)


def create_sr(
    request: EvidenceRequest,
    seg: Dataset | None,
    *,
    contours: bool = False,
    seg_kind: str = SEG_KIND,
) -> Dataset:
    """Make the report of a result.

    Parameters
    ----------
    request
        The result; `replaced` are the reports that this one follows.
    seg
        The SEG that groups refer to; None when no segment has a voxel, or when there shall be none.
    contours
        Whether to add outlines, for viewers that draw none from a SEG.
    seg_kind
        The string that the UIDs of `seg` were derived with: reports that refer to other forms of a SEG are others.

    Returns
    -------
    pydicom.Dataset
        Comprehensive 3D SR. Without a voxel `seg_kind` changes nothing, nor its UIDs.
    """
    numbers = segment_numbers(request.result)
    images, frames = source_images(request), request.source.frame_numbers
    groups = _groups(request, seg, numbers)
    measured: list[Group] = list(groups.values())
    elsewhere: list[Group] = []
    if contours:
        outlines = planar_groups(request, images)
        measured = [made[n] for n in outlines for made in (groups, outlines)]
        elsewhere = [group for n, group in groups.items() if n not in outlines]
    nothing = () if numbers else (_NOTHING_FOUND,)
    notices = (notice.message for notice in request.result.notices)
    if not numbers:
        # There is no SEG, whatever its form would be.
        form: str | None = SEG_KIND
    else:
        form = None if seg is None else seg_kind
    ds = Comprehensive3DSR(
        # PS3.3 C.17.2.3: what was analysed besides belongs to it, though no item refers to it.
        evidence=[
            *_instances(images),
            *_instances(ds for source in request.partners for ds in source.datasets),
            *([] if seg is None else [seg]),
            # Of another study: PS3.3 C.17.2.3, Pertinent Other Evidence Sequence.
            *_prior_evidence(request),
        ],
        content=measurement_report(
            request,
            Said(
                measured=measured,
                sentences=[*nothing, *notices],
                elsewhere=elsewhere,
                title=None if measured else _TITLE_OF_NOTHING,
            ),
        ),
        is_complete=True,
        # PS3.3 C.17.2: the report that this one is a newer version of.
        previous_versions=[reference_of(one) for one in request.replaced] or None,
        **series_attributes(request, report_kind(form, contours=contours)),
    )
    if measured:
        # Afterwards: highdicom copies the tree three times, and the library is most of it.
        # TID 1500: Row 6 (Image Library) stands before Rows 7 (Imaging Measurements) and 12.
        ds.ContentSequence.insert(-2, image_library(images, frames))
    finish(ds, request, also=() if measured else (_TITLE_OF_NOTHING,))
    return ds


def report_kind(seg_kind: str | None, *, contours: bool) -> str:
    """The string that a report's UIDs are derived with; `seg_kind` None stands for a report without SEG."""
    if seg_kind == SEG_KIND and not contours:
        return KIND
    return f"{KIND} of {seg_kind or 'no SEG'}{' with contours' if contours else ''}"


def _instances(slices: Iterable[Dataset]) -> list[Dataset]:
    """One data set of each instance: the slices of a multi-frame image are one."""
    found: dict[str, Dataset] = {}
    for ds in slices:
        # The first slice has the header of all.
        found.setdefault(str(ds.SOPInstanceUID), ds)
    return list(found.values())


def _prior_evidence(request: EvidenceRequest) -> list[Dataset]:
    """What the earlier result left, which this one was compared with."""
    found = []
    for one in request.prior.evidence if request.prior else ():
        ds = Dataset()
        ds.StudyInstanceUID = one.study_instance_uid
        ds.SeriesInstanceUID = one.series_instance_uid
        ds.SOPClassUID = one.sop_class_uid
        ds.SOPInstanceUID = one.sop_instance_uid
        found.append(ds)
    return found


def _time_point(request: EvidenceRequest, segment: Segment) -> TimePointContext | None:
    """TID 1502: how long after the study that a structure is compared with; None where it is with none."""
    prior = request.prior
    compared = {item.segment_number for item in request.result.measurements if item.name == CHANGE}
    if prior is None or segment.number not in compared:
        return None
    return TimePointContext(
        time_point="Current study",
        temporal_offset_from_event=LongitudinalTemporalOffsetFromEvent(
            value=float(prior.interval_days), unit=DAY, event_type=codes.DCM.Baseline
        ),
    )


def _groups(
    request: EvidenceRequest, seg: Dataset | None, numbers: Mapping[int, int]
) -> dict[int, Group]:
    """Segment number -> its group; at last that of the whole result."""
    groups: dict[int, Group] = {}
    for segment in request.result.segments:
        if seg is not None and segment.number in numbers:
            groups[segment.number] = _segment_group(request, segment, seg, numbers)
        else:
            empty = segment.number not in numbers
            groups[segment.number] = _group_without_region(request, segment, empty=empty)
    if any(item.segment_number is None for item in statements(request.result)):
        groups[WHOLE] = _whole_group(request)
    return groups


def _segment_group(
    request: EvidenceRequest, segment: Segment, seg: Dataset, numbers: Mapping[int, int]
) -> VolumetricROIMeasurementsAndQualitativeEvaluations:
    """TID 1411."""
    series = str(request.source.datasets[0].SeriesInstanceUID)
    return VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(
            uid=request.tracking_uid(segment.number), identifier=segment.label
        ),
        referenced_segment=ReferencedSegment(
            sop_class_uid=seg.SOPClassUID,
            sop_instance_uid=seg.SOPInstanceUID,
            segment_number=numbers[segment.number],
            source_series=SourceSeriesForSegmentation(series),
        ),
        finding_category=segment.spec.category.to_code(),
        finding_type=segment.spec.type.to_code(),
        finding_sites=_sites(segment),
        algorithm_id=algorithm_statement(request, complete=True),
        time_point_context=_time_point(request, segment),
        measurements=_measurements(request, request.result.measurements, segment.number),
        qualitative_evaluations=_evaluations(request.result, segment.number),
    )


def _group_without_region(
    request: EvidenceRequest, segment: Segment, *, empty: bool
) -> MeasurementsAndQualitativeEvaluations:
    """TID 1501: TID 1411 needs a region, and there is none."""
    stated = request.result.measurements
    if empty and not any(
        item.segment_number == segment.number and item.name == codes.SCT.Volume for item in stated
    ):
        zero = Measurement(
            name=codes.SCT.Volume, value=0.0, unit=MILLILITER, segment_number=segment.number
        )
        stated = (*stated, zero)
    return MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(
            uid=request.tracking_uid(segment.number), identifier=segment.label
        ),
        finding_category=segment.spec.category.to_code(),
        finding_type=segment.spec.type.to_code(),
        finding_sites=_sites(segment),
        algorithm_id=algorithm_statement(request, complete=True),
        time_point_context=_time_point(request, segment),
        measurements=_measurements(request, stated, segment.number),
        qualitative_evaluations=_evaluations(request.result, segment.number),
    )


def _whole_group(request: EvidenceRequest) -> MeasurementsAndQualitativeEvaluations:
    """TID 1501: TID 1411 cannot speak of two segments."""
    return MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(
            uid=request.tracking_uid(WHOLE), identifier=WHOLE_RESULT
        ),
        algorithm_id=algorithm_statement(request, complete=True),
        measurements=_measurements(request, request.result.measurements, None),
        qualitative_evaluations=_evaluations(request.result, None),
    )


def _measurements(
    request: EvidenceRequest, stated: Sequence[Measurement], segment_number: int | None
) -> list[MeasurementTemplate]:
    """TID 300. Each has a child (the algorithm): a common web viewer fails on a NUM without one."""
    return [
        MeasurementTemplate(
            name=item.name,
            value=float(item.value),
            unit=item.unit,
            derivation=item.derivation,
            finding_sites=[FindingSite(item.site)] if item.site is not None else None,
            algorithm_id=algorithm_statement(request),
        )
        for item in stated
        if item.segment_number == segment_number
    ]


def _evaluations(
    result: AnalysisResult, segment_number: int | None
) -> list[QualitativeEvaluationTemplate]:
    return [
        QualitativeEvaluationTemplate(name=item.name, value=item.value)
        for item in result.evaluations
        if item.segment_number == segment_number
    ]


def _sites(segment: Segment) -> list[FindingSite] | None:
    """Finding Site: the manifest's, or the structure itself where that is anatomy."""
    spec = segment.spec
    anatomical = spec.category.to_code() == codes.cid7150.AnatomicalStructure
    site = spec.site or (spec.type if anatomical else None)
    if site is None:
        return None
    return [
        FindingSite(
            anatomic_location=site.to_code(),
            laterality=spec.laterality.to_code() if spec.laterality else None,
        )
    ]
