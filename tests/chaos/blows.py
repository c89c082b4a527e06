"""What is done to a node while it works: a plan made of a seed, so that it can be made again."""

from __future__ import annotations

import contextlib
import random
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

import psutil
from nodes import Node
from peer import Pacs


class Kind(StrEnum):
    """One blow."""

    NODE = "kill -9 of the node"
    WORKER = "kill -9 of a worker"
    BOTH = "kill -9 of both"
    PACS = "the PACS stops and returns"
    DATABASE = "the database is locked"


KILLS = (Kind.NODE, Kind.WORKER, Kind.BOTH)


@dataclass(frozen=True, slots=True, kw_only=True)
class Blow:
    """When, after the one before; what; and for how long."""

    after_s: float
    kind: Kind
    lasts_s: float


def plan(seed: int, kills: int) -> Iterator[Blow]:
    """Blows until there were so many kills; the same for the same seed. The first three are of each kind of kill."""
    chance = random.Random(seed)  # noqa: S311 - keeps no secret
    first = list(KILLS)
    chance.shuffle(first)
    done = 0
    while done < kills:
        drawn = chance.choices(list(Kind), weights=(4, 2, 2, 2, 2))[0]
        kind = first[done] if done < len(first) else drawn
        done += kind in KILLS
        lasts_s = chance.uniform(0.0, 0.6) if kind in KILLS else chance.uniform(0.5, 3.0)
        yield Blow(after_s=chance.uniform(0.3, 3.5), kind=kind, lasts_s=lasts_s)
        if done == kills // 2 and kind in KILLS:
            # However few kills there are.
            for other in (Kind.PACS, Kind.DATABASE):
                yield Blow(after_s=chance.uniform(0.2, 1.0), kind=other, lasts_s=1.0)


def strike(blow: Blow, node: Node, pacs: Pacs) -> None:
    """One blow; the node and the PACS are there again afterwards."""
    match blow.kind:
        case Kind.NODE:
            node.kill()
            time.sleep(blow.lasts_s)
            node.start()
        case Kind.WORKER:
            _kill_workers(node)
        case Kind.BOTH:
            _kill_workers(node)
            node.kill()
            time.sleep(blow.lasts_s)
            node.start()
        case Kind.PACS:
            pacs.stop()
            time.sleep(blow.lasts_s)
            pacs.start()
        case Kind.DATABASE:
            _lock_database(node, blow.lasts_s)


def _kill_workers(node: Node) -> None:
    assert node.process is not None
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in psutil.Process(node.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                # Dask's workers, not what multiprocessing counts its resources with.
                if "spawn_main" in " ".join(process.cmdline()):
                    process.kill()


def _lock_database(node: Node, lasts_s: float) -> None:
    """As another program that writes, and takes its time."""
    path = node.database_url.removeprefix("sqlite:///")
    connection = sqlite3.connect(path, timeout=10, isolation_level=None)
    try:
        with contextlib.suppress(sqlite3.OperationalError):
            connection.execute("BEGIN IMMEDIATE")
            time.sleep(lasts_s)
            connection.execute("ROLLBACK")
    finally:
        connection.close()


def summary(blows: list[Blow]) -> str:
    """How many of each."""
    return ", ".join(f"{count} x {kind}" for kind, count in Counter(b.kind for b in blows).items())
