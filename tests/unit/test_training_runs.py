"""Whole training runs on tiny data: own studies, folds, sweeps, interruptions, full disks."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from highdicom import Volume
from typer.testing import CliRunner

from node.cli import app
from pipelines.ct_skeleton.training import RECIPE
from pipelines.errors import TrainingError, WeightsError
from pipelines.networks.unet2d import UNet2d
from pipelines.training.case import Case
from pipelines.training.checkpoint import CHECKPOINT
from pipelines.training.data.reference import CaseRef
from pipelines.training.evaluate import evaluate
from pipelines.training.export import export_weights, load_weights, read_widths
from pipelines.training.options import EvaluateOptions, TrainOptions, TrainReport, plain
from pipelines.training.phantoms.procedural import ProceduralOptions, procedural_phantom
from pipelines.training.phantoms.tissues import skeleton_of
from pipelines.training.recipe import Recipe, Widths
from pipelines.training.split import split_cases
from pipelines.training.train import plan_runs, train

ROOT = Path(__file__).resolve().parents[2]
TINY = (4, 8, 8, 8, 8)


#: Bodies that crops are of: each is rendered once, for what a run does with crops is the subject.
BODIES = 12


@cache
def _study(seed: int, *, slices: int = 6) -> Case:
    options = ProceduralOptions(slices=slices, rows=64, columns=64, pixel_spacing=6, middle=60)
    phantom = procedural_phantom(options, seed=seed)
    labels = skeleton_of(phantom.tissues)
    return Case(name=f"phantom-{seed}", image=phantom.image, labels=labels, group="female")


def _crop(rng: np.random.Generator) -> Case:
    return _study(int(rng.integers(BODIES)), slices=1)


def _network(widths: Widths) -> UNet2d:
    return UNet2d(widths or TINY)


TINY_RECIPE: Recipe = replace(
    RECIPE,
    make_network=_network,
    phantom_crops=lambda folder: _crop,
    phantom_study=lambda folder: _study,
    pool=4,
    crops_per_case=4,
    batch_size=2,
)


def _options(out: Path, **changes: object) -> TrainOptions:
    values: dict[str, object] = {"out": out, "workers": 0, "steps": 3, "studies": 1}
    return TrainOptions(**{**values, **changes})  # type: ignore[arg-type]


def _write(volume: Volume, path: Path) -> None:
    image = sitk.GetImageFromArray(volume.array)
    image.SetSpacing([float(size) for size in volume.spacing[::-1]])
    image.SetDirection(np.array(volume.unit_vectors())[::-1].T.ravel().tolist())
    sitk.WriteImage(image, str(path))


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five labelled studies."""
    folder = tmp_path_factory.mktemp("own")
    for number in range(5):
        case = _study(number)
        _write(case.image, folder / f"{number}_image.nii")
        _write(case.labels, folder / f"{number}_label.nii")
    return folder


def _sha(report: TrainReport) -> list[str]:
    return [run.sha256 for run in report.runs]


# -- seeds, length, start -------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_weights(tmp_path: Path) -> None:
    one, again, other = (
        train(TINY_RECIPE, _options(tmp_path / str(n), seed=seed))
        for n, seed in enumerate((1, 1, 2))
    )
    assert one.runs[0].last_loss == again.runs[0].last_loss
    assert _sha(one) == _sha(again) != _sha(other)


def test_a_trial_on_a_few_phantoms_renders_a_few(tmp_path: Path) -> None:
    drawn = []

    def crop(rng: np.random.Generator) -> Case:
        drawn.append(_crop(rng))
        return drawn[-1]

    recipe = replace(TINY_RECIPE, phantom_crops=lambda folder: crop, pool=100)
    (run,) = train(recipe, _options(tmp_path, steps=None, phantoms=4, epochs=(1,))).runs
    assert run.steps == 2
    # To learn from and to begin with, and as many that are never learned from.
    assert 4 + 4 <= len(drawn) <= 2 * 4 + 4


