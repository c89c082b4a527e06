"""`osteonode pipelines train` and `evaluate`: a pipeline's weights, and figures about them."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, cast

import typer

from node.cli.common import AsJson, read_config
from node.cli.output import say, show_fields, show_json, show_rows
from pipelines.errors import ManifestError

if TYPE_CHECKING:
    from pipelines.registry import PipelineEntry
    from pipelines.training.options import EvaluateReport, TrainReport

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the pipeline.")]
Atlas = Annotated[
    Path | None,
    typer.Option(
        exists=True, file_okay=False, help="Folder of label maps; procedural bodies when not given."
    ),
]
Device = Annotated[str, typer.Option(help="cpu, cuda:0 ...; the first GPU when there is one.")]


def train(
    ctx: typer.Context,
    name: Name,
    out: Annotated[
        Path, typer.Option(help="Folder of checkpoint, weights and report; resumed if begun.")
    ],
    phantoms: Annotated[int, typer.Option(min=1, help="Phantoms rendered in all.")] = 16_000,
    batch_size: Annotated[int, typer.Option(min=1, help="Phantoms a step.")] = 8,
    learning_rate: Annotated[float, typer.Option(min=1e-7, help="At the beginning.")] = 3e-3,
    workers: Annotated[int, typer.Option(min=0, help="Processes that render.")] = 1,
    atlas: Atlas = None,
    device: Device = "",
    seed: Annotated[int, typer.Option(min=0, help="The same seed, the same phantoms.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Train a pipeline on phantoms. Weights in use change only when you put the new ones beside the manifest.

    Example: `osteonode pipelines train ct_skeleton --out /data/training --phantoms 16000`
    """
    from pipelines.performing import choose_device
    from pipelines.training.options import TrainOptions

    module = _training_of(ctx, name)[1]
    report = cast(
        "TrainReport",
        module.train(
            TrainOptions(
                phantoms=phantoms,
                out=out,
                atlas=atlas,
                batch_size=batch_size,
                learning_rate=learning_rate,
                workers=workers,
                device=choose_device(device),
                seed=seed,
            )
        ),
    )
    if as_json:
        show_json(_jsonable(report))
        return
    show_fields(_jsonable(report))
    print(
        "To use these weights, copy the file beside the manifest and write its SHA-256 into pipeline.toml."
    )


def evaluate(
    ctx: typer.Context,
    name: Name,
    out: Annotated[Path, typer.Option(help="Folder of the report.")],
    phantoms: Annotated[
        int, typer.Option(min=1, help="Phantom studies, none of them from training.")
    ] = 12,
    weights: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Weights; those in use when not given."),
    ] = None,
    atlas: Atlas = None,
    device: Device = "",
    seed: Annotated[int, typer.Option(min=0, help="The same seed, the same phantoms.")] = 1_000_000,
    as_json: AsJson = False,
) -> None:
    """Figures of a set of weights on phantoms that were not in training. They are phantom figures, not clinical ones.

    Example: `osteonode pipelines evaluate ct_skeleton --out /data/evaluation`
    """
    from pipelines.performing import choose_device
    from pipelines.registry import check_weights
    from pipelines.training.options import EvaluateOptions

    entry, module = _training_of(ctx, name)
    if weights is None:
        check_weights(entry)
        weights = entry.weights
    if weights is None:
        raise typer.BadParameter(f"pipeline {name} has no weights; give --weights.")
    report = cast(
        "EvaluateReport",
        module.evaluate(
            EvaluateOptions(
                phantoms=phantoms,
                out=out,
                weights=weights,
                atlas=atlas,
                device=choose_device(device),
                seed=seed,
            )
        ),
    )
    if as_json:
        show_json(_jsonable(report))
        return
    print(f"{report.studies} studies: {report.data}. {report.seconds_per_slice:.3f} s a slice.")
    for variant, figures in report.figures.items():
        say(variant)
        show_rows(
            [
                {"figure": figure, "mean": spread.mean, "sd": spread.sd, "worst": spread.worst}
                for figure, spread in figures.items()
            ]
        )
        show_fields(report.agreement.get(variant, {}))


def _training_of(ctx: typer.Context, name: str) -> tuple[PipelineEntry, ModuleType]:
    """A pipeline's module of `train` and `evaluate`.

    Raises
    ------
    ManifestError
        When there is no such pipeline, or it cannot be trained here.
    """
    from node import logs
    from pipelines.registry import BUILT_IN, find_pipelines

    config = read_config(ctx)
    # It takes hours: progress is wanted.
    logs.configure("info", config.node.log_format)
    entry = find_pipelines(config.pipelines.folders).get(name)
    if entry.folder.parent != BUILT_IN or not (entry.folder / "training.py").is_file():
        raise ManifestError(f"Pipeline {name} has no training of its own.", code="no-training")
    return entry, importlib.import_module(f"pipelines.{name}.training")


def _jsonable(report: TrainReport | EvaluateReport) -> Mapping[str, object]:
    from dataclasses import asdict

    return {
        key: str(value) if isinstance(value, Path) else value
        for key, value in asdict(report).items()
    }
