"""What a result says beside an earlier one: changes, interval, references, and when there is none."""

from __future__ import annotations

import dataclasses
from io import BytesIO
from pathlib import Path

import pytest
import volumes
from highdicom.sr.utils import find_content_items
from pydicom import Dataset, dcmread
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from pipelines.comparison import (
    CHANGE,
    DAY,
    INTERVAL,
    PERCENT,
    RELATIVE_CHANGE,
    compare,
    interval,
)
from pipelines.evidence.codes import MILLILITER
from pipelines.evidence.create import create_evidence
from pipelines.result import AnalysisResult, Measurement, SourceSeries
from pipelines.series import read_series
from storage.model import Prior, PriorReference

SR = "1.2.840.10008.5.1.4.1.1.88.34"
PRIOR = Prior(
    workitem_uid="2.25.1",
    pipeline_version="1.2.3",
    interval_days=412,
    within_days=1095,
    volumes_ml={"Bone 1": 10.0, "Bone 3": 4.0},
    evidence=(
        PriorReference(
            study_instance_uid="1.2.3.4",
            series_instance_uid="1.2.3.4.5",
            sop_class_uid=SR,
            sop_instance_uid="1.2.3.4.5.6",
        ),
    ),
)


@pytest.fixture
def source(tmp_path: Path) -> SourceSeries:
    return read_series(volumes.write_series(tmp_path))


def volume(value: float, segment: int | None = 1, **more: Code) -> Measurement:
    return Measurement(
        name=codes.SCT.Volume, value=value, unit=MILLILITER, segment_number=segment, **more
    )


def a_result(source: SourceSeries, *measurements: Measurement) -> AnalysisResult:
    made = volumes.make_request(source).result
    return dataclasses.replace(made, measurements=measurements)


def changes(result: AnalysisResult) -> dict[tuple[int | None, str], float]:
    return {
        (one.segment_number, str(one.unit.value)): one.value
        for one in result.measurements
        if one.name in (CHANGE, RELATIVE_CHANGE)
    }


def test_a_structure_that_both_have_has_a_change_in_ml_and_in_percent(
    source: SourceSeries,
) -> None:
    compared = compare(
        a_result(source, volume(12.5), volume(3.0, 2)), PRIOR, pipeline_version="1.2.3"
    )
    # The second was not measured then.
    assert changes(compared) == {(1, "mL"): 2.5, (1, "%"): 25.0}
    assert compared.notices[-1].code == "prior-compared"
    assert "412 days" in compared.notices[-1].message


def test_what_grew_from_nothing_has_no_percent_and_what_vanished_has(
    source: SourceSeries,
) -> None:
    empty = dataclasses.replace(PRIOR, volumes_ml={"Bone 1": 0.0, "Bone 2": 5.0})
    compared = compare(
        a_result(source, volume(1.5), volume(0.0, 2)), empty, pipeline_version="1.2.3"
    )
    assert changes(compared) == {(1, "mL"): 1.5, (2, "mL"): -5.0, (2, "%"): -100.0}


def test_only_the_plain_volume_counts(source: SourceSeries) -> None:
    part = volume(1.0, site=codes.SCT.Femur)
    mean = volume(2.0, derivation=codes.SCT.Mean)
    litres = dataclasses.replace(volume(3.0), unit=Code("L", "UCUM", "liter"))
    compared = compare(a_result(source, part, mean, litres), PRIOR, pipeline_version="1.2.3")
    assert changes(compared) == {}
    both = compare(a_result(source, part, volume(11.0)), PRIOR, pipeline_version="1.2.3")
    assert changes(both)[1, "mL"] == 1.0


def test_a_number_is_no_name(source: SourceSeries) -> None:
    result = a_result(source, volume(12.5))
    numbered = dataclasses.replace(result.segments[0], label="Bone 3")
    result = dataclasses.replace(result, segments=(numbered, *result.segments[1:]))
    assert changes(compare(result, PRIOR, pipeline_version="1.2.3")) == {}


def test_another_version_is_said(source: SourceSeries) -> None:
    compared = compare(a_result(source, volume(12.5)), PRIOR, pipeline_version="2.0.0")
    assert "version 1.2.3" in compared.notices[-1].message


def test_no_prior_is_said_where_one_was_wanted(source: SourceSeries) -> None:
    result = a_result(source, volume(12.5))
    assert compare(result, None, pipeline_version="1") is result
    alone = compare(result, Prior(within_days=365), pipeline_version="1")
    assert alone.notices[-1].code == "prior-absent"
    assert "365 days" in alone.notices[-1].message
    assert alone.measurements == result.measurements
    assert interval(None) == interval(Prior()) == ()


def test_the_interval_is_a_row_of_the_database() -> None:
    (row,) = interval(PRIOR)
    assert (row.name, row.value, row.unit, row.segment_number) == (INTERVAL, 412.0, DAY, None)


def find(ds: Dataset, name: Code) -> list[Dataset]:
    return find_content_items(ds, name=name, recursive=True)


def test_the_report_says_changes_interval_and_what_it_was_compared_with(
    source: SourceSeries,
) -> None:
    result = compare(
        a_result(source, volume(12.5), volume(3.0, 2)), PRIOR, pipeline_version="1.2.3"
    )
    request = volumes.make_request(source, result=result, prior=PRIOR)
    evidence = {item.kind: item for item in create_evidence(request)}
    sr = dcmread(BytesIO(evidence["SR"].encoded))
    (change,) = find(sr, CHANGE)
    assert change.MeasuredValueSequence[0].NumericValue == 2.5
    (relative,) = find(sr, RELATIVE_CHANGE)
    value = relative.MeasuredValueSequence[0]
    assert value.NumericValue == 25
    assert value.MeasurementUnitsCodeSequence[0].CodeValue == PERCENT.value
    # Of the structure that was compared, and of no other.
    (offset,) = find(sr, INTERVAL)
    assert offset.MeasuredValueSequence[0].NumericValue == 412
    assert offset.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0].CodeValue == "d"
    (event,) = offset.ContentSequence
    assert event.ConceptCodeSequence[0].CodeValue == codes.DCM.Baseline.value
    # PS3.3 C.17.2.3.
    (other,) = sr.PertinentOtherEvidenceSequence
    assert other.StudyInstanceUID == "1.2.3.4"
    (instance,) = other.ReferencedSeriesSequence[0].ReferencedSOPSequence
    assert instance.ReferencedSOPInstanceUID == "1.2.3.4.5.6"
    # The same request makes the same bytes.
    again = {item.kind: item for item in create_evidence(request)}
    assert again["SR"].encoded == evidence["SR"].encoded


def test_without_a_comparison_the_report_is_as_before(source: SourceSeries) -> None:
    plain, asked = (
        dcmread(BytesIO(create_evidence(volumes.make_request(source, prior=prior))[-1].encoded))
        for prior in (None, Prior())
    )
    assert plain == asked
    assert "PertinentOtherEvidenceSequence" not in plain
