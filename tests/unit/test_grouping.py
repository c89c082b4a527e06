"""Group commit: who shares a transaction, and whose failure it is."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

import pytest
from sqlalchemy.exc import StatementError

from storage.errors import IndexUnavailable
from storage.index.grouping import CommitGroup

POISON = -1


class Database:
    """Doubles numbers; the first transaction lasts until `go_on`."""

    def __init__(self) -> None:
        self.transactions: list[list[int]] = []
        self.go_on = threading.Event()
        self.fail: Callable[[Sequence[int]], None] = lambda values: None

    def commit_all(self, values: Sequence[int]) -> list[int]:
        self.transactions.append(sorted(values))
        if len(self.transactions) == 1:
            assert self.go_on.wait(10)
        self.fail(values)
        return [2 * value for value in values]


def add_while_the_first_lasts(
    database: Database, values: Sequence[int]
) -> dict[int, int | BaseException]:
    """Commit 1, and the values while it is under way; what each thread got."""
    group: CommitGroup[int, int] = CommitGroup()
    got: dict[int, int | BaseException] = {}

    def add(value: int) -> None:
        try:
            got[value] = group.commit(value, database.commit_all)
        except BaseException as error:
            got[value] = error

    threads = [threading.Thread(target=add, args=(value,)) for value in (1, *values)]
    threads[0].start()
    _wait_for(lambda: database.transactions == [[1]])
    for thread in threads[1:]:
        thread.start()
    _wait_for(lambda: len(group._tickets) == len(values))
    database.go_on.set()
    for thread in threads:
        thread.join(10)
    return got


def _wait_for(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("waited in vain")


def test_a_value_alone_is_committed_at_once() -> None:
    database = Database()
    database.go_on.set()
    group: CommitGroup[int, int] = CommitGroup()
    assert [group.commit(n, database.commit_all) for n in (1, 2)] == [2, 4]
    assert database.transactions == [[1], [2]]


def test_values_that_wait_are_committed_together() -> None:
    database = Database()
    assert add_while_the_first_lasts(database, range(2, 9)) == {n: 2 * n for n in range(1, 9)}
    assert database.transactions == [[1], [2, 3, 4, 5, 6, 7, 8]]


def test_a_value_that_cannot_be_written_fails_alone() -> None:
    database = Database()

    def fail(values: Sequence[int]) -> None:
        if POISON in values:
            raise StatementError("a time without a zone", "INSERT", {}, ValueError())

    database.fail = fail
    got = add_while_the_first_lasts(database, [2, POISON, 3])
    assert isinstance(got.pop(POISON), StatementError)
    assert got == {1: 2, 2: 4, 3: 6}


def test_a_database_that_does_not_answer_fails_all_at_once() -> None:
    database = Database()

    def fail(values: Sequence[int]) -> None:
        raise IndexUnavailable("gone")

    database.fail = fail
    got = add_while_the_first_lasts(database, [2, 3, 4])
    assert all(isinstance(error, IndexUnavailable) for error in got.values())
    assert database.transactions == [[1], [2, 3, 4]]


def test_an_interrupted_thread_leaves_the_others_to_themselves() -> None:
    database = Database()

    def fail(values: Sequence[int]) -> None:
        if len(values) > 1:
            raise KeyboardInterrupt

    database.fail = fail
    got = add_while_the_first_lasts(database, [2, 3, 4])
    interrupted = [n for n, outcome in got.items() if isinstance(outcome, KeyboardInterrupt)]
    assert len(interrupted) == 1
    assert {n: 2 * n for n in got if n not in interrupted} == {
        n: outcome for n, outcome in got.items() if n not in interrupted
    }
    assert len(got) == 4


def test_nothing_is_waited_for_after_a_failure() -> None:
    group: CommitGroup[int, int] = CommitGroup()

    def refuse(values: Sequence[int]) -> list[int]:
        raise IndexUnavailable("gone")

    with pytest.raises(IndexUnavailable):
        group.commit(1, refuse)
    assert group.commit(1, lambda values: [7]) == 7
