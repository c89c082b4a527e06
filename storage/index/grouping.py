"""Group commit: who waits for the same write lock shares a transaction, and so one sync of the disk."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from sqlalchemy.exc import SQLAlchemyError

from storage.errors import StorageError

T = TypeVar("T")
R = TypeVar("R")


@dataclass(slots=True, eq=False)
class _Ticket(Generic[T, R]):
    value: T
    outcomes: Sequence[R] = ()
    error: Exception | None = None
    done: bool = False


class CommitGroup(Generic[T, R]):
    """While one thread is in its transaction, values of others gather; the next thread takes them all.

    Nobody waits for company: a value that comes alone is committed alone, at once.
    """

    def __init__(self) -> None:
        self._gathering = threading.Lock()
        self._leading = threading.Lock()
        self._tickets: list[_Ticket[T, R]] = []

    def commit(self, value: T, commit_all: Callable[[Sequence[T]], Sequence[R]]) -> R:
        """What `commit_all` gives for `value`, committed together with whatever else is waiting.

        A database that does not answer is everybody's failure; what a single value may have caused is not: then each is
        committed alone.
        """
        ticket = _Ticket[T, R](value)
        with self._gathering:
            self._tickets.append(ticket)
        with self._leading:
            if not ticket.done:
                with self._gathering:
                    taken, self._tickets = self._tickets, []
                if ticket not in taken:
                    # The thread that took it was interrupted.
                    taken.append(ticket)
                _commit(taken, commit_all)
        if ticket.error is not None:
            raise ticket.error
        return ticket.outcomes[0]


def _commit(
    tickets: Sequence[_Ticket[T, R]], commit_all: Callable[[Sequence[T]], Sequence[R]]
) -> None:
    try:
        outcomes = commit_all([ticket.value for ticket in tickets])
    except SQLAlchemyError as error:
        if len(tickets) == 1:
            tickets[0].error, tickets[0].done = error, True
        else:
            for ticket in tickets:
                _commit([ticket], commit_all)
    except StorageError as error:
        for ticket in tickets:
            ticket.error, ticket.done = error, True
    else:
        for ticket, outcome in zip(tickets, outcomes, strict=True):
            ticket.outcomes, ticket.done = (outcome,), True
