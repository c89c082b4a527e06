"""`osteonode destinations`: where results go."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from node.cli.common import AsJson, actor, check_ae_title, opened, read_config
from node.cli.output import form, row, show_list
from pipelines.evidence.profile import Profile
from storage.model import Destination

app = typer.Typer(name="destinations", help="Where results go: remote AEs.", no_args_is_help=True)

Name = Annotated[
    str, typer.Argument(metavar="NAME", help="Name of the destination, as rules give it.")
]
_PROFILE_HELP = (
    "Which objects of a result it gets, in which form: generic, ohif, slicer, legacy, radiotherapy, or one of your "
    "own; `osteonode destinations profiles` shows them."
)
_COLUMNS = ("name", "host", "port", "called_ae", "calling_ae", "profile", "retrieve", "tls")


class Retrieve(StrEnum):
    """How a series is fetched."""

    MOVE = "move"
    GET = "get"


@app.command("list")
def list_(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List all destinations.

    Example: `osteonode destinations list`
    """
    from storage.index import destinations

    with opened(ctx) as index:
        found = destinations.list_destinations(index)
    show_list(
        [row(destination) for destination in found],
        _COLUMNS,
        as_form=form(as_json=as_json),
        empty="There are no destinations; `osteonode destinations add --help` shows how to make one.",
    )


@app.command()
def add(
    ctx: typer.Context,
    name: Name,
    host: Annotated[str, typer.Option("--host", help="Host name or address.")],
    called: Annotated[str, typer.Option("--called", metavar="AET", help="Its AE title.")],
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Its DICOM port.")] = 104,
    calling: Annotated[
        str | None,
        typer.Option(
            "--calling",
            metavar="AET",
            help="Our AE title towards it; the node's own when not given.",
        ),
    ] = None,
    profile: Annotated[str, typer.Option("--profile", help=_PROFILE_HELP)] = "generic",
    retrieve: Annotated[
        Retrieve,
        typer.Option(
            "--retrieve",
            help="How earlier studies are fetched from it: C-MOVE (it must know our AE title and address) or C-GET.",
        ),
    ] = Retrieve.MOVE,
    tls: Annotated[
        bool,
        typer.Option(
            "--tls",
            help="Connect over TLS: its certificate must be of [tls] authorities, and have the name of --host.",
        ),
    ] = False,
) -> None:
    """Add a destination.

    Examples:

    `osteonode destinations add PACS --host pacs.example.org --port 104 --called PACS_AE`

    `osteonode destinations add SAFE --host pacs.example.org --port 2762 --called PACS_AE --tls`

    `osteonode destinations add OLD --host old.example.org --called OLD_AE --profile legacy`
    """
    from storage.index import destinations

    read_config(ctx).evidence.profile(profile)

    for title in (called, calling):
        if title is not None:
            check_ae_title(title)
    with opened(ctx) as index:
        destinations.add(
            index,
            Destination(
                name=name,
                host=host,
                port=port,
                called_ae=called,
                calling_ae=calling,
                profile=profile,
                retrieve=retrieve.value,
                tls=tls,
            ),
            actor=actor(),
        )
    print(
        f"Destination {name} is added; `osteonode destinations echo {name}` asks whether it answers."
    )


@app.command()
def profile(
    ctx: typer.Context,
    name: Name,
    profile: Annotated[str, typer.Argument(metavar="PROFILE", help=_PROFILE_HELP)],
) -> None:
    """Give a destination another profile; results that come from now on are made by it.

    Example: `osteonode destinations profile PACS ohif`
    """
    from storage.index import destinations

    read_config(ctx).evidence.profile(profile)
    with opened(ctx) as index:
        destinations.set_profile(index, name, profile, actor=actor())
    print(f"Destination {name} has the profile {profile}.")


@app.command()
def profiles(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List the profiles: which objects of a result a destination gets, in which form.

    Example: `osteonode destinations profiles`
    """
    known = read_config(ctx).evidence.known_profiles
    show_list(
        [{"name": name} | profile.model_dump(mode="json") for name, profile in known.items()],
        ("name", *Profile.model_fields),
        as_form=form(as_json=as_json),
        empty="",
    )


@app.command()
def remove(ctx: typer.Context, name: Name) -> None:
    """Remove a destination that no rule names and nothing is owed to.

    Example: `osteonode destinations remove OLDPACS`
    """
    from storage.index import destinations

    with opened(ctx) as index:
        destinations.remove(index, name, actor=actor())
    print(f"Destination {name} is removed.")


@app.command()
def echo(ctx: typer.Context, name: Name) -> None:
    """Ask a destination whether it answers (C-ECHO). Exit code 5 when it does not.

    Example: `osteonode destinations echo PACS`
    """
    from node.cli.network import ask
    from storage.index import destinations

    config = read_config(ctx)
    with opened(ctx) as index:
        destination = destinations.get(index, name)
    ask(config, destination)
