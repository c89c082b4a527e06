"""What a result says, as lines for people: the same words in the captures' pages and in the PDF. It names nobody."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import floor, log10

from pydicom.sr.coding import Code

from pipelines.evidence.header import content_time
from pipelines.evidence.request import EvidenceRequest
from pipelines.evidence.seg import segment_numbers
from pipelines.result import Measurement, Segment

WHOLE_RESULT = "Whole result"
_NOT_MEASURED = "Segmented, not measured"
_NOTHING_FOUND = "No voxel was segmented: every structure looked for has a volume of zero."
_PARTNERS = "Analysed together with {} further series."
#: UCUM codes that people write otherwise.
_UNITS = {"[hnsf'U]": "HU", "1": "", "Cel": "\u00b0C"}
_SIGNIFICANT_DIGITS = 4
_HASH_DIGITS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One statement."""

    #: The segment's label, or `WHOLE_RESULT`.
    subject: str
    #: The segment's colour; None for the whole result.
    rgb: tuple[int, int, int] | None
    name: str
    value: str
    unit: str
    #: Whether the value is a coded answer, and no number.
    coded: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """All that a page says of a result."""

    title: str
    #: Name and value of what is known of the run.
    facts: tuple[tuple[str, str], ...]
    #: The whole result first, then segment by segment.
    rows: tuple[Row, ...]
    #: Labels of segments without a voxel, of which nothing else is said: a measured zero is a result.
    not_found: tuple[str, ...]
    #: Sentences a reader must know: notices of the pipeline.
    remarks: tuple[str, ...]


def summarise(request: EvidenceRequest) -> Summary:
    """Everything a result says, and what it was made with."""
    result = request.result
    present = segment_numbers(result)
    rows = list(_rows(request, None))
    not_found = []
    for segment in result.segments:
        said = list(_rows(request, segment))
        if segment.number in present or any(row.value != "0" for row in said):
            rows += said or [_row(segment, _NOT_MEASURED, "", "")]
        else:
            not_found.append(segment.label)
    remarks = [] if present or not result.segments else [_NOTHING_FOUND]
    remarks += [notice.message for notice in result.notices]
    if request.partners:
        remarks.append(_PARTNERS.format(len(request.partners)))
    return Summary(
        title=request.manifest.title,
        facts=tuple(_facts(request)),
        rows=tuple(rows),
        not_found=tuple(not_found),
        remarks=tuple(remarks),
    )


def number(value: float) -> str:
    """Four significant digits, three below 1; no exponent, whole numbers whole: `0.0123`, `12.30`, `12346`, `7`."""
    if float(value).is_integer():
        return f"{value:.0f}"
    digits = _SIGNIFICANT_DIGITS - (abs(value) < 1)
    decimals = max(0, digits - 1 - floor(log10(abs(value))))
    return f"{value:.{decimals}f}"


def unit(code: Code) -> str:
    """A UCUM unit as people write it: `cm\u00b2/m\u00b2`, `counts`, `g/ml (SUVbw)`."""
    text = _UNITS.get(code.value, str(code.value))
    text = re.sub(r"(?<=[a-z])[23]", lambda power: {"2": "\u00b2", "3": "\u00b3"}[power[0]], text)
    text = re.sub(r"(?<=.)\{(.*?)\}", r" (\1)", text)
    return re.sub(r"^\{(.*?)\}", r"\1", text)


def _facts(request: EvidenceRequest) -> Iterator[tuple[str, str]]:
    manifest, volume = request.manifest, request.source.volume
    yield "Pipeline", f"{manifest.name} {manifest.version}, by {manifest.manufacturer}"
    yield "Software", f"OsteoNode {request.installation.software_version}"
    weights = manifest.weights
    yield (
        "Model",
        f"weights SHA-256 {weights.sha256[:_HASH_DIGITS]}..."
        if weights
        else "no weights: no network",
    )
    yield "Device UID", request.device_uid
    yield "Analysed", content_time(request).strftime("%Y-%m-%d %H:%M:%S %z")
    slices, rows, columns = volume.spatial_shape
    spacing = " x ".join(f"{size:.3g}" for size in volume.spacing)
    modality = request.source.datasets[0].get("Modality", "")
    yield "Images", f"{modality}, {slices} slices of {rows} x {columns}, voxels of {spacing} mm"
    parameters = ", ".join(f"{key} = {value}" for key, value in sorted(request.parameters.items()))
    if parameters:
        yield "Parameters", parameters
    yield "Patient", "see the DICOM header of this object"


def _rows(request: EvidenceRequest, segment: Segment | None) -> Iterator[Row]:
    asked = None if segment is None else segment.number
    for item in request.result.measurements:
        if item.segment_number == asked:
            yield _row(segment, _measured(item), number(item.value), unit(item.unit))
    for evaluation in request.result.evaluations:
        if evaluation.segment_number == asked:
            said = _row(segment, str(evaluation.name.meaning), str(evaluation.value.meaning), "")
            yield replace(said, coded=True)


def _row(segment: Segment | None, name: str, value: str, unit_text: str) -> Row:
    return Row(
        subject=WHOLE_RESULT if segment is None else segment.label,
        rgb=None if segment is None else segment.spec.rgb,
        name=name,
        value=value,
        unit=unit_text,
    )


def _measured(item: Measurement) -> str:
    derivation = f", {str(item.derivation.meaning).lower()}" if item.derivation else ""
    return f"{item.name.meaning}{derivation}{f' ({item.site.meaning})' if item.site else ''}"
