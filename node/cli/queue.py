"""What people change of workitems: `raise`, `hold`, `release`, `cancel`, `retry`; the queue with its forecast."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from node.cli.common import LARGEST, actor, opened, pick
from node.cli.output import local, short
from storage.errors import ChangeRefused, NotFound
from storage.model import Workitem, WorkitemState, utcnow

if TYPE_CHECKING:
    from node.config import Config
    from storage.index import Index

#: So many of the queue are foreseen.
FORESEEN = 200
#: A priority given by hand; ten points are worth as much as an hour and forty minutes of waiting.
MOST_URGENT = 1000

Uids = Annotated[
    list[str] | None, typer.Argument(metavar="UID...", help="Workitem UIDs, or the ends of them.")
]
Every = Annotated[bool, typer.Option("--all", help="All that it can be done to, in place of UIDs.")]
OfPipeline = Annotated[
    str | None, typer.Option("--pipeline", metavar="NAME", help="With --all: of this pipeline.")
]


def raise_(
    ctx: typer.Context,
    uids: Uids = None,
    to: Annotated[
        int | None,
        typer.Option(min=-MOST_URGENT, max=MOST_URGENT, help="The new priority, or a lower one."),
    ] = None,
    first: Annotated[
        bool, typer.Option("--first", help="Before all that wait now; several in their order.")
    ] = False,
    every: Every = False,
    pipeline: OfPipeline = None,
) -> None:
    """Change the priority of SCHEDULED workitems; --first unless --to says which.

    Rules have 0 to 100; a STAT adds 100. A point is worth ten minutes of waiting. A window that is closed stays closed;
    `release --now` opens it.

    Example: `osteonode workitems raise 619255048 --first`
    """
    from storage.index import turns

    if first and to is not None:
        raise typer.BadParameter("give --to or --first, not both.")

    def change(index: Index, uid: str) -> str:
        changed = turns.set_priority(index, uid, to=to, actor=actor(), now=utcnow())
        return f"has priority {changed.priority}{_obstacle(changed)}"

    # The last is put first, then the one before it before that.
    _each(ctx, uids, change, every=every, pipeline=pipeline, backwards=to is None)


def hold(
    ctx: typer.Context,
    uids: Uids = None,
    reason: Annotated[str, typer.Option(help="Why, for whoever looks; no patient's name.")] = "",
    every: Every = False,
    pipeline: OfPipeline = None,
) -> None:
    """Keep SCHEDULED workitems from starting until they are released. They stay SCHEDULED (PS3.4 CC.1.1).

    Example: `osteonode workitems hold --all --pipeline ct_skeleton --reason "scanner is recalibrated"`
    """
    from storage.index import turns

    def change(index: Index, uid: str) -> str:
        turns.hold(index, uid, reason=reason, actor=actor(), now=utcnow())
        return "is held"

    _each(ctx, uids, change, every=every, pipeline=pipeline, which=lambda one: one.held_at is None)


def release(
    ctx: typer.Context,
    uids: Uids = None,
    at_once: Annotated[
        bool, typer.Option("--now", help="Whatever its window, or the pause after a failed run.")
    ] = False,
    every: Every = False,
    pipeline: OfPipeline = None,
) -> None:
    """Let workitems that are held take their turn again; the time they were held does not count as waiting.

    Example: `osteonode workitems release 619255048`
    """
    from storage.index import turns

    def change(index: Index, uid: str) -> str:
        freed = turns.let_go(index, uid, at_once=at_once, actor=actor(), now=utcnow())
        return f"is released{_obstacle(freed)}"

    def which(one: Workitem) -> bool:
        return one.held_at is not None or (at_once and bool(one.window or one.not_before))

    _each(ctx, uids, change, every=every, pipeline=pipeline, which=which)


def cancel(
    ctx: typer.Context,
    uids: Uids = None,
    every: Every = False,
    pipeline: OfPipeline = None,
) -> None:
    """Cancel workitems that have not ended; a running one is stopped within 5 s, and the next starts.

    Example: `osteonode workitems cancel 619255048`
    """
    from storage.index import workitems

    def change(index: Index, uid: str) -> str:
        workitems.cancel(index, uid, actor=actor())
        return "is cancelled"

    states = (WorkitemState.SCHEDULED, WorkitemState.IN_PROGRESS)
    _each(ctx, uids, change, every=every, pipeline=pipeline, states=states)


def retry(
    ctx: typer.Context,
    uids: Uids = None,
    every: Every = False,
    pipeline: OfPipeline = None,
) -> None:
    """Schedule CANCELED workitems again, with all their attempts.

    Example: `osteonode workitems retry 619255048`
    """
    from storage.index import workitems

    def change(index: Index, uid: str) -> str:
        workitems.retry(index, uid, actor=actor())
        return "is scheduled again"

    states = (WorkitemState.CANCELED,)
    _each(ctx, uids, change, every=every, pipeline=pipeline, states=states)


def find_uid(index: Index, given: str) -> str:
    """The UID of a workitem, from the whole of it or its beginning or end.

    Raises
    ------
    NotFound
    """
    from storage.index import workitems

    return pick(given, workitems.uids_like(index, given.strip().lstrip("….")), noun="workitem")


def foresee(index: Index, config: Config, now: datetime) -> dict[str, tuple[int, datetime | None]]:
    """Workitem UID -> its place among those that wait, and when it will start; None when nothing can be said."""
    from node.forecast import Capacity, forecast
    from storage.index import turns

    queue = turns.queue(index, limit=FORESEEN)
    capacity = Capacity(
        workers=turns.workers(index),
        limits=config.compute.limits,
        run_s=turns.run_times(index, {one.pipeline for one in queue}),
        zone=config.zone,
    )
    starts = forecast(queue, capacity, now=now)
    waiting = [one.workitem_uid for one in queue if one.state is WorkitemState.SCHEDULED]
    return {uid: (place, starts.get(uid)) for place, uid in enumerate(waiting, 1)}


def _each(
    ctx: typer.Context,
    uids: Sequence[str] | None,
    change: Callable[[Index, str], str],
    *,
    every: bool,
    pipeline: str | None,
    states: Sequence[WorkitemState] = (WorkitemState.SCHEDULED,),
    which: Callable[[Workitem], bool] = lambda _: True,
    backwards: bool = False,
) -> None:
    """Make the change to each, and say what came of it; one that cannot be made keeps no other from being made."""
    from storage.index import workitems

    if bool(uids) == every or (pipeline and not every):
        raise typer.BadParameter("give UIDs, or --all (of a pipeline: --all --pipeline NAME).")
    refused: list[Exception] = []
    with opened(ctx) as index:
        chosen = [find_uid(index, uid) for uid in uids or ()]
        for state in states if every else ():
            found = workitems.list_workitems(
                index, state=state, pipeline=pipeline, in_turn=True, limit=LARGEST
            )
            chosen += [one.workitem_uid for one in found if which(one)]
        for uid in reversed(chosen) if backwards else chosen:
            try:
                print(f"Workitem {short(uid) if every else uid} {change(index, uid)}.")
            except (ChangeRefused, NotFound) as error:
                refused.append(error)
    if not chosen:
        print("There is no such workitem.")
    if len(refused) == 1:
        raise refused[0]
    if refused:
        raise ChangeRefused("\n".join(map(str, refused)))


def _obstacle(workitem: Workitem) -> str:
    """What still keeps it from starting."""
    if workitem.held_at is not None:
        return "; it is held"
    if workitem.not_before is not None and workitem.not_before > utcnow():
        return f"; it may start at {local(workitem.not_before)}"
    return ""
