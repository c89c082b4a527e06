"""Imports point down (CONTRIBUTING.md), and the receiving side stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("node", "pipelines", "storage", "migrations")
#: package -> what of ours it may import (itself included).
MAY_IMPORT = {
    "storage": ("storage",),
    "pipelines": ("pipelines", "storage.model"),
    "node": ("node", "pipelines", "storage", "migrations.commands"),
    "migrations": ("migrations", "storage.tables"),
}
#: Loaded by a worker, a training run or the demo, never by what receives.
HEAVY = ("torch", "monai", "openvino", "distributed")


def _modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def _imports(path: Path) -> Iterator[tuple[int, str]]:
    """Every absolute import of a module, those inside functions included, as (line, dotted name)."""
    for statement in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(statement, ast.Import):
            for alias in statement.names:
                yield statement.lineno, alias.name
        elif isinstance(statement, ast.ImportFrom):
            assert statement.level == 0, f"{path}:{statement.lineno}: imports are absolute"
            for alias in statement.names:
                yield statement.lineno, f"{statement.module}.{alias.name}"


def _is_under(name: str, parents: tuple[str, ...]) -> bool:
    return any(name == parent or name.startswith(parent + ".") for parent in parents)


def _fresh_modules(*imported: str) -> set[str]:
    """Top-level names in `sys.modules` of a new interpreter that imported these."""
    code = (
        f"import sys, {', '.join(imported)}; print(*{{m.partition('.')[0] for m in sys.modules}})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT
    )
    return set(done.stdout.split())


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_point_down(package: str) -> None:
    upward = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in _modules(package)
        for line, name in _imports(path)
        if _is_under(name, PACKAGES) and not _is_under(name, MAY_IMPORT[package])
    ]
    assert upward == []


def test_the_nouns_need_the_standard_library_only() -> None:
    for module in ("model", "errors"):
        for line, name in _imports(ROOT / "storage" / f"{module}.py"):
            top = name.partition(".")[0]
            assert top in sys.stdlib_module_names, f"storage/{module}.py:{line}: {name}"


@pytest.mark.parametrize("package", ["node", "pipelines"])
def test_only_storage_sees_sqlalchemy(package: str) -> None:
    seen = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in _modules(package)
        for line, name in _imports(path)
        if _is_under(name, ("sqlalchemy", "alembic"))
    ]
    assert seen == []


@pytest.mark.parametrize("package", ["node", "storage", "migrations"])
def test_only_pipelines_see_torch(package: str) -> None:
    seen = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in _modules(package)
        for line, name in _imports(path)
        if _is_under(name, ("torch", "monai"))
    ]
    assert seen == []


def test_the_receiving_side_is_light() -> None:
    receiving = [name for name in ("node.scp", "node.receiving") if find_spec(name) is not None]
    assert receiving
    assert _fresh_modules(*receiving).isdisjoint(HEAVY)


def test_the_command_line_is_light() -> None:
    loaded = _fresh_modules("node.cli")
    assert loaded.isdisjoint((*HEAVY, "sqlalchemy", "highdicom", "matplotlib", "SimpleITK"))
