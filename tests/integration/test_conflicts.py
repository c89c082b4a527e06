"""Other bytes under a UID that is held: kept beside, told, and counted when a person says so."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import pytest
from dicomgen import Geometry, make_series, save_all
from nodes import Node
from peer import Pacs
from pydicom import Dataset
from pydicom.uid import ImplicitVRLittleEndian

from node.cli import main
from node.scu import send_paths
from storage.index import events, instances, studies
from storage.model import Destination, WorkitemState

IOCM = '{"iocm": {"retract": true}}'


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(folder=tmp_path / "node", settings={"OSTEONODE_EVIDENCE__PROFILES": IOCM})
    yield made
    made.kill_if_running()


def store(node: Node, datasets: list[Dataset], folder: Path) -> None:
    target = Destination(name="node", host="127.0.0.1", port=node.port, called_ae="OSTEONODE")
    paths = save_all(datasets, folder)
    sent = list(send_paths(target, paths, calling_ae="PACS2", timeout_s=20))
    assert [s.status.status for s in sent if s.status] == [0x0000] * len(datasets)


def test_another_content_is_told_and_accepted(  # noqa: PLR0915 - one life
    node: Node, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: str, code: int = 0) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(["--config", str(node.config), *arguments])
        said = capsys.readouterr()
        assert (ended.value.code or 0) == code, said
        return said.out + said.err

    datasets = make_series(geometry=Geometry(slices=6))
    study = datasets[0].StudyInstanceUID
    brighter, renamed, encoded = (deepcopy(ds) for ds in datasets[2:5])
    brighter.PixelData = bytes(reversed(brighter.PixelData))
    brighter.SliceThickness = 2.5
    renamed.PatientName, renamed.PatientID = "Other^Name", "P-OTHER"
    encoded.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    with Pacs() as pacs:
        node.start()
        node.route_to(pacs.port, profile="iocm")
        store(node, datasets, tmp_path / "ct")
        pacs.wait_for(2)
        assert "No instance came again" in run("studies", "conflicts", study)
        assert json.loads(run("studies", "show", study, "--json"))["conflicts"] is None
        for n in range(2):
            store(node, [brighter, renamed, encoded, datasets[0]], tmp_path / str(n))
        time.sleep(2.0)
        with node.index() as index:
            # Of no effect, and audited once.
            assert studies.get(index, study).revision == 6
            held = instances.get(index, brighter.SOPInstanceUID)
            kinds = [event.kind for event in events.list_events(index, study=study)]
        assert kinds.count("instance-conflict") == 3
        assert len(node.workitems()) == 1

        shown = run("studies", "show", study)
        assert "3 instances came again with another content (3 contents" in shown
        assert "pixels in 1" in shown
        assert "image attributes in 1" in shown
        assert "patient or study attributes in 1" in shown
        assert json.loads(run("studies", "conflicts", "--json")) == [
            {"study_instance_uid": study, "contents": 3}
        ]
        answer = run("studies", "conflicts", study, "--json")
        assert "OTHER" not in answer + run("studies", "conflicts", study)
        assert "Other" not in answer
        told = {one["sop_instance_uid"]: one for one in json.loads(answer)}
        one = told[brighter.SOPInstanceUID]
        assert (one["image"], one["pixels"], one["identity"]) == (["SliceThickness"], True, [])
        one = told[renamed.SOPInstanceUID]
        assert (one["identity"], one["pixels"]) == (["PatientName", "PatientID"], False)
        one = told[encoded.SOPInstanceUID]
        assert one["transfer_syntax"]
        assert one["image"] == one["identity"] == one["other"] == []

        assert "begins with 'zz'" in run(
            "studies", "accept", study, brighter.SOPInstanceUID, "--digest", "zz", code=1
        )
        run("studies", "accept", study, code=2)
        digest = told[brighter.SOPInstanceUID]["digest"]
        run("studies", "accept", study, brighter.SOPInstanceUID[-9:], "--digest", digest[:10])
        pacs.wait_for(5)
        node.wait_for_state(WorkitemState.COMPLETED, count=2)
        assert [ds.Modality for ds in pacs.received] == ["SEG", "SR", "SEG", "SR", "KO"]
        with node.index() as index:
            now_held = instances.get(index, brighter.SOPInstanceUID)
            (event,) = events.list_events(index, kind="instance-accepted")
        assert (now_held.digest, now_held.replaced) == (digest, True)
        assert event.detail["held_digest"] == held.digest
        # The old one is kept, and can be accepted again.
        left = json.loads(run("studies", "conflicts", study, "--json"))
        assert held.digest in {one["digest"] for one in left}
        assert "3 instances" in run("studies", "accept", study, "--all")
        with node.index() as index:
            assert instances.get(index, brighter.SOPInstanceUID).digest == held.digest
            assert studies.get(index, study).revision == 10
