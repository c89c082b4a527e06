"""SPECT/CT phantoms: what lights up, what CT shows, that both agree where it is; DICOM as cameras write it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from pydicom import Dataset
from scipy import ndimage

from pipelines.series import read_series
from pipelines.spect_ct_bone_lesion.phantoms import (
    demo_study,
    example,
    held_out_studies,
    training_crops,
)
from pipelines.training.phantoms import fields
from pipelines.training.phantoms.acquisition import Grid
from pipelines.training.phantoms.patient import draw_patient
from pipelines.training.phantoms.procedural import procedural_body
from pipelines.training.phantoms.spect import (
    Camera,
    SpectCt,
    SpectCtOptions,
    camera_image,
    plain_patient,
    spect_ct_phantom,
)
from pipelines.training.phantoms.spect_lesions import (
    BENIGN,
    MALIGNANT,
    Anatomy,
    BoneLesion,
    LesionedBody,
    LesionKind,
    draw_lesions,
    lesions_in,
)
from pipelines.training.phantoms.tissues import FIRST_BONE, Body, Tissue

#: Middle of L3 in the procedural body, mm.
L3 = (0.0, 38.0, 174.0)


@pytest.fixture(scope="module")
def made() -> SpectCt:
    return example(3)


@pytest.fixture(scope="module")
def body() -> Body:
    rng = np.random.default_rng(0)
    return procedural_body(plain_patient(draw_patient(rng, contrast=False)), rng)


def _grid(shape: tuple[int, int, int], spacing: float) -> hd.VolumeGeometry:
    return hd.VolumeGeometry.from_components(
        shape,
        spacing=[spacing] * 3,
        coordinate_system="PATIENT",
        center_position=(0, 5, L3[2]),
        patient_orientation="FPL",
    )


def _lesion(kind: LesionKind, density: float, *, exophytic: bool = False) -> BoneLesion:
    return BoneLesion(
        kind=kind,
        centre=L3,
        axes=(np.eye(3) / 9).astype(np.float32),
        radius_mm=9.0,
        uptake=30.0,
        density=density,
        exophytic=exophytic,
        texture=fields.draw_field(np.random.default_rng(0), 8.0, 8),
    )


def test_the_same_seed_makes_the_same_study(made: SpectCt) -> None:
    again = example(3)
    np.testing.assert_array_equal(made.spect.array, again.spect.array)
    np.testing.assert_array_equal(made.ct.image.array, again.ct.image.array)


def test_both_images_and_both_truths_lie_in_one_place(made: SpectCt) -> None:
    """Lesions have one centre, to a voxel of SPECT, whichever grid it is taken on."""
    for value in (MALIGNANT, BENIGN):
        centres = [
            np.argwhere(labels.array == value).mean(axis=0) @ labels.affine[:3, :3].T
            + labels.affine[:3, 3]
            for labels in (made.labels, made.ct_labels)
        ]
        assert np.linalg.norm(centres[0] - centres[1]) < made.spect.spacing[0] + 1


def test_lesions_are_in_bone(made: SpectCt) -> None:
    bone = made.ct.tissues.array >= FIRST_BONE
    assert (made.ct_labels.array > 0).any()
    assert not (made.ct_labels.array[~bone] > 0).any()


def test_bone_holds_more_than_flesh_and_the_bladder_most() -> None:
    spect, ct = (case := held_out_studies(None)(5)).image, case.partners["ct"]
    healthy = ndimage.distance_transform_edt(case.labels.array == 0) > 3
    zoomed = ndimage.zoom(
        ct.array.astype(np.float32),
        [a / b for a, b in zip(spect.shape, ct.shape, strict=True)],
        order=1,
    )
    bone = (zoomed > 250) & healthy
    flesh = (zoomed > 20) & (zoomed < 80) & healthy
    assert np.median(spect.array[bone]) > 2 * np.median(spect.array[flesh])


def test_metastases_light_up(made: SpectCt) -> None:
    hot = [one for one in made.lesions if one.label == MALIGNANT and one.uptake > 4]
    assert hot
    typical = np.median(made.spect.array[made.spect.array > 0])
    for one in hot:
        at = np.rint(made.spect.map_reference_to_indices(np.array([one.centre]))[0]).astype(int)
        near = tuple(slice(max(0, i - 2), i + 3) for i in at)
        assert made.spect.array[near].max() > 2 * typical


@pytest.fixture(scope="module")
def lumbar() -> list[SpectCt]:
    """Lumbar spines with many lesions, CT on SPECT's grid."""
    grid = _grid((34, 60, 84), 4.42)
    options = SpectCtOptions(
        spect=grid, ct=Grid(geometry=grid, thickness_mm=4.42), metastases=6, benign=6
    )
    made = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        body = procedural_body(plain_patient(draw_patient(rng, contrast=None)), rng)
        made.append(spect_ct_phantom(body, options, rng))
    return made


