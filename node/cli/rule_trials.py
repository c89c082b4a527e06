"""`osteonode rules test`, and what `add` and `edit` show before they ask: what a rule would have done."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from node.cli.common import LARGEST, AsJson, opened, parse_when, read_config
from node.cli.output import console, say, short, show_fields, show_json
from node.errors import RuleError
from storage.model import Rule, utcnow

if TYPE_CHECKING:
    from node.queueing import Delay
    from node.replay import Replay
    from storage.index import Index

#: What a rule is tried on before it is written.
_LAST = "30d"

Yes = Annotated[
    bool, typer.Option("--yes", "-y", help="Do not show what it would have done, and do not ask.")
]


def try_(
    ctx: typer.Context,
    target: Annotated[
        str,
        typer.Argument(
            metavar="FILE|NAME", help="Rules as TOML (`rules export`), or a rule's name."
        ),
    ],
    since: Annotated[
        str, typer.Option(help="Studies that got something since: 30d, 12h, 2026-01-31.")
    ] = _LAST,
    study: Annotated[
        str | None,
        typer.Option(
            "--study",
            metavar="UID",
            help="This study only (or the end of its UID), each series with every clause.",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=LARGEST,
            help="Workers of the simulated queue; as [compute] devices when not given.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Try a rule on the past: what it would have run on, what of that is new, what it would have cost.

    Nothing runs, and no rule changes. A rule that is switched off is tried as if it were on. Compute hours are from the
    measured times of the pipeline's runs; how long runs would have waited is simulated with the times at which studies
    and workitems came. Studies are taken as they are now, with all that came late.

    Examples:

    `osteonode rules test skeleton --since 30d`

    `osteonode rules test new-rules.toml --since 2026-01-01 --json`

    `osteonode rules test lesions --study 619255048`
    """
    with opened(ctx) as index:
        wanted = _read_target(index, target)
        if study is not None:
            _try_on_study(ctx, index, wanted, study, as_json)
            return
        found = replays(ctx, index, wanted, since=parse_when(since), workers=workers)
    if as_json:
        show_json(found)
        return
    for one in found:
        show_replay(one, since)


def replays(
    ctx: typer.Context,
    index: Index,
    wanted: Sequence[Rule],
    *,
    since: datetime | None,
    workers: int | None = None,
) -> Sequence[Replay]:
    """What rules would have done, by the configuration as it is."""
    from node.replay import Circumstances, replay
    from pipelines.registry import find_pipelines
    from storage.index import rules

    config = read_config(ctx)
    return replay(
        index,
        wanted,
        Circumstances(
            manifests=find_pipelines(config.pipelines.folders).manifests,
            rules=rules.list_rules(index),
            since=since,
            now=utcnow(),
            # One worker for each device; where none is named, every GPU, and one without.
            workers=workers or max(1, len(config.compute.devices)),
            quiet_s=config.routing.quiet_s,
        ),
    )


def confirm(ctx: typer.Context, index: Index, rule: Rule, *, yes: bool) -> None:
    """Show what a rule in force would have done in the last thirty days, and ask; one that is off is not asked about.

    Raises
    ------
    RuleError
        When there is nobody to ask.
    typer.Exit
        When the answer is no.
    """
    if yes or not rule.enabled:
        return
    if not sys.stdin.isatty():
        raise RuleError(
            f"Rule {rule.name!r} would be in force at once, and standard input is no terminal where to ask: give "
            "--yes. `osteonode rules test FILE` shows what rules would have done."
        )
    for one in replays(ctx, index, [rule], since=parse_when(_LAST)):
        show_replay(one, _LAST)
    if not typer.confirm("Put it in force?"):
        print("Nothing is changed.")
        raise typer.Exit(1)


