"""Why each rule runs or not, what would have to change, and how that reads on 80 columns."""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import timedelta

from received import BONES, LESIONS, NOON, series
from rich.console import Console
from rows import make_workitem

from node.cli.explaining import Answer, render
from node.explanation import Circumstances, RuleVerdict, explain
from storage.model import Rule, Series, Study, VerdictReason, WorkitemInput

RULE = Rule(
    name="skeleton",
    pipeline="bones",
    where=("Modality = CT", "SliceThickness <= 3", "SeriesDescription ~ (?i)bone"),
    destinations=("PACS",),
)
PAIR = Rule(
    name="pair",
    pipeline="lesions",
    where=(),
    destinations=("PACS",),
    roles={"spect": (), "ct": ("ConvolutionKernel !~ ^Bl",)},
    wait_s=600,
)
THIN = series("1.2.3.1", SliceThickness=(1.0,), SeriesDescription=("Bone 1.0",))
THICK = series("1.2.3.2", SliceThickness=(5.0,), SeriesDescription=("Bone 5.0",), slices=60)
SCOUT = series("1.2.3.3", SliceThickness=(5.0,), SeriesDescription=("Scout",), slices=2)
STUDY = Study(
    study_instance_uid="1.2.840.113619.2.55.3",
    patient_id="P4711",
    accession_number="A1",
    study_date="20260301",
    study_description="Abdomen",
    revision=162,
    evaluated_revision=162,
    series_count=3,
    instance_count=162,
    first_received_at=NOON,
    last_received_at=NOON,
)


def explained(
    *rules: Rule,
    held: tuple[Series, ...] = (THIN, THICK, SCOUT),
    seconds: float = 0,
    **more: object,
) -> tuple[RuleVerdict, ...]:
    with_ = Circumstances(
        manifests={"bones": BONES, "lesions": LESIONS},
        now=NOON + timedelta(seconds=seconds),
        **more,  # type: ignore[arg-type]
    )
    planned = replace(
        make_workitem(1),
        pipeline="bones",
        inputs=(WorkitemInput(role="ct", series_instance_uid="1.2.3.1", sop_instance_uids=()),),
    )
    return explain(rules, held, [planned], with_)


def test_each_series_says_what_it_lacks_and_the_rule_what_ran() -> None:
    (rule,) = explained(RULE)
    assert (rule.code, rule.to_change, rule.workitems) == ("runs", (), ("1.9.1",))
    assert {one.series_instance_uid: (one.code, len(one.to_change)) for one in rule.series} == {
        "1.2.3.1": ("runs", 0),
        "1.2.3.2": ("unfit", 1),
        "1.2.3.3": ("unfit", 3),
    }
    thick = next(one for one in rule.series if one.series_instance_uid == "1.2.3.2")
    assert thick.to_change == ("`SliceThickness <= 3` would have to hold (seen: 5.0)",)


def test_a_rule_that_runs_nowhere_names_the_fewest_changes() -> None:
    (rule,) = explained(RULE, held=(SCOUT, THICK))
    assert (rule.code, rule.workitems) == ("unfit", ())
    assert rule.to_change == ("`SliceThickness <= 3` would have to hold (seen: 5.0)",)


def test_one_that_is_preferred_over_says_which_wish_decided() -> None:
    (rule,) = explained(replace(RULE, where=("Modality = CT",)))
    thick = next(one for one in rule.series if one.series_instance_uid == "1.2.3.2")
    assert thick.code == "outranked"
    (change,) = thick.to_change
    assert change.startswith(
        "`prefer most slices` would have to hold (seen: 60; series …1.2.3.1 has 100)"
    )
    assert "`each`" in change


def test_rules_that_are_off_come_last_and_say_so() -> None:
    urgent = replace(RULE, name="urgent", priority=90)
    off = replace(RULE, name="off", enabled=False, priority=100)
    on, plain, switched_off = explained(off, RULE, urgent)
    assert [one.rule for one in (on, plain, switched_off)] == ["urgent", "skeleton", "off"]
    assert (switched_off.code, switched_off.enabled) == ("runs", False)
    assert switched_off.to_change == ("`osteonode rules enable off`",)


