"""Areas under ROC curves and DeLong's test, against values worked out by hand and by their definition."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from highdicom import Volume
from scipy import stats

from pipelines.training.case import Case
from pipelines.training.delong import areas
from pipelines.training.rating import Rating, compare_ratings, rate_lesions

TRUTH = [True, True, False, False]


def test_an_area_and_its_interval_are_those_worked_out_by_hand() -> None:
    """3 and 5 against 1 and 4: three of four pairs are right; both components have the variance 1/8."""
    found, tests = areas({"one": [3, 5, 1, 4]}, TRUTH)
    one = found["one"]
    assert one.auc == 0.75
    width = 1.959964 * math.sqrt(0.125 / 2 + 0.125 / 2)
    assert one.lower == pytest.approx(0.75 - width, abs=1e-6)
    assert one.upper == 1.0
    assert (one.positives, one.negatives) == (2, 2)
    assert tests == ()


def test_equal_scores_count_half() -> None:
    found, _ = areas({"one": [1, 1, 1, 1], "two": [2, 1, 1, 0]}, TRUTH)
    assert found["one"].auc == 0.5
    assert found["two"].auc == pytest.approx(3.5 / 4)


def test_covariance_is_that_of_the_definition() -> None:
    """DeLong's placement values by pairs, without ranks."""
    rng = np.random.default_rng(0)
    truth = rng.random(60) < 0.4
    shared = rng.normal(size=60) + truth
    scores = [np.round(shared + rng.normal(size=60), 1), np.round(shared, 1) + rng.normal(size=60)]
    placements = []
    for values in scores:
        hits, misses = values[truth], values[~truth]
        wins = np.array([[1.0 if h > m else 0.5 if h == m else 0.0 for m in misses] for h in hits])
        placements.append((wins.mean(axis=1), wins.mean(axis=0)))
    variance = sum(
        np.cov([placements[0][part], placements[1][part]]) / truth_count
        for part, truth_count in ((0, truth.sum()), (1, (~truth).sum()))
    )
    apart = placements[0][0].mean() - placements[1][0].mean()
    z = apart / math.sqrt(variance[0, 0] + variance[1, 1] - 2 * variance[0, 1])

    found, (test,) = areas({"one": list(scores[0]), "two": list(scores[1])}, list(truth))
    assert found["one"].auc == pytest.approx(placements[0][0].mean())
    assert test.auc == pytest.approx(apart)
    assert test.z == pytest.approx(z)
    assert test.p == pytest.approx(2 * stats.norm.sf(abs(z)))
    agreed = stats.mannwhitneyu(scores[0][truth], scores[0][~truth]).statistic
    assert found["one"].auc == pytest.approx(agreed / (truth.sum() * (~truth).sum()))


def test_methods_that_do_not_differ_are_found_to_differ_as_often_as_they_should() -> None:
    rng = np.random.default_rng(1)
    truth = [True] * 30 + [False] * 30
    small = 0
    for _ in range(300):
        shared = rng.normal(size=60) + np.array(truth)
        both = {name: list(shared + rng.normal(size=60)) for name in ("one", "two")}
        small += areas(both, truth)[1][0].p < 0.1
    assert 0.03 < small / 300 < 0.16


def test_what_cannot_be_said_is_not_a_number() -> None:
    found, _ = areas({"one": [1, 2], "two": [2, 1]}, [True, True])
    assert math.isnan(found["one"].auc)
    found, (test,) = areas({"one": [2, 1], "two": [1, 2]}, [True, False])
    assert (found["one"].auc, found["two"].auc) == (1, 0)
    assert math.isnan(test.p)
    _, (same,) = areas({"one": [3, 4, 1, 2], "two": [7, 9, 1, 3]}, TRUTH)
    assert (same.auc, same.z, same.p) == (0, 0, 1)


# -- lesions ------------------------------------------------------------------------------------


def _case() -> Case:
    labels = np.zeros((6, 8, 8), np.uint8)
    labels[0:2, 0:2, 0:2] = 1
    labels[4:6, 0:2, 0:2] = 1
    labels[0:2, 5:7, 5:7] = 2
    labels[5, 7, 7] = 2  # one voxel: the edge of one that the grid has lost
    volume = Volume(array=labels, affine=np.eye(4), coordinate_system="PATIENT")
    return Case(name="a", image=volume, labels=volume)


def test_each_connected_lesion_is_rated_by_the_mean_within_it() -> None:
    case = _case()
    score = np.zeros(case.labels.shape, np.float32)
    score[0:2, 0:2, 0:2], score[0:2, 5:7, 5] = 0.75, 0.5
    rated = rate_lesions(case, "ours", case.labels.with_array(score), (1, 2))
    assert [(one.lesion, one.positive, one.score) for one in rated] == [
        (1, True, 0.75),
        (2, True, 0.0),
        (3, False, 0.25),
    ]


def test_only_lesions_that_every_variant_rated_are_compared() -> None:
    ratings = [
        Rating(case=case, variant=variant, lesion=lesion, positive=lesion < 3, score=lesion)
        for case, variant, lesion in product("ab", ("one", "two"), (1, 2, 3))
        if (case, variant) != ("b", "two")
    ]
    found, tests = compare_ratings(ratings)
    assert found["one"].positives == 2
    assert found["one"].negatives == 1
    assert found["one"].auc == 0
    assert len(tests) == 1
    assert compare_ratings([]) == ({}, ())
