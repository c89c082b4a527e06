"""`osteonode studies explain`: every rule on every series, clause by clause, at 80 columns or more."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.rule import Rule as Line
from rich.table import Table
from rich.text import Text

from node.cli.common import AsJson, opened, read_config
from node.cli.output import cell, console, local, row, short, show_json
from node.cli.verdicts import state, sum_up
from storage.model import ClauseVerdict, DecisionCode, Series, Study, Workitem, utcnow

if TYPE_CHECKING:
    from node.explanation import RuleVerdict, SeriesVerdict
    from pipelines.manifest import Manifest
    from storage.index import Index

_MARKS: Mapping[str, tuple[str, str]] = {
    DecisionCode.RUNS: ("✓", "green"),
    DecisionCode.WAITS: ("…", "yellow"),
    DecisionCode.HELD: ("!", "yellow"),
    DecisionCode.ABSENT: ("-", "yellow"),
    DecisionCode.OUTRANKED: ("✗", "cyan"),
    DecisionCode.UNFIT: ("✗", "red"),
    DecisionCode.NOT_INSTALLED: ("!", "red"),
}
_SAID: Mapping[str, str] = {
    DecisionCode.RUNS: "runs",
    DecisionCode.WAITS: "waits",
    DecisionCode.HELD: "is held",
    DecisionCode.ABSENT: "absent; runs without it",
    DecisionCode.OUTRANKED: "another is preferred",
    DecisionCode.UNFIT: "does not fit",
    DecisionCode.NOT_INSTALLED: "is not installed",
}
#: Of a rule: no series of the study fits it.
_NOWHERE = "runs on no series"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What is said of a study."""

    study: Study
    series: tuple[Series, ...]
    rules: tuple[RuleVerdict, ...]
    workitems: tuple[Workitem, ...]


