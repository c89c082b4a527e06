"""Discs higher and lower than an atlas's."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.training.phantoms.discs import DiscHeights, DiscMap, Discs, draw_discs, slide

UP = (0.0, 0.0, 1.0)
#: Three vertebrae 30 mm apart, from above.
MIDDLES = ((0.0, 0.0, 60.0), (0.0, 0.0, 30.0), (0.0, 0.0, 0.0))


def discs(*growth: float) -> Discs:
    return Discs(
        middles=np.asarray(MIDDLES, np.float32),
        ups=np.asarray([UP] * 3, np.float32),
        growth=np.asarray(growth, np.float32),
    )


def atlas_discs(share: float) -> DiscMap:
    return DiscMap(middles=MIDDLES, ups=[UP] * 3, shares=[share] * 2)


def column(x: float = 0.0, y: float = 0.0) -> np.ndarray:
    heights = np.linspace(70, -10, 801, dtype=np.float32)
    return np.stack([np.full_like(heights, x), np.full_like(heights, y), heights], axis=-1)


def test_a_disc_grows_at_the_cost_of_the_bodies_beside_it() -> None:
    points = column()
    heights = points[:, 2]
    source = heights + slide(discs(0.75, -0.5), points)

    def share(middle: float) -> float:
        """Of 30 mm, what comes from the 6 mm that are disc in the atlas."""
        return float((np.abs(source - middle) < 3).sum() * 0.1 / 30)

    assert share(45) == pytest.approx(0.43, abs=0.01)
    assert share(15) == pytest.approx(0.135, abs=0.01)
    assert (np.diff(source) < 0).all()  # nothing is folded


def test_middles_of_bodies_and_discs_stay_where_they_are() -> None:
    points = column()
    moved = slide(discs(0.75, 0.75), points)
    still = np.isin(np.round(points[:, 2], 1), [60, 45, 30, 15, 0])
    assert still.sum() == 5
    assert np.abs(moved[still]).max() < 0.01
    assert np.abs(moved[(points[:, 2] > 60) | (points[:, 2] < 0)]).max() == 0


@pytest.mark.parametrize("place", [(0.0, 45.0), (120.0, 0.0), (0.0, -130.0)])
def test_arches_and_what_is_far_away_stay_too(place: tuple[float, float]) -> None:
    assert np.abs(slide(discs(0.8, 0.8), column(*place))).max() < 0.02
    assert np.abs(slide(discs(0.8, 0.8), column())).max() > 3


def test_patients_differ_and_the_discs_of_one_are_alike() -> None:
    rng = np.random.default_rng(1)
    drawn = np.stack(
        [draw_discs(rng, atlas_discs(0.2), DiscHeights.ANY).growth for _ in range(200)]
    )
    assert np.abs(drawn).max() <= 0.85
    assert drawn.mean(axis=1).std() > 2 * np.abs(drawn[:, 0] - drawn[:, 1]).mean()


@pytest.mark.parametrize("share", [0.2, 0.35, 0.5])
def test_usual_discs_are_as_high_as_patients_whatever_the_atlas_has(share: float) -> None:
    rng = np.random.default_rng(2)
    points = column()
    found = []
    for _ in range(100):
        drawn = draw_discs(rng, atlas_discs(share), DiscHeights.USUAL)
        source = points[:, 2] + slide(drawn, points)
        found.append((np.abs(source - 45) < 15 * share).sum() * 0.1 / 30)
    assert np.mean(found) == pytest.approx(0.31, abs=0.03)
    assert 0.03 < np.std(found) < 0.08


def test_a_disc_of_unknown_height_keeps_it() -> None:
    drawn = draw_discs(np.random.default_rng(3), atlas_discs(0.0), DiscHeights.USUAL)
    assert not drawn.growth.any()
