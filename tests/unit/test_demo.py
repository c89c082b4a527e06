"""What the demo computes and keeps of the configuration."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from nodes import PIPELINES
from pydicom import Dataset

from node import demo
from node.cli.local import choose_inputs, find_series
from node.config import Config
from node.demo_study import has_demo_study, write_demo_study
from pipelines.errors import PipelineError
from pipelines.registry import PipelineEntry, find_pipelines, read_entry
from pipelines.series import read_series
from pipelines.training.phantoms.procedural import ProceduralOptions


def test_the_site_s_settings_are_the_demo_s_too(tmp_path: Path) -> None:
    parameters = {"calibration_slope": 0.8, "calibration_name": 'CT "1"'}
    settings = {"qct_femur": [{"where": ["KVP = 120"], "parameters": parameters}]}
    base = Config.model_validate({"pipelines": {"settings": settings}})
    made = demo._configure(tmp_path, base)
    assert made.pipelines.settings == base.pipelines.settings


@pytest.mark.parametrize(
    ("name", "label", "number"),
    [
        ("mr_spine_tumor", "Vertebrae", 1),
        ("mr_spine_tumor", "Tumour 2", 2),
        ("spect_ct_bone_lesion", "Benign bone lesion 3", 2),
        ("qct_femur", "Proximal femur, right", 2),
    ],
)
def test_a_segment_that_came_back_is_drawn_as_what_it_is(
    name: str, label: str, number: int
) -> None:
    manifest = entry_of(name).manifest
    spec = manifest.segments[number - 1]
    kind = Dataset()
    kind.CodeValue, kind.CodingSchemeDesignator = spec.type.value, spec.type.scheme
    item = Dataset()
    item.SegmentLabel, item.SegmentedPropertyTypeCodeSequence = label, [kind]
    assert demo._spec_of(item, manifest) == spec


def entry_of(name: str) -> PipelineEntry:
    return find_pipelines([PIPELINES]).get(name)


def test_a_pipeline_with_a_study_of_its_own_is_shown_with_it(tmp_path: Path) -> None:
    (series,) = find_series(_folder_of(write_demo_study(entry_of("qct_femur"), tmp_path)))
    pelvis = read_series(list(series.files.values())).volume
    assert pelvis.spatial_shape == (90, 220, 250)
    # Both hip joints lie in it, and a hand's breadth of thigh.
    heights = np.asarray(pelvis.map_indices_to_reference(np.array([[0, 0, 0], [89, 0, 0]])))[:, 2]
    assert heights.min() < -110
    assert heights.max() > 40


def test_a_pipeline_of_two_inputs_is_shown_with_two_series(tmp_path: Path) -> None:
    entry = entry_of("hot_bone")
    assert has_demo_study(entry)
    found = find_series(_folder_of(write_demo_study(entry, tmp_path)))
    assert sorted(series.modality for series in found) == ["CT", "PT"]
    assert list(choose_inputs(entry.manifest, found)) == ["pet", "ct"]


def test_a_study_of_another_modality_is_written_as_the_pipeline_makes_it(tmp_path: Path) -> None:
    files = write_demo_study(find_pipelines().get("mr_spine_tumor"), tmp_path)
    (series,) = find_series(_folder_of(files))
    assert series.modality == "MR"
    assert len(files) >= 11


def test_any_ct_pipeline_is_shown_a_phantom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = ProceduralOptions(slices=4, rows=32, columns=40, pixel_spacing=10.0)
    monkeypatch.setattr("node.demo_study.ProceduralOptions", lambda: small)
    entry = entry_of("threshold_bone")
    assert not has_demo_study(entry)
    assert len(write_demo_study(entry, tmp_path)) == 4


def _folder_of(files: list[Path]) -> Path:
    assert all(file.is_file() for file in files)
    return files[0].parent


def _pipeline(folder: Path, phantoms: str, modality: str = "MR") -> PipelineEntry:
    """A copy of a test pipeline, with phantoms of its own."""
    copied = folder / "threshold_bone"
    shutil.copytree(PIPELINES / "threshold_bone", copied)
    manifest = copied / "pipeline.toml"
    manifest.write_text(manifest.read_text().replace('["CT"]', f'["{modality}"]'))
    if phantoms:
        (copied / "phantoms.py").write_text(phantoms)
    return read_entry(copied)


@pytest.mark.parametrize(
    ("phantoms", "code"),
    [
        ("", "no-demo-study"),
        ("def demo_study(seed):\n    return []\n", "demo-study-invalid"),
        ("def demo_study(seed):\n    return 'CT'\n", "demo-study-invalid"),
        ("def demo_study(seed):\n    return 1 / 0\n", "pipeline-crashed"),
        ("import nothing_of_that_name\n", "pipeline-broken"),
    ],
)
def test_what_is_no_demo_study_is_told(tmp_path: Path, phantoms: str, code: str) -> None:
    with pytest.raises(PipelineError) as told:
        write_demo_study(_pipeline(tmp_path, phantoms), tmp_path / "out")
    assert told.value.code == code
