"""What a replay finds is what an evaluation would decide; what is new, gone, and what it costs."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from received import BONES, LESIONS, NOON, series
from rows import later, make_completion, make_instance, make_workitem, schedule

from node.completeness import lacking
from node.errors import RuleError
from node.pairing import read_rule
from node.replay import Circumstances, Replay, find_runs, keywords_of, replay
from node.selection import select
from pipelines.manifest import Manifest
from storage.index import Index, instances, past, studies, workitems
from storage.model import Rule, Series

MANIFESTS = {"bones": BONES, "lesions": LESIONS}
CANDIDATE = Rule(
    name="candidate",
    pipeline="bones",
    where=("Modality = CT", "slices >= 3"),
    destinations=("PACS",),
)


# -- against an evaluation ------------------------------------------------------------------------

RULES = st.builds(
    Rule,
    name=st.just("r"),
    pipeline=st.just("lesions"),
    where=st.sampled_from([(), ("SliceThickness <= 3",), ("plane missing",)]),
    destinations=st.just(()),
    roles=st.sampled_from([{}, {"spect": ()}, {"spect": (), "ct": ("ConvolutionKernel !~ ^Bl",)}]),
    without=st.sampled_from([(), ("ct",), ("spect", "ct")]),
    wait_s=st.sampled_from([0, 600]),
    prefer=st.sampled_from(
        [(), ("least SliceThickness",), ("ConvolutionKernel ~ ^Br", "most slices")]
    ),
    each=st.booleans(),
    incomplete=st.sampled_from(["hold", "run"]),
)


@st.composite
def held_series(draw: st.DrawFn) -> list[Series]:
    made = []
    for n in range(draw(st.integers(0, 5))):
        one = series(
            f"s{n}",
            modality=draw(st.sampled_from(["CT", "NM", "MR"])),
            slices=draw(st.sampled_from([5, 60, 100])),
            at=draw(st.sampled_from([0, 30])),
            FrameOfReferenceUID=(draw(st.sampled_from(["1.8", "1.9"])),),
            SliceThickness=(draw(st.sampled_from([1.0, 5.0])),),
            ConvolutionKernel=(draw(st.sampled_from(["Br36", "Bl57"])),),
        )
        missing = draw(st.sampled_from([0, 0, 2]))
        made.append(replace(one, facts={**one.facts, "missing_slices": missing}))
    return made


@settings(max_examples=300)
@given(RULES, held_series(), st.sampled_from([0, 300, 900]))
def test_a_replay_finds_what_an_evaluation_decides(
    rule: Rule, held: list[Series], seconds: int
) -> None:
    now = NOON + timedelta(seconds=seconds)
    decided = select(rule, held, LESIONS, now=now, lacking=lacking(held, None))
    found = find_runs({"r": read_rule(rule, LESIONS)}, held, now=now)["r"]
    assert {run.inputs for run in found.runs} == {
        tuple((role, one.series_instance_uid) for role, one in each.inputs.items())
        for each in decided
        if each.inputs
    }
    assert found.waiting == sum(each.waits_until is not None for each in decided)


def test_only_attributes_that_decide_are_read() -> None:
    rule = replace(CANDIDATE, where=("StationName = A", "slices > 3", "plane = axial"))
    assert set(keywords_of([read_rule(rule, BONES)])) == {
        "StationName",
        "ImageOrientationPatient",
        "SeriesNumber",
        "FrameOfReferenceUID",
        "ImageType",
        "SliceThickness",
        "SOPClassUID",
    }


# -- on an index ----------------------------------------------------------------------------------


def circumstances(
    *rules: Rule, since: float | None = None, pipeline: Manifest = BONES
) -> Circumstances:
    small = pipeline.model_copy(
        update={"inputs": {"ct": pipeline.inputs["ct"].model_copy(update={"min_instances": 2})}}
    )
    return Circumstances(
        manifests={"bones": small},
        rules=rules,
        since=None if since is None else later(since),
        now=later(100_000),
        workers=1,
        quiet_s=60,
    )


def receive(index: Index, study: str, *slices: int, at: float = 0, station: str = "CT1") -> None:
    """A study of as many series, with so many slices each."""
    for k, count in enumerate(slices):
        for n in range(count):
            one = make_instance(n, study=study, series=f"{study}.{k}", at=later(at))
            header = {**one.header, "StationName": (station,)}
            instances.add(index, replace(one, header=header))


def tried(index: Index, rule: Rule, with_: Circumstances) -> Replay:
    (found,) = replay(index, [rule], with_)
    return found


def test_what_it_would_run_on_and_what_of_that_is_new(index: Index) -> None:
    receive(index, "1.1", 4, 3)
    receive(index, "1.2", 4, station="CT2")
    receive(index, "1.3", 2)
    in_force = Rule(name="old", pipeline="bones", where=("StationName = CT2",), destinations=())
    found = tried(index, CANDIDATE, circumstances(in_force))
    assert (found.studies, found.series) == (3, 4)
    assert (found.runs, found.matched_studies, found.matched_series) == (2, 2, 3)
    assert (found.new_runs, found.new_examples) == (1, ("1.1",))
    assert found.gone_runs is None
    off = replace(in_force, enabled=False)
    assert tried(index, CANDIDATE, circumstances(off)).new_runs == 2
    otherwise = replace(in_force, parameters={"threshold": 300.0})
    assert tried(index, CANDIDATE, circumstances(otherwise)).new_runs == 2
    each = tried(index, replace(CANDIDATE, each=True), circumstances(in_force))
    assert (each.runs, each.new_runs) == (3, 2)


def test_what_a_change_would_no_longer_run_on(index: Index) -> None:
    receive(index, "1.1", 4)
    receive(index, "1.2", 4, station="CT2", at=10)
    stored = replace(CANDIDATE, where=("Modality = CT",))
    changed = replace(CANDIDATE, where=("Modality = CT", "StationName = CT2"))
    found = tried(index, changed, circumstances(stored))
    assert (found.runs, found.new_runs) == (1, 0)
    assert (found.gone_runs, found.gone_examples) == (1, ("1.1",))


def test_only_studies_since_then_are_looked_at(index: Index) -> None:
    receive(index, "1.1", 4)
    receive(index, "1.2", 4, at=1000)
    found = tried(index, CANDIDATE, circumstances(since=500))
    assert (found.studies, found.series, found.new_examples) == (1, 1, ("1.2",))
    assert tried(index, CANDIDATE, circumstances(since=5000)).studies == 0


def test_facts_are_derived_once_and_kept(index: Index) -> None:
    receive(index, "1.1", 4)
    assert past.derive_facts(index) == 1
    assert past.derive_facts(index) == 0
    (streamed,) = past.stream_series(index, keywords=["Modality", "StationName", "PatientName"])
    (read,) = studies.series_of(index, "1.1")
    assert streamed.facts == read.facts
    assert streamed.header == {"Modality": ("CT",), "StationName": ("CT1",)}
    assert replace(streamed, header={}) == replace(read, header={})
    instances.add(index, make_instance(9, study="1.1", series="1.1.0"))
    assert past.derive_facts(index) == 1


def test_our_own_series_are_not_looked_at(index: Index) -> None:
    receive(index, "1.1", 4)
    instances.add(index, make_instance(1, study="1.1", series="1.1.9", own=True))
    assert tried(index, CANDIDATE, circumstances()).series == 1


def test_cost_and_queue_follow_from_what_was_measured(index: Index) -> None:
    unknown = tried(index, CANDIDATE, circumstances())
    assert unknown.cost is None
    assert unknown.queue is None
    for n, seconds in ((1, 30), (2, 90)):
        planned = replace(make_workitem(n, at=later(n)), pipeline="bones")
        schedule(index, planned)
        claimed = workitems.claim(index, owner="node-1", now=later(n), lease_s=60)
        assert claimed is not None
        done = replace(
            make_completion(claimed), started_at=later(n), ended_at=later(n + seconds), evidence=()
        )
        assert workitems.complete(index, replace(done, measurements=(), findings=()))
    for n in range(3):
        receive(index, f"1.1.{n}", 4, at=10_000)
    found = tried(index, CANDIDATE, circumstances())
    assert found.cost is not None
    assert (found.cost.measured, found.cost.mean_s) == (2, 60)
    assert found.cost.hours == pytest.approx(found.runs * 60 / 3600)
    assert found.cost.new_hours == pytest.approx(found.new_runs * 60 / 3600)
    assert found.queue is not None
    # Three at once, a minute each, one worker.
    assert found.queue.new is not None
    assert found.queue.new.most_s == pytest.approx(120)
    # The second came a second after the first, which took thirty.
    assert found.queue.before is not None
    assert found.queue.before.most_s == pytest.approx(29)
    assert found.queue.after is not None


def test_a_rule_without_its_pipeline_cannot_be_tried(index: Index) -> None:
    with pytest.raises(RuleError, match="'nose' is not installed"):
        replay(index, [replace(CANDIDATE, pipeline="nose")], circumstances())
