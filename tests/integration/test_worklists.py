"""Steps of a worklist from claim to end, over HTTP: a server of its own code that keeps to PS3.18, and a real node."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from dicomgen import Geometry, make_series, save_all
from nodes import PIPELINES, Node, wait_for
from peer import Pacs
from pydicom import Dataset
from worklist import (
    OUTPUT,
    PERFORMED,
    PROGRESS,
    STATE,
    TRANSACTION,
    Fault,
    Json,
    WorklistServer,
    element,
    first,
    make_input,
    make_step,
)

from migrations.commands import upgrade
from node import lifecycle
from node.cli import main
from node.config import Config
from node.errors import PerformError
from node.lifecycle import Parts
from node.scu import Outcome, SendItem, SendStatus, send_paths
from node.ups import UpsClient
from node.worker import PerformOutcome, PerformTask
from node.worklist_search import Worklist
from node.worklists import attend
from pipelines.evidence.request import Installation
from pipelines.registry import find_pipelines
from pipelines.uids import derive_sop_instance_uid
from storage.archive import Archive
from storage.index import (
    Index,
    destinations,
    events,
    open_index,
    procedure_steps,
    rules,
    workitems,
)
from storage.model import (
    Destination,
    Evidence,
    ProcedureStep,
    ProcedureStepState,
    Rule,
    WorkitemState,
)

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
SIX = Geometry(slices=6)
CODE = ("BONE", "99TEST")
UID = "1.2.826.0.1.3680043.8.498.9"
UNSPECIFIED, INCOMPLETE, NOT_SUPPORTED, FORMAT, EQUIPMENT, RESOURCES = (
    "110513",
    "110523",
    "110522",
    "110521",
    "110501",
    "110527",
)


def encoded(ds: Dataset) -> bytes:
    buffer = BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def input_of(datasets: Sequence[Dataset]) -> Json:
    return make_input(
        datasets[0].StudyInstanceUID,
        datasets[0].SeriesInstanceUID,
        [(ds.SOPClassUID, ds.SOPInstanceUID) for ds in datasets],
    )


@pytest.fixture
def server() -> Iterator[WorklistServer]:
    with WorklistServer() as running:
        yield running


@pytest.fixture
def series() -> list[Dataset]:
    return make_series(geometry=SIX)


def offer(
    server: WorklistServer,
    datasets: Sequence[Dataset],
    uid: str = UID,
    priority: str = "MEDIUM",
    **more: Any,
) -> None:
    """A step on a series that the server's archive has."""
    first_ds = datasets[0]
    place = (first_ds.StudyInstanceUID, first_ds.SeriesInstanceUID)
    server.files[place] = [encoded(ds) for ds in datasets]
    server.create(make_step(uid, code=CODE, inputs=[input_of(datasets)], priority=priority, **more))


# -- step by step, the clock in our hands; fakes at the two seams only ------------------------------


@dataclass
class Seams:
    """What a test decides: how a run ends, and what a destination answers."""

    archive: Archive
    error: Exception | None = None
    tasks: list[PerformTask] = field(default_factory=list)
    answer: Outcome = Outcome.DELIVERED

    def perform(self, task: PerformTask) -> PerformOutcome:
        self.tasks.append(task)
        if self.error is not None:
            raise self.error
        uid = derive_sop_instance_uid("2.25", workitem_uid=task.workitem_uid, kind="SR")
        key = self.archive.write(uid, "0" * 64, [b"evidence"])
        made = Evidence(
            sop_instance_uid=uid,
            sop_class_uid="1.2.840.10008.5.1.4.1.1.88.34",
            series_instance_uid="1.9",
            study_instance_uid=task.study_instance_uid,
            transfer_syntax_uid="1.2.840.10008.1.2.1",
            workitem_uid=task.workitem_uid,
            kind="SR",
            archive_key=key,
            size=8,
            digest="0" * 64,
            created_at=NOON,
            profiles=tuple(task.profiles),
        )
        return PerformOutcome(
            evidence=(made,), measurements=(), findings=(), notices=(), timings={}, pid=1
        )

    def send(self, _: Destination, items: Sequence[SendItem]) -> list[SendStatus]:
        return [
            SendStatus(item=item, outcome=self.answer, status=0, message="as told")
            for item in items
        ]


