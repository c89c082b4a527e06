"""Phantoms: that the truth is exact, and that the physics is what it says it is."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import highdicom as hd
import numpy as np
import pytest
from scipy import ndimage

from pipelines.training.phantoms import names, pathology
from pipelines.training.phantoms.acquisition import Grid, Scene, acquire
from pipelines.training.phantoms.appearance import draw_appearance
from pipelines.training.phantoms.attenuation import attenuation
from pipelines.training.phantoms.ct import ct_phantom
from pipelines.training.phantoms.femora import rotation
from pipelines.training.phantoms.patient import (
    HipPose,
    Implant,
    ImplantKind,
    Patient,
    Phase,
    draw_patient,
)
from pipelines.training.phantoms.physics import Beam, artefacts
from pipelines.training.phantoms.procedural import (
    ProceduralOptions,
    procedural_body,
    procedural_phantom,
)
from pipelines.training.phantoms.projector import make_projector
from pipelines.training.phantoms.render import Subject
from pipelines.training.phantoms.scanner import Scanner, draw_scanner
from pipelines.training.phantoms.splitting import split_femora
from pipelines.training.phantoms.tissues import (
    FIRST_BONE,
    Cut,
    Phantom,
    Tissue,
    structure_of,
)

HIPS = ProceduralOptions(
    slices=36,
    rows=84,
    columns=120,
    pixel_spacing=3.5,
    slice_spacing=4,
    slice_thickness=1.5,
    middle=-20,
)
STRAIGHT = (HipPose(), HipPose())
QUIET = Beam(hardening=0.0, metal="titanium", modulation=0.0, electronic=0.0)


def _patient(**changes: object) -> Patient:
    healthy = draw_patient(np.random.default_rng(0), contrast=False)
    plain = replace(healthy, lesions=(), fractures=(), implants=(), hips=STRAIGHT)
    return replace(plain, **changes)  # type: ignore[arg-type]


def _scanner(**changes: object) -> Scanner:
    plain = Scanner(
        table=None, blur_mm=0.5, sharpening=0, noise_hu=10, beam=QUIET, circle=None, padding=-1024
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def _hips(**changes: object) -> Phantom:
    subject = Subject(patient=_patient(**changes), scanner=_scanner())
    options = replace(HIPS, slices=14, slice_spacing=7) if "implants" in changes else HIPS
    return procedural_phantom(options, seed=3, subject=subject)


# -- who is imaged --------------------------------------------------------------------------------


def test_patients_are_drawn_as_stated() -> None:
    drawn = [draw_patient(np.random.default_rng(seed)) for seed in range(600)]
    men = [one for one in drawn if one.sex == "male"]
    women = [one for one in drawn if one.sex == "female"]
    assert np.mean([one.height_m for one in men]) == pytest.approx(1.75, abs=0.02)
    assert np.mean([one.height_m for one in women]) == pytest.approx(1.61, abs=0.02)
    young = [one.trabecular_mg / 0.8 for one in drawn if one.age < 35]
    old = [one.trabecular_mg / 0.8 for one in drawn if one.age > 80]
    assert np.mean(young) == pytest.approx(218, abs=15)  # HU of L1, Jang 2019
    assert np.mean(old) == pytest.approx(100, abs=15)
    assert 0.05 < np.mean([one.trabecular_mg < 80 for one in drawn]) < 0.35
    assert np.mean([bool(one.implants) for one in drawn]) < 0.15


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Lumbar1", "L1"),
        ("T12", "T12"),
        ("right_psoas_muscle", "psoas_major_right"),
        ("psoas_major_left", "psoas_major_left"),
        ("longissimus_left", "erector_spinae_left"),
        ("right_erector_spinae_muscle", "erector_spinae_right"),
        ("L5-L4-IntervertebralDisc", "disc_L4_L5"),
        ("Sacrum-L5-IntervertebralDisc", "disc_L5_S1"),
        ("Pelvis", "hip_bone"),
        ("Rib7", "rib_7"),
        ("rib_left_7", "rib_left_7"),
        ("left_kidney", "kidney_left"),
    ],
)
def test_atlases_share_one_vocabulary(name: str, expected: str) -> None:
    assert names.normalise(name) == expected


def test_a_mirror_swaps_the_sides() -> None:
    made = names.mirrored({1: "femur_left", 2: "rib_right_7", 3: "L1"})
    assert made == {1: "femur_right", 2: "rib_left_7", 3: "L1"}


# -- hips -----------------------------------------------------------------------------------------


def test_a_femur_turns_about_its_head_and_keeps_its_volume() -> None:
    pose = HipPose(flexion=12, abduction=8, rotation=15)
    straight, turned = _hips(), _hips(hips=(pose, HipPose()))
    left, moved = (structure_of(one, "femur_left") for one in (straight, turned))
    scale = 90 * procedural_body(_patient(), np.random.default_rng(3)).build.scale
    counts = []
    for volume in (left, moved):  # a ball about the joint holds the same part of the bone
        points = volume.map_indices_to_reference(np.argwhere(volume.array))
        counts.append(np.count_nonzero(np.linalg.norm(points - [scale, 0, 0], axis=1) < 75))
    assert counts[1] == pytest.approx(counts[0], rel=0.03)
    assert (moved.array != left.array).mean() > 0.001
    right = [structure_of(one, "femur_right").array for one in (straight, turned)]
    np.testing.assert_array_equal(*right)
    for volume in (left, moved):
        near = volume.map_reference_to_indices(np.asarray([[scale, 0, 0]]))[0]
        assert volume.array[tuple(np.rint(near).astype(int))] == 1


@pytest.mark.parametrize("side", ["left", "right"])
def test_poses_mean_what_their_names_say(side: str) -> None:
    outward = 1.0 if side == "left" else -1.0
    forward = {
        name: np.linalg.inv(rotation(HipPose(**{name: 10.0}), side))
        for name in ("flexion", "abduction", "rotation")
    }
    assert (forward["flexion"] @ [0, 0, -1])[1] < -0.1  # to the front
    assert (forward["abduction"] @ [0, 0, -1])[0] * outward > 0.1  # to the side
    assert (forward["rotation"] @ [0, -1, 0])[0] * outward < -0.1  # toes inward


def test_a_prosthesis_replaces_head_and_neck_and_is_recorded() -> None:
    implant = Implant(kind=ImplantKind.HIP_PROSTHESIS, site="right", size=1.0)
    whole, operated = _hips(implants=()), _hips(implants=(implant,))
    assert operated.patient.has_implant("right")
    assert not operated.patient.has_implant("left")
    metal = structure_of(operated, "hip_prosthesis_right").array > 0
    np.testing.assert_array_equal(metal, operated.tissues.array == Tissue.METAL)
    assert np.median(operated.image.array[ndimage.binary_erosion(metal)]) > 2500
    points = operated.tissues.map_indices_to_reference(np.argwhere(metal))
    assert points[:, 0].max() < 0
    before, after = (int(structure_of(one, "femur_right").array.sum()) for one in (whole, operated))
    assert after < 0.8 * before
    streaks = operated.image.array.astype(float) - whole.image.array
    beside = ndimage.binary_dilation(metal, iterations=6) & ~ndimage.binary_dilation(metal)
    assert streaks[beside].std() > 60


def test_femora_are_parted_from_a_skeleton() -> None:
    """Two balls on shafts under a plate, which touch it, in a body of the right proportions."""
    z, y, x = np.mgrid[:300, :40, :100] * 6.0
    skeleton = (z > 1500) & (np.hypot(x - 300, y - 120) < 60)
    skeleton |= (np.abs(z - 985) < 25) & (np.abs(x - 300) < 160) & (np.abs(y - 120) < 25)
    for middle in (200, 400):
        head = np.sqrt((z - 930) ** 2 + (y - 120) ** 2 + (x - middle) ** 2) < 29
        shaft = (np.hypot(x - middle, y - 120) < 15) & (z < 915)
        skeleton |= head | shaft
    parts = split_femora(skeleton, 6.0)
    assert parts is not None
    for femur, middle in zip(parts, (400, 200), strict=True):
        assert femur[155, 20, round(middle / 6)]
        assert femur[120, 20, round(middle / 6)]
        assert not femur[165:].any()


# -- image formation ------------------------------------------------------------------------------


def _block(depth: np.ndarray) -> Cut:
    shape = depth.shape
    return Cut(
        tissues=np.where(depth > 0, Tissue.SPINE, Tissue.MUSCLE).astype(np.uint8),
        structures=np.zeros(shape, np.uint8),
        depth=depth.astype(np.float32),
        cortex=np.full(shape, 3.0, np.float32),
        mineral=np.full(shape, 100.0, np.float32),
    )


def test_partial_volume_keeps_the_mean() -> None:
    look = draw_appearance(np.random.default_rng(0), _patient())
    look = replace(look, variation=look.variation * 0, grain=0.0, condensation=0.0)
    points = np.zeros((13, 13, 3), np.float32)
    means = []
    for pixel in (0.5, 2.0):
        x = (np.arange(round(96 / pixel)) + 0.5) * pixel
        depth = np.broadcast_to(30.3 - np.abs(x - 48)[None, :], (x.size, x.size))
        coarse = points[: -(-x.size // 8) + 1, : -(-x.size // 8) + 1]
        means.append(attenuation(_block(depth), coarse, look, pixel).mean())
    assert means[1] == pytest.approx(means[0], abs=2)


def test_back_projection_undoes_projection() -> None:
    projector = make_projector(64, 4.0, 90)
    y, x = np.mgrid[:64, :64] - 31.5
    disc = (np.hypot(x - 4, y + 6) < 12).astype(np.float32)
    assert projector.project(disc).max() == pytest.approx(24 * 4, rel=0.06)
    back = projector.reconstruct(projector.project(disc))
    assert back[disc > 0].mean() == pytest.approx(1, abs=0.06)
    assert abs(back[np.hypot(x - 4, y + 6) > 16].mean()) < 0.03


def test_dense_bones_darken_what_lies_between_them() -> None:
    projector = make_projector(90, 6.0, 60)
    y, x = np.mgrid[:90, :90] - 44.5
    plane = np.where(np.hypot(x / 32, y / 18) < 1, 40.0, -1000.0).astype(np.float32)
    plane[np.hypot(np.abs(x) - 15, y) < 4] = 1200
    beam = replace(QUIET, hardening=1.0)
    rng = np.random.default_rng(0)
    none = np.zeros_like(plane)
    made = artefacts(plane, none, projector, beam, rng)
    between, above = made.error[43:47, 40:50].mean(), made.error[30:33, 40:50].mean()
    assert between < above - 5
    # More noise where rays are long: left to right through a wide body.
    assert made.noise[0, 45, 45] < made.noise[2, 45, 45] or made.noise[:, 45, 45].mean() > 0.5
    assert made.noise[:, 45, 45].mean() > made.noise[:, 45, 82].mean()
    thin = artefacts(np.where(np.abs(y) < 10, plane, -1000), none, projector, beam, rng)
    assert thin.noise.mean() < made.noise.mean()


def _water(noise_hu: float, thickness: float) -> np.ndarray:
    class Water:
        names: dict[int, str] = {}  # noqa: RUF012
        patient = _patient(phase=Phase.NATIVE)
        middle = (0.0, 0.0)

        def cut(self, geometry: hd.VolumeGeometry, index: float) -> Cut:
            _, rows, columns = geometry.spatial_shape
            x = geometry.affine[0, 3] + geometry.affine[0, 2] * np.arange(columns)
            y = geometry.affine[1, 3] + geometry.affine[1, 1] * np.arange(rows)
            inside = np.hypot(x[None, :], y[:, None]) < 150
            cut = _block(np.full((rows, columns), -100.0))
            return replace(cut, tissues=np.where(inside, Tissue.SOFT, 0).astype(np.uint8))

    geometry = hd.VolumeGeometry.from_components(
        (2, 200, 200),
        spacing=(thickness, 1.0, 1.0),
        coordinate_system="PATIENT",
        center_position=(0, 0, 0),
        patient_orientation="FPL",
    )
    look = draw_appearance(np.random.default_rng(0), _patient())
    mean = look.mean.copy()
    mean[Tissue.SOFT] = 0
    look = replace(look, mean=mean, variation=look.variation * 0)
    grid = Grid(geometry=geometry, thickness_mm=thickness)
    scene = Scene(body=Water(), appearance=look, scanner=_scanner(noise_hu=noise_hu))
    made = acquire(scene, grid, np.random.default_rng(1))
    return ct_phantom(made).image.array[0, 60:140, 60:140].astype(float)


@dataclass(frozen=True)
class _Layer:
    """Bone between two heights, mm, of which the upper rises along x; muscle above and below."""

    lower: float
    upper: float
    slope: float = 0.0
    names: Mapping[int, str] = field(default_factory=dict)
    patient: Patient = field(default_factory=lambda: _patient(phase=Phase.NATIVE))
    middle: tuple[float, float] = (0.0, 0.0)

    def cut(self, geometry: hd.VolumeGeometry, index: float) -> Cut:
        _, rows, columns = geometry.spatial_shape
        x = geometry.affine[0, 3] + geometry.affine[0, 2] * np.arange(columns)
        height = geometry.affine[2, 3] + geometry.affine[2, 0] * index
        inside = (self.lower < height) & (height < self.upper + self.slope * x)
        return _block(np.where(np.broadcast_to(inside, (rows, columns)), 5.0, -5.0))


@pytest.mark.parametrize("thickness", [2.5, 3.0, 3.5, 4.0, 5.0, 8.0])
def test_the_truth_of_a_slice_is_bone_where_at_least_half_of_it_is(thickness: float) -> None:
    geometry = hd.VolumeGeometry.from_components(
        (1, 9, 41),
        spacing=(thickness, 1.0, 1.0),
        coordinate_system="PATIENT",
        center_position=(0, 0, 0),
        patient_orientation="FPL",
    )
    x = np.arange(41) - 20
    nowhere = np.zeros(41, bool)
    third = thickness / 3
    for layer, expected in (
        (_Layer(-99, 0, 0.3 * thickness), x > 0),
        (_Layer(-0.15, 0.15), nowhere),
        (_Layer(third / 2, 99), nowhere),
        (_Layer(-third / 2, 99), ~nowhere),
    ):
        look = draw_appearance(np.random.default_rng(0), _patient())
        scene = Scene(body=layer, appearance=look, scanner=_scanner(noise_hu=0.0))
        grid = Grid(geometry=geometry, thickness_mm=thickness)
        phantom = ct_phantom(acquire(scene, grid, np.random.default_rng(1)))
        found = phantom.tissues.array[0, 4] == Tissue.SPINE
        np.testing.assert_array_equal(found[x != 0], expected[x != 0])


def test_noise_has_the_level_and_the_spectrum_of_filtered_back_projection() -> None:
    water = _water(20.0, 3.0)
    assert water.std() == pytest.approx(20, rel=0.12)
    assert _water(20.0, 1.5).std() == pytest.approx(20 * np.sqrt(2), rel=0.12)
    power = np.abs(np.fft.fft2(water - water.mean())) ** 2
    frequency = np.hypot(np.fft.fftfreq(80)[:, None], np.fft.fftfreq(80)[None, :])
    bands = [power[(frequency > a) & (frequency <= b)].mean() for a, b in ((0, 0.06), (0.15, 0.3))]
    assert bands[0] < 0.5 * bands[1]  # a ramp: little noise at low frequencies


def test_rods_measure_their_density() -> None:
    subject = Subject(patient=_patient(), scanner=_scanner(calibrated=True, noise_hu=4))
    options = ProceduralOptions(
        slices=2, rows=256, columns=256, pixel_spacing=1.6, middle=0, across=(0.0, 45.0)
    )
    phantom = procedural_phantom(options, seed=2, subject=subject)
    calibration = phantom.calibration
    assert calibration is not None
    _, _, z = phantom.image.center_position
    for rod in calibration.rods:
        index = phantom.image.map_reference_to_indices(np.asarray([[rod.x, rod.y, z]]))[0]
        row, column = np.rint(index[1:]).astype(int)
        measured = phantom.image.array[0, row - 2 : row + 3, column - 2 : column + 3].mean()
        expected = calibration.slope * rod.density + calibration.intercept
        assert measured == pytest.approx(expected, abs=12)


def test_workers_change_nothing() -> None:
    options = replace(HIPS, slices=4)
    one, two = (procedural_phantom(options, seed=9, workers=workers) for workers in (1, 2))
    np.testing.assert_array_equal(one.image.array, two.image.array)


def test_damage_stays_in_its_bone() -> None:
    damage = pathology.Damage(
        code=3, centre=(0, 0, 0), density=0.8, radius_mm=10, normal=None, width_mm=0, on_femur=False
    )
    rows, columns = np.linspace(-20, 20, 5), np.linspace(-20, 20, 5)
    points = np.stack(np.broadcast_arrays(columns[None, :], rows[:, None], 0.0), -1)
    structures = np.zeros((33, 33), np.uint8)
    structures[:, :17] = 3
    made = pathology.density(damage, points.astype(np.float32), structures)
    assert made is not None
    assert made[16, 15] == pytest.approx(0.8)
    assert not made[:, 17:].any()
    assert pathology.density(damage, points.astype(np.float32) + 40, structures) is None


def test_scanners_differ() -> None:
    drawn = [draw_scanner(np.random.default_rng(seed)) for seed in range(40)]
    assert len({one.noise_hu for one in drawn}) == 40
    assert any(one.calibrated for one in drawn)
    assert any(one.table is None for one in drawn)


def test_bone_is_named_and_metal_is_not_bone() -> None:
    implant = Implant(kind=ImplantKind.FEMORAL_PLATE, site="left", size=1.0)
    phantom = _hips(implants=(implant,))
    bone = phantom.tissues.array >= FIRST_BONE
    assert (phantom.structures.array[bone] > 0).all()
    assert not bone[phantom.tissues.array == Tissue.METAL].any()
