"""`osteonode rules`: what shall run."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from node.cli.common import AsJson, actor, opened, parse_parameters, read_config
from node.cli.output import form, row, show_fields, show_json, show_list
from node.errors import RuleError
from storage.model import Rule

if TYPE_CHECKING:
    from storage.index import Index

app = typer.Typer(
    name="rules", help="What shall run: rules on DICOM keywords.", no_args_is_help=True
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the rule.")]
_WHERE_HELP = "A clause, `Keyword operator value`; all must hold. Repeat for more."
_TO_HELP = "Destination of the results, by name. Repeat for more."
_PARAMETER_HELP = "NAME=VALUE, over the pipeline's default. Repeat for more."
_COLUMNS = ("name", "enabled", "priority", "pipeline", "where", "destinations", "version")


@app.command("list")
def list_(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List all rules, most urgent first.

    Example: `osteonode rules list --json`
    """
    from storage.index import rules

    with opened(ctx) as index:
        found = sorted(rules.list_rules(index), key=lambda rule: (-rule.priority, rule.name))
    show_list(
        [row(rule) for rule in found],
        _COLUMNS,
        as_form=form(as_json=as_json),
        empty="There are no rules; `osteonode rules add --help` shows how to make one.",
    )


@app.command()
def show(ctx: typer.Context, name: Name, as_json: AsJson = False) -> None:
    """Show one rule.

    Example: `osteonode rules show skeleton`
    """
    from storage.index import rules

    with opened(ctx) as index:
        rule = rules.get(index, name)
    if as_json:
        show_json(rule)
    else:
        show_fields(row(rule) | {"where": "\n".join(rule.where)})


@app.command()
def add(
    ctx: typer.Context,
    name: Name,
    pipeline: Annotated[str, typer.Option("--pipeline", help="The pipeline that shall run.")],
    where: Annotated[list[str], typer.Option("--where", metavar="CLAUSE", help=_WHERE_HELP)],
    to: Annotated[list[str], typer.Option("--to", metavar="DESTINATION", help=_TO_HELP)],
    priority: Annotated[int, typer.Option(min=0, max=100, help="100 runs first.")] = 50,
    parameter: Annotated[
        list[str] | None, typer.Option("--parameter", metavar="NAME=VALUE", help=_PARAMETER_HELP)
    ] = None,
    disabled: Annotated[bool, typer.Option("--disabled", help="Add it switched off.")] = False,
) -> None:
    """Add a rule.

    Operators: `=` `!=`, `~` `!~` (regular expression found anywhere, or not), `<` `<=` `>` `>=` (numbers), `in`
    (one of a list: `Modality in CT, PT`), `exists`, `missing`. Keywords are DICOM's (`Modality`, `SeriesDescription`,
    `StationName` ...) or `calling_ae`, `instances`, `slices`, `slice_gap_mm`, `slice_gap_irregular_mm`.

    Example:

    `osteonode rules add skeleton --pipeline ct_skeleton --to PACS --priority 50 --where 'Modality = CT' --where
    'SeriesDescription ~ (?i)bone|body'`
    """
    from storage.index import rules

    rule = Rule(
        name=name,
        pipeline=pipeline,
        where=tuple(where),
        destinations=tuple(to),
        priority=priority,
        enabled=not disabled,
        parameters=parse_parameters(parameter or ()),
    )
    with opened(ctx) as index:
        _check(ctx, index, [rule])
        rules.add(index, rule, actor=actor())
    print(f"Rule {name} is {'off until enabled' if disabled else 'in force'}.")


@app.command()
def edit(
    ctx: typer.Context,
    name: Name,
    pipeline: Annotated[str | None, typer.Option("--pipeline", help="Another pipeline.")] = None,
    where: Annotated[
        list[str] | None,
        typer.Option("--where", metavar="CLAUSE", help=f"{_WHERE_HELP} Replaces all clauses."),
    ] = None,
    to: Annotated[
        list[str] | None,
        typer.Option("--to", metavar="DESTINATION", help=f"{_TO_HELP} Replaces all destinations."),
    ] = None,
    priority: Annotated[int | None, typer.Option(min=0, max=100, help="100 runs first.")] = None,
    parameter: Annotated[
        list[str] | None,
        typer.Option(
            "--parameter", metavar="NAME=VALUE", help=f"{_PARAMETER_HELP} Replaces all parameters."
        ),
    ] = None,
) -> None:
    """Change a rule; what is not given stays. The change is a new version; studies evaluated before are not touched.

    Example: `osteonode rules edit skeleton --priority 80 --where 'Modality = CT' --where 'SliceThickness <= 3'`
    """
    from storage.index import rules

    with opened(ctx) as index:
        old = rules.get(index, name)
        new = replace(
            old,
            pipeline=old.pipeline if pipeline is None else pipeline,
            where=tuple(where) if where else old.where,
            destinations=tuple(to) if to else old.destinations,
            priority=old.priority if priority is None else priority,
            parameters=parse_parameters(parameter) if parameter else old.parameters,
        )
        if new == old:
            raise typer.BadParameter(
                "nothing to change; give --pipeline, --where, --to, --priority or --parameter."
            )
        _check(ctx, index, [new])
        changed = rules.edit(index, new, actor=actor())
    print(f"Rule {name} is now version {changed.version}.")


