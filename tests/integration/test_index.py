"""The index's instances, series, studies and evaluations, on both databases."""

from __future__ import annotations

import math
import sqlite3
import threading
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from rows import (
    AXIAL,
    NOON,
    SERIES,
    STUDY,
    complete,
    later,
    make_instance,
    make_workitem,
    run_at_once,
)

from storage.errors import IndexUnavailable, NotFound
from storage.index import (
    Index,
    engine,
    events,
    instances,
    open_index,
    registered,
    rules,
    studies,
    workitems,
)
from storage.model import (
    AddOutcome,
    ClauseVerdict,
    Decision,
    Header,
    Rule,
    Series,
    Workitem,
)

ADDED, DUPLICATE, CONFLICT = AddOutcome


def make_decision(n: int, *, matched: bool = True) -> Decision:
    return Decision(
        rule=f"rule {n}",
        rule_version=n,
        pipeline="ct_skeleton",
        series_instance_uid=SERIES,
        matched=matched,
        clauses=(
            ClauseVerdict(clause="Modality = CT", seen="CT", holds=True),
            ClauseVerdict(clause="slices >= 20", seen="12", holds=matched),
        ),
        reason="All clauses hold." if matched else "Too few slices.",
        workitem_uid="1.9.1" if matched else None,
    )


def evaluate(index: Index, revision: int, *planned: Workitem, decisions: int = 1) -> None:
    studies.record_evaluation(
        index,
        study_instance_uid=STUDY,
        revision=revision,
        decisions=[make_decision(n) for n in range(decisions)],
        workitems=planned,
        now=NOON,
    )


# -- instances ------------------------------------------------------------------------------------


def test_an_instance_comes_back_as_it_was(index: Index) -> None:
    instance = make_instance(1)
    assert instances.add(index, instance) is ADDED
    assert instances.get(index, instance.sop_instance_uid) == instance


def test_an_unknown_instance_is_not_found(index: Index) -> None:
    with pytest.raises(NotFound, match=r"No instance 1\.2\.3"):
        instances.get(index, "1.2.3")


def test_instances_are_counted_into_series_and_study(index: Index) -> None:
    for n in range(3):
        instances.add(index, make_instance(n))
    instances.add(index, make_instance(7, series=f"{STUDY}.3"))
    study = studies.get(index, STUDY)
    assert (study.patient_id, study.accession_number) == ("P1", "A1")
    assert (study.study_date, study.study_description) == ("20260301", "Abdomen")
    assert (study.revision, study.evaluated_revision) == (4, 0)
    assert (study.series_count, study.instance_count) == (2, 4)
    assert (study.first_received_at, study.last_received_at) == (later(0), later(7))
    first, second = studies.series_of(index, STUDY)
    assert (first.series_instance_uid, first.instance_count) == (SERIES, 3)
    assert (first.first_received_at, first.last_received_at) == (later(0), later(2))
    assert first.header == make_instance(0).header
    assert (second.instance_count, second.modality) == (1, "CT")


def test_many_are_one_transaction_and_count_the_same(index: Index) -> None:
    batch = [make_instance(n) for n in (5, 3, 4)]
    batch += [make_instance(1, series=f"{STUDY}.3"), make_instance(1, study="1.2.9")]
    batch += [make_instance(3), make_instance(4, digest="other")]
    assert instances.add_many(index, batch) == [ADDED] * 5 + [DUPLICATE, CONFLICT]
    study = studies.get(index, STUDY)
    assert (study.revision, study.series_count, study.instance_count) == (4, 2, 4)
    assert (study.first_received_at, study.last_received_at) == (later(5), later(5))
    by_uid = {series.series_instance_uid: series for series in studies.series_of(index, STUDY)}
    assert by_uid[SERIES].instance_count == 3
    # The first received, not the first by UID.
    assert by_uid[SERIES].header["InstanceNumber"] == (5,)
    assert studies.get(index, "1.2.9").revision == 1
    assert instances.add_many(index, []) == []


