"""`osteonode conformance`: what the node does on the network and in its objects, as a text for a peer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from node.cli.common import AsJson, read_config
from node.cli.output import to_json


def conformance(
    ctx: typer.Context,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", metavar="FILE", dir_okay=False, help="Write it here; else it is printed."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print the DICOM Conformance Statement (PS3.2) and the IHE Integration Statement.

    They say what this node does with the configuration in force and the pipelines installed.
    Exit code 6 when a pipeline cannot be read.

    Example: `osteonode conformance --output conformance.md`
    """
    config = read_config(ctx)
    from node.conformance.markdown import write_markdown
    from node.conformance.statement import read_statement
    from pipelines.registry import find_pipelines

    registry = find_pipelines(config.pipelines.folders)
    for error in registry.errors:
        raise error
    statement = read_statement(config, registry)
    text = to_json(statement) + "\n" if as_json else write_markdown(statement)
    if output is None:
        print(text, end="")
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise typer.BadParameter(f"{output}: cannot be written: {error.strerror}.") from error