def test_workers_draw_the_same_again(tmp_path: Path) -> None:
    one, again = (
        train(TINY_RECIPE, _options(tmp_path / str(n), workers=2, steps=2)) for n in range(2)
    )
    assert _sha(one) == _sha(again)


def test_a_run_by_the_clock_ends_with_a_small_rate(tmp_path: Path) -> None:
    started = time.monotonic()
    (run,) = train(TINY_RECIPE, _options(tmp_path, steps=None, minutes=0.05)).runs
    assert 3.0 <= run.seconds < time.monotonic() - started
    state = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    assert state["step"] == run.steps >= 1  # how many is the machine's to say
    # Of the last step's beginning: on a busy machine a step takes its time.
    assert state["optimizer"]["param_groups"][0]["lr"] < 0.5 * RECIPE.learning_rate


def test_training_starts_from_weights_that_are_given(tmp_path: Path) -> None:
    torch.manual_seed(5)
    init = tmp_path / "init.safetensors"
    network = UNet2d(TINY)
    export_weights(network, init)
    (run,) = train(
        TINY_RECIPE, _options(tmp_path / "out", steps=1, learning_rate=1e-7, init=init)
    ).runs
    found = dict(load_weights(TINY_RECIPE, run.weights, "cpu").named_parameters())
    for name, value in network.named_parameters():
        torch.testing.assert_close(found[name], value, rtol=1e-2, atol=1e-3)
    export_weights(UNet2d((4, 4, 4, 4, 4)), init)
    with pytest.raises(
        WeightsError, match=r"init\.safetensors holds the weights of another network"
    ):
        train(TINY_RECIPE, _options(tmp_path / "other", init=init))
    init.write_bytes(b"nothing")
    with pytest.raises(WeightsError, match="cannot be read as safetensors"):
        read_widths(init)


@pytest.mark.skipif(shutil.which("g++") is None, reason="--fast compiles with g++")
def test_a_fast_run_on_crops_drawn_before_learns_and_resumes(tmp_path: Path) -> None:
    options = _options(tmp_path / "out", cache=tmp_path / "cache", phantoms=3, fast=True, steps=8)
    (run,) = train(TINY_RECIPE, replace(options, steps=4)).runs
    assert len(list((tmp_path / "cache").glob("crop-*.npz"))) == 3
    drawn = [path.stat().st_mtime_ns for path in sorted((tmp_path / "cache").iterdir())]
    (more,) = train(TINY_RECIPE, options).runs
    assert (more.resumed_from, more.steps) == (4, 8)
    assert run.validation_loss is not None
    assert more.validation_loss is not None
    assert more.validation_loss < run.validation_loss
    assert drawn == [path.stat().st_mtime_ns for path in sorted((tmp_path / "cache").iterdir())]


def test_a_fast_run_without_a_compiler_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(TrainingError, match=r"install g\+\+, or leave out --fast"):
        train(TINY_RECIPE, _options(tmp_path / "out", fast=True))


def test_a_loss_that_is_no_number_stops_the_run(tmp_path: Path) -> None:
    recipe = replace(
        TINY_RECIPE,
        make_loss=lambda: lambda logits, truth: logits.mean() * float("nan"),
    )
    with pytest.raises(TrainingError, match="loss is nan at step 1"):
        train(recipe, _options(tmp_path))


# -- interruption ---------------------------------------------------------------------------------


