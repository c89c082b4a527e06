"""A short campaign in every run of the tests; `make fuzz` is the long one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from fuzz import campaign
from fuzz.files import MARKER, make_right, make_sample, seeds
from fuzz.wire import converse, make_conversation, right_conversation
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nodes import Node

ROOT = Path(__file__).parents[2]
#: Real files that are broken too, where they are.
DATA = Path(os.environ.get("OSTEONODE_TEST_DATA", ROOT.parent / "shared" / "data")) / "interop"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """One node for all of them: what harms it may show later."""
    node = campaign.make_node(tmp_path_factory.mktemp("node"))
    node.start()
    yield node
    node.kill_if_running()


@settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(random=st.randoms(use_true_random=False))
def test_no_conversation_harms_the_node(node: Node, random: Random) -> None:
    """Made by hypothesis: one that fails is shown at its shortest."""
    conversation = make_conversation(random, make_right)
    outcome = converse(node.port, conversation)
    assert not outcome.fault, conversation


@pytest.mark.slow
def test_a_campaign_finds_no_fault(node: Node) -> None:
    originals = seeds(DATA if DATA.is_dir() else None, 20_000)
    report = campaign.run(node, range(1800), 1, originals)
    assert not report.faults, "\n".join(report.lines())
    # It came to what it is for: taken, refused, hung up on, decoded.
    for kind in ("status 0x0000", "status 0xC001", "wire: aborted", "wire: released"):
        assert report.counts[kind] > 20, report.counts
    assert report.counts["series: decoded"] > 20, report.counts


def test_the_same_number_is_the_same_input() -> None:
    originals = seeds(None, 0)
    for number in range(50):
        once, again = Random(f"1-{number}"), Random(f"1-{number}")
        assert make_sample(once, originals) == make_sample(again, originals)
        once, again = Random(f"1-{number}"), Random(f"1-{number}")
        assert make_conversation(once, make_right) == make_conversation(again, make_right)


def test_every_seed_has_the_marker_and_no_campaign_lacks_damage() -> None:
    originals = seeds(None, 0)
    plain = [sample for sample in originals if "deflated" not in sample.name]
    assert all(MARKER in sample.data for sample in plain)
    assert all(MARKER in piece for piece in [make_right(Random(1))[1]])
    made = [make_sample(Random(number), originals) for number in range(300)]
    assert len({name for sample in made for name in sample.broken}) >= 11
    said = [make_conversation(Random(number), make_right) for number in range(300)]
    assert len({name for conversation in said for name in conversation.broken}) >= 10


def test_a_node_that_leaks_a_name_is_a_fault(node: Node) -> None:
    """The watch itself: what it must see, it sees."""
    report = campaign.Report()
    with (node.folder / "node.log").open("a", encoding="utf-8") as log:
        log.write(f"refused {MARKER.decode()}^JANE\nred \x1b[31m\n")
    stray = node.folder / "data" / "passwd"
    outside = node.folder / campaign.TEMPORARY / "passwd"
    for path in (stray, outside):
        path.write_text("x", encoding="utf-8")
    report.refused = 10**9
    report.kept.add("0/0/" + "0" * 64 + ".dcm")
    faults = "\n".join(campaign.look_after(node, report))
    stray.unlink()
    outside.unlink()
    for said in (
        "names the patient",
        "outside the archive",
        "control characters",
        "nobody expects",
        "refusals",
        "0x0000",
    ):
        assert said in faults


def test_right_conversations_are_taken(node: Node) -> None:
    for number in range(10):
        outcome = converse(node.port, right_conversation(Random(number), make_right, 4))
        assert not outcome.fault
