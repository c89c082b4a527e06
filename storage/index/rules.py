"""Rules: each change is a version, kept for good, with who made it and when."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, and_, delete, func, insert, select, update

from storage import tables
from storage.errors import ChangeRefused, NotFound
from storage.index.engine import Index
from storage.index.events import insert_event
from storage.index.values import insert_or_ignore
from storage.model import HOLD, PRIOR_DAYS, WAIT_S, Event, Rule, RuleChange, utcnow

_table = tables.rules


def add(index: Index, rule: Rule, *, actor: str, now: datetime | None = None) -> Rule:
    """Add a rule; as stored, with its version. A name that was used before goes on counting.

    Raises
    ------
    ChangeRefused, NotFound
        The name is taken; or a destination is unknown.
    """
    with index.begin() as connection:
        _require_destinations(connection, rule)
        added = replace(rule, version=_next_version(connection, rule.name))
        if not insert_or_ignore(connection, _table, _to_row(added)):
            raise ChangeRefused(f"There is a rule {rule.name} already; edit it.")
        _record(connection, _change(added, "added", actor, now))
    return added


def edit(index: Index, rule: Rule, *, actor: str, now: datetime | None = None) -> Rule:
    """Replace the rule of the same name; as stored, with its new version.

    Raises
    ------
    NotFound
        No such rule, or a destination is unknown.
    """
    with index.begin() as connection:
        _get(connection, rule.name, lock=True)
        _require_destinations(connection, rule)
        return _replace(connection, rule, "edited", actor, now)


def enable(index: Index, name: str, *, actor: str, now: datetime | None = None) -> Rule:
    """Let a rule take part in evaluations; nothing changes when it does."""
    return _switch(index, name, enabled=True, actor=actor, now=now)


def disable(index: Index, name: str, *, actor: str, now: datetime | None = None) -> Rule:
    """Let a rule rest; nothing changes when it does."""
    return _switch(index, name, enabled=False, actor=actor, now=now)


def remove(index: Index, name: str, *, actor: str, now: datetime | None = None) -> None:
    """Remove a rule; its history stays."""
    with index.begin() as connection:
        _get(connection, name, lock=True)
        connection.execute(delete(_table).where(_table.c.name == name))
        version = _next_version(connection, name)
        change = RuleChange(
            name=name,
            version=version,
            changed_at=now or utcnow(),
            actor=actor,
            action="removed",
            rule=None,
        )
        _record(connection, change)


def restore(
    index: Index, name: str, version: int, *, actor: str, now: datetime | None = None
) -> Rule:
    """Put a rule back as it was in an earlier version, a removed one too; as stored, with its new version.

    Nothing changes when it is so already.

    Raises
    ------
    ChangeRefused, NotFound
        When that version is the rule's removal; when there is none, or a destination of it is unknown.
    """
    history = tables.rule_history
    of_version = and_(history.c.name == name, history.c.version == version)
    with index.begin() as connection:
        row = connection.execute(select(history).where(of_version)).one_or_none()
        if row is None:
            raise NotFound(f"No version {version} of rule {name}.")
        if row.rule is None:
            raise ChangeRefused(
                f"Version {version} of rule {name} is its removal; name one before."
            )
        old = _from_stored(dict(row.rule))
        _require_destinations(connection, old)
        held = connection.execute(
            select(_table).where(_table.c.name == name).with_for_update()
        ).one_or_none()
        if held is not None:
            current = _from_stored(dict(held._mapping))
            if replace(old, version=current.version) == current:
                return current
            return _replace(connection, old, "rolled-back", actor, now)
        restored = replace(old, version=_next_version(connection, name))
        if not insert_or_ignore(connection, _table, _to_row(restored)):
            raise ChangeRefused(f"Rule {name} was made again meanwhile.")
        _record(connection, _change(restored, "rolled-back", actor, now))
        return restored


def list_rules(index: Index) -> tuple[Rule, ...]:
    """All rules, disabled ones included: the highest priority first, then by name."""
    statement = select(_table).order_by(_table.c.priority.desc(), _table.c.name)
    with index.read() as connection:
        rows = connection.execute(statement)
        return tuple(_from_stored(dict(row._mapping)) for row in rows)


def get(index: Index, name: str) -> Rule:
    """The rule of that name."""
    with index.read() as connection:
        return _get(connection, name)


def history(index: Index, name: str) -> tuple[RuleChange, ...]:
    """Every change of a rule, the oldest first; removed rules have a history too.

    Raises
    ------
    NotFound
        When there never was such a rule.
    """
    table = tables.rule_history
    statement = select(table).where(table.c.name == name).order_by(table.c.version)
    with index.read() as connection:
        rows = connection.execute(statement).all()
    if not rows:
        raise NotFound(f"No rule {name}.")
    return tuple(
        RuleChange(
            name=row.name,
            version=row.version,
            changed_at=row.changed_at,
            actor=row.actor,
            action=row.action,
            rule=None if row.rule is None else _from_stored(dict(row.rule)),
        )
        for row in rows
    )


def _switch(index: Index, name: str, *, enabled: bool, actor: str, now: datetime | None) -> Rule:
    with index.begin() as connection:
        rule = _get(connection, name, lock=True)
        if rule.enabled == enabled:
            return rule
        action = "enabled" if enabled else "disabled"
        return _replace(connection, replace(rule, enabled=enabled), action, actor, now)


def _replace(
    connection: Connection, rule: Rule, action: str, actor: str, now: datetime | None
) -> Rule:
    changed = replace(rule, version=_next_version(connection, rule.name))
    connection.execute(update(_table).where(_table.c.name == rule.name).values(**_to_row(changed)))
    _record(connection, _change(changed, action, actor, now))
    return changed


def _change(rule: Rule, action: str, actor: str, now: datetime | None) -> RuleChange:
    return RuleChange(
        name=rule.name,
        version=rule.version,
        changed_at=now or utcnow(),
        actor=actor,
        action=action,
        rule=rule,
    )


def _record(connection: Connection, change: RuleChange) -> None:
    """The history's row and the log's line; studies that wait for an input are evaluated again."""
    waiting = tables.studies.c.waits_until
    connection.execute(
        update(tables.studies)
        .where(waiting > change.changed_at)
        .values(waits_until=change.changed_at)
    )
    row = {
        "name": change.name,
        "version": change.version,
        "changed_at": change.changed_at,
        "actor": change.actor,
        "action": change.action,
        "rule": None if change.rule is None else _to_row(change.rule),
    }
    connection.execute(insert(tables.rule_history), row)
    event = Event(
        kind=f"rule-{change.action}",
        actor=change.actor,
        at=change.changed_at,
        detail={"rule": change.name, "version": change.version},
    )
    insert_event(connection, event)


def _next_version(connection: Connection, name: str) -> int:
    table = tables.rule_history
    last = connection.scalar(select(func.max(table.c.version)).where(table.c.name == name))
    return int(last or 0) + 1


def _get(connection: Connection, name: str, *, lock: bool = False) -> Rule:
    statement = select(_table).where(_table.c.name == name)
    row = connection.execute(statement.with_for_update() if lock else statement).one_or_none()
    if row is None:
        raise NotFound(f"No rule {name}.")
    return _from_stored(dict(row._mapping))


def _require_destinations(connection: Connection, rule: Rule) -> None:
    table = tables.destinations
    wanted = [*rule.destinations, *([rule.prior_from] if rule.prior_from else ())]
    # Locked: none of them is removed before this rule names it.
    statement = select(table.c.name).where(table.c.name.in_(wanted))
    known = set(connection.scalars(statement.with_for_update(read=True)))
    missing = [name for name in wanted if name not in known]
    if missing:
        raise NotFound(f"No destination {', '.join(missing)}: add it before rule {rule.name}.")


def _to_row(rule: Rule) -> dict[str, Any]:
    return {
        "name": rule.name,
        "pipeline": rule.pipeline,
        "clauses": list(rule.where),
        "destinations": list(rule.destinations),
        "priority": rule.priority,
        "enabled": rule.enabled,
        "parameters": dict(rule.parameters),
        "version": rule.version,
        "roles": {role: list(clauses) for role, clauses in rule.roles.items()},
        "wait_s": rule.wait_s,
        "without": list(rule.without),
        "report_refusals": rule.report_refusals,
        "window": rule.window,
        "incomplete": rule.incomplete,
        "prefer": list(rule.prefer),
        "each": rule.each,
        "prior": rule.prior,
        "prior_days": rule.prior_days,
        "prior_from": rule.prior_from,
    }


def _from_stored(stored: dict[str, Any]) -> Rule:
    return Rule(
        name=stored["name"],
        pipeline=stored["pipeline"],
        where=tuple(stored["clauses"]),
        destinations=tuple(stored["destinations"]),
        priority=stored["priority"],
        enabled=stored["enabled"],
        parameters=stored["parameters"],
        version=stored["version"],
        # The history keeps rules as older versions wrote them.
        roles={role: tuple(clauses) for role, clauses in stored.get("roles", {}).items()},
        wait_s=stored.get("wait_s", WAIT_S),
        without=tuple(stored.get("without", ())),
        report_refusals=stored.get("report_refusals", False),
        window=stored.get("window", ""),
        incomplete=stored.get("incomplete", HOLD),
        prefer=tuple(stored.get("prefer", ())),
        # Before there was a choice, every series that fitted ran.
        each=stored.get("each", True),
        prior=stored.get("prior", ""),
        prior_days=stored.get("prior_days", PRIOR_DAYS),
        prior_from=stored.get("prior_from", ""),
    )
