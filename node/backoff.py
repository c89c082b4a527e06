"""How long to wait before another attempt. Pure."""

from __future__ import annotations


def backoff(attempts: int, *, first_s: float, most_s: float, jitter: float) -> float:
    """Seconds to wait after `attempts` attempts: doubled each time up to `most_s`, spread by `jitter` in 0..1.

    The spread (three quarters to five quarters) keeps many deliveries from knocking at the same instant.
    """
    return min(most_s, first_s * 2.0 ** min(attempts - 1, 32)) * (0.75 + 0.5 * jitter)
