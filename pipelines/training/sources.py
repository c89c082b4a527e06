"""What a training run learns from: phantoms, or a hospital's own studies."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from hashlib import file_digest
from pathlib import Path
from typing import TypeVar

from pipelines.errors import TrainingError
from pipelines.manifest import read_manifest
from pipelines.training.cache import CropCache
from pipelines.training.case import Case
from pipelines.training.data.dataset import (
    CaseCrops,
    DataSet,
    check_cases,
    describe,
    find_cases,
)
from pipelines.training.data.reference import CaseRef
from pipelines.training.options import Run, TrainOptions
from pipelines.training.recipe import Draw, Recipe
from pipelines.training.split import Split, split_cases

Made = TypeVar("Made")

#: Phantom studies that runs are compared on have these seeds: told apart from those of `evaluate`.
_STUDY_SEED = 2_000_000
#: Crops drawn of a study before another is read: few for validation, which shall see many.
_VALIDATION_CROPS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What a run learns from and is looked at with.

    Attributes
    ----------
    description
        In words; begins with "phantom data" or "own data".
    draw, draw_validation
        Training crops, and crops of other phantoms or other patients.
    crops
        In an epoch.
    reuse
        How often a crop is served before another is drawn.
    studies, study_count
        Whole studies, not trained on, that the finished run is evaluated on.
    identity
        What must be the same for a run to be resumed: hashes, names of cases.
    """

    description: str
    draw: Draw
    draw_validation: Draw
    crops: int
    reuse: int
    studies: Callable[[], Iterable[Case]]
    study_count: int
    identity: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnData:
    """Labelled studies that were checked and split."""

    data: DataSet
    split: Split
    fingerprint: str


def open_own_data(recipe: Recipe, options: TrainOptions, folder: Path) -> OwnData:
    """Find, check and split own studies.

    Raises
    ------
    TrainingError
        Naming the file that is wrong and what to do.
    """
    manifest = read_manifest(recipe.folder)
    data = find_cases(folder, manifest, skip_unknown=options.skip_unknown)
    fingerprint = check_cases(data)
    share = recipe.test_share if options.test_share is None else options.test_share
    patients = len({ref.subject for ref in data.cases})
    # Without cross-validation a fold is set apart all the same, for the choice of the best weights.
    folds = options.folds or max(2, min(recipe.folds, patients - round(share * patients)))
    split = split_cases(data.cases, folds=folds, test_share=share, seed=options.seed)
    return OwnData(data=data, split=split, fingerprint=fingerprint)


def own_source(recipe: Recipe, options: TrainOptions, own: OwnData, run: Run) -> Source:
    """Return own studies as what a run learns from; its fold is for validation."""
    fold = run.fold or 0
    training, validation = own.split.training(fold), own.split.folds[fold]
    draw: Draw
    draw_validation: Draw
    if options.cache is not None:
        draw, draw_validation = _cached_crops(
            recipe, own, (training, validation), options.cache, options
        )
    else:
        draw = CaseCrops(training, recipe.crop, per_case=recipe.crops_per_case)
        draw_validation = CaseCrops(validation, recipe.crop, per_case=_VALIDATION_CROPS)
    return Source(
        description=describe(own.data, training),
        draw=draw,
        draw_validation=draw_validation,
        crops=len(training) * recipe.crops_per_case,
        reuse=1,
        studies=lambda: (recipe.judged(ref.load()) for ref in validation),
        study_count=len(validation),
        identity={
            "fingerprint": own.fingerprint,
            "training": [ref.name for ref in training],
            "validation": [ref.name for ref in validation],
            "test": [ref.name for ref in own.split.test],
        },
    )


def _cached_crops(
    recipe: Recipe,
    own: OwnData,
    parts: Sequence[Sequence[CaseRef]],
    folder: Path,
    options: TrainOptions,
) -> list[Draw]:
    """Draw crops of every study once, and return what draws those of each part of the studies."""
    cases, share = own.data.cases, recipe.crops_per_case
    cache = CropCache(folder=folder, crops=share * len(cases), seed=options.seed)

    @lru_cache(maxsize=1)
    def load(index: int) -> Case:
        return cases[index].load()

    def draw_of(number: int) -> Draw:
        return partial(recipe.crop, load(number // share))

    drawn = {"pipeline": recipe.pipeline, **_stage_of(recipe), "data": own.fingerprint}
    cache.fill(draw_of, drawn, workers=options.workers)
    first = {ref.name: share * index for index, ref in enumerate(cases)}
    return [
        cache.draw_from([first[ref.name] + number for ref in part for number in range(share)])
        for part in parts
    ]


def phantom_source(recipe: Recipe, options: TrainOptions, run: Run, *, compared: bool) -> Source:
    """Return phantoms as what a run learns from; `compared`: on whole studies, with other runs."""
    draw = draw_validation = draw_one = from_atlas(recipe.phantom_crops, options.atlas)
    crops, reuse = options.phantoms or recipe.phantoms, run.epochs
    identity = {"atlas": _hashes(options.atlas)}
    if options.cache is not None:
        cache = CropCache(folder=options.cache, crops=crops, seed=options.seed)
        drawn = {"pipeline": recipe.pipeline, **_stage_of(recipe), **identity}
        cache.fill(lambda _number: draw_one, drawn, workers=options.workers)
        draw, draw_validation, reuse = cache.draw, cache.draw_validation, 1
    seeds = [_STUDY_SEED + 1000 * (run.fold or 0) + number for number in range(options.studies)]

    # Before learning: what is missing for the comparison shall not be found out after it.
    study = from_atlas(recipe.phantom_study, options.atlas) if compared else None

    def studies() -> Iterable[Case]:
        return (study(seed) for seed in seeds) if study else ()

    bodies = "label maps" if options.atlas else "procedural bodies"
    return Source(
        description=f"phantom data: random patients made of {bodies}",
        draw=draw,
        draw_validation=draw_validation,
        crops=crops,
        reuse=reuse,
        studies=studies,
        study_count=len(seeds) if compared else 0,
        identity=identity,
    )


def from_atlas(make: Callable[[Path | None], Made], folder: Path | None) -> Made:
    """Give a recipe the folder of label maps, or None.

    Raises
    ------
    TrainingError
        `training-atlas`, when the folder lacks a file that the recipe needs.
    """
    try:
        return make(folder)
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        if folder is None:
            raise
        wrong = getattr(error, "filename", None) or str(error).strip().splitlines()[-1]
        raise TrainingError(
            f"{folder}: {wrong} cannot be read; give the folder of the label maps that the pipeline is trained on, or "
            "leave out --atlas.",
            code="training-atlas",
        ) from error


def _stage_of(recipe: Recipe) -> dict[str, str]:
    """Crops of one stage are none of another; a teacher of other weights teaches otherwise."""
    if not recipe.stage:
        return {}
    return {"stage": recipe.stage, "teacher": _hash(recipe.teacher) if recipe.teacher else ""}


def _hashes(folder: Path | None) -> Mapping[str, str]:
    """File name -> SHA-256 of the label maps."""
    files: Sequence[Path] = sorted(folder.glob("*.nii*")) if folder else ()
    return {path.name: _hash(path) for path in files}


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()
