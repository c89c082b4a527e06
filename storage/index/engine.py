"""The database: one engine, its transactions, and what its failures are called.

SQLite is set so that a committed row survives a power cut (WAL, synchronous=FULL), and so that a writer takes the
write lock when it begins: a transaction that reads first and writes later would otherwise fail as "locked" however long
it waits. Writers of one process queue in that process, which is fair and needs no polling; those of several
processes wait for `BUSY_TIMEOUT_S`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, cast

from sqlalchemy import (
    URL,
    Connection,
    Dialect,
    Engine,
    create_engine,
    event,
    exc,
    inspect,
    make_url,
    text,
)

from storage.errors import IndexUnavailable, SchemaOutdated
from storage.index.grouping import CommitGroup
from storage.index.values import dump_json
from storage.model import AddOutcome, Instance
from storage.tables import SCHEMA_REVISION

#: Seconds to wait for another writer, or for a connection of the pool.
BUSY_TIMEOUT_S = 30
_WRITE = "osteonode_write"
_BEGIN_WRITING = "BEGIN IMMEDIATE"


class Index:
    """An open database; safe to use from several threads. Made by `open_index`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._writers = threading.Lock() if engine.dialect.name == "sqlite" else None
        #: Instances on their way in; `instances.add` uses it.
        self.arrivals: CommitGroup[Instance, AddOutcome] = CommitGroup()

    @property
    def dialect(self) -> str:
        """`sqlite` or `postgresql`."""
        return self._engine.dialect.name

    @property
    def sql(self) -> Dialect:
        """What statements are compiled for."""
        return self._engine.dialect

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """One transaction that may write: committed at the end, rolled back by an exception.

        Raises
        ------
        IndexUnavailable
            When the database does not answer, or no write lock comes free.
        """
        with self._queue(), _explained(), self._engine.connect() as connection:
            writing = connection.execution_options(**{_WRITE: True})
            with writing.begin():
                yield writing

    @contextmanager
    def begin_directly(self) -> Iterator[Any]:
        """`begin`, for statements that are `Prepared`: gives a cursor of the driver."""
        with self._queue(), _explained(), self._translated():
            connection = self._engine.raw_connection()
            try:
                cursor = connection.cursor()
                if self._writers is not None:
                    cursor.execute(_BEGIN_WRITING)
                yield cursor
                connection.commit()
            finally:
                # Rolls back what was not committed.
                connection.close()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """What the driver raises -> what SQLAlchemy makes of it."""
        kind = cast(type[Exception], self.sql.loaded_dbapi.Error)
        try:
            yield
        except kind as error:
            translated = exc.DBAPIError.instance(
                None, None, error, kind, hide_parameters=True, dialect=self.sql
            )
            raise cast(exc.DBAPIError, translated) from error

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One transaction that only reads, and takes no lock.

        Raises
        ------
        IndexUnavailable
            When the database does not answer.
        """
        with _explained(), self._engine.connect() as connection, connection.begin():
            yield connection

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def __enter__(self) -> Index:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _queue(self) -> AbstractContextManager[None]:
        return nullcontext() if self._writers is None else _turn(self._writers)


def open_index(url: str, *, check_schema: bool = True) -> Index:
    """Open the database at a SQLAlchemy URL.

    Parameters
    ----------
    url
        `sqlite:///path` or `postgresql+psycopg://user@host/name` (the driver may be left out).
    check_schema
        Refuse a database whose tables are not those of this version.

    Raises
    ------
    IndexUnavailable
        When the URL cannot be read or the database does not answer.
    SchemaOutdated
        When it has no tables, or older or newer ones.
    """
    parsed = parse_url(url)
    if check_schema and parsed.get_backend_name() == "sqlite" and not _is_there(parsed):
        raise SchemaOutdated(
            f"There is no database at {parsed.database}: run `osteonode db upgrade`."
        )
    index = Index(_make_engine(parsed))
    if check_schema:
        try:
            _check_schema(index)
        except BaseException:
            index.close()
            raise
    return index


def parse_url(url: str) -> URL:
    """Read a SQLAlchemy URL; PostgreSQL goes by psycopg."""
    try:
        parsed = make_url(url)
    except (exc.ArgumentError, ValueError) as error:
        # The text may hold a password.
        raise IndexUnavailable("The database setting is no SQLAlchemy URL.") from error
    if parsed.drivername in {"postgresql", "postgres"}:
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.get_backend_name() not in {"sqlite", "postgresql"}:
        raise IndexUnavailable(f"No index on {parsed.drivername}: use sqlite or postgresql.")
    return parsed


def _is_there(url: URL) -> bool:
    return url.database is not None and Path(url.database).is_file()


def _make_engine(url: URL) -> Engine:
    if url.get_backend_name() == "sqlite":
        # As many readers as associations and web requests; a connection is a file handle.
        engine = create_engine(
            url,
            json_serializer=dump_json,
            hide_parameters=True,
            connect_args={"timeout": BUSY_TIMEOUT_S},
            pool_timeout=BUSY_TIMEOUT_S,
            max_overflow=100,
        )
        event.listen(engine, "connect", _set_pragmas)
        event.listen(engine, "begin", _begin)
        return engine
    engine = create_engine(
        url,
        json_serializer=dump_json,
        # Parameters are patients' names; an error's text goes into the log.
        hide_parameters=True,
        connect_args={"connect_timeout": 10, "application_name": "osteonode"},
        pool_timeout=BUSY_TIMEOUT_S,
        pool_pre_ping=True,
        pool_size=10,
        max_overflow=20,
    )
    event.listen(engine, "connect", _commit_durably)
    return engine


def _commit_durably(connection: Any, _record: object) -> None:
    # A server set to `off` answers before a commit is on disk, and loses it in a crash: 0x0000 was answered by then.
    connection.execute(
        "SELECT set_config('synchronous_commit', 'on', false) "
        "WHERE current_setting('synchronous_commit') = 'off'"
    )
    connection.commit()


def _set_pragmas(connection: Any, _record: object) -> None:
    # None: Python's module leaves BEGIN to `_begin`.
    connection.isolation_level = None
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")


def _begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get(_WRITE, False)
    connection.exec_driver_sql(_BEGIN_WRITING if writes else "BEGIN")


def _check_schema(index: Index) -> None:
    with index.read() as connection:
        tables = inspect(connection).get_table_names()
        found = (
            connection.scalar(text("SELECT version_num FROM alembic_version"))
            if "alembic_version" in tables
            else None
        )
    if found != SCHEMA_REVISION:
        raise SchemaOutdated(
            f"The database has {f'the tables of revision {found}' if found else 'no tables'}, this version needs "
            f"{SCHEMA_REVISION}: run `osteonode db upgrade` (a newer database needs a newer osteonode)."
        )


@contextmanager
def _turn(lock: threading.Lock) -> Iterator[None]:
    if not lock.acquire(timeout=BUSY_TIMEOUT_S):
        raise IndexUnavailable(f"No other writer finished within {BUSY_TIMEOUT_S} s.")
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _explained() -> Iterator[None]:
    """What a driver or the pool raises -> IndexUnavailable; a broken constraint or value is a bug, and stays."""
    try:
        yield
    except (exc.IntegrityError, exc.DataError):
        raise
    except exc.DBAPIError as error:
        raise IndexUnavailable(f"The database does not answer: {error.orig}") from error
    except (exc.TimeoutError, exc.ResourceClosedError) as error:
        raise IndexUnavailable(f"The database does not answer: {error}") from error
