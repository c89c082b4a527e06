"""Rules, destinations, pipelines, measurements and events, on both databases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
from rows import (
    STUDY,
    later,
    make_completion,
    make_measurement,
    make_workitem,
    run_at_once,
    schedule,
)
from sqlalchemy import text

from storage.errors import ChangeRefused, NotFound
from storage.index import (
    Index,
    destinations,
    events,
    measurements,
    open_index,
    pipelines,
    rules,
    workitems,
)
from storage.model import Destination, Event, PipelineSeen, Rule

PACS = Destination(name="PACS", host="10.0.0.1", port=104, called_ae="PACS", calling_ae="NODE")
ARCHIVE = Destination(name="ARCHIVE", host="archive", port=11112, called_ae="ARC")
RULE = Rule(
    name="bones",
    pipeline="ct_skeleton",
    where=("Modality = CT", r"SeriesDescription ~ (?i)bone|böne"),
    destinations=("PACS",),
    priority=70,
    parameters={"threshold": 0.5, "fast": True, "mode": "fine", "steps": 3},
    prefer=("ConvolutionKernel ~ (?i)^b", "most slices"),
    each=True,
)


@pytest.fixture
def with_pacs(index: Index) -> Index:
    destinations.add(index, PACS, actor="anna", now=later(0))
    return index


# -- destinations ---------------------------------------------------------------------------------


def test_destinations_are_kept_by_name(index: Index) -> None:
    destinations.add(index, PACS, actor="anna", now=later(0))
    destinations.add(index, ARCHIVE, actor="anna", now=later(1))
    assert destinations.get(index, "PACS") == PACS
    assert destinations.list_destinations(index) == (ARCHIVE, PACS)
    with pytest.raises(ChangeRefused, match="PACS already"):
        destinations.add(index, replace(PACS, port=105), actor="anna")
    destinations.remove(index, "PACS", actor="ben", now=later(2))
    with pytest.raises(NotFound, match="No destination PACS"):
        destinations.get(index, "PACS")
    with pytest.raises(NotFound, match="No destination PACS"):
        destinations.remove(index, "PACS", actor="ben")
    assert [(e.kind, e.actor, e.at, e.detail["name"]) for e in events.list_events(index)] == [
        ("destination-added", "anna", later(0), "PACS"),
        ("destination-added", "anna", later(1), "ARCHIVE"),
        ("destination-removed", "ben", later(2), "PACS"),
    ]


def test_a_destination_that_a_rule_names_stays(with_pacs: Index) -> None:
    rules.add(with_pacs, RULE, actor="anna")
    with pytest.raises(ChangeRefused, match="bones"):
        destinations.remove(with_pacs, "PACS", actor="anna")
    rules.remove(with_pacs, "bones", actor="anna")
    destinations.remove(with_pacs, "PACS", actor="anna")


def test_a_rule_added_while_its_destination_goes(index: Index) -> None:
    """Whichever is first: never a rule that names nothing."""
    for _ in range(10):
        destinations.add(index, PACS, actor="anna")

        def attempt(change: partial[object]) -> bool:
            try:
                change()
            except (ChangeRefused, NotFound):
                return False
            return True

        added, removed = run_at_once(
            [
                partial(attempt, partial(rules.add, index, RULE, actor="anna")),
                partial(attempt, partial(destinations.remove, index, "PACS", actor="ben")),
            ]
        )
        assert added != removed
        if added:
            rules.remove(index, "bones", actor="anna")
            destinations.remove(index, "PACS", actor="anna")


# -- rules ----------------------------------------------------------------------------------------


def test_every_change_of_a_rule_is_a_version(with_pacs: Index) -> None:
    index = with_pacs
    assert rules.add(index, RULE, actor="anna", now=later(1)) == RULE
    edited = replace(RULE, priority=10, where=("Modality = CT",))
    assert rules.edit(index, edited, actor="ben", now=later(2)) == replace(edited, version=2)
    off = rules.disable(index, "bones", actor="anna", now=later(3))
    assert off == replace(edited, version=3, enabled=False)
    # Nothing changes, no version.
    assert rules.disable(index, "bones", actor="anna", now=later(4)) == off
    on = rules.enable(index, "bones", actor="anna", now=later(5))
    assert on == replace(edited, version=4)
    assert rules.get(index, "bones") == on
    rules.remove(index, "bones", actor="anna", now=later(6))
    assert rules.list_rules(index) == ()
    again = rules.add(index, RULE, actor="anna", now=later(7))
    assert again.version == 6

    history = rules.history(index, "bones")
    assert [(c.version, c.action, c.actor, c.changed_at) for c in history] == [
        (1, "added", "anna", later(1)),
        (2, "edited", "ben", later(2)),
        (3, "disabled", "anna", later(3)),
        (4, "enabled", "anna", later(5)),
        (5, "removed", "anna", later(6)),
        (6, "added", "anna", later(7)),
    ]
    assert [c.rule for c in history] == [RULE, replace(edited, version=2), off, on, None, again]
    logged = [(e.kind, e.detail["version"]) for e in events.list_events(index)[1:]]
    assert logged == [(f"rule-{c.action}", c.version) for c in history]


def test_a_rule_goes_back_to_an_earlier_version(with_pacs: Index) -> None:
    rules.add(with_pacs, RULE, actor="anna", now=later(0))
    rules.edit(
        with_pacs, replace(RULE, where=("Modality = CT",), prefer=("most slices",)), actor="ben"
    )
    back = rules.restore(with_pacs, "bones", 1, actor="anna", now=later(2))
    assert back == replace(RULE, version=3) == rules.get(with_pacs, "bones")
    # So already: nothing happens twice.
    assert rules.restore(with_pacs, "bones", 1, actor="anna") == back
    rules.remove(with_pacs, "bones", actor="ben")
    again = rules.restore(with_pacs, "bones", 2, actor="anna", now=later(4))
    assert (again.version, again.prefer) == (5, ("most slices",))
    assert [one.action for one in rules.history(with_pacs, "bones")] == [
        "added",
        "edited",
        "rolled-back",
        "removed",
        "rolled-back",
    ]
    with pytest.raises(ChangeRefused, match="Version 4 of rule bones is its removal"):
        rules.restore(with_pacs, "bones", 4, actor="anna")
    with pytest.raises(NotFound, match="No version 9"):
        rules.restore(with_pacs, "bones", 9, actor="anna")
    rules.remove(with_pacs, "bones", actor="ben")
    destinations.remove(with_pacs, "PACS", actor="ben")
    with pytest.raises(NotFound, match="No destination PACS"):
        rules.restore(with_pacs, "bones", 1, actor="anna")


def test_rules_are_listed_by_priority(with_pacs: Index) -> None:
    for name, priority in (("b", 50), ("a", 50), ("c", 90)):
        rules.add(with_pacs, replace(RULE, name=name, priority=priority), actor="anna")
    assert [rule.name for rule in rules.list_rules(with_pacs)] == ["c", "a", "b"]


def test_what_a_rule_cannot_be(with_pacs: Index) -> None:
    index = with_pacs
    rules.add(index, RULE, actor="anna")
    with pytest.raises(ChangeRefused, match="bones already"):
        rules.add(index, RULE, actor="anna")
    with pytest.raises(NotFound, match="No destination NOWHERE"):
        rules.edit(index, replace(RULE, destinations=("PACS", "NOWHERE")), actor="anna")
    with pytest.raises(NotFound, match="No destination NOWHERE"):
        rules.add(index, replace(RULE, name="x", destinations=("NOWHERE",)), actor="anna")
    assert rules.list_rules(index) == (RULE,)
    assert len(rules.history(index, "bones")) == 1


@pytest.mark.parametrize(
    "change",
    [
        partial(rules.edit, rule=replace(RULE, name="none"), actor="anna"),
        partial(rules.remove, name="none", actor="anna"),
        partial(rules.enable, name="none", actor="anna"),
        partial(rules.disable, name="none", actor="anna"),
        partial(rules.get, name="none"),
        partial(rules.history, name="none"),
    ],
)
def test_an_unknown_rule_is_not_found(index: Index, change: partial[object]) -> None:
    with pytest.raises(NotFound, match="No rule none"):
        change(index)


def test_edits_at_once_are_versions_each(with_pacs: Index) -> None:
    rules.add(with_pacs, RULE, actor="anna")
    edits = [replace(RULE, priority=n) for n in range(8)]
    run_at_once([partial(rules.edit, with_pacs, rule, actor="anna") for rule in edits])
    history = rules.history(with_pacs, "bones")
    assert [change.version for change in history] == list(range(1, 10))
    assert rules.get(with_pacs, "bones") == history[-1].rule


# -- pipelines ------------------------------------------------------------------------------------


def test_a_pipeline_is_new_once_per_version_and_weights(index: Index) -> None:
    first = PipelineSeen(
        name="ct_skeleton",
        version="1.0.0",
        device_uid="2.25.1",
        weights_sha256="a" * 64,
        first_seen_at=later(1),
    )
    retrained = replace(first, device_uid="2.25.2", weights_sha256="b" * 64, first_seen_at=later(2))
    assert pipelines.saw(index, first)
    assert not pipelines.saw(index, replace(first, first_seen_at=later(9)))
    assert pipelines.saw(index, retrained)
    assert pipelines.list_pipelines(index) == (first, retrained)


# -- measurements ---------------------------------------------------------------------------------


def test_measurements_are_found_by_what_they_are(index: Index) -> None:
    volume = make_measurement(make_workitem(1), 12.5)
    whole = replace(
        make_measurement(make_workitem(1), -3.0, concept=("112031", "Attenuation Coefficient")),
        segment_number=None,
        measured_at=later(50),
    )
    other = replace(
        make_measurement(make_workitem(2), 7.0), pipeline="mr_spine", measured_at=later(90)
    )
    schedule(index, make_workitem(1), make_workitem(2))
    for found in ((volume, whole), (other,)):
        claimed = workitems.claim(index, owner="node-1", now=later(1), lease_s=60)
        assert claimed is not None
        assert workitems.complete(
            index, replace(make_completion(claimed), evidence=(), measurements=found)
        )
    find = partial(measurements.list_measurements, index)
    assert find() == (other, volume, whole)
    assert find(limit=1) == (other,)
    assert find(pipeline="mr_spine") == (other,)
    assert find(workitem="1.9.1") == (volume, whole)
    assert find(study=STUDY, concept="118565006") == (other, volume)
    assert find(concept="Attenuation Coefficient") == (whole,)
    assert find(study="1.2.3") == ()
    assert find(since=later(90)) == (other,)
    assert find(until=later(90)) == (volume, whole)


# -- events ---------------------------------------------------------------------------------------


def test_events_are_found_by_study_time_actor_and_kind(index: Index) -> None:
    lines = [
        Event(kind="association", actor="CT1", at=later(1), study_instance_uid=STUDY),
        Event(kind="association", actor="CT2", at=later(2), workitem_uid="1.9.1"),
        Event(
            kind="login",
            actor="anna",
            at=later(3),
            outcome="failure",
            detail={"tries": 3, "seconds": 1.5, "why": "password", "none": None},
        ),
    ]
    numbers = [events.add(index, line) for line in lines]
    first, second, third = (
        replace(line, event_id=n) for line, n in zip(lines, numbers, strict=True)
    )
    find = partial(events.list_events, index)
    assert find() == (first, second, third)
    # The last ones, oldest first.
    assert find(limit=2) == (second, third)
    assert find(study=STUDY) == (first,)
    assert find(workitem="1.9.1") == (second,)
    assert find(actor="anna") == find(kind="login") == (third,)
    assert find(since=later(2)) == (second, third)
    assert find(until=later(2)) == (first,)
    assert find(kind="association", actor="CT2", since=later(1)) == (second,)


@pytest.mark.peer("postgresql")
def test_a_commit_is_durable_whatever_the_server_is_set_to(
    postgresql_server: Callable[[str], str], postgresql_template: str
) -> None:
    # The server of the tests is set to `off`.
    with open_index(postgresql_server(postgresql_template)) as index, index.read() as connection:
        assert connection.scalar(text("SHOW synchronous_commit")) == "on"
