"""MR phantoms: signals, planes in any direction, what the scanner does, what is true, and DICOM."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest

from pipelines.mr_spine_tumor.phantoms import demo_phantom
from pipelines.mr_spine_tumor.sequence import check_sequence
from pipelines.series import read_series
from pipelines.training.phantoms.atlas import load_atlas
from pipelines.training.phantoms.mr import MrOptions, MrPhantom, mr_phantom
from pipelines.training.phantoms.mr_dicom import write_mr_series
from pipelines.training.phantoms.mr_growths import Choice, Kind, draw_growths
from pipelines.training.phantoms.mr_scanner import MrScanner, distort, reconstruct
from pipelines.training.phantoms.mr_signal import (
    CORD,
    CSF,
    EPIDURAL_FAT,
    draw_mr_look,
    draw_weighting,
)
from pipelines.training.phantoms.mr_spine import (
    Canal,
    Spine,
    SpinePlane,
    Vertebra,
    measure_spine,
)
from pipelines.training.phantoms.mr_stacks import (
    Plane,
    Stack,
    atlas_spines,
    draw_spine_patient,
    draw_stack,
    geometry_of,
    procedural_spines,
)
from pipelines.training.phantoms.patient import Patient
from pipelines.training.phantoms.tissues import Tissue

#: Nothing between what is there and what is seen.
PLAIN = MrScanner(
    snr=1e4, acquired=(1.0, 1.0), partial=1.0, phase_axis=0, coil_mm=1e6, uneven=0.0, saturation=1.0,
    saturation_mm=50.0, ghost=0.0, metal_mm=5.0, highest=1000.0,
)  # fmt: skip


def small(plane: Plane, slices: int = 5) -> Stack:
    return Stack(
        plane=plane, slices=slices, rows=96, columns=96, pixel_spacing=1.5, slice_spacing=4.0
    )


def phantom(
    seed: int, plane: Plane = Plane.SAGITTAL, options: MrOptions | None = None
) -> MrPhantom:
    rng = np.random.default_rng(seed)
    spine, point = procedural_spines(rng)
    return mr_phantom(spine, geometry_of(small(plane), point), rng, options)


def test_the_same_seed_makes_the_same_phantom() -> None:
    one, two, other = phantom(3), phantom(3), phantom(4)
    assert (one.image.array == two.image.array).all()
    assert (one.labels.array == two.labels.array).all()
    assert (one.image.array != other.image.array).any()


@pytest.mark.parametrize("seed", range(5))
def test_tissues_are_as_bright_as_in_t1_weighting(seed: int) -> None:
    rng = np.random.default_rng(seed)
    patient = draw_spine_patient(rng, ())
    bright = draw_mr_look(rng, patient, draw_weighting(rng, fat_suppressed=False)).signal
    assert bright[Tissue.FAT] > bright[Tissue.SPINE] > bright[CSF]
    assert bright[Tissue.MUSCLE] > bright[CSF]
    assert bright[CORD] > bright[CSF] > bright[Tissue.AIR]
    dark = draw_mr_look(rng, patient, draw_weighting(rng, fat_suppressed=True)).signal
    assert dark[Tissue.FAT] < dark[Tissue.MUSCLE]


def test_gadolinium_makes_tumours_brighter_than_marrow_whose_fat_is_suppressed() -> None:
    found = {}
    for enhanced in (True, False):
        ratios = []
        for seed in range(6):
            weighting = draw_weighting(np.random.default_rng(seed), fat_suppressed=True)
            options = MrOptions(
                weighting=replace(weighting, enhanced=enhanced),
                scanner=PLAIN,
                choice=Choice(tumours=3, look_alikes=0, veins=0.0),
                planes=1,
            )
            made = phantom(seed, options=options)
            tumour, marrow = (made.image.array[made.labels.array == n] for n in (2, 1))
            if tumour.size > 30:
                ratios.append(np.median(tumour) / np.median(marrow))
        found[enhanced] = np.mean(ratios)
    assert found[True] > 1.5
    assert found[True] > 1.3 * found[False]


def test_the_truth_is_the_same_in_planes_of_any_direction() -> None:
    rng = np.random.default_rng(1)
    spine, point = procedural_spines(rng)
    options = MrOptions(scanner=PLAIN, choice=Choice(tumours=0, look_alikes=0, veins=0.0), planes=1)
    sagittal, axial = (
        mr_phantom(spine, geometry_of(small(plane, 3), point), np.random.default_rng(2), options)
        for plane in (Plane.SAGITTAL, Plane.AXIAL)
    )
    # Where the middle slices meet, both say the same.
    index = np.array([[1, row, 48] for row in range(96)])
    points = axial.labels.map_indices_to_reference(index)
    there = np.rint(sagittal.labels.map_reference_to_indices(points)).astype(int)
    inside = ((there >= 0) & (there < sagittal.labels.shape)).all(axis=1)
    assert inside.sum() > 40
    ours = axial.labels.array[tuple(index[inside].T)]
    theirs = sagittal.labels.array[tuple(there[inside].T)]
    assert ours.any()
    assert (ours == theirs).mean() > 0.9


@pytest.mark.parametrize("plane", list(Plane))
def test_vertebrae_are_in_every_plane(plane: Plane) -> None:
    made = phantom(6, plane)
    assert (made.labels.array == 1).mean() > 0.01
    assert made.image.array.dtype == np.int16
    assert made.image.array.min() >= 0


def test_a_dark_end_plate_of_bone_and_cartilage_parts_marrow_from_disc() -> None:
    pixel, thick = 0.25, []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        spine, point = procedural_spines(rng)
        stack = replace(
            small(Plane.SAGITTAL, 1), rows=160, columns=16, pixel_spacing=pixel, slice_spacing=0.5
        )
        options = MrOptions(
            scanner=PLAIN, planes=1, choice=Choice(tumours=0, look_alikes=0, veins=0)
        )
        column = mr_phantom(spine, geometry_of(stack, point), rng, options).image.array[0, 80:, 8]
        dark = column < 0.5 * np.median(column[:20])
        first = int(dark.argmax())
        thick.append(int(np.logical_and.accumulate(dark[first:]).sum()) * pixel)
    assert 1.0 < np.median(thick) < 1.8


@dataclass(frozen=True)
class Shifted:
    """A spine whose canal runs through its vertebral bodies."""

    spine: Spine

    @property
    def patient(self) -> Patient:
        return self.spine.patient

    @property
    def vertebrae(self) -> tuple[Vertebra, ...]:
        return self.spine.vertebrae

    @property
    def canal(self) -> Canal:
        canal = self.spine.canal
        return replace(canal, middles=canal.middles - [0.0, 16.0])

    def plane(self, geometry: hd.VolumeGeometry, index: float) -> SpinePlane:
        return self.spine.plane(geometry, index)


def test_what_is_imaged_as_canal_is_no_vertebra() -> None:
    rng = np.random.default_rng(3)
    spine, point = procedural_spines(rng)
    options = MrOptions(scanner=PLAIN, planes=1)
    geometry = geometry_of(small(Plane.SAGITTAL, 1), point)
    labels, inside = [], Shifted(spine).canal.around(spine.plane(geometry, 0).at)[0] < 0.95
    for one in (spine, Shifted(spine)):
        made = mr_phantom(one, geometry, np.random.default_rng(4), options)
        labels.append(made.labels.array[0] == 1)
    assert labels[0][inside].mean() > 0.2
    assert not labels[1][inside].any()
    assert labels[1].any()


def test_what_only_looks_like_a_tumour_is_none() -> None:
    options = MrOptions(choice=Choice(tumours=0, look_alikes=8, veins=1.0), planes=1)
    for seed in range(3):
        made = phantom(seed, options=options)
        assert made.growths
        assert not (made.labels.array == 2).any()


def test_tumours_differ_from_what_they_grow_in() -> None:
    codes = {Kind.EPIDURAL: EPIDURAL_FAT, Kind.INTRADURAL: CORD}
    apart = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        spine, _ = procedural_spines(rng)
        look = draw_mr_look(rng, spine.patient, draw_weighting(rng))
        choice = Choice(fewest=3, tumours=3, look_alikes=0, veins=0.0)
        for growth in draw_growths(rng, spine, look, choice=choice):
            around = look.signal[codes.get(growth.kind, Tissue.SPINE)]
            apart.append(abs(growth.signal / around - 1))
    assert len(apart) == 120
    assert np.mean(np.asarray(apart) >= 0.25) > 0.97


def test_each_tumour_has_its_number() -> None:
    for seed in range(8):
        made = phantom(seed, options=MrOptions(planes=1))
        assert ((made.tumours.array > 0) == (made.labels.array == 2)).all()
        numbers = set(np.unique(made.tumours.array)) - {0}
        assert numbers <= {growth.number for growth in made.growths if growth.is_tumour}


def test_noise_is_rician() -> None:
    scanner = replace(PLAIN, snr=20.0)
    nothing = reconstruct(np.zeros((200, 200), np.float32), 1.0, scanner, np.random.default_rng(0))
    # Rayleigh: mean / standard deviation = sqrt(pi / (4 - pi)).
    assert nothing.mean() / nothing.std() == pytest.approx(np.sqrt(np.pi / (4 - np.pi)), rel=0.02)
    even = reconstruct(np.ones((200, 200), np.float32), 1.0, scanner, np.random.default_rng(0))
    assert even.std() == pytest.approx(1 / 20, rel=0.05)


def test_partial_fourier_and_a_small_matrix_blur() -> None:
    edge = np.zeros((128, 128), np.float32)
    edge[:, 64:] = 1
    rng = np.random.default_rng(0)
    sharp = reconstruct(edge, 1.0, PLAIN, rng)
    for scanner in (
        replace(PLAIN, acquired=(1.0, 0.5)),
        replace(PLAIN, partial=0.625, phase_axis=1),
    ):
        blurred = reconstruct(edge, 1.0, scanner, rng)
        assert np.abs(np.diff(blurred[64])).max() < 0.9 * np.abs(np.diff(sharp[64])).max()


def test_metal_empties_and_piles_up_and_loses_little() -> None:
    signal = np.ones((96, 96), np.float32)
    metal = np.zeros((96, 96), bool)
    metal[44:52, 44:52] = True
    signal[metal] = 0
    made = distort(signal, metal, PLAIN, 1.0)
    assert made.max() > 1.3
    assert (made < 0.3).sum() > metal.sum() * 0.5
    assert made.sum() == pytest.approx(signal.sum(), rel=0.03)
    assert distort(signal, np.zeros_like(metal), PLAIN, 1.0) is signal


def test_stacks_have_gaps_and_are_angulated() -> None:
    rng = np.random.default_rng(0)
    for plane in Plane:
        stack = draw_stack(rng, plane)
        geometry = geometry_of(stack, (10.0, 20.0, 30.0))
        assert geometry.spacing[0] == pytest.approx(stack.slice_spacing)
        middle = (np.array(geometry.spatial_shape) - 1) / 2
        assert geometry.map_indices_to_reference(middle[None])[0] == pytest.approx([10, 20, 30])
    made = phantom(1, options=MrOptions(planes=1))
    assert made.thickness_mm < made.image.spacing[0]


def test_the_series_is_read_as_written_and_says_what_it_is(tmp_path: Path) -> None:
    made = phantom(2)
    files = write_mr_series(made, tmp_path, seed=2)
    read = read_series(files)
    assert read.volume.array.shape == made.image.array.shape
    turned = read.volume.match_geometry(made.image)
    assert (turned.array == made.image.array).all()
    ds = read.datasets[0]
    assert ds.SOPClassUID == "1.2.840.10008.5.1.4.1.1.4"
    assert float(ds.SliceThickness) < float(ds.SpacingBetweenSlices)
    assert "RescaleSlope" not in ds
    said = check_sequence(read.datasets, require_contrast=True, fat_suppressed=True)
    assert said.fat_suppressed == made.weighting.fat_suppressed


def test_the_demo_is_a_whole_study_with_tumours() -> None:
    made = demo_phantom(1)
    assert made.image.shape[0] >= 11
    assert (made.labels.array == 2).sum() > 100


def test_an_atlas_of_real_anatomy_has_vertebrae_and_a_canal(shared_data: Path) -> None:
    atlas = measure_spine(load_atlas(shared_data / "atlas" / "spl_abdomen.nii.gz"))
    assert [one.name for one in atlas.vertebrae] == [
        "T9",
        "T10",
        "T11",
        "T12",
        "L1",
        "L2",
        "L3",
        "L4",
        "L5",
    ]
    for one in atlas.vertebrae[4:]:
        assert 10 < one.half_height < 18
        # The canal lies behind the body.
        assert (
            np.interp(one.centre[2], atlas.canal.heights, atlas.canal.middles[:, 1])
            > one.centre[1] + 12
        )
    spine, point = atlas_spines(atlas, ("L2",))(np.random.default_rng(0))
    made = mr_phantom(spine, geometry_of(small(Plane.SAGITTAL), point), np.random.default_rng(1))
    assert isinstance(made.image, hd.Volume)
    assert (made.labels.array == 1).mean() > 0.03
    again = replace(spine, vertebrae=spine.vertebrae[:0])  # type: ignore[type-var]
    bare = mr_phantom(again, geometry_of(small(Plane.SAGITTAL), point), np.random.default_rng(1))
    assert not bare.growths


@pytest.mark.parametrize("name", ["bp3d_body_1p5mm", "spl_abdomen"])
def test_the_canal_of_an_atlas_runs_through_its_vertebrae_not_their_bodies(
    shared_data: Path, name: str
) -> None:
    spine = measure_spine(load_atlas(shared_data / "atlas" / f"{name}.nii.gz"))
    heights = np.arange(spine.vertebrae[-1].centre[2], spine.vertebrae[0].centre[2], 1.5)
    parts = [np.interp(heights, spine.canal.heights, part) for part in spine.canal.middles.T]
    axis = np.stack([*parts, heights], axis=1)
    around = [(x, y, 0) for x in range(-6, 7) for y in range(-6, 7) if np.hypot(x, y) <= 6]
    points = (axis[:, None] + np.array(around)).reshape(-1, 3)
    at = np.rint(spine.atlas.depth.map_reference_to_indices(points)).astype(int)
    assert (spine.atlas.depth.array[tuple(at.T)] > 0).mean() < 0.1
