"""What the femur pipeline learns from: crops, samples, loss, truth of phantoms and of own labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
import torch

from pipelines.networks.vnet3d import VNet3d, stride_of
from pipelines.qct_femur.anatomy import fit_head
from pipelines.qct_femur.calibration import fit_line
from pipelines.qct_femur.phantoms import (
    TRAINING_ATLAS,
    demo_study,
    draw_diseased,
    proximal_femora,
    whole_femora,
)
from pipelines.qct_femur.rods import read_rods
from pipelines.qct_femur.segmenting import COARSE_MM, CROP, FINE_MM, Side, crop_grid
from pipelines.qct_femur.training import (
    RECIPE,
    SAMPLE,
    UNJUDGED,
    crop,
    dice_and_cross_entropy,
    prepare,
)
from pipelines.training.assess import ALL_STRUCTURES, assess, summaries_of
from pipelines.training.case import UNKNOWN, Case, Found
from pipelines.training.phantoms.atlas import load_atlas
from pipelines.training.phantoms.calibration import RODS_MG
from pipelines.training.phantoms.patient import Implant, ImplantKind, Lesion, draw_patient
from pipelines.training.phantoms.procedural import ProceduralOptions, procedural_phantom
from pipelines.training.phantoms.render import ImagedRegion, Subject, anatomical_phantom
from pipelines.training.phantoms.tissues import Phantom

WIDTHS = (4, 4, 8, 8, 8)


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    options = ProceduralOptions(
        slices=60, rows=110, columns=150, pixel_spacing=2.8, slice_spacing=3.5, middle=-40
    )
    for seed in range(9):
        made = procedural_phantom(options, seed=seed)
        if not (made.patient.has_implant("left") or made.patient.has_implant("right")):
            return made
    raise AssertionError("nine patients with implants")


# -- network and loss ------------------------------------------------------------------------------


def test_the_network_answers_for_every_voxel_and_learns_in_every_weight() -> None:
    torch.manual_seed(0)
    network = VNet3d(WIDTHS)
    side = stride_of(WIDTHS)
    image = torch.randn(2, 1, side, 2 * side, side)
    logits = network(image)
    assert logits.shape == image.shape
    dice_and_cross_entropy(logits, (image > 0).float()).backward()
    assert all(weight.grad is not None for weight in network.parameters())


def test_weights_that_ship_are_a_few_megabytes() -> None:
    weights = sum(weight.numel() for weight in VNet3d().parameters())
    assert 2 * weights < 5e6


def test_the_loss_is_lowest_for_the_truth_and_knows_no_unjudged_voxel() -> None:
    truth = torch.zeros(1, 1, 8, 8, 8)
    truth[..., :4] = 1.0
    right, wrong = 20 * (2 * truth - 1), -20 * (2 * truth - 1)
    assert float(dice_and_cross_entropy(right, truth)) < 0.01
    assert float(dice_and_cross_entropy(wrong, truth)) > 1
    unjudged = truth.clone()
    unjudged[..., 6:] = UNJUDGED
    spoilt = torch.where(unjudged < 0, -right, right)
    assert float(dice_and_cross_entropy(spoilt, unjudged)) == pytest.approx(
        float(dice_and_cross_entropy(right, unjudged))
    )


# -- phantoms --------------------------------------------------------------------------------------


def test_truth_of_a_phantom_is_both_proximal_femora_of_its_sides(phantom: Phantom) -> None:
    whole, part = whole_femora(phantom), proximal_femora(phantom)
    for number, sign in ((1, 1), (2, -1)):
        femur = whole.with_array((whole.array == number).astype(np.uint8))
        head = fit_head(femur)
        assert head is not None
        assert head.centre[0] * sign > 60
        found = part.array == number
        assert 0 < found.sum() < femur.array.sum()
        assert not (found & (femur.array == 0)).any()


def test_a_side_with_an_implant_has_no_truth() -> None:
    options = ProceduralOptions(
        slices=24, rows=60, columns=80, pixel_spacing=5, slice_spacing=8, middle=-40
    )
    patient = draw_patient(np.random.default_rng(1))
    plate = Implant(kind=ImplantKind.FEMORAL_PLATE, site="right", size=1.0)
    subject = Subject(patient=replace(patient, implants=(plate,)))
    truth = proximal_femora(procedural_phantom(options, seed=1, subject=subject)).array
    assert (truth == 1).any()
    assert not (truth == 2).any()


def test_procedural_crops_become_samples() -> None:
    rng = np.random.default_rng(3)
    case = RECIPE.phantom_crops(None)(rng)
    assert round(float(case.image.spacing[0]), 2) in (FINE_MM, COARSE_MM)
    image, truth = prepare(case, rng)
    assert image.shape == truth.shape == (1, SAMPLE, SAMPLE, SAMPLE)
    assert image.dtype == truth.dtype == torch.float32
    assert float(image.min()) >= -1
    assert float(image.max()) <= 1
    assert set(truth.unique().tolist()) <= {0.0, 1.0}


def test_the_diseased_have_lesions_in_both_femora() -> None:
    patients = [draw_diseased(np.random.default_rng(seed)) for seed in range(60)]
    for patient in patients:
        assert {one.structure for one in patient.lesions} == {"femur_left", "femur_right"}
    lytic = [all(one.density < 0 for one in patient.lesions) for patient in patients]
    assert 0.5 < np.mean(lytic) < 0.9


def test_a_lytic_lesion_is_of_the_femur_all_the_same(shared_data: Path) -> None:
    """Truth is the bone that was there; what is left of its density is the image's affair."""
    atlas = load_atlas(shared_data / "atlas" / TRAINING_ATLAS)
    region = ImagedRegion(
        centre=atlas.femora["left"].head, shape=(40, 60, 60), pixel_spacing=2.0, slice_spacing=2.0
    )
    healthy = replace(draw_patient(np.random.default_rng(2), contrast=False), implants=())
    hole = tuple(
        Lesion(structure=f"femur_{side}", radius_mm=18, density=-1) for side in ("left", "right")
    )
    made = [
        anatomical_phantom(
            atlas, region, seed=4, subject=Subject(patient=replace(healthy, lesions=lesions))
        )
        for lesions in ((), hole)
    ]
    whole, hollow = (whole_femora(one).array > 0 for one in made)
    assert (whole == hollow).mean() > 0.99
    means = [float(one.image.array[whole].mean()) for one in made]
    assert means[1] < means[0] - 25


