"""What changed between two versions of a rule, line by line. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from node.rulefile import format_wait
from storage.model import Rule, RuleChange

#: What names a version is no part of what it says.
_NAMES = frozenset(("name", "version"))


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldChange:
    """What a change took from one field of a rule, and what it put there."""

    field: str
    removed: tuple[str, ...]
    added: tuple[str, ...]


def diff(old: Rule | None, new: Rule | None) -> tuple[FieldChange, ...]:
    """Field by field; None stands for a rule that is not there, which says nothing."""
    before, after = _lines(old), _lines(new)
    changes = []
    for name in dict.fromkeys((*before, *after)):
        was, is_ = before.get(name, ()), after.get(name, ())
        if was == is_:
            continue
        removed = tuple(line for line in was if line not in is_)
        added = tuple(line for line in is_ if line not in was)
        # The same lines in another order: wishes are ordered.
        moved = not removed and not added
        changes.append(
            FieldChange(
                field=name,
                removed=was if moved else removed,
                added=is_ if moved else added,
            )
        )
    return tuple(changes)


def diffs(history: Sequence[RuleChange]) -> list[tuple[FieldChange, ...]]:
    """Of each version of a history against the one before it."""
    rules = [None, *(change.rule for change in history)]
    return [diff(old, change.rule) for old, change in zip(rules, history, strict=False)]


def _lines(rule: Rule | None) -> dict[str, tuple[str, ...]]:
    """Each field as lines of text, in words of the command line."""
    if rule is None:
        return {}
    said = {
        one.name: _said(getattr(rule, one.name)) for one in fields(rule) if one.name not in _NAMES
    }
    said["wait_s"] = (format_wait(rule.wait_s),)
    return said


def _said(value: object) -> tuple[str, ...]:
    match value:
        case bool():
            return ("yes" if value else "no",)
        case Mapping():
            return tuple(line for key, item in value.items() for line in _entry(str(key), item))
        case tuple() | list():
            return tuple(str(item) for item in value)
        case _:
            return (str(value),)


def _entry(key: str, item: object) -> tuple[str, ...]:
    if isinstance(item, tuple | list):
        return tuple(f"{key}: {one}" for one in item) or (key,)
    return (f"{key} = {item!r}",)
