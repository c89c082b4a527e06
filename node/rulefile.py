"""Rules as TOML: what `rules export` writes and `rules import` reads. Pure.

What most rules leave alone is written only where it is said:

    report_refusals = true          a report that says why when a run is refused or fails
    prior = 'compare'               the report says what has changed since the patient's study before
    prior_days = 365                how many days that study may lie back
    prior_from = 'PACS'             destination that is asked for it where this node has no result of it
    wait = '30m'                    how long a study waits for an input that is missing
    prefer = ['most slices']        which of several series that fit is taken, the first wish first
    each = true                     every series that fits the first input runs, not only the one preferred
    without = ['ct']                inputs that a run may go without when the wait is over; none: it is held
    window = 'mon-fri 20:00-06:00'  when its workitems may start (`node.windows`)
    incomplete = 'run'              what becomes of a series that lacks slices then; not said: it is held
    [rule.roles]                    inputs that are wanted, each with clauses of its own; none named: all
    'ct' = ['SliceThickness <= 3']
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from node.errors import RuleError
from storage.model import HOLD, PRIOR_DAYS, WAIT_S, Parameters, Rule

#: Names are typed on command lines and stand in tables.
NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"

_UNITS: Mapping[str, int] = {"s": 1, "m": 60, "h": 3600, "d": 86400}
LONGEST_WAIT_S = 31 * 86400
#: A hundred years.
MOST_PRIOR_DAYS = 36500


class _RuleEntry(BaseModel):
    """One `[[rule]]`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str = Field(pattern=NAME)
    pipeline: str
    where: list[str]
    to: list[str] = Field(min_length=1)
    priority: int = Field(50, ge=0, le=100)
    enabled: bool = True
    parameters: dict[str, Annotated[str | int | float | bool, Field(union_mode="smart")]] = Field(
        default_factory=dict
    )
    wait: str = ""
    without: list[str] = Field(default_factory=list)
    roles: dict[str, list[str]] = Field(default_factory=dict)
    report_refusals: bool = False
    window: str = ""
    incomplete: Literal["hold", "run"] = "hold"
    prefer: list[str] = Field(default_factory=list)
    each: bool = False
    prior: Literal["", "compare"] = ""
    prior_days: int = Field(PRIOR_DAYS, ge=1, le=MOST_PRIOR_DAYS)
    prior_from: str = ""

    @field_validator("wait")
    @classmethod
    def _is_a_time(cls, text: str) -> str:
        try:
            parse_wait(text)
        except RuleError as error:
            raise ValueError(str(error)) from error
        return text

    @model_validator(mode="after")
    def _has_a_clause(self) -> _RuleEntry:
        if not (self.where or any(self.roles.values())):
            raise ValueError("where: there is no clause; it would match everything")
        return self


def parse_wait(text: str) -> int:
    """Seconds of `90s`, `30m`, `12h`, `2d`, or `0`.

    Raises
    ------
    RuleError
    """
    found = re.fullmatch(r"0|(\d{1,7})([smhd])", text.strip())
    seconds = int(found[1]) * _UNITS[found[2]] if found and found[2] else 0
    if found is None or seconds > LONGEST_WAIT_S:
        raise RuleError(f"{text!r} is no wait; write 90s, 30m, 12h, 7d (31d at most) or 0.")
    return seconds


def format_wait(seconds: int) -> str:
    """What `parse_wait` reads, in the largest unit that fits."""
    if seconds == 0:
        return "0"
    unit, length = max(
        (item for item in _UNITS.items() if seconds % item[1] == 0), key=lambda item: item[1]
    )
    return f"{seconds // length}{unit}"


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
            f"to = {_list(rule.destinations)}",
            f"priority = {rule.priority}",
            f"enabled = {_scalar(rule.enabled)}",
        ]
        lines += [*_less_usual(rule), *_roles(rule)]
        blocks.append("\n".join(lines) + "\n")
    return "\n".join(blocks)


def _less_usual(rule: Rule) -> list[str]:
    """What most rules leave alone, where it is said."""
    fields: tuple[tuple[str, Any, Any, Callable[[Any], str]], ...] = (
        ("parameters", rule.parameters, {}, _inline),
        ("wait", rule.wait_s, WAIT_S, lambda seconds: _text(format_wait(seconds))),
        ("without", rule.without, (), _list),
        ("incomplete", rule.incomplete, HOLD, _text),
        ("report_refusals", rule.report_refusals, False, _scalar),
        ("prefer", rule.prefer, (), _lines),
        ("each", rule.each, False, _scalar),
        ("window", rule.window, "", _text),
        ("prior", rule.prior, "", _text),
        ("prior_days", rule.prior_days, PRIOR_DAYS, _scalar),
        ("prior_from", rule.prior_from, "", _text),
    )
    return [f"{key} = {write(value)}" for key, value, usual, write in fields if value != usual]


def _roles(rule: Rule) -> Iterator[str]:
    """A table of its own: after every key of the rule."""
    if rule.roles:
        yield "[rule.roles]"
    for role, clauses in rule.roles.items():
        own = "".join(f"    {_text(clause)},\n" for clause in clauses)
        yield f"{_text(role)} = [\n{own}]"


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
            ": ".join(filter(None, (".".join(map(str, item["loc"])), item["msg"])))
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
        roles={role: tuple(clauses) for role, clauses in entry.roles.items()},
        wait_s=parse_wait(entry.wait) if entry.wait else WAIT_S,
        without=tuple(entry.without),
        report_refusals=entry.report_refusals,
        incomplete=entry.incomplete,
        prefer=tuple(entry.prefer),
        each=entry.each,
        window=entry.window,
        prior=entry.prior,
        prior_days=entry.prior_days,
        prior_from=entry.prior_from,
    )


def _inline(parameters: Parameters) -> str:
    pairs = sorted(parameters.items())
    return f"{{ {', '.join(f'{_text(name)} = {_scalar(value)}' for name, value in pairs)} }}"


def _list(texts: Iterable[str]) -> str:
    return f"[{', '.join(map(_text, texts))}]"


def _lines(texts: Iterable[str]) -> str:
    return "\n".join(("[", *(f"    {_text(one)}," for one in texts), "]"))


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
