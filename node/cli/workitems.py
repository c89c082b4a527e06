"""`osteonode workitems`: what ran, runs, waits or failed, and why; `node.cli.queue` has what people change of it."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from node.cli import queue
from node.cli.common import After, AsJson, Limit, opened, parse_state, read_config
from node.cli.output import form, row, say, show_fields, show_json, show_list, show_rows
from node.cli.studies import delivery_row, find_study, workitem_row
from storage.errors import NotFound
from storage.model import Workitem, WorkitemState, utcnow

if TYPE_CHECKING:
    from storage.index import Index

app = typer.Typer(
    name="workitems", help="What ran, runs, waits or failed, and why.", no_args_is_help=True
)
app.command("raise")(queue.raise_)
app.command("hold")(queue.hold)
app.command("release")(queue.release)
app.command("cancel")(queue.cancel)
app.command("retry")(queue.retry)

Uid = Annotated[str, typer.Argument(metavar="UID", help="Workitem UID, or the end of it.")]
_COLUMNS = (
    "workitem_uid",
    "state",
    "pipeline",
    "rule",
    "priority",
    "place",
    "starts",
    "attempts",
    "scheduled_at",
    "ended_at",
    "reason_code",
)


@app.command("list")
def list_(
    ctx: typer.Context,
    state: Annotated[
        str | None, typer.Option(help="scheduled, in-progress, completed or canceled.")
    ] = None,
    study: Annotated[str | None, typer.Option(metavar="UID", help="Of this study.")] = None,
    pipeline: Annotated[str | None, typer.Option(metavar="NAME", help="Of this pipeline.")] = None,
    after: After = None,
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """List workitems, the newest first; with `--state scheduled`, in the order in which they will be taken.

    A failed one is CANCELED with a reason (PS3.4 CC.1.1). `place` is the place in the queue, `starts` an estimate from
    measured run times, without studies that are still to come.

    Example: `osteonode workitems list --state canceled`
    """
    from storage.index import workitems

    wanted = None if state is None else parse_state(state, WorkitemState)
    with opened(ctx) as index:
        found = workitems.list_workitems(
            index,
            state=wanted,
            study=None if study is None else find_study(index, study).study_instance_uid,
            pipeline=pipeline,
            after=None if after is None else _find(index, after).workitem_uid,
            in_turn=wanted is WorkitemState.SCHEDULED,
            limit=limit,
        )
        foreseen = queue.foresee(index, read_config(ctx), utcnow())
    rows = []
    for one in found:
        place = _place(one, foreseen.get(one.workitem_uid))
        if not as_json and one.held_at is not None:
            place["place"] = f"held: {one.hold_reason}"
        rows.append((row(one) if as_json else workitem_row(one)) | place)
    show_list(
        rows,
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
        foreseen = queue.foresee(index, read_config(ctx), utcnow()).get(workitem.workitem_uid)
    place = _place(workitem, foreseen)
    evidence = list({one.evidence.sop_instance_uid: one.evidence for one in owed}.values())
    if as_json:
        show_json({**row(workitem), **place, "evidence": evidence, "deliveries": owed})
        return
    inputs = ", ".join(
        f"{one.role}: {len(one.sop_instance_uids)} instances of series {one.series_instance_uid}"
        for one in workitem.inputs
    )
    notices = "\n".join(f"{code}: {sentence}" for code, sentence in workitem.notices)
    why = "\n".join(workitem.priority_reasons)
    told = {"priority_reasons": why, "inputs": inputs, "notices": notices}
    show_fields(row(workitem) | place | told)
    say("Evidence")
    shown = ("kind", "sop_instance_uid", "size", "archive_key", "created_at")
    show_rows([{key: row(one)[key] for key in shown} for one in evidence])
    say("Deliveries")
    show_rows([delivery_row(one) for one in owed])


def _find(index: Index, given: str) -> Workitem:
    from storage.index import workitems

    try:
        return workitems.get(index, given)
    except NotFound:
        return workitems.get(index, queue.find_uid(index, given))


def _place(workitem: Workitem, foreseen: tuple[int, datetime | None] | None) -> dict[str, object]:
    """Where it stands among those that wait, and when it starts."""
    if workitem.state is not WorkitemState.SCHEDULED:
        return {"place": None, "starts": None}
    place, starts = foreseen or (f"after {queue.FORESEEN}", None)
    return {"place": "held" if workitem.held_at else place, "starts": starts}
