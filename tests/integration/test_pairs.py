"""Two inputs of one pipeline, through a real node process and real associations: PET and CT of one study."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from dicomgen import Geometry, make_series, make_uid, save_all
from nodes import Node, wait_for
from peer import Pacs
from pydicom import Dataset
from pydicom.uid import PositronEmissionTomographyImageStorage

from node.scu import send_paths
from storage.index import destinations, rules, studies
from storage.model import Decision, Destination, Rule, Workitem, WorkitemState

SIX = Geometry(slices=6)
#: Longer than a study takes to become quiet, to be looked at, and to be sent by a loaded machine.
WAIT_S = 8

pytestmark = pytest.mark.slow


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(folder=tmp_path / "node")
    made.start()
    yield made
    made.kill_if_running()


def make_pet(*, series: int = 10, geometry: Geometry = SIX) -> list[Dataset]:
    """The same disc, hot."""
    datasets = make_series(series=series, geometry=geometry)
    for ds in datasets:
        ds.Modality = "PT"
        ds.SeriesDescription = "PET"
        ds.SOPClassUID = PositronEmissionTomographyImageStorage
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    return datasets


def store(node: Node, datasets: list[Dataset], folder: Path) -> None:
    """C-STORE to the node; every instance must be answered with 0x0000."""
    paths = save_all(datasets, folder / str(datasets[0].SeriesInstanceUID)[-12:])
    target = Destination(name="node", host="127.0.0.1", port=node.port, called_ae="OSTEONODE")
    sent = list(send_paths(target, paths, calling_ae="CT1", timeout_s=20))
    assert [s.status.status for s in sent if s.status] == [0x0000] * len(datasets)


def add_rule(node: Node, pacs: Pacs, *, wait_s: int = WAIT_S, without: tuple[str, ...]) -> None:
    with node.index() as index:
        destinations.add(
            index,
            Destination(name="PACS", host="127.0.0.1", port=pacs.port, called_ae="PACS"),
            actor="test",
        )
        rule = Rule(
            name="hot",
            pipeline="hot_bone",
            where=(),
            destinations=("PACS",),
            roles={"pet": (), "ct": ("SeriesDescription ~ ^Bone",)},
            wait_s=wait_s,
            without=without,
        )
        rules.add(index, rule, actor="test")


def decided(node: Node) -> dict[tuple[str, str], Decision]:
    """The last evaluation, by role and series."""
    with node.index() as index:
        (study,) = studies.list_studies(index)
        found = studies.decisions(index, study.study_instance_uid)
    return {(one.role, one.series_instance_uid): one for one in found}


def codes(node: Node) -> dict[str, str]:
    return {role: one.code for (role, _), one in decided(node).items()}


def waits(node: Node) -> bool:
    with node.index() as index:
        found = studies.list_studies(index)
        return bool(found) and found[0].waits_until is not None


def completed(node: Node, count: int = 1) -> tuple[Workitem, ...]:
    """That many workitems, all completed, in the order they were scheduled."""
    wait_for(
        f"{count} completed\n{node.log}",
        lambda: [w.state for w in node.workitems()] == [WorkitemState.COMPLETED] * count,
    )
    return tuple(sorted(node.workitems(), key=lambda w: w.scheduled_at))


def roles(workitem: Workitem) -> dict[str, str]:
    return {one.role: one.series_instance_uid for one in workitem.inputs}


def uid_of(datasets: list[Dataset]) -> str:
    return str(datasets[0].SeriesInstanceUID)


def texts(ds: Dataset) -> list[str]:
    """Every text of a report."""
    found = [str(ds.TextValue)] if "TextValue" in ds else []
    return found + [text for item in ds.get("ContentSequence", []) for text in texts(item)]


def test_a_pair_that_comes_together_runs_at_once(node: Node, pacs: Pacs, tmp_path: Path) -> None:
    add_rule(node, pacs, wait_s=3600, without=("ct",))
    pet, ct = make_pet(), make_series(geometry=SIX)
    store(node, pet + ct, tmp_path)
    (workitem,) = completed(node)
    assert roles(workitem) == {"pet": uid_of(pet), "ct": uid_of(ct)}
    assert workitem.notices == ()
    seg, _ = sorted(pacs.wait_for(2), key=lambda ds: ds.Modality)
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == uid_of(pet)
    assert codes(node) == {"pet": "runs", "ct": "runs"}
    assert not waits(node)


def test_a_partner_that_comes_before_the_deadline_starts_the_pair(
    node: Node, pacs: Pacs, tmp_path: Path
) -> None:
    add_rule(node, pacs, wait_s=3600, without=("ct",))
    pet, ct = make_pet(), make_series(geometry=SIX)
    store(node, pet, tmp_path)
    wait_for("the wait", lambda: waits(node))
    assert codes(node) == {"pet": "waits", "ct": "waits"}
    assert node.workitems() == ()
    store(node, ct, tmp_path)
    (workitem,) = completed(node)
    assert set(roles(workitem)) == {"pet", "ct"}
    assert not waits(node)


def test_a_partner_that_never_comes_is_gone_without_and_one_that_comes_later_still_counts(
    node: Node, pacs: Pacs, tmp_path: Path
) -> None:
    add_rule(node, pacs, without=("ct",))
    pet, ct = make_pet(), make_series(geometry=SIX)
    store(node, pet, tmp_path)
    wait_for("the wait", lambda: waits(node))
    began = time.monotonic()
    (alone,) = completed(node)
    assert time.monotonic() - began > 1
    assert roles(alone) == {"pet": uid_of(pet)}
    ((code, sentence),) = alone.notices
    assert (code, "'ct'" in sentence) == ("input-absent", True)
    report = next(ds for ds in pacs.wait_for(2) if ds.Modality == "SR")
    assert sentence in texts(report)
    assert codes(node) == {"pet": "runs", "ct": "absent"}
    # Much later.
    store(node, ct, tmp_path)
    _, pair = completed(node, 2)
    assert set(roles(pair)) == {"pet", "ct"}
    assert len({ds.SOPInstanceUID for ds in pacs.wait_for(4)}) == 4


def test_where_the_rule_says_hold_nothing_runs_and_it_is_said(
    node: Node, pacs: Pacs, tmp_path: Path
) -> None:
    add_rule(node, pacs, wait_s=3, without=())
    pet = make_pet()
    store(node, pet, tmp_path)
    wait_for("it to be held", lambda: "ct" in codes(node) and codes(node)["ct"] == "held")
    assert not waits(node)
    assert node.workitems() == ()
    shown = cli(node, "studies", "show", str(pet[0].StudyInstanceUID))
    assert "hot_bone is held" in shown
    assert "the rule allows no run without ct" in shown
    assert "No series that fits as ct came within 3s" in shown


def test_a_ct_in_another_frame_of_reference_is_no_partner(
    node: Node, pacs: Pacs, tmp_path: Path
) -> None:
    add_rule(node, pacs, wait_s=3, without=("ct",))
    pet, ct = make_pet(), make_series(geometry=SIX)
    for ds in ct:
        ds.FrameOfReferenceUID = make_uid("another")
    store(node, pet + ct, tmp_path)
    (workitem,) = completed(node)
    assert roles(workitem) == {"pet": uid_of(pet)}
    lost = decided(node)["ct", uid_of(ct)]
    assert lost.code == "unfit"
    assert f"FrameOfReferenceUID = that of pet, {pet[0].FrameOfReferenceUID}" in lost.reason


def test_of_two_cts_the_one_with_most_slices_wins_and_the_command_line_says_why(
    node: Node, pacs: Pacs, tmp_path: Path
) -> None:
    add_rule(node, pacs, wait_s=3600, without=("ct",))
    thick = make_series(series=1, geometry=Geometry(slices=3, slice_spacing=6.0))
    thin, soft = (
        make_series(series=2, geometry=SIX),
        make_series(series=3, geometry=Geometry(slices=9)),
    )
    for ds in soft:
        ds.SeriesDescription = "Soft tissue"
    pet = make_pet()
    store(node, pet + thick + thin + soft, tmp_path)
    (workitem,) = completed(node)
    assert roles(workitem) == {"pet": uid_of(pet), "ct": uid_of(thin)}
    shown = cli(node, "rules", "test", "hot", "--study", str(pet[0].StudyInstanceUID))
    assert f"prefer most slices (seen: 3; series …{uid_of(thin)[-12:]} has 6)" in shown
    assert "SeriesDescription ~ ^Bone (seen: Soft tissue)" in shown
    assert shown.count("hot_bone runs\n") == 2


def test_killed_while_it_waits_it_waits_for_what_is_left(
    node: Node, pacs: Pacs, tmp_path: Path
) -> None:
    add_rule(node, pacs, without=("ct",))
    store(node, make_pet(), tmp_path)
    wait_for("the wait", lambda: waits(node))
    node.kill()
    with node.index() as index:
        (study,) = studies.list_studies(index)
    assert study.waits_until is not None
    assert (study.waits_until - study.last_received_at).total_seconds() == WAIT_S
    node.start()
    (workitem,) = completed(node)
    assert set(roles(workitem)) == {"pet"}
    # Not before its time, and not the whole time again.
    late = (workitem.scheduled_at - study.waits_until).total_seconds()
    assert 0 <= late < WAIT_S


def test_killed_while_it_waits_and_the_partner_comes_after_the_restart(
    node: Node, pacs: Pacs, tmp_path: Path
) -> None:
    add_rule(node, pacs, wait_s=3600, without=("ct",))
    store(node, make_pet(), tmp_path)
    wait_for("the wait", lambda: waits(node))
    node.kill()
    node.start()
    store(node, make_series(geometry=SIX), tmp_path)
    (workitem,) = completed(node)
    assert set(roles(workitem)) == {"pet", "ct"}


def cli(node: Node, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "node.cli", "--config", str(node.config), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **node.settings},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
