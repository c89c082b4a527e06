"""`osteonode measurements`: every number."""

from __future__ import annotations

from typing import Annotated

import typer

from node.cli.common import AsCsv, AsJson, Limit, opened, parse_when
from node.cli.output import form, row, show_list
from node.cli.studies import find_study

app = typer.Typer(
    name="measurements", help="Every number the pipelines found.", no_args_is_help=True
)

_COLUMNS = (
    "measured_at",
    "study_instance_uid",
    "pipeline",
    "segment_label",
    "concept_meaning",
    "value",
    "unit",
)


@app.command("list")
def list_(
    ctx: typer.Context,
    study: Annotated[str | None, typer.Option(metavar="UID", help="Of this study.")] = None,
    pipeline: Annotated[str | None, typer.Option(help="By this pipeline.")] = None,
    concept: Annotated[
        str | None, typer.Option(help="This concept: its code value or meaning.")
    ] = None,
    since: Annotated[str | None, typer.Option(help="Measured since: 2026-01-31, 12h, 7d.")] = None,
    until: Annotated[str | None, typer.Option(help="Measured before: 2026-02-01, ...")] = None,
    limit: Limit = 1000,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """List measurements, the newest first, one row a value with its UCUM unit.

    Example: `osteonode measurements list --pipeline ct_skeleton --concept Volume --since 30d --csv`
    """
    from storage.index import measurements

    with opened(ctx) as index:
        found = measurements.list_measurements(
            index,
            study=None if study is None else find_study(index, study).study_instance_uid,
            pipeline=pipeline,
            concept=concept,
            since=parse_when(since),
            until=parse_when(until),
            limit=limit,
        )
    show_list(
        [row(one) for one in found],
        _COLUMNS,
        as_form=form(as_json=as_json, as_csv=as_csv),
        empty="No such measurement.",
    )
