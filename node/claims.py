"""A claim is kept while what is done under it lasts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime

import structlog

from storage.errors import StorageError
from storage.model import utcnow

#: A claim that is not renewed for this long is anyone's.
LEASE_S = 60.0
#: How often a claim is renewed, and a cancelled workitem noticed.
RENEW_S = 2.0

log = structlog.get_logger(__name__)


@contextmanager
def renewed(
    renew: Callable[[datetime], bool], *, lost: Callable[[], None], about: str
) -> Iterator[None]:
    """Renew a claim every `RENEW_S` beside what is done under it; say once that it is lost."""
    done = threading.Event()

    def keep() -> None:
        while not done.wait(RENEW_S):
            try:
                ours = renew(utcnow())
            except StorageError as error:
                log.warning("claim_not_renewed", claim=about, reason=str(error))
                continue
            if not ours:
                lost()
                return

    keeper = threading.Thread(target=keep, name="claim", daemon=True)
    keeper.start()
    try:
        yield
    finally:
        done.set()
        keeper.join()
