"""Between rows and values: JSON that both databases take, and SQL that they spell differently."""

from __future__ import annotations

import functools
import json
import math
from typing import Any

from sqlalchemy import Connection, Insert, Table, or_, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.elements import ColumnElement

#: Longest text kept from a header in a column of its own; LO has 64 characters (PS3.5 Table 6.2-1).
TEXT_LENGTH = 128
_ENCODER = json.JSONEncoder(allow_nan=False, separators=(",", ":"))


def dump_json(value: Any) -> str:
    """JSON as both databases take it: no NaN or infinity, no NUL, no half of a surrogate pair.

    A header holds what a sender wrote; none of this may stop an instance from being kept.
    """
    try:
        dumped = _ENCODER.encode(value)
    except ValueError:
        return _ENCODER.encode(_clean(value))
    if "\\u0000" in dumped or "\\ud" in dumped:
        return _ENCODER.encode(_clean(value))
    return dumped


def clean_text(value: str) -> str:
    """The same without what neither UTF-8 nor PostgreSQL can hold."""
    return value.replace("\0", "").encode("utf-8", "replace").decode("utf-8")


def insert_or_ignore(connection: Connection, table: Table, row: dict[str, Any]) -> bool:
    """Insert one row unless its key is there already; whether it was inserted."""
    return (
        connection.execute(inserting_or_ignoring(connection.dialect.name, table), row).rowcount == 1
    )


@functools.cache
def inserting_or_ignoring(dialect: str, table: Table) -> Insert:
    """The statement of `insert_or_ignore`."""
    build = postgresql.insert if dialect == "postgresql" else sqlite.insert
    # SQLAlchemy forgets how many rows an INSERT made unless asked.
    return build(table).on_conflict_do_nothing().execution_options(preserve_rowcount=True)


def select_like(
    connection: Connection, column: ColumnElement[str], part: str, limit: int
) -> tuple[str, ...]:
    """Values of a column that begin or end with `part`."""
    begins, ends = column.startswith(part, autoescape=True), column.endswith(part, autoescape=True)
    statement = select(column).where(or_(begins, ends)).order_by(column).limit(limit)
    return tuple(connection.scalars(statement)) if part else ()


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {clean_text(str(key)): _clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(item) for item in value]
    return value