def explain(
    ctx: typer.Context,
    uid: Annotated[
        str, typer.Argument(metavar="UID", help="Study Instance UID, or the end of it.")
    ],
    rule: Annotated[
        str | None, typer.Option("--rule", metavar="NAME", help="This rule only.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Explain, by the rules as they are now, why each runs on a study or does not: each series, each clause with the
    value seen, and the fewest things that would have to change.

    Rules that are off are looked at as if they were on. `studies show` has what was decided when the study came.

    Examples:

    `osteonode studies explain 619255048`

    `osteonode studies explain 619255048 --rule skeleton --json`
    """
    said = _ask(ctx, uid, rule)
    if as_json:
        show_json(_as_json(said))
        return
    out = console()
    for part in render(said):
        out.print(part)


def _ask(ctx: typer.Context, uid: str, name: str | None) -> Answer:
    from pipelines.registry import find_pipelines

    with opened(ctx) as index:
        return answer(
            index, find_pipelines(read_config(ctx).pipelines.folders).manifests, uid, name
        )


def answer(
    index: Index, manifests: Mapping[str, Manifest], uid: str, name: str | None = None
) -> Answer:
    """What rules, or the one of that name, make of a study, by its UID or the end of it."""
    from node import completeness
    from node.cli.studies import find_study
    from node.explanation import Circumstances
    from node.explanation import explain as explain_rules
    from storage.index import rules, studies, workitems

    study = find_study(index, uid)
    wanted = rules.list_rules(index) if name is None else (rules.get(index, name),)
    series = studies.series_of(index, study.study_instance_uid)
    done = workitems.list_workitems(index, study=study.study_instance_uid, limit=1000)
    evidence = Circumstances(
        manifests=manifests,
        lacking=completeness.lacking(series, study.asked),
        forced=study.forced_at is not None,
        now=utcnow(),
    )
    explained = explain_rules(wanted, series, done, evidence)
    return Answer(study=study, series=series, rules=explained, workitems=done)


def _as_json(answer: Answer) -> dict[str, object]:
    return {
        **row(answer.study, leave_out=("patient_id",)),
        "state": state(answer.study),
        # Headers name the patient; what rules read of them stands in the clauses.
        "series": [row(one, leave_out=("header",)) for one in answer.series],
        "rules": answer.rules,
        "workitems": answer.workitems,
    }


# -- for people -----------------------------------------------------------------------------------


def render(answer: Answer) -> Iterator[RenderableType]:
    """The study, then a block for each rule."""
    study = answer.study
    held = f"{study.instance_count} instances in {study.series_count} series"
    title = Text(f"Study {short(study.study_instance_uid)}", style="bold")
    title.append(f"  {cell('', study.study_description)}, {cell('', study.study_date)}", style="")
    yield title
    yield Text(f"{held}, {_evaluated(study)}", style="dim")
    yield from _whole(study)
    if not answer.rules:
        yield Text("There are no rules; `osteonode rules add --help` shows how to make one.")
    known = {one.series_instance_uid: one for one in answer.series}
    done = {one.workitem_uid: one for one in answer.workitems}
    for verdict in answer.rules:
        yield Text()
        yield from _rule(verdict, known, done)


def _evaluated(study: Study) -> str:
    if study.evaluated_revision == 0:
        return "not evaluated yet"
    if study.evaluated_revision < study.revision:
        return "evaluated before the last of them came"
    return "evaluated as they are"


def _whole(study: Study) -> Iterator[RenderableType]:
    """The verdict on its completeness, as it was stored."""
    if study.held is not None:
        who = f"Held by {study.held.by} since {local(study.held.at)}"
        why = f": {cell('', study.held.reason)}" if study.held.reason else ""
        yield _marked("!", "yellow", Text(f"{who}{why}; `osteonode studies release` ends that"))
    if study.verdict is None:
        return
    mark, style = ("✓", "green") if study.verdict.whole else ("…", "yellow")
    again = study.verdict.look_again_at
    until = f"; looked at again {local(again)}" if again is not None else ""
    yield _marked(mark, style, Text(f"{sum_up(study.verdict).capitalize()}{until}"))
    for reason in study.verdict.reasons:
        yield _indented(Text(cell("", reason.sentence), style="dim"), 2)


def _rule(
    verdict: RuleVerdict, known: Mapping[str, Series], done: Mapping[str, Workitem]
) -> Iterator[RenderableType]:
    mark, style = _MARKS[verdict.code] if verdict.enabled else ("○", "dim")
    head = Text(f"{mark} {verdict.rule}", style=f"bold {style}")
    head.append(f" → {verdict.pipeline}", style="not dim bold default")
    yield Line(head, align="left", style="dim", characters="─")
    yield _indented(Text(_said(verdict, known)), 2)
    for uid in verdict.workitems:
        ran = done[uid]
        ended = f", {local(ran.ended_at)}" if ran.ended_at else ""
        why = f": {cell('', ran.reason)}" if ran.reason else ""
        yield _indented(Text(f"Workitem {short(uid)} {ran.state.value}{ended}{why}"), 2)
    for one in verdict.series:
        yield _indented(_series(one, known), 2)
    if verdict.to_change:
        yield _indented(_to_change(verdict.to_change), 2)


def _said(verdict: RuleVerdict, known: Mapping[str, Series]) -> str:
    """The rule in a sentence."""
    foreign = sum(not one.own for one in known.values())
    takes = sum(
        one.code == verdict.code and one.series_instance_uid != "" for one in verdict.series
    )
    match verdict.code:
        case DecisionCode.UNFIT:
            what = _NOWHERE
        case DecisionCode.WAITS if verdict.waits_until:
            until = local(verdict.waits_until)
            what = f"waits for {' and '.join(verdict.waits_for)} until {until}"
        case DecisionCode.HELD:
            what = "is held"
        case DecisionCode.NOT_INSTALLED:
            what = "cannot run: its pipeline is not installed"
        case _:
            what = f"runs on {takes} of {foreign} series"
    off = "" if verdict.enabled else "off; if it were on, it "
    return f"{off}{what} (version {verdict.version}, priority {verdict.priority})"


def _series(one: SeriesVerdict, known: Mapping[str, Series]) -> RenderableType:
    mark, style = _MARKS.get(one.code, ("?", ""))
    series = known.get(one.series_instance_uid)
    head = Text()
    if series is None:
        head.append(f"no series as {one.role}", style="bold")
    else:
        described = series.header.get("SeriesDescription", ())
        head.append(f"{series.modality} {short(series.series_instance_uid)}", style="bold")
        head.append(f"  {cell('', described[0]) if described else '-'}")
        head.append(f", {series.facts.get('slices', series.instance_count)} slices", style="dim")
        head.append(f", as {one.role}" if one.role else "", style="dim")
    head.append(f"  {_SAID.get(one.code, one.code)}", style=style)
    parts: list[RenderableType] = [_marked(mark, style, head)]
    if one.clauses:
        parts.append(_indented(_clauses(one.clauses), 2))
    elif series is None:
        parts.append(_indented(Text(cell("", one.reason), style="dim"), 2))
    return Group(*parts)


def _clauses(clauses: Sequence[ClauseVerdict]) -> Table:
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=1)
    grid.add_column(ratio=3, overflow="fold")
    grid.add_column(ratio=2, overflow="fold")
    grid.expand = True
    for one in clauses:
        mark = Text("✓", style="green") if one.holds else Text("✗", style="red")
        grid.add_row(
            mark,
            Text(cell("", one.clause), style="" if one.holds else "bold"),
            Text(cell("", one.seen), style="dim" if one.holds else "red"),
        )
    return grid


def _to_change(lines: Sequence[str]) -> RenderableType:
    things = "1 thing" if len(lines) == 1 else f"{len(lines)} things"
    head = Text(f"To change, {things} at least:", style="bold")
    return Group(head, *(_marked("→", "cyan", Text(cell("", line))) for line in lines))


def _marked(mark: str, style: str, text: RenderableType) -> Table:
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=1)
    grid.add_column(overflow="fold")
    grid.add_row(Text(mark, style=style), text)
    return grid


def _indented(part: RenderableType, by: int) -> Padding:
    return Padding(part, (0, 0, 0, by))
