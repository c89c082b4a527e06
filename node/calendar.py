"""What happens by the calendar: sweeps, a share of the archive verified, what is done with let go."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

import structlog
from apscheduler.schedulers.base import BaseScheduler
from apscheduler.triggers.cron import CronTrigger

from node import expiry
from node.integrity import Pace, verify_share
from node.lifecycle import Parts
from storage.errors import StorageError
from storage.model import utcnow

#: Temporary files older than this are of a process that died.
STALE_S = 24 * 3600.0
#: Seconds by which a job may be late, where the machine slept or was busy.
_GRACE_S = 6 * 3600

log = structlog.get_logger(__name__)


def fill(scheduler: BaseScheduler, parts: Parts, stopping: threading.Event) -> None:
    """Add every job; each ends early once `stopping` is set."""
    scheduler.add_job(_logged(partial(sweep, parts)), "interval", hours=1, next_run_time=utcnow())
    config = parts.config
    if config.integrity.nights:
        job = _logged(partial(verify, parts, stopping))
        scheduler.add_job(job, _daily(parts, config.integrity.at), misfire_grace_time=_GRACE_S)
    job = _logged(partial(expire, parts))
    scheduler.add_job(job, _daily(parts, config.retention.at), misfire_grace_time=_GRACE_S)


def sweep(parts: Parts) -> None:
    """Remove temporary files of processes that died."""
    removed = parts.archive.sweep(STALE_S)
    if removed:
        log.info("temporary_files_removed", count=removed)


def verify(parts: Parts, stopping: threading.Event) -> None:
    """Tonight's share of the archive against the index."""
    settings = parts.config.integrity
    found = verify_share(
        parts.archive,
        parts.index,
        nights=settings.nights,
        pace=Pace(rate=settings.rate_mb_s * 1e6, stopping=stopping),
        actor=parts.owner,
    )
    say = log.error if found.flaws else log.info
    say("archive_verified", checked=found.checked, bytes=found.bytes, **found.counts())


def expire(parts: Parts) -> None:
    """Let go what the policy says."""
    policy = parts.config.retention
    expired = expiry.expire(parts.archive, parts.index, policy, actor=parts.owner, now=utcnow())
    if expired:
        log.info(
            "archive_expired", studies=len({one.candidate.study_instance_uid for one in expired})
        )


def _daily(parts: Parts, at: str) -> CronTrigger:
    hour, minute = at.split(":")
    return CronTrigger(hour=int(hour), minute=int(minute), timezone=parts.config.zone)


def _logged(job: Callable[[], None]) -> Callable[[], None]:
    """A job that fails is said in our log, and comes again; APScheduler's own log is not read."""

    def run() -> None:
        try:
            job()
        except StorageError as error:
            log.error(
                "calendar_job_failed", job=getattr(job, "func", job).__name__, reason=str(error)
            )

    return run
