"""The life of a study through a real node process, real associations and a real peer; killed where it hurts."""

from __future__ import annotations

import ctypes
import json
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from dicomgen import AXIAL, CORONAL, Geometry, make_series, save_all
from nodes import Node, wait_for
from peer import Pacs
from pydicom import Dataset
from pydicom.uid import RLELossless

from node.scu import send_paths
from storage.index import deliveries, events, measurements, rules, studies, workitems
from storage.model import Delivery, DeliveryState, Destination, Rule, Workitem, WorkitemState

SEG = "1.2.840.10008.5.1.4.1.1.66.4"
SR = "1.2.840.10008.5.1.4.1.1.88.34"
SIX = Geometry(slices=6)

pytestmark = pytest.mark.slow


@pytest.fixture
def pacs() -> Iterator[Pacs]:
    with Pacs() as peer:
        yield peer


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(folder=tmp_path / "node")
    yield made
    made.kill_if_running()


@dataclass(frozen=True)
class Running:
    """A node whose rule sends what is made of every CT to a PACS; each test has a study of its own in it."""

    node: Node
    pacs: Pacs

    def came(self, study: str) -> list[Dataset]:
        """What the PACS was sent of a study, in order."""
        return [ds for ds in self.pacs.received if ds.StudyInstanceUID == study]

    def wait_for(self, study: str, count: int) -> list[Dataset]:
        """Until the PACS was sent so many objects of a study."""
        wait_for(f"{count} objects of a study", lambda: len(self.came(study)) >= count)
        return self.came(study)

    def workitems(self, study: str) -> tuple[Workitem, ...]:
        with self.node.index() as index:
            return workitems.list_workitems(index, study=study)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """For tests that stop nothing and add no rule."""
    node = Node(folder=tmp_path_factory.mktemp("running") / "node")
    with Pacs() as pacs:
        try:
            node.start()
            node.route_to(pacs.port)
            yield Running(node, pacs)
        finally:
            node.kill_if_running()


def store(node: Node, datasets: list[Dataset], folder: Path) -> None:
    """C-STORE to the node; every instance must be answered with 0x0000."""
    paths = save_all(datasets, folder)
    target = Destination(name="node", host="127.0.0.1", port=node.port, called_ae="OSTEONODE")
    sent = list(send_paths(target, paths, calling_ae="CT1", timeout_s=20))
    assert [s.status.status for s in sent if s.status] == [0x0000] * len(datasets)


def held(pacs: Pacs) -> Counter[str]:
    """SOP Classes of what the PACS holds: it may be asked twice to store an object, but it is the same object."""
    uids = {(ds.SOPClassUID, ds.SOPInstanceUID) for ds in pacs.received}
    return Counter(str(sop_class) for sop_class, _ in uids)


def test_a_series_comes_back_as_seg_and_sr(running: Running, tmp_path: Path) -> None:
    datasets = make_series(study=1, geometry=SIX)
    study = datasets[0].StudyInstanceUID
    store(running.node, datasets, tmp_path / "ct")
    seg, sr = sorted(running.wait_for(study, 2), key=lambda ds: ds.Modality)
    assert (seg.SOPClassUID, sr.SOPClassUID) == (SEG, SR)
    assert seg.PatientID == datasets[0].PatientID
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == datasets[0].SeriesInstanceUID
    # SEG first: the SR refers to it.
    assert [ds.Modality for ds in running.came(study)] == ["SEG", "SR"]
    wait_for(
        "both deliveries SENT",
        lambda: delivery_states(running.node, study) == {DeliveryState.SENT},
    )

    with running.node.index() as index:
        kinds = [event.kind for event in events.list_events(index, study=study)]
        assert kinds[:3] == ["instances-received", "study-evaluated", "workitem-completed"]
        (volume,) = measurements.list_measurements(index, study=study, concept="118565006")
        assert volume.unit == "mL"
        assert volume.value > 0
    (workitem,) = running.workitems(study)
    assert {"load", "infer", "encode"} <= set(workitem.timings)


