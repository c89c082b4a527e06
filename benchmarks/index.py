"""How fast the index answers when it holds a million instances, 20,000 studies and a million events.

    python benchmarks/index.py [--database URL ...] [--scale 1.0] [--folder DISK] [--rounds 100] [--idle 60]

Makes the rows (SQLite under `--folder`, and each database given, which must be empty), then times what the commands and
loops ask, with the commands' own functions: p50 and p95 in milliseconds. Then the node is started on it and left alone:
CPU seconds per minute. The plans of slow questions are shown by `--explain`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

import psutil
from index_rows import END, NIGHT, PIPELINES, ROOT, YEARS, fill
from sqlalchemy import event, text

from migrations.commands import upgrade
from node import lifecycle
from node.cli import explaining, queue
from node.cli.studies import collect, find_study
from node.config import Config
from node.lifecycle import Parts
from node.planning import shut_windows
from pipelines.evidence.request import Installation
from pipelines.registry import find_pipelines
from storage.archive import Archive
from storage.index import (
    Index,
    deliveries,
    destinations,
    events,
    measurements,
    open_index,
    rules,
    studies,
    turns,
    workitems,
)
from storage.model import Destination, Rule, WorkitemState

#: Every question shall be answered within, at p95.
LIMIT_MS = 200
DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One question on one database."""

    database: str
    question: str
    p50_ms: float
    p95_ms: float


