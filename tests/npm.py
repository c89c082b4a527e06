"""Peers from the npm registry, in versions that `tests/peers/npm/package.json` pins.

They lie in the virtual environment (`.venv/peers`), are fetched once, and run no script of their own when installed.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

#: Where the tests of peers keep what they fetch, and the pictures they take.
PEERS_FOLDER = Path(sys.prefix) / "peers"
_PINS = Path(__file__).parent / "peers" / "npm" / "package.json"
_FETCH_S = 280


class Unfetched(Exception):
    """npm is missing or did not get the packages."""


def node_packages() -> Path:
    """A folder whose `node_modules` holds the pinned packages and what they depend on.

    Raises
    ------
    Unfetched
        With npm's last words.
    """
    digest = hashlib.sha256(_PINS.read_bytes()).hexdigest()[:12]

    def fetch(folder: Path) -> None:
        shutil.copy(_PINS, folder)
        quiet = ("--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock")
        _npm(folder, "install", *quiet)

    return _once(PEERS_FOLDER / f"npm-{digest}", fetch)


def unpacked_package(name: str) -> Path:
    """The folder of one pinned package alone, without what it depends on.

    Raises
    ------
    Unfetched
        With npm's last words.
    """
    version = json.loads(_PINS.read_text(encoding="utf-8"))["unpacked"][name]

    def fetch(folder: Path) -> None:
        _npm(folder, "pack", f"{name}@{version}", "--silent")
        (archive,) = folder.glob("*.tgz")
        with tarfile.open(archive) as packed:
            packed.extractall(folder, filter="data")
        archive.unlink()

    stem = name.replace("/", "-").lstrip("@")
    return _once(PEERS_FOLDER / f"{stem}-{version}", fetch) / "package"


def _once(folder: Path, fetch: Callable[[Path], None]) -> Path:
    """Fill a folder, whole or not at all, whichever of several processes comes first."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            partial = folder.with_name(f"{folder.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            fetch(partial)
            partial.rename(folder)
    return folder


def _npm(folder: Path, *arguments: str) -> None:
    try:
        subprocess.run(
            ["npm", *arguments],
            cwd=folder,
            check=True,
            capture_output=True,
            text=True,
            timeout=_FETCH_S,
        )
    except FileNotFoundError as error:
        raise Unfetched("npm is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise Unfetched(f"npm {arguments[0]} took more than {_FETCH_S} s") from error
    except subprocess.CalledProcessError as error:
        raise Unfetched(f"npm {arguments[0]}: {error.stderr.strip()[-400:]}") from error
