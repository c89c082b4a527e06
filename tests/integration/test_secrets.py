"""Secrets reach the node and stop there: no log, no output of a command, no table, no other process has them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from dicomgen import Geometry, make_series, save_all
from nodes import PIPELINES, Node
from peer import Pacs

from node.config import load, withhold_secrets
from node.scu import send_paths
from storage.model import Destination, WorkitemState

ROOT = Path(__file__).parents[2]
#: One for each way in; none is a word that could be there anyway.
BY_ENVIRONMENT, BY_LIBPQ, BY_FILE, TOKEN = "kite-7731", "lute-5520", "mole-9184", "newt-4417"
IN_URL, IN_ARCHIVE, WEB_TOKEN, WEB_PASSWORD = "oboe-6602", "pipe-3345", "quay-1109", "reed-8273"
ALL = (BY_ENVIRONMENT, BY_LIBPQ, BY_FILE, TOKEN, IN_URL, IN_ARCHIVE, WEB_TOKEN, WEB_PASSWORD)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(
        folder=tmp_path / "node",
        settings={
            "OSTEONODE_STORAGE__DATABASE_PASSWORD": BY_ENVIRONMENT,
            "PGPASSWORD": BY_LIBPQ,
            "OSTEONODE_NODE__LOG_LEVEL": "debug",
        },
    )
    yield made
    made.kill_if_running()


def _of_process(process: psutil.Process) -> str:
    folder = Path("/proc") / str(process.pid)
    return (folder / "environ").read_text("utf-8", "replace") + (folder / "cmdline").read_text(
        "utf-8", "replace"
    )


def test_workers_are_not_given_the_node_s_secrets(node: Node, tmp_path: Path) -> None:
    with Pacs() as pacs:
        node.start()
        node.route_to(pacs.port)
        paths = save_all(make_series(geometry=Geometry(slices=6)), tmp_path / "ct")
        target = Destination(name="node", host="127.0.0.1", port=node.port, called_ae="OSTEONODE")
        assert len(list(send_paths(target, paths, calling_ae="CT1", timeout_s=20))) == 6
        node.wait_for_state(WorkitemState.COMPLETED)
        assert node.process is not None
        children = psutil.Process(node.process.pid).children(recursive=True)
        # The worker, and Python's resource tracker.
        told = [_of_process(child) for child in children]
        assert any("spawn_main" in text for text in told), "no worker was seen"
        for text in told:
            for secret in (BY_ENVIRONMENT, BY_LIBPQ):
                assert secret not in text
            assert "OSTEONODE_" not in text
        assert node.stop() == 0
    for secret in (BY_ENVIRONMENT, BY_LIBPQ):
        assert secret not in node.log
        for file in (node.folder / "data").rglob("*"):
            if file.is_file():
                assert secret.encode() not in file.read_bytes(), file


@pytest.fixture
def secretive(tmp_path: Path) -> Path:
    """A configuration with a secret in every place that takes one."""
    (tmp_path / "password").write_text(f"{BY_FILE}\n", encoding="utf-8")
    (tmp_path / "token").write_text(TOKEN, encoding="utf-8")
    path = tmp_path / "config.toml"
    path.write_text(
        f"""
        [storage]
        database = "postgresql+psycopg://me:{IN_URL}@127.0.0.1:1/none"
        database_password = "{BY_ENVIRONMENT}"
        database_password_file = "password"
        archive = "s3://me:{IN_ARCHIVE}@bucket/folder"
        [pipelines]
        folders = ["{PIPELINES}"]
        [delivery.web.CLOUD]
        token = "{WEB_TOKEN}"
        [delivery.web.OTHER]
        user = "me"
        password = "{WEB_PASSWORD}"
        [ups.worklists.pacs]
        url = "https://me:{IN_ARCHIVE}@pacs.example.org/dicom-web"
        token_file = "token"
        work = [{{ code = "A^B", pipeline = "threshold_bone", to = ["PACS"] }}]
        """,
        encoding="utf-8",
    )
    return path


@pytest.mark.parametrize(
    "command",
    [("config", "check"), ("config", "show"), ("config", "show", "--json"), ("db", "current"), ("serve",)],
    ids=" ".join,
)  # fmt: skip
def test_no_command_says_a_secret(secretive: Path, command: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "node.cli", "--config", str(secretive), *command],
        check=False, capture_output=True, text=True, cwd=ROOT, timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PGPASSWORD": BY_LIBPQ},
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert said
    for secret in ALL:
        assert secret not in said
    if command[0] == "config":
        assert done.returncode == 0
        assert "bucket/folder" in said or command[-1] == "show"


def test_a_setting_of_the_wrong_kind_is_not_repeated(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(f'[storage]\ndatabase_password = ["{BY_ENVIRONMENT}"]\n', encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "node.cli", "--config", str(path), "config", "check"],
        check=False, capture_output=True, text=True, cwd=ROOT, timeout=60,
    )  # fmt: skip
    assert done.returncode == 3
    assert "storage.database_password" in done.stderr
    assert BY_ENVIRONMENT not in done.stderr


def test_a_password_comes_from_file_setting_or_environment(tmp_path: Path) -> None:
    url = "postgresql+psycopg://me@host/db"
    file = tmp_path / "password"
    file.write_text("a&b c\n", encoding="utf-8")
    database = {"OSTEONODE_STORAGE__DATABASE": url}
    by_file = {"OSTEONODE_STORAGE__DATABASE_PASSWORD_FILE": str(file)}
    by_name = {"OSTEONODE_STORAGE__DATABASE_PASSWORD": "12345"}
    assert load(None, database).database_url == url
    assert load(None, database | {"PGPASSWORD": "x"}).database_url == f"{url}?password=x"
    both = load(None, database | by_name | {"PGPASSWORD": "x"})
    assert both.database_url == f"{url}?password=12345"
    assert load(None, database | by_name | by_file).database_url == f"{url}?password=a%26b%20c"


def test_what_is_withheld_is_gone_and_nothing_else() -> None:
    environment = {"OSTEONODE_STORAGE__DATABASE": "x", "PGPASSWORD": "y", "PATH": "/bin"}
    withhold_secrets(environment)
    assert environment == {"PATH": "/bin"}
