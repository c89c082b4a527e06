"""The spine tumour pipeline: sequences, geometry, tumours one by one, with a network that sees by brightness alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import highdicom as hd
import numpy as np
import pytest
import torch
from pydicom import Dataset
from pydicom.sr.codedict import codes
from spines import BALLS, MANIFEST, PARAMETERS, grid, model_that_sees_brightness, scene, source
from volumes import make_request

from pipelines.errors import Refused
from pipelines.evidence.create import create_evidence
from pipelines.mr_spine_tumor.measuring import axial_diameter
from pipelines.mr_spine_tumor.pipeline import TumourModel, check_series, run
from pipelines.mr_spine_tumor.segmenting import number_tumours
from pipelines.mr_spine_tumor.sequence import Contrast, check_sequence, read_sequence
from pipelines.result import AnalysisResult, SourceSeries


@pytest.fixture
def model() -> TumourModel:
    return model_that_sees_brightness()


def analyse(model: TumourModel, series: SourceSeries, **parameters: Any) -> AnalysisResult:
    return run(model, {"mr": series}, {**PARAMETERS, **parameters})


def values(result: AnalysisResult, number: int | None) -> dict[str, float]:
    return {
        m.name.meaning + (f", {m.derivation.meaning}" if m.derivation else ""): m.value
        for m in result.measurements
        if m.segment_number == number
    }


def notices(result: AnalysisResult) -> set[str]:
    return {notice.code for notice in result.notices}


# -- what the header says ---------------------------------------------------------------------------


def header(description: str = "", **attributes: Any) -> Dataset:
    ds = Dataset()
    ds.SeriesDescription = description
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return ds


@pytest.mark.parametrize(
    "description",
    ["T1 TSE SAG +C", "t1_tse_sag_km", "SAG T1 POST", "T1 FS GAD", "Ax T1 +Gd", "T1 C+", "sag t1 post contrast",
     "T1W_TSE_Gd", "t1 fs ce", "AX T1 FSE +GAD", "SAG T1C", "T1 w/o fs +C"],
)  # fmt: skip
def test_descriptions_that_say_contrast(description: str) -> None:
    assert read_sequence(header(description)).contrast is Contrast.GIVEN


@pytest.mark.parametrize(
    "description",
    [
        "T1 TSE SAG PRE",
        "T1 nativ",
        "SAG T1 w/o contrast",
        "T1 without contrast",
        "t1_pre_km",
        "T1 -C",
    ],
)
def test_descriptions_that_say_no_contrast(description: str) -> None:
    assert read_sequence(header(description)).contrast is Contrast.NONE


@pytest.mark.parametrize(
    "description", ["T1 TSE SAG", "", "SAG T1 - C spine", "T1 postero-anterior", "T1 post op"]
)
def test_descriptions_that_say_nothing(description: str) -> None:
    assert read_sequence(header(description)).contrast is Contrast.UNKNOWN


@pytest.mark.parametrize(
    ("agent", "contrast"),
    [("Gadobutrol", Contrast.GIVEN), ("7.5 ml", Contrast.GIVEN), ("", Contrast.UNKNOWN),
     ("NONE", Contrast.NONE), ("No", Contrast.NONE)],
)  # fmt: skip
def test_the_agent_counts(agent: str, contrast: Contrast) -> None:
    assert read_sequence(header("T1 sag", ContrastBolusAgent=agent)).contrast is contrast


def test_a_native_series_of_a_study_whose_scanner_writes_the_agent_everywhere_is_native() -> None:
    said = read_sequence(header("T1 SAG PRE", ContrastBolusAgent="Gadobutrol"))
    assert said.contrast is Contrast.NONE


@pytest.mark.parametrize(
    ("ds", "code"),
    [
        (header("T2 TSE SAG +C"), "not-t1-weighted"),
        (header("STIR SAG +C"), "not-t1-weighted"),
        (header("SUB T1 +C"), "not-t1-weighted"),
        (header("SAG +C", RepetitionTime="3500", EchoTime="95"), "not-t1-weighted"),
        (header("SAG +C", RepetitionTime="3000", EchoTime="12"), "not-t1-weighted"),
        (header("SAG +C", ScanningSequence=["SE", "IR"], InversionTime="160"), "not-t1-weighted"),
        (header("T1 SAG nativ"), "contrast-absent"),
        (header("T1 SAG"), "contrast-unknown"),
    ],
)  # fmt: skip
def test_what_is_not_t1_after_gadolinium_is_refused(ds: Dataset, code: str) -> None:
    with pytest.raises(Refused) as error:
        check_sequence([ds], require_contrast=True, fat_suppressed=True)
    assert error.value.code == code


@pytest.mark.parametrize("description", ["T1 FLAIR SAG +C", "t1 tirm sag km"])
def test_an_inverted_t1_is_taken_whatever_its_repetition_time(description: str) -> None:
    ds = header(description, RepetitionTime="2200", EchoTime="10", InversionTime="860")
    assert check_sequence([ds], require_contrast=True, fat_suppressed=True).t1_weighted


@pytest.mark.parametrize(
    "ds", [header("T1 FS +C"), header("T1 +C", ScanOptions=["PFP", "FS"]), header("t1 dixon_w +c")]
)
def test_fat_suppression_is_seen_and_refused_where_it_is_not_wanted(ds: Dataset) -> None:
    assert check_sequence([ds], require_contrast=True, fat_suppressed=True).fat_suppressed
    with pytest.raises(Refused) as error:
        check_sequence([ds], require_contrast=True, fat_suppressed=False)
    assert error.value.code == "fat-suppressed"


def test_contrast_need_not_be_required_and_that_is_said(model: TumourModel) -> None:
    volume = scene(grid())
    native = source(volume, ContrastBolusAgent="", SeriesDescription="T1 nativ")
    with pytest.raises(Refused) as error:
        analyse(model, native)
    assert error.value.code == "contrast-absent"
    assert "contrast-not-required" in notices(analyse(model, native, require_contrast=False))
    assert "contrast-not-required" not in notices(analyse(model, source(volume)))


# -- geometry ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "spacing", "code"),
    [
        ((4, 200, 200), (4, 1, 1), "too-few-slices"),
        ((12, 200, 200), (9, 1, 1), "spacing-too-wide"),
        ((12, 100, 100), (4, 2.5, 2.5), "spacing-too-wide"),
        ((12, 200, 60), (4, 1, 1), "field-too-small"),
    ],
)
def test_geometries_that_are_refused(
    shape: tuple[int, ...], spacing: tuple[int, ...], code: str
) -> None:
    affine = np.diag([*spacing, 1.0])
    volume = hd.Volume(np.zeros(shape, np.int16), affine, coordinate_system="PATIENT")
    with pytest.raises(Refused) as error:
        check_series(volume)
    assert error.value.code == code


def test_images_without_a_spine_are_refused(model: TumourModel) -> None:
    volume = scene(grid(), balls=())
    empty = volume.with_array(np.full_like(volume.array, 300))
    with pytest.raises(Refused) as error:
        analyse(model, source(empty))
    assert error.value.code == "no-spine"


@pytest.mark.parametrize("orientation", ["LFP", "RFP", "LHA", "FPL", "HPL", "FAR", "PFL", "AHR"])
def test_tumours_are_the_same_whatever_the_direction_and_order_of_slices(
    model: TumourModel, orientation: str
) -> None:
    volume = scene(grid(orientation))
    result = analyse(model, source(volume))
    assert result.label_map.geometry_equal(volume)
    assert [segment.label for segment in result.segments] == ["Vertebrae", "Tumour 1", "Tumour 2"]
    for number, (centre, radius) in enumerate(BALLS, start=2):
        found = values(result, number)
        assert found["Volume"] == pytest.approx(4 / 3 * np.pi * radius**3 / 1000, rel=0.12)
        # Slices of 4 mm may miss the widest place, or end half a slice beyond it.
        assert found["Long axis"] == pytest.approx(2 * radius, abs=2.6)
        assert found["Signal ratio of tumour to normal marrow"] == pytest.approx(
            600 / 450, rel=0.02
        )
        places = np.argwhere(result.label_map.array == number)
        middle = np.asarray(volume.map_indices_to_reference(places)).mean(axis=0)
        assert np.linalg.norm(middle - centre) < 1.0
    whole = values(result, None)
    assert whole["Number of lesions"] == 2
    assert whole["Volume, Total"] == pytest.approx(sum(values(result, n)["Volume"] for n in (2, 3)))
    assert values(result, 1)["Volume"] > 70


# -- tumours one by one -----------------------------------------------------------------------------


def test_tumours_are_numbered_by_size_and_hold_together_across_slices() -> None:
    array = np.zeros((6, 20, 20), np.uint8)
    array[0, 1:3, 1:3] = 2
    array[2, 5:9, 5:9], array[3, 9:12, 9:12] = 2, 2  # touch at a corner
    volume = hd.Volume(array, np.diag([4.0, 1, 1, 1]), coordinate_system="PATIENT")
    numbers, count = number_tumours(volume)
    assert count == 2
    assert numbers[2, 5, 5] == numbers[3, 11, 11] == 1
    assert numbers[0, 1, 1] == 2


def test_what_is_smaller_than_the_parameter_is_no_tumour(model: TumourModel) -> None:
    small = ((BALLS[0][0], 5.0), BALLS[1])
    series = source(scene(grid(), balls=small))
    assert values(analyse(model, series), None)["Number of lesions"] == 2
    fewer = analyse(model, series, smallest_tumour_ml=1.0)
    assert values(fewer, None)["Number of lesions"] == 1
    assert [segment.label for segment in fewer.segments] == ["Vertebrae", "Tumour 1"]
    # It was inside of a vertebra, and is that now.
    index = np.rint(series.volume.map_reference_to_indices(np.array([BALLS[0][0]]))[0]).astype(int)
    assert fewer.label_map.array[tuple(index)] == 1


@pytest.mark.parametrize(("side", "millilitres"), [(10, 0.0), (24, 6.9)])
def test_a_small_piece_apart_from_the_spine_is_no_vertebra(
    model: TumourModel, side: int, millilitres: float
) -> None:
    spine = scene(grid(), balls=())
    array = spine.array.copy()
    array[4:7, 10 : 10 + side, 10 : 10 + side] = 450
    without, with_piece = (
        values(analyse(model, source(volume)), 1)["Volume"]
        for volume in (spine, spine.with_array(array))
    )
    assert with_piece - without == pytest.approx(millilitres, abs=0.1)


def test_mirrored_slices_are_looked_at_too_unless_not_wanted(model: TumourModel) -> None:
    seen: list[torch.Tensor] = []

    def watched(image: torch.Tensor) -> torch.Tensor:
        seen.append(image)
        return model.network.infer(image)

    watching = replace(model, network=replace(model.network, infer=watched))
    series = source(scene(grid()))
    analyse(watching, series, mirror=False)
    once = len(seen)
    analyse(watching, series)
    assert len(seen) == 3 * once
    assert torch.equal(seen[once + 1], seen[once].flip(-1))


def test_a_tumour_cut_by_the_field_of_view_is_said(model: TumourModel) -> None:
    whole, cut = scene(grid("FPL")), scene(grid("FPL"))[8:]
    assert "tumour-incomplete" not in notices(analyse(model, source(whole)))
    assert "tumour-incomplete" in notices(analyse(model, source(cut)))


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([[0, 0, 0], [3, 4, 50]], 5 + 0.5),  # what lies along z does not count
        ([[0, 0, 0], [2, 0, 0], [7, 0, 0]], 7 + 0.5),  # on one line
        ([[1, 1, 1]], 0.5),
        ([[0, 0, 0], [10, 0, 0], [10, 10, 0], [0, 10, 0]], np.hypot(10, 10) + 0.5),
    ],
)
def test_the_axial_diameter(points: list[list[float]], expected: float) -> None:
    assert axial_diameter(np.array(points, float), (4.0, 0.5, 0.5)) == pytest.approx(expected)


# -- evidence ---------------------------------------------------------------------------------------


def test_each_tumour_has_a_segment_and_a_tracking_identifier_of_its_own(model: TumourModel) -> None:
    series = source(scene(grid()))
    result = analyse(model, series)
    request = make_request(series, result=result, manifest=MANIFEST, parameters=PARAMETERS)
    seg, sr = create_evidence(request)
    items = seg.ds.SegmentSequence
    assert [item.SegmentLabel for item in items] == ["Vertebrae", "Tumour 1", "Tumour 2"]
    assert [item.TrackingID for item in items] == ["Vertebrae", "Tumour 1", "Tumour 2"]
    assert len({item.TrackingUID for item in items}) == 3
    assert items[1].SegmentedPropertyTypeCodeSequence[0].CodeValue == codes.SCT.Neoplasm.value
    assert sr.ds.Modality == "SR"


def test_no_tumour_is_a_measured_zero_and_no_silence(model: TumourModel) -> None:
    series = source(scene(grid(), balls=()))
    result = analyse(model, series)
    assert [segment.label for segment in result.segments] == ["Vertebrae", "Tumour"]
    assert values(result, 2) == {"Volume": 0.0}
    assert values(result, None) == {"Number of lesions": 0.0, "Volume, Total": 0.0}
    assert "no-tumour" in notices(result)
    request = make_request(series, result=result, manifest=MANIFEST, parameters=PARAMETERS)
    seg, sr = create_evidence(request)
    assert [item.SegmentLabel for item in seg.ds.SegmentSequence] == ["Vertebrae"]
    assert b"No tumour was segmented." in sr.encoded


@pytest.mark.parametrize("name", ["Volume", "LongAxis", "NumberOfLesions", "Total"])
def test_codes_are_the_dictionary_s(model: TumourModel, name: str) -> None:
    result = analyse(model, source(scene(grid())))
    stated = {m.name for m in result.measurements} | {m.derivation for m in result.measurements}
    assert getattr(codes.SCT, name) in stated