def test_the_short_way_of_usual_instances_leaves_what_the_long_one_does(index: Index) -> None:
    """One at a time all but the first are new and of a series that is known; together none is."""
    studies_of = ("1.2.3", "1.2.4")
    for n in range(6):
        instances.add(index, make_instance(n, study=studies_of[0], at=later(9 - n)))
    instances.add_many(
        index, [make_instance(n, study=studies_of[1], at=later(9 - n)) for n in range(6)]
    )
    one, other = (
        (
            studies.get(index, uid),
            *studies.series_of(index, uid),
            *instances.of_series(index, f"{uid}.2"),
        )
        for uid in studies_of
    )
    assert len(one) == 8
    # Of the first received, and of the last by time.
    renamed = [str(part).replace(studies_of[1], studies_of[0]) for part in other]
    assert [str(part) for part in one] == renamed


def test_our_own_instances_are_counted_and_no_news_on_either_way(index: Index) -> None:
    for n, own in enumerate((False, False, True, True, False)):
        instances.add(index, make_instance(n, own=own))
    study = studies.get(index, STUDY)
    assert (study.instance_count, study.revision) == (5, 3)
    assert study.last_received_at == later(4)


def test_a_failing_batch_leaves_nothing(index: Index) -> None:
    naive = replace(make_instance(2), received_at=datetime(2026, 3, 1))
    with pytest.raises(Exception, match="without a zone"):
        instances.add_many(index, [make_instance(1), naive])
    assert instances.of_series(index, SERIES) == ()
    assert studies.list_studies(index, limit=10) == ()


def test_the_same_instance_again_is_no_news(index: Index) -> None:
    instances.add(index, make_instance(1))
    again = replace(make_instance(1), received_at=later(99), calling_ae="PACS")
    assert instances.add(index, again) is DUPLICATE
    study = studies.get(index, STUDY)
    assert (study.revision, study.instance_count, study.last_received_at) == (1, 1, later(1))
    assert events.list_events(index) == ()


def test_another_content_is_kept_beside_and_audited_once(index: Index) -> None:
    instances.add(index, make_instance(1))
    other = make_instance(1, digest="other", at=later(5))
    assert instances.add(index, other) is CONFLICT
    assert instances.add(index, other) is CONFLICT
    assert instances.get(index, other.sop_instance_uid).digest == "digest 1"
    assert studies.get(index, STUDY).revision == 1
    (event,) = events.list_events(index, study=STUDY)
    assert (event.kind, event.actor, event.at) == ("instance-conflict", "CT1", later(5))
    assert event.outcome == "failure"
    assert event.detail["held_digest"] == "digest 1"
    assert event.detail["received_digest"] == "other"
    assert event.detail["archive_key"] == other.archive_key
    # The first content again is still a duplicate.
    assert instances.add(index, make_instance(1)) is DUPLICATE


def test_our_own_objects_are_held_and_are_no_news(index: Index) -> None:
    instances.add(index, make_instance(1))
    own = make_instance(1, series=f"{STUDY}.9", own=True, at=later(500))
    assert instances.add(index, own) is ADDED
    study = studies.get(index, STUDY)
    assert (study.revision, study.instance_count, study.series_count) == (1, 2, 2)
    # Our results coming back keep no study waiting.
    assert study.last_received_at == later(1)
    assert [s.own for s in studies.series_of(index, STUDY)] == [False, True]
    assert [s.facts["own"] for s in studies.series_of(index, STUDY)] == [0, 1]


def test_a_study_of_our_own_objects_only_is_no_news(index: Index) -> None:
    instances.add(index, make_instance(1, own=True))
    assert studies.to_evaluate(index) == ()
    instances.add(index, make_instance(2))
    assert [study.revision for study in studies.to_evaluate(index)] == [1]


def test_clocks_of_two_nodes_never_turn_time_back(index: Index) -> None:
    instances.add(index, make_instance(1, at=later(10)))
    instances.add(index, make_instance(2, at=later(4)))
    assert studies.get(index, STUDY).last_received_at == later(10)
    assert studies.series_of(index, STUDY)[0].last_received_at == later(10)