@dataclass
class Bench:
    """The parts of a node around a real index and archive; each look is made by the test."""

    parts: Parts
    worklist: Worklist
    seams: Seams
    now: datetime = NOON

    def look(self, times: int = 1, *, wait_s: float = 60.0) -> None:
        """So much time goes by, then everything that is due."""
        for _ in range(times):
            self.now += timedelta(seconds=wait_s)
            for _ in range(20):
                if not attend(self.parts, self.worklist, now=self.now):
                    break
            else:
                raise AssertionError("it never comes to rest")

    def run(self) -> None:
        """Workitems run, results go out, the worklist is told."""
        while lifecycle.perform(self.parts, now=self.now):
            pass
        while lifecycle.deliver(self.parts, "PACS", now=datetime.now(UTC) + timedelta(hours=1)):
            pass
        self.look()

    @property
    def step(self) -> ProcedureStep:
        return procedure_steps.get(self.parts.index, "test", UID)

    @property
    def kinds(self) -> list[str]:
        return [
            event.kind.removeprefix("procedure-step-")
            for event in events.list_events(self.parts.index)
            if event.kind.startswith("procedure-step-")
        ]


@pytest.fixture
def bench(tmp_path: Path, server: WorklistServer) -> Iterator[Bench]:
    url = f"sqlite:///{tmp_path / 'index.sqlite'}"
    upgrade(url)
    with open_index(url) as index:
        yield from make_bench(index, tmp_path, server)


def make_bench(index: Index, tmp_path: Path, server: WorklistServer) -> Iterator[Bench]:
    config = Config.model_validate(
        {
            "node": {"data": tmp_path},
            "compute": {"max_attempts": 1},
            "ups": {
                "worklists": {
                    "test": {
                        "url": server.url,
                        "timeout_s": 2.0,
                        "input_wait_s": 600,
                        "work": [
                            {"code": "^".join(CODE), "rule": "bones"},
                            {
                                "code": "PLAIN^99TEST",
                                "pipeline": "threshold_bone",
                                "to": ["PACS"],
                            },
                        ],
                    }
                }
            },
        }
    )
    archive = Archive(str(tmp_path / "archive"))
    archive.prepare()
    destinations.add(
        index, Destination(name="PACS", host="localhost", port=1, called_ae="PACS_AE"), actor="test"
    )
    rules.add(
        index,
        Rule(
            name="bones",
            pipeline="threshold_bone",
            where=("Modality = CT",),
            destinations=("PACS",),
            # For worklists only.
            enabled=False,
        ),
        actor="test",
    )
    seams = Seams(archive=archive)
    parts = Parts(
        config=config,
        index=index,
        archive=archive,
        registry=find_pipelines([PIPELINES]),
        owner="node",
        installation=Installation(
            institution="", serial_number="1", uid_root="2.25", software_version="0"
        ),
        perform=seams.perform,
        cancel=lambda uid: None,
        send=seams.send,
    )
    setting = config.ups.worklists["test"]
    with UpsClient("test", setting) as client:
        worklist = Worklist(name="test", setting=setting, client=client, stopping=threading.Event())
        yield Bench(parts=parts, worklist=worklist, seams=seams)


def test_a_step_is_claimed_its_inputs_fetched_and_its_outputs_told(
    bench: Bench, server: WorklistServer, series: list[Dataset]
) -> None:
    offer(server, series)
    bench.look()
    assert bench.step.state is ProcedureStepState.PERFORMING
    assert server.state(UID) == "IN PROGRESS"
    assert server.steps[UID][TRANSACTION] == element("UI", bench.step.transaction_uid)
    (workitem,) = workitems.list_workitems(bench.parts.index)
    (held,) = workitem.inputs
    assert held.sop_instance_uids == tuple(sorted(ds.SOPInstanceUID for ds in series))
    bench.run()
    assert server.state(UID) == "COMPLETED"
    (item,) = server.step(UID)[PERFORMED]["Value"]
    (output,) = item[OUTPUT]["Value"]
    (reference,) = output["00081199"]["Value"]
    (owed,) = [task.workitem_uid for task in bench.seams.tasks]
    made = derive_sop_instance_uid("2.25", workitem_uid=owed, kind="SR")
    assert first(reference, "00081155") == made
    assert first(output["0040E021"]["Value"][0], "00080054") == "PACS_AE"
    assert bench.kinds == ["claiming", "claimed", "performing", "completed"]


