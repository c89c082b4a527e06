"""Phantoms: what is in them, that they are reproducible, and that their DICOM is valid."""

import json
import shutil
import subprocess
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.uid import (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from pipelines.training.phantoms.atlas import Atlas, load_atlas
from pipelines.training.phantoms.boxes import bounding_box
from pipelines.training.phantoms.dicom import SeriesOptions, ct_series, write_ct_series
from pipelines.training.phantoms.fields import coarse_indices, draw_field, evaluate, upsample
from pipelines.training.phantoms.names import normalise, tissue_of
from pipelines.training.phantoms.procedural import ProceduralOptions, procedural_phantom
from pipelines.training.phantoms.render import ImagedRegion, Subject, anatomical_phantom
from pipelines.training.phantoms.surfaces import DEPTH_UNIT, bone_depth
from pipelines.training.phantoms.tables import Rod, Shell, Table, table_image
from pipelines.training.phantoms.tissues import FIRST_BONE, Phantom, Tissue, skeleton_of

SMALL = ProceduralOptions(slices=12, rows=128, columns=128, pixel_spacing=3.2, slice_spacing=10)


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return procedural_phantom(SMALL, seed=1)


@pytest.fixture(scope="module")
def series(phantom: Phantom) -> hd.Volume:
    return phantom.image[:3]


def test_same_seed_makes_the_same_phantom(phantom: Phantom) -> None:
    again = procedural_phantom(SMALL, seed=1)
    np.testing.assert_array_equal(again.image.array, phantom.image.array)
    np.testing.assert_array_equal(again.tissues.array, phantom.tissues.array)
    other = procedural_phantom(SMALL, seed=2)
    assert (other.image.array != phantom.image.array).any()


def test_image_and_truth_share_a_grid_in_patient_orientation(phantom: Phantom) -> None:
    assert phantom.image.geometry_equal(phantom.tissues)
    assert phantom.image.array.dtype == np.int16
    assert "".join(code.value for code in phantom.image.get_closest_patient_orientation()) == "FPL"
    np.testing.assert_allclose(phantom.image.spacing, (10, 3.2, 3.2))
    np.testing.assert_allclose(phantom.image.center_position, (0, 15, SMALL.middle))


@pytest.mark.parametrize(
    ("middle", "expected"),
    [
        (0.0, {Tissue.LONG_BONE, Tissue.FLAT_BONE, Tissue.URINE}),
        (180.0, {Tissue.SPINE, Tissue.KIDNEY, Tissue.VESSEL, Tissue.CANAL, Tissue.DISC}),
        (420.0, {Tissue.RIB, Tissue.LUNG, Tissue.HEART, Tissue.SPINE}),
    ],
)
def test_each_region_has_its_organs(middle: float, expected: set[Tissue]) -> None:
    options = ProceduralOptions(
        slices=12, rows=128, columns=128, pixel_spacing=3.2, slice_spacing=10, middle=middle
    )
    tissues = procedural_phantom(options, seed=3).tissues.array
    assert expected | {Tissue.SKIN, Tissue.FAT, Tissue.MUSCLE} <= set(np.unique(tissues))


def test_tissues_measure_what_they_should(phantom: Phantom) -> None:
    def mean(tissue: Tissue) -> float:
        return float(phantom.image.array[phantom.tissues.array == tissue].mean())

    assert -140 < mean(Tissue.FAT) < -50
    assert 0 < mean(Tissue.MUSCLE) < 110
    assert mean(Tissue.VESSEL) > mean(Tissue.MUSCLE) + 40  # contrast medium


def test_skeleton_is_bone_and_nothing_else(phantom: Phantom) -> None:
    skeleton = skeleton_of(phantom.tissues)
    assert skeleton.array.dtype == np.uint8
    np.testing.assert_array_equal(skeleton.array == 1, phantom.tissues.array >= FIRST_BONE)
    assert 0.005 < skeleton.array.mean() < 0.1


def test_structures_are_named_and_agree_with_the_tissues() -> None:
    options = ProceduralOptions(slices=6, rows=128, columns=128, pixel_spacing=3.2, middle=0)
    phantom = procedural_phantom(options, seed=4)
    codes = {name: code for code, name in phantom.names.items()}
    for side, sign in (("left", 1), ("right", -1)):
        femur = phantom.structures.array == codes[f"femur_{side}"]
        assert (phantom.tissues.array[femur] == Tissue.LONG_BONE).all()
        assert femur.sum() > 500
        points = phantom.structures.map_indices_to_reference(np.argwhere(femur))
        assert sign * points[:, 0].mean() > 60
    bone = phantom.tissues.array >= FIRST_BONE
    assert (phantom.structures.array[bone] > 0).all()


def test_left_is_left() -> None:
    """The liver lies on the patient's right: at negative x in LPS."""
    options = ProceduralOptions(slices=2, rows=96, columns=96, pixel_spacing=4.2, middle=285)
    tissues = procedural_phantom(options, seed=0).tissues
    liver = np.argwhere(tissues.array == Tissue.LIVER)
    assert tissues.map_indices_to_reference(liver)[:, 0].mean() < -20
    spine = np.argwhere(tissues.array == Tissue.SPINE)
    assert tissues.map_indices_to_reference(spine)[:, 1].mean() > 20  # at the back


# -- DICOM ----------------------------------------------------------------------------------------


def _oblique(volume: hd.Volume) -> hd.Volume:
    cosine, sine = np.cos(0.3), np.sin(0.3)
    turn = np.eye(4)
    turn[:3, :3] = [[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]]
    return hd.Volume(array=volume.array, affine=turn @ volume.affine, coordinate_system="PATIENT")


def _read(paths: list[Path]) -> hd.Volume:
    return hd.get_volume_from_series([pydicom.dcmread(path) for path in paths])


@pytest.mark.parametrize("order", ["ascending", "reversed", "flipped", "oblique"])
def test_series_reads_back_as_the_volume(series: hd.Volume, tmp_path: Path, order: str) -> None:
    volume = {
        "flipped": lambda: series.flip_spatial([1, 2]),
        "oblique": lambda: _oblique(series),
    }.get(order, lambda: series)()
    options = SeriesOptions(reverse=order == "reversed")
    back = _read(write_ct_series(volume, tmp_path, seed=5, options=options))
    # By position in space, whatever the order of the slices.
    corner = volume.map_indices_to_reference(np.asarray([[2, 10, 20]]))
    index = tuple(np.rint(back.map_reference_to_indices(corner)[0]).astype(int))
    assert back.array[index] == volume.array[2, 10, 20]
    np.testing.assert_allclose(np.sort(back.array, axis=None), np.sort(volume.array, axis=None))


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, RLELossless, JPEGLSLossless, JPEG2000Lossless]
)
def test_every_transfer_syntax_keeps_every_value(
    series: hd.Volume, tmp_path: Path, syntax: pydicom.uid.UID
) -> None:
    options = SeriesOptions(transfer_syntax=syntax)
    paths = write_ct_series(series, tmp_path, seed=5, options=options)
    assert pydicom.dcmread(paths[0]).file_meta.TransferSyntaxUID == syntax
    back = _read(paths)
    assert back.geometry_equal(series)
    np.testing.assert_array_equal(back.array, series.array)


