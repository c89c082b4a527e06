"""A node that is killed at random moments, with real senders and a real PACS: afterwards the books balance.

pytest tests/chaos --chaos-seed 1234 --chaos-kills 200 -s      (`make chaos`)
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from blows import Blow, Kind, plan, summary
from books import imbalances, is_settled
from nodes import wait_for
from peer import Pacs
from postgresql import BOTH, serve
from scene import Scene, make_scene
from senders import Ledger, Sender

from migrations.commands import upgrade
from node.config import Config, load
from storage.archive import Archive
from storage.index import Index, instances

SENDERS = 2
#: Bytes of log for each kill, all told.
LOG = 1_000_000
#: However short a run is: each kind on one of the databases.
ONCE = {
    "sqlite": (Kind.PACS, Kind.LOCK, Kind.DISK, Kind.CLOCK, Kind.DESCRIPTORS),
    "postgresql": (
        *(Kind.LOCK, Kind.RESTART, Kind.AWAY),
        *(Kind.SEGFAULT, Kind.LEAK, Kind.HANG, Kind.FLOOD),
    ),
}


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    given: int | None = request.config.getoption("--chaos-seed")
    return secrets.randbelow(1_000_000) if given is None else given


@pytest.fixture(params=BOTH)
def scene(request: pytest.FixtureRequest, tmp_path: Path, pacs: Pacs) -> Iterator[Scene]:
    """On SQLite, then on a PostgreSQL server of its own."""
    with ExitStack() as stack:
        server = url = None
        if request.param == "postgresql":
            server = stack.enter_context(serve())
            url = server.url("postgres")
            upgrade(url)
        yield stack.enter_context(make_scene(tmp_path, pacs, server, url))


def test_the_same_seed_plans_the_same(seed: int) -> None:
    assert list(plan(seed, 20)) == list(plan(seed, 20))
    planned = {blow.kind for once in ONCE.values() for blow in plan(seed, 3, once=once)}
    assert planned == set(Kind)


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_the_books_balance(scene: Scene, seed: int, request: pytest.FixtureRequest) -> None:
    kills: int = request.config.getoption("--chaos-kills")
    node, pacs = scene.node, scene.pacs
    print(f"\nchaos: --chaos-seed {seed} --chaos-kills {kills} {scene.lacking}")
    node.start()
    node.route_to(pacs.port, pipeline="moody")
    ledger = Ledger()
    senders = [Sender(n + 1, seed, node.port, ledger) for n in range(SENDERS)]
    for sender in senders:
        sender.start()
    began, struck = time.monotonic(), list[Blow]()
    once = ONCE["postgresql" if scene.server else "sqlite"]
    for blow in plan(seed, kills, scene.kinds, once):
        time.sleep(blow.after_s)
        print(f"{time.monotonic() - began:7.1f} s  {blow.kind} ({blow.lasts_s:.1f} s)", flush=True)
        scene.strike(blow)
        struck.append(blow)
    for sender in senders:
        sender.stop()
    for sender in senders:
        sender.join(180)
        assert not sender.is_alive(), f"seed {seed}: a sender hangs"
    with node.index() as index:
        wait_for(
            f"seed {seed}: the node to have done all",
            lambda: is_settled(index, ledger),
            timeout_s=60 + 3 * len(ledger.studies),
        )
    assert node.stop() == 0
    # A flood of 100 MB is no flood of the node's log.
    assert (node.folder / "node.log").stat().st_size < LOG * max(10, kills)
    config = load(node.config, node.settings)
    with node.index() as index:
        wrong = imbalances(config, Archive(config.archive_url), index, ledger, pacs)
    print(
        f"chaos: {summary(struck)}; {len(ledger.answered)} instances of {len(ledger.studies)} studies answered 0x0000, "
        f"{ledger.cut_off} associations cut off, {ledger.refused} instances refused, {len(pacs.files)} objects sent to "
        f"the PACS; {time.monotonic() - began:.0f} s"
    )
    assert wrong == [], f"seed {seed}"
    with node.index() as index:
        assert len(_spoiled(config, index, ledger, pacs)) >= 3


def _spoiled(config: Config, index: Index, ledger: Ledger, pacs: Pacs) -> list[str]:
    """The books are no friends of ours: a file lost, a digest altered, an object the PACS lost are seen."""
    archive = Archive(config.archive_url)
    lost, altered = list(ledger.answered)[:2]
    archive.delete(instances.get(index, lost).archive_key)
    ledger.answered[altered] = "another"
    lacking = pacs.files.pop().ds.SOPInstanceUID
    pacs.files[:] = [file for file in pacs.files if file.ds.SOPInstanceUID != lacking]
    wrong = imbalances(config, archive, index, ledger, pacs)
    assert [one for one in (lost, altered, lacking) if not any(one in line for line in wrong)] == []
    return wrong
