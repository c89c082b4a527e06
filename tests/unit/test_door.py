"""Who may come in, with a clock of the test's own."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from node.config import Config, ReceiveSection
from node.door import BURST_S, Door, Peer, Telling, plain_address, right_of


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


def make(clock: Clock | None = None, **settings: object) -> Door:
    return Door(ReceiveSection.model_validate(settings), clock=clock or Clock())


def enter(
    door: Door, peer: Peer, calling_ae: str = "CT_ONE", names: frozenset[str] | None = None
) -> str:
    """Through both steps; why not, or nothing."""
    if reason := door.arrive(peer):
        return f"closed: {reason}"
    refusal = door.ask(peer, calling_ae, names)
    return refusal.reason if refusal else ""


def test_without_settings_everybody_comes_in_and_may_do_everything() -> None:
    door = make()
    assert enter(door, ("192.0.2.1", 1)) == ""
    assert door.rights("CT_ONE") == {"echo", "store", "query", "commit"}


def test_titles_of_both_lists_come_in_and_no_other() -> None:
    door = make(calling_ae=["OLD"], callers={"CT_ONE": {"may": ["store"]}})
    assert enter(door, ("192.0.2.1", 1), "OLD") == ""
    assert enter(door, ("192.0.2.1", 2), "CT_ONE") == ""
    assert enter(door, ("192.0.2.1", 3), "OTHER") == "calling AE title not recognized"
    assert door.rights("OLD") == {"echo", "store", "query", "commit"}
    assert door.rights("CT_ONE") == {"store"}


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("10.1.2.3", True),
        ("10.1.3.3", False),
        ("::ffff:10.1.2.3", True),
        ("2001:db8::7", True),
        ("2001:db9::7", False),
        ("fe80::1%eth0", False),
    ],
)
def test_a_title_is_good_from_its_own_networks(address: str, allowed: bool) -> None:
    door = make(callers={"CT_ONE": {"networks": ["10.1.2.0/24", "2001:db8::/32"]}})
    wanted = "" if allowed else "calling AE title not allowed from this address"
    assert enter(door, (address, 1)) == wanted


def test_a_title_with_a_certificate_needs_that_one() -> None:
    door = make(callers={"CT_ONE": {"certificate": "ct1"}})
    refused = "calling AE title not allowed with this certificate"
    assert enter(door, ("192.0.2.1", 1)) == refused
    assert enter(door, ("192.0.2.1", 2), names=frozenset(("ct2",))) == refused
    assert enter(door, ("192.0.2.1", 3), names=frozenset(("x", "ct1"))) == ""


def test_other_networks_are_closed_unheard() -> None:
    door = make(networks=["10.0.0.0/8"])
    assert enter(door, ("10.9.9.9", 1)) == ""
    assert enter(door, ("192.0.2.1", 1)) == "closed: address is in none of receive.networks"


def test_those_that_wait_take_no_place_of_those_that_ask() -> None:
    door = make(max_associations=1, max_waiting=4)
    assert [door.arrive(("192.0.2.1", port)) for port in (1, 2)] == ["", ""]
    assert door.arrive(("192.0.2.1", 3)) == "too many connections of this address without a request"
    assert enter(door, ("192.0.2.2", 1)) == ""
    assert [door.arrive(("192.0.2.3", port)) for port in (1, 2)] == ["", ""]
    assert door.arrive(("192.0.2.4", 1)) == "too many connections without a request"
    assert door.ask(("192.0.2.3", 1), "X", None) is not None, "one is in"
    door.leave(("192.0.2.2", 1))
    assert door.ask(("192.0.2.3", 2), "X", None) is None
    door.leave(("192.0.2.1", 1))
    assert door.arrive(("192.0.2.1", 3)) == ""


def test_one_address_may_have_a_limit_of_its_own() -> None:
    door = make(max_associations_per_address=1)
    assert enter(door, ("192.0.2.1", 1)) == ""
    assert enter(door, ("192.0.2.1", 2)) == "too many associations of this address"
    assert enter(door, ("192.0.2.2", 1)) == ""


def test_an_address_that_asks_too_often_is_put_off_then_closed_then_heard_again() -> None:
    clock = Clock()
    door = make(clock, max_rate=2, max_associations=1000)

    def tries(count: int, address: str = "192.0.2.1") -> list[str]:
        return [enter(door, (address, port)) for port in range(count)]

    burst = int(2 * BURST_S)
    assert set(tries(burst)) == {""}
    assert set(tries(burst - 1)) == {"too many associations a second"}
    assert set(tries(5)) == {"closed: far too many connections a second"}
    assert set(tries(1, "192.0.2.2")) == {""}, "another address pays for it"
    clock.now += 2 * BURST_S
    assert set(tries(burst)) == {""}


def test_a_rejection_for_now_is_told_apart_from_one_for_good() -> None:
    """PS3.8 Table 9-21."""
    door = make(max_rate=0.2, calling_ae=["CT_ONE"])
    codes = []
    for port, title in enumerate(("OTHER", "CT_ONE", "CT_ONE")):
        assert door.arrive(("192.0.2.1", port)) == ""
        refusal = door.ask(("192.0.2.1", port), title, None)
        codes.append(refusal and (refusal.result, refusal.source, refusal.diagnostic))
    assert codes == [(1, 1, 3), None, (2, 3, 1)]
    full = make(max_associations=1)
    enter(full, ("192.0.2.1", 1))
    full.arrive(("192.0.2.1", 2))
    refusal = full.ask(("192.0.2.1", 2), "X", None)
    assert refusal is not None
    assert (refusal.result, refusal.source, refusal.diagnostic) == (2, 3, 2)


@pytest.mark.parametrize(
    ("uid", "right"),
    [
        ("1.2.840.10008.1.1", "echo"),
        ("1.2.840.10008.1.20.1", "commit"),
        ("1.2.840.10008.5.1.4.1.2.2.1", "query"),
        ("1.2.840.10008.5.1.4.1.1.2", "store"),
        ("1.2.840.113619.4.30", "store"),
    ],
)
def test_each_service_has_its_right(uid: str, right: str) -> None:
    assert right_of(uid) == right


def test_of_a_thousand_refusals_few_are_told_and_none_is_forgotten() -> None:
    clock = Clock()
    telling = Telling(clock=clock)
    assert [telling.times("a", "full") for _ in range(1000)] == [1] + [0] * 999
    assert telling.times("b", "full") == 1
    assert telling.times("a", "other reason") == 1
    clock.now += 61
    assert telling.times("a", "full") == 1000
    assert telling.times("a", "full") == 0
    assert telling.rest() == [("a", "full", 1)]
    assert telling.rest() == []


def test_addresses_are_compared_plainly() -> None:
    assert plain_address("::ffff:192.0.2.1") == "192.0.2.1"
    assert plain_address("2001:DB8:0::1") == "2001:db8::1"


def test_settings_that_exclude_each_other_are_named() -> None:
    for tls, said in (
        ({"certificate": "a"}, "give certificate and key"),
        ({"certificate": "a", "key": "b"}, "mutual needs authorities"),
        ({"only": True}, "only needs certificate"),
    ):
        with pytest.raises(ValueError, match=said):
            Config.model_validate({"tls": tls})
    assert Config.model_validate({"tls": {"certificate": "a", "key": "b", "port": 0}})
