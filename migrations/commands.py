"""What `osteonode db` and `osteonode serve` do: upgrade a database, say which revision it has.

Both run from the installed package: there is no alembic.ini.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.pool import NullPool

#: Any number, the same in every version: two nodes that start at once upgrade one after the other.
_UPGRADE_LOCK = 7_264_117_001
#: Seconds to wait for another node's upgrade of a SQLite file.
_PATIENCE_S = 30


def upgrade(url: str, revision: str = "head") -> None:
    """Bring the database at a SQLAlchemy URL to `revision`, making it when it is SQLite and missing.

    All or nothing: a process killed meanwhile leaves the database as it was.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite" and parsed.database:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    with _connect(url) as connection, connection.begin():
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:n)"), {"n": _UPGRADE_LOCK})
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


def current(url: str) -> str | None:
    """The revision of the database at `url`; None when it has no tables."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite" and not Path(parsed.database or "").is_file():
        return None
    with _connect(url) as connection, connection.begin():
        return MigrationContext.configure(connection).get_current_revision()


def head() -> str:
    """The revision of this version."""
    return str(ScriptDirectory.from_config(_config()).get_current_head())


def _config() -> Config:
    config = Config()
    # Per cent signs of a path are no interpolation.
    folder = str(Path(__file__).parent).replace("%", "%%")
    config.set_main_option("script_location", folder)
    config.set_main_option("path_separator", "os")
    return config


@contextmanager
def _connect(url: str) -> Iterator[Connection]:
    parsed = make_url(url)
    if parsed.drivername in {"postgresql", "postgres"}:
        parsed = parsed.set(drivername="postgresql+psycopg")
    engine = create_engine(parsed, poolclass=NullPool)
    if engine.dialect.name == "sqlite":
        _make_transactional(engine)
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def _make_transactional(engine: Engine) -> None:
    """SQLite can roll tables back; Python's module, left to itself, commits before it makes one."""

    def prepare(connection: Any, _record: object) -> None:
        connection.isolation_level = None
        connection.execute(f"PRAGMA busy_timeout={_PATIENCE_S * 1000}")
        _keep_wal(connection)
        connection.execute("PRAGMA synchronous=FULL")

    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    event.listen(engine, "connect", prepare)
    event.listen(engine, "begin", begin)


def _keep_wal(connection: Any) -> None:
    """Write into the file that it is in WAL mode: readers and the writer of a node do not block each other.

    A change of mode does not wait for `busy_timeout`: SQLite answers "locked" at once while another node, at the same
    start, holds the write lock.
    """
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.05)
