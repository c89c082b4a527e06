"""Which studies are learned from, which are looked at meanwhile, and which are kept for the end: by patient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.errors import TrainingError
from pipelines.training.data.reference import CaseRef


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Studies of a data set, each in one place; all studies of a patient are in the same."""

    test: tuple[CaseRef, ...]
    folds: tuple[tuple[CaseRef, ...], ...]

    def training(self, fold: int) -> tuple[CaseRef, ...]:
        """Return what is learned from when `fold` is for validation."""
        return tuple(ref for n, refs in enumerate(self.folds) if n != fold for ref in refs)


def split_cases(cases: Sequence[CaseRef], *, folds: int, test_share: float, seed: int) -> Split:
    """Deal patients at random; each group (e.g. sex) is spread evenly.

    Parameters
    ----------
    cases
        In a fixed order.
    folds
        For cross-validation; two at least.
    test_share
        Of the patients, rounded.
    seed
        The same seed, the same split.

    Raises
    ------
    TrainingError
        `training-too-few`, when there are fewer patients than folds.
    """
    groups = {ref.subject: ref.group for ref in cases}
    rng = np.random.default_rng(seed)
    shuffled = [list(groups)[index] for index in rng.permutation(len(groups))]
    tested = _spread(shuffled, groups, round(test_share * len(shuffled)))
    rest = sorted((s for s in shuffled if s not in tested), key=lambda s: groups[s])
    if len(rest) < folds:
        counted = "1 patient" if len(groups) == 1 else f"{len(groups)} patients"
        raise TrainingError(
            f"{counted} (by Patient ID), {len(rest)} besides the test share, too few for {folds} parts: label studies "
            "of more patients, or give fewer --folds or a smaller --test-share.",
            code="training-too-few",
        )
    fold_of = {subject: number % folds for number, subject in enumerate(rest)}
    return Split(
        test=tuple(ref for ref in cases if ref.subject in tested),
        folds=tuple(
            tuple(ref for ref in cases if fold_of.get(ref.subject) == fold) for fold in range(folds)
        ),
    )


def _spread(subjects: Sequence[str], groups: dict[str, str], count: int) -> set[str]:
    """Take `count` subjects, of each group about as many as its share."""
    by_group = sorted(subjects, key=lambda subject: groups[subject])
    places = np.linspace(0, len(by_group), count, endpoint=False) + len(by_group) / max(
        1, 2 * count
    )
    return {by_group[int(place)] for place in places}
