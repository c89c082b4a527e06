"""What can go wrong in the node, and who must act.

    NodeError
    +-- ConfigError         a setting is missing, misspelt or out of range: the administrator
    +-- RuleError           a rule that cannot be read: the rule's author
    +-- ReceiveError        an instance that is refused at the door: whoever sends it (carries the DIMSE status)
    +-- PerformError        a run that was stopped (killed, out of time or memory): another attempt may succeed
    +-- DeliveryError       a destination that does not take evidence: its administrator; `permanent` or not
    +-- WorklistError       a worklist or a source of images that does not give what we ask: `code` says why

`storage.errors` (archive, database) and `pipelines.errors` (manifest, weights, input, refusal) are the trees below
this one.
"""

from __future__ import annotations


class NodeError(Exception):
    """Root of the tree."""


class ConfigError(NodeError):
    """A setting is missing, misspelt or out of range."""


class RuleError(NodeError):
    """A rule that cannot be read."""


class ReceiveError(NodeError):
    """An instance that is refused at the door, with the status it gets (PS3.4 Table B.2-1)."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class PerformError(NodeError):
    """A run that was stopped; `code` says by what."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class DeliveryError(NodeError):
    """A destination that does not take evidence; `retry_after_s` is the wait that it asks for (RFC 9110 10.2.3)."""

    def __init__(
        self, message: str, *, permanent: bool = False, retry_after_s: float = 0.0
    ) -> None:
        super().__init__(message)
        self.permanent = permanent
        self.retry_after_s = retry_after_s


class WorklistError(NodeError):
    """A worklist, or a source of images, that does not give what we ask.

    Codes: `no-answer` (unreachable, too slow, or broken itself: 5xx, 429), `not-authorized` (401, 403), `unknown` (404,
    410), `conflict` (409), `refused` (any other status), `unreadable` (an answer that is not what the standard says).
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