def test_rescale_is_undone_by_the_reader(series: hd.Volume, tmp_path: Path) -> None:
    options = SeriesOptions(rescale_slope=0.5, rescale_intercept=-2000)
    back = _read(write_ct_series(series, tmp_path, seed=5, options=options))
    np.testing.assert_array_equal(back.array, series.array)


def test_identifiers_follow_from_the_seed_unless_given(series: hd.Volume) -> None:
    one, same, other = (ct_series(series, seed=seed) for seed in (5, 5, 6))
    assert [ds.SOPInstanceUID for ds in one] == [ds.SOPInstanceUID for ds in same]
    assert one[0].StudyInstanceUID != other[0].StudyInstanceUID
    assert len({ds.SOPInstanceUID for ds in one}) == len(one)
    given = ct_series(series, seed=5, options=SeriesOptions(study_instance_uid="1.2.3"))
    assert given[0].StudyInstanceUID == "1.2.3"
    second = ct_series(series, seed=5, options=SeriesOptions(series_number=2))
    assert second[0].StudyInstanceUID == one[0].StudyInstanceUID
    assert second[0].SeriesInstanceUID != one[0].SeriesInstanceUID
    assert second[0].SOPInstanceUID != one[0].SOPInstanceUID


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (dicom3tools) is absent")
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, JPEGLSLossless])
def test_instances_are_valid_ct_images(
    phantom: Phantom, series: hd.Volume, tmp_path: Path, syntax: pydicom.uid.UID
) -> None:
    options = SeriesOptions(
        transfer_syntax=syntax, patient=phantom.patient, slice_thickness=2.5, padding=-2048
    )
    paths = write_ct_series(series, tmp_path, seed=5, options=options)
    written = pydicom.dcmread(paths[0])
    assert written.PatientSex == phantom.patient.sex[0].upper()
    assert written.SliceThickness == 2.5
    assert written.PixelPaddingValue * written.RescaleSlope + written.RescaleIntercept == -2048
    for path in paths:
        checked = subprocess.run(
            ["dciodvfy", "-new", str(path)], capture_output=True, text=True, check=False
        )
        said = (checked.stdout + checked.stderr).splitlines()
        assert not [line for line in said if line.startswith(("Error", "Warning"))]


