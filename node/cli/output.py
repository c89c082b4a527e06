"""How answers look: a table for people, JSON and CSV for machines."""

from __future__ import annotations

import csv
import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import Enum, StrEnum
from typing import TypeAlias

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

Row: TypeAlias = Mapping[str, object]

#: Digits of a UID shown in a table; commands take them for the whole.
_UID_SHOWN = 12
#: A table written to a file or a pipe is this wide, so that nothing is cut.
_WIDTH_ELSEWHERE = 220


class Form(StrEnum):
    """How a list is written."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


def form(*, as_json: bool, as_csv: bool = False) -> Form:
    """From the options of a command."""
    if as_json:
        return Form.JSON
    return Form.CSV if as_csv else Form.TABLE


def console() -> Console:
    """Standard output; wide where it is no terminal."""
    return Console(
        width=None if sys.stdout.isatty() else _WIDTH_ELSEWHERE, markup=False, highlight=False
    )


def plain(value: object) -> object:
    """A noun as JSON can hold it: field names as keys, times in UTC."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    match value:
        case Enum():
            return value.value
        case datetime():
            return value.astimezone(UTC).isoformat(timespec="milliseconds")
        case Mapping():
            return {str(key): plain(item) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [plain(item) for item in value]
        case _:
            return value


def row(noun: object, *, leave_out: Sequence[str] = ()) -> dict[str, object]:
    """A noun's fields, as values."""
    fields = dataclasses.fields(noun)  # type: ignore[arg-type]
    return {f.name: getattr(noun, f.name) for f in fields if f.name not in leave_out}


def show_list(rows: Sequence[Row], columns: Sequence[str], *, as_form: Form, empty: str) -> None:
    """Write rows: these columns as a table, every key as JSON or CSV."""
    match as_form:
        case Form.JSON:
            show_json(rows)
        case Form.CSV:
            _write_csv(rows, columns)
        case Form.TABLE if rows:
            console().print(table(rows, columns))
        case Form.TABLE:
            print(empty)


def to_json(value: object) -> str:
    """One value as JSON."""
    return json.dumps(plain(value), indent=2, ensure_ascii=False)


def show_json(value: object) -> None:
    """Write one value as JSON."""
    print(to_json(value))


def table(rows: Sequence[Row], columns: Sequence[str]) -> Table:
    """Rows for people: local times, UIDs by their last digits."""
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        numeric = all(type(one[column]) in (int, float) for one in rows)
        shown.add_column(
            column.replace("_", " ").replace(" instance uid", "").replace(" uid", ""),
            justify="right" if numeric else "left",
            overflow="fold",
        )
    for one in rows:
        shown.add_row(*(Text(cell(column, one[column])) for column in columns))
    return shown


def show_rows(rows: Sequence[Row]) -> None:
    """A table of every key that a row has, or a dash."""
    columns = list(dict.fromkeys(key for one in rows for key in one))
    filled = [{key: one.get(key) for key in columns} for one in rows]
    console().print(table(filled, columns) if rows else "  -")


def say(heading: str) -> None:
    """A heading within an answer."""
    console().print(Text(f"\n{heading}", style="bold"))


def show_fields(fields: Mapping[str, object]) -> None:
    """One noun, a line a field."""
    grid = Table.grid(padding=(0, 2))
    for name, value in fields.items():
        grid.add_row(Text(name.replace("_", " "), style="bold"), Text(cell("", value)))
    console().print(grid)


def cell(column: str, value: object) -> str:
    """One value as text."""
    match value:
        case None | "" | () | []:
            text = "-"
        case bool():
            text = "yes" if value else "no"
        case Enum():
            text = str(value.value)
        case float():
            text = f"{value:.6g}"
        case datetime():
            text = local(value)
        case Mapping():
            text = ", ".join(f"{key}={cell('', item)}" for key, item in value.items()) or "-"
        case list() | tuple():
            text = ", ".join(cell("", item) for item in value)
        case str() if column.endswith("_uid"):
            text = short(value)
        case _:
            text = str(value)
    # Text from the network could hold escape sequences that a terminal obeys.
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


def local(moment: datetime) -> str:
    """A time on the administrator's wall."""
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def short(uid: str) -> str:
    """The end of a UID: what tells one from another."""
    return uid if len(uid) <= _UID_SHOWN + 1 else f"…{uid[-_UID_SHOWN:]}"


def _write_csv(rows: Sequence[Row], columns: Sequence[str]) -> None:
    names = list(rows[0]) if rows else list(columns)
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(names)
    for one in rows:
        values = [plain(one[name]) for name in names]
        writer.writerow(
            [
                json.dumps(v, ensure_ascii=False) if isinstance(v, (dict, list)) else v
                for v in values
            ]
        )