def test_each_destination_gets_what_its_profile_says(
    node: Node, pacs: Pacs, tmp_path: Path
) -> None:
    packed = {
        "segmentation": "labelmap",
        "compression": "rle",
        "rtstruct": True,
        "key_objects": True,
    }
    node.settings["OSTEONODE_EVIDENCE__PROFILES"] = json.dumps({"packed": packed})
    with Pacs(ae_title="OLD") as old:
        node.start()
        node.route_to(pacs.port, profile="packed")
        node.route_to(old.port, name="OLD", called_ae="OLD", profile="legacy")
        store(node, make_series(geometry=SIX), tmp_path / "ct")
        wait_for(
            "everything to be sent",
            lambda: delivery_states(node) == {DeliveryState.SENT},
            timeout_s=120,
        )
        (seg,) = [ds for ds in pacs.received if ds.Modality == "SEG"]
        assert seg.SegmentationType == "LABELMAP"
        assert seg.file_meta.TransferSyntaxUID == RLELossless
        assert sorted(ds.Modality for ds in pacs.received) == ["KO", "RTSTRUCT", "SEG", "SR"]
        # A page of measurements, then a picture of each slice.
        assert Counter(ds.Modality for ds in old.received) == {"OT": 1 + SIX.slices, "DOC": 1}
    # One run for both.
    assert len(node.workitems()) == 1


def delivery_states(node: Node, study: str | None = None) -> set[DeliveryState]:
    with node.index() as index:
        return {delivery.state for delivery in deliveries.list_deliveries(index, study=study)}


def test_killed_before_the_study_is_quiet(node: Node, pacs: Pacs, tmp_path: Path) -> None:
    node.start()
    node.route_to(pacs.port)
    store(node, make_series(geometry=SIX), tmp_path / "ct")
    node.kill()
    assert not pacs.files
    node.start()
    pacs.wait_for(2)
    assert held(pacs) == {SEG: 1, SR: 1}


def test_killed_while_performing(node: Node, pacs: Pacs, tmp_path: Path) -> None:
    node.start()
    node.route_to(pacs.port, pipeline="sleeper")
    store(node, make_series(geometry=SIX), tmp_path / "ct")
    node.wait_for_state(WorkitemState.IN_PROGRESS)
    time.sleep(0.3)
    node.kill()
    assert not pacs.files
    node.start()
    pacs.wait_for(1, timeout_s=60)
    # The sleeper finds nothing, and the SR says so.
    assert held(pacs) == {SR: 1}
    (workitem,) = node.workitems()
    # The cut attempt is not held against it.
    assert workitem.attempts == 1


def test_killed_while_delivering(node: Node, pacs: Pacs, tmp_path: Path) -> None:
    pacs.delay_s = 1.5
    node.start()
    node.route_to(pacs.port)
    store(node, make_series(geometry=SIX), tmp_path / "ct")
    node.wait_for_state(WorkitemState.COMPLETED)
    wait_for("an association with the PACS", lambda: pacs.associations)
    time.sleep(0.5)
    node.kill()
    pacs.delay_s = 0.0
    node.start()
    wait_for("both deliveries SENT", lambda: delivery_states(node) == {DeliveryState.SENT})
    assert held(pacs) == {SEG: 1, SR: 1}


def test_the_same_study_twice_gives_one_result(running: Running, tmp_path: Path) -> None:
    datasets = make_series(study=2, geometry=SIX)
    study = datasets[0].StudyInstanceUID
    store(running.node, datasets, tmp_path / "ct")
    running.wait_for(study, 2)
    store(running.node, datasets, tmp_path / "ct")
    time.sleep(3)
    assert len(running.came(study)) == 2
    assert len(running.workitems(study)) == 1
    with running.node.index() as index:
        found = studies.get(index, study)
    assert (found.revision, found.instance_count) == (6, 6)


