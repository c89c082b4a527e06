"""What the commands on rules share: options -> a rule, a rule -> a line, and whether it can be followed."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import TYPE_CHECKING

import typer

from node.cli.common import read_config
from node.cli.output import row
from node.errors import RuleError
from storage.model import HOLD, RUN, WAIT_S, Rule

if TYPE_CHECKING:
    from storage.index import Index


class Incomplete(StrEnum):
    """What a rule does with a series that lacks slices."""

    HOLD = HOLD
    RUN = RUN


def parse_roles(given: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """`ct: SliceThickness <= 3` or `ct` -> clauses by role; what is no role is told by `check_rule`."""
    roles: dict[str, tuple[str, ...]] = {}
    for text in given:
        role, _, clause = (part.strip() for part in text.partition(":"))
        roles[role] = roles.get(role, ()) + ((clause,) if clause else ())
    return roles


def show_rule(rule: Rule) -> dict[str, object]:
    """A rule for people: what concerns inputs in words, where it says anything of them."""
    from node.rulefile import format_wait

    inputs = [
        f"{role}: {' and '.join(clauses)}" if clauses else role
        for role, clauses in rule.roles.items()
    ]
    if inputs or rule.without or rule.incomplete == RUN or rule.wait_s != WAIT_S:
        then = f"run without {' or '.join(rule.without)}" if rule.without else "hold"
        inputs.append(f"wait {format_wait(rule.wait_s)}, then {then}")
    if rule.incomplete == RUN:
        inputs.append("run on what has no gap")
    told = ("roles", "wait_s", "without", "incomplete")
    return row(rule, leave_out=told) | {"inputs": "; ".join(inputs)}


def check_rules(ctx: typer.Context, index: Index, wanted: Iterable[Rule]) -> None:
    """Refuse rules that could never run, or whose results could go nowhere.

    Raises
    ------
    RuleError
    """
    import re

    from node.preference import check_wishes
    from node.routing import check_rule
    from node.rulefile import NAME
    from pipelines.registry import find_pipelines
    from storage.index import destinations

    manifests = find_pipelines(read_config(ctx).pipelines.folders).manifests
    listed = destinations.list_destinations(index)
    known = [destination.name for destination in listed]
    by_web = {destination.name for destination in listed if destination.is_web}
    for rule in wanted:
        if re.fullmatch(NAME, rule.name) is None:
            raise RuleError(
                f"{rule.name!r} is no name for a rule: letters, digits, `_`, `.` and `-`."
            )
        check_rule(rule, manifests)
        check_wishes(rule)
        if rule.prior_from and not rule.prior:
            raise RuleError(
                f"Rule {rule.name!r}: --prior-from does nothing without --compare-prior."
            )
        if rule.prior_from in by_web:
            raise RuleError(
                f"Rule {rule.name!r}: --prior-from {rule.prior_from}: a DICOMweb service is sent to, not fetched from; "
                "name a remote AE."
            )
        for name in filter(None, (*rule.destinations, rule.prior_from)):
            if name not in known:
                raise RuleError(
                    f"Rule {rule.name!r}: no destination {name!r}; there is {', '.join(known) or 'none'} "
                    "(`osteonode destinations add` makes one)."
                )


def parse_time(text: str) -> int:
    """The seconds of `--wait`.

    Raises
    ------
    RuleError
    """
    from node.rulefile import parse_wait

    return parse_wait(text)
