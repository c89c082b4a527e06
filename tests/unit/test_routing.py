"""Clauses, rules, and the reason for every decision."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest

from node import selection
from node.errors import RuleError
from node.routing import check_rule, parse_clause
from pipelines.manifest import Manifest
from storage.model import Decision, Rule, Series

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
CODE = {"value": "113343008", "scheme": "SCT", "meaning": "Organ"}
MANIFEST = Manifest.model_validate(
    {
        "name": "bones",
        "version": "1.0.0",
        "title": "Bones",
        "procedure": CODE,
        "inputs": {"ct": {"modality": ["CT"], "min_instances": 10}},
        "segments": [
            {"number": 1, "label": "Bone", "category": CODE, "type": CODE, "rgb": [1, 2, 3]}
        ],
        "parameters": {"threshold": 200.0, "mode": "fast"},
    }
)
HEADER = {
    "Modality": ("CT",),
    "SeriesDescription": ("Thorax BONE 1.0",),
    "ImageType": ("ORIGINAL", "PRIMARY", "AXIAL"),
    "SliceThickness": (1.25,),
    "KVP": ("120",),
}


def series(*, own: bool = False, count: int = 60, **header: tuple[object, ...]) -> Series:
    return Series(
        series_instance_uid="1.2.3",
        study_instance_uid="1.2",
        modality="CT",
        instance_count=count,
        first_received_at=NOON,
        last_received_at=NOON,
        header={**HEADER, **header},
        facts={"calling_ae": "CT1", "instances": count, "slice_gap_mm": 1.0},
        own=own,
    )


def rule(*where: str, **changes: object) -> Rule:
    values = {"name": "r", "pipeline": "bones", "where": where, "destinations": ("PACS",)}
    return Rule(**{**values, **changes})


def route(
    rules: list[Rule], series: list[Series], manifests: dict[str, Manifest]
) -> tuple[Decision, ...]:
    """Every decision of every rule on a study whose quiet time is over."""
    selections = selection.route(rules, series, manifests, now=NOON)
    return tuple(decision for one in selections for decision in one.decisions)


def decide(*where: str, **header: tuple[object, ...]) -> Decision:
    (decision,) = route([rule(*where)], [series(**header)], {"bones": MANIFEST})
    return decision


@pytest.mark.parametrize(
    "clause",
    [
        "Modality = CT",
        "Modality != MR",
        "Modality in MR, CT",
        "SeriesDescription ~ (?i)bone|body",
        "SeriesDescription !~ scout",
        "ImageType = ORIGINAL",
        "ImageType != LOCALIZER",
        "SliceThickness <= 1.25",
        "SliceThickness < 2",
        "SliceThickness = 1.250",
        "KVP >= 120",
        "ContrastBolusAgent missing",
        "ContrastBolusAgent !~ .",
        "Modality exists",
        "calling_ae = CT1",
        "instances > 50",
        "slice_gap_mm <= 1",
    ],
)
def test_a_clause_holds(clause: str) -> None:
    assert decide(clause).matched


@pytest.mark.parametrize(
    "clause",
    [
        "Modality = ct",
        "Modality != CT",
        "ImageType != AXIAL",
        "ImageType !~ ORIG",
        "SeriesDescription ~ bone",
        "SliceThickness > 1.25",
        "SeriesDescription < 4",
        "ContrastBolusAgent exists",
        "ContrastBolusAgent = x",
        "slice_gap_irregular_mm < 1",
    ],
)
def test_a_clause_does_not_hold(clause: str) -> None:
    decision = decide("Modality = CT", clause)
    assert not decision.matched
    failed = [verdict for verdict in decision.clauses if not verdict.holds]
    assert [verdict.clause for verdict in failed] == [clause]
    assert clause in decision.reason


def test_an_empty_value_is_missing() -> None:
    assert decide("SeriesDescription missing", SeriesDescription=("",)).matched


def test_every_clause_is_explained_with_the_value_seen() -> None:
    decision = decide("ImageType = ORIGINAL", "SliceThickness < 1")
    assert [(v.clause, v.seen, v.holds) for v in decision.clauses] == [
        ("ImageType = ORIGINAL", "ORIGINAL\\PRIMARY\\AXIAL", True),
        ("SliceThickness < 1", "1.25", False),
        ("pipeline takes Modality in CT", "CT", True),
        ("pipeline takes instances >= 10", "60", True),
    ]


def test_the_manifest_refuses_what_it_cannot_take() -> None:
    (decision,) = route([rule("Modality = CT")], [series(count=9)], {"bones": MANIFEST})
    assert not decision.matched
    assert "instances >= 10 (seen: 9)" in decision.reason


def test_own_results_and_disabled_rules_are_not_looked_at() -> None:
    manifests = {"bones": MANIFEST}
    assert route([rule("Modality = CT")], [series(own=True)], manifests) == ()
    assert route([rule("Modality = CT", enabled=False)], [series()], manifests) == ()


def test_urgent_rules_come_first() -> None:
    rules = [
        rule("Modality = CT", name="b", priority=1),
        rule("Modality = CT", name="a", priority=9),
    ]
    assert [d.rule for d in route(rules, [series()], {"bones": MANIFEST})] == ["a", "b"]


def test_a_rule_whose_pipeline_went_away_says_so() -> None:
    (decision,) = route([rule("Modality = CT")], [series()], {})
    assert not decision.matched
    assert "not installed" in decision.reason


def test_a_long_value_is_cut_in_the_explanation() -> None:
    decision = decide("SeriesDescription exists", SeriesDescription=("x" * 500,))
    assert len(decision.clauses[0].seen) == 80


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Modality", "Keyword operator value"),
        ("Modality == CT", "operators are"),
        ("Modalty = CT", "neither a DICOM keyword nor"),
        ("SeriesDescription ~ (bone", "missing )"),
        (r"SeriesDescription ~ (a)\1", "no regular expression"),
        ("SliceThickness < thin", "no number"),
        ("Modality in ,", "separated by commas"),
        ("Modality =", "use `missing`"),
        ("Modality exists CT", "takes no value"),
        ("__import__('os') = 1", "operators are"),
    ],
)
def test_a_broken_clause_is_refused_with_its_text(text: str, said: str) -> None:
    with pytest.raises(RuleError) as caught:
        parse_clause(text)
    assert said in str(caught.value)
    assert repr(text) in str(caught.value)


def test_a_regular_expression_bomb_runs_in_linear_time() -> None:
    started = time.perf_counter()
    decide("SeriesDescription ~ (a+)+$", SeriesDescription=("a" * 60 + "b",))
    assert time.perf_counter() - started < 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"pipeline": "nose"}, "no pipeline 'nose'; installed: bones"),
        ({"where": ()}, "no clause"),
        ({"where": ("Modality ~ [",)}, "no regular expression"),
        ({"parameters": {"treshold": 1.0}}, "no parameter 'treshold'"),
        ({"parameters": {"threshold": "high"}}, "takes a float"),
    ],
)
def test_a_rule_that_could_never_run_is_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(RuleError) as caught:
        check_rule(rule(*("Modality = CT",), **changes), {"bones": MANIFEST})
    assert said in str(caught.value)


def test_parameters_are_merged_with_the_manifests() -> None:
    check_rule(rule("Modality = CT", parameters={"threshold": 150}), {"bones": MANIFEST})
    assert MANIFEST.merge({"threshold": 150}) == {"threshold": 150.0, "mode": "fast"}