def test_the_life_of_a_step_on_either_database(
    index: Index, tmp_path: Path, server: WorklistServer, series: list[Dataset]
) -> None:
    for bench in make_bench(index, tmp_path, server):
        offer(server, series)
        server.faults = [("PUT", "/state", 500)]
        bench.look(2)
        bench.run()
        assert server.state(UID) == "COMPLETED"
        assert bench.step.reason_code is None
        (listed,) = procedure_steps.list_steps(index, worklist="test")
        assert listed == bench.step
        assert procedure_steps.count_active(index, "test") == 0
        assert not procedure_steps.add(index, bench.step, now=bench.now)


def test_what_is_held_already_is_not_fetched(
    bench: Bench, server: WorklistServer, series: list[Dataset]
) -> None:
    offer(server, series)
    bench.look()
    server.create(make_step(f"{UID}.2", code=("PLAIN", "99TEST"), inputs=[input_of(series)]))
    server.files.clear()
    bench.look()
    step = procedure_steps.get(bench.parts.index, "test", f"{UID}.2")
    assert step.state is ProcedureStepState.PERFORMING
    # The same pipeline on the same inputs: one run for both, and the second did not schedule it.
    assert list(step.workitems.values()) == [False]
    bench.run()
    assert {server.state(uid) for uid in (UID, f"{UID}.2")} == {"COMPLETED"}
    assert len(bench.seams.tasks) == 1


def test_only_the_instances_that_are_listed_are_taken(
    bench: Bench, server: WorklistServer, series: list[Dataset]
) -> None:
    offer(server, series)
    server.steps[UID]["00404021"] = element("SQ", input_of(series[:4]))
    bench.look()
    (workitem,) = workitems.list_workitems(bench.parts.index)
    assert len(workitem.inputs[0].sop_instance_uids) == 4


@pytest.mark.parametrize(
    "more",
    [
        {"t00404041": element("CS", "INCOMPLETE")},
        {"t00404005": element("DT", "20270101080000+0000")},
        {"t00404018": element("SQ")},
        {"t00404021": element("SQ")},
        {"t00404021": element("SQ", {"0040E020": element("CS", "DICOM")})},
        {STATE: element("CS", "IN PROGRESS")},
    ],
    ids=["inputs not ready", "later", "other work", "no inputs", "unreadable", "another has it"],
)
def test_steps_that_are_not_for_us_are_left_alone(
    bench: Bench, server: WorklistServer, series: list[Dataset], more: dict[str, Any]
) -> None:
    offer(server, series, **more)
    before = server.step(UID)
    bench.look(3)
    assert server.step(UID) == before
    assert procedure_steps.list_steps(bench.parts.index) == ()


def test_a_station_takes_its_own_steps_and_those_for_anyone(
    bench: Bench, server: WorklistServer, series: list[Dataset]
) -> None:
    setting = bench.worklist.setting.model_copy(update={"station": "GPU1^99TEST"})
    bench.worklist.setting = setting
    for number, station in enumerate(("GPU1", "GPU2", "")):
        items = [{"00080100": element("SH", station), "00080102": element("SH", "99TEST")}]
        stations = element("SQ", *items) if station else element("SQ")
        offer(server, series, f"{UID}.{number}", t00404025=stations)
    bench.look()
    found = {one.procedure_step_uid for one in procedure_steps.list_steps(bench.parts.index)}
    assert found == {f"{UID}.0", f"{UID}.2"}


def test_the_urgent_one_goes_first_and_no_more_than_can_be_done(
    bench: Bench, server: WorklistServer, series: list[Dataset]
) -> None:
    bench.worklist.setting = bench.worklist.setting.model_copy(update={"at_once": 1})
    offer(server, series, f"{UID}.1")
    offer(server, series, priority="HIGH")
    bench.look(3)
    (step,) = procedure_steps.list_steps(bench.parts.index)
    assert step.procedure_step_uid == UID
    assert workitems.list_workitems(bench.parts.index)[0].priority == 90
    bench.run()
    assert server.state(UID) == "COMPLETED"
    assert server.state(f"{UID}.1") == "SCHEDULED"
    bench.look()
    # The same run served both.
    assert server.state(f"{UID}.1") == "COMPLETED"


