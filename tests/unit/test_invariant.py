"""Whatever the order of arrival, restarts and repeats: in the end a study is the same, and every instance is there."""

from __future__ import annotations

import shutil
import tempfile
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from lives import QUIET_S, WAIT_S, Life, changed, hospital_study
from pydicom import Dataset

from storage.index import deliveries, studies, workitems
from storage.model import AddOutcome

_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - fast
_ALL = range(len(hospital_study()))
_place = st.sampled_from(_ALL)
#: Not quiet yet, quiet, and after every wait.
_after = st.sampled_from((QUIET_S / 2, QUIET_S * 5, WAIT_S * 2)).map(lambda s: timedelta(seconds=s))
_moments = st.sampled_from(("run begun", "run done", "delivery begun", "delivery done"))


def undisturbed(template: Path, folder: Path) -> dict[str, object]:
    """The study as it ends when it comes in order, is looked at once, and nothing happens."""
    life = Life(folder=folder, template=template)
    try:
        for ds in hospital_study():
            assert life.receive(ds) is AddOutcome.ADDED
        life.settle()
        life.check_accounts()
        return life.final()
    finally:
        life.close()


def make_machine(  # noqa: C901 - a method for each thing that may happen
    template: Path, expected: dict[str, object]
) -> type[RuleBasedStateMachine]:
    """The ways a study can take that must end as `expected`."""

    class Lives(RuleBasedStateMachine):
        """What senders, time, the PACS and the power supply do."""

        def __init__(self) -> None:
            super().__init__()
            # In memory where there is such a folder: no disk is tested here, and every instance is synced.
            self.folder = Path(tempfile.mkdtemp(prefix="life-", dir=_MEMORY))
            self.life = Life(folder=self.folder / "node", template=template)
            self.there: set[int] = set()
            self.contents = 0

        def teardown(self) -> None:
            try:
                self.finish()
            finally:
                self.life.close()
                shutil.rmtree(self.folder)

        def finish(self) -> None:
            """The rest comes, and all is done that is to be done."""
            self.send([n for n in _ALL if n not in self.there])
            self.life.settle()
            self.life.check_accounts()
            assert self.life.final() == expected
            # Once more, for nothing.
            arrived = list(self.life.arrived)
            self.send(list(_ALL))
            self.life.come_back()
            self.life.restart()
            self.life.settle()
            assert self.life.final() == expected
            assert self.life.arrived == arrived

        def send(self, places: list[int]) -> None:
            for n in places:
                known = AddOutcome.DUPLICATE if n in self.there else AddOutcome.ADDED
                assert self.life.receive(hospital_study()[n]) is known
                self.there.add(n)

        @initialize(places=st.lists(_place, min_size=1, max_size=len(_ALL)))
        def begin(self, places: list[int]) -> None:
            self.send(places)

        @rule(places=st.lists(_place, min_size=1, max_size=8))
        def some_come(self, places: list[int]) -> None:
            self.send(places)

        @rule(n=_place)
        def other_bytes_come(self, n: int) -> None:
            if n in self.there:
                self.contents += 1
                ds = changed(hospital_study()[n], self.contents)
                assert self.life.receive(ds) is AddOutcome.CONFLICT

        @rule()
        def ours_come_back(self) -> None:
            before = studies.get(self.life.parts.index, self.life.uid)
            self.life.come_back()
            after = studies.get(self.life.parts.index, self.life.uid)
            assert (after.revision, after.last_received_at) == (
                before.revision,
                before.last_received_at,
            )

        @rule(after=_after)
        def evaluate(self, after: timedelta) -> None:
            self.life.evaluate(after)

        @rule()
        def perform(self) -> None:
            self.life.perform()

        @rule()
        def deliver(self) -> None:
            self.life.deliver()

        @rule()
        def retract(self) -> None:
            self.life.retract()

        @rule()
        def settle(self) -> None:
            self.life.settle()

        @rule()
        def the_pacs_dies_or_comes_back(self) -> None:
            self.life.is_pacs_dead = not self.life.is_pacs_dead

        @rule()
        def restart(self) -> None:
            self.life.restart()

        @precondition(lambda self: not self.life.kills)
        @rule(moment=_moments)
        def be_killed_at(self, moment: str) -> None:
            self.life.kills.append(moment)

        @invariant()
        def what_came_is_counted(self) -> None:
            assert self.life.outcomes[AddOutcome.ADDED] >= len(self.there)

    return Lives


def test_the_end_is_the_same(sqlite_template: Path, tmp_path: Path) -> None:
    expected = undisturbed(sqlite_template, tmp_path / "undisturbed")
    # It is no empty truth.
    assert len(expected["workitems"]) == 2  # type: ignore[arg-type]
    assert len(expected["shown"]) == 4  # type: ignore[arg-type]
    run_state_machine_as_test(
        make_machine(sqlite_template, expected),
        settings=settings(
            max_examples=20,
            stateful_step_count=12,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            # What fails is told as it was found: making it shorter takes longer than reading it.
            phases=(Phase.explicit, Phase.reuse, Phase.generate),
        ),
    )


@pytest.mark.parametrize("step", [1, -1])
def test_one_by_one_from_either_end(sqlite_template: Path, tmp_path: Path, step: int) -> None:
    """Every instance is evaluated, run and delivered before the next comes."""
    expected = undisturbed(sqlite_template, tmp_path / "undisturbed")
    life = Life(folder=tmp_path / "node", template=sqlite_template)
    for ds in hospital_study()[::step]:
        life.receive(ds)
        life.settle()
    life.check_accounts()
    assert life.final() == expected
    life.close()


def test_a_better_series_that_comes_after_the_result_replaces_it(
    sqlite_template: Path, tmp_path: Path
) -> None:
    """Of several series that fit, one result: a rule without `each` leaves no second one at the PACS."""
    life = Life(folder=tmp_path / "node", template=sqlite_template)
    of_series: dict[str, list[Dataset]] = {}
    for ds in hospital_study():
        of_series.setdefault(f"{ds.Modality} {ds.SeriesNumber}", []).append(ds)
    for name in ("CT 5", "CT 4"):
        for ds in of_series[name]:
            life.receive(ds)
        life.settle()
    thick, thin = sorted(
        workitems.list_workitems(life.parts.index, study=life.uid), key=lambda w: w.scheduled_at
    )
    assert [len(one.inputs[0].sop_instance_uids) for one in (thick, thin)] == [2, 4]
    assert (thick.superseded_by, thin.predecessor) == (thin.workitem_uid, thick.workitem_uid)
    assert life.final()["shown"] == {
        one.evidence.sop_instance_uid
        for one in deliveries.list_deliveries(life.parts.index, workitem=thin.workitem_uid)
        if not one.evidence.rejects
    }
    life.close()
