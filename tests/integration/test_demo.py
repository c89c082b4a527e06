"""`make demo`'s command, whole: what a first user sees."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from nodes import PIPELINES
from pydicom import dcmread

pytestmark = pytest.mark.slow


def test_the_demo_goes_all_the_way(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "node.cli", "demo", "--out", str(tmp_path / "demo")],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "demo").iterdir()
    came_back = [dcmread(path) for path in sorted((folder / "came-back").iterdir())]
    assert [ds.Modality for ds in came_back] == ["SEG", "SR"]
    assert len({ds.StudyInstanceUID for ds in came_back}) == 1
    assert (folder / "overlay.png").read_bytes().startswith(b"\x89PNG")
    for section in (
        "Why",
        "Workitems",
        "Deliveries",
        "Timeline",
        "Measurements",
        "Where things lie",
    ):
        assert f"\n{section}" in done.stdout
    assert re.search(r"Skeleton +Volume +[1-9]\d*(\.\d+)? +mL", done.stdout)
    # How to go on, as printed: the command works.
    (command,) = re.findall(r"osteonode (--config .+ studies show \d+)", done.stdout)
    shown = subprocess.run(
        [sys.executable, "-m", "node.cli", *command.split()],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    assert came_back[0].StudyInstanceUID in shown.stdout


def test_a_pipeline_of_one_s_own_with_two_inputs_is_shown(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(f'[pipelines]\nfolders = ["{PIPELINES}"]\n')
    done = subprocess.run(
        [sys.executable, "-m", "node.cli", "demo", "--pipeline", "hot_bone", "--out", "demo"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"as pet: hot_bone runs\n", done.stdout)
    assert re.search(r"as ct: hot_bone runs\n", done.stdout)
    (folder,) = (tmp_path / "demo").iterdir()
    assert (folder / "overlay.png").is_file()
    assert [path.name[:3] for path in sorted((folder / "came-back").iterdir())] == ["SEG", "SR-"]


def test_a_folder_without_dicom_is_said(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "node.cli", "demo", "--study", "empty", "--out", "demo"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 3
    assert done.stderr.splitlines()[-1] == "osteonode: empty: there is no DICOM instance."
