"""Finding pipelines, and loading one."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.errors import ManifestError, PipelineError, WeightsError
from pipelines.manifest import MANIFEST_NAME
from pipelines.registry import (
    BUILT_IN,
    MODULE_NAME,
    check_weights,
    find_pipelines,
    load_pipeline,
    read_entry,
)

PIPELINES = Path(__file__).parent.parent / "pipelines"


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A hospital's folder with one good pipeline."""
    folder = tmp_path / "own"
    folder.mkdir()
    shutil.copytree(PIPELINES / "threshold_bone", folder / "threshold_bone")
    return folder


def _edit(folder: Path, file: str, old: str, new: str) -> None:
    text = (folder / file).read_text(encoding="utf-8")
    assert old in text
    (folder / file).write_text(text.replace(old, new), encoding="utf-8")


def _add_weights(folder: Path, content: bytes, sha256: str | None = None) -> None:
    (folder / "weights.safetensors").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest() if sha256 is None else sha256
    with (folder / MANIFEST_NAME).open("a", encoding="utf-8") as manifest:
        manifest.write(f'\n[weights]\nfile = "weights.safetensors"\nsha256 = "{digest}"\n')


# -- finding --------------------------------------------------------------------------------------


def test_what_ships_is_found_without_a_folder() -> None:
    registry = find_pipelines()

    shipped = {path.parent.name for path in BUILT_IN.glob(f"*/{MANIFEST_NAME}")}
    assert set(registry.entries) == shipped
    assert registry.errors == ()


def test_a_hospitals_own_are_found_beside_them(own: Path) -> None:
    registry = find_pipelines([own])

    entry = registry.get("threshold_bone")
    assert entry.folder == own / "threshold_bone"
    assert entry.weights is None
    assert registry.manifests["threshold_bone"] is entry.manifest
    assert set(registry.entries) == set(find_pipelines().entries) | {"threshold_bone"}


def test_every_pipeline_for_tests_is_found() -> None:
    registry = find_pipelines([PIPELINES])

    assert registry.errors == ()
    assert {path.name for path in PIPELINES.iterdir() if path.is_dir()} <= set(registry.entries)


def test_finding_loads_no_network_library() -> None:
    code = (
        "import sys; from pathlib import Path; from pipelines.registry import find_pipelines; "
        f"find_pipelines([Path({str(PIPELINES)!r})]).get('threshold_bone'); print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        cwd=BUILT_IN.parent,
    )

    assert {"torch", "monai"}.isdisjoint(done.stdout.split())


def test_a_broken_pipeline_leaves_the_good_ones(own: Path) -> None:
    shutil.copytree(PIPELINES / "sleeper", own / "sleeper")
    _edit(own / "sleeper", MANIFEST_NAME, 'version = "1.0.0"', 'version = "one"')
    (own / "empty").mkdir()
    (own / ".hidden").mkdir()
    (own / "__pycache__").mkdir()
    (own / "README.md").write_text("Ours.", encoding="utf-8")

    registry = find_pipelines([own])

    assert "threshold_bone" in registry.entries
    messages = [str(error) for error in registry.errors]
    assert len(messages) == 2
    assert str(own / "empty" / MANIFEST_NAME) in messages[0]
    assert f"{own / 'sleeper' / MANIFEST_NAME}: version" in messages[1]


