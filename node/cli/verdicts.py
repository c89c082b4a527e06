"""Whether a study is whole, whether its files are there, and what becomes of it, for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from node.cli.output import cell, local, say
from storage.model import FileMark, FileState, Study, Verdict


def state(study: Study) -> str:
    """One word: `held`, `arriving`, `waiting`, `evaluated`."""
    if study.held is not None:
        return "held"
    if study.forced_at is not None:
        return "released"
    if study.revision > study.evaluated_revision:
        return "arriving"
    return "waiting" if study.waits_until is not None else "evaluated"


def sum_up(verdict: Verdict | None) -> str:
    """`whole (likely)`; what was evaluated by an older version has no verdict."""
    if verdict is None:
        return ""
    if not verdict.ready:
        return "not yet"
    return f"{'whole' if verdict.whole else 'not whole'} ({verdict.confidence})"


def print_verdict(study: Study) -> None:
    """The section of `studies show`: the verdict with its reasons, and who holds it."""
    if study.held is not None:
        why = f": {cell('', study.held.reason)}" if study.held.reason else ""
        say("Held")
        print(f"  by {study.held.by} since {local(study.held.at)}{why}")
        print("  Not evaluated until `osteonode studies release`.")
    if study.verdict is not None:
        say("Whole?")
        again = study.verdict.look_again_at
        until = f"; looked at again {local(again)}" if again is not None else ""
        print(f"  {sum_up(study.verdict)}{until}")
        for reason in study.verdict.reasons:
            print(f"    {reason.code:21} {cell('', reason.sentence)}")


def print_files(marks: Sequence[FileMark]) -> None:
    """Files that are not there, or not what they were, by what is said of them."""
    said = Counter((mark.state, mark.reason) for mark in marks)
    for (what, reason), count in sorted(said.items()):
        print(f"  {count} {what.lower()}: {reason}")
    if any(mark.state is not FileState.EXPIRED for mark in marks):
        print("  Send the study again: what is missing or damaged is replaced then.")