@app.command()
def remove(ctx: typer.Context, name: Name) -> None:
    """Remove a rule; its history stays.

    Example: `osteonode rules remove skeleton`
    """
    from storage.index import rules

    with opened(ctx) as index:
        rules.remove(index, name, actor=actor())
    print(f"Rule {name} is removed.")


@app.command()
def enable(ctx: typer.Context, name: Name) -> None:
    """Switch a rule on, for studies evaluated from now on.

    Example: `osteonode rules enable skeleton`
    """
    from storage.index import rules

    with opened(ctx) as index:
        # What it names may have gone while it was off.
        _check(ctx, index, [rules.get(index, name)])
        rules.enable(index, name, actor=actor())
    print(f"Rule {name} is on.")


@app.command()
def disable(ctx: typer.Context, name: Name) -> None:
    """Switch a rule off; what it already started goes on.

    Example: `osteonode rules disable skeleton`
    """
    from storage.index import rules

    with opened(ctx) as index:
        rules.disable(index, name, actor=actor())
    print(f"Rule {name} is off.")


@app.command()
def export(
    ctx: typer.Context,
    file: Annotated[
        Path | None, typer.Argument(help="File to write; else standard output.")
    ] = None,
) -> None:
    """Write all rules as TOML, for a repository or another node.

    Example: `osteonode rules export rules.toml`
    """
    from node.rulefile import dump_rules
    from storage.index import rules

    with opened(ctx) as index:
        text = dump_rules(rules.list_rules(index))
    if file is None:
        sys.stdout.write(text)
        return
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise typer.BadParameter(f"{file}: {error.strerror}") from error


@app.command("import")
def import_(
    ctx: typer.Context,
    file: Annotated[
        Path, typer.Argument(help="TOML as `rules export` writes it; - reads standard input.")
    ],
    replace_all: Annotated[
        bool, typer.Option("--replace", help="Remove the rules that the file does not name.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would change, change nothing.")
    ] = False,
) -> None:
    """Add and change rules from TOML. All are checked before the first is written.

    Example: `osteonode rules import rules.toml --dry-run`
    """
    from node.rulefile import parse_rules
    from storage.index import rules

    wanted = parse_rules(_read(file), source=str(file))
    with opened(ctx) as index:
        _check(ctx, index, wanted)
        held = {rule.name: rule for rule in rules.list_rules(index)}
        added = [rule for rule in wanted if rule.name not in held]
        changed = [
            rule
            for rule in wanted
            if rule.name in held and rule != replace(held[rule.name], version=rule.version)
        ]
        removed = sorted(held.keys() - {rule.name for rule in wanted}) if replace_all else []
        if not dry_run:
            for rule in added:
                rules.add(index, rule, actor=actor())
            for rule in changed:
                rules.edit(index, rule, actor=actor())
            for name in removed:
                rules.remove(index, name, actor=actor())
    for verb, names in (
        ("add", [rule.name for rule in added]),
        ("change", [rule.name for rule in changed]),
        ("remove", removed),
    ):
        for name in names:
            print(f"{'would ' if dry_run else ''}{verb} {name}")
    if not (added or changed or removed):
        print("Nothing to change.")


@app.command()
def history(
    ctx: typer.Context,
    name: Name,
    as_json: AsJson = False,
) -> None:
    """Show who changed a rule when, and what it was then; a removed one too.

    Example: `osteonode rules history skeleton`
    """
    from storage.index import rules

    with opened(ctx) as index:
        changes = rules.history(index, name)
    if as_json:
        show_json(changes)
        return
    rows = [
        row(change, leave_out=("rule",))
        | {
            "where": change.rule.where if change.rule else "",
            "to": change.rule.destinations if change.rule else "",
        }
        for change in changes
    ]
    columns = ("changed_at", "version", "action", "actor", "where", "to")
    show_list(rows, columns, as_form=form(as_json=False), empty="There never was a rule.")


def _check(ctx: typer.Context, index: Index, wanted: Iterable[Rule]) -> None:
    """Refuse rules that could never run, or whose results could go nowhere.

    Raises
    ------
    RuleError
    """
    import re

    from node.routing import check_rule
    from node.rulefile import NAME
    from pipelines.registry import find_pipelines
    from storage.index import destinations

    manifests = find_pipelines(read_config(ctx).pipelines.folders).manifests
    known = [destination.name for destination in destinations.list_destinations(index)]
    for rule in wanted:
        if re.fullmatch(NAME, rule.name) is None:
            raise RuleError(
                f"{rule.name!r} is no name for a rule: letters, digits, `_`, `.` and `-`."
            )
        check_rule(rule, manifests)
        for name in rule.destinations:
            if name not in known:
                raise RuleError(
                    f"Rule {rule.name!r}: no destination {name!r}; there is {', '.join(known) or 'none'} "
                    "(`osteonode destinations add` makes one)."
                )


def _read(file: Path) -> str:
    try:
        return sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RuleError(f"{file}: {error}") from error
