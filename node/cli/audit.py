"""`osteonode audit`: who did what."""

from __future__ import annotations

from typing import Annotated

import typer

from node.cli.common import AsCsv, AsJson, Limit, opened, parse_when
from node.cli.output import form, row, show_list
from node.cli.studies import find_study

app = typer.Typer(name="audit", help="Who did what, when.", no_args_is_help=True)

_COLUMNS = ("at", "kind", "actor", "outcome", "study_instance_uid", "workitem_uid", "detail")


@app.command("list")
def list_(
    ctx: typer.Context,
    study: Annotated[str | None, typer.Option(metavar="UID", help="About this study.")] = None,
    by: Annotated[
        str | None, typer.Option("--actor", help="By this actor, as cli:root or node.")
    ] = None,
    kind: Annotated[str | None, typer.Option(help="Of this kind, as rule-edited.")] = None,
    since: Annotated[
        str | None, typer.Option(help="Since: 2026-01-31, 2026-01-31T08:00, 12h, 7d.")
    ] = None,
    until: Annotated[str | None, typer.Option(help="Before: 2026-02-01, ...")] = None,
    before: Annotated[
        int | None,
        typer.Option(
            metavar="ID", help="The page before: the first event_id of this one (--json)."
        ),
    ] = None,
    limit: Limit = 1000,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """List the audit log, oldest first.

    Example: `osteonode audit list --kind rule-edited --since 7d --csv`
    """
    from storage.index import events

    with opened(ctx) as index:
        found = events.list_events(
            index,
            study=None if study is None else find_study(index, study).study_instance_uid,
            actor=by,
            kind=kind,
            since=parse_when(since),
            until=parse_when(until),
            before=before,
            limit=limit,
        )
    show_list(
        [row(event) for event in found],
        _COLUMNS,
        as_form=form(as_json=as_json, as_csv=as_csv),
        empty="No such event.",
    )
