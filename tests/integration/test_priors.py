"""The patient's study before: found in the index, and compared with through a real node."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import rows
from dicomgen import Geometry, make_series, save_all
from nodes import Node
from peer import Pacs
from pydicom import Dataset

from node.scu import send_paths
from pipelines.comparison import CHANGE, INTERVAL, RELATIVE_CHANGE
from storage.index import Index, instances, measurements, priors, rules, studies, workitems
from storage.model import Destination, Header, Prior, WorkitemState

TODAY = "1.2.900"


def receive(index: Index, study: str, date: str, *, patient: str = "P1", issuer: str = "") -> None:
    """A study of one instance."""
    header: Header = {**rows.AXIAL, "PatientID": (patient,), "StudyDate": (date,)}
    if issuer:
        header = {**header, "IssuerOfPatientID": (issuer,)}
    instances.add(index, rows.make_instance(1, study=study, header=header))


def run(index: Index, number: int, study: str, *, ends: float = 60, value: float = 10.0) -> str:
    """A completed workitem on a study that was received; its UID."""
    made = rows.make_workitem(number, study=study)
    studies.record_evaluation(
        index,
        study_instance_uid=study,
        revision=studies.get(index, study).revision,
        decisions=(),
        workitems=[made],
        now=rows.NOON,
    )
    assert workitems.claim(index, owner="node-1", now=rows.later(1), lease_s=60) is not None
    done = rows.make_completion(made)
    done = replace(
        done,
        measurements=(rows.make_measurement(made, value, concept=("118565006", "Volume")),),
        ended_at=rows.later(ends),
    )
    assert workitems.complete(index, done)
    return made.workitem_uid


def latest(index: Index, *, pipeline: str = "ct_skeleton", within_days: int = 1095) -> Prior:
    return priors.latest(
        index, study_instance_uid=TODAY, pipeline=pipeline, within_days=within_days
    )


def test_the_latest_result_before_the_study_counts(index: Index) -> None:
    receive(index, TODAY, "20260301")
    for number, date in enumerate(("20250101", "20250601", "20260301", "20260401"), start=1):
        receive(index, f"1.2.{number}", date)
        run(index, number, f"1.2.{number}", value=float(number))
    found = latest(index)
    assert (found.workitem_uid, found.interval_days) == ("1.9.2", 273)
    assert found.volumes_ml == {"Bone": 2.0}
    assert {one.study_instance_uid for one in found.evidence} == {"1.2.2"}
    assert len(found.evidence) == 2


def test_of_two_results_of_a_study_the_last_one_counts(index: Index) -> None:
    receive(index, TODAY, "20260301")
    receive(index, "1.2.1", "20250601")
    run(index, 1, "1.2.1", ends=90)
    instances.add(index, rows.make_instance(2, study="1.2.1"))
    run(index, 2, "1.2.1", ends=60)
    assert latest(index).workitem_uid == "1.9.1"


@pytest.mark.parametrize(
    ("date", "patient", "issuer"),
    [
        ("20250601", "P2", ""),
        ("20250601", "P1", "OTHER"),
        ("20230226", "P1", ""),
        ("", "P1", ""),
        ("20251399", "P1", ""),
    ],
    ids=["another patient", "another issuer", "too long ago", "no date", "no day"],
)
def test_what_is_no_prior(index: Index, date: str, patient: str, issuer: str) -> None:
    receive(index, TODAY, "20260301")
    receive(index, "1.2.1", date, patient=patient, issuer=issuer)
    run(index, 1, "1.2.1")
    assert latest(index) == Prior(within_days=1095)


def test_another_pipeline_and_a_run_without_a_result_are_no_prior(index: Index) -> None:
    receive(index, TODAY, "20260301")
    receive(index, "1.2.1", "20250601")
    run(index, 1, "1.2.1")
    assert latest(index, pipeline="qct_femur").workitem_uid == ""
    receive(index, "1.2.2", "20250701")
    studies.record_evaluation(
        index,
        study_instance_uid="1.2.2",
        revision=1,
        decisions=(),
        workitems=[rows.make_workitem(2, study="1.2.2")],
        now=rows.NOON,
    )
    assert latest(index).workitem_uid == "1.9.1"


@pytest.mark.parametrize(("patient", "date"), [("", "20260301"), ("P1", ""), ("P1", "yesterday")])
def test_a_study_that_cannot_be_placed_has_no_prior(index: Index, patient: str, date: str) -> None:
    receive(index, TODAY, date, patient=patient)
    receive(index, "1.2.1", "20250601", patient=patient)
    run(index, 1, "1.2.1")
    assert latest(index).workitem_uid == ""


def test_a_workitem_keeps_its_prior_as_it_was(index: Index) -> None:
    receive(index, TODAY, "20260301")
    receive(index, "1.2.1", "20250601")
    run(index, 1, "1.2.1")
    found = latest(index)
    for number, prior in enumerate((found, Prior(within_days=9), None), start=7):
        made = replace(rows.make_workitem(number, study=TODAY), prior=prior)
        instances.add(index, rows.make_instance(number, study=TODAY))
        studies.record_evaluation(
            index,
            study_instance_uid=TODAY,
            revision=studies.get(index, TODAY).revision,
            decisions=(),
            workitems=[made],
            now=rows.NOON,
        )
        assert workitems.get(index, made.workitem_uid).prior == prior


# -- a node process ---------------------------------------------------------------------------------


@pytest.fixture
def pacs() -> Iterator[Pacs]:
    with Pacs() as peer:
        yield peer


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(folder=tmp_path / "node")
    yield made
    made.kill_if_running()


def store(node: Node, datasets: list[Dataset], folder: Path) -> None:
    target = Destination(name="node", host="127.0.0.1", port=node.port, called_ae="OSTEONODE")
    sent = list(send_paths(target, save_all(datasets, folder), calling_ae="CT1", timeout_s=20))
    assert all(one.status is not None and one.status.status == 0 for one in sent)


def test_the_second_study_says_what_has_changed(node: Node, pacs: Pacs, tmp_path: Path) -> None:
    node.start()
    node.route_to(pacs.port)
    with node.index() as index:
        (rule,) = rules.list_rules(index)
        rules.edit(index, replace(rule, prior="compare"), actor="test")
    then = make_series(study=1, geometry=Geometry(slices=6))
    now = make_series(study=2, geometry=Geometry(slices=9))
    for ds in now:
        ds.StudyDate = "20260402"
    store(node, then, tmp_path / "then")
    pacs.wait_for(2)
    store(node, now, tmp_path / "now")
    node.wait_for_state(WorkitemState.COMPLETED, count=2)
    pacs.wait_for(4)
    first, second = (ds for ds in pacs.received if ds.Modality == "SR")
    assert "PertinentOtherEvidenceSequence" not in first
    (other,) = second.PertinentOtherEvidenceSequence
    assert other.StudyInstanceUID == then[0].StudyInstanceUID
    told = {
        item.ReferencedSOPInstanceUID
        for series in other.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    }
    assert told == {ds.SOPInstanceUID for ds in pacs.received[:2]}
    with node.index() as index:
        values = {
            (one.study_instance_uid, one.concept_value): one.value
            for one in measurements.list_measurements(index)
        }
    uid = now[0].StudyInstanceUID
    before, after = (values[one[0].StudyInstanceUID, "118565006"] for one in (then, now))
    assert values[uid, CHANGE.value] == pytest.approx(after - before)
    assert values[uid, RELATIVE_CHANGE.value] == pytest.approx(50.0)
    assert values[uid, INTERVAL.value] == 90
    assert (then[0].StudyInstanceUID, CHANGE.value) not in values
    (one,) = (w for w in node.workitems() if w.study_instance_uid == then[0].StudyInstanceUID)
    assert "prior-absent" in {code for code, _ in one.notices}
