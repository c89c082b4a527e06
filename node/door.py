"""Who may come in: by address, AE title, certificate and right; how many at once, and how often.

The door keeps counts only and opens no socket. A connection goes through it in two steps:

    arrive    before anything is read: network, rate, how many wait as it does     no: it is closed
    ask       its A-ASSOCIATE-RQ is there: AE title, certificate, rate, number     no: A-ASSOCIATE-RJ (PS3.8 9.3.4)

Those that have not asked yet count for themselves: whoever only connects keeps no sender out.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address

from node.config import CallerSetting, ReceiveSection, Right

#: Seconds over which a rate is an average: as many more may come at once.
BURST_S = 10.0
#: Seconds within which the same refusal of the same address is told once.
TELL_EVERY_S = 60.0
#: Addresses remembered; those heard of longest ago go.
_ADDRESSES = 4096
_EVERYTHING: frozenset[Right] = frozenset(("echo", "store", "query", "commit"))

#: A connection: address and port of the peer.
Peer = tuple[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """An A-ASSOCIATE-RJ (PS3.8 Table 9-21), and what the log says of it."""

    result: int
    source: int
    diagnostic: int
    reason: str


def _unknown(reason: str) -> Refusal:
    return Refusal(result=1, source=1, diagnostic=3, reason=reason)


def right_of(sop_class_uid: str) -> Right:
    """The right that a presentation context of a SOP Class needs (PS3.4 A, C, J; all others are storage, B)."""
    if sop_class_uid == "1.2.840.10008.1.1":
        return "echo"
    if sop_class_uid == "1.2.840.10008.1.20.1":
        return "commit"
    if sop_class_uid.startswith("1.2.840.10008.5.1.4.1.2."):
        return "query"
    return "store"


class Door:
    """Counts who waits and who is in, and decides; safe in threads.

    Parameters
    ----------
    clock
        Seconds, from anywhere, that only grow.
    """

    def __init__(
        self, section: ReceiveSection, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._section = section
        self._clock = clock
        self._lock = threading.Lock()
        self._waiting: dict[Peer, str] = {}
        self._inside: dict[Peer, str] = {}
        self._rates: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def arrive(self, peer: Peer) -> str:
        """A connection is there; why it is closed, or nothing."""
        address = plain_address(peer[0])
        section = self._section
        if section.networks and not _is_in(address, section.networks):
            return "address is in none of receive.networks"
        with self._lock:
            rate = section.max_rate
            if rate and self._left(address, taken=1) <= -rate * BURST_S:
                return "far too many connections a second"
            waiting = Counter(self._waiting.values())
            # Half of the room at most for one address: two must agree to take all of it.
            if waiting[address] >= max(1, section.max_waiting // 2):
                return "too many connections of this address without a request"
            if waiting.total() >= section.max_waiting:
                return "too many connections without a request"
            self._waiting[peer] = address
        return ""

    def ask(self, peer: Peer, calling_ae: str, names: frozenset[str] | None) -> Refusal | None:
        """It has asked for an association; why it is rejected, or None.

        Parameters
        ----------
        names
            Those of its certificate; None where it showed none.
        """
        address = plain_address(peer[0])
        with self._lock:
            self._waiting.pop(peer, None)
            refusal = (
                self._is_too_often(address)
                or self._is_unknown(address, calling_ae, names)
                or self._is_one_too_many(address)
            )
            if refusal is None:
                self._inside[peer] = address
        return refusal

    def leave(self, peer: Peer) -> None:
        """The connection is over, whatever it was."""
        with self._lock:
            self._waiting.pop(peer, None)
            self._inside.pop(peer, None)

    def rights(self, calling_ae: str) -> frozenset[Right]:
        """What an AE title may do, once it is in."""
        caller = self._section.callers.get(calling_ae)
        return frozenset(caller.may) if caller is not None else _EVERYTHING

    def _is_unknown(
        self, address: str, calling_ae: str, names: frozenset[str] | None
    ) -> Refusal | None:
        section = self._section
        caller = section.callers.get(calling_ae)
        if caller is None:
            anyone = not section.callers and not section.calling_ae
            known = anyone or calling_ae in section.calling_ae
            return None if known else _unknown("calling AE title not recognized")
        return _differs(caller, address, names)

    def _left(self, address: str, taken: int = 0) -> float:
        """How many more associations an address may ask for at once; less than 0: it has asked for too many."""
        rate, now = self._section.max_rate, self._clock()
        if not rate:
            return 0.0
        left, seen = self._rates.pop(address, (rate * BURST_S, now))
        left = min(rate * BURST_S, left + (now - seen) * rate) - taken
        # Not below what is closed unheard: who stops is heard again after `BURST_S`.
        left = max(left, -rate * BURST_S)
        self._rates[address] = (left, now)
        if len(self._rates) > _ADDRESSES:
            self._rates.popitem(last=False)
        return left

    def _is_too_often(self, address: str) -> Refusal | None:
        if self._left(address) >= 0:
            return None
        # PS3.8 Table 9-21: rejected-transient, presentation related, temporary-congestion.
        return Refusal(result=2, source=3, diagnostic=1, reason="too many associations a second")

    def _is_one_too_many(self, address: str) -> Refusal | None:
        # PS3.8 Table 9-21: rejected-transient, presentation related, local-limit-exceeded.
        most = self._section.max_associations_per_address
        inside = Counter(self._inside.values())
        if inside.total() >= self._section.max_associations:
            return Refusal(result=2, source=3, diagnostic=2, reason="too many associations")
        if most and inside[address] >= most:
            reason = "too many associations of this address"
            return Refusal(result=2, source=3, diagnostic=2, reason=reason)
        return None


class Telling:
    """Says of each refusal when it is told: the first at once, of those like it one a minute, with their number.

    Whoever is refused a thousand times a second must not write a thousand lines, and rows of the audit log.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._told: OrderedDict[tuple[str, str], tuple[float, int]] = OrderedDict()

    def times(self, address: str, reason: str) -> int:
        """How many refusals to tell of now, this one included; 0: none, it is counted for later."""
        key, now = (address, reason), self._clock()
        with self._lock:
            at, untold = self._told.pop(key, (-TELL_EVERY_S, 0))
            is_due = now - at >= TELL_EVERY_S
            self._told[key] = (now, 0) if is_due else (at, untold + 1)
            if len(self._told) > _ADDRESSES:
                self._told.popitem(last=False)
        return untold + 1 if is_due else 0

    def rest(self) -> list[tuple[str, str, int]]:
        """Address, reason and number of those that were never told; they count as told now."""
        with self._lock:
            untold = [(*key, count) for key, (_, count) in self._told.items() if count]
            self._told.clear()
        return untold


def plain_address(address: str) -> str:
    """An IPv4 address that came over an IPv6 socket (`::ffff:10.1.2.3`) as such, and without a zone."""
    parsed = ip_address(address.partition("%")[0])
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped:
        parsed = parsed.ipv4_mapped
    return str(parsed)


def _differs(caller: CallerSetting, address: str, names: frozenset[str] | None) -> Refusal | None:
    if caller.networks and not _is_in(address, caller.networks):
        return _unknown("calling AE title not allowed from this address")
    if caller.certificate and caller.certificate not in (names or ()):
        return _unknown("calling AE title not allowed with this certificate")
    return None


def _is_in(address: str, networks: Iterable[IPv4Network | IPv6Network]) -> bool:
    parsed = ip_address(address)
    return any(parsed in network for network in networks)
