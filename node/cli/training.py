"""`osteonode pipelines train`, `evaluate` and `install`: a pipeline's weights, and figures about them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from node.cli.common import AsJson, make_folder, read_config
from node.cli.output import show_json, show_rows
from pipelines.errors import ManifestError

if TYPE_CHECKING:
    from pipelines.registry import PipelineEntry
    from pipelines.training.recipe import Recipe

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the pipeline.")]
Atlas = Annotated[
    Path | None,
    typer.Option(
        exists=True, file_okay=False, help="Folder of label maps; procedural bodies when not given."
    ),
]
Device = Annotated[str, typer.Option(help="cpu, cuda:0 ...; the first GPU when there is one.")]


Data = Annotated[
    Path | None,
    typer.Option(
        exists=True,
        file_okay=False,
        help="Folder of own labelled studies: DICOM series with SEG, or NIfTI pairs; phantoms when not given.",
    ),
]
SkipUnknown = Annotated[
    bool, typer.Option("--skip-unknown", help="Leave out labels that the pipeline does not have.")
]


def train(
    ctx: typer.Context,
    name: Name,
    out: Annotated[
        Path, typer.Option(help="Folder of checkpoint, weights and report; resumed if begun.")
    ],
    data: Data = None,
    phantoms: Annotated[
        int | None,
        typer.Option(min=1, help="Phantoms rendered in all; the recipe's when not given."),
    ] = None,
    atlas: Atlas = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            file_okay=False,
            help="Folder in which crops of phantoms or studies are drawn once, before learning; runs may share it.",
        ),
    ] = None,
    epochs: Annotated[
        list[int] | None,
        typer.Option(min=1, help="How often each phantom or crop is seen; repeat it for a sweep."),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps, instead of epochs.")] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0.01, help="How long to learn, instead of epochs.")
    ] = None,
    widths: Annotated[
        list[str] | None,
        typer.Option(help="Channels of the network's levels, as 16,32,64; repeat it for a sweep."),
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Runs of each kind, with other seeds.")] = 1,
    folds: Annotated[
        int | None, typer.Option(min=2, help="Cross-validation of this many parts.")
    ] = None,
    fold: Annotated[str, typer.Option(help="One part of --folds, from 0, or all.")] = "all",
    test_share: Annotated[
        float | None, typer.Option(min=0, max=0.9, help="Of own patients, kept out of training.")
    ] = None,
    studies: Annotated[
        int, typer.Option(min=1, help="Phantom studies each of several runs is evaluated on.")
    ] = 4,
    init: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Weights to start from.")
    ] = None,
    stage: Annotated[
        str,
        typer.Option(
            help="Which network, of a pipeline that trains several one after the other; --init carries the others."
        ),
    ] = "",
    skip_unknown: SkipUnknown = False,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Samples a step.")] = None,
    learning_rate: Annotated[float | None, typer.Option(min=1e-7, help="The highest.")] = None,
    average: Annotated[
        float, typer.Option(min=0, max=0.99999, help="Moving average of the weights; 0: none.")
    ] = 0.999,
    workers: Annotated[int, typer.Option(min=0, help="Processes that make samples.")] = 1,
    device: Device = "",
    fast: Annotated[
        bool,
        typer.Option(
            "--fast",
            help="Compile the network (on a CPU needs g++), and use half precision where a CPU has it.",
        ),
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="The same seed, the same run.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Train a pipeline on your own labelled studies, or on phantoms. Weights in use change only by `install`.

    Given again with the same folder it goes on where it was interrupted.

    Example: `osteonode pipelines train ct_skeleton --data /data/labelled --out /data/training`
    """
    from pipelines.performing import choose_device
    from pipelines.training.options import TrainOptions, plain
    from pipelines.training.train import train as train_recipe

    _demand_one_of(data=data, phantoms=phantoms)
    _demand_one_of(data=data, atlas=atlas)
    _demand_one_of(epochs=epochs, steps=steps, minutes=minutes)
    make_folder(out)
    options = TrainOptions(
        out=out,
        data=data,
        phantoms=phantoms,
        atlas=atlas,
        cache=cache,
        epochs=tuple(epochs or ()),
        steps=steps,
        minutes=minutes,
        widths=tuple(map(_parse_widths, widths or ())),
        repeats=repeats,
        folds=folds,
        fold=_parse_fold(fold, folds),
        test_share=test_share,
        studies=studies,
        init=init,
        skip_unknown=skip_unknown,
        batch_size=batch_size,
        learning_rate=learning_rate,
        average=average,
        workers=workers,
        device=choose_device(device),
        fast=fast,
        seed=seed,
    )
    recipe = _recipe_of(ctx, name)[1].of_stage(stage, init)
    try:
        report = train_recipe(recipe, options)
    except KeyboardInterrupt:
        typer.echo(f"Interrupted. The same command goes on from the checkpoint in {out}.", err=True)
        raise typer.Exit(130) from None
    if as_json:
        show_json(plain(report))
        return
    rows = [
        {
            "run": run.run.name,
            "steps": run.steps,
            "resumed from": run.resumed_from,
            "loss": run.last_loss,
            "validation loss": run.validation_loss,
            "minutes": run.seconds / 60,
            "weights": run.weights,
        }
        for run in report.runs
    ]
    show_rows([plain(row) for row in rows])
    print(f"Given {report.data}. Report: {out / 'report.md'}; what was held out: run.json.")
    print(f"Next: osteonode pipelines evaluate {name} --weights FILE, then install.")


