"""`osteonode deliveries`: what is owed to whom."""

from __future__ import annotations

from typing import Annotated

import typer

from node.cli.common import LARGEST, AsJson, Limit, actor, opened, parse_state
from node.cli.output import form, row, show_fields, show_json, show_list
from node.cli.studies import delivery_row, find_study
from storage.model import DeliveryState

app = typer.Typer(name="deliveries", help="What is owed to whom.", no_args_is_help=True)

#: As many are retried at once.
_MOST = 10_000
_COLUMNS = (
    "id",
    "kind",
    "destination",
    "state",
    "attempts",
    "status",
    "committed",
    "message",
    "next_attempt_at",
    "updated_at",
)


@app.command("list")
def list_(
    ctx: typer.Context,
    state: Annotated[
        str | None, typer.Option(help="pending, sent, committed, failed, withdrawn or retracted.")
    ] = None,
    to: Annotated[
        str | None, typer.Option("--to", metavar="DESTINATION", help="To this destination.")
    ] = None,
    study: Annotated[str | None, typer.Option(metavar="UID", help="Of this study.")] = None,
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """List deliveries, the newest first, with the DIMSE status of the last answer.

    Example: `osteonode deliveries list --state failed --to PACS`
    """
    from storage.index import deliveries

    wanted = None if state is None else parse_state(state, DeliveryState)
    with opened(ctx) as index:
        found = deliveries.list_deliveries(
            index,
            state=wanted,
            destination=to,
            study=None if study is None else find_study(index, study).study_instance_uid,
            limit=limit,
        )
    show_list(
        [row(one) if as_json else delivery_row(one) for one in found],
        _COLUMNS,
        as_form=form(as_json=as_json),
        empty="No such delivery.",
    )


@app.command()
def show(
    ctx: typer.Context,
    number: Annotated[int, typer.Argument(metavar="ID", min=1, max=LARGEST, help="Its number.")],
    as_json: AsJson = False,
) -> None:
    """Show one delivery: what is owed, what was answered, and what its destination commits itself to.

    Example: `osteonode deliveries show 17`
    """
    from storage.index import commitments, deliveries

    with opened(ctx) as index:
        found = deliveries.get(index, number)
        uid = found.transaction_uid
        transaction = None if uid is None else commitments.get(index, uid)
    if as_json:
        show_json(row(found) | {"commitment": None if transaction is None else row(transaction)})
        return
    shown = delivery_row(found) | {
        "sop_instance_uid": found.evidence.sop_instance_uid,
        "workitem_uid": found.evidence.workitem_uid,
        "study_instance_uid": found.evidence.study_instance_uid,
        "superseded_by": found.superseded_by,
    }
    if transaction is not None:
        shown |= {
            "transaction_uid": transaction.transaction_uid,
            "commitment": transaction.state,
            "commitment_deadline": transaction.deadline,
            "commitment_reason": transaction.reason or None,
        }
    show_fields(shown)


@app.command()
def retry(
    ctx: typer.Context,
    number: Annotated[
        int | None,
        typer.Argument(metavar="[ID]", min=1, max=LARGEST, help="One delivery, by its number."),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(
            "--to", metavar="DESTINATION", help="All that failed or wait, to this destination."
        ),
    ] = None,
    everywhere: Annotated[
        bool, typer.Option("--all", help="All that failed or wait, to any destination.")
    ] = False,
) -> None:
    """Send again now, with all attempts before it: one delivery, or all that failed or wait.

    Examples: `osteonode deliveries retry 17` · `osteonode deliveries retry --to PACS`

    `osteonode deliveries retry --all`
    """
    from storage.index import deliveries, destinations

    if sum((number is not None, to is not None, everywhere)) != 1:
        raise typer.BadParameter("give the number of one delivery, --to DESTINATION, or --all.")
    with opened(ctx) as index:
        if number is not None:
            numbers = [number]
        else:
            name = None if to is None else destinations.get(index, to).name
            numbers = [
                one.delivery_id
                for state in (DeliveryState.FAILED, DeliveryState.PENDING)
                for one in deliveries.list_deliveries(
                    index, destination=name, state=state, limit=_MOST
                )
            ]
        for one in numbers:
            deliveries.retry(index, delivery_id=one, actor=actor())
    print(f"{len(numbers)} deliveries are due now.")
