"""Where a destination is, as `destinations add` and `edit` take it: a remote AE or a DICOMweb service."""

from __future__ import annotations

from typing import Annotated

import typer

from node.cli.common import check_ae_title
from storage.model import Destination

Web = Annotated[
    str | None,
    typer.Option(
        "--web",
        metavar="URL",
        help="It is a DICOMweb service: results go to URL/studies by STOW-RS. Credentials are given in the "
        "configuration, under [delivery.web.NAME].",
    ),
]
Plain = Annotated[
    bool,
    typer.Option(
        "--plain", help="Take an http:// URL on another machine: patients' data in clear text."
    ),
]
#: What only a remote AE has.
_OF_AE = ("--host", "--called", "--port", "--calling", "--retrieve", "--tls")
#: The same, as fields.
_FIELDS = frozenset(("host", "port", "called_ae", "calling_ae", "retrieve"))


def check_place(
    *, web: str | None, plain: bool, given: dict[str, object], is_new: bool = True
) -> None:
    """Options that go together.

    Parameters
    ----------
    given
        Option -> what was given for it; None or False where nothing was.
    is_new
        Whether it must be whole.

    Raises
    ------
    typer.BadParameter
    """
    of_ae = [name for name in _OF_AE if given.get(name) not in (None, False)]
    if web is not None and of_ae:
        raise typer.BadParameter(
            f"{of_ae[0]} is for a remote AE: a DICOMweb service has its address in the URL of --web."
        )
    if web is None and plain:
        raise typer.BadParameter("--plain is for --web.")
    missing = [name for name in ("--host", "--called") if given.get(name) is None]
    if is_new and web is None and missing:
        raise typer.BadParameter(
            f"give {' and '.join(missing)}, for a remote AE; or --web URL, for a DICOMweb service."
        )
    for name in ("--called", "--calling"):
        if title := given.get(name):
            check_ae_title(str(title))


def web_place(url: str, *, plain: bool) -> tuple[str, str, int]:
    """URL, host and port of a DICOMweb service.

    Raises
    ------
    typer.BadParameter
        When the URL is none, holds a secret, or is in clear text.
    """
    from node.errors import ConfigError
    from node.web import read_url

    try:
        return read_url(url, plain=plain)
    except ConfigError as error:
        raise typer.BadParameter(str(error)) from error


def check_kind(destination: Destination, changes: dict[str, str | int | None]) -> None:
    """An AE stays an AE, a service a service: what was said of the one means nothing of the other.

    Raises
    ------
    typer.BadParameter
    """
    becomes_ae = "url" not in changes and bool(_FIELDS & changes.keys())
    if becomes_ae if destination.is_web else "url" in changes:
        is_now = "a DICOMweb service" if destination.is_web else "a remote AE"
        raise typer.BadParameter(
            f"{destination.name} is {is_now}, and stays one: add another destination, name it in the rules, then "
            "remove this one."
        )
