"""Wishes: what comes first among series that fit, and what decided."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from received import series

from node.errors import RuleError
from node.plane import plane_of
from node.preference import Preference, check_wishes, parse_wish
from storage.model import Rule, Series

REFORMAT = ("DERIVED", "SECONDARY", "REFORMATTED")


def best(*held: Series, wishes: tuple[str, ...] = ()) -> str:
    """The winner, whatever the order."""
    preference = Preference(wishes)
    (winner,) = {preference.best(list(order)).series_instance_uid for order in permutations(held)}
    return winner


def decided(loser: Series, winner: Series, *wishes: str) -> tuple[str, str]:
    """The wish that decided, and what it saw; the same from either side."""
    preference = Preference(wishes)
    lost, won = preference.judge(loser, winner), preference.judge(winner, loser)
    assert (lost.holds, won.holds) == (False, True)
    assert lost.clause == won.clause
    return lost.clause, lost.seen


def test_without_wishes_original_counts_more_than_slices_and_slices_more_than_thickness() -> None:
    thick = series("thick", slices=60, SliceThickness=(5.0,))
    thin = series("thin", slices=300, SliceThickness=(1.0,))
    reformat = series("mpr", slices=900, ImageType=REFORMAT)
    assert best(thick, thin, reformat) == "thin"
    assert best(thick, reformat) == "thick"
    assert decided(reformat, thin) == (
        "prefer ImageType = ORIGINAL",
        "DERIVED\\SECONDARY\\REFORMATTED; series …thin has ORIGINAL\\PRIMARY\\AXIAL",
    )
    assert decided(thick, thin) == ("prefer most slices", "60; series …thin has 300")
    finer = replace(
        thick, series_instance_uid="fine", header={**thick.header, "SliceThickness": (3.0,)}
    )
    assert decided(thick, finer) == ("prefer least SliceThickness", "5.0; series …fine has 3.0")


def test_a_rule_s_wishes_come_before_in_their_order() -> None:
    soft = series("soft", slices=500, ConvolutionKernel=("Br36",))
    sharp = series("sharp", slices=100, ConvolutionKernel=("Br64",))
    wishes = ("ConvolutionKernel ~ (?i)^br6", "most slices")
    assert best(soft, sharp, wishes=wishes) == "sharp"
    assert best(soft, sharp, wishes=wishes[::-1]) == "soft"
    assert decided(soft, sharp, *wishes) == (
        "prefer ConvolutionKernel ~ (?i)^br6",
        "Br36; series …sharp has Br64",
    )


def test_the_plane_and_numbers_of_several_values_can_be_wished_for() -> None:
    axial = series("ax", ImageOrientationPatient=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0))
    coronal = series("cor", slices=200, ImageOrientationPatient=(1.0, 0.0, 0.0, 0.0, 0.0, -1.0))
    assert best(axial, coronal, wishes=("plane = axial",)) == "ax"
    assert best(axial, coronal, wishes=("plane = coronal",)) == "cor"
    fine, coarse = series("f", PixelSpacing=(0.5, 0.5)), series("c", PixelSpacing=(0.9, 0.9))
    assert best(fine, coarse, wishes=("least PixelSpacing",)) == "f"
    assert best(fine, coarse, wishes=("most PixelSpacing",)) == "c"
    early, late = series("e", AcquisitionTime=("101500",)), series("l", AcquisitionTime=("110000",))
    assert best(early, late, wishes=("most AcquisitionTime",)) == "l"


def test_who_has_no_value_comes_last_either_way() -> None:
    known, unknown = series("known", SliceThickness=(5.0,)), series("unknown", at=-9)
    for wish in ("most SliceThickness", "least SliceThickness"):
        assert best(known, unknown, wishes=(wish,)) == "known"
    text = series("text", SliceThickness=("thin",))
    assert decided(text, known, "most SliceThickness") == (
        "prefer most SliceThickness",
        "thin; series …known has 5.0",
    )


def test_of_equals_the_smaller_series_number_wins_and_then_the_smaller_uid() -> None:
    first, second = series("b", SeriesNumber=(3,)), series("a", SeriesNumber=(4,))
    assert decided(second, first) == ("prefer least SeriesNumber", "4; series …b has 3")
    assert decided(series("b"), series("a"))[0] == "prefer the smaller UID"
    assert best(series("b"), series("a"), series("c", SeriesNumber=(1,))) == "c"


def test_when_a_series_came_decides_nothing() -> None:
    """A study that comes in another order ends with the same result."""
    assert best(series("a", at=5), series("b", at=4)) == "a"
    assert best(series("a", at=4), series("b", at=5)) == "a"


def test_frames_are_slices_where_positions_are_not_known() -> None:
    enhanced = replace(series("enhanced", slices=None), facts={"frames": 400})
    assert best(enhanced, series("ct")) == "enhanced"


@given(
    st.lists(
        st.tuples(st.integers(1, 3), st.sampled_from((1.0, 2.0, None)), st.integers(0, 2)),
        min_size=1,
        max_size=5,
    )
)
def test_one_wins_whatever_the_order_and_it_beats_every_other(
    made: list[tuple[int, float | None, int]],
) -> None:
    held = [
        series(f"s{n}", slices=slices, at=at, SliceThickness=(thickness,))
        for n, (slices, thickness, at) in enumerate(made)
    ]
    preference = Preference()
    winner = preference.best(held)
    assert preference.best(held[::-1]) is winner
    assert all(preference.judge(winner, one).holds for one in held if one is not winner)


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        ("most", "neither a clause nor `most` or `least`"),
        ("most Slices", "'Slices' is neither a DICOM keyword nor one of calling_ae"),
        ("least SeriesDescription", "is no number; write a clause"),
        ("most calling_ae", "is no number"),
        ("most slices please", "neither a clause"),
        ("ConvolutionKernel ~ (", "no regular expression"),
    ],
)
def test_what_is_no_wish_is_refused_by_its_text(wish: str, said: str) -> None:
    rule = Rule(name="r", pipeline="p", where=(), destinations=(), prefer=(wish,))
    with pytest.raises(RuleError) as refused:
        check_wishes(rule)
    assert said in str(refused.value)
    assert repr(wish) in str(refused.value)
    # One that another version wrote is passed over, not the study.
    assert Preference((wish,)).best([series("b", slices=1), series("a")]).series_instance_uid == "a"


def test_a_wish_reads_as_it_was_written() -> None:
    for text in (
        "most slices",
        "least SliceThickness",
        "ConvolutionKernel ~ (?i)^b",
        "plane = axial",
    ):
        assert str(parse_wish(text)) == text


@pytest.mark.parametrize(
    ("cosines", "plane"),
    [
        ((1, 0, 0, 0, 1, 0), "axial"),
        # A gantry tilted by 30 degrees.
        ((1.0, 0.0, 0.0, 0.0, 0.866, -0.5), "axial"),
        ((1.0, 0.0, 0.0, 0.0, 0.0, -1.0), "coronal"),
        ((0.0, 1.0, 0.0, 0.0, 0.0, -1.0), "sagittal"),
        ((1.0, 0.0, 0.0, 0.0, 0.7071, -0.7071), "oblique"),
        ((1.0, 0.0, 0.0, 1.0, 0.0, 0.0), None),
        ((1.0, 0.0, 0.0), None),
        (("x",) * 6, None),
    ],
)
def test_planes(cosines: tuple[float, ...], plane: str | None) -> None:
    assert plane_of({"ImageOrientationPatient": cosines}) == plane
    assert plane_of({}) is None
