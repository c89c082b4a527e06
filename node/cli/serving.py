"""`osteonode serve` and `osteonode demo`: run the node."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from node.cli.common import make_folder, read_config
from node.cli.output import say, show_fields
from node.cli.studies import collect, print_study

if TYPE_CHECKING:
    from node.demo import DemoReport

_PROGRESS = (
    SpinnerColumn(),
    TextColumn("{task.description}", markup=False),
    MofNCompleteColumn(),
    TimeElapsedColumn(),
)


def serve(ctx: typer.Context) -> None:
    """Run the node until SIGTERM or Ctrl-C. An empty database gets its tables first.

    Example: `osteonode --config /etc/osteonode/config.toml serve`
    """
    # Before anything heavy: a misspelt setting answers at once.
    config = read_config(ctx)
    from node import logs, service

    logs.configure(config.node.log_level, config.node.log_format)
    service.serve(config)


def demo(
    ctx: typer.Context,
    study: Annotated[
        Path | None,
        typer.Option(
            "--study", exists=True, help="Folder of a series; a computed phantom CT when not given."
        ),
    ] = None,
    pipeline: Annotated[
        str, typer.Option("--pipeline", metavar="NAME", help="The pipeline to run.")
    ] = "ct_skeleton",
    profile: Annotated[
        str,
        typer.Option(
            "--profile",
            help="What the PACS gets: generic, ohif, slicer, legacy, radiotherapy, or one of your own.",
        ),
    ] = "generic",
    out: Annotated[Path, typer.Option("--out", help="Folder for all that is written.")] = Path(
        "demo"
    ),
) -> None:
    """The whole way in one command: node and a small PACS started, a study sent, SEG and SR back, shown.

    Example: `osteonode demo --study /data/series --pipeline ct_skeleton`
    """
    base = read_config(ctx)
    make_folder(out)
    from node import logs
    from node.demo import Step
    from node.demo import demo as go_all_the_way

    logs.configure("warning", "text")
    shown = Console(stderr=True)
    with Progress(
        *_PROGRESS, console=shown, transient=True, disable=not shown.is_terminal
    ) as progress:
        task = progress.add_task("starting", total=None)

        def on_step(step: Step) -> None:
            if progress.tasks[task].description != step.what and not shown.is_terminal:
                shown.print(step.what, markup=False)
            progress.update(task, description=step.what, completed=step.done, total=step.total)

        report = go_all_the_way(
            base, study=study, pipeline=pipeline, profile=profile, out=out, on_step=on_step
        )
    _print_demo(report)


def _print_demo(report: DemoReport) -> None:
    """What came back, the numbers, the timeline, where each thing lies, and how to go on."""
    from node.cli.pipelines import print_measurements
    from node.config import load, without_passwords
    from storage.index import open_index, studies

    config = load(report.config)
    with open_index(config.database_url) as index:
        print_study(collect(index, studies.get(index, report.study_instance_uid)))
    say("Measurements (research use, unverified)")
    print_measurements(report.measurements)
    say("Time")
    print("  " + ", ".join(f"{what} {seconds:.1f} s" for what, seconds in report.times))
    say("What came back to the PACS")
    for path in report.came_back:
        print(f"  {path}")
    say("Where things lie")
    show_fields(
        {
            "picture": str(report.picture or "nothing was segmented"),
            "archive": without_passwords(config.archive_url),
            "database": without_passwords(config.database_url),
            "configuration": str(report.config),
        }
    )
    say("Go on")
    print(f"  osteonode --config {report.config} studies show {report.study_instance_uid[-12:]}")
    print(f"  osteonode --config {report.config} measurements list --csv")
    print(
        "  With a real PACS: osteonode config check, destinations add, rules add, serve (README.md)"
    )
