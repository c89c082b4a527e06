"""`osteonode rules export` and `osteonode rules import`: all rules as TOML."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from node.cli.common import actor, opened
from node.cli.rule_parts import check_rules
from node.errors import RuleError


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

    wanted = parse_rules(read_text(file), source=str(file))
    with opened(ctx) as index:
        check_rules(ctx, index, wanted)
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


def read_text(file: Path) -> str:
    """What a file says; - reads standard input.

    Raises
    ------
    RuleError
    """
    try:
        return sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RuleError(f"{file}: {error}") from error
