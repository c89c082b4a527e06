"""Studies under way, by a clock that tests set: what is kept of a look, who is waited for, holds and releases."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nodes import PIPELINES

from node import lifecycle, looking
from node.config import Config
from node.lifecycle import Parts
from pipelines.evidence.request import Installation
from pipelines.registry import find_pipelines
from storage.archive import Archive
from storage.errors import NotFound
from storage.index import (
    Index,
    destinations,
    events,
    instances,
    rules,
    studies,
    wholeness,
    workitems,
)
from storage.model import (
    Asked,
    Confidence,
    Decision,
    Destination,
    Event,
    Instance,
    Rule,
    Study,
    Workitem,
)

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
STUDY = "1.2.3"


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def never(*args: object) -> None:
    raise AssertionError("nothing is performed or sent here")


@pytest.fixture
def parts(index: Index, tmp_path: Path) -> Parts:
    """Quiet is 60 s, 5 s after a release, 2 s where counts agree."""
    made = Parts(
        config=Config.model_validate({"node": {"data": tmp_path}}),
        index=index,
        archive=Archive(str(tmp_path / "archive")),
        registry=find_pipelines([PIPELINES]),
        owner="node",
        installation=Installation(
            institution="", serial_number="1", uid_root="2.25", software_version="0"
        ),
        perform=never,  # type: ignore[arg-type]
        cancel=never,
        send=never,  # type: ignore[arg-type]
    )
    destinations.add(
        index, Destination(name="PACS", host="h", port=1, called_ae="PACS"), actor="test"
    )
    rule = Rule(
        name="bone",
        pipeline="threshold_bone",
        where=("Modality = CT", "ImageType != LOCALIZER"),
        destinations=("PACS",),
        wait_s=600,
    )
    rules.add(index, rule, actor="test")
    return made


def receive(
    parts: Parts,
    *slices: int,
    start: float = 0,
    every: float = 0.1,
    study: str = STUDY,
    scout: bool = False,
) -> float:
    """These slices, 2 mm apart, one after the other; when the last of them came."""
    series = f"{study}.{2 if scout else 1}"
    for n, place in enumerate(slices):
        uid = f"{series}.{place}"
        instances.add(
            parts.index,
            Instance(
                sop_instance_uid=uid,
                sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
                series_instance_uid=series,
                study_instance_uid=study,
                transfer_syntax_uid="1.2.840.10008.1.2.1",
                archive_key="a/b/c.dcm",
                size=5,
                digest=uid,
                calling_ae="CT1",
                called_ae="OSTEONODE",
                received_at=at(start + n * every),
                header={
                    "Modality": ("CT",),
                    "ImageType": ("ORIGINAL", "PRIMARY", "LOCALIZER" if scout else "AXIAL"),
                    "FrameOfReferenceUID": ("1.9",),
                    "ImageOrientationPatient": (1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
                    "ImagePositionPatient": (0.0, 0.0, 2.0 * place),
                },
            ),
        )
    return start + (len(slices) - 1) * every


def end(parts: Parts, seconds: float, *, released: bool = True, study: str = STUDY) -> None:
    """An association that brought some of the study ends."""
    wholeness.end_association(
        parts.index, lines=(), studies=[study], at=at(seconds), released=released
    )


def evaluate(parts: Parts, seconds: float) -> float | None:
    """Look at everything; in how many seconds after noon again."""
    again = lifecycle.evaluate(parts, now=at(seconds))
    return None if again is None else (again - START).total_seconds()


def scheduled(parts: Parts) -> tuple[Workitem, ...]:
    return workitems.list_workitems(parts.index)


def known(parts: Parts) -> Study:
    return studies.get(parts.index, STUDY)


def decided(parts: Parts) -> list[Decision]:
    return [d for d in studies.decisions(parts.index, STUDY) if d.rule == "bone"]


def edit_rule(parts: Parts, **changes: object) -> None:
    old = rules.get(parts.index, "bone")
    rules.edit(parts.index, replace(old, **changes), actor="test", now=START)  # type: ignore[arg-type]


# -- when -----------------------------------------------------------------------------------------


def test_a_study_that_is_plainly_whole_starts_after_a_few_seconds(parts: Parts) -> None:
    last = receive(parts, *range(20))
    end(parts, 2)
    assert evaluate(parts, 3) == pytest.approx(last + 2)  # earlier nobody looks
    assert evaluate(parts, last + 2) == pytest.approx(last + 5)
    assert scheduled(parts) == ()
    assert evaluate(parts, last + 5) is None
    assert len(scheduled(parts)) == 1
    verdict = known(parts).verdict
    assert verdict is not None
    assert (verdict.whole, verdict.confidence) == (True, Confidence.LIKELY)


def test_a_study_of_which_nothing_is_known_waits_for_the_quiet_time(parts: Parts) -> None:
    last = receive(parts, *range(20))
    assert evaluate(parts, 10) == pytest.approx(last + 60)
    evaluate(parts, last + 60)
    assert len(scheduled(parts)) == 1


def test_one_slice_every_3_s_in_an_association_each(parts: Parts) -> None:
    for place in range(30):
        receive(parts, place, start=3.0 * place)
        end(parts, 3.0 * place + 0.1)
        for second in (1, 2):
            evaluate(parts, 3.0 * place + second)
    assert scheduled(parts) == ()
    assert evaluate(parts, 100) == 87 + 60
    assert known(parts).pace_s == 3.0
    evaluate(parts, 147)
    assert [len(one.inputs[0].sop_instance_uids) for one in scheduled(parts)] == [30]


def test_one_slice_every_3_s_in_one_association(parts: Parts) -> None:
    receive(parts, *range(30), every=3.0)
    for second in range(3, 87, 3):
        evaluate(parts, second)
    end(parts, 87.1)
    assert evaluate(parts, 90) == 87 + 3 * 3
    evaluate(parts, 96)
    assert len(scheduled(parts)) == 1


def test_an_abort_in_the_middle_is_no_end(parts: Parts) -> None:
    receive(parts, *range(10))
    end(parts, 1, released=False)
    assert evaluate(parts, 10) == pytest.approx(0.9 + 60)
    # The sender comes again with the rest, and is given the full time once more.
    last = receive(parts, *range(10, 20), start=20)
    end(parts, 22)
    assert evaluate(parts, 30) == pytest.approx(last + 60)
    evaluate(parts, last + 60)
    assert [len(one.inputs[0].sop_instance_uids) for one in scheduled(parts)] == [20]


def test_an_association_that_is_open_keeps_its_study_waiting(parts: Parts) -> None:
    last = receive(parts, *range(20))
    end(parts, 2)
    sending = replace(parts, sending=lambda: {STUDY})
    assert evaluate(sending, 20) == pytest.approx(last + 60)
    assert evaluate(parts, 21) == pytest.approx(last + 60)  # as kept
    end(parts, 22)
    assert evaluate(parts, 22) is None
    assert len(scheduled(parts)) == 1


def test_a_localizer_an_hour_later_is_news_and_starts_nothing(parts: Parts) -> None:
    receive(parts, *range(20))
    end(parts, 2)
    evaluate(parts, 10)
    receive(parts, 0, 5, 7, start=3600, scout=True)
    end(parts, 3601)
    # No rule wants the localizer, but the CT is wanted still: the study is whole as it was.
    assert evaluate(parts, 3606) is None
    assert len(scheduled(parts)) == 1
    assert known(parts).evaluated_revision == 23


# -- gaps -----------------------------------------------------------------------------------------


def test_a_gap_that_fills(parts: Parts) -> None:
    receive(parts, 0, 1, 2, 5, 6, 7)
    end(parts, 1)
    assert evaluate(parts, 10) == pytest.approx(60.5)
    assert evaluate(parts, 61) == pytest.approx(600.5)
    assert {d.code for d in decided(parts)} == {"waits"}
    assert scheduled(parts) == ()
    receive(parts, 3, 4, start=300)
    end(parts, 301)
    evaluate(parts, 306)
    (one,) = scheduled(parts)
    assert (len(one.inputs[0].sop_instance_uids), one.lacks) == (8, ())


def test_a_gap_that_stays_is_held_with_the_reason(parts: Parts) -> None:
    receive(parts, 0, 1, 2, 5, 6, 7)
    evaluate(parts, 61)
    assert evaluate(parts, 601) is None
    assert scheduled(parts) == ()
    (decision,) = decided(parts)
    assert decision.code == "held"
    assert "2 of 8 places on its grid have no slice" in decision.reason
    verdict = known(parts).verdict
    assert verdict is not None
    assert (verdict.whole, verdict.ready, verdict.confidence) == (False, True, Confidence.CERTAIN)
    (*_, line) = events.list_events(parts.index, kind="study-evaluated")
    assert line.detail["held"] == "bone"


def test_a_gap_that_stays_runs_where_the_rule_says_so(parts: Parts) -> None:
    edit_rule(parts, incomplete="run")
    receive(parts, 0, 1, 2, 5, 6, 7)
    evaluate(parts, 61)
    assert scheduled(parts) == ()
    evaluate(parts, 601)
    (one,) = scheduled(parts)
    assert [code for code, _ in one.lacks] == ["slices-missing"]
    assert "without the slices that it lacks" in decided(parts)[0].reason


def test_a_gap_is_refused_where_refusals_are_reported_and_runs_when_released(parts: Parts) -> None:
    edit_rule(parts, report_refusals=True)
    receive(parts, 0, 1, 2, 5, 6, 7)
    evaluate(parts, 61)
    evaluate(parts, 601)
    assert [bool(one.lacks) for one in scheduled(parts)] == [False]
    assert "refuses it for the slices that it lacks" in decided(parts)[0].reason
    # Of a tail that did not come the pipeline knows nothing: nobody would refuse it.
    answer = Asked(of="PACS", at=at(700), by_series={f"{STUDY}.1": 9})
    receive(parts, 3, 4, start=650)
    wholeness.record_answer(parts.index, STUDY, answer)
    evaluate(parts, 2000)
    assert {d.code for d in decided(parts)} == {"held"}
    assert len(scheduled(parts)) == 1
    wholeness.release(parts.index, STUDY, actor="anna", now=at(2001))
    evaluate(parts, 2001)
    assert sorted(bool(one.lacks) for one in scheduled(parts)) == [False, True]


def test_a_series_of_which_the_archive_has_more_is_waited_for(parts: Parts) -> None:
    last = receive(parts, *range(20))
    end(parts, 2)
    answer = Asked(of="PACS", at=at(4), by_series={f"{STUDY}.1": 22})
    wholeness.record_answer(parts.index, STUDY, answer)
    assert evaluate(parts, 10) == pytest.approx(last + 60)
    assert evaluate(parts, last + 60) == pytest.approx(last + 600)
    assert "PACS has 22 instances of it, here are 20" in decided(parts)[0].reason
    receive(parts, 20, 21, start=300)
    wholeness.record_answer(parts.index, STUDY, replace(answer, at=at(303)))
    evaluate(parts, 303)
    verdict = known(parts).verdict
    assert verdict is not None
    assert (verdict.confidence, len(scheduled(parts))) == (Confidence.CERTAIN, 1)


# -- by hand --------------------------------------------------------------------------------------


def test_a_study_that_is_held_is_not_evaluated_until_it_is_released(parts: Parts) -> None:
    receive(parts, *range(20))
    wholeness.hold(parts.index, STUDY, actor="anna", reason="wrong protocol", now=at(1))
    assert evaluate(parts, 1000) is None
    assert scheduled(parts) == ()
    hold = known(parts).held
    assert hold is not None
    assert (hold.by, hold.reason, hold.at) == ("anna", "wrong protocol", at(1))
    wholeness.release(parts.index, STUDY, actor="bert", now=at(2000))
    evaluate(parts, 2000)
    assert len(scheduled(parts)) == 1
    assert (known(parts).held, known(parts).forced_at) == (None, None)
    said = [event for event in events.list_events(parts.index) if event.actor in ("anna", "bert")]
    assert [event.kind for event in said] == ["study-held", "study-released"]
    assert "wrong protocol" not in str(said)


def test_a_study_is_released_before_it_is_quiet_and_with_a_gap(parts: Parts) -> None:
    receive(parts, 0, 1, 2, 5, 6, 7)
    wholeness.release(parts.index, STUDY, actor="anna", now=at(1))
    assert evaluate(parts, 1) is None
    (one,) = scheduled(parts)
    assert [code for code, _ in one.lacks] == ["slices-missing"]
    # Once: what comes later is judged as ever.
    receive(parts, 9, start=100)
    assert evaluate(parts, 102) == 160


def test_a_run_that_is_held_for_its_gap_is_released(parts: Parts) -> None:
    receive(parts, 0, 1, 2, 5, 6, 7)
    evaluate(parts, 61)
    evaluate(parts, 601)
    wholeness.release(parts.index, STUDY, actor="anna", now=at(700))
    evaluate(parts, 700)
    assert [bool(one.lacks) for one in scheduled(parts)] == [True]


def test_a_hold_that_comes_while_a_study_is_looked_at_counts(parts: Parts) -> None:
    receive(parts, *range(20))
    (read,) = studies.to_evaluate(parts.index)
    seen = looking.look(
        parts.index,
        read,
        rules=rules.list_rules(parts.index),
        manifests=parts.registry.manifests,
        settings=parts.config.routing,
        is_sending=False,
        now=at(100),
    )
    wholeness.hold(parts.index, STUDY, actor="anna", now=at(100))
    lifecycle._evaluate_study(parts, read, seen, at(100))
    assert scheduled(parts) == ()
    wholeness.release(parts.index, STUDY, actor="anna", now=at(101))
    lifecycle._evaluate_study(parts, read, seen, at(101))
    assert known(parts).forced_at == at(101)
    evaluate(parts, 101)
    assert len(scheduled(parts)) == 1


@pytest.mark.parametrize("said", [wholeness.hold, wholeness.release])
def test_an_unknown_study_is_not_found(parts: Parts, said: object) -> None:
    with pytest.raises(NotFound, match=r"No study 9\.9"):
        said(parts.index, "9.9", actor="anna")  # type: ignore[operator]
    assert events.list_events(parts.index, actor="anna") == ()


# -- what is kept ---------------------------------------------------------------------------------


def test_a_look_is_kept_unless_something_became_known_meanwhile(parts: Parts) -> None:
    receive(parts, *range(20))
    (before,) = studies.to_evaluate(parts.index)
    evaluate(parts, 10)
    looked = known(parts)
    assert looked.verdict is not None
    assert looked.look_at == looked.verdict.look_again_at
    assert looked.looked_revision == 20
    end(parts, 11)
    assert known(parts).look_at is None
    # Read before the end of the association: it says nothing any more.
    wholeness.keep_look(parts.index, before, looked.verdict, pace_s=0, series=())
    assert known(parts).look_at is None
    receive(parts, 20, start=30)
    wholeness.keep_look(parts.index, looked, looked.verdict, pace_s=0, series=())
    assert known(parts).look_at is None


def test_pauses_are_no_pace(parts: Parts) -> None:
    for start in (0, 4, 100):
        receive(parts, *range(3), start=start, study=f"9.{start}")
    receive(parts, 0, 1, 2, every=2.5)
    receive(parts, 3, 4, start=4000, every=1.0)
    assert wholeness.longest_wait(parts.index, STUDY, below_s=60) == 2.5
    assert wholeness.longest_wait(parts.index, STUDY, below_s=2) == 1.0
    assert wholeness.longest_wait(parts.index, STUDY, below_s=9999) == 3995
    assert wholeness.longest_wait(parts.index, "1.1", below_s=60) == 0


def test_the_end_of_an_association_is_one_transition_with_its_lines(parts: Parts) -> None:
    receive(parts, 0)
    line = Event(kind="instances-received", actor="CT1", at=at(1), study_instance_uid=STUDY)
    # A study that was refused whole is in no table.
    wholeness.end_association(
        parts.index, lines=[line], studies=[STUDY, "9.9"], at=at(1), released=True
    )
    assert (known(parts).released_at, known(parts).associations) == (at(1), 1)
    assert [event.kind for event in events.list_events(parts.index, study=STUDY)] == [line.kind]
    end(parts, 2, released=False)
    assert (known(parts).aborted_at, known(parts).associations) == (at(2), 2)
    assert known(parts).released_at == at(1)


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    order=st.permutations(range(12)),
    cuts=st.sets(st.integers(1, 11), max_size=4),
    pause_s=st.sampled_from([0.2, 3.0, 20.0, 400.0]),
    released=st.booleans(),
)
def test_whatever_the_order_and_the_pauses_the_end_is_the_same(
    parts: Parts, order: list[int], cuts: set[int], pause_s: float, released: bool
) -> None:
    """Sent in pieces, in any order: all slices are in the last workitem, and the study is whole and evaluated."""
    tables_of = {one.study_instance_uid for one in studies.list_studies(parts.index, limit=1000)}
    study = f"7.{len(tables_of)}"
    clock = 0.0
    bounds = [0, *sorted(cuts), 12]
    for first, last in itertools.pairwise(bounds):
        clock = receive(parts, *order[first:last], start=clock, study=study)
        end(parts, clock, released=released, study=study)
        for _ in range(3):
            clock += pause_s / 3
            evaluate(parts, clock)
    for _ in range(3):
        clock += 1000
        evaluate(parts, clock)
    found = studies.get(parts.index, study)
    assert (found.evaluated_revision, found.waits_until, found.look_at) == (12, None, None)
    assert found.verdict is not None
    assert found.verdict.whole
    ran = [
        one.inputs[0].sop_instance_uids
        for one in workitems.list_workitems(parts.index, study=study)
    ]
    assert max(map(len, ran)) == 12
    # Pieces that were run on their own had no gap: every slice of a grid, if of a coarser one.
    places = [sorted(int(uid.rsplit(".", 1)[1]) for uid in uids) for uids in ran]
    assert all(len({b - a for a, b in itertools.pairwise(one)}) == 1 for one in places)
