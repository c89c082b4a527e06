"""Puts the parts together, starts them, stops them.

Loops: evaluate, perform (one per worker), deliver (one association per destination at a time), confirm (storage
commitment, another one per destination), retract; ask (archives,
how much they have of a study), priors (fetches studies to compare with), and one for each worklist that work is taken
from. Each is woken by the step before it and by time; what another process wrote to the index is seen within `POLL_S`.
The calendar (APScheduler) sweeps.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime
from functools import partial
from importlib.metadata import version
from types import TracebackType
from typing import Self

import structlog
from apscheduler.schedulers.background import BackgroundScheduler

from migrations.commands import current, upgrade
from node import asking, calendar, confirming, lifecycle
from node.clockwatch import ClockWatch
from node.compute import Compute
from node.config import Config, withhold_secrets
from node.confinement import describe_walls
from node.lifecycle import Parts
from node.priors import seek
from node.scp import Scp
from node.sending import send
from node.tls import Dialer
from node.ups import UpsClient
from node.worklist_search import Worklist
from node.worklists import attend
from pipelines.evidence.request import Installation
from pipelines.registry import PipelineEntry, find_pipelines
from pipelines.uids import derive_device_uid
from storage.archive import Archive
from storage.errors import SchemaOutdated
from storage.index import (
    Index,
    commitments,
    deliveries,
    destinations,
    events,
    open_index,
    pipelines,
    prior_searches,
    procedure_steps,
    rules,
    turns,
    workitems,
)
from storage.index.wholeness import Question
from storage.model import Event, PipelineSeen, utcnow

#: Seconds until a loop looks by itself.
POLL_S = 1.0
#: Destinations served at once: many, for a dead one keeps its thread until it times out.
SENDERS = 64
#: Seconds that a step under way gets when the node stops.
GRACE_S = 10.0
#: How often the main thread looks whether it was asked to stop.
_LOOK_S = 0.2

log = structlog.get_logger(__name__)


class Loop:
    """A thread that makes steps while there are any, then waits to be woken or for `POLL_S`."""

    def __init__(self, name: str, step: Callable[[], bool]) -> None:
        self._step = step
        self._stopped = threading.Event()
        self._woken = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def wake(self) -> None:
        """There may be something to do."""
        self._woken.set()

    def stop(self) -> None:
        """Make no further step."""
        self._stopped.set()
        self._woken.set()

    def join(self, timeout_s: float) -> None:
        """Wait for the step under way."""
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._stopped.is_set():
            self._woken.clear()
            try:
                more = self._step()
            except Exception:
                log.exception("step_failed", loop=self._thread.name)
                more = False
            if not more:
                self._woken.wait(POLL_S)


class Service:
    """The running node; a context manager.

    Raises
    ------
    storage.errors.StorageError
        When the index or the archive cannot be opened.
    node.errors.ConfigError
        When the address is taken.
    """

    def __init__(self, config: Config) -> None:
        config.node.data.mkdir(parents=True, exist_ok=True)
        self._config = config
        self._archive = Archive(config.archive_url)
        self._archive.prepare()
        self._index = _open_index(config)
        self._compute = Compute(config.compute, scratch=config.scratch)
        self._parts = Parts(
            config=config,
            index=self._index,
            archive=self._archive,
            registry=find_pipelines(config.pipelines.folders),
            # The same after a restart: what this node held when it was killed is its own to take back.
            owner=f"{socket.gethostname()}:{config.node.port}",
            installation=Installation(
                institution=config.node.institution,
                serial_number=config.node.serial_number,
                uid_root=config.node.uid_root,
                software_version=version("osteonode"),
            ),
            perform=self._compute.perform,
            cancel=self._compute.cancel,
            send=partial(send, config=config, dialer=Dialer(config.tls)),
        )
        self._clock = ClockWatch(self._index, actor=self._parts.owner)
        self._senders = ThreadPoolExecutor(SENDERS, thread_name_prefix="deliver")
        self._sending: set[str] = set()
        self._asked: set[str] = set()
        self._confirmed: set[str] = set()
        self._stopping = threading.Event()
        self._evaluating = Loop("evaluate", self._evaluate)
        self._performing = [Loop("perform", self._perform) for _ in range(self._compute.slots)]
        self._delivering = Loop("deliver", self._deliver)
        self._confirming = Loop("confirm", self._confirm)
        self._retracting = Loop("retract", self._retract)
        self._asking = Loop("ask", self._ask)
        self._worklists = [
            Worklist(
                name=name,
                setting=setting,
                client=UpsClient(name, setting),
                stopping=self._stopping,
            )
            for name, setting in config.ups.worklists.items()
        ]
        # One each: a worklist that does not answer keeps nobody waiting.
        self._attending = [
            Loop(f"worklist {one.name}", partial(self._attend, one)) for one in self._worklists
        ]
        self._seeking = Loop("priors", self._seek)
        self._calendar = BackgroundScheduler(timezone="UTC")
        self._next_start: datetime | None = None
        self._scp = Scp(
            config,
            self._archive,
            self._index,
            on_news=self._evaluating.wake,
            keep_report=partial(confirming.keep_report, self._index),
        )
        self._parts = replace(self._parts, sending=self._scp.sending)

    def start(self) -> None:
        """Listen, take back what a killed process held, begin."""
        # First the listener: a second node on this port ends here, before it takes claims that are not its own.
        self._scp.start()
        self._clock.begin()
        taken_back = workitems.release(self._index, owner=self._parts.owner, now=utcnow())
        deliveries.release(self._index, owner=self._parts.owner, now=utcnow())
        commitments.release(self._index, owner=self._parts.owner)
        procedure_steps.release(self._index, owner=self._parts.owner)
        prior_searches.release(self._index, owner=self._parts.owner)
        self._introduce()
        calendar.fill(self._calendar, self._parts, self._stopping)
        self._calendar.start()
        for loop in self._loops:
            loop.start()
        self._note("node-started", workers=len(self._performing))
        log.info(
            "node_started",
            ae_title=self._config.node.ae_title,
            port=self._config.node.port,
            pipelines=sorted(self._parts.registry.entries),
            workers=len(self._performing),
            taken_back=taken_back,
            pipelines_confined=describe_walls(self._config.compute),
        )

    def stop(self) -> None:
        """Accept nothing new, let steps end for `GRACE_S`, give back what did not end."""
        self._stopping.set()
        self._scp.stop()
        for loop in self._loops:
            loop.stop()
        if self._calendar.running:
            self._calendar.shutdown(wait=False)
        self._compute.close()
        for loop in self._loops:
            loop.join(GRACE_S)
        self._senders.shutdown(wait=True, cancel_futures=True)
        workitems.release(self._index, owner=self._parts.owner, now=utcnow())
        deliveries.release(self._index, owner=self._parts.owner, now=utcnow())
        commitments.release(self._index, owner=self._parts.owner)
        procedure_steps.release(self._index, owner=self._parts.owner)
        prior_searches.release(self._index, owner=self._parts.owner)
        for worklist in self._worklists:
            worklist.client.close()
        self._note("node-stopped")
        self._index.close()
        log.info("node_stopped")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def _loops(self) -> tuple[Loop, ...]:
        return (
            self._evaluating,
            *self._performing,
            self._delivering,
            self._confirming,
            self._retracting,
            self._asking,
            self._seeking,
            *self._attending,
        )

    # -- one step of each loop --------------------------------------------------------------------

    def _evaluate(self) -> bool:
        self._clock.look()
        # Looked at again every `POLL_S`: quiet is a time, and no timer must be remembered.
        lifecycle.evaluate(self._parts, now=utcnow())
        self._plan_wake()
        self._wake_workers()
        return False

    def _ask(self) -> bool:
        for destination, questions in asking.due(self._index, self._config, now=utcnow()).items():
            # In a thread for each: an archive that is dead keeps the others waiting for nothing.
            if destination not in self._asked:
                self._asked.add(destination)
                self._senders.submit(self._ask_one, destination, questions)
        return False

    def _ask_one(self, destination: str, questions: Sequence[Question]) -> None:
        try:
            asking.ask(self._index, self._config, questions)
            self._evaluating.wake()
        except Exception:
            log.exception("step_failed", loop="ask", destination=destination)
        finally:
            self._asked.discard(destination)

    def _perform(self) -> bool:
        performed = lifecycle.perform(self._parts, now=utcnow())
        if performed:
            self._delivering.wake()
        return performed

    def _attend(self, worklist: Worklist) -> bool:
        return attend(self._parts, worklist, now=utcnow())

    def _seek(self) -> bool:
        return seek(self._parts, now=utcnow())

    def _deliver(self) -> bool:
        now = utcnow()
        due = deliveries.due_destinations(self._index, now)
        for destination in lifecycle.open_destinations(self._parts, due, now=now):
            # One association per destination at a time; a dead one holds up nobody else.
            if destination not in self._sending:
                self._sending.add(destination)
                self._senders.submit(self._deliver_to, destination)
        return False

    def _deliver_to(self, destination: str) -> None:
        try:
            # A backlog is the next start's: a node that stops sends what it has begun and no more.
            while not self._stopping.is_set() and lifecycle.deliver(
                self._parts, destination, now=utcnow()
            ):
                if not lifecycle.open_destinations(self._parts, [destination], now=utcnow()):
                    break
        except Exception:
            # The top of a loop: a sender's thread ends here, the next look starts another.
            log.exception("step_failed", loop="deliver", destination=destination)
        finally:
            self._sending.discard(destination)
            self._retracting.wake()
            self._confirming.wake()

    def _confirm(self) -> bool:
        now = utcnow()
        confirming.open_due(self._parts.config, self._index, now=now)
        for destination in commitments.due_destinations(self._index, now):
            if destination not in self._confirmed:
                self._confirmed.add(destination)
                self._senders.submit(self._confirm_at, destination)
        return False

    def _confirm_at(self, destination: str) -> None:
        try:
            while not self._stopping.is_set() and confirming.confirm(
                self._parts.config, self._index, destination, owner=self._parts.owner, now=utcnow()
            ):
                pass
        except Exception:
            log.exception("step_failed", loop="confirm", destination=destination)
        finally:
            self._confirmed.discard(destination)

    def _retract(self) -> bool:
        if lifecycle.retract(self._parts, now=utcnow()):
            self._delivering.wake()
        return False

    # -- the calendar -----------------------------------------------------------------------------

    def _plan_wake(self) -> None:
        """Wake the workers when the next window opens, or the next pause after a failed run is over."""
        at = turns.next_start(self._index, utcnow())
        if at is not None and at != self._next_start:
            self._calendar.add_job(
                self._wake_workers, "date", run_date=at, id="next start", replace_existing=True
            )
        self._next_start = at

    def _wake_workers(self) -> None:
        for loop in self._performing:
            loop.wake()

    # -- start and stop ---------------------------------------------------------------------------

    def _introduce(self) -> None:
        """Record what is installed; say what is broken, and which rules and destinations name nothing."""
        registry = self._parts.registry
        for error in registry.errors:
            log.error("pipeline_not_usable", reason=str(error))
        for entry in registry.entries.values():
            pipelines.saw(self._index, _seen(entry, self._config.node.uid_root))
        for rule in rules.list_rules(self._index):
            if rule.enabled and rule.pipeline not in registry.entries:
                log.warning(
                    "rule_names_no_installed_pipeline", rule=rule.name, pipeline=rule.pipeline
                )

        known = self._config.evidence.known_profiles
        listed = destinations.list_destinations(self._index)
        for name in set(self._config.routing.ask.values()) - {one.name for one in listed}:
            log.error("routing_ask_names_no_destination", destination=name)
        for name in self._config.delivery.web.keys() - {one.name for one in listed if one.is_web}:
            log.warning("delivery_web_names_no_web_destination", destination=name)
        for destination in listed:
            if destination.profile not in known:
                log.error(
                    "destination_has_unknown_profile",
                    destination=destination.name,
                    profile=destination.profile,
                )

    def _note(self, kind: str, **detail: int) -> None:
        events.add(
            self._index,
            Event(
                kind=kind,
                actor=self._parts.owner,
                at=utcnow(),
                detail={"version": version("osteonode"), **detail},
            ),
        )


def serve(config: Config) -> None:
    """Run the node until SIGTERM or SIGINT."""
    # They are in the configuration by now; workers shall not have them.
    withhold_secrets(os.environ)
    asked_to_stop: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: asked_to_stop.append(received))
    service = Service(config)
    # A full collection would look at every object of every module, and all wait for it: these are here to stay.
    gc.collect()
    gc.freeze()
    with service:
        # A signal that the kernel gives to another thread wakes none that waits without end: it is seen when this one
        # runs again.
        while not asked_to_stop:
            time.sleep(_LOOK_S)


def _open_index(config: Config) -> Index:
    """The index; an empty database gets its tables, an older one is the administrator's to upgrade."""
    try:
        return open_index(config.database_url)
    except SchemaOutdated:
        if current(config.database_url) is not None:
            raise
    upgrade(config.database_url)
    return open_index(config.database_url)


def _seen(entry: PipelineEntry, uid_root: str) -> PipelineSeen:
    weights = entry.manifest.weights
    sha256 = weights.sha256 if weights else ""
    return PipelineSeen(
        name=entry.manifest.name,
        version=entry.manifest.version,
        device_uid=derive_device_uid(
            uid_root,
            pipeline=entry.manifest.name,
            version=entry.manifest.version,
            weights_sha256=sha256,
        ),
        weights_sha256=sha256,
        first_seen_at=utcnow(),
    )
