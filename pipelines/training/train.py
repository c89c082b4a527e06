"""Training of any pipeline that declares a recipe: one run, cross-validation, or a sweep of widths and epochs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, lru_cache, partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import nn

from pipelines.training.assess import assess, methods_of
from pipelines.training.case import Case
from pipelines.training.data.dataset import describe
from pipelines.training.export import export_weights, put_weights
from pipelines.training.figures import Record
from pipelines.training.loop import LoopOptions, LoopResult, Parts, run_loop
from pipelines.training.options import (
    WEIGHTS_NAME,
    Run,
    RunReport,
    TrainOptions,
    TrainReport,
    write_report,
)
from pipelines.training.progress import counted, watched
from pipelines.training.recipe import Recipe, Sample
from pipelines.training.record import save_record
from pipelines.training.report import write_training_table
from pipelines.training.sources import Source, open_own_data, own_source, phantom_source
from pipelines.training.stream import CropStream, StreamOptions, batches
from pipelines.training.sweep import cross_validation_of, read_done, sweep_of, write_done

#: Fewer, and the choice of the best weights is a matter of luck.
_VALIDATION_SAMPLES = 64
#: Told apart from the seeds of training.
_VALIDATION_SEED = 7_919


def train(recipe: Recipe, options: TrainOptions) -> TrainReport:
    """Train the network, export its weights, write the report; resume where a run stopped.

    Parameters
    ----------
    recipe
        The pipeline's.
    options
        Data, length, folder.

    Raises
    ------
    TrainingError
        `training-disk`, `training-checkpoint`, `training-other-run`, `training-diverged`, or what is wrong with the
        data.
    WeightsError
        When `init` is no file of weights of this network.
    """
    plan = plan_runs(recipe, options)
    own = open_own_data(recipe, options, options.data) if options.data else None
    several = len(plan) > 1
    if several:
        recipe = replace(recipe, phantom_study=_made_once(recipe.phantom_study, options.studies))
    reports: list[RunReport] = []
    description = describe(own.data, own.data.cases) if own else ""
    for run in plan:
        source = (
            own_source(recipe, options, own, run)
            if own
            else phantom_source(recipe, options, run, compared=several)
        )
        description = description or source.description
        reports.append(_train_one(recipe, source, run, options, several=several))
    report = TrainReport(
        pipeline=recipe.pipeline,
        data=description,
        runs=tuple(reports),
        sweep=sweep_of(reports) if several else (),
        cross_validation=cross_validation_of(reports),
    )
    write_report(report, options.out)
    write_training_table(report, options.out)
    return report


def _made_once(
    make: Callable[[Path | None], Callable[[int], Case]], studies: int
) -> Callable[[Path | None], Callable[[int], Case]]:
    """Runs are compared on the same studies, which take longer to make than to segment: keep the last so many."""
    return cache(lambda folder: lru_cache(maxsize=studies)(make(folder)))


def plan_runs(recipe: Recipe, options: TrainOptions) -> tuple[Run, ...]:
    """Return the runs that the options ask for: each width, number of epochs, fold and repeat with each other."""
    return tuple(
        Run(
            name=_name_of(options, widths, epochs, fold, seed),
            widths=widths,
            epochs=epochs,
            fold=fold,
            seed=seed,
        )
        for widths in options.widths or (None,)
        for epochs in options.epochs or (recipe.epochs,)
        for fold in _folds(options)
        for seed in range(options.seed, options.seed + options.repeats)
    )


def _folds(options: TrainOptions) -> Sequence[int | None]:
    if options.folds is None:
        return (None,)
    return range(options.folds) if options.fold is None else (options.fold,)


def _name_of(
    options: TrainOptions, widths: Sequence[int] | None, epochs: int, fold: int | None, seed: int
) -> str:
    parts = (
        "widths_" + "_".join(map(str, widths or ("default",))) if len(options.widths) > 1 else "",
        f"epochs_{epochs}" if len(options.epochs) > 1 else "",
        f"fold_{fold}" if fold is not None else "",
        f"seed_{seed}" if options.repeats > 1 else "",
    )
    return "-".join(part for part in parts if part)


def _train_one(
    recipe: Recipe, source: Source, run: Run, options: TrainOptions, *, several: bool
) -> RunReport:
    folder = options.out / run.name
    save_record(recipe, source, run, options)
    loop_options = _loop_options(recipe, source, run, options)
    done = read_done(folder, loop_options.steps) if several else None
    if done is not None:
        return done
    torch.manual_seed(run.seed)
    network = recipe.make_network(run.widths)
    if options.init is not None:
        put_weights(network, options.init)
    with watched(run.name or recipe.pipeline, folder) as watch:
        parts = Parts(
            network=network,
            loss=recipe.make_loss(),
            batches=partial(_from_step, recipe, source, run, options),
            validate=_validation(recipe, source, run, options),
            watch=watch,
            schedule=recipe.schedule,
        )
        result = run_loop(parts, loop_options)
    if recipe.finish is not None:
        recipe.finish(network)
    weights = folder / WEIGHTS_NAME
    sha256 = export_weights(network, weights, pipeline=recipe.pipeline, widths=run.widths)
    records = _figures(recipe, source, run, network) if several or options.data else ()
    size = sum(weight.numel() for weight in network.parameters())
    report = _report(run, result, (weights, sha256, size), records)
    write_done(report, folder)
    return report


def _figures(recipe: Recipe, source: Source, run: Run, network: nn.Module) -> tuple[Record, ...]:
    label = f"evaluating {run.name or recipe.pipeline}"
    shown = counted(source.studies(), label, source.study_count)
    return assess(methods_of(recipe, network), shown, recipe.structures).records


def _loop_options(recipe: Recipe, source: Source, run: Run, options: TrainOptions) -> LoopOptions:
    steps = options.steps
    if steps is None and options.minutes is None:
        steps = max(1, source.crops * run.epochs // (options.batch_size or recipe.batch_size))
    return LoopOptions(
        steps=steps,
        minutes=options.minutes,
        learning_rate=options.learning_rate or recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        average=options.average,
        device=options.device,
        fast=options.fast,
        folder=options.out / run.name,
    )


def _from_step(
    recipe: Recipe, source: Source, run: Run, options: TrainOptions, first: int
) -> torch.utils.data.DataLoader[Sample]:
    how = StreamOptions(
        batch_size=options.batch_size or recipe.batch_size,
        workers=options.workers,
        # More would be rendered than the run shows its network.
        pool=min(recipe.pool, source.crops),
        reuse=source.reuse,
        # A resumed run goes on with other crops, not with the first ones again.
        seed=(run.seed, run.fold or 0, first),
    )
    return batches(source.draw, recipe.prepare, how)


def _validation(
    recipe: Recipe, source: Source, run: Run, options: TrainOptions
) -> Callable[[nn.Module], float]:
    """Return what gives a network's loss on the same few batches each time."""
    size = options.batch_size or recipe.batch_size
    how = StreamOptions(pool=1, reuse=1, seed=(_VALIDATION_SEED, run.seed, run.fold or 0))
    stream = iter(CropStream(source.draw_validation, recipe.prepare, how))
    # A trial on a handful of phantoms would wait for these much longer than it learns.
    count = max(1, min(_VALIDATION_SAMPLES, source.crops) // size)
    # Rendering takes its time: it is shown.
    shown = counted(range(count), "drawing validation samples", count)
    samples = [list(islice(stream, size)) for _ in shown]
    fixed = [
        (torch.stack([image for image, _ in batch]), torch.stack([truth for _, truth in batch]))
        for batch in samples
    ]
    loss = recipe.make_loss()

    def validate(network: nn.Module) -> float:
        device = next(network.parameters()).device
        with torch.inference_mode():
            losses = [
                float(loss(network(image.to(device)).float(), truth.to(device)))
                for image, truth in fixed
            ]
        return float(np.mean(losses))

    return validate


def _report(
    run: Run, result: LoopResult, weights: tuple[Path, str, int], records: tuple[Record, ...]
) -> RunReport:
    tenth = max(1, len(result.losses) // 10)
    return RunReport(
        run=run,
        steps=result.last_step,
        resumed_from=result.first_step,
        first_loss=_mean(result.losses[:tenth]),
        last_loss=_mean(result.losses[-tenth:]),
        validation_loss=result.validation,
        best_step=result.best_step,
        seconds=result.seconds,
        parameters=weights[2],
        weights=weights[0],
        sha256=weights[1],
        records=records,
    )


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")
