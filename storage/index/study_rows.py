"""Studies between rows and values."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Row

from storage.model import Asked, Confidence, Hold, Verdict, VerdictReason


def study_values(row: Row[Any]) -> dict[str, Any]:
    """A row of `tables.studies` as the fields of `Study`."""
    values = dict(row._mapping)
    asked = Asked(
        of=values.pop("asked_of") or "",
        at=values.pop("asked_at"),
        series=values.pop("expected_series"),
        instances=values.pop("expected_instances"),
        by_series=values.pop("expected_by_series") or {},
        attempts=values.pop("ask_attempts"),
        failure=values.pop("ask_failure"),
        again_at=values.pop("ask_again_at"),
    )
    values["asked"] = asked if asked.of else None
    held_at, held_by, reason = (values.pop(key) for key in ("held_at", "held_by", "held_reason"))
    values["held"] = None if held_at is None else Hold(at=held_at, by=held_by, reason=reason)
    stored = values["verdict"]
    values["verdict"] = None if stored is None else _verdict_from_row(stored)
    return values


def verdict_to_row(verdict: Verdict) -> dict[str, Any]:
    """A verdict as JSON."""
    again = verdict.look_again_at
    return {
        "whole": verdict.whole,
        "confidence": verdict.confidence,
        "ready": verdict.ready,
        "reasons": [[reason.code, reason.sentence] for reason in verdict.reasons],
        "look_again_at": None if again is None else again.isoformat(),
    }


def _verdict_from_row(stored: dict[str, Any]) -> Verdict:
    again = stored["look_again_at"]
    return Verdict(
        whole=stored["whole"],
        confidence=Confidence(stored["confidence"]),
        ready=stored["ready"],
        reasons=tuple(
            VerdictReason(code=code, sentence=sentence) for code, sentence in stored["reasons"]
        ),
        look_again_at=None if again is None else datetime.fromisoformat(again),
    )