def show_replay(one: Replay, since: str) -> None:
    """One replay for people."""
    say(f"Rule {one.rule} on the studies since {since}")
    if not one.studies:
        print("  No study came in that time: there is nothing to try it on.")
        return
    fields: dict[str, object] = {
        "held": f"{_studies(one.studies)}, {one.series:,} series",
        "would run": f"{_times(one.runs)}, in {_studies(one.matched_studies)} ({one.matched_series:,} series fit)",
        "new": _new(one),
    }
    if one.waiting or one.held:
        fields["no run"] = f"{one.waiting:,} wait for an input, {one.held:,} are held for one"
    if one.gone_runs is not None:
        gone = f"{_times(one.gone_runs)} that the rule makes as it is stored"
        fields["no longer"] = gone + _such_as(one.gone_examples) if one.gone_runs else "nothing"
    fields["compute"] = _cost(one)
    if one.queue is not None:
        fields["queue"] = _queue(one)
    show_fields(fields)


def _new(one: Replay) -> str:
    if not one.new_runs:
        return "nothing: rules in force make all of them today"
    return (
        f"{_times(one.new_runs)} that no rule in force makes today, in {_studies(one.new_studies)}"
        + _such_as(one.new_examples)
    )


def _cost(one: Replay) -> str:
    if one.cost is None:
        return f"not known: no run of {one.pipeline} was measured yet"
    return (
        f"{_hours(one.cost.hours)} in all, {_hours(one.cost.new_hours)} of it new "
        f"({one.cost.mean_s:.0f} s a run, the mean of the last {one.cost.measured:,})"
    )


def _queue(one: Replay) -> str:
    queue = one.queue
    assert queue is not None  # noqa: S101 - for mypy; asked by the caller
    workers = "1 worker" if queue.workers == 1 else f"{queue.workers} workers"
    if queue.new is None:
        return f"{workers}: nothing is added"
    text = f"{workers}: new runs wait {_waits(queue.new)}"
    if queue.before is not None and queue.after is not None:
        text += f"; those there are wait {_waits(queue.after)} instead of {_waits(queue.before)}"
    return text


def _waits(delay: Delay) -> str:
    return f"{_span(delay.median_s)} (19 of 20 at most {_span(delay.p95_s)})"


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _hours(hours: float) -> str:
    return f"{hours * 60:.0f} min" if hours < 1 else f"{hours:,.1f} h"


def _times(runs: int) -> str:
    return "1 run" if runs == 1 else f"{runs:,} runs"


def _studies(count: int) -> str:
    return "1 study" if count == 1 else f"{count:,} studies"


def _such_as(studies: Sequence[str]) -> str:
    return f", as {', '.join(short(uid) for uid in studies[:3])}" if studies else ""


# -- one study ------------------------------------------------------------------------------------


def _try_on_study(
    ctx: typer.Context, index: Index, wanted: Sequence[Rule], study: str, as_json: bool
) -> None:
    from node.cli.studies import find_study, print_decisions
    from node.completeness import lacking
    from node.selection import select
    from pipelines.registry import find_pipelines
    from storage.index import studies

    manifests = find_pipelines(read_config(ctx).pipelines.folders).manifests
    found = find_study(index, study)
    series = studies.series_of(index, found.study_instance_uid)
    lacks = lacking(series, found.asked)
    now = utcnow()
    selections = [
        one
        for rule in wanted
        for one in select(rule, series, manifests.get(rule.pipeline), now=now, lacking=lacks)
    ]
    decisions = [decision for one in selections for decision in one.decisions]
    if as_json:
        show_json(decisions)
        return
    print_decisions(decisions)
    if not decisions:
        console().print("  Every series of the study is the node's own.")


def _read_target(index: Index, target: str) -> Sequence[Rule]:
    """The rules of a file, or the one of a name."""
    from node.cli.rule_files import read_text
    from node.rulefile import parse_rules
    from storage.index import rules

    path = Path(target)
    if path.is_file() or path.suffix == ".toml" or target == "-":
        return parse_rules(read_text(path), source=target)
    return (rules.get(index, target),)
