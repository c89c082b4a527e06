"""An association of ours that waits for an answer, and the loop of pynetdicom that must not take it.

pynetdicom 3.0 runs a loop for each association that takes requests of the peer. While `send_c_store` and its like wait
for an answer the loop is paused: `_reactor_checkpoint` is cleared, and `_is_paused` says that the loop has stopped at
it. But the loop says so before it stops: one that passes the checkpoint at this moment takes the answer for a request
and drops it, and the sender waits until its time-out. It happens where many threads share few cores.
"""

from __future__ import annotations

import threading

from pynetdicom.association import Association

#: Seconds between two looks whether the loop has ended.
_LOOK_S = 0.05


class Checkpoint(threading.Event):
    """Where the loop stops; `clear` returns when it has stopped here, or has ended."""

    def __init__(self, loop: threading.Thread) -> None:
        super().__init__()
        self._loop = loop
        self._changed = threading.Condition()
        self._is_open, self._is_stopped = True, False

    def is_set(self) -> bool:
        """Whether the loop may pass."""
        return self._is_open

    def wait(self, timeout: float | None = None) -> bool:
        """Pass, or stop until `set`."""
        with self._changed:
            while not self._is_open:
                self._is_stopped = True
                self._changed.notify_all()
                if not self._changed.wait(timeout):
                    break
            # Under the lock: who closes it from now on sees a loop that is on its way.
            self._is_stopped = False
            return self._is_open

    def set(self) -> None:
        """Let the loop pass."""
        with self._changed:
            self._is_open = True
            self._changed.notify_all()

    def clear(self) -> None:
        """Close it, and see the loop stop."""
        with self._changed:
            self._is_open = False
            if threading.current_thread() is not self._loop:
                while not self._is_stopped and self._loop.is_alive():
                    self._changed.wait(_LOOK_S)


def pause_safely(assoc: Association) -> None:
    """Have the loop of an established association stop before a request is sent."""
    # What its loop passes now is the checkpoint it had; it comes to this one next.
    assoc._reactor_checkpoint = Checkpoint(assoc)
