"""`osteonode workitems raise`, `hold`, `release`, `cancel`, `retry` and the queue of `list`, in this process."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from rows import make_completion, make_workitem, schedule

from migrations.commands import upgrade
from node.cli import main
from storage.index import Index, destinations, events, open_index, rules, workitems
from storage.model import Destination, Event, WorkitemState, utcnow

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    """Three that wait since a minute, most urgent last, on a node of one worker."""
    url = f"sqlite:///{tmp_path / 'data' / 'index.sqlite'}"
    (tmp_path / "data").mkdir()
    upgrade(url)
    with open_index(url) as opened:
        start = Event(kind="node-started", actor="a:1", at=utcnow(), detail={"workers": 1})
        events.add(opened, start)
        planned = [make_workitem(n, priority=10 * n, at=utcnow()) for n in (1, 2, 3)]
        schedule(opened, planned[0], planned[1], replace(planned[2], pipeline="qct_femur"))
        yield opened


@pytest.fixture
def run(index: Index, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command as the console script does; exit code and what it said."""
    config = tmp_path / "config.toml"
    config.write_text('[node]\ndata = "data"\n')

    def call(*arguments: str) -> tuple[int, str]:
        capsys.readouterr()
        group = () if arguments[0] in ("studies", "audit", "rules") else ("workitems",)
        with pytest.raises(SystemExit) as ended:
            main(["--config", str(config), *group, *arguments])
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out + said.err

    return call


def places(run: Run) -> dict[str, Any]:
    listed = json.loads(run("list", "--state", "scheduled", "--json")[1])
    return {one["workitem_uid"]: one["place"] for one in listed}


def test_the_list_is_the_queue(run: Run, index: Index) -> None:
    assert places(run) == {"1.9.3": 1, "1.9.2": 2, "1.9.1": 3}
    listed = json.loads(run("list", "--json")[1])
    # No run was measured yet: only of the first can be said when it starts.
    assert [one["starts"] is not None for one in listed if one["place"] == 1] == [True]
    assert [one["starts"] for one in listed if one["place"] != 1] == [None, None]
    assert [one["workitem_uid"] for one in json.loads(run("list", "--after", "1.9.2", "--json")[1])]
    assert "qct_femur" not in run("list", "--pipeline", "ct_skeleton")[1]


def test_estimates_come_from_measured_runs(run: Run, index: Index) -> None:
    assert workitems.claim(index, owner="a", now=utcnow(), lease_s=60) is not None
    first = workitems.claim(index, owner="a", now=utcnow(), lease_s=60)
    assert first is not None
    assert workitems.complete(
        index, replace(make_completion(first, owner="a"), timings={"infer": 90.0})
    )
    listed = json.loads(run("list", "--state", "scheduled", "--json")[1])
    # The one under way takes as long as that did, for its own pipeline was never measured.
    (starts,) = (datetime.fromisoformat(one["starts"]) for one in listed)
    assert timedelta(seconds=80) < starts - utcnow() <= timedelta(seconds=90)


def test_raise(run: Run, index: Index) -> None:
    assert run("raise", "1.9.1", "--to", "25") == (0, "Workitem 1.9.1 has priority 25.\n")
    assert list(places(run)) == ["1.9.3", "1.9.1", "1.9.2"]
    assert run("raise", "1.9.2", "1.9.1")[0] == 0
    assert list(places(run)) == ["1.9.2", "1.9.1", "1.9.3"]
    shown = run("show", "1.9.1")[1]
    assert "Set from 10 to 25 by cli:" in shown
    assert run("raise", "1.9.1", "--to", "2", "--first")[0] == 2


def test_hold_and_release(run: Run, index: Index) -> None:
    code, said = run("hold", "--all", "--pipeline", "ct_skeleton", "--reason", "recalibrated")
    assert (code, said.count("is held")) == (0, 2)
    assert places(run) == {"1.9.3": 1, "1.9.2": "held", "1.9.1": "held"}
    assert "recalibrated" in run("show", "1.9.1")[1]
    assert "recalibrated" in run("list")[1]
    # One refusal keeps no other from being done.
    code, said = run("hold", "1.9.1", "1.9.3")
    assert (code, "1.9.1 is held already" in said, "1.9.3 is held" in said) == (1, True, True)
    assert run("release", "--all")[1].count("is released") == 3
    assert run("release", "--all") == (0, "There is no such workitem.\n")
    assert run("release", "1.9.1")[0] == 1


def test_cancel_and_retry_several(run: Run, index: Index) -> None:
    assert workitems.claim(index, owner="a", now=utcnow(), lease_s=60) is not None
    assert run("cancel", "--all")[1].count("is cancelled") == 3
    found = workitems.list_workitems(index, state=WorkitemState.CANCELED)
    assert len(found) == 3
    assert run("retry", "1.9.1", "1.9.2")[0] == 0
    assert len(places(run)) == 2
    kinds = [one.kind for one in events.list_events(index, workitem="1.9.1")]
    assert kinds == ["workitem-canceled", "workitem-retried"]


@pytest.mark.parametrize(
    "arguments",
    [("cancel",), ("cancel", "1.9.1", "--all"), ("hold", "1.9.1", "--pipeline", "qct_femur")],
)
def test_what_is_meant_must_be_said(run: Run, index: Index, arguments: tuple[str, ...]) -> None:
    code, said = run(*arguments)
    assert (code, "--all" in said) == (2, True)
    assert events.list_events(index, workitem="1.9.1") == ()


def test_an_unknown_one_changes_nothing(run: Run, index: Index) -> None:
    code, said = run("cancel", "1.9.1", "7.7")
    assert (code, "no workitem '7.7'" in said) == (1, True)
    assert workitems.get(index, "1.9.1").state is WorkitemState.SCHEDULED


def test_pages_of_studies_and_of_the_log(run: Run, index: Index) -> None:
    schedule(index, study="1.5.77")
    (first,) = json.loads(run("studies", "list", "--limit", "1", "--json")[1])
    (second,) = json.loads(
        run("studies", "list", "--after", first["study_instance_uid"][-5:], "--json")[1]
    )
    assert first["study_instance_uid"] != second["study_instance_uid"]
    lines = json.loads(run("audit", "list", "--json")[1])
    last = str(lines[-1]["event_id"])
    assert json.loads(run("audit", "list", "--before", last, "--json")[1]) == lines[:-1]


def test_a_rule_has_a_window(run: Run, index: Index) -> None:
    peer = Destination(name="PACS", host="h", port=1, called_ae="PACS")
    destinations.add(index, peer, actor="test")
    add = ("rules", "add", "night", "--pipeline", "ct_skeleton", "--to", "PACS", "--yes")
    where = ("--where", "Modality = CT")
    code, said = run(*add, *where, "--window", "at night")
    assert (code, "'night': 'at night' is no time window" in said) == (2, True)
    assert run(*add, *where, "--window", "20:00-06:00, stat")[0] == 0
    assert rules.get(index, "night").window == "20:00-06:00, stat"
    assert "window = '20:00-06:00, stat'" in run("rules", "export")[1]
    assert run("rules", "edit", "night", "--window", "none", "--yes")[0] == 0
    assert [one.rule and one.rule.window for one in rules.history(index, "night")] == [
        "20:00-06:00, stat",
        "",
    ]