def test_a_wait_says_until_when_and_for_what() -> None:
    ct = series("ct", FrameOfReferenceUID=("1.9",))
    (rule,) = explained(PAIR, held=(ct,))
    assert (rule.code, rule.waits_for) == ("waits", ("spect",))
    assert rule.waits_until == NOON + timedelta(seconds=600)
    assert rule.to_change == (
        "a series that fits as spect would have to come; after 10m it is held",
    )
    (held,) = explained(PAIR, held=(ct,), seconds=600)
    assert (held.code, held.waits_until) == ("held", None)
    assert held.to_change == (
        "a series that fits as spect would have to come, or the rule to allow a run `--without spect`",
    )


def test_slices_that_are_missing_are_waited_for_and_told() -> None:
    lacks = {"1.2.3.1": VerdictReason(code="slices-missing", sentence="Two are missing.")}
    (rule,) = explained(RULE, lacking=lacks)
    assert (rule.code, rule.waits_for) == ("waits", ())
    assert rule.to_change == (
        "the slices that are missing would have to come; after 30m it is held",
    )
    (late,) = explained(RULE, lacking=lacks, seconds=1800)
    assert late.code == "held"
    assert "--incomplete run" in late.to_change[0]
    (forced,) = explained(RULE, lacking=lacks, forced=True)
    assert forced.code == "runs"


def test_of_several_inputs_the_nearest_counts() -> None:
    ct = series("ct", slices=5, ConvolutionKernel=("Bl57",))
    (rule,) = explained(replace(PAIR, roles={}), held=(ct,))
    (one,) = rule.series
    assert (one.role, one.to_change) == (
        "ct",
        ("`ct takes instances >= 20` would have to hold (seen: 5)",),
    )


def test_no_series_and_no_pipeline() -> None:
    (empty,) = explained(RULE, held=())
    assert (empty.code, empty.to_change) == ("unfit", ("a series would have to come",))
    (gone,) = explained(replace(RULE, pipeline="nose"))
    assert (gone.code, gone.to_change) == (
        "not-installed",
        ("pipeline nose would have to be installed",),
    )


def test_it_fits_eighty_columns() -> None:
    long = replace(THICK, header={**THICK.header, "SeriesDescription": ("very " * 15,)})
    held = (THIN, long, SCOUT)
    rules = explained(RULE, PAIR, replace(RULE, name="off", enabled=False), held=held)
    workitem = replace(make_workitem(1), pipeline="bones")
    answer = Answer(study=STUDY, series=held, rules=rules, workitems=(workitem,))
    out = io.StringIO()
    console = Console(file=out, width=80, markup=False, highlight=False)
    for part in render(answer):
        console.print(part)
    text = out.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    for said in (
        "162 instances in 3 series, evaluated as they are",
        "✓ skeleton → bones",
        "runs on 1 of 3 series (version 1, priority 50)",
        "✗ SliceThickness <= 3",
        "Workitem 1.9.1 SCHEDULED",
        "○ off → bones",
        "off; if it were on, it runs on 1 of 3 series",
        "→ `osteonode rules enable off`",
        "waits for spect until",
    ):
        assert said in text
    assert "P4711" not in text


def test_a_header_cannot_command_the_terminal() -> None:
    evil = replace(THIN, header={**THIN.header, "SeriesDescription": ("Bone\x1b[2J",)})
    rules = explained(RULE, held=(evil,))
    out = io.StringIO()
    console = Console(file=out, width=80, markup=False, highlight=False, force_terminal=False)
    for part in render(
        Answer(study=STUDY, series=(evil,), rules=rules, workitems=(replace(make_workitem(1)),))
    ):
        console.print(part)
    assert "\x1b" not in out.getvalue()