def test_a_killed_run_goes_on(tmp_path: Path) -> None:
    """The process dies by SIGKILL at any moment; the same command goes on from its checkpoint."""
    paths = [str(path) for path in (ROOT, ROOT / "tests", Path(__file__).parent)]
    code = (
        f"import sys; sys.path[:0] = {paths!r}; import test_training_runs as t; "
        f"t.train(t.TINY_RECIPE, t._options(t.Path({str(tmp_path)!r}), steps=100_000))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        deadline = time.monotonic() + 120
        while not (tmp_path / CHECKPOINT).exists() and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    (run,) = train(TINY_RECIPE, _options(tmp_path, steps=2)).runs
    assert run.resumed_from >= 1


def test_an_interrupted_command_says_how_to_go_on(own: Path, tmp_path: Path) -> None:
    arguments = ["--data", str(own), "--out", str(tmp_path), "--steps", "100000", "--workers", "0"]
    # A test run in the background ignores the signal, and hands that on.
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "import node.cli; node.cli.main()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, "pipelines", "train", "ct_skeleton", *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        deadline = time.monotonic() + 120
        while not (tmp_path / CHECKPOINT).exists() and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"goes on from the checkpoint in {tmp_path}" in said.replace("\n", " ")
    assert "Traceback" not in said


def test_a_sweep_without_its_held_out_body_fails_before_it_learns(tmp_path: Path) -> None:
    (tmp_path / "atlas").mkdir()

    def no_body(folder: Path | None) -> Callable[[int], Case]:
        raise FileNotFoundError(2, "No such file", "held_out.nii.gz")

    options = _options(tmp_path / "out", atlas=tmp_path / "atlas", repeats=2)
    with pytest.raises(TrainingError, match=r"held_out\.nii\.gz cannot be read"):
        train(replace(TINY_RECIPE, phantom_study=no_body), options)
    assert not list((tmp_path / "out").rglob(CHECKPOINT))


def test_the_commands_train_and_evaluate_own_data(own: Path, tmp_path: Path) -> None:
    arguments = ["--data", str(own), "--device", "cpu", "--json"]
    training = [*arguments, "--out", str(tmp_path / "run"), "--steps", "1", "--batch-size", "1"]
    done = CliRunner().invoke(app, ["pipelines", "train", "ct_skeleton", *training, "--workers=0"])
    assert done.exit_code == 0, done.output
    weights = str(tmp_path / "run" / "weights.safetensors")
    figures = [*arguments, "--out", str(tmp_path / "figures"), "--weights", weights]
    done = CliRunner().invoke(app, ["pipelines", "evaluate", "ct_skeleton", *figures])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "figures" / "worst.png").exists()
    for wrong, words in (
        (["--phantoms", "3"], "--data or --phantoms"),
        (["--fold", "1"], "--fold is all"),
        (["--widths", "8"], "no list of channels"),
        (["--minutes", "1"], "--steps or --minutes"),
    ):
        done = CliRunner().invoke(app, ["pipelines", "train", "ct_skeleton", *training, *wrong])
        assert done.exit_code == 2
        assert words in done.stderr


