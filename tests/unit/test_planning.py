"""A rule and its inputs -> a workitem: priority with reasons, window, and what happens when that closes."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from nodes import PIPELINES
from rows import AXIAL, NOON, STUDY, later, make_instance, make_workitem, schedule

from node.config import Config
from node.planning import Planner, merge, shut_windows
from pipelines.registry import find_pipelines
from storage.index import Index, instances, studies, workitems
from storage.model import Header, Rule, Workitem

NIGHT = "20:00-06:00"
BERLIN = ZoneInfo("Europe/Berlin")
#: 20:00 in Berlin on the day of `NOON`, in winter.
OPENS = NOON + timedelta(hours=7)
RULE = Rule(
    name="bones", pipeline="threshold_bone", where=("Modality = CT",), destinations=("PACS",)
)


def plan(index: Index, folder: Path, rule: Rule, header: Header | None = None) -> Workitem:
    config = Config.model_validate(
        {
            "node": {"data": folder, "timezone": "Europe/Berlin"},
            "routing": {"priorities": {"CT1": 7}},
        }
    )
    registry = find_pipelines((PIPELINES,))
    instances.add(index, make_instance(1, header={**AXIAL, **(header or {})}))
    (series,) = studies.series_of(index, STUDY)
    planner = Planner(config=config, index=index, registry=registry)
    return planner.plan(studies.get(index, STUDY), rule, {"ct": series}, NOON)


def test_a_workitem_says_why_it_has_its_priority(index: Index, tmp_path: Path) -> None:
    planned = plan(index, tmp_path, RULE, {"RequestedProcedurePriority": ("STAT",)})
    assert planned.priority == 157
    assert [reason.partition(" ")[0] for reason in planned.priority_reasons] == [
        "Rule",
        "Requested",
        "Sender",
    ]
    schedule(index, planned)
    assert workitems.get(index, planned.workitem_uid) == planned


def test_a_window_says_when(index: Index, tmp_path: Path) -> None:
    planned = plan(index, tmp_path, replace(RULE, window=NIGHT))
    assert (planned.window, planned.not_before) == (NIGHT, OPENS)
    schedule(index, planned)
    assert workitems.get(index, planned.workitem_uid) == planned


@pytest.mark.parametrize(("window", "waits"), [(NIGHT, True), (f"{NIGHT}, stat", False)])
def test_a_stat_study_waits_unless_the_rule_lets_it(
    index: Index, tmp_path: Path, window: str, waits: bool
) -> None:
    header: Header = {"RequestedProcedurePriority": ("STAT",)}
    planned = plan(index, tmp_path, replace(RULE, window=window), header)
    assert (planned.window is not None, planned.not_before is not None) == (waits, waits)
    assert plan(index, tmp_path, replace(RULE, window=f"{NIGHT}, stat")).window is None


def test_two_rules_with_one_run() -> None:
    first = replace(make_workitem(1), window=NIGHT, not_before=OPENS, priority_reasons=("a",))
    second = replace(first, window="12:00-13:00", not_before=later(60), priority=60)
    second = replace(second, priority_reasons=("b",), destinations=("OLD",))
    both = merge(first, second)
    assert (both.window, both.not_before) == (f"{NIGHT}, 12:00-13:00", later(60))
    assert (both.priority, both.priority_reasons) == (60, ("b",))
    assert both.destinations == ("PACS", "OLD")
    # One of them may start at any time.
    free = merge(first, make_workitem(1))
    assert (free.window, free.not_before) == (None, None)


def test_what_did_not_start_in_its_window_waits_for_the_next(index: Index) -> None:
    """It was planned at night, and its turn did not come before the morning."""
    schedule(index, replace(make_workitem(1), window=NIGHT), make_workitem(2))
    morning = NOON + timedelta(days=1)
    assert shut_windows(index, now=OPENS, zone=BERLIN) == ()
    assert shut_windows(index, now=morning, zone=BERLIN) == (NIGHT,)
    assert workitems.get(index, "1.9.1").not_before == OPENS + timedelta(days=1)
    assert workitems.get(index, "1.9.2").not_before is None
    assert shut_windows(index, now=morning, zone=BERLIN) == ()
    taken = workitems.claim(index, owner="a", now=OPENS + timedelta(days=1), lease_s=60)
    assert taken is not None