def test_another_performer_was_faster(
    bench: Bench, server: WorklistServer, series: list[Dataset]
) -> None:
    offer(server, series)
    search = bench.worklist.client.search
    found = search("^".join(CODE))
    server.claim_as_another(UID)
    # Between our search and our claim: what was found then is claimed now.
    server.steps[UID][STATE] = element("CS", "SCHEDULED")
    server.faults = [("PUT", "/state", 409), ("POST", UID, 409)]
    bench.look()
    assert len(found) == 1
    assert bench.step.state is ProcedureStepState.LOST
    assert bench.step.reason_code == "claimed-by-another"
    assert workitems.list_workitems(bench.parts.index) == ()


def test_a_lost_step_that_is_offered_again_is_claimed_again(
    bench: Bench, server: WorklistServer, series: list[Dataset]
) -> None:
    offer(server, series)
    server.faults = [("PUT", "/state", 409), ("POST", UID, 409)]
    bench.look()
    before = bench.step
    bench.look()
    assert (before.state, bench.step.state) == (
        ProcedureStepState.LOST,
        ProcedureStepState.PERFORMING,
    )
    assert bench.step.transaction_uid != before.transaction_uid


def test_a_claim_whose_answer_was_lost_is_ours(
    bench: Bench, server: WorklistServer, series: list[Dataset]
) -> None:
    offer(server, series)
    server.faults = [("PUT", "/state", "lose")]
    bench.look()
    before = bench.step
    assert server.state(UID) == "IN PROGRESS"
    bench.look()
    states = before.state, bench.step.state
    assert states == (ProcedureStepState.CLAIMING, ProcedureStepState.PERFORMING)


@pytest.mark.parametrize("path", ["/state", UID])
@pytest.mark.parametrize("kind", ["COMPLETED", "CANCELED"])
def test_an_end_whose_answer_was_lost_is_the_end(
    bench: Bench, server: WorklistServer, series: list[Dataset], kind: str, path: str
) -> None:
    offer(server, series)
    bench.look()
    bench.seams.error = (
        PerformError("time-limit", "It took too long.") if kind == "CANCELED" else None
    )
    server.faults = [("PUT" if path == "/state" else "POST", path, "lose")]
    if path == UID:
        # The one before: what is told of a step under way.
        bench.worklist.asked[UID] = bench.now + timedelta(hours=1)
    bench.run()
    assert bench.step.state is not ProcedureStepState(kind)
    bench.look(2)
    assert server.state(UID) == kind
    assert bench.step.state is ProcedureStepState(kind)
    assert bench.step.reason_code == ("time-limit" if kind == "CANCELED" else None)


@pytest.mark.parametrize(
    ("fault", "code", "place"),
    [
        (401, "worklist-not-authorized", "claim"),
        (403, "worklist-not-authorized", "claim"),
        (429, "worklist-no-answer", "claim"),
        (500, "worklist-no-answer", "claim"),
        (503, "worklist-no-answer", "claim"),
        ("drop", "worklist-no-answer", "claim"),
        ("hang", "worklist-no-answer", "claim"),
        (400, "worklist-refused", "claim"),
        (401, "worklist-not-authorized", "end"),
        ("hang", "worklist-no-answer", "end"),
        (400, "worklist-refused", "end"),
    ],
)
def test_a_request_that_fails_is_made_again(  # noqa: PLR0917 - fixtures and parameters
    bench: Bench,
    server: WorklistServer,
    series: list[Dataset],
    fault: Fault,
    code: str,
    place: str,
) -> None:
    offer(server, series)
    if place == "end":
        bench.look()
    server.faults = [("PUT", "/state", fault)]
    bench.run() if place == "end" else bench.look()
    assert bench.step.reason_code == code
    bench.look()
    bench.run()
    assert server.state(UID) == "COMPLETED"
    assert bench.step.state is ProcedureStepState.COMPLETED
    assert len(bench.seams.tasks) == 1


@pytest.mark.parametrize("fault", [401, 404, 500, "drop", "garbage", "hang"])
def test_a_search_that_fails_is_made_again(
    bench: Bench, server: WorklistServer, series: list[Dataset], fault: Fault
) -> None:
    offer(server, series)
    server.faults = [("GET", "/workitems", fault)]
    bench.look()
    assert procedure_steps.list_steps(bench.parts.index) == ()
    bench.look()
    assert bench.step.state is ProcedureStepState.PERFORMING
    kinds = [event.kind for event in events.list_events(bench.parts.index)]
    assert [kind for kind in kinds if kind.startswith("worklist-")] == [
        "worklist-failed",
        "worklist-answers",
    ]