def test_times_of_other_zones_come_back_as_utc(index: Index) -> None:
    local = NOON.astimezone(ZoneInfo("Asia/Tokyo"))
    instances.add(index, make_instance(1, at=local))
    received = instances.get(index, f"{SERIES}.1").received_at
    assert (received, received.utcoffset()) == (NOON, timedelta(0))


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ({"PatientName": ("M\0ller",)}, {"PatientName": ("Mller",)}),
        ({"PatientName": ("\ud83d half",)}, {"PatientName": ("? half",)}),
        ({"PatientName": ("山田^太郎 \U0001f600",)}, None),
        ({"RescaleSlope": (math.nan, math.inf, 1.5)}, {"RescaleSlope": (None, None, 1.5)}),
        ({"PatientID": ("A\0" + "B" * 300,), "Modality": ("C\0T",)}, None),
        ({"PatientID": (None,), "Modality": ()}, None),
        ({}, None),
    ],
)
def test_whatever_a_sender_wrote_is_kept(
    index: Index, written: Header, kept: Header | None
) -> None:
    assert instances.add(index, make_instance(1, header=written)) is ADDED
    header = instances.get(index, f"{SERIES}.1").header
    clean = {
        k: tuple(v.replace("\0", "") if isinstance(v, str) else v for v in values)
        for k, values in written.items()
    }
    assert header == (clean if kept is None else kept)
    assert "\0" not in studies.get(index, STUDY).patient_id
    assert len(studies.get(index, STUDY).patient_id) <= 128
    assert len(studies.series_of(index, STUDY)) == 1


def test_instances_of_a_series_and_by_uid(index: Index) -> None:
    held = [make_instance(n) for n in range(3)]
    instances.add_many(index, [*held, make_instance(1, series=f"{STUDY}.3")])
    assert instances.of_series(index, SERIES) == tuple(held)
    uids = [held[2].sop_instance_uid, "1.2.3", held[0].sop_instance_uid]
    assert instances.of_uids(index, uids) == (held[2], held[0])
    assert instances.of_uids(index, []) == ()


def test_more_uids_than_one_statement_takes(index: Index) -> None:
    instances.add(index, make_instance(1))
    uids = [f"1.2.{n}" for n in range(40_000)] + [f"{SERIES}.1"]
    assert instances.of_uids(index, uids) == (make_instance(1),)


def test_one_series_uid_in_two_studies_stays_apart(index: Index) -> None:
    instances.add(index, make_instance(1))
    instances.add(index, make_instance(2, study="1.2.9", series=SERIES))
    assert [s.instance_count for s in studies.series_of(index, STUDY)] == [1]
    assert [s.instance_count for s in studies.series_of(index, "1.2.9")] == [1]
    assert len(instances.of_series(index, SERIES)) == 2
    assert len(instances.of_series(index, SERIES, study_instance_uid=STUDY)) == 1


def test_own_is_what_the_registry_of_evidence_holds(index: Index) -> None:
    workitem = make_workitem(1)
    complete(index, workitem)
    # Instance, series and Tracking UID.
    for end in (1, 8, 7):
        assert registered.is_any(index, {"1.2.3", f"{workitem.workitem_uid}.{end}"})
    assert not registered.is_any(index, {f"{SERIES}.1000", f"{workitem.workitem_uid}.99"})
    assert not registered.is_any(index, set())


def test_eight_threads_add_and_every_instance_counts_once(index: Index) -> None:
    # Each instance comes over two associations, to two series of one study.
    def receive(thread: int) -> list[AddOutcome]:
        half = thread % 4
        return [
            instances.add(index, make_instance(n, series=f"{STUDY}.{n % 2}"))
            for n in range(25 * half, 25 * half + 25)
        ]

    outcomes = run_at_once([partial(receive, thread) for thread in range(8)])
    flat = [outcome for thread in outcomes for outcome in thread]
    assert (flat.count(ADDED), flat.count(DUPLICATE)) == (100, 100)
    study = studies.get(index, STUDY)
    assert (study.revision, study.instance_count, study.series_count) == (100, 100, 2)
    assert [s.instance_count for s in studies.series_of(index, STUDY)] == [50, 50]


