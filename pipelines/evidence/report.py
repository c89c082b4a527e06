"""What every report has, of a result or of none: a tree of, or like, TID 1500 "Measurement Report" (PS3.16)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from highdicom.sr import (
    CodeContentItem,
    CodedConcept,
    ContainerContentItem,
    ContentItem,
    ContentSequence,
    LanguageOfContentItemAndDescendants,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    PlanarROIMeasurementsAndQualitativeEvaluations,
    RelationshipTypeValues,
    TextContentItem,
    VolumetricROIMeasurementsAndQualitativeEvaluations,
)
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from pipelines.evidence.codes import QUALITATIVE_EVALUATIONS
from pipelines.evidence.equipment import observer_context
from pipelines.evidence.request import Request

#: TID 1501, 1410 or 1411.
Group: TypeAlias = (
    MeasurementsAndQualitativeEvaluations
    | PlanarROIMeasurementsAndQualitativeEvaluations
    | VolumetricROIMeasurementsAndQualitativeEvaluations
)

#: What every report says of itself, beside the coded Content Qualification.
_CAUTION: Final = "Made by software for research. Not verified by a physician, not for diagnosis."
_ENGLISH: Final = Code("en-US", "RFC5646", "English (United States)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What one report says."""

    #: Groups of Row 7, Imaging Measurements; none leave it out.
    measured: Sequence[Group] = ()
    #: Row 13, in Row 12 (Qualitative Evaluations).
    evaluated: Sequence[ContentItem] = ()
    #: For the reader: Row 14, after them.
    sentences: Sequence[str]
    #: Groups that have no place in the images, after them (TID 1500 is extensible).
    elsewhere: Sequence[Group] = ()
    #: Of a report that is no Imaging Measurement Report.
    title: Code | None = None


def measurement_report(request: Request, said: Said) -> ContainerContentItem:
    """The root of a report.

    A report without measurements has a title of its own, and is none of TID 1500 then: OHIF shows no word of an
    Imaging Measurement Report without measurements, and any other as text. Nor does highdicom's `MeasurementReport`
    make one.
    """
    report = ContainerContentItem(
        name=said.title or codes.cid7021.ImagingMeasurementReport,
        template_id=None if said.title else "1500",
    )
    context = ObservationContext(observer_device_context=observer_context(request))
    contains = RelationshipTypeValues.CONTAINS
    report.ContentSequence = ContentSequence(
        [
            *LanguageOfContentItemAndDescendants(CodedConcept.from_code(_ENGLISH)),
            *context,
            *(
                CodeContentItem(
                    name=codes.DCM.ProcedureReported,
                    value=procedure,
                    relationship_type=RelationshipTypeValues.HAS_CONCEPT_MOD,
                )
                for procedure in procedures_reported(request)
            ),
        ]
    )
    if said.measured:
        measurements = ContainerContentItem(
            name=codes.DCM.ImagingMeasurements, relationship_type=contains
        )
        measurements.ContentSequence = ContentSequence(
            [item for group in said.measured for item in group]
        )
        report.ContentSequence.append(measurements)
    evaluations = ContainerContentItem(
        name=CodedConcept.from_code(QUALITATIVE_EVALUATIONS), relationship_type=contains
    )
    evaluations.ContentSequence = ContentSequence(
        [
            *said.evaluated,
            *(_comment(sentence) for sentence in (_CAUTION, *said.sentences)),
            *(item for group in said.elsewhere for item in group),
        ]
    )
    report.ContentSequence.append(evaluations)
    return report


def procedures_reported(request: Request) -> list[Code]:
    """IHE AIR: Procedure Reported is the imaging that was analysed, never the algorithm."""
    header = request.header
    items = [
        *(header.get("ProcedureCodeSequence") or ()),
        *(
            code
            for step in header.get("RequestAttributesSequence") or ()
            for code in step.get("RequestedProcedureCodeSequence") or ()
        ),
    ]
    found = [
        Code(str(item.CodeValue), str(item.CodingSchemeDesignator), str(item.CodeMeaning))
        for item in items
        if all(item.get(key) for key in ("CodeValue", "CodingSchemeDesignator", "CodeMeaning"))
    ]
    return list(dict.fromkeys(found)) or [request.manifest.procedure.to_code()]


def _comment(sentence: str) -> TextContentItem:
    return TextContentItem(
        name=CodedConcept.from_code(codes.DCM.Comment),
        value=sentence,
        relationship_type=RelationshipTypeValues.CONTAINS,
    )
