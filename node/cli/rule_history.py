"""`osteonode rules history`, `rules rollback` and `rules check`: what rules were, and whether they are sound."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from node.cli.common import AsJson, ExitCode, actor, opened, read_config
from node.cli.output import cell, console, local, row, show_json
from node.cli.rule_parts import check_rules
from storage.model import utcnow

if TYPE_CHECKING:
    from node.rulecheck import Problem
    from node.rulediff import FieldChange

_STYLES = {"error": "bold red", "warning": "yellow", "note": "cyan"}


def history(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the rule.")],
    as_json: AsJson = False,
) -> None:
    """Show who changed a rule when, and what each change took away and put there; a removed one too.

    Example: `osteonode rules history skeleton`
    """
    from node.rulediff import diffs
    from storage.index import rules

    with opened(ctx) as index:
        changes = rules.history(index, name)
    made = diffs(changes)
    if as_json:
        show_json([row(one) | {"diff": what} for one, what in zip(changes, made, strict=True)])
        return
    out = console()
    for change, what in zip(changes, made, strict=True):
        head = Text(f"Version {change.version}", style="bold")
        head.append(f"  {change.action}", style="")
        head.append(f"  {local(change.changed_at)}  {cell('', change.actor)}", style="dim")
        out.print(head)
        grid = Table.grid(padding=(0, 1))
        grid.add_column(width=2)
        grid.add_column()
        grid.add_column(overflow="fold")
        for sign, style, field, line in _lines(what):
            shown = Text(cell("", line), style=style)
            grid.add_row(Text(f" {sign}", style=style), Text(field, style="dim"), shown)
        out.print(grid)


def _lines(changes: Sequence[FieldChange]) -> Iterator[tuple[str, str, str, str]]:
    for change in changes:
        name = change.field.removesuffix("_s").replace("_", " ")
        yield from (("-", "red", name, line) for line in change.removed)
        yield from (("+", "green", name, line) for line in change.added)


def rollback(
    ctx: typer.Context,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Name of the rule, or of a removed one.")
    ],
    to: Annotated[
        int, typer.Option("--to", metavar="VERSION", min=1, help="As `rules history` numbers them.")
    ],
) -> None:
    """Put a rule back as it was in an earlier version; that is a new version, and nothing is forgotten.

    Example: `osteonode rules rollback skeleton --to 3`
    """
    from storage.index import rules

    with opened(ctx) as index:
        old = next((one for one in rules.history(index, name) if one.version == to), None)
        if old is not None and old.rule is not None:
            # What it names may have gone since.
            check_rules(ctx, index, [old.rule])
        restored = rules.restore(index, name, to, actor=actor())
    state = "in force" if restored.enabled else "off until enabled"
    print(
        f"Rule {name} is as it was in version {to}, now version {restored.version}; it is {state}."
    )


def check(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Say what is wrong with the rules as they stand: rules that can never run, two that run a pipeline on the same
    series, destinations and pipelines that are gone, pipelines that no rule wants.

    Two clauses that no series can meet together are found where that can be decided; two regular expressions are not
    compared. Which series two rules share is looked up in the studies held. Exit code 1 when there is an error.

    Example: `osteonode rules check --json`
    """
    from node.rulecheck import check_rules as find_problems
    from pipelines.registry import find_pipelines
    from storage.index import destinations, rules

    manifests = find_pipelines(read_config(ctx).pipelines.folders).manifests
    with opened(ctx) as index:
        held = rules.list_rules(index)
        names = {one.name for one in destinations.list_destinations(index)}
        from node.replay import find_held

        found = find_held(index, held, manifests, now=utcnow())
    problems = find_problems(held, manifests, names, found)
    if as_json:
        show_json(problems)
    else:
        _show(problems, len(held))
    if any(one.level == "error" for one in problems):
        raise typer.Exit(ExitCode.FAILED)


def _show(problems: Sequence[Problem], count: int) -> None:
    grid = Table.grid(padding=(0, 2))
    grid.add_column()
    grid.add_column()
    grid.add_column(overflow="fold")
    for one in problems:
        about = ", ".join(one.rules) or one.pipeline
        level = Text(one.level.value, style=_STYLES[one.level])
        grid.add_row(level, Text(about, style="bold"), Text(cell("", one.text)))
    if problems:
        console().print(grid)
    bad = sum(one.level != "note" for one in problems)
    found = "nothing is wrong" if not bad else "1 problem" if bad == 1 else f"{bad} problems"
    print(f"{count} rule{'' if count == 1 else 's'}: {found}.")
