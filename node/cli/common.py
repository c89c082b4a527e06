"""What commands share: configuration, the open index, actors, times, exit codes."""

from __future__ import annotations

import getpass
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from node.errors import (
    ConfigError,
    DeliveryError,
    NodeError,
    PerformError,
    RuleError,
    WorklistError,
)
from pipelines.errors import PipelineError
from storage.errors import ChangeRefused, NotFound, StorageError
from storage.model import Parameters, utcnow

if TYPE_CHECKING:
    from node.config import Config
    from storage.index import Index

#: Errors that are a sentence for whoever typed the command; anything else is our mistake and keeps its traceback.
TREES = (NodeError, StorageError, PipelineError)


class ExitCode(IntEnum):
    """What a script may rely on."""

    OK = 0
    FAILED = 1
    USAGE = 2
    CONFIGURATION = 3
    DATABASE = 4
    PEER = 5
    PIPELINE = 6


#: Nearest tree first.
_CODES: tuple[tuple[type[Exception], ExitCode], ...] = (
    (ConfigError, ExitCode.CONFIGURATION),
    (RuleError, ExitCode.USAGE),
    (DeliveryError, ExitCode.PEER),
    (WorklistError, ExitCode.PEER),
    (PerformError, ExitCode.PIPELINE),
    (NotFound, ExitCode.FAILED),
    (ChangeRefused, ExitCode.FAILED),
    (StorageError, ExitCode.DATABASE),
    (PipelineError, ExitCode.PIPELINE),
)

State = TypeVar("State", bound=StrEnum)

AsJson = Annotated[bool, typer.Option("--json", help="For machines: stable keys, times in UTC.")]
AsCsv = Annotated[
    bool, typer.Option("--csv", help="For spreadsheets: a header line, times in UTC.")
]
#: The largest number that a database takes.
LARGEST = 2**31 - 1
Limit = Annotated[int, typer.Option("--limit", min=1, max=LARGEST, help="Newest this many.")]

After = Annotated[
    str | None,
    typer.Option("--after", metavar="UID", help="The next page: the last UID of the one before."),
]


def exit_code(error: Exception) -> ExitCode:
    """The exit code that an error of our trees ends the command with."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), ExitCode.FAILED)


def read_config(ctx: typer.Context) -> Config:
    """The configuration that `--config` names; log lines of a command go to standard error, warnings only.

    Raises
    ------
    ConfigError
    """
    from node import logs
    from node.config import load

    config = load(ctx.obj)
    logs.configure("warning", config.node.log_format)
    return config


@contextmanager
def opened(ctx: typer.Context) -> Iterator[Index]:
    """The index of the configuration, closed afterwards.

    Raises
    ------
    ConfigError, IndexUnavailable, SchemaOutdated
    """
    from storage.index import open_index

    with open_index(read_config(ctx).database_url) as index:
        yield index


def actor() -> str:
    """Who acts, for the audit log: the Unix user."""
    return f"cli:{getpass.getuser()}"


def pick(given: str, uids: Iterable[str], *, noun: str) -> str:
    """The one UID that `given` is, or is the beginning or end of (tables show ends).

    Raises
    ------
    NotFound
        When there is none, or more than one.
    """
    known = sorted(set(uids))
    part = given.strip().lstrip("….")
    if given in known:
        return given
    found = [uid for uid in known if part and (uid.endswith(part) or uid.startswith(part))]
    if len(found) == 1:
        return found[0]
    if found:
        raise NotFound(
            f"{given!r} begins or ends the UID of {len(found)}; give more of the {noun}'s."
        )
    raise NotFound(f"There is no {noun} {given!r}.")


def parse_when(text: str | None) -> datetime | None:
    """A time given to a filter: `2026-01-31`, `2026-01-31T08:00`, or how long ago: `90m`, `12h`, `7d`.

    Raises
    ------
    typer.BadParameter
    """
    if text is None:
        return None
    ago = re.fullmatch(r"(\d{1,6})([mhd])", text)
    try:
        if ago:
            unit = {"m": "minutes", "h": "hours", "d": "days"}[ago[2]]
            return utcnow() - timedelta(**{unit: int(ago[1])})
        # Without an offset it is the time on the administrator's wall.
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise typer.BadParameter(
            f"{text!r} is no time; write 2026-01-31, 2026-01-31T08:00, 90m, 12h or 7d (ago)."
        ) from error


def parse_state(text: str, states: type[State]) -> State:
    """A state as people type it: `failed`, `in-progress`.

    Raises
    ------
    typer.BadParameter
    """
    try:
        return states(text.upper().replace("-", " ").replace("_", " "))
    except ValueError as error:
        known = ", ".join(str(state.value).lower().replace(" ", "-") for state in states)
        raise typer.BadParameter(f"{text!r} is none of {known}.") from error


def parse_parameters(pairs: Iterable[str]) -> Parameters:
    """`NAME=VALUE` options; a value is a number or true/false where it reads as one, else text.

    Raises
    ------
    typer.BadParameter
    """
    parameters: dict[str, str | int | float | bool] = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator or not name.strip():
            raise typer.BadParameter(f"{pair!r} is not NAME=VALUE.")
        parameters[name.strip()] = _parse_value(value.strip())
    return parameters


def _parse_value(text: str) -> str | int | float | bool:
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def parse_address(text: str) -> tuple[str, int]:
    """`HOST:PORT`; brackets around an IPv6 address.

    Raises
    ------
    typer.BadParameter
    """
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise typer.BadParameter(f"{text!r} is not HOST:PORT.")
    return host.removeprefix("[").removesuffix("]"), int(port)


def make_folder(path: Path) -> None:
    """Make the folder for what comes out, or say why not.

    Raises
    ------
    typer.BadParameter
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise typer.BadParameter(
            f"{path}: no folder for what comes out: {error.strerror}."
        ) from error


def check_ae_title(title: str) -> None:
    """Refuse what is no AE title.

    Raises
    ------
    typer.BadParameter
    """
    from pydantic import TypeAdapter, ValidationError

    from node.config import AETitle

    try:
        TypeAdapter(AETitle).validate_python(title)
    except ValidationError as error:
        raise typer.BadParameter(
            f"{title!r} is no AE title: 1 to 16 printable characters, no backslash."
        ) from error
