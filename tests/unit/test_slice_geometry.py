"""Where the slices of a series lie: spacing, places that are empty, positions taken twice, orientations."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.index.geometry import SliceGeometry, measure_slices

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
OBLIQUE = (0.6, 0.8, 0.0, 0.0, 0.0, 1.0)


def stack(*along: float, orientation: tuple[float, ...] = AXIAL) -> SliceGeometry:
    """Slices at these distances along the normal."""
    a, b = orientation[:3], orientation[3:]
    normal = (a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0])
    measured = measure_slices(([x * at for x in normal], list(orientation)) for at in along)
    assert measured is not None
    return measured


@pytest.mark.parametrize(
    ("along", "missing"),
    [
        ((0, 1.5, 3, 4.5), 0),
        ((0, 1.5, 4.5, 6), 1),
        ((6, 0, 1.5, 3, 12, 10.5), 3),
        # Every second slice came, and one between: the step is the smallest gap.
        ((0, 3, 6, 9, 10.5), 3),
        # Positions rounded to 0.1 mm, of slices 0.625 mm apart.
        (tuple(round(n * 0.625, 1) for n in range(30) if n != 7), 1),
        # One position twice is no gap.
        ((0, 1.5, 1.5, 3), 0),
        # On no regular grid: nothing is counted.
        ((0, 1, 2.5, 3.5, 5, 6.1), None),
        # Two stacks 0.05 mm off each other: a grid that fine would be almost empty.
        ((0, 1.5, 3, 3.05, 4.55, 6.05), None),
        ((7,), None),
    ],
)
def test_places_on_the_grid_without_a_slice(along: tuple[float, ...], missing: int | None) -> None:
    assert stack(*along).missing == missing


def test_what_is_measured_of_a_stack() -> None:
    assert stack(0, 2, 2, 4, 8, orientation=OBLIQUE) == SliceGeometry(
        orientations=1, slices=4, duplicates=1, missing=1, gap_mm=2.0, irregular_mm=2.0
    )


def test_of_several_orientations_only_their_number_is_known() -> None:
    mixed = measure_slices([((0, 0, 0), AXIAL), ((0, 0, 1), AXIAL), ((0, 0, 0), CORONAL)])
    assert mixed == SliceGeometry(orientations=2)


@pytest.mark.parametrize("place", [None, (1, 2), ("a", "b", "c"), (1, None, 3)])
def test_an_instance_without_a_place_leaves_nothing_to_measure(place: tuple[float, ...]) -> None:
    assert measure_slices([((0, 0, 0), AXIAL), (place, AXIAL)]) is None
    assert measure_slices([]) is None


@given(
    st.sets(st.integers(1, 58), max_size=25),
    st.sampled_from([0.3, 0.625, 1.0, 2.5, 5.0]),
    st.sampled_from([AXIAL, CORONAL, OBLIQUE]),
    st.randoms(use_true_random=False),
)
def test_slices_taken_out_of_a_stack_are_those_that_miss(
    taken: set[int], step: float, orientation: tuple[float, ...], shuffler: Random
) -> None:
    along = [round(-100 + n * step, 3) for n in range(60) if n not in taken]
    shuffler.shuffle(along)
    assert stack(*along, orientation=orientation).missing == len(taken)
