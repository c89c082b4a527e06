"""ct_trunk_muscle over real associations: a trunk goes in by C-STORE, SEG and SR come back, areas are in the index.

The networks read the densities of a scene (`trunks`): the way is what is tested, whatever weights ship.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import trunks
from dicomgen import save_all
from nodes import Node
from peer import Pacs
from pydicom import Dataset

from node.scu import send_paths
from pipelines.registry import BUILT_IN
from pipelines.training.phantoms.dicom import ct_series
from storage.index import measurements
from storage.model import Destination, WorkitemState

NAME = "trunk_by_density"
PIPELINE = '''"""The muscle pipeline with networks that read the densities of a scene."""

from trunks import model

from pipelines.ct_trunk_muscle.pipeline import run as run


def load(context):
    return model()
'''


@pytest.fixture
def pacs() -> Iterator[Pacs]:
    with Pacs() as peer:
        yield peer


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    folder = tmp_path / "pipelines" / NAME
    folder.mkdir(parents=True)
    declared = (BUILT_IN / "ct_trunk_muscle" / "pipeline.toml").read_text("utf-8")
    # Networks that read the densities of the scene do not know what is left in a mirror.
    declared = declared.replace("mirror = true", "mirror = false")
    declared, limits = declared.split("[weights]")
    limits = limits[limits.index("[limits]") :]
    (folder / "pipeline.toml").write_text(
        declared.replace('name = "ct_trunk_muscle"', f'name = "{NAME}"') + limits, "utf-8"
    )
    (folder / "pipeline.py").write_text(PIPELINE, "utf-8")
    paths = [str(Path(trunks.__file__).parent), os.environ.get("PYTHONPATH", "")]
    made = Node(
        folder=tmp_path / "node",
        settings={
            "OSTEONODE_PIPELINES__FOLDERS": json.dumps([str(folder.parent)]),
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        },
    )
    yield made
    made.kill_if_running()


def store(node: Node, datasets: list[Dataset], folder: Path) -> None:
    paths = save_all(datasets, folder)
    target = Destination(name="node", host="127.0.0.1", port=node.port, called_ae="OSTEONODE")
    sent = list(send_paths(target, paths, calling_ae="CT1", timeout_s=60))
    assert [s.status.status for s in sent if s.status] == [0x0000] * len(datasets)


def test_a_trunk_comes_back_with_areas_by_level(node: Node, pacs: Pacs, tmp_path: Path) -> None:
    node.start()
    node.route_to(pacs.port, pipeline=NAME)
    datasets = ct_series(trunks.scene(("T12", "L1", "L2", "L3", "L4")), seed=1)
    for ds in datasets:
        ds.PatientSize = "1.75"
    store(node, datasets, tmp_path / "ct")
    seg, sr = sorted(pacs.wait_for(2, timeout_s=180), key=lambda ds: ds.Modality)
    assert (seg.Modality, sr.Modality) == ("SEG", "SR")
    assert len(seg.SegmentSequence) == 16 + 5
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == datasets[0].SeriesInstanceUID
    with node.index() as index:
        rows = measurements.list_measurements(index, study=str(datasets[0].StudyInstanceUID))
    at_l3 = [row for row in rows if row.concept_meaning == "Area (L3 vertebra)"]
    assert len(at_l3) == 16 + 1
    (total,) = [row.value for row in at_l3 if row.segment_number is None]
    assert total == pytest.approx(sum(row.value for row in at_l3 if row.segment_number is not None))
    (index_row,) = [row for row in rows if row.concept_value == "SMI"]
    assert index_row.value == pytest.approx(total / 1.75**2)
    assert index_row.unit == "cm2/m2"


def test_a_series_without_vertebrae_is_refused_with_its_code_and_the_pacs_is_told(
    node: Node, pacs: Pacs, tmp_path: Path
) -> None:
    node.start()
    node.route_to(pacs.port, pipeline=NAME, report_refusals=True)
    trunk = trunks.scene(("L1", "L2", "L3"))
    legs = trunk.with_array(trunk.array.clip(max=trunks.SOFT_HU))
    store(node, list(ct_series(legs, seed=2)), tmp_path / "ct")
    node.wait_for_state(WorkitemState.CANCELED, timeout_s=180)
    (workitem,) = node.workitems()
    assert workitem.reason_code == "no-trunk"
    (report,) = pacs.wait_for(1, timeout_s=60)
    assert report.Modality == "SR"
    assert report.StudyInstanceUID == workitem.study_instance_uid
    said = report.to_json()
    assert "no-trunk" in said
    assert workitem.reason is not None
    assert workitem.reason in said
