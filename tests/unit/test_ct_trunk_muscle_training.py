"""What the muscle pipeline learns from: plan, sparse labels, the teacher, stages, wasted muscles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
import torch
import trunks

from pipelines.ct_trunk_muscle import training
from pipelines.ct_trunk_muscle.anatomy import (
    BODIES,
    BODY_CLASS,
    CLASSES,
    LEVELS,
    MUSCLES,
    NUMBERS,
    UNKNOWN,
)
from pipelines.ct_trunk_muscle.networks import Part, TrunkNetworks, load_networks
from pipelines.ct_trunk_muscle.plan import Fingerprint, Intensities, read_plan
from pipelines.ct_trunk_muscle.planning import VOXELS, derive_plan, fingerprint, fit_patch
from pipelines.ct_trunk_muscle.teaching import (
    class_labels,
    level_labels,
    masked_loss,
    swap_sides,
    teach,
    to_sample,
)
from pipelines.ct_trunk_muscle.training import RECIPE, own_crop
from pipelines.ct_trunk_muscle.truth import dense, sparse, truth_of, vertebral_body
from pipelines.errors import TrainingError, WeightsError
from pipelines.inference import engine_of
from pipelines.networks.plain_unet import PlainUNet, inflate
from pipelines.training.assess import assess, summaries_of
from pipelines.training.case import Case, Found
from pipelines.training.export import export_weights
from pipelines.training.phantoms.patient import Patient, draw_patient
from pipelines.training.phantoms.procedural import procedural_body
from pipelines.training.phantoms.render import ImagedRegion, grid_of, image_body
from pipelines.training.phantoms.tissues import Cut, Phantom, Tissue, structure_of
from pipelines.training.phantoms.wasting import MuscleState, WastedBody, draw_states

PLAN = trunks.PLAN


@cache
def phantom(lipid: float = 0.0, loss: float = 0.0) -> Phantom:
    """A lean procedural loin; only its left psoas is wasted."""
    rng = np.random.default_rng(4)
    patient = replace(draw_patient(rng, contrast=False), fat_mm=12.0, implants=(), muscle_fat=0.0)
    body = procedural_body(patient, rng)
    state = MuscleState(muscle="psoas_major_left", lipid=lipid, loss_mm=loss)
    region = ImagedRegion(
        centre=(0, 0, 0), shape=(30, 110, 150), pixel_spacing=2.5, slice_spacing=4.0
    )
    middle = (0.0, 15.0, 215.0 * body.build.scale)
    return image_body(WastedBody(body=body, states=(state,)), grid_of(region, middle), rng)


# -- the plan --------------------------------------------------------------------------------------


def measured(
    spacing: tuple[float, float, float] = (3.0, 0.8, 0.8),
    extent: tuple[float, float, float] = (380.0, 270.0, 390.0),
) -> Fingerprint:
    return Fingerprint(
        cases=10,
        spacing=spacing,
        finest_slices=1.0,
        extent=extent,
        intensities=Intensities(low=-110, high=600, mean=60, sd=120),
    )


def test_a_fingerprint_is_measured_in_the_labelled_voxels_alone() -> None:
    image = trunks.scene(("L2", "L3"))
    labels = trunks.truth(image)
    cases = [Case(name="one", image=image, labels=image.with_array(labels))]
    found = fingerprint(cases)
    inside = image.array[labels > 0]
    assert found.spacing == trunks.SPACING
    assert found.intensities.low == pytest.approx(np.percentile(inside, 0.5), abs=3)
    assert found.intensities.high == pytest.approx(np.percentile(inside, 99.5), abs=3)
    assert found.intensities.mean == pytest.approx(inside.mean(), abs=3)
    rows = np.flatnonzero((image.array > -300).any(axis=(0, 2)))
    assert found.extent[1] == pytest.approx((rows[-1] - rows[0] + 1) * 2.0)
    nothing = replace(cases[0], labels=image.with_array(np.full_like(labels, UNKNOWN)))
    with pytest.raises(TrainingError, match="labelled voxel"):
        fingerprint([nothing])


def test_patches_fit_and_keep_the_shape_of_the_study() -> None:
    plan = derive_plan(measured())
    assert np.prod(plan.volume.patch) <= VOXELS
    for network in (plan.slices, plan.volume, plan.levels):
        sides = zip(network.patch, network.multiples, strict=True)
        assert all(side % multiple == 0 for side, multiple in sides)
    # The network of slices teaches the one of volumes, which begins as it.
    assert plan.slices.spacing == plan.volume.spacing[1:]
    assert plan.slices.channels == plan.volume.channels
    assert plan.slices.patch == plan.volume.patch[1:]
    slices, rows, columns = plan.volume.patch
    assert columns > rows > slices
    assert derive_plan(measured(extent=(40.0, 270.0, 390.0))).volume.patch[0] <= slices
    # The whole trunk in one look.
    seen = np.array(plan.levels.patch) * plan.levels.spacing
    assert (seen > 0.6 * np.array(plan.fingerprint.extent)).all()


def test_thick_slices_are_planned_by_the_thin_ones_and_small_patients_finely() -> None:
    small = (60.0, 60.0, 60.0)
    assert derive_plan(measured((1.0, 0.8, 0.8), small)).volume.spacing == (1.0, 0.8, 0.8)
    assert derive_plan(measured((5.0, 0.8, 0.8), small)).volume.spacing == (1.0, 0.8, 0.8)
    coarse = derive_plan(measured()).volume.spacing
    assert max(coarse) / min(coarse) < 1.1
    assert derive_plan(measured()) == derive_plan(measured())


def test_the_patch_that_fits_is_shrunk_where_it_is_largest_for_the_study() -> None:
    assert fit_patch((30, 60, 90), 10**9, multiple=16) == (32, 64, 96)
    shrunk = fit_patch((64, 64, 256), 64 * 64 * 64, multiple=16)
    assert np.prod(shrunk) <= 64**3
    assert shrunk[2] > shrunk[0]


def test_the_plan_beside_the_weights_is_what_its_fingerprint_derives(tmp_path: Path) -> None:
    assert derive_plan(PLAN.fingerprint) == PLAN
    PLAN.write(tmp_path / "plan.json")
    assert read_plan(tmp_path / "plan.json") == PLAN
    (tmp_path / "broken.json").write_text("{}")
    with pytest.raises(WeightsError, match=r"broken\.json"):
        read_plan(tmp_path / "broken.json")


# -- networks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("halvings", [(3, 3), (3, 3, 3), (1, 3, 3), (0, 3, 3)])
def test_the_network_answers_for_every_voxel_and_learns_in_every_weight(
    halvings: tuple[int, ...],
) -> None:
    torch.manual_seed(0)
    network = PlainUNet(halvings, (4, 8, 8), 5)
    image = torch.randn(2, 1, *(8, 16, 24)[: len(halvings)])
    logits = network(image)
    assert logits.shape == (2, 5, *image.shape[2:])
    masked_loss(logits, (image > 0).float()).backward()  # type: ignore[no-untyped-call]
    assert all(weight.grad is not None for weight in network.parameters())
    with pytest.raises(ValueError, match="2 or 3"):
        PlainUNet((2, 2, 2, 2), (4, 8), 2)


@pytest.mark.parametrize("along", [0, 1, 3])
def test_a_network_of_volumes_begins_as_one_of_slices(along: int) -> None:
    torch.manual_seed(0)
    flat, deep = PlainUNet((3, 3), (4, 8, 8), 5), PlainUNet((along, 3, 3), (4, 8, 8), 5)
    inflate(flat, deep)
    image = torch.randn(1, 1, 16, 24)
    same_everywhere = image[:, :, None].expand(1, 1, 8, 16, 24).contiguous()
    # Volumes and slices are convolved in another order of sums.
    torch.testing.assert_close(
        deep(same_everywhere), flat(image)[:, :, None].expand(1, 5, 8, 16, 24), atol=1e-4, rtol=1e-4
    )
    with pytest.raises(ValueError, match="channels"):
        inflate(flat, PlainUNet((3, 3, 3), (4, 8, 16), 5))


def test_slices_that_have_learned_leave_a_network_of_volumes_that_begins_as_they_are() -> None:
    networks = TrunkNetworks(PLAN, Part.SLICES)
    stage = RECIPE.of_stage("slices", None)
    assert stage.finish is not None
    stage.finish(networks)
    middle = networks.volume.encoders[0][0].weight[:, :, 1]  # type: ignore[index]
    assert torch.equal(middle, networks.slices.encoders[0][0].weight)  # type: ignore[index]
    assert all(RECIPE.of_stage(name, None).finish is None for name in ("levels", "full"))


def test_a_stage_learns_its_own_network_and_leaves_the_others(tmp_path: Path) -> None:
    networks = TrunkNetworks(PLAN, Part.LEVELS)
    for name, weight in networks.named_parameters():
        assert weight.requires_grad == name.startswith("levels.")
    sizes = [sum(w.numel() for w in child.parameters()) for child in networks.children()]
    assert all(1e6 < size < 2e6 for size in sizes)
    export_weights(networks, tmp_path / "weights.safetensors")
    loaded = load_networks(tmp_path / "weights.safetensors", PLAN, "cpu")
    assert torch.allclose(loaded.volume.enter.weight, networks.volume.enter.weight, atol=1e-3)
    other = PLAN.model_copy(update={"volume": PLAN.volume.model_copy(update={"channels": (8, 16)})})
    with pytest.raises(WeightsError, match="another plan"):
        load_networks(tmp_path / "weights.safetensors", other, "cpu")


# -- the loss --------------------------------------------------------------------------------------


def test_the_loss_is_lowest_for_the_truth_and_knows_no_unlabelled_voxel() -> None:
    truth = torch.zeros(1, 1, 8, 8)
    truth[..., :4] = 2.0
    right = 20 * torch.nn.functional.one_hot(truth[:, 0].long(), 3).movedim(-1, 1).float()
    assert float(masked_loss(right, truth)) < 0.01
    assert float(masked_loss(-right, truth)) > 1
    sparse_truth = truth.clone()
    sparse_truth[..., 2:6] = UNKNOWN
    spoilt = right.clone()
    spoilt[..., 2:6] *= -1
    assert float(masked_loss(spoilt, sparse_truth)) == pytest.approx(
        float(masked_loss(right, sparse_truth))
    )
    logits = spoilt.clone().requires_grad_()
    masked_loss(logits, sparse_truth).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert float(logits.grad[..., 2:6].abs().max()) == 0
    nothing = torch.full_like(truth, UNKNOWN)
    assert float(masked_loss(right, nothing)) == 0
    # A missed voxel of a rare class costs more where that class weighs more; one found where nothing is does not.
    unsure = torch.zeros_like(right)
    assert float(masked_loss(right, truth, 30.0)) < 0.01
    missed, surplus = right.clone(), right.clone()
    inside = truth[:, 0] > 0
    missed.movedim(1, -1)[inside] = unsure.movedim(1, -1)[inside]
    surplus.movedim(1, -1)[~inside] = unsure.movedim(1, -1)[~inside]
    assert float(masked_loss(missed, truth, 30.0)) > float(masked_loss(missed, truth))
    assert float(masked_loss(surplus, truth, 30.0)) < float(masked_loss(surplus, truth))


# -- truth of phantoms -----------------------------------------------------------------------------


def test_sparse_labels_are_one_slice_through_the_middle_of_each_vertebra() -> None:
    truth = truth_of(phantom())
    # 30 slices of 4 mm around L2: three vertebrae and more, the outer ones cut.
    assert len(truth.middles) >= 2
    labels = sparse(truth).array
    labelled = np.flatnonzero((labels != UNKNOWN).any(axis=(1, 2)))
    assert sorted(truth.middles.values()) == labelled.tolist()
    for level, index in truth.middles.items():
        assert (labels[index] == BODIES[level]).sum() > 50
        assert (labels[index] == NUMBERS["psoas_major_left"]).any()
        first, last = truth.planes[level]
        assert abs(index - (first + last) / 2) <= 1
    whole = dense(truth).array
    assert (whole != UNKNOWN).any(axis=(1, 2)).sum() > 3 * len(labelled)
    known = labels != UNKNOWN
    np.testing.assert_array_equal(whole[known], labels[known])


def test_only_levels_that_a_body_was_labelled_at_are_learned_from() -> None:
    assert set(truth_of(phantom(), ("L1", "T4")).middles) <= {"L1"}


def test_a_vertebral_body_has_no_arch() -> None:
    vertebra = np.zeros((1, 60, 60), bool)
    vertebra[0, 5:30, 10:50] = True
    vertebra[0, 30:55, 26:34] = True
    body = vertebral_body(vertebra, 1.0)
    assert body[0, 10:25, 15:45].all()
    assert not body[0, 36:].any()


def test_classes_and_levels_of_segment_numbers() -> None:
    numbers = np.array([0, 1, 16, BODIES["T4"], BODIES["L4"], UNKNOWN], np.uint8)
    assert class_labels(numbers).tolist() == [0, 1, 16, BODY_CLASS, BODY_CLASS, UNKNOWN]
    assert level_labels(numbers).tolist() == [0, 0, 0, 1, len(LEVELS), UNKNOWN]
    assert swap_sides(np.array([0, 1, 2, 17, 255], np.uint8)).tolist() == [0, 2, 1, 17, 255]


# -- wasted muscles --------------------------------------------------------------------------------


def _hu(of: Phantom, muscle: str) -> float:
    return float(of.image.array[structure_of(of, muscle).array > 0].mean())


def test_fat_between_the_fibres_lowers_a_muscles_density_by_its_share_and_no_other() -> None:
    healthy, fatty = phantom(), phantom(lipid=0.4)
    fall = _hu(healthy, "psoas_major_left") - _hu(fatty, "psoas_major_left")
    # Muscle measures about 55 HU, fat -105.
    assert fall == pytest.approx(0.4 * 160, abs=16)
    assert _hu(fatty, "psoas_major_right") == pytest.approx(
        _hu(healthy, "psoas_major_right"), abs=1.5
    )


def test_atrophy_leaves_a_smaller_muscle_in_fat() -> None:
    healthy, wasted = phantom(), phantom(loss=4.0)
    before, after = (structure_of(one, "psoas_major_left").array > 0 for one in (healthy, wasted))
    assert 0.5 < after.sum() / before.sum() < 0.85
    assert not (after & ~before).any()
    lost = before & ~after
    assert wasted.image.array[lost].mean() < healthy.image.array[lost].mean() - 80
    np.testing.assert_array_equal(
        structure_of(healthy, "psoas_major_right").array,
        structure_of(wasted, "psoas_major_right").array,
    )


@dataclass(frozen=True)
class Sheet:
    """A body that is one uneven sheet of latissimus, 2 to 8 mm thick, in fat."""

    patient: Patient
    names: Mapping[int, str] = field(default_factory=lambda: {1: "latissimus_dorsi_left"})
    middle: tuple[float, float] = (0.0, 0.0)

    def cut(self, geometry: hd.VolumeGeometry, index: float) -> Cut:
        rows, columns = np.indices(geometry.spatial_shape[1:])
        half = 1 + 3 * np.sin(columns / 16) ** 4
        muscle = np.abs(rows - rows.max() / 2) * float(geometry.spacing[1]) < half
        nothing = np.zeros(muscle.shape, np.float32)
        return Cut(
            tissues=np.where(muscle, Tissue.MUSCLE, Tissue.FAT).astype(np.uint8),
            structures=muscle.astype(np.uint8),
            depth=nothing - 50,
            cortex=nothing,
            mineral=nothing,
        )


def test_a_wasted_sheet_does_not_fall_to_scraps() -> None:
    sheet = Sheet(patient=draw_patient(np.random.default_rng(1)))
    states = (MuscleState(muscle="latissimus_dorsi_left", loss_mm=4.0),)
    grid = hd.VolumeGeometry(
        np.diag([5.0, 0.8, 0.8, 1.0]), (1, 64, 256), coordinate_system="PATIENT"
    )
    before, after = (
        body.cut(grid, 0).structures == 1 for body in (sheet, WastedBody(body=sheet, states=states))
    )
    assert 0.4 < after.sum() / before.sum() < 0.6
    assert not (after & ~before).any()


def test_states_are_drawn_for_every_muscle_and_the_old_are_worse() -> None:
    patient = draw_patient(np.random.default_rng(1))
    lipid = {}
    for age in (25, 90):
        rng = np.random.default_rng(2)
        states = [draw_states(rng, replace(patient, age=age), MUSCLES) for _ in range(200)]
        assert {state.muscle for state in states[0]} == set(NUMBERS)
        lipid[age] = np.mean([state.lipid for one in states for state in one])
    assert lipid[90] > 1.5 * lipid[25]


# -- samples and the teacher -----------------------------------------------------------------------


def _case(labels: np.ndarray | None = None) -> Case:
    image = trunks.scene(("L1", "L2", "L3"))
    truth = class_labels(trunks.truth(image)) if labels is None else labels
    return Case(name="scene", image=image, labels=image.with_array(truth))


def test_a_sample_is_as_large_as_the_patch_and_a_mirror_swaps_the_sides() -> None:
    case, patch = _case(), (16, 96, 192)
    left = case.labels.array == NUMBERS["psoas_major_left"]
    for seed in range(6):
        image, truth = to_sample(case, PLAN, patch, swap_sides, np.random.default_rng(seed))
        assert image.shape == truth.shape == (1, *patch)
        found = truth[0].numpy()
        # Columns run to the left, mirrored or not: so do left muscles.
        where = [
            np.argwhere(found == NUMBERS[f"psoas_major_{side}"])[:, 2].mean()
            for side in ("left", "right")
        ]
        assert where[0] > where[1]
    assert left.any()


def test_what_looks_like_muscle_and_is_an_aponeurosis_counts_for_nothing() -> None:
    known = phantom()
    oblique = next(code for code, name in known.names.items() if name == "external_oblique_left")
    names = {**known.names, oblique: "external_oblique_aponeurosis_left"}
    labels = truth_of(replace(known, names=names)).labels.array
    np.testing.assert_array_equal(labels == UNKNOWN, known.structures.array == oblique)
    assert (labels == UNKNOWN).any()


def test_samples_are_warped_and_their_labels_with_them() -> None:
    shape, patch = (16, 96, 128), (16, 96, 128)
    rows, columns = np.indices(shape[1:]) - np.array([48, 50])[:, None, None]
    muscle = np.broadcast_to(np.hypot(rows, 0.7 * columns) < 25, shape)
    hounsfield = np.where(muscle, np.float32(60), np.float32(-100))
    image = hd.Volume.from_components(
        hounsfield,
        spacing=(2.28, 2.29, 2.29),
        coordinate_system="PATIENT",
        position=(0, 0, 0),
        patient_orientation="FPL",
    )
    case = Case(name="disc", image=image, labels=image.with_array(muscle.astype(np.uint8)))
    areas = set()
    for seed in range(8):
        rng = np.random.default_rng(seed)
        bright, truth = (one[0].numpy() for one in to_sample(case, PLAN, patch, np.array, rng))
        known = truth != UNKNOWN
        middle = (bright[known].max() + np.median(bright[known & (truth == 0)])) / 2
        assert ((bright > middle) == (truth == 1))[known].mean() > 0.97
        areas.add(round(float((truth == 1).mean()), 3))
    assert len(areas) > 3


def test_the_teacher_speaks_between_labelled_slices_where_it_is_sure() -> None:
    known = class_labels(trunks.truth(trunks.scene(("L1", "L2", "L3"))))
    given = np.full_like(known, UNKNOWN)
    given[10], given[18] = known[10], known[18]

    def sees(image: torch.Tensor) -> torch.Tensor:
        # Unsure of one muscle.
        found = trunks.read_muscles(image[:, :, None])[:, :, 0]
        found[:, NUMBERS["psoas_major_left"]] *= 0.51
        return found

    teacher = replace(engine_of(torch.nn.Conv2d(1, 1, 1)), infer=sees)
    taught = teach(teacher, _case(given), PLAN).labels.array
    np.testing.assert_array_equal(taught[[10, 18]], known[[10, 18]])
    number = NUMBERS["rectus_abdominis_left"]
    np.testing.assert_array_equal(taught[14] == number, known[14] == number)
    assert (taught[14][known[14] == NUMBERS["psoas_major_left"]] == UNKNOWN).all()
    # Too far from what was labelled: nobody knows.
    assert (taught[-1] == UNKNOWN).all()


def test_own_slices_without_any_label_were_not_labelled() -> None:
    image = trunks.scene(("L1", "L2", "L3"), orientation="HPL")
    labels = np.zeros(image.spatial_shape, np.uint8)
    real = trunks.truth(image)
    labels[12] = real[12]
    case = Case(name="own", image=image, labels=image.with_array(labels))
    rng = np.random.default_rng(0)
    part = own_crop(Part.VOLUME, None, case, rng)
    labelled = (part.labels.array != UNKNOWN).any(axis=(1, 2))
    assert 1 <= labelled.sum() <= 2
    assert part.image.spacing[0] == pytest.approx(PLAN.volume.spacing[0])
    one = own_crop(Part.SLICES, None, case, rng)
    assert one.image.spatial_shape[0] == 1
    inside = one.labels.array != UNKNOWN
    muscle = inside & (one.labels.array > 0)
    assert muscle.any()
    hounsfield = 100 + 20.0 * one.labels.array[muscle]
    assert np.median(np.abs(one.image.array[muscle] - hounsfield)) < 3
    with pytest.raises(TrainingError, match="no labelled slice"):
        own_crop(Part.SLICES, None, replace(case, labels=image.with_array(0 * labels)), rng)


# -- stages ----------------------------------------------------------------------------------------


def test_stages_are_named_and_the_taught_one_wants_its_teacher(tmp_path: Path) -> None:
    assert list(RECIPE.stages) == ["slices", "volume", "levels", "full"]
    with pytest.raises(TrainingError, match="slices, volume, levels, full"):
        RECIPE.of_stage("", None)
    with pytest.raises(TrainingError, match="--init"):
        RECIPE.of_stage("volume", None)
    slices = RECIPE.of_stage("slices", None)
    assert (slices.stage, slices.batch_size) == ("slices", PLAN.slices.batch_size)
    with pytest.raises(TrainingError, match="leave out --stage"):
        slices.of_stage("other", None)
    weights = tmp_path / "weights.safetensors"
    export_weights(slices.make_network(None), weights)
    assert RECIPE.of_stage("volume", weights).stage == "volume"


@pytest.mark.parametrize("stage", ["slices", "levels", "full"])
def test_each_stage_draws_what_its_network_takes(stage: str) -> None:
    recipe = RECIPE.of_stage(stage, None)
    rng = np.random.default_rng(0)
    case = recipe.phantom_crops(None)(rng)
    image, truth = recipe.prepare(case, rng)
    assert image.shape == truth.shape
    network = recipe.make_network(None)
    part = Part.VOLUME if stage == "full" else Part(stage)
    plan = training._network_plan(PLAN, part)
    assert tuple(image.shape[1:]) == plan.patch
    known = set(np.unique(truth.numpy()).astype(int).tolist()) - {UNKNOWN}
    assert len(known - {0}) > 1
    assert isinstance(network, TrunkNetworks)
    loss = recipe.make_loss()(network(image[None]), truth[None])
    assert float(loss.detach()) > 0
    assert max(known) < (len(LEVELS) + 1 if stage == "levels" else CLASSES)


def test_bodies_are_helpers_that_nobody_is_judged_by() -> None:
    case = _study(np.array([[[0, 1, BODIES["L3"], UNKNOWN]]], np.uint8))
    assert training.judged(case).labels.array.ravel().tolist() == [0, 1, 0, UNKNOWN]
    assert set(RECIPE.structures) == set(NUMBERS.values())


def _study(labels: np.ndarray) -> Case:
    """Labels on a grid from foot to head, and an image of nothing."""
    affine = np.eye(4)[[2, 1, 0, 3]]
    image = hd.Volume(
        array=np.zeros(labels.shape, np.int16), affine=affine, coordinate_system="PATIENT"
    )
    return Case(name="one", image=image, labels=image.with_array(labels))


@pytest.mark.parametrize("orientation", ["HPL", "FPL", "LHP"])
def test_slices_that_nobody_labelled_are_not_judged(orientation: str) -> None:
    """Labels in every third slice: what is found between them is neither right nor wrong."""
    truth = np.zeros((7, 8, 8), np.uint8)
    truth[::3, 2:6, 2:6] = NUMBERS["psoas_major_left"]
    case = _study(truth)
    turned = replace(
        case,
        image=case.image.to_patient_orientation(orientation),
        labels=case.labels.to_patient_orientation(orientation),
    )
    judged = training.judged(turned)
    assert judged.labels.geometry_equal(turned.labels)
    everywhere = np.zeros_like(truth)
    everywhere[:, 2:6, 2:6] = NUMBERS["psoas_major_left"]
    found = case.labels.with_array(everywhere).to_patient_orientation(orientation)
    methods = {"dense": lambda case: Found(labels=found)}
    name = "psoas major left"
    structures = {NUMBERS["psoas_major_left"]: name}
    figures = summaries_of(assess(methods, [judged], structures).records)[name].figures
    assert figures["dice"].mean == figures["precision"].mean == figures["specificity"].mean == 1
    # A wrong place within a labelled slice still costs.
    spoilt = found.array.copy()
    spoilt[judged.labels.array == 0] = NUMBERS["psoas_major_left"]
    methods = {"dense": lambda case: Found(labels=found.with_array(spoilt))}
    assert (
        summaries_of(assess(methods, [judged], structures).records)[name].figures["dice"].mean < 1
    )
