"""Scenarios of hospitals, all at once over real associations: what the node did, and that docs/scenarios.md says so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import scenarios
from scenarios import MANY, SCENARIOS, Played, Scenario, look, play, write_page
from simulator import Account, hospital

from storage.archive import Archive
from storage.index import deliveries, instances
from storage.model import DeliveryState, WorkitemState

ROOT = Path(__file__).resolve().parents[2]
each = pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda one: one.name)


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Played]:
    with hospital(tmp_path_factory.mktemp("hospital")) as stage:
        yield play(stage)


def test_the_page_says_what_was_seen(played: Played) -> None:
    """`PYTHONPATH=.:tests python tests/scenarios.py docs/scenarios.md` brings it up to date."""
    assert (ROOT / "docs" / "scenarios.md").read_text(encoding="utf-8") == write_page(played)


# -- what holds of all ----------------------------------------------------------------------------


@each
def test_every_instance_that_was_answered_for_is_accounted_for(
    played: Played, scenario: Scenario
) -> None:
    archive = Archive(str(played.stage.node.folder / "data" / "archive"))
    for account in played.accounts(scenario.play):
        came = Counter(account.came)
        assert came.total() == played.stage.answered[account.study.study_instance_uid]
        assert came["added"] == len(account.held)
        assert came["conflict"] == account.beside
        assert came["refused"] == 0
        for one in instances.of_uids(played.stage.index, sorted(account.held)):
            assert archive.size(one.archive_key) == one.size


@each
def test_the_pacs_is_sent_each_instance_once_and_shows_one_result(
    played: Played, scenario: Scenario
) -> None:
    for account in played.accounts(scenario.play):
        received = Counter(str(ds.SOPInstanceUID) for ds in account.received)
        assert set(received.values()) <= {1}
        sent = {one.evidence.sop_instance_uid: one for one in account.deliveries}
        assert set(received) == set(sent)
        assert {one.state for one in sent.values()} <= {
            DeliveryState.SENT,
            DeliveryState.RETRACTED,
        }
        last = {one.workitem_uid for one in account.workitems[-1:]}
        shown = {uid for uid in sent if sent[uid].evidence.workitem_uid in last}
        notes = {uid for uid in sent if sent[uid].evidence.rejects}
        assert account.rejected == set(received) - shown
        assert notes <= shown


@each
def test_there_is_a_reason_for_all_and_nothing_is_left_open(
    played: Played, scenario: Scenario
) -> None:
    for account in played.accounts(scenario.play):
        assert account.study.evaluated_revision == account.study.revision
        assert account.study.verdict is not None
        assert all(reason.sentence for reason in account.study.verdict.reasons)
        assert account.decisions
        assert all(decision.reason for decision in account.decisions)
        runs = {one.workitem_uid for one in account.decisions if one.workitem_uid}
        assert runs == {one.workitem_uid for one in account.workitems[-1:]}


# -- what holds of one ----------------------------------------------------------------------------


def sizes(account: Account) -> list[dict[str, int]]:
    """Instances by role, run by run."""
    return [
        {one.role: len(one.sop_instance_uids) for one in run.inputs} for run in account.workitems
    ]


def by_role(account: Account) -> dict[str, str]:
    """What came of each input, of the rule that wants them."""
    (run,) = {one.rule for one in account.decisions if one.code in ("runs", "held")}
    return {one.role: one.code for one in account.decisions if one.rule == run}


@pytest.mark.parametrize(
    "scene",
    [
        *(scenarios.send_at_once, scenarios.send_slowly, scenarios.send_each_alone),
        *(scenarios.interleave, scenarios.send_twice, scenarios.abort_in_the_middle),
        *(scenarios.send_series_in_random_order, scenarios.fill_the_gap),
        *(scenarios.send_again_nightly, scenarios.send_other_bytes),
        *(scenarios.send_our_own_back, scenarios.send_our_own_back_coerced),
        *(scenarios.send_the_localizer_later, scenarios.fill_the_gap_much_later),
    ],
    ids=lambda scene: scene.__name__,
)
def test_one_run_on_the_whole_series(played: Played, scene: scenarios.Play) -> None:
    for account in played.accounts(scene):
        assert sizes(account) == [{"ct": 10}]
        assert account.workitems[0].state is WorkitemState.COMPLETED
        assert account.shown == {"SEG": 1, "SR": 1}
        assert account.rejected == set()


def test_many_at_once_end_as_one_would(played: Played) -> None:
    accounts = played.accounts(scenarios.send_many)
    assert len(accounts) == MANY
    assert all(sizes(account) == [{"ct": 3}] for account in accounts)
    assert all(account.shown == {"SR": 1} for account in accounts)
    assert {len(account.received) for account in accounts} == {1}


def test_of_series_in_random_order_the_one_with_most_slices_runs(played: Played) -> None:
    account = played.account(scenarios.send_series_in_random_order)
    lost = [one for one in account.decisions if one.code == "outranked"]
    assert len(lost) == 2
    # Sentences say by which wish.
    assert all("prefer" in one.reason for one in lost)


@pytest.mark.parametrize(
    "scene",
    [
        *(scenarios.send_again_nightly, scenarios.send_our_own_back),
        scenarios.send_our_own_back_coerced,
    ],
    ids=lambda scene: scene.__name__,
)
def test_what_is_ours_is_known_and_no_news(played: Played, scene: scenarios.Play) -> None:
    account = played.account(scene)
    assert len(account.own) == 2
    assert account.study.revision == 10
    assert account.evaluations == 1


def test_other_bytes_are_kept_beside_and_are_no_news(played: Played) -> None:
    account = played.account(scenarios.send_other_bytes)
    assert account.beside == 3
    assert account.evaluations == 1


@pytest.mark.parametrize(
    ("scene", "runs"),
    [
        (scenarios.split_over_two_days, [{"ct": 5}, {"ct": 10}]),
        (scenarios.send_a_late_slice, [{"ct": 9}, {"ct": 10}]),
        (scenarios.send_a_better_series_later, [{"ct": 5}, {"ct": 10}]),
        (scenarios.send_the_partner_much_later, [{"pet": 10}, {"pet": 10, "ct": 10}]),
    ],
    ids=lambda one: getattr(one, "__name__", ""),
)
def test_what_comes_after_the_result_makes_one_that_replaces_it(
    played: Played, scene: scenarios.Play, runs: list[dict[str, int]]
) -> None:
    account = played.account(scene)
    first, second = account.workitems
    assert sizes(account) == runs
    assert (first.superseded_by, second.predecessor) == (second.workitem_uid, first.workitem_uid)
    assert account.rejected == {
        one.evidence.sop_instance_uid
        for one in account.deliveries
        if one.evidence.workitem_uid == first.workitem_uid
    }
    assert account.shown == {"SEG": 1, "SR": 1}
    # Never a moment without a result: the note comes last.
    assert [ds.Modality for ds in account.received][-1] == "KO"


def test_a_gap_that_stays_is_held_and_says_so(played: Played) -> None:
    account = played.account(scenarios.leave_a_gap)
    (held,) = (one for one in account.decisions if one.code == "held")
    assert "2 of 10 places" in held.reason
    assert account.workitems == ()
    assert account.received == ()


def test_a_gap_that_may_be_is_in_the_result(played: Played) -> None:
    account = played.account(scenarios.leave_a_gap_that_may_be)
    assert sizes(account) == [{"ct": 8}]
    assert account.notices == {"slices-missing"}
    assert "slices-missing" in account.reasons


def test_a_pair_runs_together(played: Played) -> None:
    account = played.account(scenarios.send_the_pair)
    assert sizes(account) == [{"pet": 10, "ct": 10}]
    assert by_role(account) == {"pet": "runs", "ct": "runs"}


def test_without_its_partner_it_is_held_or_says_so(played: Played) -> None:
    held = played.account(scenarios.send_no_partner)
    assert held.workitems == ()
    assert by_role(held) == {"pet": "held", "ct": "held"}
    alone = played.account(scenarios.send_no_partner_where_none_is_needed)
    assert sizes(alone) == [{"pet": 10}]
    assert by_role(alone) == {"pet": "runs", "ct": "absent"}
    assert alone.notices == {"input-absent"}


# -- after a kill, at the end: it stops the node that the others look at ---------------------------


def test_a_node_that_is_killed_and_started_again_changes_none_of_it(played: Played) -> None:
    page, came = write_page(played), len(played.stage.pacs.files)
    played.stage.node.kill()
    played.stage.node.start()
    index = played.stage.index
    again = played.stage.sender("CT1", studies=(10_000,))
    again.send(again.ct())
    again.wait_until_settled()
    assert len(deliveries.list_deliveries(index, study=again.uids[0])) == 2
    assert write_page(look(played.stage, played.senders)) == page
    assert len(played.stage.pacs.files) == came + 2
