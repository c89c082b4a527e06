"""`osteonode config`: what is set."""

from __future__ import annotations

import typer

from node.cli.common import AsJson, read_config
from node.cli.output import show_json
from node.config import TlsSection, without_passwords
from node.errors import ConfigError
from storage.model import utcnow

app = typer.Typer(name="config", help="What is set.", no_args_is_help=True)


@app.command()
def check(ctx: typer.Context) -> None:
    """Check the configuration, the folders it names and the pipelines in them.

    Exit code 3 when a setting is missing, misspelt or out of range, 6 when a pipeline cannot be read.

    Example: `osteonode --config /etc/osteonode/config.toml config check`
    """
    from node.confinement import describe_walls
    from pipelines.registry import find_pipelines

    config = read_config(ctx)
    registry = find_pipelines(config.pipelines.folders)
    for error in registry.errors:
        raise error
    print(f"AE title   {config.node.ae_title}, {config.node.host}:{config.node.port}")
    if config.tls.listens:
        _check_tls(config.tls)
    if config.tls.crl_file:
        _check_lists(config.tls.crl_file)
    print(f"data       {config.node.data.absolute()}")
    print(f"database   {without_passwords(config.database_url)}")
    print(f"archive    {without_passwords(config.archive_url)}")
    print(f"pipelines  {', '.join(sorted(registry.entries)) or 'none'}")
    print(f"confined   {describe_walls(config.compute)}")
    print("The configuration is good.")


def _check_tls(section: TlsSection) -> None:
    """Read what connections are secured with, as the node would."""
    from node import tls

    tls.acceptor(section).current()
    ends = tls.expires(section.certificate)
    print(f"TLS        port {section.port}, certificate valid until {ends:%Y-%m-%d %H:%M} UTC")
    if ends < utcnow():
        raise ConfigError(
            f"tls.certificate: {section.certificate} has expired: nobody will accept it; put a new one in its place "
            "(the running node reads it by itself)."
        )


def _check_lists(path: str) -> None:
    from node.revocation import lists_expire

    try:
        ends = lists_expire(path)
    except ConfigError as error:
        raise ConfigError(f"tls.crl_file: {error}") from error
    print(f"revoked    lists of {path}, valid until {ends:%Y-%m-%d %H:%M} UTC")
    if ends < utcnow():
        raise ConfigError(
            f"tls.crl_file: a list of {path} is over: nobody of its authority is accepted; put its new list there "
            "(the running node reads it by itself)."
        )


@app.command()
def show(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Show every setting in force: defaults, the file and the environment together.

    Example: `osteonode config show`
    """
    settings = without_passwords(read_config(ctx).model_dump(mode="json"))
    if as_json:
        show_json(settings)
        return
    for section, values in settings.items():
        print(f"[{section}]")
        for key, value in values.items():
            print(f"{key} = {value!r}")