def test_a_late_instance_makes_a_new_revision(running: Running, tmp_path: Path) -> None:
    datasets = make_series(study=3, geometry=SIX)
    study = datasets[0].StudyInstanceUID
    store(running.node, datasets[:5], tmp_path / "ct")
    running.wait_for(study, 2)
    store(running.node, datasets[5:], tmp_path / "late")
    running.wait_for(study, 4)
    first, second = sorted(running.workitems(study), key=lambda w: w.study_revision)
    assert (first.study_revision, second.study_revision) == (5, 6)
    assert [len(w.inputs[0].sop_instance_uids) for w in (first, second)] == [5, 6]
    assert len({ds.SOPInstanceUID for ds in running.came(study)}) == 4


def test_a_dead_pacs_gets_everything_when_it_comes_back(
    node: Node, pacs: Pacs, tmp_path: Path
) -> None:
    pacs.stop()
    node.start()
    node.route_to(pacs.port)
    store(node, make_series(geometry=SIX), tmp_path / "ct")
    node.wait_for_state(WorkitemState.COMPLETED)

    def tried_twice() -> bool:
        with node.index() as index:
            return all(d.attempts >= 2 for d in deliveries.list_deliveries(index))

    wait_for("two attempts", tried_twice)
    assert delivery_states(node) == {DeliveryState.PENDING}
    pacs.start()
    pacs.wait_for(2)
    assert held(pacs) == {SEG: 1, SR: 1}


def test_a_dead_pacs_does_not_hold_up_another(node: Node, pacs: Pacs, tmp_path: Path) -> None:
    node.start()
    node.route_to(pacs.port)
    node.route_to(9, name="DEAD")
    store(node, make_series(geometry=SIX), tmp_path / "ct")
    pacs.wait_for(2)
    # Both rules want the same run: it happened once, and is owed to both.
    assert len(node.workitems()) == 1
    with node.index() as index:
        owed = deliveries.list_deliveries(index, destination="DEAD")
    assert [d.state for d in owed] == [DeliveryState.PENDING] * 2


def test_each_answer_settles_its_delivery(node: Node, tmp_path: Path) -> None:
    answers = {
        0xB000: DeliveryState.SENT,
        0x0111: DeliveryState.SENT,
        0xA900: DeliveryState.FAILED,
    }
    node.start()
    with ExitStack() as stack:
        for status in answers:
            peer = stack.enter_context(Pacs(ae_title=f"PACS{status:X}", status=status))
            node.route_to(peer.port, name=peer.ae_title, called_ae=peer.ae_title)
        store(node, make_series(geometry=SIX), tmp_path / "ct")

        def settled() -> Sequence[Delivery]:
            with node.index() as index:
                return [one for one in deliveries.list_deliveries(index) if not one.is_open]

        wait_for("deliveries to end", lambda: len(settled()) == 2 * len(answers))
    assert Counter((one.destination, one.status, one.state) for one in settled()) == {
        (f"PACS{status:X}", status, state): 2 for status, state in answers.items()
    }


def test_own_results_never_start_work(node: Node, pacs: Pacs, tmp_path: Path) -> None:
    node.start()
    node.route_to(pacs.port)
    datasets = make_series(geometry=SIX)
    store(node, datasets, tmp_path / "ct")
    evidence = pacs.wait_for(2)
    with node.index() as index:
        rules.add(
            index,
            Rule(
                name="anything",
                pipeline="threshold_bone",
                where=("Modality in SEG, SR, CT",),
                destinations=("PACS",),
                parameters={"threshold_hu": 300.0},
            ),
            actor="test",
        )
    store(node, evidence, tmp_path / "evidence")
    time.sleep(3)
    assert len(node.workitems()) == 1
    assert len(pacs.files) == 2
    with node.index() as index:
        study = studies.get(index, datasets[0].StudyInstanceUID)
        assert study.evaluated_revision == study.revision == 6


