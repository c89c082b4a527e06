"""`osteonode destinations`: where results go."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from node.cli.common import AsJson, actor, opened, read_config
from node.cli.output import form, row, show_list
from node.cli.places import Plain, Web, check_kind, check_place, web_place
from pipelines.evidence.profile import Profile
from storage.model import Destination

app = typer.Typer(
    name="destinations",
    help="Where results go: remote AEs and DICOMweb services.",
    no_args_is_help=True,
)

Name = Annotated[
    str, typer.Argument(metavar="NAME", help="Name of the destination, as rules give it.")
]
_PROFILE_HELP = (
    "Which objects of a result it gets, in which form: generic, ohif, slicer, legacy, radiotherapy, or one of your "
    "own; `osteonode destinations profiles` shows them."
)
_COLUMNS = (
    *("name", "url", "host", "port", "called_ae", "calling_ae", "profile", "retrieve"),
    *("tls", "commitment", "window", "paused_at"),
)
_WINDOW_HELP = "When it is sent to, as `20:00-06:00` or `mon-fri 20:00-06:00, sat-sun 00:00-24:00`; '' at any time."
_RETRIEVE_HELP = "How earlier studies are fetched from it: C-MOVE (it must know our AE title and address) or C-GET."
_COMMIT_HELP = (
    "Ask it by storage commitment to keep what it took (it must know our AE title, address and port); what it does "
    "not report in time is read back by C-FIND. With --web: read it back by QIDO-RS."
)


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
    host: Annotated[str | None, typer.Option("--host", help="Host name or address.")] = None,
    called: Annotated[
        str | None, typer.Option("--called", metavar="AET", help="Its AE title.")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option("--port", min=1, max=65535, help="Its DICOM port; 104 when not given."),
    ] = None,
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
        Retrieve | None,
        typer.Option("--retrieve", help=f"{_RETRIEVE_HELP} By C-MOVE when not given."),
    ] = None,
    tls: Annotated[
        bool,
        typer.Option(
            "--tls",
            help="Connect over TLS: its certificate must be of [tls] authorities, and have the name of --host.",
        ),
    ] = False,
    commit: Annotated[bool, typer.Option("--commit/--no-commit", help=_COMMIT_HELP)] = False,
    window: Annotated[str, typer.Option("--window", help=_WINDOW_HELP)] = "",
    web: Web = None,
    plain: Plain = False,
) -> None:
    """Add a destination: a remote AE (--host, --called) or a DICOMweb service (--web).

    Examples:

    `osteonode destinations add PACS --host pacs.example.org --port 104 --called PACS_AE`

    `osteonode destinations add SAFE --host pacs.example.org --port 2762 --called PACS_AE --tls`

    `osteonode destinations add OLD --host old.example.org --called OLD_AE --profile legacy`

    `osteonode destinations add PACS --host pacs.example.org --called PACS_AE --commit`

    `osteonode destinations add CLOUD --web https://pacs.example.org/dicom-web --commit`
    """
    from storage.index import destinations

    read_config(ctx).evidence.profile(profile)
    given = {"--host": host, "--called": called, "--port": port, "--calling": calling}
    check_place(web=web, plain=plain, given={**given, "--retrieve": retrieve, "--tls": tls})
    url = ""
    if web is not None:
        url, host, port = web_place(web, plain=plain)
    destination = Destination(
        name=name,
        host=host or "",
        port=port or 104,
        called_ae=called or "",
        calling_ae=calling,
        profile=profile,
        retrieve=(retrieve or Retrieve.MOVE).value,
        tls=tls,
        commitment=commit,
        window=_window(window),
        url=url,
    )
    with opened(ctx) as index:
        destinations.add(index, destination, actor=actor())
    print(
        f"Destination {name} is added; `osteonode destinations echo {name}` asks whether it answers."
    )


@app.command()
def edit(
    ctx: typer.Context,
    name: Name,
    host: Annotated[str | None, typer.Option("--host", help="Host name or address.")] = None,
    called: Annotated[
        str | None, typer.Option("--called", metavar="AET", help="Its AE title.")
    ] = None,
    port: Annotated[
        int | None, typer.Option("--port", min=1, max=65535, help="Its DICOM port.")
    ] = None,
    calling: Annotated[
        str | None,
        typer.Option("--calling", metavar="AET", help="Our AE title towards it; '' for our own."),
    ] = None,
    profile: Annotated[str | None, typer.Option("--profile", help=_PROFILE_HELP)] = None,
    retrieve: Annotated[Retrieve | None, typer.Option("--retrieve", help=_RETRIEVE_HELP)] = None,
    commit: Annotated[bool | None, typer.Option("--commit/--no-commit", help=_COMMIT_HELP)] = None,
    window: Annotated[str | None, typer.Option("--window", help=_WINDOW_HELP)] = None,
    web: Web = None,
    plain: Plain = False,
) -> None:
    """Change what is given of a destination. What is owed to it goes where it is then.

    Examples: `osteonode destinations edit PACS --host new.example.org` · `osteonode destinations edit PACS --commit`
    """
    from storage.index import destinations

    if profile is not None:
        read_config(ctx).evidence.profile(profile)
    options = {"--host": host, "--called": called, "--port": port, "--calling": calling}
    check_place(web=web, plain=plain, given={**options, "--retrieve": retrieve}, is_new=False)
    url = None
    if web is not None:
        url, host, port = web_place(web, plain=plain)
    given = {
        "host": host,
        "port": port,
        "called_ae": called,
        "calling_ae": calling,
        "profile": profile,
        "retrieve": None if retrieve is None else retrieve.value,
        "commitment": commit,
        "window": None if window is None else _window(window),
        "url": url,
    }
    changes: dict[str, str | int | None] = {
        field: value for field, value in given.items() if value is not None
    }
    if not changes:
        raise typer.BadParameter("say what shall change; `--help` lists it.")
    if calling == "":
        changes["calling_ae"] = None
    with opened(ctx) as index:
        check_kind(destinations.get(index, name), changes)
        destinations.edit(index, name, changes, actor=actor())
    print(f"Destination {name} is changed: {', '.join(changes)}.")


@app.command()
def pause(ctx: typer.Context, name: Name) -> None:
    """Send nothing to a destination for now; what is made is owed to it, and waits.

    Example: `osteonode destinations pause PACS`
    """
    from storage.index import destinations

    with opened(ctx) as index:
        changed = destinations.pause(index, name, actor=actor())
    again = f"`osteonode destinations resume {name}` sends what waits"
    print(f"Destination {name} is paused{'' if changed else ' already'}; {again}.")


@app.command()
def resume(ctx: typer.Context, name: Name) -> None:
    """Send to a paused destination again, first what waited.

    Example: `osteonode destinations resume PACS`
    """
    from storage.index import destinations

    with opened(ctx) as index:
        changed = destinations.resume(index, name, actor=actor())
    print(f"Destination {name} is {'sent to again' if changed else 'not paused'}.")


def _window(text: str) -> str:
    """A window of a destination, checked.

    Raises
    ------
    RuleError
        When it cannot be read, or names `stat`: a delivery has no priority.
    """
    from node.errors import RuleError
    from node.windows import parse_window

    if parse_window(text).stat:
        raise RuleError("A destination's window names times only; stat is for rules.")
    return text


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
    """Ask a destination whether it answers (C-ECHO; a DICOMweb service: QIDO-RS). Exit code 5 when it does not.

    Example: `osteonode destinations echo PACS`
    """
    from node.cli.network import ask, ask_web
    from storage.index import destinations

    config = read_config(ctx)
    with opened(ctx) as index:
        destination = destinations.get(index, name)
    if destination.is_web:
        ask_web(config, destination)
    else:
        ask(config, destination)
