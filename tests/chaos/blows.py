"""What is done to a node while it works: a plan made of a seed, so that it can be made again."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """One blow."""

    NODE = "kill -9 of the node"
    WORKER = "kill -9 of a worker"
    BOTH = "kill -9 of both"
    PACS = "the PACS stops and returns"
    LOCK = "the database is locked"
    RESTART = "the database is restarted"
    AWAY = "the database goes away"
    DISK = "the disk fills"
    CLOCK = "the clock jumps"
    DESCRIPTORS = "file descriptors run out"
    HANG = "a pipeline hangs"
    LEAK = "a pipeline leaks memory"
    SEGFAULT = "a pipeline segfaults"
    FLOOD = "a pipeline floods its log"


KILLS = (Kind.NODE, Kind.WORKER, Kind.BOTH)
#: How often one is drawn among the others.
_WEIGHTS = {
    Kind.NODE: 24,
    Kind.WORKER: 14,
    Kind.BOTH: 14,
    Kind.PACS: 3,
    Kind.LOCK: 3,
    Kind.RESTART: 3,
    Kind.AWAY: 1,
    Kind.DISK: 3,
    Kind.CLOCK: 3,
    Kind.DESCRIPTORS: 3,
    Kind.HANG: 1,
    Kind.LEAK: 1,
    Kind.SEGFAULT: 2,
    Kind.FLOOD: 1,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Blow:
    """When, after the one before; what; for how long; and how much, from 0 to 1."""

    after_s: float
    kind: Kind
    lasts_s: float
    much: float


def plan(
    seed: int, kills: int, kinds: Collection[Kind] = tuple(Kind), once: Sequence[Kind] = ()
) -> Iterator[Blow]:
    """Blows of `kinds` until there were so many kills; the same for the same seed.

    The first three kills are of each kind; half-way comes each of `once`, however few the kills are.
    """
    chance = random.Random(seed)  # noqa: S311 - keeps no secret
    known = [kind for kind in Kind if kind in kinds]
    first = list(KILLS)
    chance.shuffle(first)
    done = 0
    while done < kills:
        drawn = chance.choices(known, weights=[_WEIGHTS[kind] for kind in known])[0]
        kind = first[done] if done < len(first) else drawn
        done += kind in KILLS
        longest_s = _longest(kind, kills)
        yield Blow(
            after_s=chance.uniform(0.2, 2.0),
            kind=kind,
            lasts_s=chance.uniform(0.0, longest_s),
            much=chance.random(),
        )
        if done == kills // 2 and kind in KILLS:
            for other in (one for one in once if one in known):
                yield Blow(
                    after_s=chance.uniform(0.2, 0.6), kind=other, lasts_s=1.0, much=chance.random()
                )


def _longest(kind: Kind, kills: int) -> float:
    """Seconds; a long run has time for a minute without a database."""
    if kind in KILLS:
        return 0.6
    return 60.0 if kind is Kind.AWAY and kills >= 50 else 4.0


def summary(blows: list[Blow]) -> str:
    """How many of each."""
    counts = Counter(b.kind for b in blows)
    return ", ".join(f"{counts[kind]} x {kind}" for kind in Kind if counts[kind])
