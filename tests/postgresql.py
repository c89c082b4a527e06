"""Databases for tests: SQLite files, and a PostgreSQL server of our own from Debian's package.

A pytest plugin (tests/conftest.py loads it). `index` is an open index without rows, once on each of the two;
`database_url` its URL; `empty_database_url` that of a database without tables.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import make_url

from migrations import commands
from storage.index import Index, open_index

#: A test on both databases; the second is skipped by name where the package is missing.
BOTH = ["sqlite", pytest.param("postgresql", marks=pytest.mark.peer("postgresql"))]

#: Debian leaves the server's programs out of PATH.
_PROGRAMS = Path("/usr/lib/postgresql")
_SETTINGS = {
    # Nothing here outlives the test.
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "listen_addresses": "",
    "max_connections": "100",
    "shared_buffers": "32MB",
}


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[Callable[[str], str]]:
    """A running server; called with a database's name, its URL."""
    with serve() as server:
        yield server.url


def programs() -> Path:
    """Where the newest server's programs are; skips the test where there are none."""
    found = sorted(_PROGRAMS.glob("*/bin/initdb"))
    if not found:
        pytest.skip("postgresql is not installed")
    return found[-1].parent


@contextmanager
def serve() -> Iterator[Server]:
    """A running server; skips the test where the package is missing."""
    found = programs()
    # Short: a socket's path has 107 characters at most.
    folder = Path(tempfile.mkdtemp(prefix="osteonode-pg-"))
    try:
        server = Server(found, folder)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def postgresql_template(postgresql_server: Callable[[str], str]) -> str:
    """Name of an upgraded database that each test copies."""
    _create_database(postgresql_server, "upgraded")
    commands.upgrade(postgresql_server("upgraded"))
    return "upgraded"


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An upgraded file that each test copies."""
    path = tmp_path_factory.mktemp("sqlite") / "upgraded.sqlite"
    commands.upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture(params=BOTH)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """URL of an upgraded database without rows: SQLite, then PostgreSQL."""
    if request.param == "sqlite":
        path = tmp_path / "index.sqlite"
        shutil.copy(request.getfixturevalue("sqlite_template"), path)
        yield f"sqlite:///{path}"
    else:
        template = request.getfixturevalue("postgresql_template")
        with database(request.getfixturevalue("postgresql_server"), template) as url:
            yield url


@pytest.fixture
def index(database_url: str) -> Iterator[Index]:
    """An open index without rows: SQLite, then PostgreSQL."""
    with open_index(database_url) as opened:
        yield opened


@pytest.fixture(params=BOTH)
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """URL of a database without tables: SQLite (no file yet), then PostgreSQL."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'new' / 'index.sqlite'}"
    else:
        with database(request.getfixturevalue("postgresql_server"), "template0") as url:
            yield url


@contextmanager
def database(server: Callable[[str], str], template: str) -> Iterator[str]:
    """A database that is gone afterwards; its URL."""
    name = f"test_{secrets.token_hex(6)}"
    _create_database(server, name, template)
    try:
        yield server(name)
    finally:
        # FORCE: a test that failed may have left a connection open.
        _execute(server, f'DROP DATABASE "{name}" WITH (FORCE)')


def _create_database(server: Callable[[str], str], name: str, template: str = "template0") -> None:
    _execute(server, f'CREATE DATABASE "{name}" TEMPLATE "{template}"')


def _execute(server: Callable[[str], str], statement: str) -> None:
    host = make_url(server("postgres")).query["host"]
    with psycopg.connect(
        host=str(host), user="postgres", dbname="postgres", autocommit=True
    ) as connection:
        connection.execute(statement.encode())


class Server:
    """PostgreSQL in a folder of its own; `start` and `stop` as often as a test likes."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self._programs = programs
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._as_owner: list[str] = []
        if os.geteuid() == 0:
            # initdb refuses root; pdeathsig: no server outlives a killed test run.
            account = pwd.getpwnam("postgres")
            os.chown(folder, account.pw_uid, account.pw_gid)
            self._as_owner = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
            self._as_owner += ["--pdeathsig=QUIT"]
        initdb = [programs / "initdb", "-D", folder / "data", "-U", "postgres", "-A", "trust"]
        initdb += ["-E", "UTF8", "--locale=C", "--no-sync"]
        command = [*self._as_owner, *initdb]
        subprocess.run(command, check=True, capture_output=True, cwd=folder)

    def url(self, name: str) -> str:
        """URL of a database."""
        return f"postgresql+psycopg://postgres@/{name}?host={self._folder}"

    def start(self) -> None:
        """Start, and wait until it answers."""
        command = [*self._as_owner, self._programs / "postgres", "-D", self._folder / "data"]
        command += ["-k", self._folder]
        command += [f"--{name}={value}" for name, value in _SETTINGS.items()]
        log = self._folder / "log"
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command, stdout=output, stderr=output, cwd=self._folder
            )
        ready = [self._programs / "pg_isready", "-h", self._folder, "-U", "postgres", "-q"]
        for _ in range(300):
            if subprocess.run(ready, check=False).returncode == 0:
                return
            assert self._process.poll() is None, log.read_text()
            time.sleep(0.1)
        raise AssertionError(f"PostgreSQL did not start: {log.read_text()}")

    def stop(self, *, at_once: bool = True) -> None:
        """As a crash; or as `systemctl stop`, which ends sessions and rolls back what they had begun."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT if at_once else signal.SIGINT)
            self._process.wait(timeout=30)
