"""Asking a peer how much it has of a study, over real associations."""

from __future__ import annotations

import time

import pytest
from peer import Pacs

from node.errors import DeliveryError
from node.query import count_study
from storage.model import Asked

STUDY = "1.2.3"


def ask(peer: Pacs, study: str = STUDY, *, timeout_s: float = 5.0) -> Asked:
    return count_study(peer.destination, study, calling_ae="OSTEONODE", timeout_s=timeout_s)


def test_series_and_instances_are_counted(pacs: Pacs) -> None:
    pacs.holds[STUDY] = {"1.2.3.1": ("CT", 120), "1.2.3.2": ("CT", 3), "1.2.3.9": ("SR", 1)}
    answer = ask(pacs)
    assert (answer.of, answer.series, answer.instances) == ("PACS", 3, 124)
    # Reports are no images that miss.
    assert answer.by_series == {"1.2.3.1": 120, "1.2.3.2": 3}
    assert answer.at is not None
    assert pacs.asked == ["STUDY", "SERIES"]
    assert pacs.associations == 1


def test_a_study_that_the_archive_does_not_have(pacs: Pacs) -> None:
    answer = ask(pacs)
    assert (answer.series, answer.instances, answer.by_series) == (None, None, {})


@pytest.mark.parametrize(
    ("uncounted", "known"),
    [
        ({"NumberOfSeriesRelatedInstances"}, (1, 120, {})),
        ({"NumberOfStudyRelatedInstances", "NumberOfStudyRelatedSeries"}, (None, None, {"1.2.3.1": 120})),
    ],
)  # fmt: skip
def test_optional_keys_may_be_missing(
    pacs: Pacs, uncounted: set[str], known: tuple[object, ...]
) -> None:
    pacs.uncounted = frozenset(uncounted)
    pacs.holds[STUDY] = {"1.2.3.1": ("CT", 120)}
    answer = ask(pacs)
    assert (answer.series, answer.instances, answer.by_series) == known


@pytest.mark.parametrize("status", [0xA700, 0xA900, 0xC001])
def test_a_failure_is_told_with_its_status(pacs: Pacs, status: int) -> None:
    pacs.find_status = status
    with pytest.raises(DeliveryError, match=f"C-FIND with 0x{status:04X}"):
        ask(pacs)


def test_a_peer_that_takes_no_question() -> None:
    with Pacs(finds=False) as peer, pytest.raises(DeliveryError, match="does not"):
        ask(peer)


def test_a_peer_that_is_dead_or_slow(pacs: Pacs) -> None:
    pacs.delay_s = 2.0
    began = time.monotonic()
    with pytest.raises(DeliveryError, match="did not answer in time"):
        ask(pacs, timeout_s=0.3)
    assert time.monotonic() - began < 2.0
    pacs.stop()
    with pytest.raises(DeliveryError, match="cannot be reached"):
        ask(pacs)
