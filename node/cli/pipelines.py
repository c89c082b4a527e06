"""`osteonode pipelines`: what is installed, and trying it without a node."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from node.cli import checking, training
from node.cli.common import AsJson, make_folder, parse_parameters, read_config
from node.cli.output import form, say, show_fields, show_json, show_list, show_rows
from pipelines.evidence.profile import DEFAULT_PROFILE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipelines.registry import Registry
    from storage.model import MeasurementRow

app = typer.Typer(
    name="pipelines", help="What is installed, and trying it without a node.", no_args_is_help=True
)
app.command("check")(checking.check)
app.command("train")(training.train)
app.command("evaluate")(training.evaluate)
app.command("install")(training.install)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the pipeline.")]


@app.command("list")
def list_(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List the pipelines installed: those that ship, and those in `[pipelines] folders`.

    A folder that cannot be read is said on standard error, with exit code 6.

    Example: `osteonode pipelines list`
    """
    registry = _registry(ctx)
    rows = [
        {
            "name": name,
            "version": entry.manifest.version,
            "title": entry.manifest.title,
            "takes": sorted(
                {m for demand in entry.manifest.inputs.values() for m in demand.modality}
            ),
            "segments": [segment.label for segment in entry.manifest.segments],
            "folder": str(entry.folder),
        }
        for name, entry in sorted(registry.entries.items())
    ]
    show_list(
        rows,
        ("name", "version", "title", "takes", "segments"),
        as_form=form(as_json=as_json),
        empty="No pipeline is installed.",
    )
    for error in registry.errors:
        raise error


@app.command()
def show(ctx: typer.Context, name: Name, as_json: AsJson = False) -> None:
    """Show what a pipeline takes, makes, may be told, and may cost; check its weights.

    Example: `osteonode pipelines show ct_skeleton`
    """
    from pipelines.registry import check_weights

    entry = _registry(ctx).get(name)
    check_weights(entry)
    manifest = entry.manifest
    settings = [
        one.model_dump(mode="json") for one in read_config(ctx).pipelines.settings.get(name, ())
    ]
    if as_json:
        more = {"folder": str(entry.folder), "settings": settings}
        show_json(manifest.model_dump(mode="json") | more)
        return
    show_fields(
        {
            "name": manifest.name,
            "version": manifest.version,
            "title": manifest.title,
            "description": manifest.description,
            "folder": str(entry.folder),
            "weights": "checked" if entry.weights else "none",
            "limits": f"{manifest.limits.time_s:g} s, {manifest.limits.memory_mb} MB",
            "parameters": manifest.parameters,
        }
    )
    say("Takes")
    show_rows(
        [
            {
                "role": role,
                "modality": one.modality,
                "fewest": one.min_instances,
                "optional": one.optional,
                "same frame of reference as": one.same_frame_as,
                "what": one.description,
            }
            for role, one in manifest.inputs.items()
        ]
    )
    say("Segments")
    show_rows(
        [
            {
                "number": s.number,
                "label": s.label,
                "type": f"{s.type.meaning} ({s.type.value}, {s.type.scheme})",
            }
            for s in manifest.segments
        ]
    )
    if settings:
        say("Settings of this site; the first that fits a series counts")
        show_rows(
            [
                {"where": " and ".join(one["where"]) or "(every series)", **one["parameters"]}
                for one in settings
            ]
        )


@app.command()
def run(
    ctx: typer.Context,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            file_okay=False,
            writable=True,
            help="Folder for what comes out; made if need be.",
        ),
    ],
    path: Annotated[
        Path | None,
        typer.Argument(
            exists=True,
            help="Folder that holds the series, or a file; without it the pipeline's demo study is computed.",
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            "--pipeline", metavar="NAME", help="Which; not needed when only one is installed."
        ),
    ] = None,
    parameter: Annotated[
        list[str] | None,
        typer.Option(
            "--parameter", metavar="NAME=VALUE", help="Over the default. Repeat for more."
        ),
    ] = None,
    device: Annotated[
        str, typer.Option(help="cpu, cuda:0 ...; the first GPU when there is one.")
    ] = "",
    profile: Annotated[
        list[str] | None,
        typer.Option(
            "--profile",
            help="Which evidence is made: `osteonode destinations profiles` lists them. Repeat for more.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run a pipeline on a folder, without a node: writes its evidence, an overlay picture and a table.

    Inputs of one study are put together as the node does; one that is optional and not there is gone without.
    The UIDs are those the node would make of the same input. Exit code 6 when the pipeline refuses the series.

    Example: `osteonode pipelines run /data/series --pipeline ct_skeleton --out /tmp/result`
    """
    from node.cli.local import run_on_folder, write_results
    from node.demo_study import write_demo_study

    config = read_config(ctx)
    registry = _registry(ctx)
    if name is None and len(registry.entries) != 1:
        raise typer.BadParameter(
            f"--pipeline is needed: one of {', '.join(sorted(registry.entries))}."
        )
    entry = registry.get(name or next(iter(registry.entries)))
    if path is None:
        make_folder(out)
        path = out / "demo-study"
        # Of another version of the pipeline, perhaps: the two would mix.
        shutil.rmtree(path, ignore_errors=True)
        write_demo_study(entry, path)
    performed = run_on_folder(
        config,
        entry,
        path,
        parse_parameters(parameter or ()),
        device=device,
        profiles={one: config.evidence.profile(one) for one in profile or [DEFAULT_PROFILE]},
    )
    make_folder(out)
    files = write_results(performed, out)
    if as_json:
        show_json(
            {
                "files": [str(file) for file in files],
                "measurements": performed.measurements,
                "notices": performed.notices,
                "timings": performed.timings,
            }
        )
        return
    print_measurements(performed.measurements)
    for notice in performed.notices:
        print(f"{notice.code}: {notice.message}")
    print(", ".join(f"{step} {seconds:.1f} s" for step, seconds in performed.timings.items()))
    for file in files:
        print(file)


def print_measurements(rows: Sequence[MeasurementRow]) -> None:
    """The table of measurements of one result."""
    show_rows(
        [
            {
                "segment": row.segment_label or "(all)",
                "measurement": row.concept_meaning,
                "value": row.value,
                "unit": row.unit,
            }
            for row in rows
        ]
    )


def _registry(ctx: typer.Context) -> Registry:
    from pipelines.registry import find_pipelines

    return find_pipelines(read_config(ctx).pipelines.folders)
