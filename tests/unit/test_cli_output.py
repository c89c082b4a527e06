"""What the command line writes and understands, without a database."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from node.cli import common, output
from node.config import without_passwords
from node.errors import ConfigError, DeliveryError, NodeError, PerformError, RuleError
from pipelines.errors import WeightsError
from storage.errors import ArchiveFull, ChangeRefused, NotFound, SchemaOutdated
from storage.model import WorkitemState, utcnow

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
UIDS = ("1.2.3.41", "1.2.3.42", "2.25.99942")


class _Colour(StrEnum):
    RED = "red"


@dataclass(frozen=True)
class _Noun:
    name: str
    at: datetime
    colour: _Colour
    parts: tuple[float, ...]


NOUN = _Noun(name="a", at=NOON, colour=_Colour.RED, parts=(1.0, 2.5))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("x"), 3),
        (RuleError("x"), 2),
        (DeliveryError("x"), 5),
        (PerformError("time-limit", "x"), 6),
        (NodeError("x"), 1),
        (NotFound("x"), 1),
        (ChangeRefused("x"), 1),
        (SchemaOutdated("x"), 4),
        (ArchiveFull("x"), 4),
        (WeightsError("x"), 6),
    ],
)
def test_every_tree_has_its_exit_code(error: Exception, code: int) -> None:
    assert isinstance(error, common.TREES)
    assert common.exit_code(error) == code


def test_json_has_the_nouns_fields_and_utc(capsys: pytest.CaptureFixture[str]) -> None:
    output.show_list([output.row(NOUN)], ("name",), as_form=output.Form.JSON, empty="none")
    assert json.loads(capsys.readouterr().out) == [
        {"name": "a", "at": "2026-01-31T12:00:00.000+00:00", "colour": "red", "parts": [1.0, 2.5]}
    ]


def test_csv_is_read_back(capsys: pytest.CaptureFixture[str]) -> None:
    odd = {"name": 'a "b", c\nd', "parts": (1, 2), "none": None}
    output.show_list([odd], ("name",), as_form=output.Form.CSV, empty="none")
    assert list(csv.DictReader(io.StringIO(capsys.readouterr().out))) == [
        {"name": 'a "b", c\nd', "parts": "[1, 2]", "none": ""}
    ]


def test_rows_with_other_keys_are_all_shown(capsys: pytest.CaptureFixture[str]) -> None:
    output.show_rows([{"where": "a", "slope": 1.5}, {"where": "b", "name": "CT02"}])
    shown = capsys.readouterr().out
    assert all(text in shown for text in ("where", "slope", "name", "1.5", "CT02"))


def test_an_empty_list_is_said_or_empty(capsys: pytest.CaptureFixture[str]) -> None:
    for as_form, text in (("table", "none\n"), ("json", "[]\n"), ("csv", "name,at\n")):
        output.show_list([], ("name", "at"), as_form=output.Form(as_form), empty="none")
        assert capsys.readouterr().out == text


def test_a_table_shows_the_end_of_a_uid_and_cuts_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = [{"study_instance_uid": "2.25.123456789012345678", "what": "x" * 90}]
    output.show_list(rows, tuple(rows[0]), as_form=output.Form.TABLE, empty="none")
    shown = capsys.readouterr().out
    assert "…789012345678" in shown
    assert "2.25.123" not in shown
    assert "x" * 90 in shown
    assert common.pick(
        output.short(rows[0]["study_instance_uid"]), [rows[0]["study_instance_uid"]], noun="study"
    )


def test_a_value_from_the_network_cannot_command_the_terminal() -> None:
    shown = output.cell("series_description", "a\x1b[2Jb\r\x07[red]c[/red]")
    assert "\x1b" not in shown
    assert "\r" not in shown
    assert "[red]c[/red]" in shown


@given(st.text())
def test_cells_are_printable(text: str) -> None:
    assert all(c.isprintable() or c == "\n" for c in output.cell("x", text))


@pytest.mark.parametrize(
    ("given_uid", "found"),
    [("1.2.3.41", UIDS[0]), ("99942", UIDS[2]), ("…99942", UIDS[2]), ("3.41", UIDS[0]), ("2.25", UIDS[2])],
)  # fmt: skip
def test_a_uid_is_found_by_its_end(given_uid: str, found: str) -> None:
    assert common.pick(given_uid, UIDS, noun="study") == found


@pytest.mark.parametrize(
    ("given_uid", "said"), [("42", "UID of 2"), ("7", "no study '7'"), ("", "no study ''"), ("…", "no study")]
)  # fmt: skip
def test_a_uid_that_is_none_or_several_is_refused(given_uid: str, said: str) -> None:
    with pytest.raises(NotFound, match=said):
        common.pick(given_uid, UIDS, noun="study")


def test_times_are_dates_or_ages() -> None:
    assert common.parse_when(None) is None
    assert common.parse_when("2026-01-31T12:00+00:00") == NOON
    assert common.parse_when("2026-01-31") == datetime(2026, 1, 31).astimezone(UTC)
    ago = common.parse_when("7d")
    assert ago is not None
    assert abs(utcnow() - timedelta(days=7) - ago) < timedelta(seconds=5)
    for text in ("yesterday", "999999d", "0001-01-01"):
        with pytest.raises(typer.BadParameter, match="no time"):
            common.parse_when(text)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sqlite:////data/index.sqlite", "sqlite:////data/index.sqlite"),
        ("postgresql+psycopg://u@/db", "postgresql+psycopg://u@/db"),
        ("postgresql+psycopg://u:secret@h/db", "postgresql+psycopg://u:***@h/db"),
        ("postgresql+psycopg://u:se/cr#et@h/db", "postgresql+psycopg://u:***@h/db"),
        ("postgresql+psycopg://h/db?password=secret&x=1", "postgresql+psycopg://h/db?password=***&x=1"),
    ],
)  # fmt: skip
def test_no_password_is_shown(url: str, shown: str) -> None:
    assert without_passwords(url) == shown


def test_parameters_are_typed() -> None:
    pairs = ["a=1", "b=0.5", "c=true", "d=text=more", "e="]
    assert common.parse_parameters(pairs) == {
        "a": 1,
        "b": 0.5,
        "c": True,
        "d": "text=more",
        "e": "",
    }
    for pair in ("a", "=1"):
        with pytest.raises(typer.BadParameter, match="NAME=VALUE"):
            common.parse_parameters([pair])


@pytest.mark.parametrize(
    ("text", "address"), [("pacs:104", ("pacs", 104)), ("[::1]:11112", ("::1", 11112))]
)
def test_addresses(text: str, address: tuple[str, int]) -> None:
    assert common.parse_address(text) == address


@pytest.mark.parametrize(
    "text", ["pacs", "pacs:", ":104", "pacs:0", "pacs:65536", "pacs:x", "pacs:²"]
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="HOST:PORT"):
        common.parse_address(text)


def test_states_as_people_type_them() -> None:
    assert common.parse_state("in-progress", WorkitemState) is WorkitemState.IN_PROGRESS
    assert common.parse_state("CANCELED", WorkitemState) is WorkitemState.CANCELED
    with pytest.raises(typer.BadParameter, match="in-progress"):
        common.parse_state("failed", WorkitemState)
