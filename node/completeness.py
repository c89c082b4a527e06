"""Is the study whole? Pure: the clock is a parameter.

DICOM has no sign for the end of a study. Today the evidence is quiet time: nothing new for `quiet_s` seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from storage.model import Study


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether a study may be evaluated now, and if not, when to look again."""

    whole: bool
    reason: str
    look_again_at: datetime


def assess(study: Study, *, now: datetime, quiet_s: float) -> Verdict:
    """A study is taken for whole when no instance came for `quiet_s` seconds."""
    due = study.last_received_at + timedelta(seconds=quiet_s)
    if now >= due:
        return Verdict(whole=True, reason=f"no instance for {quiet_s:g} s", look_again_at=now)
    waited = (now - study.last_received_at).total_seconds()
    return Verdict(
        whole=False,
        reason=f"last instance {waited:.0f} s ago, quiet after {quiet_s:g} s",
        look_again_at=due,
    )
