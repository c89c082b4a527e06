"""mr_spine_tumor through a real node: a study of two series, of which the one before gadolinium is refused by name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from nodes import Node, wait_for
from peer import Pacs

from node.scu import send_paths
from pipelines.mr_spine_tumor.phantoms import demo_phantom
from pipelines.training.phantoms.dicom import SeriesOptions
from pipelines.training.phantoms.mr_dicom import write_mr_series
from storage.index import destinations, measurements, rules
from storage.model import Destination, Rule, WorkitemState

pytestmark = pytest.mark.slow

_SEED = 1


@pytest.fixture
def pacs() -> Iterator[Pacs]:
    with Pacs() as peer:
        yield peer


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(folder=tmp_path / "node")
    yield made
    made.kill_if_running()


def test_tumours_come_back_one_by_one_and_the_native_series_is_refused(
    node: Node, pacs: Pacs, tmp_path: Path
) -> None:
    enhanced = demo_phantom(_SEED)
    native = replace(enhanced, weighting=replace(enhanced.weighting, enhanced=False))
    files = write_mr_series(enhanced, tmp_path / "study", seed=_SEED)
    before = SeriesOptions(
        series_number=2, series_description="T1 SE FS nativ", study_description="Phantom MR"
    )
    files += write_mr_series(native, tmp_path / "study", seed=_SEED, options=before)
    node.start()
    with node.index() as index:
        destinations.add(
            index,
            Destination(name="PACS", host="127.0.0.1", port=pacs.port, called_ae="PACS"),
            actor="test",
        )
        rule = Rule(
            name="spine",
            pipeline="mr_spine_tumor",
            where=("Modality = MR",),
            destinations=("PACS",),
            each=True,
        )
        rules.add(index, rule, actor="test")
    target = Destination(name="node", host="127.0.0.1", port=node.port, called_ae="OSTEONODE")
    sent = list(send_paths(target, files, calling_ae="MR1", timeout_s=20))
    assert [one.status.status for one in sent if one.status] == [0x0000] * len(files)

    def ended() -> bool:
        return {one.state for one in node.workitems()} == {
            WorkitemState.COMPLETED,
            WorkitemState.CANCELED,
        }

    wait_for("both workitems to end", ended, timeout_s=240)
    states = {one.state: one for one in node.workitems()}
    assert states[WorkitemState.CANCELED].reason_code == "contrast-absent"
    seg, sr = sorted(pacs.wait_for(2), key=lambda ds: ds.Modality)
    assert (seg.Modality, sr.Modality) == ("SEG", "SR")
    tumours = [item for item in seg.SegmentSequence if item.SegmentLabel.startswith("Tumour ")]
    assert tumours
    assert len({item.TrackingUID for item in seg.SegmentSequence}) == len(seg.SegmentSequence)
    assert (seg.Rows, seg.Columns) == enhanced.image.shape[1:]
    with node.index() as index:
        rows = measurements.list_measurements(index, study=str(seg.StudyInstanceUID))
    (count,) = (row.value for row in rows if row.concept_value == "246206008")
    assert count == len(tumours)
    volumes = [row for row in rows if row.concept_value == "118565006"]
    assert all(np.isfinite(row.value) and row.value > 0 for row in volumes)
