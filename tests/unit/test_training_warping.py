from __future__ import annotations

from dataclasses import replace

import numpy as np

from pipelines.training.warping import Warp

SHAPE = (40, 60)
NOT_AT_ALL = Warp(turned=0, scaled=0, moved=0, bent=0, control_points=(4, 6))


def test_a_warp_of_nothing_cuts_the_slice_around_its_middle() -> None:
    at = NOT_AT_ALL.draw(SHAPE, (100.0, 80.0), np.random.default_rng(1))
    rows, columns = np.indices(SHAPE)
    np.testing.assert_allclose(at, [rows + 80.5, columns + 50.5])


def test_a_turn_and_scales_keep_the_middle_and_what_is_straight() -> None:
    warp = replace(NOT_AT_ALL, turned=0.3, scaled=0.2)
    at = warp.draw((41, 61), (100.0, 80.0), np.random.default_rng(1))
    np.testing.assert_allclose(at[:, 20, 30], (100, 80))
    for axis in (1, 2):
        np.testing.assert_allclose(np.diff(at, 2, axis=axis), 0, atol=1e-9)
    along_rows, along_columns = (np.linalg.norm(np.diff(at, axis=axis), axis=0) for axis in (1, 2))
    assert abs(along_rows[0, 0] - along_columns[0, 0]) > 0.01


def test_a_bend_goes_no_further_than_its_control_points() -> None:
    warp = replace(NOT_AT_ALL, bent=3.0)
    rows, columns = np.indices(SHAPE)
    straight = np.array([rows, columns])
    bent = [
        warp.draw(SHAPE, (19.5, 29.5), np.random.default_rng(seed)) - straight for seed in range(20)
    ]
    assert 2 < np.std([one[:, ::13, ::11] for one in bent]) < 3.5
    # Smooth: neighbours move alike.
    assert max(np.abs(np.diff(one, axis=2)).max() for one in bent) < 2