def test_two_series_two_results_and_the_localiser_is_explained(
    running: Running, tmp_path: Path
) -> None:
    axial = make_series(study=4, series=1, geometry=SIX)
    coronal = make_series(study=4, series=2, geometry=Geometry(slices=6, orientation=CORONAL))
    localiser = make_series(study=4, series=3, geometry=Geometry(slices=1))
    study = axial[0].StudyInstanceUID
    store(running.node, axial + coronal + localiser, tmp_path / "ct")
    running.wait_for(study, 4)
    with running.node.index() as index:
        decisions = studies.decisions(index, study)
    by_series = {d.series_instance_uid: d for d in decisions}
    assert len(by_series) == 3
    refused = by_series[localiser[0].SeriesInstanceUID]
    assert not refused.matched
    assert "instances >= 2 (seen: 1)" in refused.reason


def test_a_series_that_is_no_volume_fails_with_a_code_and_the_node_goes_on(
    running: Running, tmp_path: Path
) -> None:
    broken = make_series(study=5, geometry=SIX)
    x, y, z = broken[3].ImagePositionPatient
    broken[3].ImagePositionPatient = [x + 9, y, z]  # beside the others
    study = broken[0].StudyInstanceUID
    store(running.node, broken, tmp_path / "broken")
    wait_for(
        "the workitem to be CANCELED",
        lambda: [one.state for one in running.workitems(study)] == [WorkitemState.CANCELED],
    )
    (failed,) = running.workitems(study)
    assert failed.reason_code is not None
    assert failed.reason_code.startswith("input-")
    assert failed.reason
    whole = make_series(study=6, geometry=SIX)
    store(running.node, whole, tmp_path / "whole")
    running.wait_for(whole[0].StudyInstanceUID, 2)


def test_weights_with_a_wrong_checksum_fail_with_a_code(
    node: Node, pacs: Pacs, tmp_path: Path
) -> None:
    node.start()
    node.route_to(pacs.port, pipeline="altered")
    store(node, make_series(geometry=SIX), tmp_path / "ct")
    node.wait_for_state(WorkitemState.CANCELED)
    (failed,) = node.workitems()
    assert failed.reason_code == "weights-invalid"
    assert not pacs.files


def test_a_run_that_crashes_costs_its_attempts_only(node: Node, pacs: Pacs, tmp_path: Path) -> None:
    node.start()
    node.route_to(pacs.port, pipeline="crasher")
    store(node, make_series(study=1, geometry=SIX), tmp_path / "one")
    node.wait_for_state(WorkitemState.CANCELED)
    (failed,) = node.workitems()
    assert (failed.reason_code, failed.attempts) == ("worker-died", 3)
    with node.index() as index:
        rules.disable(index, "crasher-PACS", actor="test")
        rules.add(
            index,
            Rule(
                name="good",
                pipeline="threshold_bone",
                where=("Modality = CT",),
                destinations=("PACS",),
            ),
            actor="test",
        )
    store(node, make_series(study=2, geometry=SIX), tmp_path / "two")
    pacs.wait_for(2)


def test_a_rule_that_names_an_unknown_pipeline_is_explained(
    node: Node, pacs: Pacs, tmp_path: Path
) -> None:
    node.start()
    node.route_to(pacs.port, pipeline="not_there")
    node.route_to(pacs.port, pipeline="threshold_bone", name="SECOND")
    datasets = make_series(geometry=SIX)
    store(node, datasets, tmp_path / "ct")
    node.wait_for_state(WorkitemState.COMPLETED)
    with node.index() as index:
        found = studies.decisions(index, datasets[0].StudyInstanceUID)
    unknown = next(d for d in found if d.pipeline == "not_there")
    assert not unknown.matched
    assert "not installed" in unknown.reason