def main() -> int:
    """Measure, print the table; 1 when a question takes longer than it may."""
    options = _parse()
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="index-") as folder:
        for url in (f"sqlite:///{folder}/index.sqlite", *options.database):
            figures += _measure_one(url, Path(folder), options)
    print("\n| question | database | p50 ms | p95 ms |\n|---|---|---|---|")
    for one in sorted(figures, key=lambda figure: figure.question):
        print(f"| {one.question} | {one.database} | {one.p50_ms:.1f} | {one.p95_ms:.1f} |")
    if options.json:
        options.json.write_text(json.dumps([asdict(one) for one in figures], indent=2))
    return int(any(one.p95_ms > LIMIT_MS for one in figures))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])  # type: ignore[union-attr]
    parser.add_argument("--database", action="append", default=[], help="An empty one; repeat.")
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--folder", type=Path, help="Where the SQLite file is made, and removed.")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--idle", type=float, default=60.0, help="Seconds; 0: not measured.")
    parser.add_argument("--explain", action="store_true", help="Show plans of slow questions.")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def _measure_one(url: str, folder: Path, options: argparse.Namespace) -> list[Figure]:
    upgrade(url)
    figures = []
    with open_index(url) as index:
        began = time.monotonic()
        counts = fill(url, index, scale=options.scale)
        _analyze(index)
        print(f"{index.dialect}: {counts} in {time.monotonic() - began:.0f} s", flush=True)
        config = Config.model_validate(
            {"node": {"data": folder, "timezone": "UTC"}, "storage": {"database": url}}
        )
        for question, ask in _questions(index, config, counts["studies"]).items():
            took = sorted(_time(ask) for _ in range(options.rounds))
            p50, p95 = took[len(took) // 2], took[int(len(took) * 0.95)]
            one = Figure(database=index.dialect, question=question, p50_ms=p50, p95_ms=p95)
            print(f"  {question}: p50 {p50:.1f} ms, p95 {p95:.1f} ms", flush=True)
            figures.append(one)
            if options.explain and p95 > LIMIT_MS / 4:
                _explain(index, ask)
        dialect = index.dialect
    if options.idle:
        cpu_s = _idle(url, folder / dialect, options.idle)
        print(f"  idle node: {cpu_s:.2f} CPU seconds per minute", flush=True)
    return figures


def _analyze(index: Index) -> None:
    """PostgreSQL does it by itself within a minute of such a change; SQLite never does."""
    if index.dialect == "postgresql":
        with index.begin() as connection:
            connection.execute(text("ANALYZE"))


def _questions(index: Index, config: Config, count: int) -> dict[str, Callable[[], object]]:
    """What is asked, on another study or day each time."""
    rng = random.Random(2)  # noqa: S311 - no secret

    def uid() -> str:
        return f"{ROOT}.{rng.randrange(count)}"

    def page() -> object:
        return studies.list_studies(index, limit=50, after=uid())

    def by_day() -> object:
        day = END - DAY * rng.randrange(365 * YEARS)
        return events.list_events(index, since=day, until=day + DAY, limit=1000)

    def of_month() -> object:
        since = END - DAY * rng.randrange(30, 365 * YEARS)
        return measurements.list_measurements(
            index,
            pipeline=rng.choice(PIPELINES),
            concept="Volume",
            since=since,
            until=since + 30 * DAY,
        )

    def workitem_list() -> object:
        found = workitems.list_workitems(index, limit=50)
        return found, queue.foresee(index, config, END)

    def claim() -> object:
        claimed = workitems.claim(
            index,
            owner="benchmark",
            now=END,
            lease_s=60,
            limits={PIPELINES[0]: 10_000},
            closed=(NIGHT,),
        )
        assert claimed is not None
        return workitems.release(index, owner="benchmark", now=END)

    peer = Destination(name="PACS", host="127.0.0.1", port=104, called_ae="PACS")
    destinations.add(index, peer, actor="benchmark")
    for pipeline in ("ct_skeleton", "ct_trunk_muscle", "qct_femur", "mr_spine_tumor") * 3:
        number = len(rules.list_rules(index))
        rule = Rule(
            name=f"rule-{number}",
            pipeline=pipeline,
            where=(
                "Modality in CT, MR",
                "SeriesDescription !~ scout",
                f"SliceThickness <= {number}",
            ),
            destinations=("PACS",),
        )
        rules.add(index, rule, actor="benchmark")
    manifests = find_pipelines(()).manifests
    parts = _idle_parts(config, index)

    def idle_look() -> object:
        lifecycle.evaluate(parts, now=END)
        turns.next_start(index, END)
        shut_windows(index, now=END, zone=config.zone)
        # As when nothing may start: every pipeline that has something ready is at its limit.
        none = workitems.claim(
            index, owner="benchmark", now=END, lease_s=60, limits=dict.fromkeys(PIPELINES, 0)
        )
        assert none is None
        return deliveries.due_destinations(index, END)

    return {
        "studies list": lambda: studies.list_studies(index, limit=50),
        "studies list, a page further on": page,
        "studies show": lambda: collect(index, find_study(index, uid())),
        "studies show, by the end of the UID": lambda: collect(
            index, find_study(index, uid()[-14:])
        ),
        "studies explain, of twelve rules": lambda: explaining.answer(index, manifests, uid()),
        "audit list, of a study": lambda: events.list_events(index, study=uid()),
        "audit list, of a day": by_day,
        "audit list, of a kind": lambda: events.list_events(index, kind="rule-edited"),
        "measurements list, the last 1000": lambda: measurements.list_measurements(index),
        "measurements list, a pipeline's volumes of a month": of_month,
        "measurements list, of a study": lambda: measurements.list_measurements(index, study=uid()),
        "workitems list, with the queue": workitem_list,
        "workitems list, in turn": lambda: workitems.list_workitems(
            index, state=WorkitemState.SCHEDULED, in_turn=True, limit=50
        ),
        "claim, and give back": claim,
        "one look of the idle loops": idle_look,
    }


def _idle_parts(config: Config, index: Index) -> Parts:
    """A life in which nothing is to be done."""

    def never(*_: object) -> None:
        raise AssertionError("nothing is to be done")

    return Parts(
        config=config,
        index=index,
        archive=Archive(config.archive_url),
        registry=find_pipelines(()),
        owner="benchmark",
        installation=Installation(
            institution="", serial_number="1", uid_root="2.25", software_version="0"
        ),
        perform=never,  # type: ignore[arg-type]
        cancel=never,
        send=never,  # type: ignore[arg-type]
    )


def _time(ask: Callable[[], object]) -> float:
    began = time.perf_counter()
    ask()
    return (time.perf_counter() - began) * 1000


def _explain(index: Index, ask: Callable[[], object]) -> None:
    """The plan of each statement of a question."""
    asked: list[tuple[str, object]] = []

    def note(_c: object, _cu: object, statement: str, values: object, *_: object) -> None:
        asked.append((statement, values))

    engine = index._engine
    event.listen(engine, "before_cursor_execute", note)
    ask()
    event.remove(engine, "before_cursor_execute", note)
    how = "EXPLAIN QUERY PLAN " if index.dialect == "sqlite" else "EXPLAIN ANALYZE "
    with index.read() as connection:
        for statement, values in asked:
            if not statement.lstrip().startswith("SELECT"):
                continue
            print("   ", " ".join(statement.split())[:200])
            for row in connection.exec_driver_sql(how + statement, values):  # type: ignore[arg-type]
                print("       ", row[-1])


def _idle(url: str, folder: Path, seconds: float) -> float:
    """CPU seconds per minute of a node that has nothing to do, its children included."""
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    limits = json.dumps(dict.fromkeys(PIPELINES, 0))
    environment = {
        **os.environ,
        "OSTEONODE_NODE__DATA": str(folder),
        "OSTEONODE_NODE__HOST": "127.0.0.1",
        "OSTEONODE_NODE__PORT": str(port),
        "OSTEONODE_STORAGE__DATABASE": url,
        # What is ready stays where it is.
        "OSTEONODE_COMPUTE__LIMITS": limits,
        "OSTEONODE_COMPUTE__DEVICES": '["cpu"]',
    }
    command = [sys.executable, "-m", "node.cli", "serve"]
    with (folder / "log").open("wb") as log:
        node = subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 60
        while b"node_started" not in (folder / "log").read_bytes():
            if node.poll() is not None or time.monotonic() > deadline:
                raise SystemExit((folder / "log").read_text())
            time.sleep(0.2)
        time.sleep(3)
        before = sum(_cpu_s(node.pid))
        time.sleep(seconds)
        return (sum(_cpu_s(node.pid)) - before) * 60 / seconds
    finally:
        node.terminate()
        node.wait(timeout=60)


def _cpu_s(pid: int) -> Iterator[float]:
    process = psutil.Process(pid)
    for one in (process, *process.children(recursive=True)):
        times = one.cpu_times()
        yield times.user + times.system


if __name__ == "__main__":
    raise SystemExit(main())
