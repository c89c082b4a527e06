"""What `rules check` says of rules, and what it keeps quiet about."""

from __future__ import annotations

from dataclasses import replace

import pytest
from received import BONES, LESIONS, NOON, series

from node.pairing import read_rule
from node.replay import find_runs
from node.rulecheck import Level, Problem, check_rules
from storage.model import Rule, Series

MANIFESTS = {"bones": BONES, "lesions": LESIONS}
RULE = Rule(name="a", pipeline="bones", where=("Modality = CT",), destinations=("PACS",))
PAIR = Rule(name="p", pipeline="lesions", where=("Modality in NM, CT",), destinations=("PACS",))


def checked(*rules: Rule, held: tuple[Series, ...] = ()) -> tuple[Problem, ...]:
    plans = {
        rule.name: read_rule(rule, MANIFESTS[rule.pipeline])
        for rule in rules
        if rule.pipeline in MANIFESTS and rule.enabled
    }
    found = find_runs(plans, held, now=NOON)
    return check_rules(rules, MANIFESTS, {"PACS", "OTHER"}, found)


def codes(*rules: Rule, held: tuple[Series, ...] = ()) -> list[tuple[str, str]]:
    return [
        (one.level.value, one.code)
        for one in checked(*rules, held=held)
        if one.code != "unreachable"
    ]


def test_sound_rules_have_nothing_wrong() -> None:
    assert checked(RULE, PAIR) == ()


def test_pipelines_that_no_rule_wants_are_named() -> None:
    (one,) = checked(RULE, replace(PAIR, enabled=False))
    assert (one.level, one.code, one.pipeline, one.rules) == (
        Level.NOTE,
        "unreachable",
        "lesions",
        (),
    )


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        ({"pipeline": "nose"}, "pipeline-missing", "nose is not installed"),
        ({"destinations": ("PACKS",)}, "destination-missing", "PACKS does not exist"),
        (
            {"where": ("Modality = MR",)},
            "never-matches",
            "`Modality = MR` and `Modality in CT` (of the",
        ),
        ({"where": ("frames < 5",)}, "never-matches", "`frames >= 10` (of the pipeline)"),
        ({"where": ("SliceThickness < 1", "SliceThickness > 2")}, "never-matches", "cannot hold"),
        ({"where": ("Modalty = CT",)}, "invalid", "'Modalty' is neither"),
        ({"parameters": {"treshold": 1.0}}, "invalid", "treshold"),
        ({"prefer": ("most beautiful",)}, "invalid", "'beautiful' is neither"),
    ],
)
def test_a_rule_that_cannot_run_is_an_error_and_a_warning_while_it_is_off(
    changes: dict[str, object], code: str, said: str
) -> None:
    broken = replace(RULE, **changes)  # type: ignore[arg-type]
    (problem,) = [one for one in checked(broken) if one.rules]
    assert (problem.level, problem.code, problem.rules) == (Level.ERROR, code, ("a",))
    assert said in problem.text
    assert codes(replace(broken, enabled=False)) == [("warning", code)]


def test_an_input_that_can_never_be_found_is_an_error_only_where_it_is_needed() -> None:
    roles = {"spect": (), "ct": ("Modality = MR",)}
    assert codes(replace(PAIR, roles=roles)) == [("error", "never-matches")]
    assert codes(replace(PAIR, roles=roles, without=("ct",))) == [("warning", "never-matches")]
    both = replace(PAIR, where=("Modality = MR",), without=("spect", "ct"))
    assert codes(both) == [("error", "never-matches")] * 2


HELD = (
    series("1", slices=60, StationName=("CT1",)),
    series("2", study="1.3", StationName=("CT2",)),
)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({}, ("warning", "redundant")),
        ({"destinations": ("OTHER",)}, ("note", "shared-run")),
        ({"parameters": {"threshold": 300.0}}, ("warning", "conflict")),
    ],
)
def test_two_rules_that_share_series_are_named(
    changes: dict[str, object], problem: tuple[str, str]
) -> None:
    other = replace(RULE, name="b", where=("StationName = CT2",), **changes)  # type: ignore[arg-type]
    assert codes(RULE, other, held=HELD) == [problem]
    (one,) = checked(RULE, other, PAIR, held=HELD)
    assert one.rules == ("a", "b")
    assert "on a series held (2 and 1 of each), as in study 1.3" in one.text
    # Nothing held shows it, and their clauses do not say.
    assert codes(RULE, other) == []
    assert codes(RULE, replace(other, enabled=False), held=HELD) == []


def test_what_clauses_say_needs_no_study() -> None:
    same = replace(RULE, name="b")
    assert codes(RULE, same) == [("warning", "redundant")]
    narrower = replace(RULE, name="b", where=("Modality = CT", "StationName = CT2"))
    # Of several series the one rule may take another than the other, unless it takes each.
    assert codes(RULE, narrower) == []
    assert codes(replace(RULE, each=True), narrower) == [("warning", "redundant")]
    assert codes(RULE, replace(same, prefer=("most KVP",))) == []


def test_rules_apart_are_left_alone() -> None:
    one = replace(RULE, where=("StationName = CT1",))
    other = replace(RULE, name="b", where=("StationName = CT2",))
    assert codes(one, other, held=HELD) == []


def test_wishes_of_a_rule_that_takes_each_choose_nothing() -> None:
    assert codes(replace(RULE, prefer=("most slices",), each=True)) == [("note", "wishes-idle")]
    assert codes(replace(PAIR, prefer=("most slices",), each=True)) == []


def test_names_alike_and_the_worst_first() -> None:
    alike = replace(RULE, name="A", where=("StationName = X", "Modality = MR"))
    assert codes(RULE, alike) == [("error", "never-matches"), ("warning", "name-twice")]


def test_rules_of_other_pipelines_share_series_in_peace() -> None:
    assert codes(RULE, PAIR, held=HELD) == []