def test_a_running_workitem_can_be_canceled(node: Node, pacs: Pacs, tmp_path: Path) -> None:
    node.start()
    node.route_to(pacs.port, pipeline="hangs")
    store(node, make_series(geometry=SIX), tmp_path / "ct")
    node.wait_for_state(WorkitemState.IN_PROGRESS)
    (running,) = node.workitems()
    with node.index() as index:
        workitems.cancel(index, running.workitem_uid, actor="test")
        rules.disable(index, "hangs-PACS", actor="test")
    node.route_to(pacs.port, pipeline="threshold_bone", name="NEXT")
    store(node, make_series(study=2, geometry=SIX), tmp_path / "two")
    node.wait_for_state(WorkitemState.COMPLETED)


def test_stopping_gives_a_running_workitem_back(node: Node, pacs: Pacs, tmp_path: Path) -> None:
    node.start()
    node.route_to(pacs.port, pipeline="sleeper")
    store(node, make_series(geometry=SIX), tmp_path / "ct")
    node.wait_for_state(WorkitemState.IN_PROGRESS)
    assert node.stop() == 0
    (workitem,) = node.workitems()
    assert workitem.state in (WorkitemState.SCHEDULED, WorkitemState.COMPLETED)
    node.start()
    pacs.wait_for(1, timeout_s=60)
    assert held(pacs) == {SR: 1}


def test_a_signal_that_another_thread_is_given_stops_the_node(node: Node) -> None:
    node.start()
    assert node.process is not None
    main = node.process.pid
    time.sleep(1)  # until the main thread waits: before, it would hear of any signal
    listening = [thread for thread in _threads(main) if thread != main]
    assert ctypes.CDLL(None).tgkill(main, listening[-1], signal.SIGTERM) == 0
    assert node.process.wait(timeout=30) == 0


def _threads(process: int) -> list[int]:
    """Numbers of a process's threads that do not block SIGTERM (proc_pid_status(5))."""
    found = []
    for folder in Path(f"/proc/{process}/task").iterdir():
        lines = (folder / "status").read_text().splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        if not int(fields["SigBlk"], 16) >> (signal.SIGTERM - 1) & 1:
            found.append(int(folder.name))
    return sorted(found)


def test_several_modalities_at_once(running: Running, tmp_path: Path) -> None:
    sent = {n: make_series(study=n, geometry=SIX) for n in range(10, 14)}
    senders = [
        threading.Thread(target=store, args=(running.node, datasets, tmp_path / str(n)))
        for n, datasets in sent.items()
    ]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    for datasets in sent.values():
        running.wait_for(datasets[0].StudyInstanceUID, 2)


def test_the_whole_way_on_either_database(
    tmp_path: Path, pacs: Pacs, empty_database_url: str
) -> None:
    node = Node(
        folder=tmp_path / "node", settings={"OSTEONODE_STORAGE__DATABASE": empty_database_url}
    )
    try:
        node.start()
        node.route_to(pacs.port)
        store(node, make_series(geometry=Geometry(slices=6, orientation=AXIAL)), tmp_path / "ct")
        pacs.wait_for(2)
        assert held(pacs) == {SEG: 1, SR: 1}
    finally:
        node.kill_if_running()


def test_a_second_node_on_the_same_port_is_refused_and_takes_nothing(
    running: Running, tmp_path: Path
) -> None:
    second = Node(folder=running.node.folder, port=running.node.port)
    assert second.run_until_it_ends() == 3
    assert "cannot listen" in running.node.log
    datasets = make_series(study=7, geometry=SIX)
    store(running.node, datasets, tmp_path / "ct")
    running.wait_for(datasets[0].StudyInstanceUID, 2)


def test_no_patient_in_the_log(node: Node, pacs: Pacs, tmp_path: Path) -> None:
    node.start()
    node.route_to(pacs.port)
    datasets = make_series(geometry=SIX)
    store(node, datasets, tmp_path / "ct")
    pacs.wait_for(2)
    assert node.stop() == 0
    for value in (datasets[0].PatientName, datasets[0].PatientID, datasets[0].AccessionNumber):
        assert str(value)
        assert str(value) not in node.log