def test_lesions_hold_what_patients_do(lumbar: list[SpectCt]) -> None:
    """Maxima over those of healthy vertebrae: 5.2 (SD 4.3) and 2.1 (SD 0.9).

    SUVmax 40.9 and 16.7 against 7.6 to 8.1: Kuji et al., Eur J Hybrid Imaging 2017;1:2.
    """
    ratios: dict[int, list[float]] = {MALIGNANT: [], BENIGN: []}
    for study in lumbar:
        counts, labels = study.spect.array, study.labels.array
        healthy = ndimage.distance_transform_edt(labels == 0) * 4.42 > 15
        spine = (study.ct.tissues.array == Tissue.SPINE) & healthy
        usual = np.median(
            [counts[k][spine[k]].max() for k in range(len(counts)) if spine[k].sum() > 20]
        )
        dark = {LesionKind.ISLAND, LesionKind.TREATED}
        for one in (lesion for lesion in study.lesions if lesion.kind not in dark):
            where = np.argwhere(labels == one.label)
            offset = study.labels.map_indices_to_reference(where) - np.asarray(one.centre)
            inside = where[np.linalg.norm(offset @ one.axes.T, axis=1) < 1]
            ratios[one.label].append(counts[tuple(inside.T)].max(initial=0) / usual)
    assert 3.8 < np.mean(ratios[MALIGNANT]) < 6.6
    assert 1.6 < np.mean(ratios[BENIGN]) < 2.6


def test_facet_joints_are_where_their_cartilage_is() -> None:
    tissues = np.full((30, 40, 40), Tissue.SPINE, np.uint8)
    tissues[15:19, 20:22, 10] = Tissue.CARTILAGE
    grid = _grid(tissues.shape, 4.0)
    joint = grid.map_indices_to_reference(np.array([[16.5, 20.5, 10.0]]))[0]

    def centres(of: np.ndarray) -> np.ndarray:
        anatomy = Anatomy(
            geometry=grid,
            tissues=of,
            structures=np.ones(of.shape, np.uint8),
            depth=np.full(of.shape, 10, np.float32),
            cuts=(),
        )
        drawn = draw_lesions(
            anatomy, np.random.default_rng(0), slices=slice(2, 28), metastases=0, benign=60
        )
        return np.array([one.centre for one in drawn if one.kind is LesionKind.FACET])

    found = centres(tissues)
    assert len(found) > 10
    assert np.linalg.norm(found - joint, axis=1).max() < 20
    assert len(centres(np.full_like(tissues, Tissue.SPINE))) == 0


def test_no_lesion_is_a_sliver(lumbar: list[SpectCt]) -> None:
    """What nobody would draw is no truth: a voxel of the rib beside a lesion of a vertebra."""
    for study in lumbar:
        for labels in (study.labels, study.ct_labels):
            parts, count = ndimage.label(labels.array > 0, np.ones((3, 3, 3)))
            assert count
            assert np.bincount(parts.ravel())[1:].min() * 4.42**3 / 1000 > 0.25


@pytest.mark.parametrize(
    ("kind", "density", "sign"),
    [(LesionKind.SCLEROTIC, 0.8, 1), (LesionKind.LYTIC, -0.9, -1), (LesionKind.MARROW, 0.0, 0)],
)
def test_ct_shows_sclerosis_and_lysis_but_no_marrow(
    body: Body, kind: LesionKind, density: float, sign: int
) -> None:
    lesioned = LesionedBody(body=body, lesions=(_lesion(kind, density),))
    grid = _grid((3, 64, 64), 2.0)
    healthy, sick = body.cut(grid, 1), lesioned.cut(grid, 1)
    (plane,) = lesions_in(lesioned.lesions, grid, 1)
    inside = plane.height > 3
    change = (sick.mineral - healthy.mineral)[plane.box][inside]
    assert np.sign(np.round(change.mean(), 3)) == sign
    assert (sick.mineral == healthy.mineral)[:10].all()


