"""What is written is what is there: example configuration, README, links, conformance statement."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from pydicom.uid import UID
from typer.main import get_command

from node import config, part10
from node.cli import app
from node.scu import Outcome, classify

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


def test_settings_named_in_pages_exist() -> None:
    settings = {
        f"[{name}] {key}"
        for name, field in config.Config.model_fields.items()
        for key in field.annotation.model_fields  # type: ignore[union-attr]
    }
    for page in PAGES:
        named = re.findall(r"`(\[[a-z]+\] [a-z_]+)", page.read_text(encoding="utf-8"))
        assert set(named) <= settings, page.name


def test_the_conformance_statement_names_real_uids() -> None:
    rows = re.findall(
        r"^\| ([^|]+) \| (1\.2\.840[\d.]+) \|", _read("docs/conformance.md"), re.MULTILINE
    )
    assert len(rows) >= 3
    for name, uid in rows:
        if name == "application context":
            assert UID(uid).name == "DICOM Application Context Name"
        else:
            assert UID(uid).name in (name, f"{name} SOP Class")


def test_defaults_in_the_conformance_statement_are_the_code() -> None:
    text = _read("docs/conformance.md")
    defaults = config.Config()
    assert f"`[receive] max_pdu`, {defaults.receive.max_pdu} bytes" in text
    assert f"`[receive] max_associations`, {defaults.receive.max_associations};" in text
    assert f"`[receive] idle_timeout_s`, {defaults.receive.idle_timeout_s:g} s" in text
    assert f"`[delivery] timeout_s`, {defaults.delivery.timeout_s:g} s" in text
    assert f"`{defaults.node.ae_title}` unless configured" in text
    assert f"TCP port {defaults.node.port}" in text


def test_who_we_say_we_are_in_the_conformance_statement() -> None:
    text = _read("docs/conformance.md")
    assert f"`{part10.IMPLEMENTATION_CLASS_UID}`" in text
    assert f"`{part10.IMPLEMENTATION_VERSION_NAME}`" in text


@pytest.mark.parametrize(
    ("then", "outcome"),
    [
        ("the delivery is SENT", Outcome.DELIVERED),
        ("tried again", Outcome.RETRY),
        ("the delivery is FAILED", Outcome.PERMANENT),
    ],
)
def test_statuses_in_the_conformance_statement_are_the_code(then: str, outcome: Outcome) -> None:
    """Both ends of every range, and each status said; what no row names is refused."""
    section = (
        _read("docs/conformance.md").partition("## Storage SCU: what")[2].partition("\n## ")[0]
    )
    rows = [line.split("|") for line in section.splitlines() if line.startswith("| 0x")]
    said = {
        row[3].strip(): [int(s, 16) for s in re.findall(r"0x[0-9A-F]{4}", row[1])] for row in rows
    }
    named = {status for statuses in said.values() for status in statuses}
    examples = said.get(then, [0xA900, 0xC000, 0xCFFF, 0x0122, 0x0124, 0x0117])
    assert examples
    for status in examples:
        assert (status in named) == (then in said)
        assert classify(status) is outcome, f"0x{status:04X}"
