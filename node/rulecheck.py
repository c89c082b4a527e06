"""What is wrong with rules as they stand: what can never run, gets in another's way, or is missing. Pure.

error      a rule in force that can never run, or whose results can go nowhere
warning    the same of one that is off; two rules that make two results of one series, or one twice; names alike
note       two rules that share a run, wishes that choose nothing, pipelines that no rule in force wants
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import combinations

from node.contradiction import demanded, find_contradictions
from node.errors import RuleError
from node.preference import check_wishes
from node.replay import Found
from node.routing import Clause, check_rule, parse_clause, wanted_roles
from pipelines.manifest import Manifest
from storage.model import Rule


class Level(StrEnum):
    """How bad it is."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong, and what to do."""

    level: Level
    code: str
    #: The rules it is about; none for a pipeline that no rule wants.
    rules: tuple[str, ...]
    pipeline: str
    #: A sentence.
    text: str


def check_rules(
    rules: Sequence[Rule],
    manifests: Mapping[str, Manifest],
    destinations: Collection[str],
    found: Mapping[str, Found],
) -> tuple[Problem, ...]:
    """Everything that is wrong, the worst first.

    Parameters
    ----------
    destinations
        Names of those there are.
    found
        What each rule makes of the studies held, by name (`node.replay.find_runs`).
    """
    problems = [
        *(one for rule in rules for one in _check_one(rule, manifests, destinations)),
        *_check_pairs(rules, manifests, found),
        *_check_names(rules),
        *_check_pipelines(rules, manifests),
    ]
    order = list(Level)
    return tuple(sorted(problems, key=lambda one: (order.index(one.level), one.rules, one.code)))


def _check_one(
    rule: Rule, manifests: Mapping[str, Manifest], destinations: Collection[str]
) -> Iterator[Problem]:
    """A rule by itself."""
    level = Level.ERROR if rule.enabled else Level.WARNING

    def problem(code: str, text: str, at: Level = level) -> Problem:
        return Problem(level=at, code=code, rules=(rule.name,), pipeline=rule.pipeline, text=text)

    for name in rule.destinations:
        if name not in destinations:
            text = f"Its destination {name} does not exist: add it, or edit the rule with --to."
            yield problem("destination-missing", text)
    manifest = manifests.get(rule.pipeline)
    if manifest is None:
        text = f"Its pipeline {rule.pipeline} is not installed: add its folder, or remove the rule."
        yield problem("pipeline-missing", text)
        return
    try:
        check_rule(rule, manifests)
        check_wishes(rule)
    except RuleError as error:
        yield problem("invalid", str(error))
        return
    impossible = {
        role: said
        for role in wanted_roles(rule, manifest)
        if (said := _never(rule, manifest, role))
    }
    for role, said in impossible.items():
        can_go_without = role in rule.without and impossible.keys() != set(
            wanted_roles(rule, manifest)
        )
        as_role = f" as {role}" if len(manifest.inputs) > 1 else ""
        text = f"No series can ever fit{as_role}: {said} cannot hold together."
        yield problem("never-matches", text, Level.WARNING if can_go_without else level)
    if rule.prefer and rule.each and len(wanted_roles(rule, manifest)) == 1:
        text = "`each` runs on every series that fits: its wishes choose nothing."
        yield problem("wishes-idle", text, Level.NOTE)


def _never(rule: Rule, manifest: Manifest, role: str) -> str:
    """The clauses that rule out every series for a role, said; empty where none do."""
    own = _clauses(rule, role)
    theirs = demanded(manifest.inputs[role])
    return "; ".join(
        " and ".join(
            f"`{one}`" + (" (of the pipeline)" if one in theirs else "") for one in clauses
        )
        for clauses in find_contradictions((*own, *theirs))
    )


def _clauses(rule: Rule, role: str) -> tuple[Clause, ...]:
    return tuple(parse_clause(text) for text in (*rule.where, *rule.roles.get(role, ())))


# -- several rules --------------------------------------------------------------------------------


def _check_pairs(
    rules: Sequence[Rule], manifests: Mapping[str, Manifest], found: Mapping[str, Found]
) -> Iterator[Problem]:
    """Two rules in force that run one pipeline on the same series."""
    for one, other in combinations((rule for rule in rules if rule.enabled), 2):
        manifest = manifests.get(one.pipeline)
        if manifest is None or one.pipeline != other.pipeline:
            continue
        mine, theirs = _taken(found.get(one.name)), _taken(found.get(other.name))
        if shared := mine & theirs:
            studies = sorted({study for study, _ in shared})
            count = f"{len(shared)} series" if len(shared) > 1 else "a series"
            where = (
                f"{count} held ({len(mine)} and {len(theirs)} of each), as in study {studies[-1]}"
            )
        elif _is_within(one, other, manifest) or _is_within(other, one, manifest):
            where = "the same series, as their clauses say"
        else:
            continue
        yield _conflict(one, other, where)


def _conflict(one: Rule, other: Rule, where: str) -> Problem:
    what = f"Both run {one.pipeline} on {where}: "
    if dict(one.parameters) != dict(other.parameters):
        level, code = Level.WARNING, "conflict"
        what += (
            "with other parameters, so each gives two results. Keep one, or part them by a clause."
        )
    elif set(one.destinations) == set(other.destinations):
        level, code = Level.WARNING, "redundant"
        what += (
            "with the same parameters, for the same destinations. One of them does nothing there."
        )
    else:
        level, code = Level.NOTE, "shared-run"
        what += "it runs once, and goes to the destinations of both."
    names = (one.name, other.name)
    return Problem(level=level, code=code, rules=names, pipeline=one.pipeline, text=what)


def _taken(found: Found | None) -> set[tuple[str, str]]:
    """The series that runs begin with; partners may be shared."""
    return {(run.study_instance_uid, run.inputs[0][1]) for run in found.runs} if found else set()


def _is_within(one: Rule, other: Rule, manifest: Manifest) -> bool:
    """Whether `other` certainly runs on what `one` runs on, as their clauses and wishes say."""
    roles = wanted_roles(one, manifest)
    try:
        mine = {role: set(_clauses(one, role)) for role in roles}
        theirs = {role: set(_clauses(other, role)) for role in wanted_roles(other, manifest)}
        if any(_never(one, manifest, role) for role in roles):
            return False
    except RuleError:
        return False
    if mine == theirs:
        return other.each or (one.prefer == other.prefer and not one.each)
    return other.each and mine.keys() == theirs.keys() and all(theirs[r] <= mine[r] for r in roles)


def _check_names(rules: Sequence[Rule]) -> Iterator[Problem]:
    for one, other in combinations(rules, 2):
        if one.name.casefold() == other.name.casefold():
            text = f"Rules {one.name} and {other.name} have the same name but for case: who means which?"
            names = (one.name, other.name)
            yield Problem(
                level=Level.ERROR if one.name == other.name else Level.WARNING,
                code="name-twice",
                rules=names,
                pipeline=one.pipeline,
                text=text,
            )


def _check_pipelines(rules: Sequence[Rule], manifests: Mapping[str, Manifest]) -> Iterator[Problem]:
    wanted = {rule.pipeline for rule in rules if rule.enabled}
    for name in sorted(manifests.keys() - wanted):
        text = f"No rule in force wants pipeline {name}: it never runs."
        yield Problem(level=Level.NOTE, code="unreachable", rules=(), pipeline=name, text=text)
