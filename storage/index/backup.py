"""A copy of a SQLite index while it is in use."""

from __future__ import annotations

import sqlite3
from contextlib import closing, suppress
from pathlib import Path

from storage.errors import ChangeRefused, IndexUnavailable
from storage.index.engine import BUSY_TIMEOUT_S, parse_url

#: Pages copied at a time; between two, writers go on.
_PAGES = 1000


def back_up(url: str, path: Path) -> int:
    """Copy the database at a SQLAlchemy URL to a file that is not there yet, as of one moment; its bytes.

    The copy has its name only when it is whole and was checked.

    Raises
    ------
    ChangeRefused
        When it is no SQLite, or the file is there.
    IndexUnavailable
        When the database cannot be read or the copy not be written.
    """
    parsed = parse_url(url)
    if parsed.get_backend_name() != "sqlite" or not parsed.database:
        raise ChangeRefused(
            "This index is on PostgreSQL: back it up by pg_dump (docs/operations.md)."
        )
    if path.exists():
        raise ChangeRefused(f"{path} is there already: a backup overwrites nothing.")
    source = Path(parsed.database)
    if not source.is_file():
        raise IndexUnavailable(f"There is no database at {source}.")
    temporary = path.with_name(f".{path.name}.part")
    try:
        temporary.unlink(missing_ok=True)
        _copy(source, temporary)
        temporary.rename(path)
    except (sqlite3.Error, OSError) as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise IndexUnavailable(f"No backup to {path}: {error}.") from error
    return path.stat().st_size


def _copy(source: Path, target: Path) -> None:
    with (
        closing(sqlite3.connect(source, timeout=BUSY_TIMEOUT_S)) as original,
        closing(sqlite3.connect(target)) as copy,
    ):
        # A transaction of our own that reads: the copy is as of its beginning, and no write makes it begin anew.
        original.isolation_level = None
        original.execute("BEGIN")
        original.execute("SELECT 1 FROM alembic_version").fetchall()
        original.backup(copy, pages=_PAGES)
        # One file, which can be moved alone.
        copy.execute("PRAGMA journal_mode=DELETE")
        (found,) = copy.execute("PRAGMA quick_check").fetchone()
        if found != "ok":
            raise sqlite3.DatabaseError(f"the copy is damaged: {found}")
