"""A node with all that can be struck: its processes, its PACS, its database, its machine, its pipeline."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import psycopg
from blows import Blow, Kind
from machine import Clock, Disk, few_descriptors, make_clock, small_disk
from nodes import Node, wait_for
from peer import Pacs
from postgresql import Server
from sqlalchemy import make_url

PIPELINES = Path(__file__).parent / "pipelines"
#: A blow may cost a run or an attempt: none of these may be what is tested here.
SETTINGS = {
    "OSTEONODE_COMPUTE__MAX_ATTEMPTS": "100000",
    "OSTEONODE_DELIVERY__MAX_ATTEMPTS": "100000",
}
#: Hours that a clock is set wrong at most.
_HOURS = 6
#: What the log says of a run in a mood.
_ENDS = {
    Kind.HANG: ("hang", ("time-limit",)),
    # Or by its time, where the machine is too busy to give it memory fast enough.
    Kind.LEAK: ("leak", ("memory-limit", "time-limit")),
    Kind.SEGFAULT: ("segfault", ("worker-died",)),
    Kind.FLOOD: ("flood", ("workitem_completed", "time-limit")),
}
_DATABASE = {Kind.RESTART, Kind.AWAY}


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One installation; `strike` as often as a test likes."""

    node: Node
    pacs: Pacs
    #: What the file beside the pipeline is called.
    mood: Path
    #: A server of its own; None: SQLite.
    server: Server | None
    #: Or why there is none.
    disk: Disk | str
    clock: Clock | str

    @property
    def kinds(self) -> frozenset[Kind]:
        """Blows that can be dealt here."""
        lacks = set[Kind]()
        lacks |= set() if self.server else _DATABASE
        lacks |= set() if isinstance(self.disk, Disk) else {Kind.DISK}
        lacks |= set() if isinstance(self.clock, Clock) else {Kind.CLOCK}
        return frozenset(Kind) - lacks

    @property
    def lacking(self) -> str:
        """What cannot be struck on this machine, and why."""
        return "; ".join(why for why in (self.disk, self.clock) if isinstance(why, str))

    def strike(self, blow: Blow) -> None:
        """One blow; everything is there again afterwards."""
        match blow.kind:
            case Kind.NODE | Kind.BOTH:
                if blow.kind is Kind.BOTH:
                    self._kill_workers()
                self.node.kill()
                time.sleep(blow.lasts_s)
                self.node.start()
            case Kind.WORKER:
                self._kill_workers()
            case Kind.PACS:
                self.pacs.stop()
                time.sleep(blow.lasts_s)
                self.pacs.start()
            case Kind.LOCK | Kind.RESTART | Kind.AWAY:
                self._strike_database(blow)
            case Kind.DISK | Kind.CLOCK | Kind.DESCRIPTORS:
                self._strike_machine(blow)
            case Kind.HANG | Kind.LEAK | Kind.SEGFAULT | Kind.FLOOD:
                self._strike_pipeline(blow)

    def _strike_database(self, blow: Blow) -> None:
        if self.server is None:
            _lock_sqlite(self.node, blow.lasts_s)
        elif blow.kind is Kind.LOCK:
            _lock_postgresql(self.node, blow.lasts_s)
        else:
            # In the middle of transactions, or once they have ended by being told to.
            self.server.stop(at_once=blow.much < 0.5)
            if blow.kind is Kind.AWAY:
                time.sleep(blow.lasts_s)
            self.server.start()

    def _strike_machine(self, blow: Blow) -> None:
        match blow.kind:
            case Kind.DISK:
                assert isinstance(self.disk, Disk)
                self.disk.fill(left=int(blow.much * 200_000))
                time.sleep(blow.lasts_s)
                self.disk.free()
            case Kind.CLOCK:
                assert isinstance(self.clock, Clock)
                self.clock.jump((2 * blow.much - 1) * _HOURS * 3600)
                time.sleep(blow.lasts_s)
            case _:
                assert self.node.process is not None
                with few_descriptors(self.node.process.pid, left=int(blow.much * 8)):
                    time.sleep(blow.lasts_s)

    def _strike_pipeline(self, blow: Blow) -> None:
        mood, said = _ENDS[blow.kind]
        log = Log(self.node.folder / "node.log")
        self.mood.write_text(mood, encoding="ascii")
        try:
            wait_for(f"a run to {mood}", lambda: log.says(*said), 120)
        finally:
            self.mood.unlink()

    def _kill_workers(self) -> None:
        assert self.node.process is not None
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in psutil.Process(self.node.process.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    # Dask's workers, not what multiprocessing counts its resources with.
                    if "spawn_main" in " ".join(process.cmdline()):
                        process.kill()


class Log:
    """What a node says from now on; read once, for it may be long."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = path.stat().st_size
        self._last = b""

    def says(self, *words: str) -> bool:
        """Whether it said one of them since it was asked before."""
        with self._path.open("rb") as log:
            log.seek(self._read)
            new = log.read()
        self._read += len(new)
        text = self._last + new
        found = any(word.encode() in text for word in words)
        self._last = b"" if found else text[-max(map(len, words)) :]
        return found


@contextmanager
def make_scene(folder: Path, pacs: Pacs, server: Server | None, url: str | None) -> Iterator[Scene]:
    """A node that is not started yet; `url` of an upgraded database on `server`."""
    pipelines = folder / "pipelines"
    shutil.copytree(PIPELINES, pipelines)
    settings = {**SETTINGS, "OSTEONODE_PIPELINES__FOLDERS": f'["{pipelines}"]'}
    clock = make_clock(folder)
    if isinstance(clock, Clock):
        settings |= clock.environment
    if url is not None:
        settings["OSTEONODE_STORAGE__DATABASE"] = url
    node = Node(folder=folder / "node", settings=settings)
    with ExitStack() as stack:
        disk = stack.enter_context(small_disk(node.folder / "data"))
        stack.callback(node.kill_if_running)
        yield Scene(
            node=node,
            pacs=pacs,
            mood=pipelines / "moody" / "mood",
            server=server,
            disk=disk,
            clock=clock,
        )


def _lock_sqlite(node: Node, lasts_s: float) -> None:
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


def _lock_postgresql(node: Node, lasts_s: float) -> None:
    """As an administrator who rebuilds what everything passes through."""
    url = make_url(node.database_url)
    with psycopg.connect(
        host=str(url.query["host"]), user=url.username, dbname=url.database
    ) as connection:
        connection.execute("LOCK TABLE instances, studies, workitems IN ACCESS EXCLUSIVE MODE")
        time.sleep(lasts_s)
        connection.rollback()
