"""Rules as TOML: what `rules export` writes and `rules import` reads. Pure."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from node.errors import RuleError
from storage.model import Rule

#: Names are typed on command lines and stand in tables.
NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"


class _RuleEntry(BaseModel):
    """One `[[rule]]`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str = Field(pattern=NAME)
    pipeline: str
    where: list[str] = Field(min_length=1)
    to: list[str] = Field(min_length=1)
    priority: int = Field(50, ge=0, le=100)
    enabled: bool = True
    parameters: dict[str, Annotated[str | int | float | bool, Field(union_mode="smart")]] = Field(
        default_factory=dict
    )


def dump_rules(rules: Iterable[Rule]) -> str:
    """Rules as TOML, in order of name: the same rules give the same text, so that files can be compared."""
    blocks = []
    for rule in sorted(rules, key=lambda rule: rule.name):
        lines = [
            "[[rule]]",
            f"name = {_text(rule.name)}",
            f"pipeline = {_text(rule.pipeline)}",
            "where = [",
            *(f"    {_text(clause)}," for clause in rule.where),
            "]",
            f"to = [{', '.join(_text(name) for name in rule.destinations)}]",
            f"priority = {rule.priority}",
            f"enabled = {_scalar(rule.enabled)}",
        ]
        if rule.parameters:
            inline = ", ".join(
                f"{_text(k)} = {_scalar(v)}" for k, v in sorted(rule.parameters.items())
            )
            lines.append(f"parameters = {{ {inline} }}")
        blocks.append("\n".join(lines) + "\n")
    return "\n".join(blocks)


def parse_rules(text: str, *, source: str) -> tuple[Rule, ...]:
    """Read what `dump_rules` writes; `source` names the file in messages.

    Raises
    ------
    RuleError
        Naming the rule and the key. What the clauses say is checked by `node.routing.check_rule`.
    """
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RuleError(f"{source}: {error}") from error
    blocks = raw.pop("rule", None)
    if raw or not isinstance(blocks, list):
        raise RuleError(f"{source}: is not a list of [[rule]] tables.")
    rules = tuple(_read_entry(block, position, source) for position, block in enumerate(blocks, 1))
    names = [rule.name for rule in rules]
    for name in names:
        if names.count(name) > 1:
            raise RuleError(f"{source}: there are two rules {name!r}.")
    return rules


def _read_entry(block: Mapping[str, object], position: int, source: str) -> Rule:
    try:
        entry = _RuleEntry.model_validate(block)
    except ValidationError as error:
        label = block.get("name", f"number {position}")
        places = "; ".join(
            f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}"
            for item in error.errors()
        )
        raise RuleError(f"{source}: rule {label}: {places}") from error
    return Rule(
        name=entry.name,
        pipeline=entry.pipeline,
        where=tuple(entry.where),
        destinations=tuple(entry.to),
        priority=entry.priority,
        enabled=entry.enabled,
        parameters=entry.parameters,
    )


def _scalar(value: str | int | float | bool) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return _text(value) if isinstance(value, str) else repr(value)


def _text(value: str) -> str:
    """A TOML string: literal (no escapes: regular expressions stay readable) where it can be, else basic."""
    if "'" not in value and value.isprintable():
        return f"'{value}'"
    # JSON's escapes are TOML's, but for DEL, which TOML wants escaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
