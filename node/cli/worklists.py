"""`osteonode worklists`: the worklists of others that work is taken from (UPS-RS)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from node.cli.common import AsJson, Limit, opened, pick, read_config
from node.cli.output import form, row, say, show_fields, show_json, show_list, show_rows
from node.errors import ConfigError
from storage.model import ProcedureStep

if TYPE_CHECKING:
    from node.config import Config, WorklistSetting
    from storage.index import Index

app = typer.Typer(
    name="worklists",
    help="Worklists of other systems that work is taken from (UPS-RS).",
    no_args_is_help=True,
)

Name = Annotated[
    str, typer.Argument(metavar="NAME", help="Name of the worklist, as in the configuration.")
]
_SEARCHED = 100_000


@app.command("list")
def list_(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List the worklists of the configuration, which work is ours, and how many steps are under way.

    Example: `osteonode worklists list`
    """
    from storage.index import procedure_steps

    config = read_config(ctx)
    with opened(ctx) as index:
        rows = [
            {
                "worklist": name,
                "url": one.url,
                "work": {work.code: work.rule or work.pipeline for work in one.work},
                "under_way": procedure_steps.count_active(index, name),
            }
            for name, one in config.ups.worklists.items()
        ]
    show_list(
        rows,
        ("worklist", "url", "work", "under_way"),
        as_form=form(as_json=as_json),
        empty="There are no worklists; [ups.worklists.NAME] in the configuration makes one.",
    )


@app.command()
def steps(
    ctx: typer.Context,
    worklist: Annotated[
        str | None, typer.Option("--worklist", metavar="NAME", help="Of this worklist.")
    ] = None,
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """List the steps that this node claimed, or tried to, the latest first.

    Example: `osteonode worklists steps --worklist pacs`
    """
    from storage.index import procedure_steps

    with opened(ctx) as index:
        found = procedure_steps.list_steps(index, worklist=worklist, limit=limit)
    show_list(
        [row(one, leave_out=("transaction_uid",)) for one in found],
        (
            "procedure_step_uid",
            "worklist",
            "state",
            "work",
            "claimed_at",
            "ended_at",
            "reason_code",
        ),
        as_form=form(as_json=as_json),
        empty="No step was claimed.",
    )


@app.command()
def show(
    ctx: typer.Context,
    uid: Annotated[
        str, typer.Argument(metavar="UID", help="SOP Instance UID of the step, or the end of it.")
    ],
    as_json: AsJson = False,
) -> None:
    """Show one step: its state and reason, its inputs, its workitems, what was told when.

    Example: `osteonode worklists show 619255048`
    """
    from storage.index import events

    with opened(ctx) as index:
        step = _find(index, uid)
        log = events.list_events(index, study=step.study_instance_uid, limit=_SEARCHED)
    told = [one for one in log if one.detail.get("procedure_step_uid") == step.procedure_step_uid]
    shown = row(step, leave_out=("transaction_uid",))
    if as_json:
        show_json({**shown, "events": told})
        return
    inputs = "\n".join(
        f"series {one.series_instance_uid}: {len(one.sop_instance_uids) or 'all'} instances"
        for one in step.inputs
    )
    show_fields(shown | {"inputs": inputs, "workitems": "\n".join(step.workitems)})
    say("Events")
    show_rows([{"at": one.at, "kind": one.kind, "outcome": one.outcome} for one in told])


@app.command()
def poll(ctx: typer.Context, name: Name, as_json: AsJson = False) -> None:
    """Ask a worklist what it has for us now, and claim nothing. Exit code 5 when it does not answer.

    Example: `osteonode worklists poll pacs`
    """
    from node.ups import UpsClient
    from node.worklist_search import find
    from storage.model import utcnow

    setting = _setting(read_config(ctx), name)
    with UpsClient(name, setting) as client:
        found = find(client, setting, now=utcnow())
    show_list(
        [
            {
                "procedure_step_uid": order.procedure_step_uid,
                "priority": order.priority,
                "work": work.code,
                "does": work.rule or work.pipeline,
                "study_instance_uid": order.study_instance_uid,
                "series": len(order.inputs),
            }
            for order, work in found
        ],
        ("procedure_step_uid", "priority", "work", "does", "study_instance_uid", "series"),
        as_form=form(as_json=as_json),
        empty=f"Worklist {name} answers; nothing is scheduled for us that can begin.",
    )


def _setting(config: Config, name: str) -> WorklistSetting:
    if (found := config.ups.worklists.get(name)) is None:
        known = ", ".join(config.ups.worklists) or "none"
        raise ConfigError(f"There is no worklist {name!r} in the configuration; there is {known}.")
    return found


def _find(index: Index, given: str) -> ProcedureStep:
    from storage.index import procedure_steps

    known = procedure_steps.list_steps(index, limit=_SEARCHED)
    uid = pick(given, [one.procedure_step_uid for one in known], noun="step")
    return next(one for one in known if one.procedure_step_uid == uid)
