"""`osteonode destinations` and `osteonode deliveries`: commitment, pauses, windows, and what they show."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from nodes import free_port
from rows import complete, make_workitem

from migrations.commands import upgrade
from node.cli import main
from storage.index import Index, commitments, deliveries, destinations, events, open_index
from storage.model import DeliveryState, utcnow

ADD = ("destinations", "add", "PACS", "--host", "127.0.0.1", "--port", 104, "--called", "PACS")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a command said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Answer]


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    (tmp_path / "data").mkdir()
    url = f"sqlite:///{tmp_path / 'data' / 'index.sqlite'}"
    upgrade(url)
    with open_index(url) as opened:
        yield opened


@pytest.fixture
def run(index: Index, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    config = tmp_path / "config.toml"
    config.write_text(f'[node]\nport = {free_port()}\ndata = "{tmp_path / "data"}"\n')

    def call(*arguments: object) -> Answer:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(["--config", str(config), *map(str, arguments)])
        said = capsys.readouterr()
        return Answer(code=int(ended.value.code or 0), out=said.out, err=said.err)

    return call


def sent(index: Index) -> None:
    for one in deliveries.list_deliveries(index):
        deliveries.settle(
            index,
            delivery_id=one.delivery_id,
            state=DeliveryState.SENT,
            status=0,
            message="0x0000 Success",
            next_attempt_at=None,
            now=utcnow(),
        )


def test_a_destination_is_edited(run: Run, index: Index) -> None:
    assert run(*ADD, "--commit").code == 0
    assert run("destinations", "list", "--json").json[0]["commitment"] is True
    edit = ("destinations", "edit", "PACS")
    assert run(*edit, "--no-commit", "--host", "h", "--calling", "US").code == 0
    changed = destinations.get(index, "PACS")
    assert (changed.commitment, changed.host, changed.calling_ae) == (False, "h", "US")
    assert run(*edit, "--calling", "").code == 0
    assert destinations.get(index, "PACS").calling_ae is None
    assert run(*edit).code == 2
    assert run("destinations", "edit", "NONE", "--commit").code == 1
    told = events.list_events(index, kind="destination-changed")
    detail = {"name": "PACS", "host": "h", "calling_ae": "US", "commitment": False}
    assert detail in [one.detail for one in told]


def test_what_a_destination_commits_itself_to_is_shown(run: Run, index: Index) -> None:
    run(*ADD, "--commit")
    complete(index, make_workitem(1))
    sent(index)
    assert {one["to_commit"] for one in run("deliveries", "list", "--json").json} == {True}
    assert "waits" in run("deliveries", "list").out
    commitments.open_due(index, now=utcnow(), deadline_s=60, new_uid=lambda: "2.25.7")
    assert "asked" in run("deliveries", "list").out
    seg, sr = deliveries.list_deliveries(index)
    commitments.settle(
        index,
        "2.25.7",
        committed={seg.evidence.sop_instance_uid},
        failed={sr.evidence.sop_instance_uid: 0x0112},
        source="storage commitment",
        now=utcnow(),
    )
    listed = run("deliveries", "list").out
    assert "COMMITTED" in listed
    assert "0x0112" in listed
    shown = run("deliveries", "show", sr.delivery_id).out
    assert "2.25.7" in shown
    assert "SETTLED" in shown
    assert "no such object instance" in shown
    assert run("deliveries", "show", sr.delivery_id, "--json").json["failure_reason"] == 0x0112
    assert run("deliveries", "show", 999).code == 1


def test_a_paused_destination_owes_and_is_sent_nothing(run: Run, index: Index) -> None:
    run(*ADD)
    complete(index, make_workitem(1))
    assert "is paused;" in run("destinations", "pause", "PACS").out
    assert "already" in run("destinations", "pause", "PACS").out
    assert run("deliveries", "retry", "--all").code == 0
    now = utcnow()
    assert deliveries.due_destinations(index, now) == ()
    assert deliveries.claim_due(index, owner="a", now=now, lease_s=60) == ()
    assert {one.state for one in deliveries.list_deliveries(index)} == {DeliveryState.PENDING}
    assert run("destinations", "resume", "PACS").code == 0
    assert "not paused" in run("destinations", "resume", "PACS").out
    assert deliveries.due_destinations(index, now) == ("PACS",)
    assert run("destinations", "pause", "NONE").code == 1
    kinds = {one.kind for one in events.list_events(index)}
    assert {"destination-paused", "destination-resumed"} <= kinds


def test_a_window_is_checked(run: Run, index: Index) -> None:
    run(*ADD, "--window", "20:00-06:00")
    assert destinations.get(index, "PACS").window == "20:00-06:00"
    assert run("destinations", "edit", "PACS", "--window", "").code == 0
    assert destinations.get(index, "PACS").window == ""
    assert "no time window" in run("destinations", "edit", "PACS", "--window", "soon").err
    assert run("destinations", "edit", "PACS", "--window", "20:00-06:00, stat").code == 2