# -- parts ----------------------------------------------------------------------------------------


def test_table_has_its_shell_where_it_says_and_air_elsewhere() -> None:
    shell = Shell(offset=20, radius=300, thickness=4, half_width=100, hounsfield=200)
    rod = Rod(x=-50, y=5, radius=4, hounsfield=1000)
    table = Table(shells=(shell,), rods=(rod,), sink=0)
    x = np.arange(-150, 151, dtype=np.float32)
    y = np.arange(0, 60, dtype=np.float32)
    image = table_image(table, x, y, 1.0)
    assert image[20, 150] == 200  # in the middle
    assert image[20 - 12, 150 + 85] == 200  # 85 mm aside, turned up by 85**2 / 600
    assert image[5, 100] == 1000
    assert image[40, 150] == -1000
    assert (image[:, 0] == -1000).all()


def test_field_is_smooth_random_and_periodic() -> None:
    field = draw_field(np.random.default_rng(0), spacing=10.0, size=16)
    points = np.random.default_rng(1).uniform(0, 160, (500, 3)).astype(np.float32)
    values = evaluate(field, points)
    assert 0.3 < values.std() < 1.2
    np.testing.assert_allclose(evaluate(field, points + 160), values, atol=1e-3)
    near = evaluate(field, points + 0.1)
    assert np.abs(near - values).max() < 0.2


def test_upsampling_keeps_linear_functions() -> None:
    coarse = coarse_indices(50)[:, None] + 2 * coarse_indices(33)[None, :]
    fine = upsample(coarse, 50, 33)
    expected = np.arange(50)[:, None] + 2 * np.arange(33)[None, :]
    np.testing.assert_allclose(fine, expected, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "tissue"),
    [
        ("L3", Tissue.SPINE),
        ("Lumbar4", Tissue.SPINE),
        ("L5-L4-IntervertebralDisc", Tissue.DISC),
        ("rib_left_7", Tissue.RIB),
        ("femur_right", Tissue.LONG_BONE),
        ("hip_bone_left", Tissue.FLAT_BONE),
        ("right_renal_pelvis", Tissue.URINE),
        ("urinary_bladder", Tissue.URINE),
        ("gallbladder", Tissue.SOFT),
        ("Pelvis", Tissue.FLAT_BONE),
        ("quadratus_lumborum_left", Tissue.MUSCLE),
        ("right_psoas_muscle", Tissue.MUSCLE),
        ("left_external_iliac_vein", Tissue.VESSEL),
        ("lung_left", Tissue.LUNG),
        ("internal_soft_tissue", Tissue.FAT),
        ("background", Tissue.AIR),
    ],
)
def test_label_names_are_understood(name: str, tissue: Tissue) -> None:
    assert tissue_of(normalise(name)) is tissue


@pytest.mark.parametrize("spacing", [2.0, 1.33])
def test_depth_in_bone_is_the_distance_to_its_surface(spacing: float) -> None:
    points = np.indices((40, 48, 44)) * spacing
    below = 16 - np.sqrt(sum((p - 30) ** 2 for p in points))  # a ball, not in the middle
    image = sitk.GetImageFromArray((below > 0).astype(np.uint8))
    image.SetSpacing([spacing] * 3)
    depth = sitk.GetArrayFromImage(bone_depth(below > 0, image)) * DEPTH_UNIT
    near = np.abs(below) < 11
    np.testing.assert_allclose(depth[near], below[near], atol=1.3 * spacing)
    assert (depth[below < -15] == -127 * DEPTH_UNIT).all()


