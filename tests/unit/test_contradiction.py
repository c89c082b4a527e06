"""Clauses that no series can meet together: those that are found cannot be met, and those that can be met are not."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from received import series

from node.contradiction import demanded, find_contradictions
from node.errors import RuleError
from node.routing import parse_clause
from pipelines.manifest import InputSpec

CT = InputSpec(modality=("CT", "PT"), min_instances=20)


def found(*texts: str) -> list[tuple[str, ...]]:
    contradictions = find_contradictions(parse_clause(text) for text in texts)
    return [tuple(str(one) for one in clauses) for clauses in contradictions]


@pytest.mark.parametrize(
    "texts",
    [
        ("Modality = CT", "Modality = MR"),
        ("Modality = CT", "Modality in MR, PT"),
        ("Modality = CT", "Modality != CT"),
        ("Modality in CT, PT", "Modality !~ [CP]T"),
        ("Modality = CT", "Modality ~ ^M"),
        ("SliceThickness < 3", "SliceThickness > 5"),
        ("SliceThickness < 3", "SliceThickness >= 3"),
        ("SliceThickness = 5", "SliceThickness <= 3"),
        ("SliceThickness = 1.250", "SliceThickness != 1.25"),
        ("slices > 3", "slices < 4"),
        ("InstanceNumber > 3", "InstanceNumber < 4"),
        ("SeriesDescription missing", "SeriesDescription exists"),
        ("SeriesDescription missing", "SeriesDescription ~ bone"),
        ("SeriesDescription ~ bone", "SeriesDescription !~ bone"),
        ("ImageType = ORIGINAL", "ImageType != ORIGINAL"),
        ("ImageType missing", "ImageType = ORIGINAL"),
        ("calling_ae = A", "calling_ae = B"),
        ("plane = axial", "plane = coronal"),
    ],
)
def test_two_that_exclude_each_other_are_named(texts: tuple[str, str]) -> None:
    assert found("StationName exists", *texts) == [texts]
    assert len(found(*texts[::-1])) == 1


@pytest.mark.parametrize(
    "texts",
    [
        ("Modality = CT", "Modality in CT, PT"),
        ("ImageType = ORIGINAL", "ImageType = PRIMARY"),
        ("ImageType = ORIGINAL", "ImageType ~ AXIAL"),
        ("PixelSpacing < 0.5", "PixelSpacing > 0.7"),
        ("SliceThickness < 3", "SliceThickness > 2.9"),
        ("SliceThickness <= 3", "SliceThickness >= 3"),
        ("SliceThickness > 3", "SliceThickness < 4"),
        ("slice_gap_mm > 3", "slice_gap_mm < 4"),
        ("SeriesDescription missing", "SeriesDescription !~ bone"),
        # Two expressions may exclude each other; who could say.
        ("SeriesDescription ~ ^a", "SeriesDescription ~ ^b"),
        ("SeriesDescription = 120", "SeriesDescription ~ 12"),
    ],
)
def test_what_can_be_met_is_left_alone(texts: tuple[str, str]) -> None:
    assert found(*texts) == []


def test_three_that_exclude_each_other_only_together() -> None:
    texts = ("Modality in CT, MR", "Modality != CT", "Modality != MR")
    assert found(*texts) == [texts]


def test_what_a_pipeline_takes_counts() -> None:
    for text in ("Modality = MR", "frames < 20", "Modality missing"):
        (pair,) = find_contradictions((parse_clause(text), *demanded(CT)))
        assert str(pair[0]) == text
    assert find_contradictions((parse_clause("Modality = PT"), *demanded(CT))) == []


VALUES = st.sampled_from(["CT", "MR", "1", "2.5", "bone", ""])
CLAUSES = st.one_of(
    st.builds(
        "{} {} {}".format,
        st.sampled_from(["Modality", "ImageType", "SliceThickness", "slices"]),
        st.sampled_from(["=", "!=", "in", "~", "!~", "<", "<=", ">", ">="]),
        st.sampled_from(["CT", "MR", "1", "2", "2.5", "3"]),
    ),
    st.builds(
        "{} {}".format,
        st.sampled_from(["Modality", "ImageType", "SliceThickness"]),
        st.sampled_from(["exists", "missing"]),
    ),
)


def _readable(text: str) -> bool:
    try:
        parse_clause(text)
    except RuleError:
        return False
    return True


@given(
    st.lists(CLAUSES.filter(_readable), min_size=1, max_size=4),
    st.lists(VALUES, max_size=2).map(tuple),
    st.sampled_from([(), ("CT",), ("MR",), ("1",)]),
    st.sampled_from([(), (1.0,), (2.5,), (3.0,), ("bone",)]),
    st.integers(1, 4),
)
def test_what_a_series_meets_is_no_contradiction(
    texts: list[str],
    image_type: tuple[str, ...],
    modality: tuple[str, ...],
    thickness: tuple[object, ...],
    slices: int,
) -> None:
    one = series(
        "a", slices=slices, ImageType=image_type, Modality=modality, SliceThickness=thickness
    )
    clauses = [parse_clause(text) for text in texts]
    if all(clause.holds(one) for clause in clauses):
        assert find_contradictions(clauses) == []


def test_a_regular_expression_bomb_costs_nothing_here_either() -> None:
    bomb = "SeriesDescription ~ (a+)+$"
    started = time.perf_counter()
    assert found(bomb, f"SeriesDescription = {'a' * 5000}b") != []
    one = series("a", SeriesDescription=("a" * 5000 + "b",))
    assert not parse_clause(bomb).holds(one)
    assert time.perf_counter() - started < 1
