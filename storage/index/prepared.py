"""Statements compiled once and given to the driver as they are, for the few that run for each instance.

SQLAlchemy's way to a statement it has compiled costs more than SQLite's work on it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Dialect, Insert, Update


class Prepared:
    """An INSERT or UPDATE whose parameters are all named in the rows it is executed with.

    Parameters
    ----------
    columns
        Those that an INSERT is given.
    """

    def __init__(
        self,
        statement: Insert | Update,
        dialect: Dialect,
        *,
        columns: Sequence[str] | None = None,
    ) -> None:
        compiled: Any = statement.compile(dialect=dialect, column_keys=columns)
        self._statement = str(compiled)
        #: Whether the driver counts parameters, and does not name them.
        self._is_counted = compiled.positiontup is not None
        names = compiled.positiontup if self._is_counted else compiled.binds
        self._adapted: list[tuple[str, Callable[[Any], Any] | None]] = [
            (name, compiled.binds[name].type.dialect_impl(dialect).bind_processor(dialect))
            for name in names
        ]

    def execute(self, cursor: Any, row: Mapping[str, Any]) -> int:
        """Execute it with a cursor of the driver; how many rows were inserted or changed."""
        cursor.execute(self._statement, self._parameters(row))
        return int(cursor.rowcount)

    def _parameters(self, row: Mapping[str, Any]) -> Any:
        if self._is_counted:
            return [row[name] if to is None else to(row[name]) for name, to in self._adapted]
        return {name: row[name] if to is None else to(row[name]) for name, to in self._adapted}
