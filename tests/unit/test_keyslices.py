"""The slice of largest area, and outlines that hold exactly the pixels of a mask."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import volumes
from matplotlib.path import Path as Polygon
from numpy.typing import NDArray

from pipelines.evidence.keyslices import Contour, contours, key_slices, plane_contours, polygons
from pipelines.series import read_series


def _inside(lines: list[Contour], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Pixels whose centre is within an odd number of lines: no code of ours."""
    rows, columns = np.indices(shape)
    centres = np.column_stack([columns.ravel(), rows.ravel()])
    odd = np.zeros(len(centres), bool)
    for line in lines:
        odd ^= Polygon(line).contains_points(centres)
    return odd.reshape(shape)


def _area(line: Contour) -> float:
    x, y = line[:-1].T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def test_key_slice_is_the_one_of_largest_area(tmp_path: Path) -> None:
    source = read_series(volumes.write_series(tmp_path))
    labels = np.zeros(volumes.SHAPE, np.uint8)
    labels[2, 4:6, 4:6] = 1
    labels[5, 4:9, 4:9] = 1
    labels[7, 0:5, 0:5] = 1  # as large as slice 5
    labels[9, 30:32, 30] = 3
    specs = [volumes.make_spec(number) for number in (1, 2, 3)]
    result = volumes.make_result(source, specs, source.volume.with_array(labels))
    assert key_slices(result) == {1: 5, 3: 9}


def test_one_pixel_is_a_diamond_about_its_centre() -> None:
    mask = np.zeros((4, 5), bool)
    mask[2, 3] = True
    (line,) = contours(mask)
    assert line.dtype == np.float64
    assert {tuple(point) for point in line} == {(2.5, 2), (3.5, 2), (3, 1.5), (3, 2.5)}
    np.testing.assert_array_equal(line[0], line[-1])
    assert _area(line) == 0.5


def test_a_rectangle_has_eight_corners_and_half_a_pixel_less() -> None:
    mask = np.zeros((20, 30), bool)
    mask[3:10, 5:25] = True
    (line,) = contours(mask)
    assert line.shape == (9, 2)
    assert (line.min(axis=0) == (4.5, 2.5)).all()
    assert (line.max(axis=0) == (24.5, 9.5)).all()
    assert _area(line) == 7 * 20 - 0.5


def test_holes_have_lines_of_their_own_and_edges_of_the_image_are_closed() -> None:
    mask = np.ones((6, 7), bool)
    mask[2:4, 3] = False
    lines = contours(mask)
    assert sorted(_area(line) for line in lines) == [1.5, 41.5]
    assert min(line.min() for line in lines) == -0.5
    np.testing.assert_array_equal(_inside(lines, mask.shape), mask)


def test_a_polygon_is_an_outer_line_and_its_holes() -> None:
    mask = np.zeros((12, 30), bool)
    mask[1:11, 1:11] = mask[1:11, 15:28] = True
    mask[3:5, 3:5] = mask[7, 7] = mask[4, 20] = False
    mask[4, 25] = False
    first, second = sorted(polygons(mask), key=lambda lines: lines[0][:, 0].min())
    assert [_area(line) for line in first] == [99.5, 3.5, 0.5]
    assert [_area(line) for line in second] == [129.5, 0.5, 0.5]


@pytest.mark.parametrize("seed", range(5))
def test_lines_hold_exactly_the_mask(seed: int) -> None:
    """Noise: islands, holes, pixels that touch at corners only."""
    mask = np.random.default_rng(seed).random((40, 31)) < 0.2 + 0.15 * seed
    np.testing.assert_array_equal(_inside(contours(mask), mask.shape), mask)


def test_nothing_has_no_lines() -> None:
    assert contours(np.zeros((3, 3), bool)) == []
    assert plane_contours(np.zeros((3, 3), np.uint8)) == {}


def test_lines_of_a_plane_are_those_of_each_segment() -> None:
    plane = np.random.default_rng(3).integers(0, 4, (25, 33)).astype(np.uint16)
    plane[plane == 2] = 0
    found = plane_contours(plane)
    assert list(found) == [1, 3]
    for number, lines in found.items():
        np.testing.assert_array_equal(_inside(lines, plane.shape), plane == number)
