"""spect_ct_bone_lesion through a real node: SPECT with its CT, and each of them when the other never comes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from nodes import Node, wait_for
from peer import Pacs
from pydicom import Dataset

from node.scu import send_paths
from pipelines.spect_ct_bone_lesion.phantoms import demo_study
from storage.index import destinations, measurements, rules
from storage.model import Destination, Rule, WorkitemState

pytestmark = pytest.mark.slow

#: Longer than a loaded machine takes to send a study.
_WAIT_S = 5


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(folder=tmp_path / "node")
    made.start()
    yield made
    made.kill_if_running()


@pytest.fixture(scope="module")
def study() -> list[Dataset]:
    return demo_study(1)


def _store(node: Node, datasets: list[Dataset], folder: Path) -> None:
    folder.mkdir()
    paths = [folder / f"{number:03d}.dcm" for number in range(len(datasets))]
    for ds, path in zip(datasets, paths, strict=True):
        ds.save_as(path, enforce_file_format=True)
    target = Destination(name="node", host="127.0.0.1", port=node.port, called_ae="OSTEONODE")
    sent = list(send_paths(target, paths, calling_ae="CAMERA", timeout_s=30))
    assert [one.status.status for one in sent if one.status] == [0x0000] * len(datasets)


def _add_rule(node: Node, pacs: Pacs) -> None:
    with node.index() as index:
        destinations.add(
            index,
            Destination(name="PACS", host="127.0.0.1", port=pacs.port, called_ae="PACS"),
            actor="test",
        )
        rule = Rule(
            name="bone scan",
            pipeline="spect_ct_bone_lesion",
            where=(),
            destinations=("PACS",),
            roles={"spect": (), "ct": ()},
            wait_s=_WAIT_S,
            without=("spect", "ct"),
        )
        rules.add(index, rule, actor="test")


@pytest.mark.parametrize("sent", [("NM", "CT"), ("NM",), ("CT",)])
def test_what_there_is_is_analysed_and_comes_back(
    node: Node, pacs: Pacs, tmp_path: Path, study: list[Dataset], sent: tuple[str, ...]
) -> None:
    _add_rule(node, pacs)
    chosen = [ds for ds in study if ds.Modality in sent]
    _store(node, chosen, tmp_path / "study")

    wait_for(
        f"a workitem to end\n{node.log}",
        lambda: [one.state for one in node.workitems()] == [WorkitemState.COMPLETED],
        timeout_s=240,
    )
    (workitem,) = node.workitems()
    series = {ds.Modality: str(ds.SeriesInstanceUID) for ds in chosen}
    roles = {"NM": "spect", "CT": "ct"}
    assert {one.role: one.series_instance_uid for one in workitem.inputs} == {
        roles[modality]: uid for modality, uid in series.items()
    }
    codes = {code for code, _ in workitem.notices}
    assert ("without-ct" in codes) == (sent == ("NM",))
    assert ("without-spect" in codes) == (sent == ("CT",))
    with node.index() as index:
        rows = measurements.list_measurements(index, study=str(study[0].StudyInstanceUID))
    (count,) = (row.value for row in rows if row.concept_value == "246206008")
    came = {ds.Modality: ds for ds in pacs.wait_for(2 if count else 1)}
    assert came["SR"].StudyInstanceUID == study[0].StudyInstanceUID
    if count:
        assert len(came["SEG"].SegmentSequence) == count
        (referenced,) = came["SEG"].ReferencedSeriesSequence
        assert referenced.SeriesInstanceUID == series.get("NM", series.get("CT"))