def test_batches_that_overlap_do_not_lock_each_other_out(index: Index) -> None:
    def receive(thread: int) -> None:
        numbers = range(30) if thread % 2 else reversed(range(30))
        for _ in range(3):
            instances.add_many(
                index, [make_instance(n, series=f"{STUDY}.{n % 5}") for n in numbers]
            )

    run_at_once([partial(receive, thread) for thread in range(8)])
    assert studies.get(index, STUDY).revision == 30


# -- studies --------------------------------------------------------------------------------------


def test_studies_are_listed_by_the_latest_news(index: Index) -> None:
    for n, study in enumerate(["1.1", "1.2", "1.3"]):
        instances.add(index, make_instance(n, study=study))
    instances.add(index, make_instance(9, study="1.1"))
    listed = [study.study_instance_uid for study in studies.list_studies(index, limit=10)]
    assert listed == ["1.1", "1.3", "1.2"]
    assert len(studies.list_studies(index, limit=2)) == 2
    since = studies.list_studies(index, limit=10, since=later(2))
    assert [study.study_instance_uid for study in since] == ["1.1", "1.3"]


def test_an_unknown_study_is_not_found(index: Index) -> None:
    with pytest.raises(NotFound, match=r"No study 1\.2\.3"):
        studies.get(index, "1.2.3")
    assert studies.series_of(index, "1.2.3") == ()
    assert studies.decisions(index, "1.2.3") == ()


def test_facts_of_an_axial_series(index: Index) -> None:
    # Received out of order, one slice twice, one gap of 3 mm.
    for n in (4, 0, 1, 2, 6):
        instances.add(index, make_instance(n))
    twice = replace(make_instance(2), sop_instance_uid=f"{SERIES}.99")
    instances.add(index, twice)
    (series,) = studies.series_of(index, STUDY)
    assert series.facts == {
        "calling_ae": "CT1",
        "instances": 6,
        "frames": 6,
        "slices": 5,
        "own": 0,
        "frames_of_reference": 0,
        "orientations": 1,
        "missing_slices": 2,
        "duplicate_positions": 1,
        "slice_gap_mm": 2.25,
        "slice_gap_irregular_mm": 1.5,
    }


def test_an_evaluation_keeps_the_facts_it_saw_until_another_instance_comes(index: Index) -> None:
    for n in range(3):
        instances.add(index, make_instance(n))
    (seen,) = studies.series_of(index, STUDY)
    # Told apart from what is derived by a mark.
    marked = replace(seen, facts={**seen.facts, "slice_gap_mm": 9.0})
    instances.add(index, make_instance(3))
    keep_evaluation(index, marked, revision=3)
    assert studies.series_of(index, STUDY)[0].facts["instances"] == 4
    assert studies.series_of(index, STUDY)[0].facts["slice_gap_mm"] == 1.5

    (seen,) = studies.series_of(index, STUDY)
    marked = replace(seen, facts={**seen.facts, "slice_gap_mm": 9.0})
    keep_evaluation(index, marked, revision=4)
    assert studies.series_of(index, STUDY)[0].facts["slice_gap_mm"] == 9.0
    instances.add(index, make_instance(4))
    assert studies.series_of(index, STUDY)[0].facts == seen.facts | {
        "instances": 5,
        "frames": 5,
        "slices": 5,
    }


def keep_evaluation(index: Index, series: Series, *, revision: int) -> None:
    """Record an evaluation of the revision that saw this series."""
    studies.record_evaluation(
        index,
        study_instance_uid=STUDY,
        revision=revision,
        decisions=(),
        workitems=(),
        now=NOON,
        series=(series,),
    )


