"""`osteonode db`: the tables of the database."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from node.cli.common import AsJson, read_config
from node.cli.output import show_json
from storage.errors import IndexUnavailable, SchemaOutdated

if TYPE_CHECKING:
    from node.config import Config

app = typer.Typer(name="db", help="The tables of the database.", no_args_is_help=True)


@app.command()
def upgrade(ctx: typer.Context) -> None:
    """Bring the tables to this version: makes them in an empty database, does nothing to a current one.

    Stop the node and back up first (docs/operations.md): there is no way down.

    Example: `osteonode db upgrade`
    """
    from migrations import commands

    config = read_config(ctx)
    _reach(config)
    before, wanted = commands.current(config.database_url), commands.head()
    # Revisions are numbered; Alembic would only say that it does not know a later one.
    if before is not None and before > wanted:
        raise SchemaOutdated(
            f"The database has revision {before}, newer than this version's {wanted}: install a newer osteonode."
        )
    commands.upgrade(config.database_url)
    print(
        f"Revision {wanted}, as before."
        if before == wanted
        else f"Revision {before or 'none'} -> {wanted}."
    )


@app.command()
def current(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Say which revision the database has. Exit code 4 when it is not this version's.

    Example: `osteonode db current`
    """
    from migrations import commands

    config = read_config(ctx)
    _reach(config)
    found, wanted = commands.current(config.database_url), commands.head()
    if as_json:
        show_json({"current": found, "head": wanted})
    else:
        print(f"The database has revision {found or 'none'}; this version needs {wanted}.")
    if found != wanted:
        raise SchemaOutdated(
            "Run `osteonode db upgrade`, or a newer osteonode if the database is newer."
        )


@app.command()
def backup(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Must not be there yet.")],
    as_json: AsJson = False,
) -> None:
    """Copy a SQLite database to FILE while the node runs; whole, checked, and as of one moment.

    PostgreSQL has `pg_dump`. The archive is copied afterwards: docs/operations.md says how, and how to restore.

    Example: `osteonode db backup /backup/index.sqlite`
    """
    from storage.index.backup import back_up

    config = read_config(ctx)
    size = back_up(config.database_url, file)
    if as_json:
        show_json({"file": str(file), "bytes": size})
    else:
        print(f"{file}: {size} bytes.")


def _reach(config: Config) -> None:
    """Ask the database once, in words for its administrator; the data folder is made first.

    Raises
    ------
    IndexUnavailable
    """
    from storage.index import open_index

    try:
        config.node.data.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise IndexUnavailable(f"Data folder {config.node.data}: {error.strerror}.") from error
    with open_index(config.database_url, check_schema=False) as index, index.read():
        pass
