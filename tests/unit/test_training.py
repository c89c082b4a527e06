"""Training on phantoms: a few steps, resumed; figures; weights that come back."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import cycle
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from pipelines.ct_skeleton.pipeline import load_network
from pipelines.ct_skeleton.training import RECIPE, make_loss, prepare
from pipelines.errors import ManifestError, TrainingError, WeightsError
from pipelines.networks.unet2d import STRIDE, UNet2d
from pipelines.registry import BUILT_IN, find_pipelines, import_training
from pipelines.training.case import Case
from pipelines.training.evaluate import evaluate
from pipelines.training.export import export_weights, load_weights, put_weights
from pipelines.training.loop import LoopOptions, Parts, run_loop
from pipelines.training.metrics import compare, spreads, volume_agreement
from pipelines.training.options import REPORT_NAME, EvaluateOptions, TrainOptions
from pipelines.training.phantoms.procedural import ProceduralOptions, procedural_phantom
from pipelines.training.phantoms.tissues import skeleton_of
from pipelines.training.recipe import Draw
from pipelines.training.stream import CropStream, StreamOptions
from pipelines.training.train import train

PIPELINES = Path(__file__).parent.parent / "pipelines"
TINY = (4, 8, 8, 8, 8)


def _tiny_crop(rng: np.random.Generator) -> Case:
    options = ProceduralOptions(slices=1, rows=64, columns=64, pixel_spacing=6, middle=20)
    phantom = procedural_phantom(options, seed=int(rng.integers(1000)))
    return Case(name="tiny", image=phantom.image, labels=skeleton_of(phantom.tissues))


def _tiny_studies(folder: Path | None) -> Callable[[int], Case]:
    def study(seed: int) -> Case:
        options = ProceduralOptions(slices=8, rows=64, columns=64, pixel_spacing=6, middle=20)
        phantom = procedural_phantom(options, seed=seed)
        labels = skeleton_of(phantom.tissues)
        return Case(name=f"phantom-{seed}", image=phantom.image, labels=labels)

    return study


def _tiny_crops(folder: Path | None) -> Draw:
    return _tiny_crop


TINY_RECIPE = replace(
    RECIPE,
    make_network=lambda widths: UNet2d(widths or TINY),
    phantom_crops=_tiny_crops,
    pool=4,
    epochs=3,
)


def _sample(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    image, truth = prepare(_tiny_crop(rng), rng)
    return image[None], truth[None]


# -- stream ---------------------------------------------------------------------------------------


def test_samples_are_normalised_and_labelled() -> None:
    image, truth = _sample(0)
    assert image.shape == truth.shape == (1, 1, 64, 64)
    assert image.dtype == truth.dtype == torch.float32
    assert image.min() == -1
    assert 0.0 < image.max() < 6
    assert set(truth.unique().tolist()) == {0.0, 1.0}


def test_stream_is_reproducible_and_reuses_crops() -> None:
    rendered = 0

    def draw(rng: np.random.Generator) -> Case:
        nonlocal rendered
        rendered += 1
        return _tiny_crop(rng)

    def take(seed: int) -> list[torch.Tensor]:
        options = StreamOptions(pool=4, reuse=3, seed=seed)
        stream = iter(CropStream(draw, prepare, options))
        return [next(stream)[0] for _ in range(9)]

    one = take(1)
    assert rendered == 4  # two to fill half of the pool, then one per three samples
    assert all(torch.equal(a, b) for a, b in zip(one, take(1), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one, take(2), strict=True))


# -- network and loop -----------------------------------------------------------------------------


def test_network_answers_on_the_grid_it_was_asked() -> None:
    network = UNet2d(TINY).eval()
    with torch.inference_mode():
        logits = network(torch.zeros(2, 1, 2 * STRIDE, 5 * STRIDE))
    assert logits.shape == (2, 1, 2 * STRIDE, 5 * STRIDE)
    assert 1.4e6 < sum(weight.numel() for weight in UNet2d().parameters()) < 2e6


def test_loss_falls_on_samples_seen_again_and_again(tmp_path: Path) -> None:
    torch.manual_seed(0)
    batch = _sample(3)
    options = LoopOptions(steps=30, warm_up=2, learning_rate=1e-2, folder=tmp_path)
    parts = Parts(network=UNet2d(TINY), loss=make_loss(), batches=lambda first: cycle([batch]))
    result = run_loop(parts, options)
    assert len(result.losses) == 30
    assert result.losses[-1] < 0.7 * result.losses[0]


def test_interrupted_training_goes_on_as_if_it_was_not(tmp_path: Path) -> None:
    stream = [_sample(seed) for seed in range(6)]

    def run(folder: Path, stops: tuple[int, ...]) -> nn.Module:
        for stop in stops:
            torch.manual_seed(0)
            network = UNet2d(TINY)
            # The schedule is that of the whole run: only the stream ends early.
            options = LoopOptions(steps=6, warm_up=1, save_seconds=0, folder=folder)

            def rest(first: int, stop: int = stop) -> list[tuple[torch.Tensor, torch.Tensor]]:
                return stream[first:stop]

            parts = Parts(network=network, loss=make_loss(), batches=rest)
            if stop < 6:
                with pytest.raises(TrainingError, match="ended early"):
                    run_loop(parts, options)
            else:
                result = run_loop(parts, options)
                assert result.first_step == (stops[-2] if len(stops) > 1 else 0)
        return network

    whole = run(tmp_path / "whole", (6,)).state_dict()
    halves = run(tmp_path / "halves", (3, 6)).state_dict()
    for name, value in whole.items():
        torch.testing.assert_close(halves[name], value)


def test_training_writes_weights_report_and_resumes(tmp_path: Path) -> None:
    (first,) = train(
        TINY_RECIPE, TrainOptions(phantoms=2, batch_size=2, workers=0, out=tmp_path)
    ).runs
    assert (first.steps, first.resumed_from) == (3, 0)
    (second,) = train(
        TINY_RECIPE, TrainOptions(phantoms=3, batch_size=2, workers=0, out=tmp_path)
    ).runs
    assert (second.steps, second.resumed_from) == (4, 3)
    assert second.sha256 != first.sha256
    report = json.loads((tmp_path / REPORT_NAME).read_text())
    assert report["runs"][0]["sha256"] == second.sha256
    network = load_weights(TINY_RECIPE, second.weights, "cpu")
    assert not network.training


def test_evaluation_reports_both_normalisations(tmp_path: Path) -> None:
    torch.manual_seed(0)
    export_weights(UNet2d(), tmp_path / "weights.safetensors")
    options = EvaluateOptions(phantoms=1, out=tmp_path, weights=tmp_path / "weights.safetensors")
    report = evaluate(replace(RECIPE, phantom_study=_tiny_studies), options)
    assert set(report.summaries) == {"interpatient", "intrapatient"}
    assert 0 <= report.summaries["interpatient"]["skeleton"].figures["dice"].mean <= 1
    assert report.seconds_per_slice["interpatient"] > 0
    written = json.loads((tmp_path / REPORT_NAME).read_text())
    assert written["data"].startswith("phantom data")


def test_what_half_precision_cannot_hold_is_kept(tmp_path: Path) -> None:
    """An infinite variance silences a layer without a word."""
    network = nn.BatchNorm2d(2)
    network.running_var = torch.tensor([3.0, 8.9e9])
    export_weights(network, tmp_path / "weights.safetensors")
    read = nn.BatchNorm2d(2)
    put_weights(read, tmp_path / "weights.safetensors")
    torch.testing.assert_close(read.running_var, network.running_var)


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    network = nn.BatchNorm2d(2)
    network.running_var = torch.tensor([3.0, torch.inf])
    export_weights(network, tmp_path / "weights.safetensors")
    with pytest.raises(WeightsError, match=r"running_var.*train again"):
        put_weights(nn.BatchNorm2d(2), tmp_path / "weights.safetensors")


@pytest.mark.parametrize("weights", sorted(BUILT_IN.glob("*/weights.safetensors")), ids=str)
def test_weights_that_ship_are_numbers(weights: Path) -> None:
    state = safetensors.torch.load_file(weights)
    assert all(value.float().isfinite().all() for value in state.values())


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    export_weights(UNet2d(TINY), tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="another network"):
        load_network(tmp_path / "other.safetensors", "cpu")


# -- figures --------------------------------------------------------------------------------------


def _box(first: int, last: int) -> hd.Volume:
    mask = np.zeros((20, 20, 20), np.uint8)
    mask[5:15, 5:15, first:last] = 1
    return hd.Volume(array=mask, affine=np.diag([2.0, 1, 1, 1]), coordinate_system="PATIENT")


def test_figures_of_a_known_overlap() -> None:
    figures = compare(_box(7, 17), _box(5, 15))
    assert figures.dice == pytest.approx(0.8)
    assert figures.iou == pytest.approx(8 / 12)
    assert figures.sensitivity == figures.precision == pytest.approx(0.8)
    assert figures.accuracy == pytest.approx(1 - 400 / 8000)
    assert figures.specificity == pytest.approx(1 - 200 / 7000)
    assert figures.volume_ml == figures.true_volume_ml == pytest.approx(2.0)
    assert figures.hausdorff95_mm == pytest.approx(2.0)
    assert 0 < figures.surface_mm < 2.0


def test_what_nobody_labelled_counts_for_nothing() -> None:
    """Every fifth slice labelled: the same figures as of these slices alone, whatever lies between them."""
    truth, found = _box(5, 15), _box(7, 17)
    known = np.zeros(truth.array.shape, bool)
    known[::5] = True
    anything = found.with_array(np.where(known, found.array, 1).astype(found.array.dtype))
    sparse = compare(anything, truth, known)
    alone = compare(
        *(volume.with_array(np.where(known, volume.array, 0)) for volume in (found, truth))
    )
    shares = ("dice", "iou", "sensitivity", "precision", "volume_ml", "true_volume_ml")
    assert [getattr(sparse, name) for name in shares] == [getattr(alone, name) for name in shares]
    ours, real = found.array[known] > 0, truth.array[known] > 0
    assert sparse.specificity == pytest.approx((~ours & ~real).sum() / (~real).sum())
    # The faces towards unknown slices are no surface: a perfect answer is at no distance, a wrong one at its own.
    assert compare(truth, truth, known).surface_mm == 0
    assert sparse.hausdorff95_mm > 0


def test_figures_of_nothing() -> None:
    both = compare(_box(5, 5), _box(5, 5))
    assert both.dice == both.iou == both.sensitivity == 1.0
    missed = compare(_box(5, 5), _box(5, 15))
    assert missed.dice == missed.sensitivity == 0.0
    assert np.isnan(missed.hausdorff95_mm)


def test_spread_and_agreement_over_studies() -> None:
    figures = [compare(_box(7, 17), _box(5, 15)), compare(_box(5, 15), _box(5, 15))]
    spread = spreads(figures)
    assert spread["dice"].mean == pytest.approx(0.9)
    assert spread["dice"].worst == pytest.approx(0.8)
    assert spread["hausdorff95_mm"].worst == pytest.approx(2.0)
    sizes = [compare(_box(5, 5 + n + 1), _box(5, 5 + n)) for n in (4, 6, 8)]
    agreement = volume_agreement(sizes)
    assert agreement["bias_ml"] == pytest.approx(0.2)
    assert agreement["upper_ml"] == pytest.approx(0.2)
    assert agreement["r2"] == pytest.approx(1 - 3 * 0.04 / 0.32)


def test_a_hospital_trains_its_own_pipeline_by_the_same_commands(tmp_path: Path) -> None:
    own = tmp_path / "own" / "threshold_bone"
    shutil.copytree(PIPELINES / "threshold_bone", own)
    (own / "training.py").write_text(
        "from dataclasses import replace\n"
        "from pathlib import Path\n"
        "from pipelines.ct_skeleton.training import RECIPE as OURS\n"
        "from pipelines.networks.unet2d import UNet2d\n"
        "RECIPE = replace(\n"
        "    OURS, folder=Path(__file__).parent, make_network=lambda widths: UNet2d((4, 8, 8, 8, 8))\n"
        ")\n",
        encoding="utf-8",
    )
    entry = find_pipelines([tmp_path / "own"]).get("threshold_bone")
    recipe = import_training(entry).RECIPE
    few = TrainOptions(phantoms=2, steps=1, batch_size=2, workers=0, out=tmp_path / "run")
    assert train(recipe, few).pipeline == "threshold_bone"


def test_a_training_module_that_cannot_be_imported_is_named(tmp_path: Path) -> None:
    own = tmp_path / "own" / "threshold_bone"
    shutil.copytree(PIPELINES / "threshold_bone", own)
    entry = find_pipelines([tmp_path / "own"]).get("threshold_bone")
    with pytest.raises(ManifestError, match=r"training\.py is missing"):
        import_training(entry)
    (own / "training.py").write_text("1 / 0\n", encoding="utf-8")
    with pytest.raises(ManifestError, match=r"training\.py: cannot be imported: ZeroDivisionError"):
        import_training(entry)
