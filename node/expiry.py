"""Files that are done with, removed by policy: what `[retention]` says, never what is owed.

Rows stay, and say that the file has expired. Objects we made are copies of what a PACS has, once delivered; instances
we received are copies of what their sender has.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from node.config import RetentionSection
from storage.archive import Archive
from storage.index import Index, retention
from storage.index.retention import MADE, RECEIVED, Candidate

#: Nothing younger expires to make room: a result may still be looked at, corrected, or retracted.
YOUNGEST = timedelta(days=1)

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Expiry:
    """Files of one study that the policy lets go."""

    candidate: Candidate
    #: All of them came before then.
    before: datetime
    #: A sentence.
    reason: str


def plan(index: Index, policy: RetentionSection, *, now: datetime) -> tuple[Expiry, ...]:
    """What would expire now: first what is too old, then, where it is still too much, the oldest of the rest."""
    by_age = tuple(_too_old(index, policy, now))
    if not policy.max_gb:
        return by_age
    chosen = {(one.candidate.study_instance_uid, one.candidate.origins) for one in by_age}
    excess = retention.kept_bytes(index) - sum(one.candidate.bytes for one in by_age)
    excess -= int(policy.max_gb * 1e9)
    by_size: list[Expiry] = []
    before = now - YOUNGEST
    rest = [
        one
        for origins in (RECEIVED, MADE)
        for one in retention.candidates(index, origins=origins, before=before, when=policy.when)
        if (one.study_instance_uid, one.origins) not in chosen
    ]
    for one in sorted(rest, key=lambda candidate: candidate.last_at):
        if excess <= 0:
            break
        excess -= one.bytes
        reason = f"The archive held more than {policy.max_gb:g} GB."
        by_size.append(Expiry(candidate=one, before=before, reason=reason))
    if excess > 0:
        log.warning(
            "retention_cannot_make_room", excess_bytes=excess, reason="the rest is owed or new"
        )
    return (*by_age, *by_size)


def _too_old(index: Index, policy: RetentionSection, now: datetime) -> Iterator[Expiry]:
    for origins, days, what in (
        (RECEIVED, policy.received_days, "received"),
        (MADE, policy.evidence_days, "made"),
    ):
        if days:
            before = now - timedelta(days=days)
            reason = f"It was {what} more than {days:g} days ago."
            for one in retention.candidates(
                index, origins=origins, before=before, when=policy.when
            ):
                yield Expiry(candidate=one, before=before, reason=reason)


def expire(
    archive: Archive,
    index: Index,
    policy: RetentionSection,
    *,
    actor: str,
    now: datetime,
) -> tuple[Expiry, ...]:
    """Let go what the policy says; what expired, that is, what was not owed again meanwhile."""
    expired = []
    for one in plan(index, policy, now=now):
        keys = retention.expire(
            index,
            one.candidate,
            before=one.before,
            when=policy.when,
            reason=one.reason,
            actor=actor,
            now=now,
        )
        if keys:
            retention.remove_expired(index, keys, archive.delete)
            expired.append(one)
            log.info("study_expired", study=one.candidate.study_instance_uid, files=len(keys))
    return tuple(expired)
