"""The muscle pipeline: levels, measurements, refusals and flags, with networks that read densities alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
import torch
import trunks
from pydicom import Dataset, dcmread
from pydicom.sr.codedict import codes
from volumes import make_request

from pipelines.ct_trunk_muscle.anatomy import BODIES, LEVEL_CODES, LEVELS, NUMBERS
from pipelines.ct_trunk_muscle.levels import trace_levels
from pipelines.ct_trunk_muscle.networks import Part, load_networks
from pipelines.ct_trunk_muscle.pipeline import TrunkModel, check_series, part_of, run
from pipelines.ct_trunk_muscle.segmenting import Networks, segment_trunk
from pipelines.ct_trunk_muscle.training import shipped_plan
from pipelines.errors import ManifestError, Refused
from pipelines.evidence.create import create_evidence
from pipelines.inference import engine_of
from pipelines.registry import BUILT_IN
from pipelines.result import AnalysisResult, Measurement, SourceSeries
from pipelines.series import read_series
from pipelines.training.phantoms.dicom import ct_series

LUMBAR = ("T12", "L1", "L2", "L3", "L4")
#: Of the scene: a rod is 20 x 20 mm.
ROD_CM2 = 4.0


@pytest.fixture(scope="module")
def model() -> TrunkModel:
    return trunks.model()


def analyse(model: TrunkModel, volume: hd.Volume, *, size: str | None = "2.0") -> AnalysisResult:
    header = Dataset()
    if size is not None:
        header.PatientSize = size
    source = SourceSeries(volume=volume, datasets=(header,) * volume.shape[0])
    return run(model, {"ct": source}, trunks.PARAMETERS)


@cache
def lumbar() -> hd.Volume:
    return trunks.scene(LUMBAR)


@pytest.fixture(scope="module")
def whole_trunk(model: TrunkModel) -> AnalysisResult:
    """What is found where every level is seen."""
    return analyse(model, trunks.scene())


@pytest.fixture(scope="module")
def lumbar_trunk(model: TrunkModel) -> AnalysisResult:
    return analyse(model, lumbar())


def said(result: AnalysisResult, number: int | None, meaning: str) -> list[Measurement]:
    return [
        one
        for one in result.measurements
        if one.segment_number == number and one.name.meaning == meaning
    ]


def flags(result: AnalysisResult, number: int) -> set[str]:
    return {e.value.value for e in result.evaluations if e.segment_number == number}


# -- levels ----------------------------------------------------------------------------------------


def test_every_level_of_a_whole_trunk_is_found_where_it_is(whole_trunk: AnalysisResult) -> None:
    for index, level in enumerate(LEVELS):
        inside = np.flatnonzero((whole_trunk.label_map.array == BODIES[level]).any(axis=(1, 2)))
        expected = trunks.body_slices(index)
        assert abs(inside[0] - expected.start) <= 2
        assert abs(inside[-1] - (expected.stop - 1)) <= 2


def areas(order: list[int], *, slices: int = 4) -> np.ndarray:
    """Certain areas of bodies in this order, each with a disc after it."""
    made = np.zeros((len(order) * (slices + 1) + 2, len(LEVELS)), np.float32)
    for place, level in enumerate(order):
        first = 1 + place * (slices + 1)
        made[first : first + slices, level] = 900.0
    return made


def test_one_vertebra_that_looks_like_its_neighbour_does_not_shift_the_others() -> None:
    seen = areas([3, 4, 5, 6, 7])
    # The third one is believed to be the second.
    seen[11:15, 4], seen[11:15, 5] = seen[11:15, 5] * 0.6, seen[11:15, 5] * 0.4
    found = trace_levels(seen, 6.0)
    assert [level.name for level in found] == ["T7", "T8", "T9", "T10", "T11"]
    assert found[2].middle == pytest.approx(6.0 * 13, abs=9)


def test_levels_follow_each_other_from_the_head_down_and_only_whole_ones_have_all_in_view() -> None:
    found = trace_levels(areas([8, 9, 10])[2:-2], 6.0)
    assert [level.name for level in found] == ["T12", "L1", "L2"]
    assert [level.whole for level in found] == [False, True, False]
    assert all(one.bottom <= two.top for one, two in pairwise(found))
    assert trace_levels(np.zeros((20, len(LEVELS)), np.float32), 6.0) == ()


def test_levels_that_are_too_high_for_vertebrae_are_not_believed() -> None:
    assert trace_levels(areas([8, 9, 10], slices=8), 6.0)
    assert trace_levels(areas([8, 9, 10], slices=12), 6.0) == ()


# -- measurements ----------------------------------------------------------------------------------


def test_muscles_are_where_they_are_in_any_order_of_slices_rows_and_columns(
    model: TrunkModel,
) -> None:
    for orientation in ("FPL", "HPL", "HAR", "FAR"):
        volume = trunks.scene(LUMBAR, orientation=orientation)
        result = analyse(model, volume)
        assert result.label_map.geometry_equal(volume)
        real, found = trunks.truth(volume), result.label_map.array
        for number in NUMBERS.values():
            one, two = real == number, found == number
            assert 2 * (one & two).sum() / (one.sum() + two.sum()) > 0.8


def test_the_network_is_one_of_two() -> None:
    assert part_of(trunks.MANIFEST.parameters) is Part.VOLUME
    assert part_of({"network": "volume"}) is Part.VOLUME
    with pytest.raises(ManifestError, match="slices or volume"):
        part_of({"network": "levels"})


def test_mirrored_images_are_looked_at_too_unless_not_wanted() -> None:
    seen: list[torch.Tensor] = []

    def watched(image: torch.Tensor) -> torch.Tensor:
        seen.append(image)
        return trunks.read_muscles(image)

    networks = trunks.model().networks(Part.VOLUME)
    networks = replace(networks, muscles=replace(engine_of(networks.muscles), infer=watched))
    segment_trunk(networks, lumbar(), mirror=False)
    once = len(seen)
    segment_trunk(networks, lumbar())
    assert len(seen) == 3 * once
    assert torch.equal(seen[once + 1], seen[once].flip(-1))


def test_areas_are_those_of_the_slice_through_the_middle_of_each_body(
    lumbar_trunk: AnalysisResult,
) -> None:
    result = lumbar_trunk
    for number in NUMBERS.values():
        measured = said(result, number, "Area")
        assert [one.site for one in measured] == [LEVEL_CODES[level] for level in LUMBAR]
        assert all(one.unit.value == "cm2" for one in measured)
        assert measured[2].value == pytest.approx(ROD_CM2, rel=0.2)
        (mean,) = said(result, number, "Attenuation Coefficient")
        assert mean.value == pytest.approx(trunks.muscle_hu(number), abs=4)
        (volume,) = said(result, number, "Volume")
        assert volume.value == pytest.approx(ROD_CM2 * 15.6, rel=0.25)


def test_the_index_is_the_area_at_l3_over_the_squared_stature(
    lumbar_trunk: AnalysisResult,
) -> None:
    """The stature is two metres."""
    result = lumbar_trunk
    (index,) = said(result, None, "Skeletal muscle index")
    total = [one.value for one in said(result, None, "Area") if one.site == LEVEL_CODES["L3"]]
    assert index.value == pytest.approx(total[0] / 4)
    assert index.unit.value == "cm2/m2"
    assert total[0] == pytest.approx(
        sum(said(result, number, "Area")[3].value for number in NUMBERS.values())
    )


@pytest.mark.parametrize("size", [None, "", "0", "174"])
def test_without_a_stature_there_is_no_index_and_it_is_said(
    model: TrunkModel, size: str | None
) -> None:
    result = analyse(model, lumbar(), size=size)
    assert said(result, None, "Skeletal muscle index") == []
    assert "stature-unknown" in {notice.code for notice in result.notices}


def test_no_index_is_wanted_where_l3_is_not_seen(model: TrunkModel) -> None:
    result = analyse(model, trunks.scene(LEVELS[:4]), size=None)
    assert {notice.code for notice in result.notices} == {"muscle-incomplete"}
    assert "122288" in flags(result, BODIES["L3"])  # DCM, Not visualized


def test_what_the_image_ends_in_is_flagged(
    whole_trunk: AnalysisResult, lumbar_trunk: AnalysisResult
) -> None:
    assert not any(flags(whole_trunk, number) for number in NUMBERS.values())
    assert all(flags(lumbar_trunk, number) == {"130576"} for number in NUMBERS.values())
    (notice,) = [notice for notice in lumbar_trunk.notices if notice.code == "muscle-incomplete"]
    assert "erector spinae left" in notice.message


def test_a_muscle_that_leaves_the_slices_has_no_area_and_there_is_no_index(
    model: TrunkModel,
) -> None:
    whole = trunks.scene()
    _, columns, number = max(trunks.places(), key=lambda place: place[1].stop)
    narrow = whole[:, :, : columns.stop - 2]  # type: ignore[index]  # highdicom's annotation knows no triple
    result = analyse(model, narrow)
    assert said(result, number, "Area") == []
    assert "130576" in flags(result, number)
    assert said(result, None, "Skeletal muscle index") == []
    assert len(said(result, NUMBERS["psoas_major_left"], "Area")) == len(LEVELS)


def test_what_was_not_reconstructed_is_an_end_of_the_image_too(model: TrunkModel) -> None:
    volume = trunks.scene()
    _, columns, number = max(trunks.places(), key=lambda place: place[1].stop)
    array = volume.array.copy()
    array[:, :, columns.stop - 1 :] = -2048
    result = analyse(model, volume.with_array(array))
    assert "130576" in flags(result, number)


# -- refusals --------------------------------------------------------------------------------------


def _grid(
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float] = (3, 1, 1),
    orientation: str = "FPL",
) -> hd.Volume:
    return hd.Volume.from_components(
        np.zeros(shape, np.int16),
        spacing=spacing,
        coordinate_system="PATIENT",
        center_position=(0, 0, 0),
        patient_orientation=orientation,
    )


@pytest.mark.parametrize(
    ("volume", "code"),
    [
        (_grid((9, 300, 300), (10, 1, 1)), "too-few-slices"),
        (_grid((20, 300, 300), (12, 1, 1)), "spacing-too-wide"),
        (_grid((40, 100, 100), (3, 4, 4)), "spacing-too-wide"),
        (_grid((200, 200, 200), (1, 1, 1), "LPF"), "not-axial"),
        (_grid((60, 100, 300)), "field-too-small"),
        (_grid((15, 300, 300)), "field-too-small"),
    ],
)
def test_series_that_are_none_of_a_trunk_are_refused_with_a_code(
    volume: hd.Volume, code: str
) -> None:
    with pytest.raises(Refused) as refused:
        check_series(volume)
    assert refused.value.code == code


def test_a_series_without_vertebrae_is_no_trunk(model: TrunkModel) -> None:
    legs = lumbar().with_array(np.where(lumbar().array > 400, trunks.SOFT_HU, lumbar().array))
    for volume in (legs, lumbar().with_array(np.full_like(lumbar().array, -1000))):
        with pytest.raises(Refused) as refused:
            analyse(model, volume)
        assert refused.value.code == "no-trunk"


def test_a_tilted_gantry_and_a_scoliosis_of_the_couch_are_axial_enough() -> None:
    volume = _grid((40, 300, 300))
    turn = np.eye(4)
    angle = np.radians(24)
    turn[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    check_series(
        hd.Volume(array=volume.array, affine=turn @ volume.affine, coordinate_system="PATIENT")
    )


# -- evidence --------------------------------------------------------------------------------------


def test_the_report_says_at_which_level_an_area_was_measured(model: TrunkModel) -> None:
    volume = lumbar()
    source = SourceSeries(volume=volume, datasets=tuple(ct_series(volume, seed=3)))
    result = run(model, {"ct": source}, trunks.PARAMETERS)
    request = make_request(source, result=result, manifest=trunks.MANIFEST)
    made = {item.kind: dcmread(BytesIO(item.encoded)) for item in create_evidence(request)}
    assert set(made) == {"SEG", "SR"}
    found = set(_sites_of_areas(made["SR"]))
    assert found == {LEVEL_CODES[level].value for level in LUMBAR}
    coded = {
        (item.SegmentedPropertyTypeCodeSequence[0].CodeValue, item.SegmentLabel)
        for item in made["SEG"].SegmentSequence
    }
    assert ("44947003", "Erector spinae, left") in coded
    assert ("36470004", "L3 vertebral body") in coded
    assert len(coded) == len(NUMBERS) + len(LUMBAR)


def _sites_of_areas(item: Dataset) -> Iterator[str]:
    """Finding Sites under NUM items named Area, anywhere in a tree."""
    children = item.get("ContentSequence") or ()
    names = item.get("ConceptNameCodeSequence")
    if names and names[0].CodeValue == "42798000":
        for child in children:
            if child.ConceptNameCodeSequence[0].CodeValue == "363698007":
                yield str(child.ConceptCodeSequence[0].CodeValue)
    for child in children:
        yield from _sites_of_areas(child)


def test_muscles_are_coded_by_the_standard_where_it_has_codes() -> None:
    """PS3.16 CID 3031 has the muscles that have no SNOMED CT code there; psoas major is in neither."""
    types = {segment.type for segment in trunks.MANIFEST.segments}
    listed = {spec.meaning for spec in types if spec.scheme == "MDC"}
    assert len(listed) == 5
    for spec in types:
        if spec.scheme == "MDC":
            (concept,) = (
                code for code in codes.cid3031.concepts.values() if code == spec.to_code()
            )
            assert concept.meaning == spec.meaning
    assert [spec.meaning for spec in types if spec.scheme == "FMA"] == ["Psoas major"]


# -- the weights that ship -------------------------------------------------------------------------


def test_the_weights_that_ship_find_levels_and_psoas_of_a_patient(shared_data: Path) -> None:
    """Nobody has labelled this CT: only what any trunk has is asked for."""
    plan = shipped_plan()
    networks = load_networks(BUILT_IN / "ct_trunk_muscle" / "weights.safetensors", plan, "cpu")
    volume = read_series(sorted((shared_data / "ct-abdomen").glob("*.dcm"))).volume
    with torch.inference_mode():
        trunk = segment_trunk(
            Networks(muscles=networks.slices, part=Part.SLICES, levels=networks.levels, plan=plan),
            volume,
        )
    assert [level.name for level in trunk.levels][-4:] == ["L1", "L2", "L3", "L4"]
    millilitre = trunk.labels.voxel_volume / 1000
    for side in ("left", "right"):
        found = trunk.labels.array == NUMBERS[f"psoas_major_{side}"]
        assert 20 < np.count_nonzero(found) * millilitre < 200
