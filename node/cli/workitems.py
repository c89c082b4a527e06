"""`osteonode workitems`: what ran, runs, or failed, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from node.cli.common import AsJson, Limit, actor, opened, parse_state, pick
from node.cli.output import form, row, say, show_fields, show_json, show_list, show_rows
from node.cli.studies import delivery_row, find_study, workitem_row
from storage.errors import NotFound
from storage.model import Workitem, WorkitemState

if TYPE_CHECKING:
    from storage.index import Index

app = typer.Typer(
    name="workitems", help="What ran, runs, or failed, and why.", no_args_is_help=True
)

Uid = Annotated[str, typer.Argument(metavar="UID", help="Workitem UID, or the end of it.")]
_COLUMNS = (
    "workitem_uid",
    "state",
    "pipeline",
    "rule",
    "priority",
    "attempts",
    "scheduled_at",
    "ended_at",
    "reason_code",
)
_SEARCHED = 100_000


@app.command("list")
def list_(
    ctx: typer.Context,
    state: Annotated[
        str | None, typer.Option(help="scheduled, in-progress, completed or canceled.")
    ] = None,
    study: Annotated[str | None, typer.Option(metavar="UID", help="Of this study.")] = None,
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """List workitems, the newest first. A failed one is CANCELED with a reason (PS3.4 CC.1.1).

    Example: `osteonode workitems list --state canceled`
    """
    from storage.index import workitems

    wanted = None if state is None else parse_state(state, WorkitemState)
    with opened(ctx) as index:
        found = workitems.list_workitems(
            index,
            state=wanted,
            study=None if study is None else find_study(index, study).study_instance_uid,
            limit=limit,
        )
    show_list(
        [row(one) if as_json else workitem_row(one) for one in found],
        _COLUMNS,
        as_form=form(as_json=as_json),
        empty="No such workitem.",
    )


@app.command()
def show(ctx: typer.Context, uid: Uid, as_json: AsJson = False) -> None:
    """Show one workitem: state and reason, inputs, seconds per step, evidence, deliveries.

    Example: `osteonode workitems show 619255048`
    """
    from storage.index import deliveries

    with opened(ctx) as index:
        workitem = _find(index, uid)
        owed = deliveries.list_deliveries(index, workitem=workitem.workitem_uid, limit=1000)
    evidence = list({one.evidence.sop_instance_uid: one.evidence for one in owed}.values())
    if as_json:
        show_json({**row(workitem), "evidence": evidence, "deliveries": owed})
        return
    inputs = ", ".join(
        f"{one.role}: {len(one.sop_instance_uids)} instances of series {one.series_instance_uid}"
        for one in workitem.inputs
    )
    notices = "\n".join(f"{code}: {sentence}" for code, sentence in workitem.notices)
    show_fields(row(workitem) | {"inputs": inputs, "notices": notices})
    say("Evidence")
    shown = ("kind", "sop_instance_uid", "size", "archive_key", "created_at")
    show_rows([{key: row(one)[key] for key in shown} for one in evidence])
    say("Deliveries")
    show_rows([delivery_row(one) for one in owed])


@app.command()
def retry(ctx: typer.Context, uid: Uid) -> None:
    """Schedule a CANCELED workitem again, with all its attempts.

    Example: `osteonode workitems retry 619255048`
    """
    from storage.index import workitems

    with opened(ctx) as index:
        workitem = workitems.retry(index, _find(index, uid).workitem_uid, actor=actor())
    print(f"Workitem {workitem.workitem_uid} is scheduled again.")


@app.command()
def cancel(ctx: typer.Context, uid: Uid) -> None:
    """Cancel a workitem that has not ended; a running one is stopped within seconds.

    Example: `osteonode workitems cancel 619255048`
    """
    from storage.index import workitems

    with opened(ctx) as index:
        workitem = workitems.cancel(index, _find(index, uid).workitem_uid, actor=actor())
    print(f"Workitem {workitem.workitem_uid} is cancelled.")


def _find(index: Index, given: str) -> Workitem:
    from storage.index import workitems

    try:
        return workitems.get(index, given)
    except NotFound:
        uids = [w.workitem_uid for w in workitems.list_workitems(index, limit=_SEARCHED)]
        return workitems.get(index, pick(given, uids, noun="workitem"))
