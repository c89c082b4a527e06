"""The archive against the index: verified, repaired, expired, backed up, restored. Real files, both databases."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from io import BytesIO
from pathlib import Path

import pytest
from dicomgen import make_series
from pydicom.dataset import Dataset
from rows import make_workitem

from migrations.commands import upgrade
from node.config import Config, RetentionSection
from node.expiry import expire, plan
from node.integrity import (
    FlawKind,
    Pace,
    Scope,
    Verification,
    verify_files,
    verify_rows,
    verify_share,
)
from node.receiving import Received, receive
from node.repair import Repaired, repair
from storage.archive import Archive
from storage.index import (
    Index,
    deliveries,
    events,
    files,
    instances,
    open_index,
    retention,
    studies,
    workitems,
)
from storage.index.backup import back_up
from storage.model import (
    AddOutcome,
    Completion,
    DeliveryState,
    Evidence,
    FileState,
    Instance,
    utcnow,
)

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"


@dataclass(kw_only=True)
class Store:
    """An archive and an index, and the door to both."""

    archive: Archive
    index: Index
    folder: Path
    config: Config

    def receive(self, ds: Dataset) -> AddOutcome | None:
        buffer = BytesIO()
        ds.save_as(buffer, enforce_file_format=False, implicit_vr=False, little_endian=True)
        data = _without_meta(buffer.getvalue())
        receipt = receive(
            Received(
                sop_class_uid=CT,
                sop_instance_uid=ds.SOPInstanceUID,
                transfer_syntax_uid=EXPLICIT,
                calling_ae="CT1",
                called_ae="OSTEONODE",
            ),
            data,
            self.archive,
            self.index,
        )
        assert receipt.status == 0x0000
        return receipt.outcome

    def path(self, ds: Dataset) -> Path:
        return self.folder / instances.get(self.index, ds.SOPInstanceUID).archive_key

    def verify(self, **scope: object) -> Verification:
        found = verify_rows(
            self.archive,
            self.index,
            scope=Scope(**scope),  # type: ignore[arg-type]
            pace=Pace(),
            actor="test",
        )
        orphans = verify_files(
            self.archive, self.index, folders=self.archive.folders(), pace=Pace(), settled_s=0
        )
        return replace(found, flaws=(*found.flaws, *orphans))

    def repair(self) -> list[str]:
        done: tuple[Repaired, ...] = repair(
            self.config, self.archive, self.index, self.verify().flaws, actor="test"
        )
        return [one.action for one in done]

    def evaluate(self, study: str) -> None:
        studies.record_evaluation(
            self.index,
            study_instance_uid=study,
            revision=studies.get(self.index, study).revision,
            decisions=(),
            workitems=(),
            now=utcnow(),
        )


def _without_meta(file: bytes) -> bytes:
    if file[128:132] != b"DICM":
        return file
    return file[144 + int.from_bytes(file[140:144], "little") :]


@pytest.fixture
def store(tmp_path: Path, empty_database_url: str) -> Iterator[Store]:
    upgrade(empty_database_url)
    with open_index(empty_database_url) as index:
        yield Store(
            archive=Archive(str(tmp_path / "archive")),
            index=index,
            folder=tmp_path / "archive",
            config=Config(),
        )


@pytest.fixture
def series(store: Store) -> list[Dataset]:
    made = make_series()
    for ds in made:
        assert store.receive(ds) is AddOutcome.ADDED
    return made


# -- verify and repair ----------------------------------------------------------------------------


def test_what_is_whole_has_no_flaw_and_no_mark(store: Store, series: list[Dataset]) -> None:
    found = store.verify()
    assert (found.checked, found.flaws) == (len(series), ())
    assert found.bytes == sum(store.path(ds).stat().st_size for ds in series)
    assert files.marks_of(store.index, series[0].StudyInstanceUID) == ()
    assert store.repair() == []


def test_a_flipped_bit_and_a_lost_file_are_marked_and_come_back_when_sent_again(
    store: Store, series: list[Dataset]
) -> None:
    damaged, lost = store.path(series[0]), store.path(series[1])
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.chmod(0o640)
    damaged.write_bytes(content)
    lost.unlink()
    kinds = {flaw.sop_instance_uid: flaw.kind for flaw in store.verify().flaws}
    assert kinds == {
        series[0].SOPInstanceUID: FlawKind.DAMAGED,
        series[1].SOPInstanceUID: FlawKind.MISSING,
    }
    study = series[0].StudyInstanceUID
    assert sorted(m.state for m in files.marks_of(store.index, study)) == ["DAMAGED", "MISSING"]
    # Said once, however often it is found.
    store.verify()
    kinds_of_events = [event.kind for event in events.list_events(store.index, study=study)]
    assert sorted(kinds_of_events) == ["file-damaged", "file-missing"]

    assert sorted(store.repair()) == ["aside", "marked"]
    assert not damaged.exists()
    assert (store.folder / "aside" / damaged.name).read_bytes() == content
    assert sorted(m.state for m in files.marks_of(store.index, study)) == ["DAMAGED", "MISSING"]

    for ds in series[:2]:
        assert store.receive(ds) is AddOutcome.DUPLICATE
    assert store.verify().flaws == ()
    assert files.marks_of(store.index, study) == ()
    # No news: the content is what it was.
    assert studies.get(store.index, study).revision == len(series)


def test_a_damaged_file_is_replaced_when_its_instance_comes_again_before_anybody_saw(
    store: Store, series: list[Dataset]
) -> None:
    path = store.path(series[0])
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    assert store.receive(series[0]) is AddOutcome.DUPLICATE
    assert path.read_bytes() == whole
    assert store.verify().flaws == ()


def test_a_file_that_is_back_is_unmarked(store: Store, series: list[Dataset]) -> None:
    path = store.path(series[0])
    hidden = path.rename(path.with_suffix(".hidden"))
    store.verify()
    assert len(files.marks_of(store.index, series[0].StudyInstanceUID)) == 1
    hidden.rename(path)
    assert store.verify().flaws == ()
    assert files.marks_of(store.index, series[0].StudyInstanceUID) == ()


def test_files_of_nobody_are_told_and_left(store: Store, series: list[Dataset]) -> None:
    foreign = store.folder / "a" / "b" / "holiday.jpg"
    foreign.parent.mkdir(parents=True, exist_ok=True)
    foreign.write_bytes(b"x")
    (flaw,) = store.verify().flaws
    assert (flaw.kind, flaw.archive_key) == (FlawKind.FOREIGN, "a/b/holiday.jpg")
    assert store.repair() == ["left"]
    assert foreign.exists()


def test_an_orphan_that_is_not_what_its_name_says_is_put_aside(
    store: Store, series: list[Dataset]
) -> None:
    key = f"0/1/01{'2' * 62}.dcm"
    (store.folder / "0/1").mkdir(parents=True, exist_ok=True)
    (store.folder / key).write_bytes(store.path(series[0]).read_bytes())
    assert store.repair() == ["aside"]
    assert (store.folder / "aside" / Path(key).name).exists()
    assert store.verify().flaws == ()


def test_a_young_file_without_a_row_is_left_alone(store: Store, series: list[Dataset]) -> None:
    source = store.path(series[0])
    key = f"0/1/01{'2' * 62}.dcm"
    (store.folder / "0/1").mkdir(parents=True, exist_ok=True)
    (store.folder / key).write_bytes(source.read_bytes())
    look = {"folders": ["0/1"], "pace": Pace()}
    assert verify_files(store.archive, store.index, **look) == ()  # type: ignore[arg-type]
    an_hour_ago = time.time() - 3601
    os.utime(store.folder / key, (an_hour_ago, an_hour_ago))
    (flaw,) = verify_files(store.archive, store.index, **look)  # type: ignore[arg-type]
    assert flaw.kind is FlawKind.ORPHAN_DAMAGED


def test_shares_of_nights_are_the_whole_archive(store: Store) -> None:
    for n in range(3):
        for ds in make_series(study=n):
            store.receive(ds)
    total = files.count(store.index)
    lost = store.path(make_series(study=2)[0])
    lost.unlink()
    nights = 3
    found = [
        verify_share(store.archive, store.index, nights=nights, pace=Pace(), actor="node")
        for _ in range(nights)
    ]
    # A batch is not cut: the first share may be all of a small archive.
    assert sum(one.checked for one in found) >= total
    assert FlawKind.MISSING in {flaw.kind for one in found for flaw in one.flaws}
    lines = events.list_events(store.index, kind="archive-verified")
    assert [line.detail["next_folder"] for line in lines] == [86, 172, 2]


def test_reading_is_no_faster_than_asked(store: Store, series: list[Dataset]) -> None:
    size = sum(store.path(ds).stat().st_size for ds in series)
    began = time.monotonic()
    verify_rows(
        store.archive,
        store.index,
        scope=Scope(),
        pace=Pace(rate=size / 0.5),
        actor="test",
    )
    assert time.monotonic() - began >= 0.4


# -- backup and restore ---------------------------------------------------------------------------


def test_an_older_index_loses_no_instance(tmp_path: Path) -> None:
    """Backed up, written to, restored: what came since is found in the archive, and is news."""
    database = tmp_path / "index.sqlite"
    url = f"sqlite:///{database}"
    upgrade(url)
    archive = Archive(str(tmp_path / "archive"))
    early, late = make_series(study=1), make_series(study=2)
    copy = tmp_path / "backup.sqlite"
    with open_index(url) as index:
        first = Store(archive=archive, index=index, folder=tmp_path / "archive", config=Config())
        for ds in early[:-1]:
            first.receive(ds)
        assert back_up(url, copy) == copy.stat().st_size
        for ds in (early[-1], *late):
            first.receive(ds)
        before = {ds.SOPInstanceUID: instances.get(index, ds.SOPInstanceUID) for ds in early + late}
    for suffix in ("", "-wal", "-shm"):
        Path(f"{database}{suffix}").unlink(missing_ok=True)
    copy.rename(database)
    with open_index(url) as index:
        store = replace(first, index=index)
        assert store.repair() == ["indexed"] * (1 + len(late))
        assert store.verify().flaws == ()
        for uid, instance in before.items():
            again = instances.get(index, uid)
            assert abs(again.received_at - instance.received_at) < timedelta(seconds=5)
            assert replace(again, received_at=instance.received_at) == instance
        waiting = {study.study_instance_uid for study in studies.to_evaluate(index)}
        assert waiting == {early[0].StudyInstanceUID, late[0].StudyInstanceUID}


# -- retention ------------------------------------------------------------------------------------

OLD = RetentionSection(received_days=30, evidence_days=60)


def days(count: float) -> timedelta:
    return timedelta(days=count)


def test_what_is_old_and_done_with_expires_and_its_row_stays(
    store: Store, series: list[Dataset]
) -> None:
    study = series[0].StudyInstanceUID
    paths = [store.path(ds) for ds in series]
    now = utcnow() + days(31)
    # Not evaluated yet: whatever its age, it is owed a look.
    assert plan(store.index, OLD, now=now) == ()
    store.evaluate(study)
    assert plan(store.index, OLD, now=utcnow() + days(29)) == ()
    assert len(plan(store.index, OLD, now=now)) == 1
    assert all(path.exists() for path in paths)

    (gone,) = expire(store.archive, store.index, OLD, actor="node", now=now)
    assert gone.candidate.files == len(series)
    assert not any(path.exists() for path in paths)
    assert {mark.state for mark in files.marks_of(store.index, study)} == {FileState.EXPIRED}
    assert studies.get(store.index, study).instance_count == len(series)
    (line,) = events.list_events(store.index, kind="study-expired")
    assert (line.study_instance_uid, line.detail["files"]) == (study, len(series))
    found = store.verify()
    assert (found.checked, found.expired, found.flaws) == (0, len(series), ())
    assert expire(store.archive, store.index, OLD, actor="node", now=now) == ()


def test_an_expired_instance_that_comes_again_is_kept_again_and_is_no_news(
    store: Store, series: list[Dataset]
) -> None:
    study = series[0].StudyInstanceUID
    paths = [store.path(ds) for ds in series]
    store.evaluate(study)
    # In the past, as seen from the second time.
    policy = RetentionSection(received_days=30)
    expire(store.archive, store.index, policy, actor="node", now=utcnow() + days(31))
    for ds in series:
        assert store.receive(ds) is AddOutcome.DUPLICATE
    assert all(path.exists() for path in paths)
    assert store.verify().flaws == ()
    assert files.marks_of(store.index, study) == ()
    assert studies.to_evaluate(store.index) == ()
    # Its age counts from then: it does not vanish the same night.
    assert plan(store.index, policy, now=utcnow() + days(29)) == ()
    assert len(plan(store.index, policy, now=utcnow() + days(31))) == 1


def test_killed_between_the_decision_and_the_removal(store: Store, series: list[Dataset]) -> None:
    store.evaluate(series[0].StudyInstanceUID)
    path = store.path(series[0])
    whole = path.read_bytes()
    expire(store.archive, store.index, OLD, actor="node", now=utcnow() + days(31))
    path.write_bytes(whole)
    (flaw,) = store.verify().flaws
    assert flaw.kind is FlawKind.LEFT_OVER
    assert store.repair() == ["removed"]
    assert not path.exists()


def test_what_is_owed_never_expires(store: Store, series: list[Dataset]) -> None:
    study = series[0].StudyInstanceUID
    workitem = make_workitem(1, study=study, at=utcnow())
    studies.record_evaluation(
        store.index,
        study_instance_uid=study,
        revision=len(series),
        decisions=(),
        workitems=[workitem],
        now=utcnow(),
    )
    late = utcnow() + days(90)
    assert plan(store.index, OLD, now=late) == ()  # scheduled
    claimed = workitems.claim(store.index, owner="n", now=utcnow(), lease_s=60)
    assert claimed is not None
    assert plan(store.index, OLD, now=late) == ()  # in progress
    _complete(store, workitem.workitem_uid, study)
    assert plan(store.index, OLD, now=late) == ()  # delivery pending
    (delivery,) = deliveries.list_deliveries(store.index)
    for state, expected in (
        (DeliveryState.SENT, {"sent": 2, "committed": 0}),
        (DeliveryState.COMMITTED, {"sent": 2, "committed": 2}),
    ):
        deliveries.settle(
            store.index,
            delivery_id=delivery.delivery_id,
            state=state,
            status=0,
            message="",
            next_attempt_at=None,
            now=utcnow(),
        )
        for when, count in expected.items():
            policy = OLD.model_copy(update={"when": when})
            assert len(plan(store.index, policy, now=late)) == count, (state, when)
    studies.evaluate_again(store.index, study, actor="test")
    assert plan(store.index, OLD, now=late) == ()  # to be evaluated again


def _complete(store: Store, workitem_uid: str, study: str) -> None:
    evidence = Evidence(
        sop_instance_uid="1.9.1.1",
        sop_class_uid="1.2.840.10008.5.1.4.1.1.66.4",
        series_instance_uid="1.9.1.8",
        study_instance_uid=study,
        transfer_syntax_uid=EXPLICIT,
        workitem_uid=workitem_uid,
        kind="SEG",
        archive_key=store.archive.write("1.9.1.1", "d", [b"evidence"]),
        size=8,
        digest="d",
        created_at=utcnow(),
        profiles=("generic",),
    )
    assert workitems.complete(
        store.index,
        Completion(
            workitem_uid=workitem_uid,
            owner="n",
            evidence=(evidence,),
            measurements=(),
            started_at=utcnow(),
            ended_at=utcnow(),
            profiles={"PACS": "generic"},
        ),
    )


def test_the_oldest_expire_until_there_is_room(store: Store) -> None:
    for n in range(3):
        for ds in make_series(study=n):
            store.receive(ds)
            time.sleep(0.002)
        store.evaluate(make_series(study=n)[0].StudyInstanceUID)
    total = sum(path.stat().st_size for path in store.folder.rglob("*.dcm"))
    policy = RetentionSection(max_gb=total * 0.5 / 1e9)
    assert plan(store.index, policy, now=utcnow()) == ()  # nothing is a day old
    chosen = plan(store.index, policy, now=utcnow() + days(2))
    assert [one.candidate.study_instance_uid for one in chosen] == [
        make_series(study=n)[0].StudyInstanceUID for n in range(2)
    ]


def test_a_study_that_something_came_of_meanwhile_is_left(
    store: Store, series: list[Dataset]
) -> None:
    study = series[0].StudyInstanceUID
    store.evaluate(study)
    now = utcnow() + days(31)
    (one,) = plan(store.index, OLD, now=now)
    extra: Instance = instances.get(store.index, series[0].SOPInstanceUID)
    instances.add(store.index, replace(extra, sop_instance_uid="1.2.3.4", received_at=now))
    how = {"before": one.before, "when": "sent", "reason": "", "actor": "n", "now": now}
    assert retention.expire(store.index, one.candidate, **how) == ()  # type: ignore[arg-type]
    store.evaluate(study)
    assert retention.expire(store.index, one.candidate, **how) == ()  # type: ignore[arg-type]