def test_an_osteophyte_is_bone_where_there_was_none(body: Body) -> None:
    rim = (L3[0] + 27.0, L3[1], L3[2])
    lesion = replace(_lesion(LesionKind.ENDPLATE, 0.4, exophytic=True), centre=rim)
    grid = _grid((3, 96, 96), 2.0)
    healthy = body.cut(grid, 1)
    sick = LesionedBody(body=body, lesions=(lesion,)).cut(grid, 1)
    new = (sick.tissues >= FIRST_BONE) & (healthy.tissues < FIRST_BONE)
    assert new.sum() > 20
    assert (sick.depth[new] > 0).all()
    assert not new[healthy.tissues == Tissue.CANAL].any()


def test_resolution_is_worse_in_the_middle_of_the_body() -> None:
    """Two points of the same activity, one under the skin: its image is sharper."""
    shape = (15, 81, 81)
    grid = _grid(shape, 4.0)
    y, x = np.mgrid[:81, :81] - 40
    inside = np.broadcast_to(np.hypot(x, y) < 38, shape)
    tissues = np.where(inside, np.uint8(Tissue.MUSCLE), np.uint8(Tissue.AIR))
    anatomy = Anatomy(
        geometry=grid,
        tissues=tissues,
        structures=np.zeros(shape, np.uint8),
        depth=np.full(shape, -100, np.float32),
        cuts=(),
    )
    held = np.zeros(shape, np.float32)
    held[7, 40, 40] = held[7, 40, 5] = 1000
    camera = Camera(
        surface_mm=6,
        centre_mm=12,
        filter_mm=1,
        counts=50,
        corrected=1,
        scatter=0,
        shift_mm=(0, 0, 0),
        scale=1,
    )
    image = camera_image(held, anatomy, camera, np.random.default_rng(0))
    assert image[7, 40, 5] > 1.5 * image[7, 40, 40]
    uncorrected = camera_image(
        held, anatomy, replace(camera, corrected=0), np.random.default_rng(0)
    )
    assert uncorrected[7, 40, 40] < 0.3 * image[7, 40, 40]


def test_noise_falls_on_counts(body: Body) -> None:
    """Four times the counts: half the noise."""
    shape = (9, 40, 40)
    tissues = np.full(shape, Tissue.MUSCLE, np.uint8)
    anatomy = Anatomy(
        geometry=_grid(shape, 4.0),
        tissues=tissues,
        structures=tissues,
        depth=np.full(shape, -100, np.float32),
        cuts=(),
    )
    spreads = []
    for counts in (10, 40):
        camera = Camera(
            surface_mm=1,
            centre_mm=1,
            filter_mm=1,
            counts=counts,
            corrected=1,
            scatter=0,
            shift_mm=(0, 0, 0),
            scale=100 / counts,
        )
        image = camera_image(np.ones(shape, np.float32), anatomy, camera, np.random.default_rng(0))
        spreads.append(image.std() / image.mean())
    assert spreads[0] / spreads[1] == pytest.approx(2, rel=0.1)


def test_without_lesions_there_is_no_truth(body: Body) -> None:
    grid = _grid((4, 60, 80), 4.42)
    options = SpectCtOptions(
        spect=grid, ct=Grid(geometry=grid, thickness_mm=4.42), metastases=0, benign=0
    )
    made = spect_ct_phantom(body, options, np.random.default_rng(0))
    assert made.lesions == ()
    assert not made.labels.array.any()
    assert not made.ct_labels.array.any()


def test_a_crop_has_both_images_on_one_grid() -> None:
    case = training_crops(None)(np.random.default_rng(2))
    assert case.image.shape == case.labels.shape == case.partners["ct"].shape
    np.testing.assert_allclose(case.image.affine, case.partners["ct"].affine, atol=1e-6)


def test_a_study_is_one_study_of_dicom(tmp_path: Path, made: SpectCt) -> None:
    study: list[Dataset] = demo_study(3)
    for number, ds in enumerate(study):
        ds.save_as(tmp_path / f"{number:03d}.dcm", enforce_file_format=True)
    files = sorted(tmp_path.iterdir())
    ct, spect = read_series(files[:-1]), read_series(files[-1:])
    for keyword in ("StudyInstanceUID", "PatientID", "FrameOfReferenceUID", "AccessionNumber"):
        assert ct.datasets[0].get(keyword) == spect.datasets[0].get(keyword)
    assert spect.datasets[0].SeriesInstanceUID != ct.datasets[0].SeriesInstanceUID
    np.testing.assert_array_equal(spect.volume.match_geometry(made.spect).array, made.spect.array)
    assert ct.volume.shape == made.ct.image.shape