def test_two_of_one_name_are_both_named_and_the_first_counts(own: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(own, other)

    registry = find_pipelines([own, other])

    assert registry.get("threshold_bone").folder == own / "threshold_bone"
    (error,) = registry.errors
    assert error.code == "pipeline-name-clash"
    assert str(own / "threshold_bone") in str(error)
    assert str(other / "threshold_bone") in str(error)


def test_the_same_folder_twice_is_no_clash(own: Path) -> None:
    assert find_pipelines([own, own]).errors == ()


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    (error,) = find_pipelines([tmp_path / "absent"]).errors

    assert str(tmp_path / "absent") in str(error)


def test_a_pipeline_named_for_its_folder_is_explained(own: Path) -> None:
    (error,) = find_pipelines([own / "threshold_bone"]).errors

    assert f"name the folder above it, {own}" in str(error)


def test_a_folder_without_code_is_an_error(own: Path) -> None:
    (own / "threshold_bone" / MODULE_NAME).unlink()

    (error,) = find_pipelines([own]).errors

    assert str(own / "threshold_bone" / MODULE_NAME) in str(error)


def test_weights_elsewhere_are_refused(own: Path) -> None:
    folder = own / "threshold_bone"
    _add_weights(folder, b"x")
    _edit(folder, MANIFEST_NAME, '"weights.safetensors"', '"../weights.safetensors"')

    with pytest.raises(ManifestError, match=r"weights\.file"):
        read_entry(folder)


def test_an_unknown_name_gets_the_known_ones_and_the_broken(own: Path) -> None:
    (own / "half_done").mkdir()
    registry = find_pipelines([own])

    with pytest.raises(ManifestError, match=r"'half_done'.*threshold_bone.*half_done") as caught:
        registry.get("half_done")

    assert caught.value.code == "pipeline-unknown"


# -- weights --------------------------------------------------------------------------------------


def test_right_weights_pass_and_reach_load(own: Path) -> None:
    folder = own / "threshold_bone"
    _add_weights(folder, b"three layers")
    _edit(folder, MODULE_NAME, "return context.manifest.segments[0]", "return context")

    loaded = load_pipeline(read_entry(folder), "cpu")

    assert loaded.model.weights == folder / "weights.safetensors"
    assert loaded.model.device == loaded.device == "cpu"


def test_altered_weights_are_named_with_both_checksums(own: Path) -> None:
    folder = own / "threshold_bone"
    _add_weights(folder, b"altered", sha256="ab" * 32)

    with pytest.raises(WeightsError) as caught:
        load_pipeline(read_entry(folder), "cpu")

    message = str(caught.value)
    assert str(folder / "weights.safetensors") in message
    assert "ab" * 32 in message
    assert hashlib.sha256(b"altered").hexdigest() in message
    assert caught.value.code == "weights-invalid"


def test_missing_weights_are_named(own: Path) -> None:
    folder = own / "threshold_bone"
    _add_weights(folder, b"x")
    (folder / "weights.safetensors").unlink()

    with pytest.raises(WeightsError, match=r"weights\.safetensors") as caught:
        check_weights(read_entry(folder))

    assert caught.value.code == "weights-missing"


# -- loading --------------------------------------------------------------------------------------


def test_a_module_beside_the_pipeline_can_be_imported(own: Path) -> None:
    folder = own / "threshold_bone"
    (folder / "helper.py").write_text("ANSWER = 42\n", encoding="utf-8")
    _edit(folder, MODULE_NAME, "\n\ndef load(", "\nfrom .helper import ANSWER\n\n\ndef load(")
    _edit(folder, MODULE_NAME, "return context.manifest.segments[0]", "return ANSWER")

    assert load_pipeline(read_entry(folder), "cpu").model == 42


def test_two_folders_of_one_name_do_not_mix(own: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(own, other)
    for folder, answer in ((own, 1), (other, 2)):
        _edit(
            folder / "threshold_bone",
            MODULE_NAME,
            "return context.manifest.segments[0]",
            f"return {answer}",
        )

    models = [load_pipeline(read_entry(f / "threshold_bone"), "cpu").model for f in (own, other)]

    assert models == [1, 2]


def test_changed_code_is_read_again(own: Path) -> None:
    folder = own / "threshold_bone"
    load_pipeline(read_entry(folder), "cpu")
    _edit(folder, MODULE_NAME, "return context.manifest.segments[0]", "return 'changed'")

    assert load_pipeline(read_entry(folder), "cpu").model == "changed"


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("def load(", "def lode(", "load"),
        ("def run(", "def go(", "run"),
        ("def load(context: LoadContext)", "def load()", "load of 1"),
        ("def run(\n    model: SegmentSpec, inputs", "def run(\n    inputs", "run of 3"),
        ("def load(", "load = 3\ndef lode(", "load"),
        ("import numpy as np", "import numpyy as np", "numpyy"),
        ("import numpy as np", "1 / 0", rf"ZeroDivisionError at {MODULE_NAME}:"),
        ("import numpy as np", "import numpy as", "SyntaxError"),
    ],
)
def test_code_that_breaks_the_contract_is_named(own: Path, old: str, new: str, told: str) -> None:
    folder = own / "threshold_bone"
    _edit(folder, MODULE_NAME, old, new)

    with pytest.raises(ManifestError, match=told) as caught:
        load_pipeline(read_entry(folder), "cpu")

    assert str(folder / MODULE_NAME) in str(caught.value)
    assert caught.value.code == "pipeline-broken"


def test_a_load_that_fails_says_where(own: Path) -> None:
    folder = own / "threshold_bone"
    _edit(folder, MODULE_NAME, "return context.manifest.segments[0]", "raise KeyError('conv1')")

    with pytest.raises(PipelineError, match=rf"KeyError at {MODULE_NAME}:\d+") as caught:
        load_pipeline(read_entry(folder), "cpu")

    assert caught.value.code == "pipeline-crashed"


def test_a_folder_that_cannot_be_written_still_loads(own: Path) -> None:
    folder = own / "threshold_bone"
    if os.geteuid() == 0:
        shutil.rmtree(folder / "__pycache__", ignore_errors=True)
        (folder / "__pycache__").write_text("no folder", encoding="utf-8")
    else:
        folder.chmod(0o500)

    assert load_pipeline(read_entry(folder), "cpu").pipeline
