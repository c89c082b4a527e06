"""`osteonode send` and `osteonode echo`: ask a peer."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from node.cli.common import check_ae_title, parse_address, read_config
from node.errors import DeliveryError
from storage.errors import NotFound
from storage.model import Destination

if TYPE_CHECKING:
    from node.config import Config

Calling = Annotated[
    str | None,
    typer.Option("--calling", metavar="AET", help="Our AE title; the node's own when not given."),
]
Tls = Annotated[
    bool,
    typer.Option("--tls", help="Over TLS, with the certificates of [tls] in the configuration."),
]
_PROGRESS = (
    TextColumn("{task.description}"),
    BarColumn(),
    MofNCompleteColumn(),
    TimeRemainingColumn(),
)
#: Wildcard addresses to listen on, and where to reach them.
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 - never bound


def echo(
    ctx: typer.Context,
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="HOST:PORT", help="A peer; this node itself when not given."),
    ] = None,
    called: Annotated[
        str | None, typer.Option("--called", metavar="AET", help="Its AE title.")
    ] = None,
    calling: Calling = None,
    tls: Tls = False,
) -> None:
    """C-ECHO to this node, or to a peer: is it alive? Exit code 5 when it is not.

    Examples: `osteonode echo` · `osteonode echo --to pacs.example.org:104 --called PACS_AE`
    """
    config = read_config(ctx)
    if to is None:
        name = "This node"
        host, port = _LOOPBACK.get(config.node.host, config.node.host), config.node.port
        if config.tls.only:
            port, tls = config.tls.port, True
    else:
        name = "The peer"
        host, port = parse_address(to)
    title = called or config.node.ae_title
    check_ae_title(title)
    ask(
        config,
        Destination(name=name, host=host, port=port, called_ae=title, calling_ae=calling, tls=tls),
        to_self=to is None,
    )


def send(
    ctx: typer.Context,
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH...", help="Files, or folders with all in them.")
    ],
    to: Annotated[str, typer.Option("--to", metavar="HOST:PORT", help="Where to.")],
    called: Annotated[str, typer.Option("--called", metavar="AET", help="AE title called.")],
    calling: Calling = None,
    tls: Tls = False,
) -> None:
    """Send DICOM files by C-STORE, as they are encoded; files that are not DICOM are counted and left out.

    Exit code 5 when the peer does not answer or refuses an instance.

    Example: `osteonode send /data/series --to localhost:11112 --called OSTEONODE`
    """
    from node.scu import Outcome, send_paths
    from node.tls import Dialer

    config = read_config(ctx)
    host, port = parse_address(to)
    check_ae_title(called)
    missing = [path for path in paths if not path.exists()]
    if missing:
        raise typer.BadParameter(f"{missing[0]}: there is no such file or folder.")
    _hush()
    peer = Destination(
        name="The peer", host=host, port=port, called_ae=called, calling_ae=calling, tls=tls
    )
    tally = Counter[str]()
    shown = Console(stderr=True, soft_wrap=True)
    with Progress(
        *_PROGRESS, console=shown, transient=True, disable=not shown.is_terminal
    ) as progress:
        task = progress.add_task("sending", total=None)
        for step in send_paths(
            peer,
            paths,
            calling_ae=config.node.ae_title,
            timeout_s=config.delivery.timeout_s,
            dialer=Dialer(config.tls),
        ):
            progress.update(task, total=step.total, advance=1)
            tally["skipped" if step.status is None else str(step.status.outcome)] += 1
            if step.status is None or step.status.outcome is not Outcome.DELIVERED:
                message = step.skipped if step.status is None else step.status.message
                shown.print(Text(f"{step.path}: {message}"))
    sent = tally[Outcome.DELIVERED]
    refused = tally[Outcome.RETRY] + tally[Outcome.PERMANENT]
    print(f"{sent} sent, {refused} not taken, {tally['skipped']} skipped (no DICOM instance).")
    if refused:
        raise DeliveryError(
            f"{called} at {to} did not take {refused} of {sent + refused} instances."
        )
    if not sent:
        raise NotFound("There was nothing to send.")


def ask(config: Config, destination: Destination, *, to_self: bool = False) -> None:
    """C-ECHO, and say what came of it.

    Parameters
    ----------
    to_self
        The destination is this node, which is known by its own certificate.

    Raises
    ------
    DeliveryError
        When it does not answer.
    """
    from node.scu import echo as c_echo
    from node.tls import Dialer

    _hush()
    seconds = c_echo(
        destination,
        calling_ae=config.node.ae_title,
        timeout_s=config.delivery.timeout_s,
        dialer=Dialer(config.tls, to_self=to_self),
    )
    where = f"{destination.called_ae} at {destination.host}:{destination.port}"
    print(f"{where} answers, in {1000 * seconds:.0f} ms.")


def ask_web(config: Config, destination: Destination) -> None:
    """Search a DICOMweb service for what nobody has, and say what came of it.

    Raises
    ------
    DeliveryError
        When it does not answer, or refuses.
    """
    from node.qido import echo

    seconds, status = echo(destination, config=config)
    print(f"{destination.url} answers QIDO-RS with {status}, in {1000 * seconds:.0f} ms.")


def _hush() -> None:
    """What pynetdicom would say of a dead peer, our own error says in one line."""
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