def test_frames_of_reference_and_orientations_are_counted(index: Index) -> None:
    frames: list[Header] = [{"FrameOfReferenceUID": (uid,)} for uid in ("1.1", "1.1", "1.2")]
    for n, frame in enumerate(frames):
        instances.add(index, make_instance(n, header=make_instance(n).header | frame))
    turned: Header = {"ImageOrientationPatient": (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)}
    instances.add(index, make_instance(9, header=make_instance(9).header | turned))
    facts = studies.series_of(index, STUDY)[0].facts
    assert (facts["frames_of_reference"], facts["orientations"]) == (2, 2)
    assert "missing_slices" not in facts


def test_slice_gap_is_measured_along_the_normal(index: Index) -> None:
    # Tilted by 30 degrees about x: 2 mm along the normal is less than 2 mm along z.
    tilt = math.radians(30)
    cosines = (1.0, 0.0, 0.0, 0.0, math.cos(tilt), math.sin(tilt))
    normal = (0.0, -math.sin(tilt), math.cos(tilt))
    for n in range(4):
        place = tuple(round(-50 + 2.0 * n * x, 6) for x in normal)
        header = AXIAL | {"ImageOrientationPatient": cosines, "ImagePositionPatient": place}
        instances.add(index, make_instance(n, header=header))
    facts = studies.series_of(index, STUDY)[0].facts
    assert (facts["slice_gap_mm"], facts["slice_gap_irregular_mm"]) == (2.0, 0.0)


@pytest.mark.parametrize(
    "second",
    [
        {"ImageOrientationPatient": (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)},
        {"ImageOrientationPatient": ()},
        {"ImagePositionPatient": (1.0, 2.0)},
        {"ImagePositionPatient": ("one", "two", "three")},
        {"ImagePositionPatient": (1.0, None, 3.0)},
    ],
)
def test_a_series_without_one_geometry_has_no_slice_gap(index: Index, second: Header) -> None:
    instances.add(index, make_instance(1))
    instances.add(index, make_instance(2, header=make_instance(2).header | second))
    facts = studies.series_of(index, STUDY)[0].facts
    assert "slice_gap_mm" not in facts
    assert "slice_gap_irregular_mm" not in facts
    assert facts["slices"] == facts["instances"] == 2


def test_one_slice_has_no_gap(index: Index) -> None:
    instances.add(index, make_instance(1))
    facts = studies.series_of(index, STUDY)[0].facts
    assert facts["slices"] == 1
    assert "slice_gap_mm" not in facts


def test_frames_of_multi_frame_instances_are_counted(index: Index) -> None:
    # NM RECON TOMO: one instance, and its place stands in a sequence.
    instances.add(index, make_instance(1, header={"Modality": ("NM",), "NumberOfFrames": (128,)}))
    facts = studies.series_of(index, STUDY)[0].facts
    assert (facts["instances"], facts["frames"], facts["slices"]) == (1, 128, 128)
    assert "slice_gap_mm" not in facts


def test_the_place_of_a_first_frame_is_not_that_of_all(index: Index) -> None:
    for n, frames in ((1, 60), (2, 20), (3, "many")):
        header = make_instance(n).header | {"NumberOfFrames": (frames,)}
        instances.add(index, make_instance(n, header=header))
    facts = studies.series_of(index, STUDY)[0].facts
    assert (facts["frames"], facts["slices"]) == (81, 81)
    assert "slice_gap_mm" not in facts


# -- evaluation -----------------------------------------------------------------------------------


def test_news_is_a_revision_not_evaluated(index: Index) -> None:
    instances.add(index, make_instance(1))
    instances.add(index, make_instance(2))
    assert [study.revision for study in studies.to_evaluate(index)] == [2]
    evaluate(index, 2)
    assert studies.to_evaluate(index) == ()
    assert studies.get(index, STUDY).evaluated_revision == 2
    instances.add(index, make_instance(3))
    assert [study.revision for study in studies.to_evaluate(index)] == [3]