def evaluate(
    ctx: typer.Context,
    name: Name,
    out: Annotated[Path, typer.Option(help="Folder of report, table and pictures.")],
    data: Data = None,
    run: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help="Folder of the training run: of --data, only what it held out.",
        ),
    ] = None,
    phantoms: Annotated[
        int | None, typer.Option(min=1, help="Phantom studies, none of them from training; 12.")
    ] = None,
    atlas: Atlas = None,
    weights: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Weights; those in use when not given."),
    ] = None,
    references: Annotated[
        bool, typer.Option("--references", help="Also simple methods, to compare with.")
    ] = False,
    card: Annotated[
        bool, typer.Option("--card", help="Put the table into the pipeline's model card.")
    ] = False,
    skip_unknown: SkipUnknown = False,
    device: Device = "",
    seed: Annotated[int, typer.Option(min=0, help="The same seed, the same phantoms.")] = 1_000_000,
    as_json: AsJson = False,
) -> None:
    """Figures of a set of weights on studies whose truth is known: your own, or phantoms that were not in training.

    Example: `osteonode pipelines evaluate ct_skeleton --data /data/labelled --run /data/training --out /data/figures`
    """
    from pipelines.performing import choose_device
    from pipelines.training.evaluate import evaluate as evaluate_recipe
    from pipelines.training.options import EvaluateOptions, plain
    from pipelines.training.report import TABLE_NAME, put_into_card

    _demand_one_of(data=data, phantoms=phantoms)
    _demand_one_of(data=data, atlas=atlas)
    if run is not None and data is None:
        raise typer.BadParameter("--run names what was held out of --data; give both.")
    entry, recipe = _recipe_of(ctx, name)
    make_folder(out)
    options = EvaluateOptions(
        out=out,
        weights=weights or _weights_in_use(entry),
        data=data,
        run=run,
        phantoms=phantoms or 12,
        atlas=atlas,
        references=references,
        skip_unknown=skip_unknown,
        device=choose_device(device),
        seed=seed,
    )
    report = evaluate_recipe(recipe, options)
    table = (out / TABLE_NAME).read_text("utf-8")
    if card:
        put_into_card(table, entry.folder / "README.md")
    if as_json:
        show_json(plain(report))
        return
    print(table)
    print(
        f"Table: {out / TABLE_NAME}; figures of each study: {out / 'report.json'}; pictures beside them."
    )


def install(
    ctx: typer.Context,
    name: Name,
    weights: Annotated[
        Path, typer.Option(exists=True, dir_okay=False, help="File that `train` wrote.")
    ],
    version: Annotated[
        str, typer.Option(metavar="X.Y.Z", help="The pipeline's next version; results carry it.")
    ],
) -> None:
    """Put new weights to use: copied beside the manifest, their SHA-256 and the version written into it.

    Example: `osteonode pipelines install ct_skeleton --weights /data/training/weights.safetensors --version 1.1.0`
    """
    from pipelines.training.install import install_weights

    entry, recipe = _recipe_of(ctx, name)
    manifest = install_weights(recipe, entry.folder, weights, version)
    print(f"{name} is version {manifest.version} now. Restart the node; workers load it then.")


def _demand_one_of(**options: object) -> None:
    """Of some options at most one may be given.

    Raises
    ------
    typer.BadParameter
    """
    given = [f"--{name}" for name, value in options.items() if value]
    if len(given) > 1:
        raise typer.BadParameter(f"give {' or '.join(given)}, not both.")


def _parse_widths(text: str) -> tuple[int, ...]:
    try:
        widths = tuple(int(part) for part in text.split(","))
    except ValueError:
        widths = ()
    if len(widths) < 2 or min(widths) < 1:
        raise typer.BadParameter(f"{text!r} is no list of channels; write 16,32,64,128,256.")
    return widths


def _parse_fold(text: str, folds: int | None) -> int | None:
    if text == "all":
        return None
    if folds is None or not text.isdecimal() or int(text) >= folds:
        raise typer.BadParameter(f"--fold is all, or one of 0 to --folds - 1, not {text!r}.")
    return int(text)


def _weights_in_use(entry: PipelineEntry) -> Path:
    from pipelines.registry import check_weights

    check_weights(entry)
    if entry.weights is None:
        raise typer.BadParameter(f"pipeline {entry.manifest.name} has no weights; give --weights.")
    return entry.weights


def _recipe_of(ctx: typer.Context, name: str) -> tuple[PipelineEntry, Recipe]:
    """A pipeline and its recipe.

    Raises
    ------
    ManifestError
        When there is no such pipeline, or it cannot be trained here.
    """
    from node import logs
    from pipelines.registry import find_pipelines, import_training
    from pipelines.training.recipe import Recipe

    config = read_config(ctx)
    # It takes hours: progress is wanted.
    logs.configure("info", config.node.log_format)
    entry = find_pipelines(config.pipelines.folders).get(name)
    recipe = getattr(import_training(entry), "RECIPE", None)
    if not isinstance(recipe, Recipe):
        raise ManifestError(
            f"{entry.folder / 'training.py'}: declares no RECIPE (pipelines.training.recipe.Recipe).",
            code="no-training",
        )
    return entry, recipe
