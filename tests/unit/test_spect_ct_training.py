"""Three networks trained together: samples, transfer from CT, a network that learns, areas in the report."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from highdicom import Volume

from pipelines.errors import TrainingError
from pipelines.spect_ct_bone_lesion.networks import (
    CLASSES,
    SLICES,
    TRANSFER_AT,
    Inputs,
    LesionNetworks,
    schedule,
)
from pipelines.spect_ct_bone_lesion.training import (
    RECIPE,
    SIZE,
    crop,
    find,
    make_loss,
    prepare,
)
from pipelines.training.case import Case
from pipelines.training.evaluate import evaluate
from pipelines.training.export import export_weights
from pipelines.training.options import EvaluateOptions, TrainOptions
from pipelines.training.recipe import Draw
from pipelines.training.train import train

TINY = (4, 4, 4, 4)


def _pair(seed: int) -> Case:
    """Two slabs on one grid: a metastasis that counts, a benign lesion that is dense."""
    rng = np.random.default_rng(seed)
    shape, affine = (12, 40, 60), np.diag([4.4, 4.4, 4.4, 1.0])
    counts, hounsfield = rng.poisson(20, shape), rng.normal(40, 10, shape)
    labels = np.zeros(shape, np.uint8)
    labels[4:8, 15:22, 12:19], labels[4:8, 15:22, 40:47] = 1, 2
    counts[labels == 1] += 400
    hounsfield[labels == 2] += 800
    image = Volume(
        array=counts.astype(np.uint16), affine=affine[[2, 1, 0, 3]].T, coordinate_system="PATIENT"
    )
    return Case(
        name=f"phantom-{seed}",
        image=image,
        labels=image.with_array(labels),
        partners={"ct": image.with_array(hounsfield.astype(np.int16))},
    )


def _draw(rng: np.random.Generator) -> Case:
    return crop(_pair(int(rng.integers(100))), rng)


def _crops(folder: Path | None) -> Draw:
    return _draw


def _studies(folder: Path | None) -> Callable[[int], Case]:
    return _pair


TINY_RECIPE = replace(
    RECIPE,
    make_network=lambda widths: LesionNetworks(widths or TINY),
    phantom_crops=_crops,
    phantom_study=_studies,
    pool=4,
    batch_size=2,
)


# -- samples ------------------------------------------------------------------------------------


def test_a_sample_has_both_images_and_the_truth_of_one_slice() -> None:
    rng = np.random.default_rng(0)
    image, truth = prepare(_draw(rng), rng)
    assert image.shape == (2 * SLICES, *SIZE)
    assert truth.shape == (1, *SIZE)
    assert image.dtype == truth.dtype == torch.float32
    assert set(truth.unique().tolist()) <= {0.0, 1.0, 2.0}


def test_a_slice_comes_with_its_neighbours_of_both_images() -> None:
    shape = (6, 96, 96)
    spect = np.arange(6, dtype=np.float32)[:, None, None] + np.full(shape, 10, np.float32)
    image = Volume(spect, np.eye(4), coordinate_system="PATIENT")
    labels = np.zeros(shape, np.uint8)
    labels[0], labels[3] = 1, 2
    hounsfield = image.with_array((20 * spect).astype(np.int16))
    case = Case(
        name="slab", image=image, labels=image.with_array(labels), partners={"ct": hounsfield}
    )
    seen = set()
    for seed in range(12):
        slab, truth = prepare(case, np.random.default_rng(seed))
        label = int(truth.max())
        if label == 0:
            continue
        seen.add(label)
        inside = slab[:, truth[0] == label].mean(dim=1)
        for before, middle, after in (inside[:SLICES], inside[SLICES:]):
            assert middle < after
            # The first slice stands for the one before it.
            assert (before < middle) == (label == 2)
    assert seen == {1, 2}


def test_both_images_and_the_truth_stay_on_each_other() -> None:
    rng = np.random.default_rng(1)
    seen = 0
    for _ in range(6):
        image, truth = prepare(_draw(rng), rng)
        for value, channel in ((1, SLICES // 2), (2, SLICES + SLICES // 2)):
            inside = truth[0] == value
            if inside.sum() > 40:
                outside = image[channel][(truth[0] == 0)]
                assert image[channel][inside].median() > outside.max() - 1.0
                assert image[channel][inside].median() > outside.median() + 1.0
                seen += 1
    assert seen > 4


def test_a_study_without_its_ct_is_refused_by_name() -> None:
    alone = replace(_pair(0), partners={})
    with pytest.raises(TrainingError, match="phantom-0") as refused:
        crop(alone, np.random.default_rng(0))
    assert refused.value.code == "training-no-partner"
    with pytest.raises(TrainingError) as refused:
        find(LesionNetworks(TINY).eval(), alone, Inputs.CT)
    assert refused.value.code == "training-no-partner"


# -- transfer -----------------------------------------------------------------------------------


def test_spect_ct_begins_with_what_ct_has_learned_once() -> None:
    torch.manual_seed(0)
    network = LesionNetworks(TINY)
    fresh = network.spect_ct.stem[0][0].weight.detach().clone()
    schedule(network, 0.0)
    assert not network.learns_both
    schedule(network, TRANSFER_AT)
    assert network.learns_both
    torch.testing.assert_close(network.spect_ct.head.weight, network.ct.head.weight)
    stem = network.spect_ct.stem[0][0].weight
    half = 4 * SLICES
    torch.testing.assert_close(stem[:, :half], fresh[:, :half])
    torch.testing.assert_close(stem[:, half:], network.ct.stem[0][0].weight)
    with torch.no_grad():
        network.spect_ct.head.weight.add_(1.0)
    schedule(network, 0.9)
    assert not torch.equal(network.spect_ct.head.weight, network.ct.head.weight)
    # Weights that have been through it learn all three from the start.
    schedule(network, 0.0)
    assert network.learns_both


def test_while_ct_is_learned_spect_ct_waits() -> None:
    torch.manual_seed(0)
    network = LesionNetworks(TINY).train()
    schedule(network, 0.0)
    logits = network(torch.randn(1, 2 * SLICES, 64, 64))
    assert logits.shape == (1, 3 * CLASSES, 64, 64)
    assert not logits[:, 2 * CLASSES :].any()
    make_loss()(logits, torch.zeros(1, 1, 64, 64)).backward()
    assert all(weight.grad is None for weight in network.spect_ct.parameters())
    assert all(weight.grad is not None for weight in network.ct.head.parameters())
    with torch.inference_mode():
        assert network.eval()(torch.randn(1, 2 * SLICES, 64, 64))[:, 2 * CLASSES :].any()


def test_ct_does_not_see_spect_nor_the_other_way_round() -> None:
    torch.manual_seed(0)
    network = LesionNetworks(TINY).eval()
    image = torch.randn(1, 2 * SLICES, 64, 64)
    other = image.clone()
    other[:, :SLICES] += 1
    with torch.inference_mode():
        before, after = network(image), network(other)
    torch.testing.assert_close(before[:, CLASSES : 2 * CLASSES], after[:, CLASSES : 2 * CLASSES])
    assert not torch.allclose(before[:, :CLASSES], after[:, :CLASSES])


# -- a run --------------------------------------------------------------------------------------


def test_the_loss_falls_and_a_run_goes_through_both_stages(tmp_path: Path) -> None:
    options = TrainOptions(
        out=tmp_path, steps=10, workers=0, learning_rate=1e-2, seed=1, average=0.9
    )
    (run,) = train(TINY_RECIPE, options).runs
    assert run.steps == 10
    assert np.isfinite(run.last_loss)
    assert run.validation_loss is not None
    assert run.last_loss < run.first_loss


def test_evaluation_compares_the_inputs_by_delongs_test(tmp_path: Path) -> None:
    torch.manual_seed(0)
    weights = tmp_path / "weights.safetensors"
    export_weights(LesionNetworks(TINY), weights, widths=TINY)
    options = EvaluateOptions(out=tmp_path, weights=weights, phantoms=3, seed=0)
    report = evaluate(TINY_RECIPE, options)
    assert list(report.summaries) == ["spect", "ct", "spect_ct"]
    assert {area.positives for area in report.areas.values()} == {3}
    pairs = [(one.first, one.second) for one in report.area_differences]
    assert pairs == [("spect", "ct"), ("spect", "spect_ct"), ("ct", "spect_ct")]
    table = (tmp_path / "report.md").read_text()
    assert "| spect - ct |" in table
    assert "bone metastases against benign bone lesions, by lesion" in table
    written = json.loads((tmp_path / "report.json").read_text())
    assert set(written["areas"]) == {"spect", "ct", "spect_ct"}
