"""The command line of an administrator: `osteonode`.

One file per noun; a command reads its options, calls one function of the node or the index, and shows the answer.
What a command needs beyond this package is imported inside it, so that `--help` answers at once and nothing but the
commands that compute loads torch.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from node.cli import (
    archive,
    audit,
    config,
    conflicts,
    conformance,
    db,
    deliveries,
    destinations,
    measurements,
    network,
    pipelines,
    rules,
    serving,
    studies,
    workitems,
    worklists,
)
from node.cli.common import TREES, exit_code
from node.cli.output import cell

app = typer.Typer(
    name="osteonode",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=(
        "Exit codes: 0 done; 1 failed or not found; 2 wrong usage; 3 configuration; 4 database or archive; "
        "5 a peer that cannot be reached or refuses; 6 a pipeline that cannot run."
    ),
)
app.command("serve")(serving.serve)
app.command("demo")(serving.demo)
app.command("send")(network.send)
app.command("echo")(network.echo)
app.command("conformance")(conformance.conformance)
studies.app.command("conflicts")(conflicts.list_conflicts)
studies.app.command("accept")(conflicts.accept)
for group in (
    studies,
    workitems,
    worklists,
    deliveries,
    measurements,
    rules,
    destinations,
    pipelines,
    audit,
    archive,
    config,
    db,
):
    app.add_typer(group.app)


@app.callback()
def _settings(
    ctx: typer.Context,
    config_file: Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="FILE",
            help="Configuration; config.toml in the current folder when not given, else defaults.",
        ),
    ] = None,
) -> None:
    """A DICOM node that segments bone, spine and muscle, and sends SEG and structured reports back to the PACS.

    Begin with `osteonode demo`; with a real PACS: `osteonode destinations add`, `osteonode rules add` and
    `osteonode serve`.
    """
    ctx.obj = config_file


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; an error of our trees is one line on standard error and an exit code."""
    try:
        app(arguments, prog_name="osteonode")
    except TREES as error:
        # A sentence may quote a header from the network.
        typer.echo(f"osteonode: {cell('', str(error))}", err=True)
        sys.exit(exit_code(error))