@contextmanager
def _file_size_limit(size: int) -> Iterator[None]:
    """No file may grow beyond this: what a full disk does, by an error of the system."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_stops_the_run_and_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    train(TINY_RECIPE, _options(tmp_path))
    whole = (tmp_path / CHECKPOINT).read_bytes()
    with (
        _file_size_limit(20_000),
        pytest.raises(
            TrainingError, match=r"checkpoint\.pt cannot be written .*make room"
        ) as error,
    ):
        train(TINY_RECIPE, _options(tmp_path, steps=6))
    assert error.value.code == "training-disk"
    assert (tmp_path / CHECKPOINT).read_bytes() == whole
    assert not list(tmp_path.glob("*.partial"))
    (run,) = train(TINY_RECIPE, _options(tmp_path, steps=6)).runs
    assert (run.resumed_from, run.steps) == (3, 6)


def test_a_file_where_a_folder_should_be_is_said(tmp_path: Path) -> None:
    (tmp_path / "fold_0").write_text("in the way")
    with pytest.raises(TrainingError, match=r"run\.json cannot be written") as error:
        train(TINY_RECIPE, _options(tmp_path, folds=2))
    assert error.value.code == "training-disk"


@pytest.mark.parametrize("pipeline", ["ct_skeleton", "qct_femur", "mr_spine_tumor"])
@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_a_folder_without_the_label_maps_is_named(
    pipeline: str, command: str, tmp_path: Path
) -> None:
    (tmp_path / "atlas").mkdir()
    folders = ["--atlas", str(tmp_path / "atlas"), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, ["pipelines", command, pipeline, *folders])
    assert isinstance(result.exception, TrainingError)
    assert re.search(r"atlas: .*\.json.* cannot be read; give the folder", str(result.exception))


def test_label_maps_do_not_go_with_own_data(own: Path, tmp_path: Path) -> None:
    for command in ("train", "evaluate"):
        given = ["--data", str(own), "--atlas", str(own), "--out", str(tmp_path)]
        result = CliRunner().invoke(app, ["pipelines", command, "ct_skeleton", *given])
        assert result.exit_code == 2
        assert "--data or --atlas" in result.output


def test_a_folder_of_another_run_is_not_gone_on_with(tmp_path: Path) -> None:
    train(TINY_RECIPE, _options(tmp_path, widths=(TINY,)))
    other = _options(tmp_path, widths=((4, 4, 4, 4, 4),))
    with pytest.raises(TrainingError, match="a run of other widths"):
        train(TINY_RECIPE, other)
    (tmp_path / "run.json").unlink()
    with pytest.raises(TrainingError, match=r"checkpoint\.pt is of another network"):
        train(TINY_RECIPE, other)
    (tmp_path / CHECKPOINT).write_bytes(b"half a")
    with pytest.raises(TrainingError, match="is no checkpoint of a training run"):
        train(TINY_RECIPE, other)


def test_the_configuration_lies_beside_the_weights(tmp_path: Path) -> None:
    train(TINY_RECIPE, _options(tmp_path, seed=3))
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["identity"]["seed"] == record["options"]["seed"] == 3
    assert record["versions"]["torch"] == importlib.metadata.version("torch")
    assert record["data"].startswith("phantom data")


def test_tensorboard_logs(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    train(TINY_RECIPE, _options(tmp_path))
    assert list((tmp_path / "tensorboard").glob("events.*"))


# -- own data -------------------------------------------------------------------------------------


def test_own_data_is_cross_validated_and_done_once(own: Path, tmp_path: Path) -> None:
    options = _options(tmp_path, data=own, folds=2, test_share=0.2, steps=2)
    (alone,) = train(TINY_RECIPE, replace(options, fold=1)).runs
    report = train(TINY_RECIPE, options)
    assert [run.run.name for run in report.runs] == ["fold_0", "fold_1"]
    assert plain(report.runs[1]) == plain(alone)  # a figure that is no number equals none
    assert report.data == "own data: 5 studies of 5 patients (NIfTI)"
    validated = [record.case for run in report.runs for record in run.records]
    assert len(set(validated)) == 4
    summary = report.cross_validation["interpatient"]["skeleton"]
    assert summary.present == 4
    table = (tmp_path / "report.md").read_text()
    assert table.startswith("**Own data**: 5 studies of 5 patients")
    assert "Cross-validation, intrapatient" in table
    record = json.loads((tmp_path / "fold_0" / "run.json").read_text())["identity"]["data"]
    assert not {*record["training"], *record["validation"]} & {*record["test"]}
    before = (tmp_path / "fold_1" / CHECKPOINT).stat().st_mtime_ns
    assert _sha(train(TINY_RECIPE, options)) == _sha(report)
    assert (tmp_path / "fold_1" / CHECKPOINT).stat().st_mtime_ns == before


def test_evaluation_on_what_a_run_held_out(own: Path, tmp_path: Path) -> None:
    (run,) = train(TINY_RECIPE, _options(tmp_path / "run", data=own, test_share=0.4, steps=2)).runs
    assert len({record.case for record in run.records}) == 1
    options = EvaluateOptions(
        out=tmp_path / "figures", weights=run.weights, data=own, run=tmp_path / "run"
    )
    report = evaluate(TINY_RECIPE, options)
    assert report.studies == 2
    assert report.data.endswith("held out of training")
    assert not {record.case for record in report.records} & {r.case for r in run.records}
    assert evaluate(TINY_RECIPE, replace(options, run=None)).data.endswith("is not known")
    train(TINY_RECIPE, _options(tmp_path / "all", data=own, test_share=0.05, steps=1))
    with pytest.raises(TrainingError, match=r"nothing was held out .*on too few patients"):
        evaluate(TINY_RECIPE, replace(options, run=tmp_path / "all"))
    with pytest.raises(TrainingError, match="no record of a training run"):
        evaluate(TINY_RECIPE, replace(options, run=tmp_path / "figures"))


def test_labels_that_are_wrong_stop_training_before_it_begins(own: Path, tmp_path: Path) -> None:
    case = _study(9)
    data = tmp_path / "data"
    data.mkdir()
    _write(case.image, data / "x_image.nii")
    _write(case.labels.with_array(case.labels.array * 7), data / "x_label.nii")
    with pytest.raises(TrainingError, match=r"x_label\.nii: label value 7 .*--skip-unknown"):
        train(TINY_RECIPE, _options(tmp_path / "out", data=data))
    _write(case.labels, data / "x_label.nii")
    with pytest.raises(TrainingError, match=r"1 patient .*by Patient ID.* too few for 2 parts"):
        train(TINY_RECIPE, _options(tmp_path / "out", data=data))


def _refs(count: int, per_subject: int = 2) -> list[CaseRef]:
    return [
        CaseRef(
            name=f"{number}",
            subject=f"{number // per_subject}",
            group="female" if number // per_subject % 4 else "male",
            load=lambda: _study(0),
        )
        for number in range(count)
    ]


def test_a_patient_is_in_one_part_only_and_groups_are_spread() -> None:
    split = split_cases(_refs(80), folds=5, test_share=0.2, seed=0)
    parts = [split.test, *split.folds]
    subjects = [{ref.subject for ref in part} for part in parts]
    assert sum(map(len, subjects)) == 40 == len(set.union(*subjects))
    assert len(subjects[0]) == 8
    for part in parts:
        assert sum(ref.group == "male" for ref in part) in (2, 4)
    assert len(split.training(2)) == 80 - len(split.test) - len(split.folds[2])
    again = split_cases(_refs(80), folds=5, test_share=0.2, seed=0)
    other = split_cases(_refs(80), folds=5, test_share=0.2, seed=1)
    names, names_again, names_other = (
        [[ref.name for ref in part] for part in (one.test, *one.folds)]
        for one in (split, again, other)
    )
    assert names == names_again != names_other
    with pytest.raises(TrainingError, match=r"4 patients .* too few for 5 parts"):
        split_cases(_refs(8), folds=5, test_share=0.0, seed=0)


# -- sweeps ---------------------------------------------------------------------------------------


def test_a_sweep_compares_widths_over_repeats(tmp_path: Path) -> None:
    options = _options(tmp_path, steps=1, widths=(TINY, (4, 4, 4, 4, 4)), repeats=2)
    report = train(TINY_RECIPE, options)
    assert len(report.runs) == 4
    first, second = report.sweep
    assert (first.runs, second.runs) == (2, 2)
    assert first.parameters > second.parameters
    assert 0 <= first.dice["interpatient"].mean <= 1
    assert read_widths(report.runs[-1].weights) == (4, 4, 4, 4, 4)
    table = (tmp_path / "report.md").read_text()
    assert "| 4 8 8 8 8 |" in table
    assert "| 4 4 4 4 4 |" in table


def test_runs_are_named_by_what_differs() -> None:
    options = _options(Path("x"), widths=(TINY, None), epochs=(1, 2), folds=3, fold=1, repeats=2)
    names = [run.name for run in plan_runs(TINY_RECIPE, options)]
    assert len(set(names)) == len(names) == 8
    assert names[0] == "widths_4_8_8_8_8-epochs_1-fold_1-seed_0"
    assert [run.name for run in plan_runs(TINY_RECIPE, _options(Path("x")))] == [""]
