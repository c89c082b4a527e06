"""`osteonode studies hold` and `release`: what a person says about a study."""

from __future__ import annotations

from typing import Annotated

import typer

from node.cli.common import actor, opened
from node.cli.output import short

Uid = Annotated[str, typer.Argument(metavar="UID", help="Study Instance UID, or the end of it.")]


def hold(
    ctx: typer.Context,
    uid: Uid,
    reason: Annotated[
        str,
        typer.Option(
            "--reason", metavar="TEXT", help="Kept with the study, not in the log. Name no patient."
        ),
    ] = "",
) -> None:
    """Hold a study: it is not evaluated until `osteonode studies release`. What is scheduled already runs.

    Example: `osteonode studies hold 619255048 --reason 'wrong protocol, is scanned again'`
    """
    from node.cli.studies import find_study
    from storage.index import wholeness

    with opened(ctx) as index:
        study = find_study(index, uid)
        wholeness.hold(index, study.study_instance_uid, actor=actor(), reason=reason)
    print(
        f"Study {short(study.study_instance_uid)} is held; `osteonode studies release` ends that."
    )


def release(ctx: typer.Context, uid: Uid) -> None:
    """Have a study evaluated now, as it is: one that is held, that waits, or that lacks slices.

    What it waits for counts as not coming. A series that lacks slices runs on its longest part without a gap, and the
    report says so. An input that its rule does not allow to miss (`--without`) holds the run still.

    Example: `osteonode studies release 619255048`
    """
    from node.cli.studies import find_study
    from storage.index import wholeness

    with opened(ctx) as index:
        study = find_study(index, uid)
        wholeness.release(index, study.study_instance_uid, actor=actor())
    print(
        f"Study {short(study.study_instance_uid)} is evaluated as it is as soon as the node runs."
    )
