"""A series that lacks slices is read as far as it has no gap, when that is asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset
from volumes import make_volume, write_series

from pipelines.errors import InputError
from pipelines.gaps import longest_run
from pipelines.series import read_series

#: Slices of the series that `write_series` makes.
SLICES = 11


def without(*places: int) -> Callable[[list[Dataset]], None]:
    """Take out the slices at these places along the normal."""

    def change(datasets: list[Dataset]) -> None:
        for place in sorted(places, reverse=True):
            del datasets[place]

    return change


@pytest.mark.parametrize("orientation", ["axial", "oblique"])
@pytest.mark.parametrize(
    ("missing", "kept", "gaps"),
    [
        ((3,), range(4, 11), 1),
        ((8,), range(8), 1),
        ((2, 3, 9), range(4, 9), 2),
        # Of two runs as long, the first.
        ((5,), range(5), 1),
        # Every second slice but three: the step is that of those three.
        ((1, 3, 7, 9), range(4, 7), 4),
    ],
)
def test_the_longest_run_is_read_where_it_lies(
    tmp_path: Path, orientation: str, missing: tuple[int, ...], kept: range, gaps: int
) -> None:
    paths = write_series(tmp_path, orientation=orientation, change=without(*missing))
    source = read_series(paths, allow_gaps=True)
    whole = make_volume(orientation)
    assert np.array_equal(source.volume.array, whole.array[kept.start : kept.stop])
    first = whole.affine @ (kept.start, 0, 0, 1)
    assert np.allclose(source.volume.affine[:, 3], first, atol=1e-3)
    assert np.allclose(source.volume.affine[:3, :3], whole.affine[:3, :3], atol=1e-3)
    assert len(source.datasets) == len(kept)
    assert source.gap is not None
    assert source.gap.code == "slices-missing"
    assert f"{len(missing)} slice(s) did not come, in {gaps} gap(s)" in source.gap.message
    assert f"{len(kept)} of {SLICES - len(missing)} slices" in source.gap.message


def test_a_series_without_a_gap_is_read_as_ever(tmp_path: Path) -> None:
    paths = write_series(tmp_path)
    source = read_series(paths, allow_gaps=True)
    assert source.gap is None
    assert np.array_equal(source.volume.array, read_series(paths).volume.array)


def test_a_gap_is_refused_unless_it_is_allowed(tmp_path: Path) -> None:
    paths = write_series(tmp_path, change=without(3))
    with pytest.raises(InputError) as refused:
        read_series(paths)
    assert refused.value.code == "input-missing-slices"


def duplicate(datasets: list[Dataset]) -> None:
    datasets[4].ImagePositionPatient = datasets[5].ImagePositionPatient


def turn(datasets: list[Dataset]) -> None:
    del datasets[3]
    datasets[1].ImageOrientationPatient = [0, 1, 0, 0, 0, -1]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (duplicate, "input-duplicate-positions"),
        (turn, "input-mixed-orientation"),
    ],
)
def test_what_is_no_stack_is_refused_all_the_same(
    tmp_path: Path, change: Callable[[list[Dataset]], None], code: str
) -> None:
    with pytest.raises(InputError) as refused:
        read_series(write_series(tmp_path, change=change), allow_gaps=True)
    assert refused.value.code == code


def thin_out(datasets: list[Dataset]) -> None:
    """Two stacks, one with five times the step of the other."""
    for place, ds in enumerate(datasets):
        ds.ImagePositionPatient = [0, 0, place if place < 4 else 5 * place]


def test_two_steps_are_two_grids_and_no_gap(tmp_path: Path) -> None:
    with pytest.raises(InputError) as refused:
        read_series(write_series(tmp_path, change=thin_out), allow_gaps=True)
    assert refused.value.code == "input-irregular-spacing"


@settings(max_examples=40)
@given(st.sets(st.integers(0, 29), min_size=2), st.randoms(use_true_random=False))
def test_no_run_is_longer_and_none_has_a_gap(places: set[int], shuffler: Random) -> None:
    datasets = []
    for place in places:
        ds = Dataset()
        ds.SOPInstanceUID = f"1.{place}"
        ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        ds.ImagePositionPatient = [0, 0, 1.25 * place]
        datasets.append(ds)
    shuffler.shuffle(datasets)
    steps = np.diff(sorted(places))
    run = longest = 1
    for step in steps:
        run = run + 1 if step == steps.min() else 1
        longest = max(longest, run)
    is_grid = not (steps % steps.min()).any()
    missing = int((steps // steps.min() - 1).sum())

    found = longest_run(datasets)

    if is_grid and 0 < missing <= len(places):
        assert found is not None
        along = [ds.ImagePositionPatient[2] / 1.25 for ds in found[0]]
        assert len(along) == longest
        assert set(np.diff(along)) <= {float(steps.min())}
    elif is_grid:
        assert found is None
