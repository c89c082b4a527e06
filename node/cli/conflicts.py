"""`osteonode studies conflicts` and `osteonode studies accept`: other contents under a UID that is held."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, cast

import typer

from node.cli.common import AsJson, actor, opened, pick, read_config
from node.cli.output import form, row, short, show_list
from node.cli.studies import find_study
from storage.errors import NotFound
from storage.model import Study

if TYPE_CHECKING:
    from node.config import Config
    from node.conflicts import Summary
    from storage.index import Index

#: So many are compared for `studies show`.
COMPARED = 200


def list_conflicts(
    ctx: typer.Context,
    uid: Annotated[
        str | None,
        typer.Argument(metavar="[UID]", help="Study Instance UID, or the end of it; all studies."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List instances that came again with another content, and which attributes differ (names, no values).

    The content that came first counts; the others are kept beside. `studies accept` lets another count.

    Examples: `osteonode studies conflicts` · `osteonode studies conflicts 619255048 --json`
    """
    from node.conflicts import differences
    from storage.archive import Archive
    from storage.index import conflicts

    config = read_config(ctx)
    with opened(ctx) as index:
        if uid is None:
            found = conflicts.studies_with(index)
            rows = [{"study_instance_uid": one, "contents": n} for one, n in found.items()]
        else:
            study = find_study(index, uid)
            beside = conflicts.of_study(index, study.study_instance_uid)
            compared = differences(
                Archive(config.archive_url), index, beside, scratch=config.scratch
            )
            rows = [row(one) for one in compared]
    if not as_json:
        rows = [_shown(one) for one in rows]
    show_list(
        rows,
        tuple(rows[0]) if rows else (),
        as_form=form(as_json=as_json),
        empty="No instance came again with another content.",
    )


def accept(
    ctx: typer.Context,
    uid: Annotated[
        str, typer.Argument(metavar="UID", help="Study Instance UID, or the end of it.")
    ],
    sop_uid: Annotated[
        str | None,
        typer.Argument(metavar="[SOP_UID]", help="SOP Instance UID, or the end of it."),
    ] = None,
    digest: Annotated[
        str, typer.Option(help="Digest of the content that shall count, or its beginning.")
    ] = "",
    every: Annotated[
        bool, typer.Option("--all", help="Of each instance, the content that came last.")
    ] = False,
) -> None:
    """Let another content of an instance count: the study has news, is evaluated, and its result is replaced.

    The content that counted until now is kept beside, and can be accepted again. Name the instance and the digest of
    the content, or `--all` where a whole study was corrected and sent again.

    Examples: `osteonode studies accept 619255048 34022718 --digest 3f9a` · `osteonode studies accept 619255048 --all`
    """
    from node.conflicts import accept as accept_content
    from storage.archive import Archive
    from storage.index import conflicts

    if every == bool(sop_uid and digest) or (every and (sop_uid or digest)):
        raise typer.BadParameter("give SOP_UID and --digest, or --all.")
    config = read_config(ctx)
    with opened(ctx) as index:
        study = find_study(index, uid).study_instance_uid
        beside = conflicts.of_study(index, study)
        if not beside:
            raise NotFound(f"No instance of study {study} came again with another content.")
        if every:
            # In order of time: the last of each instance stays.
            wanted = {one.sop_instance_uid: one.digest for one in beside}
        else:
            known = [one.sop_instance_uid for one in beside]
            wanted = {pick(str(sop_uid), known, noun="instance with conflicts"): digest}
        archive = Archive(config.archive_url)
        for one, chosen in wanted.items():
            accept_content(archive, index, one, chosen, actor=actor(), study=study)
    print(
        f"{len(wanted)} instances of study {short(study)} have another content now; it is evaluated again as soon as "
        "the node runs and the study is quiet."
    )


def summary_of(config: Config, index: Index, study: Study) -> Summary | None:
    """The conflicts of a study in numbers; None when there are none."""
    from node.conflicts import differences, summarize
    from storage.archive import Archive
    from storage.index import conflicts

    found = conflicts.of_study(index, study.study_instance_uid)
    if not found:
        return None
    compared = differences(
        Archive(config.archive_url), index, found[:COMPARED], scratch=config.scratch
    )
    return summarize(found, compared)


def say_summary(summary: Summary) -> str:
    """The same as a sentence."""
    differing = (
        (summary.pixels, "pixels"),
        (summary.image, "image attributes"),
        (summary.identity, "patient or study attributes"),
        (summary.other_only, "nothing of these"),
    )
    said = ", ".join(f"{what} in {n}" for n, what in differing if n)
    left = f"; {summary.not_compared} not compared" if summary.not_compared else ""
    return (
        f"{summary.instances} instances came again with another content ({summary.contents} contents, none of which "
        f"counts): differing {said or 'nothing seen'}{left}. `osteonode studies conflicts` names the attributes."
    )


def _shown(one: dict[str, object]) -> dict[str, object]:
    """A line of the table: how many attributes, not which; digests by their beginning."""
    shown = dict(one)
    for key in ("identity", "image", "other"):
        if key in shown:
            names = cast(Sequence[str], shown[key])
            shown[key] = f"{len(names)}: {', '.join(names)}"[:60] if names else "0"
    if "digest" in shown:
        shown["digest"] = str(shown["digest"])[:12]
    if shown.get("pixels", 0) is None:
        shown["pixels"] = "not compared"
    return shown
