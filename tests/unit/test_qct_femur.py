"""The femur pipeline: sides, geometry, refusals and flags, with a network that sees femora by their density alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import highdicom as hd
import numpy as np
import pytest
from hips import (
    HEADS,
    MANIFEST,
    PARAMETERS,
    RADIUS,
    grid,
    model_that_sees_density,
    oblique,
    points,
    scene,
    truth,
)
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation
from volumes import make_request

from pipelines.errors import ManifestError, Refused
from pipelines.evidence.create import create_evidence
from pipelines.qct_femur.anatomy import Head, distances, fit_head, proximal_part
from pipelines.qct_femur.measuring import State, balls_of, is_solid, statements_of
from pipelines.qct_femur.pipeline import FemurModel, check_series, run
from pipelines.qct_femur.segmenting import Place, Side, segment_femur
from pipelines.result import AnalysisResult, SourceSeries
from pipelines.training.phantoms import bones
from pipelines.training.phantoms.dicom import ct_series


@pytest.fixture
def model() -> FemurModel:
    return model_that_sees_density()


@cache
def _standard() -> hd.Volume:
    return scene(grid())


def analyse(model: FemurModel, volume: hd.Volume, **parameters: Any) -> AnalysisResult:
    source = SourceSeries(volume=volume, datasets=())
    return run(model, {"ct": source}, {**PARAMETERS, **parameters})


def dice(one: NDArray[Any], two: NDArray[Any]) -> float:
    return float(2 * (one & two).sum() / (one.sum() + two.sum()))


def values(result: AnalysisResult, number: int) -> dict[str, float]:
    return {
        m.name.meaning + (f", {m.derivation.meaning}" if m.derivation else ""): m.value
        for m in result.measurements
        if m.segment_number == number
    }


def codes(result: AnalysisResult) -> set[str]:
    return {notice.code for notice in result.notices}


def evaluated(result: AnalysisResult, number: int | None) -> set[tuple[str, str]]:
    return {(e.name.value, e.value.value) for e in result.evaluations if e.segment_number == number}


# -- the head and the cut --------------------------------------------------------------------------


@pytest.mark.parametrize("spacing", [(1.5, 1.5, 1.5), (5.0, 0.9, 0.9), (4.0, 4.0, 4.0)])
def test_the_head_is_found_to_a_millimetre_on_any_grid(spacing: tuple[float, ...]) -> None:
    shape = tuple(round(n / s) for n, s in zip((200, 110, 120), spacing, strict=True))
    geometry = grid(shape=shape, spacing=spacing, centre=(110, 5, -55))  # type: ignore[arg-type]
    x, y, z = points(geometry)
    mask = (bones.femur(x, y, z, 1) < 0).astype(np.uint8)
    head = fit_head(hd.Volume(array=mask, affine=geometry.affine, coordinate_system="PATIENT"))
    assert head is not None
    assert np.linalg.norm(head.centre - HEADS[1]) < 1.2
    assert head.radius == pytest.approx(RADIUS, abs=1.0)


@pytest.mark.parametrize("axes", [(24, 20, 24), (24, 24, 20), (28, 22, 22), (22, 22, 28)])
def test_a_head_that_is_no_ball_is_fitted_as_a_whole(axes: tuple[float, float, float]) -> None:
    geometry = grid(shape=(100, 55, 60), centre=(110, 5, -55))
    x, y, z = points(geometry)
    away = zip((x, y, z), HEADS[1], axes, strict=True)
    head = sum(((p - c) / axis) ** 2 for p, c, axis in away) < 1
    below = (bones.femur(x, y, z, 1) < 0) & (x > 106)
    mask = hd.Volume(array=head | below, affine=geometry.affine, coordinate_system="PATIENT")
    found = fit_head(mask)
    assert found is not None
    assert found.radius == pytest.approx(float(np.prod(axes)) ** (1 / 3), abs=0.4)
    assert np.linalg.norm(found.centre - HEADS[1]) < 1.2


def test_a_shaft_has_no_head() -> None:
    geometry = grid(shape=(60, 60, 60), centre=(110, 5, -140))
    x, y, z = points(geometry)
    mask = (bones.femur(x, y, z, 1) < 0).astype(np.uint8)
    shaft = hd.Volume(array=mask, affine=geometry.affine, coordinate_system="PATIENT")
    assert fit_head(shaft) is None
    assert fit_head(shaft.with_array(np.zeros_like(mask))) is None


def test_proximal_is_what_lies_within_two_diameters_of_the_head() -> None:
    geometry = grid()
    x, y, z = points(geometry)
    whole = _standard().with_array((bones.femur(x, y, z, -1) < 0).astype(np.uint8))
    head = fit_head(whole)
    assert head is not None
    part = proximal_part(whole, head).array > 0
    assert dice(part, truth(geometry, 2)) > 0.97
    assert 0 < part.sum() < whole.array.sum()


# -- sides, in millimetres -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "orientation", ["HPL", "FPL", "HPR", "FAL", "HAR", "FPR", "LFP", "RHA", "PFL", "AHR"]
)
def test_left_is_the_patients_left_in_any_order_of_slices_rows_and_columns(
    model: FemurModel, orientation: str
) -> None:
    geometry = grid(orientation=orientation)
    result = analyse(model, scene(geometry))
    assert result.label_map.geometry_equal(scene(geometry))
    for number in (1, 2):
        found = result.label_map.array == number
        assert dice(found, truth(geometry, number)) > 0.96
        middle = geometry.map_indices_to_reference(np.argwhere(found).mean(axis=0)[None])[0]
        assert middle[0] * (1 if number == 1 else -1) > 90
    assert not codes(result) & {"femur-left-not-seen", "femur-right-not-seen"}


def test_an_oblique_series_is_measured_where_it_lies(model: FemurModel) -> None:
    geometry = oblique()
    result = analyse(model, scene(geometry))
    for number in (1, 2):
        assert dice(result.label_map.array == number, truth(geometry, number)) > 0.96


@pytest.mark.parametrize(("side", "name"), [(1, "left"), (2, "right")])
def test_one_femur_alone_has_its_side_by_where_its_headpoints(
    model: FemurModel, side: int, name: str
) -> None:
    # A field of view whose middle is on the wrong side of the femur.
    sign = 1 if side == 1 else -1
    geometry = grid(shape=(110, 90, 60), centre=(sign * 116.0, 5.0, -55.0))
    result = analyse(model, scene(geometry, sides=[side]))
    other = "right" if name == "left" else "left"
    assert f"femur-{other}-not-seen" in codes(result)
    assert ("121071", "122288") in evaluated(result, 3 - side)
    assert not values(result, 3 - side)
    assert dice(result.label_map.array == side, truth(geometry, side)) > 0.96
    assert values(result, side)["Volume"] > 50


def test_segments_are_two_with_their_codes_and_sides(model: FemurModel) -> None:
    result = analyse(model, _standard())
    assert [s.spec.type.value for s in result.segments] == ["310651003"] * 2
    sides = [s.spec.laterality.value for s in result.segments if s.spec.laterality]
    assert sides == ["7771000", "24028007"]


# -- measurements ----------------------------------------------------------------------------------


def test_without_calibration_there_are_hounsfield_units_and_it_is_said(model: FemurModel) -> None:
    result = analyse(model, _standard())
    left = values(result, 1)
    assert set(left) == {
        "Volume",
        "Attenuation Coefficient, Mean",
        "Attenuation Coefficient, Standard Deviation",
    }
    volume = truth(grid(), 1).sum() * 8 / 1000
    assert left["Volume"] == pytest.approx(volume, rel=0.03)
    assert "density-uncalibrated" in codes(result)
    assert evaluated(result, None) == {("122422", "CAL-NONE")}


def test_a_scanners_calibration_gives_density_and_content(model: FemurModel) -> None:
    result = analyse(
        model, _standard(),
        calibration_slope=0.8, calibration_intercept=-5.0, calibration_name="CT01, 120 kV",
    )  # fmt: skip
    left = values(result, 1)
    density = 0.8 * left["Attenuation Coefficient, Mean"] - 5.0
    assert left["Integral volumetric bone mineral density"] == pytest.approx(density)
    assert left["Bone mineral content"] == pytest.approx(density * left["Volume"] / 1000)
    units = {m.name.value: m.unit.value for m in result.measurements}
    assert (units["VBMD"], units["BMC"]) == ("mg/cm3", "g")
    assert evaluated(result, None) == {("122422", "CAL-SCANNER")}
    (notice,) = [n for n in result.notices if n.code == "density-calibrated-by-scanner"]
    assert "CT01, 120 kV" in notice.message


@pytest.mark.parametrize(
    "parameters",
    [
        {"calibration_slope": -1.0},
        {"phantom_densities": "200; 100; 0"},
        {"phantom_densities": "200, 0"},
        {"phantom_densities": "100, 100, 0"},
    ],
)
def test_a_calibration_that_is_none_names_its_parameter(
    model: FemurModel, parameters: dict[str, Any]
) -> None:
    with pytest.raises(ManifestError, match=next(iter(parameters))):
        analyse(model, _standard(), **parameters)


# -- a calibration phantom under the patient --------------------------------------------------------

RODS = (200.0, 100.0, 50.0, 0.0)
STATED = "200, 100, 50, 0"


def _with_rods(hounsfield: Sequence[float], *, noise: float = 0.0) -> hd.Volume:
    """The scene on a block of 20 HU with rods of 9 mm radius, 45 mm apart, from right to left."""
    geometry = grid(shape=(110, 130, 160), centre=(0, 30, -55))
    volume = scene(geometry)
    x, y, _ = points(geometry)
    image = volume.array.astype(np.float32)
    image[(np.abs(x) < 95) & (np.abs(y - 135) < 14)] = 20
    for number, value in enumerate(hounsfield):
        image[np.hypot(x - (-67.5 + 45 * number), y - 135) < 9] = value
    image += noise * np.random.default_rng(0).standard_normal(image.shape)
    return volume.with_array(np.rint(image).astype(np.int16))


@pytest.mark.parametrize("noise", [0.0, 25.0])
def test_a_phantom_in_the_images_calibrates_better_than_the_scanner(
    model: FemurModel, noise: float
) -> None:
    volume = _with_rods([1.2 * d + 8 for d in RODS], noise=noise)
    result = analyse(model, volume, phantom_densities=STATED, calibration_slope=0.5)
    assert "density-calibrated-by-phantom" in codes(result)
    assert evaluated(result, None) == {("122422", "CAL-PHANTOM")}
    left = values(result, 1)
    expected = (left["Attenuation Coefficient, Mean"] - 8) / 1.2
    assert left["Integral volumetric bone mineral density"] == pytest.approx(expected, rel=0.03)


def test_rods_off_their_line_are_refused_and_the_scanner_counts(model: FemurModel) -> None:
    volume = _with_rods([250, 60, 190, 8])
    refused = analyse(model, volume, phantom_densities=STATED)
    assert {"calibration-phantom-poor-fit", "density-uncalibrated"} <= codes(refused)
    assert "Integral volumetric bone mineral density" not in values(refused, 1)
    fallen_back = analyse(model, volume, phantom_densities=STATED, calibration_slope=0.8)
    assert {"calibration-phantom-poor-fit", "density-calibrated-by-scanner"} <= codes(fallen_back)


def test_no_phantom_is_said(model: FemurModel) -> None:
    result = analyse(model, _standard(), phantom_densities=STATED)
    assert {"calibration-phantom-not-found", "density-uncalibrated"} <= codes(result)


# -- refusals and flags ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "spacing", "code"),
    [
        ((19, 50, 50), (5, 2, 2), "too-few-slices"),
        ((40, 50, 50), (5.5, 2, 2), "spacing-too-wide"),
        ((40, 20, 50), (3, 2, 2), "field-too-small"),
    ],
)
def test_refuses_with_a_code_and_a_sentence(
    shape: tuple[int, int, int], spacing: tuple[float, ...], code: str
) -> None:
    with pytest.raises(Refused) as refused:
        check_series(scene(grid(shape=shape, spacing=spacing)))
    assert refused.value.code == code
    assert str(refused.value).endswith(".")


def test_a_series_without_a_femur_is_refused(model: FemurModel) -> None:
    with pytest.raises(Refused) as refused:
        analyse(model, scene(grid(), sides=[]))
    assert refused.value.code == "no-femur"


def test_metal_in_a_femur_makes_that_side_not_evaluable(model: FemurModel) -> None:
    geometry = grid()
    x, y, z = points(geometry)
    volume = scene(geometry)
    # A stem in the left neck and shaft.
    stem = (np.abs(x - 125) < 6) & (np.abs(y - 8) < 6) & (z < -30) & (z > -110)
    result = analyse(model, volume.with_array(np.where(stem, np.int16(3071), volume.array)))
    assert not (result.label_map.array == 1).any()
    assert not values(result, 1)
    assert {("40388003", "52101004"), ("121071", "373121007")} <= evaluated(result, 1)
    assert "femur-left-implant" in codes(result)
    assert values(result, 2)["Volume"] > 50


def test_a_prosthesis_in_place_of_a_femur_is_recognised(model: FemurModel) -> None:
    geometry = grid()
    x, y, z = points(geometry)
    volume = scene(geometry, sides=[1])
    ball = np.sqrt((x + 90) ** 2 + y**2 + z**2) < 16
    result = analyse(model, volume.with_array(np.where(ball, np.int16(3071), volume.array)))
    assert "femur-right-implant" in codes(result)
    assert "femur-right-not-seen" not in codes(result)
    assert "Volume" in values(result, 1)


def test_a_clip_is_no_implant(model: FemurModel) -> None:
    geometry = grid()
    x, y, z = points(geometry)
    volume = scene(geometry)
    clip = (np.abs(x - 100) < 3) & (np.abs(y + 40) < 3) & (np.abs(z) < 3)
    result = analyse(model, volume.with_array(np.where(clip, np.int16(3000), volume.array)))
    assert not {code for code in codes(result) if "implant" in code}


def test_a_femur_that_the_last_slice_cuts_has_no_volume(model: FemurModel) -> None:
    geometry = grid(shape=(60, 100, 160), centre=(0, 10, -15))
    result = analyse(model, scene(geometry), calibration_slope=0.8)
    for number, name in ((1, "left"), (2, "right")):
        assert f"femur-{name}-incomplete" in codes(result)
        assert ("130550", "130576") in evaluated(result, number)
        assert set(values(result, number)) == {
            "Attenuation Coefficient, Mean",
            "Attenuation Coefficient, Standard Deviation",
            "Integral volumetric bone mineral density",
        }
        assert dice(result.label_map.array == number, truth(geometry, number)) > 0.96


def test_a_femur_beyond_the_reconstructed_circle_is_cut(model: FemurModel) -> None:
    geometry = grid()
    x, _, _ = points(geometry)
    volume = scene(geometry)
    padded = np.where(x > 130, np.int16(-2048), volume.array)
    result = analyse(model, volume.with_array(padded))
    assert "femur-left-incomplete" in codes(result)
    assert "femur-right-incomplete" not in codes(result)


def _solid(mask: hd.Volume, head: Head, *, cut: bool = False) -> bool:
    return is_solid(mask, head, Side.LEFT, cut=cut)


def _stretched_hip(rng: np.random.Generator) -> tuple[hd.Volume, hd.Volume]:
    """The left femur and the hip bone of a random body: turned, stretched unevenly, so that no head is a ball."""
    geometry = grid(shape=(110, 90, 80), centre=(100, 10, -40))
    x, y, z = points(geometry)
    place = np.stack([x - HEADS[1][0], y, z])
    turn = Rotation.from_euler("xyz", rng.normal(0, 6, 3), degrees=True).as_matrix()
    bend = turn @ np.diag(rng.uniform(0.88, 1.12, 3)) + rng.normal(0, 0.03, (3, 3))
    u, v, w = (np.tensordot(bend, place, 1) + np.array(HEADS[1])[:, None, None, None]).astype(
        np.float32
    )
    bony = [bones.femur(u, v, w, 1) < 0, bones.hip_bone(u, v, w, 1) < 0]
    femur, hip = (
        hd.Volume(array=part, affine=geometry.affine, coordinate_system="PATIENT") for part in bony
    )
    return femur, hip


def test_a_femur_with_gaps_is_no_result() -> None:
    scene_grid = grid()
    mask = hd.Volume(
        array=truth(scene_grid, 1), affine=scene_grid.affine, coordinate_system="PATIENT"
    )
    head = fit_head(mask)
    assert head is not None
    assert _solid(mask, head)
    rng = np.random.default_rng(0)
    patchy = mask.with_array(mask.array & (rng.random(mask.shape) < 0.8))
    assert not _solid(patchy, head, cut=True)
    gaps = ~(distances(mask, head.centre) < head.radius) & (rng.random(mask.shape) < 0.2)
    assert not _solid(mask.with_array(mask.array & ~gaps), head)
    ball = distances(mask, head.centre) <= 1.1 * head.radius
    only_head = mask.with_array(mask.array & ball)
    assert not _solid(only_head, head)
    assert _solid(only_head, head, cut=True)


def test_hip_bone_taken_along_is_told_by_where_it_lies_and_not_by_its_size() -> None:
    """With the socket alone femora are hardly larger, but then bone lies above and medial of the head."""
    rng = np.random.default_rng(7)
    alone, merged = [], []
    for _ in range(4):
        femur, hip = _stretched_hip(rng)
        head = fit_head(femur.with_array(femur.array.astype(np.uint8)))
        assert head is not None
        near = distances(femur, head.centre) <= head.reach
        part = femur.with_array(femur.array & near)
        around = ndimage.distance_transform_edt(~femur.array, sampling=femur.spacing) < 12
        # The joint's gap is bridged, as a network that fails would.
        both = ndimage.binary_closing(femur.array | (hip.array & around), iterations=3)
        whole = femur.with_array(both & near)
        assert _solid(part, head)
        assert not _solid(whole, head, cut=True)
        alone.append(balls_of(part, head, Side.LEFT))
        merged.append(balls_of(whole, head, Side.LEFT))
    largest, smallest = max(size for size, _ in alone), min(size for size, _ in merged)
    most, least = max(beyond for _, beyond in alone), min(beyond for _, beyond in merged)
    assert smallest < 1.5 * largest < 4.5
    assert most < 0.05
    assert least > 0.2


@pytest.mark.parametrize("share", [0.82, 0.9, 1.05])
def test_a_head_whose_ball_was_fitted_badly_does_not_make_a_femur_patchy(share: float) -> None:
    femur, _ = _stretched_hip(np.random.default_rng(3))
    fitted = fit_head(femur.with_array(femur.array.astype(np.uint8)))
    assert fitted is not None
    head = replace(fitted, radius=share * fitted.radius)
    near = distances(femur, head.centre) <= head.reach
    assert _solid(femur.with_array(femur.array & near), head)


def test_a_trochanter_taken_for_a_head_is_no_result() -> None:
    femur, _ = _stretched_hip(np.random.default_rng(4))
    head = Head(centre=np.array([143.0, 14.0, -22.0]), radius=17.0, support=0.5)
    near = distances(femur, head.centre) <= head.reach
    assert not _solid(femur.with_array(femur.array & near), head, cut=True)


def test_a_failed_side_is_said_in_a_code_and_a_sentence() -> None:
    said = statements_of(State.PATCHY, "left", 1)
    assert said.notices[0].code == "femur-left-patchy"
    assert "look at the images" in said.notices[0].message
    assert said.evaluations[0].segment_number == 1


@pytest.mark.parametrize("low", [0.0, 45.0, 70.0])
def test_a_crop_that_shows_no_head_is_moved_up_the_femur(model: FemurModel, low: float) -> None:
    middle = np.add(HEADS[1], (15.0, 5.0, -low))
    place = Place(side=Side.LEFT, middle=middle, head=None)
    femur = segment_femur(model.network, _standard(), place)
    assert femur is not None
    assert np.linalg.norm(femur.head.centre - HEADS[1]) < 2
    assert dice(femur.mask.array, truth(grid(), 1)) > 0.97


def test_a_femur_without_its_head_is_not_measured(model: FemurModel) -> None:
    geometry = grid(shape=(60, 100, 160), centre=(0, 10, -110))
    result = analyse(model, scene(geometry))
    assert {"femur-left-without-head", "femur-right-without-head"} <= codes(result)
    assert not result.label_map.array.any()
    assert not [m for m in result.measurements]
    assert ("121071", "373121007") in evaluated(result, 1)


# -- evidence --------------------------------------------------------------------------------------


def test_evidence_of_a_result_is_made_and_proven(model: FemurModel) -> None:
    volume = scene(grid(orientation="FPL"), sides=[1])
    source = SourceSeries(volume=volume, datasets=tuple(ct_series(volume, seed=3)))
    result = run(model, {"ct": source}, {**PARAMETERS, "calibration_slope": 0.8})
    request = replace(make_request(source, result=result), manifest=MANIFEST, parameters=PARAMETERS)
    made = {item.kind: item for item in create_evidence(request)}
    (segment,) = made["SEG"].ds.SegmentSequence
    assert segment.SegmentLabel == "Proximal femur, left"
    assert made["SEG"].residuals[0].voxels_differing == 0
    text = str(made["SR"].ds)
    assert "Bone mineral content" in text
    assert "Not visualized" in text
    assert "99OSTEONODE" in text
