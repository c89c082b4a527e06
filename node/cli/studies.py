"""`osteonode studies`: what is held, and why it was analysed or not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from node.cli import explaining, holding
from node.cli.common import After, AsJson, Limit, actor, opened, parse_when, pick, read_config
from node.cli.output import (
    cell,
    form,
    local,
    row,
    say,
    short,
    show_fields,
    show_json,
    show_list,
    show_rows,
)
from node.cli.verdicts import print_files, print_verdict, state, sum_up
from storage.errors import NotFound
from storage.model import (
    Decision,
    DecisionCode,
    Delivery,
    Event,
    FileMark,
    Series,
    Study,
    Workitem,
)

if TYPE_CHECKING:
    from storage.index import Index

app = typer.Typer(
    name="studies", help="What is held, and why it was analysed or not.", no_args_is_help=True
)

app.command()(holding.hold)
app.command()(holding.release)

#: Identifies the patient; who needs it looks into the PACS.
_LEFT_OUT = ("patient_id",)
_COLUMNS = (
    "study_instance_uid",
    "study_date",
    "study_description",
    "accession_number",
    "series_count",
    "instance_count",
    "last_received_at",
    "news",
    "state",
    "whole",
    "waits_until",
)
#: What came of a decision, after the pipeline's name; of others, it does not run.
_VERDICTS: Mapping[str, str] = {
    DecisionCode.RUNS: "runs",
    DecisionCode.WAITS: "waits",
    DecisionCode.HELD: "is held",
    DecisionCode.ABSENT: "runs without it",
    DecisionCode.OUTRANKED: "takes another",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Dossier:
    """Everything about one study."""

    study: Study
    series: tuple[Series, ...]
    decisions: tuple[Decision, ...]
    workitems: tuple[Workitem, ...]
    deliveries: tuple[Delivery, ...]
    events: tuple[Event, ...]
    #: Files that are missing, damaged or expired.
    files: tuple[FileMark, ...]


@app.command("list")
def list_(
    ctx: typer.Context,
    since: Annotated[
        str | None, typer.Option(help="Those that got an instance since: 2026-01-31, 12h, 7d.")
    ] = None,
    after: After = None,
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """List studies, the newest first. Tables show the end of a UID, which `studies show` takes.

    Example: `osteonode studies list --since 12h`
    """
    from storage.index import studies

    with opened(ctx) as index:
        last = find_study(index, after).study_instance_uid if after else None
        found = studies.list_studies(index, limit=limit, since=parse_when(since), after=last)
    show_list(
        [
            row(study, leave_out=_LEFT_OUT)
            | {
                "news": study.revision > study.evaluated_revision,
                "state": state(study),
                "whole": sum_up(study.verdict),
            }
            for study in found
        ],
        _COLUMNS,
        as_form=form(as_json=as_json),
        empty="No study was received.",
    )


@app.command()
def show(
    ctx: typer.Context,
    uid: Annotated[
        str, typer.Argument(metavar="UID", help="Study Instance UID, or the end of it.")
    ],
    as_json: AsJson = False,
) -> None:
    """Show one study: its series, why each is analysed or not, workitems, deliveries, the timeline.

    Example: `osteonode studies show 619255048`
    """
    from node.cli.conflicts import say_summary, summary_of

    config = read_config(ctx)
    with opened(ctx) as index:
        dossier = collect(index, find_study(index, uid))
        conflicts = summary_of(config, index, dossier.study)
    if as_json:
        show_json({**_as_json(dossier), "conflicts": conflicts})
        return
    print_study(dossier)
    if conflicts is not None:
        say("Conflicts")
        print(f"  {say_summary(conflicts)}")


app.command("explain")(explaining.explain)


@app.command()
def evaluate(
    ctx: typer.Context,
    uid: Annotated[
        str, typer.Argument(metavar="UID", help="Study Instance UID, or the end of it.")
    ],
) -> None:
    """Have the node evaluate a study again by the rules as they are now; what ran already does not run again.

    Evaluations come by themselves when instances come, or when a wait for an input is over; this is for a study that
    came before its rule did, or that is held.

    Example: `osteonode studies evaluate 619255048`
    """
    from storage.index import studies

    with opened(ctx) as index:
        study = find_study(index, uid)
        studies.evaluate_again(index, study.study_instance_uid, actor=actor())
    then = "it is released" if study.held else "the node runs and it is quiet"
    print(f"Study {short(study.study_instance_uid)} is evaluated again as soon as {then}.")


def find_study(index: Index, given: str) -> Study:
    """The study of a UID, or of the end of one.

    Raises
    ------
    NotFound
    """
    from storage.index import studies

    try:
        return studies.get(index, given)
    except NotFound:
        uids = studies.uids_like(index, given.strip().lstrip("…."))
        return studies.get(index, pick(given, uids, noun="study"))


def collect(index: Index, study: Study) -> Dossier:
    """Ask the index for everything about a study."""
    from storage.index import deliveries, events, files, studies, workitems

    uid = study.study_instance_uid
    return Dossier(
        study=study,
        series=studies.series_of(index, uid),
        decisions=studies.decisions(index, uid),
        workitems=workitems.list_workitems(index, study=uid, limit=1000),
        deliveries=deliveries.list_deliveries(index, study=uid, limit=1000),
        events=events.list_events(index, study=uid),
        files=files.marks_of(index, uid),
    )


def _as_json(dossier: Dossier) -> dict[str, object]:
    # Headers name the patient; what rules read of them stands in the decisions.
    series = [row(one, leave_out=("header",)) for one in dossier.series]
    return {
        **row(dossier.study, leave_out=_LEFT_OUT),
        "state": state(dossier.study),
        "series": series,
        "decisions": dossier.decisions,
        "workitems": dossier.workitems,
        "deliveries": dossier.deliveries,
        "events": dossier.events,
        "files": dossier.files,
    }


def print_study(dossier: Dossier) -> None:
    """The sections of `studies show`."""
    study = dossier.study
    show_fields(
        {
            "study": study.study_instance_uid,
            "description": study.study_description,
            "date": study.study_date,
            "accession number": study.accession_number,
            "held": f"{study.instance_count} instances in {study.series_count} series",
            "evaluated": _evaluated(study),
        }
    )
    print_verdict(study)
    if dossier.files:
        say("Files")
        print_files(dossier.files)
    say("Series")
    show_rows([_series_row(one) for one in dossier.series])
    say("Why")
    print_decisions(dossier.decisions)
    if not dossier.decisions:
        print(f"  {_no_decision(study)}")
    if dossier.workitems:
        say("Workitems")
        show_rows([workitem_row(one) for one in dossier.workitems])
    if dossier.deliveries:
        say("Deliveries")
        show_rows([delivery_row(one) for one in dossier.deliveries])
    say("Timeline")
    for at, what in sorted(_timeline(dossier), key=lambda line: line[0]):
        print(f"  {local(at)}  {cell('', what)}")


def workitem_row(workitem: Workitem) -> dict[str, object]:
    """A workitem as one line of a table."""
    return {
        "workitem_uid": workitem.workitem_uid,
        "state": workitem.state,
        "pipeline": f"{workitem.pipeline} {workitem.pipeline_version}",
        "rule": workitem.rule,
        "priority": workitem.priority,
        "attempts": workitem.attempts,
        "scheduled_at": workitem.scheduled_at,
        "ended_at": workitem.ended_at,
        "reason_code": workitem.reason_code,
        "reason": workitem.reason,
    }


def delivery_row(delivery: Delivery) -> dict[str, object]:
    """A delivery as one line of a table."""
    return {
        "id": delivery.delivery_id,
        "kind": delivery.evidence.kind,
        "destination": delivery.destination,
        "state": delivery.state,
        "attempts": delivery.attempts,
        "status": None if delivery.status is None else f"0x{delivery.status:04X}",
        "message": delivery.message,
        "committed": _commitment(delivery),
        "next_attempt_at": delivery.next_attempt_at if delivery.state == "PENDING" else None,
        "updated_at": delivery.updated_at,
    }


def _commitment(delivery: Delivery) -> str | None:
    """What is known of storage commitment; None where it is not asked for."""
    if delivery.failure_reason is not None:
        return f"0x{delivery.failure_reason:04X}"
    if delivery.to_commit:
        return "asked" if delivery.transaction_uid else "waits"
    return "yes" if delivery.state == "COMMITTED" else None


def _evaluated(study: Study) -> str:
    if study.evaluated_revision == study.revision:
        waits = study.waits_until
        again = f"; again at {local(waits)}, for an input is missing" if waits else ""
        return f"yes, at revision {study.revision}{again}"
    if study.evaluated_revision == 0:
        return "not yet"
    return f"at revision {study.evaluated_revision}; {study.revision} has news"


def _no_decision(study: Study) -> str:
    if study.evaluated_revision == 0:
        return "Not evaluated yet: the study is not whole, is held, or the node is not running."
    return "No rule was in force, or every series is the node's own."


def _series_row(series: Series) -> dict[str, object]:
    header = series.header.get("SeriesDescription", ())
    return {
        "series_instance_uid": series.series_instance_uid,
        "modality": series.modality,
        "series_description": header[0] if header else None,
        "instances": series.instance_count,
        "slices": series.facts.get("slices"),
        "missing": series.facts.get("missing_slices"),
        "from": series.facts.get("calling_ae"),
        "own": series.own,
        "last_received_at": series.last_received_at,
    }


def print_decisions(decisions: Iterable[Decision]) -> None:
    """Why: each decision with its clauses, in the order they were made."""
    for decision in decisions:
        series = decision.series_instance_uid
        on = f"on series {short(series)}" if series else "on no series"
        # An input that is missing or lost belongs to the run told above it.
        as_role = f" as {decision.role}" if decision.role else ""
        print(
            f"  rule {decision.rule} (version {decision.rule_version}) {on}{as_role}: "
            f"{decision.pipeline} {_verdict(decision)}"
        )
        for clause in decision.clauses:
            print(
                f"    {'yes' if clause.holds else 'NO ':3}  {cell('', clause.clause)}   seen: {cell('', clause.seen)}"
            )
        print(f"    {cell('', decision.reason)}")


def _verdict(decision: Decision) -> str:
    # What an older version decided has no code.
    return _VERDICTS.get(decision.code, "runs" if decision.matched else "does not run")


def _timeline(dossier: Dossier) -> list[tuple[datetime, str]]:
    lines: list[tuple[datetime, str]] = []
    for series in dossier.series:
        label = f"series {short(series.series_instance_uid)} ({series.modality}"
        label += ", our own)" if series.own else ")"
        lines.append((series.first_received_at, f"{label}: first instance received"))
        last = f"{label}: last of {series.instance_count} instances received"
        lines.append((series.last_received_at, last))
    for workitem in dossier.workitems:
        if workitem.started_at is not None:
            label = f"workitem {short(workitem.workitem_uid)} ({workitem.pipeline}): started"
            lines.append((workitem.started_at, label))
    for event in dossier.events:
        about = f" {short(event.workitem_uid)}" if event.workitem_uid else ""
        detail = f"  {cell('', event.detail)}" if event.detail else ""
        lines.append((event.at, f"{event.kind}{about}  by {event.actor}{detail}"))
    return lines