def test_an_instance_that_came_during_the_evaluation_stays_news(index: Index) -> None:
    instances.add(index, make_instance(1))
    instances.add(index, make_instance(2))
    evaluate(index, 1)
    assert len(studies.to_evaluate(index)) == 1


def wait(index: Index, *, until: datetime, now: datetime, decisions: int = 1) -> None:
    studies.record_evaluation(
        index,
        study_instance_uid=STUDY,
        revision=1,
        decisions=[make_decision(n) for n in range(decisions)],
        workitems=(),
        now=now,
        waits_until=until,
    )


def test_a_study_that_waits_is_evaluated_again_when_the_wait_is_over(index: Index) -> None:
    instances.add(index, make_instance(1))
    wait(index, until=later(100), now=NOON, decisions=2)
    (waiting,) = studies.to_evaluate(index)
    assert (waiting.evaluated_revision, waiting.waits_until) == (1, later(100))
    # Too early, as a second node would: counts as nothing.
    wait(index, until=later(500), now=later(99), decisions=1)
    assert studies.get(index, STUDY).waits_until == later(100)
    assert len(studies.decisions(index, STUDY)) == 2
    # In time: what was decided is replaced, and the wait is over.
    wait(index, until=later(500), now=later(100), decisions=1)
    assert studies.get(index, STUDY).waits_until == later(500)
    assert len(studies.decisions(index, STUDY)) == 1
    detail = [event.detail for event in events.list_events(index, kind="study-evaluated")]
    assert {one.get("waits_until") for one in detail} == {
        later(100).isoformat(),
        later(500).isoformat(),
    }


def test_news_ends_a_wait(index: Index) -> None:
    instances.add(index, make_instance(1))
    wait(index, until=later(100), now=NOON)
    instances.add(index, make_instance(2))
    evaluate(index, 2)
    assert studies.get(index, STUDY).waits_until is None
    assert studies.to_evaluate(index) == ()


def test_a_study_is_evaluated_again_when_asked(index: Index) -> None:
    instances.add(index, make_instance(1))
    evaluate(index, 1, decisions=2)
    assert studies.to_evaluate(index) == ()
    studies.evaluate_again(index, STUDY, actor="test", now=NOON)
    assert len(studies.to_evaluate(index)) == 1
    evaluate(index, 1, decisions=1)
    assert studies.to_evaluate(index) == ()
    assert len(studies.decisions(index, STUDY)) == 1
    (event,) = events.list_events(index, kind="study-evaluation-asked")
    assert event.actor == "test"
    with pytest.raises(NotFound):
        studies.evaluate_again(index, "9.9", actor="test")


def test_a_changed_rule_ends_a_wait(index: Index) -> None:
    instances.add(index, make_instance(1))
    wait(index, until=later(100), now=NOON)
    rule = Rule(name="r", pipeline="p", where=("Modality = CT",), destinations=())
    rules.add(index, rule, actor="test", now=later(10))
    assert studies.get(index, STUDY).waits_until == later(10)


def test_an_evaluation_keeps_decisions_workitems_and_an_event(index: Index) -> None:
    instances.add(index, make_instance(1))
    planned = replace(make_workitem(1), not_before=later(30))
    evaluate(index, 1, planned, decisions=2)
    assert studies.decisions(index, STUDY) == (make_decision(0), make_decision(1))
    assert workitems.get(index, planned.workitem_uid) == planned
    (event,) = events.list_events(index, study=STUDY)
    assert (event.kind, event.at) == ("study-evaluated", NOON)
    assert event.detail == {"revision": 1, "decisions": 2, "matched": 2, "scheduled": 1}


def test_an_evaluation_counts_once(index: Index) -> None:
    instances.add(index, make_instance(1))
    evaluate(index, 1, make_workitem(1))
    evaluate(index, 1, make_workitem(2), decisions=3)
    assert len(workitems.list_workitems(index, limit=10)) == 1
    assert len(studies.decisions(index, STUDY)) == 1
    assert len(events.list_events(index)) == 1