def test_box_holds_a_mask_and_its_margin_as_far_as_there_is_one() -> None:
    mask = np.zeros((6, 9), bool)
    mask[1, 3] = mask[2, 5] = True
    assert bounding_box(mask) == np.s_[1:3, 3:6]
    assert bounding_box(mask, (2, 1)) == np.s_[0:5, 2:7]


@pytest.fixture(scope="module")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> Atlas:
    """A trunk with one bone and one arm, 2 mm apart, in a NIfTI file with its table."""
    z, y, x = np.mgrid[:40, :100, :160]
    labels = np.zeros(z.shape, np.uint8)
    labels[np.hypot((x - 70) / 50, (y - 50) / 40) < 1] = 1
    labels[np.hypot((x - 70) / 45, (y - 50) / 35) < 1] = 2
    labels[np.hypot(x - 70, y - 65) < 12] = 3
    labels[np.hypot(x - 145, y - 50) < 10] = 2
    image = sitk.GetImageFromArray(labels)
    image.SetSpacing((2.0, 2.0, 2.0))
    folder = tmp_path_factory.mktemp("atlas")
    sitk.WriteImage(image, str(folder / "trunk.nii.gz"))
    names = {"1": "subcutaneous", "2": {"name": "some_muscle"}, "3": "L1"}
    (folder / "trunk.json").write_text(json.dumps({"labels": names}))
    return load_atlas(folder / "trunk.nii.gz")


REGION = ImagedRegion(
    centre=(140.0, 100.0, 40.0), shape=(4, 160, 240), pixel_spacing=1.0, slice_spacing=3.0
)


AS_IT_IS = Subject(strength=0.0)


def test_atlas_knows_bone_depth_and_arms(atlas: Atlas) -> None:
    def at(volume: hd.Volume, x: float, y: float) -> int:
        index = volume.map_reference_to_indices(np.asarray([[x, y, 40.0]]))[0]
        return int(volume.array[tuple(np.rint(index).astype(int))])

    assert atlas.names[at(atlas.bone, 140, 130)] == "L1"
    assert at(atlas.depth, 140, 130) == pytest.approx(127)  # 24 mm deep, more than it can say
    assert at(atlas.depth, 140, 130 - 30) == pytest.approx(-60, abs=12)  # 6 mm outside
    assert at(atlas.skin, 290, 100) < 0  # an arm is not the trunk
    assert at(atlas.skin, 140, 60) > 20


def test_undeformed_atlas_comes_out_as_it_went_in(atlas: Atlas) -> None:
    phantom = anatomical_phantom(atlas, REGION, seed=0, subject=AS_IT_IS)
    bone = skeleton_of(phantom.tissues)
    area = bone.array[1].sum()
    assert area == pytest.approx(np.pi * 24**2, rel=0.05)
    centre = bone.map_indices_to_reference(np.argwhere(bone.array))[:, 1].mean()
    assert centre == pytest.approx(30.0, abs=3)


def test_deformed_atlas_is_reproducible_and_varied(atlas: Atlas) -> None:
    one, same, other = (anatomical_phantom(atlas, REGION, seed=seed) for seed in (7, 7, 8))
    np.testing.assert_array_equal(one.image.array, same.image.array)
    assert (one.tissues.array != other.tissues.array).mean() > 0.01


def test_cortex_is_denser_than_marrow_on_average(atlas: Atlas) -> None:
    rims, cores = [], []
    for seed in range(6):
        phantom = anatomical_phantom(atlas, REGION, seed=seed, subject=AS_IT_IS)
        image, bone = phantom.image.array[1], skeleton_of(phantom.tissues).array[1] > 0
        core = bone.copy()
        for _ in range(6):
            core[1:-1, 1:-1] &= core[2:, 1:-1] & core[:-2, 1:-1] & core[1:-1, 2:] & core[1:-1, :-2]
        rims.append(np.percentile(image[bone & ~core], 75))
        cores.append(np.median(image[core]))
    assert np.mean(rims) > np.mean(cores) + 100


def test_thick_slices_average_thin_ones(atlas: Atlas) -> None:
    thick = anatomical_phantom(
        atlas,
        ImagedRegion(
            centre=REGION.centre,
            shape=(2, 160, 240),
            pixel_spacing=1.0,
            slice_spacing=6.0,
            slice_thickness=6.0,
        ),
        seed=7,
    )
    assert thick.image.shape == thick.tissues.shape == (2, 160, 240)
    np.testing.assert_allclose(thick.image.spacing, (6, 1, 1))
    assert skeleton_of(thick.tissues).array.any()