def test_a_step_that_was_removed_is_lost_and_its_run_stopped(
    bench: Bench, server: WorklistServer, series: list[Dataset]
) -> None:
    offer(server, series)
    bench.look()
    server.gone.add(UID)
    bench.look()
    assert (bench.step.state, bench.step.reason_code) == (ProcedureStepState.LOST, "step-removed")
    (workitem,) = workitems.list_workitems(bench.parts.index)
    assert workitem.state is WorkitemState.CANCELED


def test_a_step_that_the_worklist_cancels_is_stopped_here(
    bench: Bench, server: WorklistServer, series: list[Dataset]
) -> None:
    offer(server, series)
    bench.look()
    server.force(UID, "CANCELED")
    bench.look()
    assert bench.step.state is ProcedureStepState.CANCELED
    assert bench.step.reason_code == "ended-by-worklist"
    (workitem,) = workitems.list_workitems(bench.parts.index)
    assert workitem.state is WorkitemState.CANCELED


def test_a_run_that_was_there_before_the_step_is_not_stopped_with_it(
    bench: Bench, server: WorklistServer, series: list[Dataset]
) -> None:
    offer(server, series)
    bench.look()
    server.create(make_step(f"{UID}.2", code=("PLAIN", "99TEST"), inputs=[input_of(series)]))
    bench.look()
    server.force(f"{UID}.2", "CANCELED")
    bench.look()
    (workitem,) = workitems.list_workitems(bench.parts.index)
    assert workitem.state is WorkitemState.SCHEDULED
    assert bench.step.state is ProcedureStepState.PERFORMING


def reason(server: WorklistServer) -> str:
    """The Procedure Step Discontinuation Reason Code as the worklist has it."""
    (item,) = server.step(UID)[PROGRESS]["Value"]
    (code,) = item["0074100E"]["Value"]
    assert first(code, "00080102") == "DCM"
    return str(first(code, "00080100"))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (PerformError("time-limit", "It took longer than 10 s."), RESOURCES),
        (PerformError("worker-died", "The worker died."), EQUIPMENT),
    ],
)
def test_a_run_that_fails_cancels_the_step_in_codes(
    bench: Bench, server: WorklistServer, series: list[Dataset], error: PerformError, code: str
) -> None:
    offer(server, series)
    bench.look()
    bench.seams.error = error
    bench.run()
    assert server.state(UID) == "CANCELED"
    assert reason(server) == code
    (item,) = server.step(UID)[PROGRESS]["Value"]
    assert first(item, "00741238") == str(error)
    assert bench.step.reason_code == error.code


def test_inputs_that_do_not_fit_cancel_the_step(bench: Bench, server: WorklistServer) -> None:
    other = make_series(geometry=SIX)
    for ds in other:
        ds.Modality = "MR"
    offer(server, other)
    bench.look()
    assert server.state(UID) == "CANCELED"
    assert reason(server) == FORMAT
    assert "Modality" in (bench.step.reason or "")


def test_inputs_that_never_come_cancel_the_step_after_the_wait(
    bench: Bench, server: WorklistServer, series: list[Dataset]
) -> None:
    offer(server, series)
    server.files.clear()
    bench.look()
    assert bench.step.state is ProcedureStepState.CLAIMED
    assert bench.step.reason_code == "input-absent"
    bench.look(12)
    assert server.state(UID) == "CANCELED"
    assert reason(server) == INCOMPLETE


def test_inputs_that_come_late_are_used(
    bench: Bench, server: WorklistServer, series: list[Dataset]
) -> None:
    offer(server, series)
    ((place, files),) = server.files.items()
    server.files[place] = files[:3]
    bench.look()
    assert bench.step.state is ProcedureStepState.CLAIMED
    server.files[place] = files
    bench.look(3)
    bench.run()
    assert server.state(UID) == "COMPLETED"


def test_results_that_nobody_took_cancel_the_step(
    bench: Bench, server: WorklistServer, series: list[Dataset]
) -> None:
    offer(server, series)
    bench.look()
    bench.seams.answer = Outcome.PERMANENT
    bench.run()
    assert server.state(UID) == "CANCELED"
    assert reason(server) == UNSPECIFIED
    assert bench.step.reason_code == "delivery-failed"


