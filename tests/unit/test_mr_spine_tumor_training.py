"""What the spine tumour pipeline learns from: slices, samples, loss, own labels; and its weights."""

from __future__ import annotations

from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
import torch
from torch import nn

from pipelines.manifest import read_manifest
from pipelines.mr_spine_tumor.phantoms import demo_phantom, held_out_studies, training_slices
from pipelines.mr_spine_tumor.pipeline import load_network
from pipelines.mr_spine_tumor.preprocessing import NOTHING, PIXEL_SPACING
from pipelines.mr_spine_tumor.pretraining import spine_or_not
from pipelines.mr_spine_tumor.segmenting import TUMOUR, VERTEBRAE, number_tumours
from pipelines.mr_spine_tumor.training import (
    RECIPE,
    SAMPLE,
    calibrate,
    crop,
    dice_and_cross_entropy,
    prepare,
)
from pipelines.registry import read_entry
from pipelines.training.case import Case


def logits_of(truth: torch.Tensor) -> torch.Tensor:
    classes = nn.functional.one_hot(truth[:, 0].long(), 3).movedim(-1, 1)
    return classes.float() * 20 - 10


def test_tumours_are_as_rare_as_in_patients_in_the_end() -> None:
    network = RECIPE.make_network(()).eval()
    image = torch.randn(1, 1, 128, 128)
    with torch.no_grad():
        before = network(image)
        calibrate(network)
        lowered = before - network(image)
    assert float(lowered[:, TUMOUR].min()) > 2
    assert float(lowered[:, :TUMOUR].abs().max()) < 1e-4
    assert RECIPE.finish is calibrate
    with pytest.raises(TypeError, match="Penn2d"):
        calibrate(nn.Conv2d(1, 3, 1))


def test_the_loss_is_small_where_all_is_right_and_misses_of_tumours_count_most() -> None:
    truth = torch.zeros(2, 1, 64, 64)
    truth[:, :, 10:30, 10:30], truth[:, :, 40:50, 40:50] = 1, 2
    right = float(dice_and_cross_entropy(logits_of(truth), truth))
    assert right < 0.01
    no_tumour, no_vertebra = truth.clone(), truth.clone()
    no_tumour[truth == 2] = 0
    no_vertebra[:, :, 10:20, 10:20] = 0  # as many pixels
    missed = [
        float(dice_and_cross_entropy(logits_of(one), truth)) for one in (no_tumour, no_vertebra)
    ]
    assert missed[0] > missed[1] > right


def test_pre_training_asks_for_the_spine_alone() -> None:
    truth = torch.zeros(1, 1, 32, 32)
    truth[..., 8:16], truth[..., 16:24] = 1, 2
    swapped = torch.where(truth == 1, 2.0, torch.where(truth == 2, 1.0, truth))
    right, other = (float(spine_or_not(logits_of(one), truth)) for one in (truth, swapped))
    assert right == pytest.approx(other)
    assert right < float(spine_or_not(logits_of(torch.zeros_like(truth)), truth))


def test_training_slices_have_tumours_often_and_vertebrae_nearly_always() -> None:
    draw, rng = training_slices(None), np.random.default_rng(0)
    cases = [draw(rng) for _ in range(12)]
    assert sum((case.labels.array == VERTEBRAE).any() for case in cases) >= 10
    assert sum((case.labels.array == TUMOUR).any() for case in cases) >= 3
    for case in cases:
        assert case.image.spacing[1:] == pytest.approx((PIXEL_SPACING, PIXEL_SPACING))
        image, truth = prepare(case, rng)
        assert image.shape == truth.shape == (1, SAMPLE, SAMPLE)
        assert float(image.min()) >= NOTHING
        assert set(np.unique(truth)) <= {0.0, 1.0, 2.0}


def test_crops_of_own_studies_are_on_the_networks_grid_and_upright() -> None:
    geometry = hd.VolumeGeometry.from_components(
        (12, 120, 160),
        spacing=(4.0, 1.6, 0.8),
        coordinate_system="PATIENT",
        center_position=(0.0, 0.0, 0.0),
        patient_orientation="RHA",
    )
    labels = np.zeros((12, 120, 160), np.uint8)
    labels[6, 80:100, 40:60] = TUMOUR
    image = hd.Volume(labels * np.int16(100) + 50, geometry.affine, coordinate_system="PATIENT")
    case = Case(name="own", image=image, labels=image.with_array(labels))
    cut = crop(case, np.random.default_rng(0))
    assert cut.image.array.shape == (1, 192, 128)
    assert cut.image.spacing[1:] == pytest.approx((1.0, 1.0))
    inside = cut.labels.array == TUMOUR
    assert inside.sum() == pytest.approx(20 * 1.6 * 20 * 0.8, rel=0.1)
    # Rows ran to the head and columns to the front: both are turned round.
    rows, columns = (part.mean() for part in np.nonzero(inside[0]))
    assert (rows, columns) == pytest.approx((192 - 90 * 1.6, 128 - 50 * 0.8), abs=1.5)
    assert cut.image.array[inside].mean() > 2 * cut.image.array[~inside].mean()


def test_samples_are_warped_and_their_labels_with_them() -> None:
    rows, columns = np.indices((256, 256)) - np.array([120, 130])[:, None, None]
    tumour = np.hypot(rows, 0.7 * columns) < 30
    image = hd.Volume(
        np.where(tumour, np.int16(300), np.int16(100))[None], np.eye(4), coordinate_system="PATIENT"
    )
    labels = image.with_array((tumour * np.uint8(TUMOUR))[None])
    case = Case(name="disc", image=image, labels=labels)
    shapes = set()
    for seed in range(8):
        bright, truth = (one[0].numpy() for one in prepare(case, np.random.default_rng(seed)))
        found = truth == TUMOUR
        assert (
            (bright > (bright[found].mean() + np.median(bright[~found])) / 2) == found
        ).mean() > 0.97
        along, across = np.ptp(np.argwhere(found), axis=0)
        shapes.add(round(along / across, 2))
    assert len(shapes) > 4


def test_studies_that_are_held_out_differ_from_seed_to_seed() -> None:
    study = held_out_studies(None)
    one, two = study(1), study(2)
    assert one.name != two.name
    assert one.group in ("fat-suppressed", "fat bright")
    assert one.image.geometry_equal(one.labels)


def test_the_weights_that_ship_find_a_tumour_in_a_body_that_was_not_learned_from() -> None:
    entry = read_entry(Path(RECIPE.folder))
    assert read_manifest(entry.folder).weights is not None
    assert entry.weights is not None
    made = demo_phantom(1)
    found = RECIPE.segment(load_network(entry.weights, "cpu"), made.image, "default")
    _, count = number_tumours(found)
    assert 1 <= count <= 5
    ours, real = found.array == TUMOUR, made.labels.array == TUMOUR
    assert 2 * (ours & real).sum() / (ours.sum() + real.sum()) > 0.5
