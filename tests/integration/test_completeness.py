"""When a study starts: a real node, and senders as they are, all at once over real associations."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
from dicomgen import Geometry, make_series, make_uid
from nodes import Node, free_port, wait_for
from peer import Pacs
from pydicom import Dataset
from pynetdicom import AE, build_context
from pynetdicom.association import Association

from storage.archive import Archive
from storage.index import (
    deliveries,
    destinations,
    events,
    instances,
    rules,
    studies,
    wholeness,
    workitems,
)
from storage.model import Destination, Rule, Study, Workitem, WorkitemState

QUIET_S = 5.0
RELEASED_S = 0.3
COUNTED_S = 0.2
TEN = Geometry(slices=10)
CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"


@dataclass(frozen=True, kw_only=True)
class Sender:
    """One modality; each scenario has a study of its own."""

    port: int
    study: int
    calling_ae: str = "CT1"

    @property
    def uid(self) -> str:
        return make_uid(1, self.study)

    def slices(self, *numbers: int) -> list[Dataset]:
        """Of ten, those of these Instance Numbers; all when none is named."""
        found = make_series(study=self.study, geometry=TEN)
        return [found[n - 1] for n in numbers] if numbers else found

    def associate(self) -> Association:
        ae = AE(self.calling_ae)
        ae.acse_timeout = ae.dimse_timeout = 120
        contexts = [build_context(CT, EXPLICIT)]
        assoc = ae.associate("127.0.0.1", self.port, contexts=contexts, ae_title="OSTEONODE")
        assert assoc.is_established
        return assoc

    def send(
        self, datasets: Sequence[Dataset], *, pause_s: float = 0.0, released: bool = True
    ) -> None:
        """Send in one association; each must be answered with 0x0000."""
        assoc = self.associate()
        for n, ds in enumerate(datasets):
            if n:
                time.sleep(pause_s)
            assert assoc.send_c_store(ds).Status == 0x0000
        if released:
            assoc.release()
        else:
            assoc.abort()


def send_whole(sender: Sender) -> None:
    sender.send(sender.slices())


def send_in_random_order(sender: Sender) -> None:
    sender.send(sender.slices(7, 2, 9, 1, 4, 10, 3, 6, 8, 5))


def send_slowly(sender: Sender) -> None:
    """Every pause is longer than what follows a release."""
    sender.send(sender.slices(), pause_s=2 * RELEASED_S)


def send_each_alone(sender: Sender) -> None:
    for ds in sender.slices():
        sender.send([ds])
        time.sleep(2 * RELEASED_S)


def send_a_gap_and_fill_it(sender: Sender) -> None:
    sender.send(sender.slices(1, 2, 3, 6, 7, 8, 9, 10))
    time.sleep(4 * RELEASED_S)
    sender.send(sender.slices(4, 5))


def send_a_gap(sender: Sender) -> None:
    sender.send(sender.slices(1, 2, 3, 6, 7, 8, 9, 10))


def abort_in_the_middle(sender: Sender) -> None:
    sender.send(sender.slices(1, 2, 3, 4), released=False)
    time.sleep(4 * RELEASED_S)
    sender.send(sender.slices())


@dataclass(frozen=True, kw_only=True)
class Scene:
    send: Callable[[Sender], None]
    calling_ae: str = "CT1"


#: CT2's archive counts, CT3's is dead, what CT4 sends runs with gaps.
SCENES: Mapping[str, Scene] = {
    "whole": Scene(send=send_whole),
    "random": Scene(send=send_in_random_order),
    "slow": Scene(send=send_slowly),
    "each alone": Scene(send=send_each_alone),
    "gap filled": Scene(send=send_a_gap_and_fill_it),
    "gap held": Scene(send=send_a_gap),
    "gap run": Scene(send=send_a_gap, calling_ae="CT4"),
    "aborted": Scene(send=abort_in_the_middle),
    "counted": Scene(send=send_whole, calling_ae="CT2"),
    "archive has more": Scene(send=send_whole, calling_ae="CT2"),
    "archive dead": Scene(send=send_whole, calling_ae="CT3"),
    "held by hand": Scene(send=send_whole),
}


@dataclass(frozen=True, kw_only=True)
class Played:
    """All scenes, played to the end."""

    node: Node
    archive: Pacs
    senders: Mapping[str, Sender]

    def study(self, scene: str) -> Study:
        with self.node.index() as index:
            return studies.get(index, self.senders[scene].uid)

    def ran(self, scene: str) -> tuple[Workitem, ...]:
        with self.node.index() as index:
            return workitems.list_workitems(index, study=self.senders[scene].uid)

    def seconds(self, scene: str) -> float:
        """From the last instance to the first workitem."""
        (first, *_) = sorted(one.scheduled_at for one in self.ran(scene))
        return (first - self.study(scene).last_received_at).total_seconds()

    def reasons(self, scene: str) -> set[str]:
        verdict = self.study(scene).verdict
        assert verdict is not None
        return {reason.code for reason in verdict.reasons}


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Played]:
    node = Node(folder=tmp_path_factory.mktemp("node"))
    node.settings = {
        "OSTEONODE_ROUTING__QUIET_S": str(QUIET_S),
        "OSTEONODE_ROUTING__RELEASED_QUIET_S": str(RELEASED_S),
        "OSTEONODE_ROUTING__COUNT_QUIET_S": str(COUNTED_S),
        "OSTEONODE_ROUTING__ASK": '{"CT2": "ARCHIVE", "CT3": "DEAD"}',
        "OSTEONODE_ROUTING__ASK_TIMEOUT_S": "2",
    }
    senders = {
        name: Sender(port=node.port, study=n, calling_ae=scene.calling_ae)
        for n, (name, scene) in enumerate(SCENES.items(), start=1)
    }
    with Pacs(ae_title="ARCHIVE") as archive:
        try:
            node.start()
            _set_up(node, archive, senders)
            with ThreadPoolExecutor(len(SCENES)) as pool:
                sent = [pool.submit(SCENES[name].send, one) for name, one in senders.items()]
                for one in sent:
                    one.result()
            playing = Played(node=node, archive=archive, senders=senders)
            wait_for("every study but one to be evaluated", lambda: _are_settled(playing))
            yield playing
        finally:
            node.kill_if_running()


def _set_up(node: Node, archive: Pacs, senders: Mapping[str, Sender]) -> None:
    for name, held in (("counted", 10), ("archive has more", 12)):
        ct, sr = (make_uid(1, senders[name].study, number) for number in (1, 2))
        archive.holds[senders[name].uid] = {ct: ("CT", held), sr: ("SR", 1)}
    with node.index() as index:
        for destination in (
            archive.destination,
            Destination(name="DEAD", host="127.0.0.1", port=free_port(), called_ae="DEAD"),
        ):
            destinations.add(index, destination, actor="test")
        for name, where, incomplete in (
            ("held", "calling_ae != CT4", "hold"),
            ("run", "calling_ae = CT4", "run"),
        ):
            rule = Rule(
                name=name,
                pipeline="threshold_bone",
                where=(where,),
                destinations=("ARCHIVE",),
                wait_s=1,
                incomplete=incomplete,
            )
            rules.add(index, rule, actor="test")
    # Held as soon as it is known, long before it could be evaluated.
    sender = senders["held by hand"]
    sender.send(sender.slices(1))
    with node.index() as index:
        wholeness.hold(index, sender.uid, actor="anna", reason="again tomorrow")


def _are_settled(played: Played) -> bool:
    with played.node.index() as index:
        left = [one.study_instance_uid for one in studies.to_evaluate(index)]
        going = [
            one
            for one in workitems.list_workitems(index, limit=1000)
            if one.state in (WorkitemState.SCHEDULED, WorkitemState.IN_PROGRESS)
        ]
    return not left and not going


@pytest.mark.parametrize("scene", ["whole", "random", "archive dead"])
def test_what_is_plainly_whole_starts_after_the_release(played: Played, scene: str) -> None:
    assert RELEASED_S <= played.seconds(scene) < QUIET_S
    assert {"released", "geometry-whole", "inputs-there"} <= played.reasons(scene)
    (one,) = played.ran(scene)
    assert one.state == WorkitemState.COMPLETED


def test_a_slow_sender_is_not_taken_for_done(played: Played) -> None:
    (one,) = played.ran("slow")
    assert len(one.inputs[0].sop_instance_uids) == 10
    # Three times its longest pause.
    assert played.seconds("slow") >= 3 * 2 * RELEASED_S
    assert "slow-sender" in played.reasons("slow")


def test_an_association_for_each_slice(played: Played) -> None:
    (one,) = played.ran("each alone")
    assert len(one.inputs[0].sop_instance_uids) == 10
    assert played.seconds("each alone") >= QUIET_S
    assert played.study("each alone").associations == 10
    assert "releases-say-nothing" in played.reasons("each alone")


def test_a_gap_that_fills(played: Played) -> None:
    (one,) = played.ran("gap filled")
    assert len(one.inputs[0].sop_instance_uids) == 10
    verdict = played.study("gap filled").verdict
    assert verdict is not None
    assert verdict.whole


def test_an_abort_is_no_end(played: Played) -> None:
    (one,) = played.ran("aborted")
    assert len(one.inputs[0].sop_instance_uids) == 10
    assert played.study("aborted").aborted_at is not None


def test_an_archive_that_has_as_many_says_that_it_is_whole(played: Played) -> None:
    assert COUNTED_S <= played.seconds("counted") < QUIET_S
    study = played.study("counted")
    assert study.asked is not None
    assert (study.asked.of, study.asked.instances) == ("ARCHIVE", 11)
    assert "counts-agree" in played.reasons("counted")


def test_a_series_of_which_the_archive_has_more_is_held(played: Played) -> None:
    assert played.ran("archive has more") == ()
    assert {"instances-missing", "counts-short"} <= played.reasons("archive has more")


def test_an_archive_that_is_dead_is_named_and_holds_up_nobody(played: Played) -> None:
    asked = played.study("archive dead").asked
    assert asked is not None
    assert "DEAD" in asked.failure
    assert "no-answer" in played.reasons("archive dead")


def test_a_gap_is_held_and_runs_when_it_is_released(played: Played) -> None:
    uid = played.senders["gap held"].uid
    assert played.ran("gap held") == ()
    with played.node.index() as index:
        (decision,) = (d for d in studies.decisions(index, uid) if d.rule == "held")
        assert decision.code == "held"
        assert "2 of 10 places" in decision.reason
        wholeness.release(index, uid, actor="anna")
    wait_for(
        "the run",
        lambda: [one.state for one in played.ran("gap held")] == [WorkitemState.COMPLETED],
    )
    (one,) = played.ran("gap held")
    assert [code for code, _ in one.notices] == ["slices-missing"]


def test_a_gap_runs_where_the_rule_says_so_and_the_report_says_it(played: Played) -> None:
    (one,) = played.ran("gap run")
    assert played.seconds("gap run") >= QUIET_S
    ((code, sentence),) = one.notices
    assert code == "slices-missing"
    with played.node.index() as index:
        owed = deliveries.list_deliveries(index, study=played.senders["gap run"].uid)
    (key,) = {d.evidence.archive_key for d in owed if d.evidence.kind == "SR"}
    archive = Archive(str(played.node.folder / "data" / "archive"))
    with archive.open(key) as file:
        assert sentence.encode() in file.read()


def test_what_is_held_by_hand_outlives_a_kill_and_runs_when_released(played: Played) -> None:
    node, uid = played.node, played.senders["held by hand"].uid
    assert played.ran("held by hand") == ()
    node.kill()
    node.start()
    time.sleep(QUIET_S)
    hold = played.study("held by hand").held
    assert hold is not None
    assert (hold.by, hold.reason) == ("anna", "again tomorrow")
    assert played.ran("held by hand") == ()
    with node.index() as index:
        wholeness.release(index, uid, actor="bert")
    wait_for("the run", lambda: played.ran("held by hand") != ())
    with node.index() as index:
        held = instances.of_series(index, make_uid(1, played.senders["held by hand"].study, 1))
        said = [e.kind for e in events.list_events(index, study=uid) if e.actor == "bert"]
    assert len(played.ran("held by hand")[0].inputs[0].sop_instance_uids) == len(held) == 10
    assert said == ["study-released"]