def test_a_rule_that_is_gone_cancels_the_step(
    bench: Bench, server: WorklistServer, series: list[Dataset]
) -> None:
    offer(server, series)
    rules.remove(bench.parts.index, "bones", actor="test")
    bench.look()
    assert server.state(UID) == "CANCELED"
    assert reason(server) == EQUIPMENT


def test_a_worklist_that_refuses_for_good_is_given_up(
    bench: Bench, server: WorklistServer, series: list[Dataset]
) -> None:
    offer(server, series)
    server.faults = [("PUT", "/state", 400)] * 100
    bench.look(20, wait_s=700)
    assert bench.step.reason_code == "worklist-refused"
    assert bench.kinds.count("lost") >= 1


def test_a_token_that_is_renewed_counts_at_once(
    bench: Bench, server: WorklistServer, series: list[Dataset], tmp_path: Path
) -> None:
    server.token = "right"  # noqa: S105 - of a test
    file = tmp_path / "token"
    file.write_text("wrong\n", encoding="ascii")
    setting = bench.worklist.setting.model_copy(update={"token_file": file})
    offer(server, series)
    with UpsClient("test", setting) as client:
        bench.worklist = replace(bench.worklist, client=client, setting=setting)
        bench.look()
        assert bench.worklist.is_down
        file.write_text("right\n", encoding="ascii")
        bench.look()
        bench.run()
    assert server.state(UID) == "COMPLETED"
    assert all(one.headers["Authorization"].startswith("Bearer ") for one in server.asked)


def test_two_nodes_on_one_index_claim_a_step_once(
    bench: Bench, server: WorklistServer, series: list[Dataset]
) -> None:
    offer(server, series)
    other = Bench(
        parts=replace(bench.parts, owner="other"),
        worklist=replace(bench.worklist, asked={}),
        seams=bench.seams,
        now=bench.now,
    )
    bench.look()
    other.look()
    bench.run()
    other.look()
    assert server.state(UID) == "COMPLETED"
    assert bench.kinds == ["claiming", "claimed", "performing", "completed"]


# -- a node process ---------------------------------------------------------------------------------


@pytest.fixture
def pacs() -> Iterator[Pacs]:
    with Pacs() as peer:
        yield peer


@pytest.fixture
def node(tmp_path: Path, server: WorklistServer) -> Iterator[Node]:
    made = Node(folder=tmp_path / "node")
    made.settings["OSTEONODE_UPS__WORKLISTS"] = json.dumps(
        {
            "test": {
                "url": server.url,
                "poll_s": 0.3,
                "timeout_s": 2,
                "work": [{"code": "^".join(CODE), "pipeline": "threshold_bone", "to": ["PACS"]}],
            }
        }
    )
    yield made
    made.kill_if_running()


def add_destination(node: Node, port: int) -> None:
    with node.index() as index:
        destinations.add(
            index,
            Destination(name="PACS", host="127.0.0.1", port=port, called_ae="PACS"),
            actor="test",
        )


def wait_until(what: str, condition: Callable[[], bool], node: Node) -> None:
    try:
        wait_for(what, condition)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{node.log}") from error


def store(node: Node, datasets: list[Dataset], folder: Path) -> None:
    target = Destination(name="node", host="127.0.0.1", port=node.port, called_ae="OSTEONODE")
    sent = list(send_paths(target, save_all(datasets, folder), calling_ae="CT1", timeout_s=20))
    assert all(one.status is not None and one.status.status == 0 for one in sent)


def test_from_store_to_completed_with_the_outputs_that_the_pacs_has(
    node: Node, server: WorklistServer, pacs: Pacs, series: list[Dataset], tmp_path: Path
) -> None:
    """The cheapest trigger there is: a PACS that forwards a study, and orders by a step what shall be done."""
    node.start()
    add_destination(node, pacs.port)
    store(node, series, tmp_path / "ct")
    server.create(make_step(UID, code=CODE, inputs=[input_of(series)]))
    wait_until("the step COMPLETED", lambda: server.state(UID) == "COMPLETED", node)
    (item,) = server.step(UID)[PERFORMED]["Value"]
    told = {
        (first(reference, "00081150"), first(reference, "00081155"))
        for output in item[OUTPUT]["Value"]
        for reference in output["00081199"]["Value"]
    }
    assert told == {(str(ds.SOPClassUID), str(ds.SOPInstanceUID)) for ds in pacs.received}
    assert sorted(ds.Modality for ds in pacs.received) == ["SEG", "SR"]
    # Nobody but the order started work.
    assert len(node.workitems()) == 1
    assert node.stop() == 0