def test_nodes_that_evaluate_at_once_count_once(index: Index) -> None:
    instances.add(index, make_instance(1))
    run_at_once([partial(evaluate, index, 1, make_workitem(n)) for n in range(8)])
    assert len(workitems.list_workitems(index, limit=10)) == 1
    assert len(events.list_events(index)) == 1


def test_a_known_workitem_is_left_as_it_is(index: Index) -> None:
    workitem = make_workitem(1)
    complete(index, workitem)
    before = workitems.get(index, workitem.workitem_uid)
    instances.add(index, make_instance(2))
    evaluate(index, 2, replace(workitem, study_revision=2), make_workitem(2))
    assert workitems.get(index, workitem.workitem_uid) == before
    assert len(workitems.list_workitems(index, limit=10)) == 2


def test_decisions_are_those_of_the_latest_evaluation(index: Index) -> None:
    instances.add(index, make_instance(1))
    evaluate(index, 1, decisions=2)
    instances.add(index, make_instance(2))
    evaluate(index, 2, decisions=1)
    assert len(studies.decisions(index, STUDY)) == 1
    assert len(studies.decisions(index, STUDY, revision=1)) == 2
    instances.add(index, make_instance(3))
    evaluate(index, 3, decisions=0)
    assert studies.decisions(index, STUDY) == ()


def test_an_evaluation_of_an_unknown_study(index: Index) -> None:
    with pytest.raises(NotFound, match="No study"):
        evaluate(index, 1)


# -- the engine -----------------------------------------------------------------------------------


def test_sqlite_is_durable_and_keeps_its_references(sqlite_template: Path) -> None:
    with open_index(f"sqlite:///{sqlite_template}") as index, index.begin() as connection:
        pragmas = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        ]
    assert pragmas == ["wal", 2, 1, 30_000]


def test_a_reader_is_not_held_up_by_a_writer(index: Index) -> None:
    instances.add(index, make_instance(1))
    with index.begin() as connection:
        connection.exec_driver_sql("UPDATE studies SET revision = 99")
        assert studies.get(index, STUDY).revision == 1
    assert studies.get(index, STUDY).revision == 99


def test_a_writer_waits_for_another_process(database_url: str) -> None:
    """Two engines, as two processes: a transaction that reads first and writes later is never refused."""
    with open_index(database_url) as first, open_index(database_url) as second:
        instances.add(first, make_instance(1))
        adding = [
            partial(lambda i, n: instances.add(i, make_instance(n)), (first, second)[n % 2], n)
            for n in range(2, 18)
        ]
        assert run_at_once(adding) == [ADDED] * 16
        assert studies.get(first, STUDY).revision == 17


def test_a_write_lock_that_never_comes_free(
    tmp_path: Path, sqlite_template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "BUSY_TIMEOUT_S", 0.1)
    path = tmp_path / "index.sqlite"
    path.write_bytes(sqlite_template.read_bytes())
    with open_index(f"sqlite:///{path}") as index:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(IndexUnavailable, match="locked"):
            instances.add(index, make_instance(1))
        other.execute("ROLLBACK")
        other.close()
        assert instances.add(index, make_instance(1)) is ADDED

        waits = threading.Event()

        def wait() -> None:
            with pytest.raises(IndexUnavailable, match="writer"):
                instances.add(index, make_instance(2))
            waits.set()

        with index.begin():
            thread = threading.Thread(target=wait)
            thread.start()
            thread.join()
        assert waits.is_set()


def test_a_database_that_went_away(tmp_path: Path, sqlite_template: Path) -> None:
    path = tmp_path / "index.sqlite"
    path.write_bytes(sqlite_template.read_bytes())
    with open_index(f"sqlite:///{path}") as index:
        path.write_bytes(b"no database" * 1000)
        with pytest.raises(IndexUnavailable, match="does not answer") as caught:
            instances.add(index, make_instance(1, header={"PatientName": ("Doe^Jane",)}))
    assert "Doe" not in str(caught.value) + str(caught.value.__cause__)
