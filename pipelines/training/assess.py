"""The pipeline's own inference, and others, on studies whose truth is known."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import highdicom as hd
from torch import nn

from pipelines.errors import Refused
from pipelines.training.case import UNKNOWN, Case, Found
from pipelines.training.figures import Record, Summary
from pipelines.training.metrics import compare, summarise
from pipelines.training.rating import Rating, rate_lesions
from pipelines.training.recipe import Recipe

#: The name under which all structures are summarised together.
ALL_STRUCTURES = "all structures"

#: Case, of which the truth is not looked at -> what is found on the grid of its image.
Method = Callable[[Case], Found]


@dataclass(frozen=True, slots=True, kw_only=True)
class Worst:
    """The study whose mean Dice is lowest, and what was found in it."""

    case: Case
    variant: str
    found: hd.Volume
    dice: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Assessment:
    """What came of running methods over studies."""

    records: tuple[Record, ...]
    studies: int
    slices: int
    seconds: Mapping[str, float]  #: of all studies, by variant
    refused: Mapping[
        str, int
    ]  #: studies that the pipeline declined, by variant; they have no record
    worst: Worst | None
    ratings: tuple[Rating, ...] = ()  #: of each true lesion by each method that gives scores


def methods_of(
    recipe: Recipe, network: nn.Module, *, references: bool = False
) -> dict[str, Method]:
    """Return name -> method: each variant of the pipeline, and the recipe's references if wanted."""
    methods: dict[str, Method] = {
        variant: partial(_segment, recipe, network, variant) for variant in recipe.variants
    }
    if references:
        methods |= {name: partial(_refer, method) for name, method in recipe.references.items()}
    return methods


def _segment(recipe: Recipe, network: nn.Module, variant: str, case: Case) -> Found:
    if recipe.find is not None:
        return recipe.find(network, case, variant)
    return Found(labels=recipe.segment(network, case.image, variant))


def _refer(method: Callable[[hd.Volume], hd.Volume], case: Case) -> Found:
    return Found(labels=method(case.image))


def assess(
    methods: Mapping[str, Method],
    cases: Iterable[Case],
    structures: Mapping[int, str],
    *,
    judged: Sequence[str] = (),
    rated: tuple[int, int] | None = None,
) -> Assessment:
    """Run each method over each study and compare what it found with the truth.

    Parameters
    ----------
    methods
        By the name of the variant.
    cases
        Studies with their truth; taken one at a time.
    structures
        Label value -> name.
    judged
        Variants of which the worst study is wanted.
    rated
        Labels of positive and of negative lesions, where these are rated.
    """
    records: list[Record] = []
    ratings: list[Rating] = []
    seconds, refused = dict.fromkeys(methods, 0.0), dict.fromkeys(methods, 0)
    studies = slices = 0
    worst: Worst | None = None
    for case in cases:
        studies, slices = studies + 1, slices + case.image.shape[0]
        for variant, method in methods.items():
            started = time.monotonic()
            try:
                found = method(case)
            except Refused:
                refused[variant] += 1
                continue
            finally:
                seconds[variant] += time.monotonic() - started
            new = list(_records(case, variant, found.labels, structures))
            records += new
            if rated is not None and found.score is not None:
                ratings += rate_lesions(case, variant, found.score, rated)
            dice = sum(record.figures.dice for record in new) / max(1, len(new))
            if variant in judged and (worst is None or dice < worst.dice):
                worst = Worst(case=case, variant=variant, found=found.labels, dice=dice)
    return Assessment(
        records=tuple(records),
        studies=studies,
        slices=slices,
        seconds=seconds,
        refused=refused,
        worst=worst,
        ratings=tuple(ratings),
    )


def _records(
    case: Case, variant: str, found: hd.Volume, structures: Mapping[int, str]
) -> Iterator[Record]:
    known = case.labels.array != UNKNOWN
    for value, structure in structures.items():
        ours, real = (volume.with_array(volume.array == value) for volume in (found, case.labels))
        yield Record(
            case=case.name,
            group=case.group,
            variant=variant,
            structure=structure,
            figures=compare(ours, real, known),
        )


def summaries_of(records: Sequence[Record]) -> dict[str, Summary]:
    """Return structure -> summary, and one of all structures where there are several."""
    names = list(dict.fromkeys(record.structure for record in records))
    result = {
        name: summarise([r.figures for r in records if r.structure == name]) for name in names
    }
    if len(names) > 1:
        result[ALL_STRUCTURES] = summarise([record.figures for record in records])
    return result