def test_a_node_that_is_killed_goes_on_with_what_it_claimed(
    node: Node, server: WorklistServer, pacs: Pacs, series: list[Dataset]
) -> None:
    node.start()
    offer(server, series)
    files = dict(server.files)
    server.files.clear()
    # No destination yet either: what was planned before it was added goes to it by name.
    add_destination(node, pacs.port)
    wait_until("the claim", lambda: server.state(UID) == "IN PROGRESS", node)
    node.kill()
    held = server.steps[UID][TRANSACTION]
    server.files.update(files)
    node.start()
    wait_until("the step COMPLETED", lambda: server.state(UID) == "COMPLETED", node)
    assert server.steps[UID][TRANSACTION] == held
    assert sorted(ds.Modality for ds in pacs.wait_for(2)) == ["SEG", "SR"]


def test_a_worklist_that_hangs_delays_no_other_work(
    node: Node, server: WorklistServer, pacs: Pacs, series: list[Dataset], tmp_path: Path
) -> None:
    server.faults = [("GET", "/workitems", "hang")] * 100
    node.start()
    node.route_to(pacs.port)
    wait_until("the first look", lambda: bool(server.asked), node)
    began = time.monotonic()
    store(node, series, tmp_path / "ct")
    assert sorted(ds.Modality for ds in pacs.wait_for(2)) == ["SEG", "SR"]
    assert time.monotonic() - began < 20
    assert "worklist_not_read" in node.log


# -- the command line -------------------------------------------------------------------------------


def test_the_command_line_shows_worklists_and_steps(
    node: Node, server: WorklistServer, series: list[Dataset], capsys: pytest.CaptureFixture[str]
) -> None:
    node.write_config()
    (node.folder / "data").mkdir()
    upgrade(node.database_url)
    asked = json.loads(node.settings["OSTEONODE_UPS__WORKLISTS"])["test"]
    with node.config.open("a", encoding="utf-8") as config:
        (work,) = asked["work"]
        config.write(
            f'[ups.worklists.test]\nurl = "{server.url}"\ntimeout_s = 2\n[[ups.worklists.test.work]]\n'
            f'code = "{work["code"]}"\npipeline = "{work["pipeline"]}"\nto = ["PACS"]\n'
        )
    offer(server, series, priority="HIGH")

    def run(*arguments: str) -> Any:
        with pytest.raises(SystemExit) as ended:
            main(["--config", str(node.config), "worklists", *arguments, "--json"])
        assert not ended.value.code, capsys.readouterr().err
        return json.loads(capsys.readouterr().out)

    (listed,) = run("list")
    assert (listed["worklist"], listed["under_way"]) == ("test", 0)
    (found,) = run("poll", "test")
    assert (found["procedure_step_uid"], found["priority"]) == (UID, "HIGH")
    # Nothing was claimed by that.
    assert server.state(UID) == "SCHEDULED"
    assert run("steps") == []
    with node.index() as index:
        step = ProcedureStep(
            worklist="test",
            procedure_step_uid=UID,
            transaction_uid="2.25.42",
            state=ProcedureStepState.CLAIMING,
            study_instance_uid="1.2.3",
            work=work["code"],
            priority="HIGH",
            inputs=(),
            claimed_at=NOON,
            next_attempt_at=NOON,
        )
        assert procedure_steps.add(index, step, now=NOON)
    (listed,) = run("steps", "--worklist", "test")
    shown = run("show", UID[-6:])
    assert listed["state"] == shown["state"] == "CLAIMING"
    assert [event["kind"] for event in shown["events"]] == ["procedure-step-claiming"]
    # Whoever knows it could end the step.
    assert "2.25.42" not in json.dumps([listed, shown])
    server.stop()
    with pytest.raises(SystemExit) as ended:
        main(["--config", str(node.config), "worklists", "poll", "test"])
    assert ended.value.code == 5
