"""Options and fixtures every test may use: peers from Debian's packages, shared data, free ports."""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from npm import Unfetched
from peer import Pacs

ROOT = Path(__file__).resolve().parent.parent

#: Debian package -> a program that shows it is there. Full paths: pynetdicom brings its own `storescu`.
PEERS = {
    "dcmtk": "/usr/bin/storescu",
    "dicom3tools": "/usr/bin/dciodvfy",
    "orthanc": "/usr/sbin/Orthanc",
    "orthanc-dicomweb": "/usr/share/orthanc/plugins/libOrthancDicomWeb.so",
    "poppler-utils": "/usr/bin/pdftotext",
    "postgresql": "/usr/lib/postgresql/*/bin/initdb",
    "chromium": "/usr/bin/chromium",
    "nodejs": "/usr/bin/node",
    "npm": "/usr/bin/npm",
    "fonts-dejavu-core": "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf",
}

#: How many others a test marked `slow` counts for when files are ordered.
_SLOW_IS_WORTH = 50

pytest_plugins = [
    name for name in ("postgresql",) if (Path(__file__).parent / f"{name}.py").exists()
]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require-peers",
        action="store_true",
        help="A missing peer program fails its tests instead of skipping them (as in CI).",
    )
    parser.addoption(
        "--chaos-seed", type=int, help="Seed of a chaos run that shall be made again; else random."
    )
    parser.addoption(
        "--chaos-kills",
        type=int,
        default=3,
        help="Kills of a chaos run on each database (make chaos: 100).",
    )


def _is_installed(peer: str) -> bool:
    return any(Path("/").glob(PEERS[peer].removeprefix("/")))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin files that take long first: one left to the end is waited for by workers that have nothing more to do.

    pytest-xdist hands whole files out in this order (`--dist loadfile --no-loadscope-reorder`); by itself it begins
    with those of most tests, and slow tests are few in a file.
    """
    weights = Counter[Path]()
    for item in items:
        weights[item.path] += _SLOW_IS_WORTH if item.get_closest_marker("slow") else 1
    items.sort(key=lambda item: -weights[item.path])


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test by the name of the package it misses; fail it under --require-peers."""
    for mark in item.iter_markers("peer"):
        for peer in mark.args:
            if peer not in PEERS:
                raise pytest.UsageError(
                    f"{item.nodeid}: no such peer: {peer!r} (one of {', '.join(PEERS)})"
                )
            if _is_installed(peer):
                continue
            if item.config.getoption("--require-peers"):
                pytest.fail(f"{peer} is not installed ({PEERS[peer]})", pytrace=False)
            pytest.skip(f"{peer} is not installed ({PEERS[peer]})")


@pytest.fixture(scope="session")
def from_npm(request: pytest.FixtureRequest) -> Callable[[Callable[[], Path]], Path]:
    """Fetch by `npm.py`; where that cannot be, skip with the reason (fail under --require-peers)."""

    def fetch(packages: Callable[[], Path]) -> Path:
        try:
            return packages()
        except Unfetched as error:
            if request.config.getoption("--require-peers"):
                pytest.fail(str(error), pytrace=False)
            pytest.skip(str(error))

    return fetch


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The data folder beside the project (or OSTEONODE_TEST_DATA): public series no repository should carry."""
    folder = Path(os.environ.get("OSTEONODE_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no data folder at {folder} (set OSTEONODE_TEST_DATA)")
    return folder


@pytest.fixture
def free_port() -> int:
    """A TCP port of this machine that nobody listens on right now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@pytest.fixture
def pacs() -> Iterator[Pacs]:
    """A peer that is there, and records what it is sent."""
    with Pacs() as peer:
        yield peer


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings in the developer's environment change no test."""
    for name in [name for name in os.environ if name.startswith("OSTEONODE_") and "__" in name]:
        monkeypatch.delenv(name)