def test_right_femora_are_seen_as_left_ones() -> None:
    """A fine sample has the head towards the first column, whichever side it is of."""
    for side, number in ((Side.LEFT, 1), (Side.RIGHT, 2)):
        grid = crop_grid(np.array([side * 90.0, 0.0, 0.0]), side)
        x = grid.affine[0, 2] * np.arange(CROP[2]) + grid.affine[0, 3]
        # Dense towards the middle of the body.
        plane = np.where(side * x < 116, 1000, 0).astype(np.int16)
        array = np.broadcast_to(plane, CROP).copy()
        image = hd.Volume(array=array, affine=grid.affine, coordinate_system="PATIENT")
        labels = image.with_array(np.full(CROP, number, np.uint8))
        case = Case(name="x", image=image, labels=labels)
        for orientation in ("HPL", "FAR"):
            turned = Case(
                name="x",
                image=image.to_patient_orientation(orientation),
                labels=labels.to_patient_orientation(orientation),
            )
            sample, _ = prepare(turned, np.random.default_rng(0))
            columns = sample[0].mean(dim=(0, 1))
            assert columns[0] > columns[-1]
        assert case.image.spatial_shape == CROP


def test_the_demo_has_a_phantom_whose_rods_lie_on_a_line() -> None:
    volume = demo_study(1)
    rods = read_rods(volume, np.array([[90.0, 0, 0], [-90.0, 0, 0]]), RODS_MG)
    assert rods is not None
    line = fit_line(rods, RODS_MG)
    assert line.r2 > 0.999
    assert 0.8 < line.slope < 2


# -- own labels ------------------------------------------------------------------------------------


def test_own_labels_of_a_proximal_part_leave_the_shaft_unjudged(phantom: Phantom) -> None:
    case = Case(name="own", image=phantom.image, labels=proximal_femora(phantom))
    whole = Case(name="own", image=phantom.image, labels=whole_femora(phantom))
    seen = set()
    for seed in range(6):
        made = crop(case, np.random.default_rng(seed))
        seen.add(round(float(made.image.spacing[0]), 2))
        assert made.image.geometry_equal(made.labels)
        complete = crop(whole, np.random.default_rng(seed))
        # What only the complete labels know is unknown, never background.
        missed = (complete.labels.array > 0) & (complete.labels.array != UNKNOWN)
        missed &= made.labels.array == 0
        if made.image.spacing[0] < 2:
            assert missed.mean() < 0.002
        _, truth = prepare(made, np.random.default_rng(seed))
        assert set(truth.unique().tolist()) <= {UNJUDGED, 0.0, 1.0}
    assert seen == {FINE_MM, COARSE_MM}


def test_a_study_without_a_femur_shows_what_is_none(phantom: Phantom) -> None:
    nothing = phantom.image.with_array(np.zeros(phantom.image.spatial_shape, np.uint8))
    case = Case(name="own", image=phantom.image, labels=nothing)
    made = crop(case, np.random.default_rng(0))
    assert not made.labels.array.any()
    image, truth = prepare(made, np.random.default_rng(0))
    assert image.shape == truth.shape == (1, SAMPLE, SAMPLE, SAMPLE)
    assert not truth.any()


def test_a_femur_that_is_labelled_is_missed_where_it_is_not_found(phantom: Phantom) -> None:
    """Also one in whose label no head is found: what is hard is not what is not there."""
    labels = whole_femora(phantom).array.copy()
    heights = np.flatnonzero((labels == 1).any(axis=(1, 2)))
    z = phantom.image.affine[2, 0] * heights
    # Of the left femur the shaft alone is labelled.
    labels[heights[z > np.quantile(z, 0.4)]] *= labels[heights[z > np.quantile(z, 0.4)]] != 1
    shaft = phantom.image.with_array((labels == 1).astype(np.uint8))
    assert fit_head(shaft) is None
    case = RECIPE.judged(
        Case(name="own", image=phantom.image, labels=phantom.image.with_array(labels))
    )
    np.testing.assert_array_equal(case.labels.array == 1, shaft.array > 0)
    nothing = phantom.image.with_array(np.zeros(labels.shape, np.uint8))
    found = assess({"none": lambda case: Found(labels=nothing)}, [case], RECIPE.structures)
    for name, summary in summaries_of(found.records).items():
        sides = 2 if name == ALL_STRUCTURES else 1
        assert (summary.present, summary.missed, summary.absent) == (sides, sides, 0)
        assert summary.figures["dice"].mean == summary.figures["sensitivity"].mean == 0


def test_own_labels_of_whole_femora_are_judged_by_their_proximal_part(phantom: Phantom) -> None:
    whole = Case(name="own", image=phantom.image, labels=whole_femora(phantom))
    proximal = RECIPE.judged(whole)
    np.testing.assert_array_equal(proximal.labels.array, proximal_femora(phantom).array)
    again = RECIPE.judged(proximal)
    overlap = np.count_nonzero(again.labels.array & proximal.labels.array)
    assert overlap > 0.98 * np.count_nonzero(proximal.labels.array)
