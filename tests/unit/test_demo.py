"""What the demo computes and keeps of the configuration."""

from __future__ import annotations

from pathlib import Path

import highdicom as hd
import numpy as np
from pydicom import dcmread

from node import demo
from node.config import Config
from pipelines.registry import find_pipelines


def test_the_site_s_settings_are_the_demo_s_too(tmp_path: Path) -> None:
    parameters = {"calibration_slope": 0.8, "calibration_name": 'CT "1"'}
    settings = {"qct_femur": [{"where": ["KVP = 120"], "parameters": parameters}]}
    base = Config.model_validate({"pipelines": {"settings": settings}})
    made = demo._configure(tmp_path, base)
    assert made.pipelines.settings == base.pipelines.settings


def test_a_pipeline_with_a_study_of_its_own_is_shown_with_it() -> None:
    registry = find_pipelines()
    pelvis = demo._demo_image(registry.get("qct_femur"))
    abdomen = demo._demo_image(registry.get("ct_skeleton"))
    assert isinstance(pelvis, hd.Volume)
    assert isinstance(abdomen, hd.Volume)
    assert pelvis.spatial_shape != abdomen.spatial_shape
    # Both hip joints lie in it, and a hand's breadth of thigh.
    heights = np.asarray(pelvis.map_indices_to_reference(np.array([[0, 0, 0], [89, 0, 0]])))[:, 2]
    assert heights.min() < -110
    assert heights.max() > 40


def test_a_study_of_another_modality_is_written_as_the_pipeline_makes_it(tmp_path: Path) -> None:
    entry = find_pipelines().get("mr_spine_tumor")
    files = demo._study_files(None, entry, tmp_path, lambda step: None)
    assert {str(dcmread(path).Modality) for path in files} == {"MR"}
    assert len({path.name for path in files}) == len(files) >= 11
