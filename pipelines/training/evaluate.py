"""Evaluation of any pipeline that declares a recipe: its own inference on studies whose truth is known."""

from __future__ import annotations

import hashlib
import resource
from collections.abc import Iterable

import torch

from pipelines.errors import TrainingError
from pipelines.manifest import read_manifest
from pipelines.training.assess import Assessment, assess, methods_of, summaries_of
from pipelines.training.case import Case
from pipelines.training.data.dataset import describe, find_cases
from pipelines.training.export import load_weights
from pipelines.training.options import EvaluateOptions, EvaluateReport, WorstStudy, write_report
from pipelines.training.plots import draw_plots
from pipelines.training.progress import counted
from pipelines.training.rating import compare_ratings
from pipelines.training.recipe import Recipe
from pipelines.training.record import held_out_names
from pipelines.training.report import write_table
from pipelines.training.sources import from_atlas


def evaluate(recipe: Recipe, options: EvaluateOptions) -> EvaluateReport:
    """Run the pipeline's inference over studies that were not in training; write report, table and plots.

    Raises
    ------
    WeightsError
        When the weights are of another network.
    TrainingError
        What is wrong with the data, naming the file; `training-disk`.
    """
    network = load_weights(recipe, options.weights, options.device)
    cases, count, description = _studies(recipe, options)
    methods = methods_of(recipe, network, references=options.references)
    shown = counted(cases, f"evaluating {recipe.pipeline}", count)
    found = assess(methods, shown, recipe.structures, judged=recipe.variants, rated=recipe.rated)
    report = _report(recipe, options, found, description)
    write_report(report, options.out)
    write_table(recipe, report, options.out)
    draw_plots(recipe, report, found.worst, options.out)
    return report


def _studies(recipe: Recipe, options: EvaluateOptions) -> tuple[Iterable[Case], int, str]:
    """Studies, how many, and which in words."""
    if options.data is None:
        study = from_atlas(recipe.phantom_study, options.atlas)
        phantoms = (study(options.seed + number) for number in range(options.phantoms))
        bodies = recipe.describe_phantoms(options.atlas)
        return phantoms, options.phantoms, f"phantom data: {options.phantoms} studies of {bodies}"
    manifest = read_manifest(recipe.folder)
    data = find_cases(options.data, manifest, skip_unknown=options.skip_unknown)
    refs, held_out = data.cases, "; whether one of them was in training is not known"
    if options.run is not None:
        names = held_out_names(options.run)
        refs = tuple(ref for ref in data.cases if ref.name in names)
        held_out = "; held out of training"
        if len(refs) != len(names):
            raise TrainingError(
                f"{options.data} has {len(refs)} of the {len(names)} studies that were held out of the run in "
                f"{options.run}; give the folder that it was trained on.",
                code="training-other-run",
            )
    return (recipe.judged(ref.load()) for ref in refs), len(refs), describe(data, refs) + held_out


def _report(
    recipe: Recipe, options: EvaluateOptions, found: Assessment, description: str
) -> EvaluateReport:
    by_variant = {
        variant: [record for record in found.records if record.variant == variant]
        for variant in found.seconds
    }
    groups = sorted({record.group for record in found.records} - {""})
    with options.weights.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    worst = found.worst
    areas, differences = compare_ratings(found.ratings)
    gpu = torch.device(options.device).type == "cuda"
    return EvaluateReport(
        pipeline=recipe.pipeline,
        data=description,
        studies=found.studies,
        weights_sha256=sha256,
        summaries={variant: summaries_of(records) for variant, records in by_variant.items()},
        groups={
            variant: {
                group: summaries_of([record for record in records if record.group == group])
                for group in groups
            }
            for variant, records in by_variant.items()
        },
        refused=found.refused,
        seconds_per_study={
            variant: spent / max(1, found.studies) for variant, spent in found.seconds.items()
        },
        seconds_per_slice={
            variant: spent / max(1, found.slices) for variant, spent in found.seconds.items()
        },
        # ru_maxrss is in kilobytes on Linux.
        peak_memory_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        peak_gpu_memory_mb=torch.cuda.max_memory_allocated() / 2**20 if gpu else None,
        device=options.device,
        worst=WorstStudy(case=worst.case.name, variant=worst.variant, dice=worst.dice)
        if worst
        else None,
        records=found.records,
        areas=areas,
        area_differences=differences,
    )
