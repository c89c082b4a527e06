"""What is written is what is there: example configuration, README, links; the statement: unit/test_conformance.py."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.main import get_command

from node import config
from node.cli import app
from node.routing import FACTS

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(
    page
    for pattern in ("*.md", "docs/*.md", "pipelines/*/README.md")
    for page in ROOT.glob(pattern)
)


def _commands() -> Iterator[str]:
    """Every command of the command line, as `rules add`."""
    root = get_command(app)
    with typer.Context(root, info_name="osteonode") as context:
        for name in root.list_commands(context):  # type: ignore[attr-defined]
            command = root.get_command(context, name)  # type: ignore[attr-defined]
            children = getattr(command, "commands", {})
            yield from (f"{name} {child}" for child in children) if children else (name,)


def _read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_example_configuration_is_the_code() -> None:
    assert _read("config.example.toml") == config.example()


def test_the_readme_names_every_command_and_no_other() -> None:
    table = _read("README.md").partition("## The command line")[2].partition("\n## ")[0]
    named = set(re.findall(r"`osteonode ([a-z]+(?: [a-z]+)?)`", table))
    assert named == set(_commands())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_in_examples_exist(page: Path) -> None:
    commands = set(_commands())
    groups = {name.partition(" ")[0] for name in commands if " " in name}
    text = page.read_text(encoding="utf-8")
    for found in re.finditer(
        r"(?:^|`|bin/|NAME )osteonode\s+(?:--config \S+ )?([a-z]+)(?:\s+([a-z]+))?\b",
        text,
        re.MULTILINE,
    ):
        first, second = found.groups()
        assert (f"{first} {second}" if first in groups else first) in commands, found[0]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://", "#")):
            assert (page.parent / target.partition("#")[0]).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_make_targets_in_pages_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", _read("Makefile"), re.MULTILINE))
    named = re.findall(r"(?:^|`|&& )make ([a-z]+)", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(named) <= targets


def test_tests_that_the_threat_model_names_exist() -> None:
    sources = {
        path.name: path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")
    }
    there = {name for text in sources.values() for name in re.findall(r"def (test_\w+)", text)}
    named = re.findall(r"`(test_\w+(?:\.py)?)`", _read("docs/security.md"))
    assert len(named) > 30
    assert set(named) <= there | set(sources)


def test_settings_named_in_pages_exist() -> None:
    settings = {
        f"[{name}] {key}"
        for name, field in config.Config.model_fields.items()
        for key in field.annotation.model_fields  # type: ignore[union-attr]
    }
    for page in PAGES:
        named = re.findall(r"`(\[[a-z]+\] [a-z_]+)", page.read_text(encoding="utf-8"))
        assert set(named) <= settings, page.name


def test_the_facts_are_listed_as_the_code_has_them() -> None:
    section = _read("docs/operations.md").partition("## Facts that rules may name")[2]
    listed = re.findall(r"^\| `([a-z_]+)` \| (.+) \|$", section.partition("\n## ")[0], re.MULTILINE)
    assert dict(listed) == FACTS
