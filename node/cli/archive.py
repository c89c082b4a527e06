"""`osteonode archive`: whether it holds what the index says, and what leaves it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from node.cli.common import AsJson, actor, opened, parse_when, read_config
from node.cli.output import form, row, say, show_fields, show_json, show_list
from node.cli.studies import find_study

if TYPE_CHECKING:
    from node.integrity import Verification
    from storage.index import Index

app = typer.Typer(
    name="archive",
    help="Whether the archive holds what the index says; what leaves it.",
    no_args_is_help=True,
)

Since = Annotated[
    str | None, typer.Option(help="What was received or made since: 2026-01-31, 12h, 7d.")
]
OfStudy = Annotated[str | None, typer.Option("--study", metavar="UID", help="This study alone.")]
Every = Annotated[bool, typer.Option("--all", help="Every row, and every file that no row names.")]
Rate = Annotated[
    float | None,
    typer.Option(
        "--rate",
        metavar="MB_S",
        min=0,
        help="Megabytes a second, so that receiving keeps the disk; 0: no limit; else [integrity] rate_mb_s.",
    ),
]
MinAge = Annotated[
    float,
    typer.Option(
        min=0,
        help="Seconds: younger files without a row are left alone, for it may be on its way. 0 when no node runs.",
    ),
]
_FLAW = ("kind", "archive_key", "study_instance_uid", "sop_instance_uid", "reason")


@app.command()
def verify(
    ctx: typer.Context,
    since: Since = None,
    study: OfStudy = None,
    every: Every = False,
    rate: Rate = None,
    min_age: MinAge = 3600.0,
    as_json: AsJson = False,
) -> None:
    """Take the digest of every file and hold it against the index; exit code 1 where something is wrong.

    What is missing or damaged is marked: `studies show` says so. No file is touched; `archive repair` does that. The
    node verifies a share each night ([integrity]).

    Examples: `osteonode archive verify --all` · `osteonode archive verify --since 7d --json`
    """
    found = _verify(ctx, since=since, study=study, every=every, rate=rate, min_age=min_age)
    if as_json:
        show_json({**row(found, leave_out=("until",)), "counts": found.counts()})
    else:
        _say(found)
    if found.flaws:
        raise typer.Exit(1)


@app.command()
def repair(
    ctx: typer.Context,
    since: Since = None,
    study: OfStudy = None,
    every: Every = False,
    rate: Rate = None,
    min_age: MinAge = 3600.0,
    as_json: AsJson = False,
) -> None:
    """Verify, and do what can be done: nothing is thrown away.

    A whole file without a row is indexed as if it came again: after an older index was restored, that is what came
    since the backup. A damaged file is moved to the folder `aside` of the archive; sent again, the instance is whole
    again. Exit code 1 where something is missing or damaged still.

    Example: `osteonode archive repair --all`
    """
    from node import repair as repairing
    from node.integrity import FlawKind
    from storage.archive import Archive

    found = _verify(ctx, since=since, study=study, every=every, rate=rate, min_age=min_age)
    config = read_config(ctx)
    with opened(ctx) as index:
        done = repairing.repair(
            config, Archive(config.archive_url), index, found.flaws, actor=actor()
        )
    rows = [{"action": one.action, **row(one.flaw), "reason": one.reason} for one in done]
    if as_json:
        show_json({**row(found, leave_out=("until", "flaws")), "repaired": rows})
    else:
        show_list(rows, ("action", *_FLAW), as_form=form(as_json=False), empty="Nothing to repair.")
    if any(one.action == "marked" or one.flaw.kind == FlawKind.DAMAGED for one in done):
        raise typer.Exit(1)


@app.command()
def expire(
    ctx: typer.Context,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would expire now.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Let go what the policy says ([retention]), as the node does each night; never what is owed.

    Owed is a study with news, one that waits or is held, has a workitem that is not ended, or a delivery that has not
    come to its end; a failed one keeps its study until it is retried. Rows stay; an instance sent again is kept again.

    Example: `osteonode archive expire --dry-run`
    """
    from node import expiry
    from storage.archive import Archive
    from storage.model import utcnow

    config = read_config(ctx)
    policy = config.retention
    with opened(ctx) as index:
        if dry_run:
            chosen = expiry.plan(index, policy, now=utcnow())
        else:
            chosen = expiry.expire(
                Archive(config.archive_url), index, policy, actor=actor(), now=utcnow()
            )
    rows = [
        {
            "study_instance_uid": one.candidate.study_instance_uid,
            "what": "evidence" if "evidence" in one.candidate.origins else "received",
            "files": one.candidate.files,
            "bytes": one.candidate.bytes,
            "last_at": one.candidate.last_at,
            "reason": one.reason,
        }
        for one in chosen
    ]
    kept = not (policy.received_days or policy.evidence_days or policy.max_gb)
    show_list(
        rows,
        tuple(rows[0]) if rows else (),
        as_form=form(as_json=as_json),
        empty="Everything is kept for ever: [retention] says nothing else."
        if kept
        else "Nothing expires.",
    )


def _verify(
    ctx: typer.Context,
    *,
    since: str | None,
    study: str | None,
    every: bool,
    rate: float | None,
    min_age: float,
) -> Verification:
    from node.integrity import Pace, Scope, note, verify_files, verify_rows
    from storage.archive import Archive

    if [since is not None, study is not None, every].count(True) != 1:
        raise typer.BadParameter("give one of --since, --study and --all.")
    config = read_config(ctx)
    mb_s = config.integrity.rate_mb_s if rate is None else rate
    pace = Pace(rate=mb_s * 1e6)
    with opened(ctx) as index:
        archive = Archive(config.archive_url)
        scope = Scope(
            study=find_study(index, study).study_instance_uid if study else None,
            since=parse_when(since),
        )
        with _progress("rows", _total(index) if every else None) as seen:
            found = verify_rows(
                archive, index, scope=scope, pace=pace, actor=actor(), on_progress=seen
            )
        if every:
            folders = archive.folders()
            with _progress("folders", len(folders)) as seen:
                orphans = verify_files(
                    archive,
                    index,
                    folders=folders,
                    pace=pace,
                    settled_s=min_age,
                    on_progress=seen,
                )
            found = replace(found, flaws=(*found.flaws, *orphans))
        note(index, found, actor=actor())
    return found


def _total(index: Index) -> int:
    from storage.index import files

    return files.count(index)


@contextmanager
def _progress(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A bar on standard error, where that is a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task(what, total=total)
        yield lambda count: progress.advance(task, count)


def _say(found: Verification) -> None:
    show_fields(
        {
            "checked": f"{found.checked} files, {found.bytes / 1e6:.1f} MB",
            "expired": found.expired,
            "flaws": found.counts() or "none",
        }
    )
    if found.flaws:
        say("Flaws")
        show_list([row(one) for one in found.flaws], _FLAW, as_form=form(as_json=False), empty="")
        print("`osteonode archive repair` does what can be done about them.")
