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
    found = sorted(_PROGRAMS.glob("*/bin/initdb"))
    if not found:
        pytest.skip("postgresql is not installed")
    # Short: a socket's path has 107 characters at most.
    folder = Path(tempfile.mkdtemp(prefix="osteonode-pg-"))
    try:
        with _serve(found[-1].parent, folder):
            yield lambda name: f"postgresql+psycopg://postgres@/{name}?host={folder}"
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
        with _database(request.getfixturevalue("postgresql_server"), template) as url:
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
        with _database(request.getfixturevalue("postgresql_server"), "template0") as url:
            yield url


@contextmanager
def _database(server: Callable[[str], str], template: str) -> Iterator[str]:
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


@contextmanager
def _serve(programs: Path, folder: Path) -> Iterator[None]:
    data = folder / "data"
    log = folder / "log"
    as_owner: list[str] = []
    if os.geteuid() == 0:
        # initdb refuses root; pdeathsig: no server outlives a killed test run.
        account = pwd.getpwnam("postgres")
        os.chown(folder, account.pw_uid, account.pw_gid)
        as_owner = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        as_owner += ["--pdeathsig=QUIT"]
    initdb = [programs / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8"]
    initdb += ["--locale=C", "--no-sync"]
    subprocess.run([*as_owner, *initdb], check=True, capture_output=True, cwd=folder)
    command = [*as_owner, programs / "postgres", "-D", data, "-k", folder]
    command += [f"--{name}={value}" for name, value in _SETTINGS.items()]
    with log.open("wb") as output:
        server = subprocess.Popen(command, stdout=output, stderr=output, cwd=folder)
    try:
        _wait(programs, folder, server, log)
        yield
    finally:
        # SIGQUIT: at once; there is nothing to keep.
        server.send_signal(signal.SIGQUIT)
        server.wait(timeout=30)


def _wait(programs: Path, folder: Path, server: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(300):
        ready = [programs / "pg_isready", "-h", folder, "-U", "postgres", "-q"]
        if subprocess.run(ready, check=False).returncode == 0:
            return
        assert server.poll() is None, log.read_text()
        time.sleep(0.1)
    raise AssertionError(f"PostgreSQL did not start: {log.read_text()}")
