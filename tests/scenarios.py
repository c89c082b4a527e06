"""What happens in hospitals, scenario by scenario, and the table of what the node did: docs/scenarios.md.

    PYTHONPATH=.:tests python tests/scenarios.py docs/scenarios.md

writes the page from what was seen; `tests/integration/test_scenarios.py` plays the same and compares.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from dicomgen import Geometry
from pydicom import Dataset
from simulator import QUIET_S, RELEASED_S, WAIT_S, Account, Sender, Stage, coerced, hospital

from storage.model import Workitem

Play = Callable[[Sender], None]

#: One slice every 3 s where quiet is 60 s, as many times faster as quiet is here.
SLOW_S = 3.0 * QUIET_S / 60
MANY = 200


def send_at_once(sender: Sender) -> None:
    """CT of 10 slices in one association, which is released"""
    sender.send(sender.ct())


def send_slowly(sender: Sender) -> None:
    """Slow modality: a slice every 3 s, all in one association"""
    sender.send(sender.ct(), pause_s=SLOW_S)


def send_each_alone(sender: Sender) -> None:
    """Slow modality: a slice every 3 s, an association for each"""
    for ds in sender.ct():
        sender.send([ds])
        time.sleep(SLOW_S)


def interleave(sender: Sender) -> None:
    """Two studies over four associations at once, slice by slice in turn"""
    turns = [sender.ct(of=n % 2)[n // 2 :: 2] for n in range(4)]
    open_ones = [sender.associate(datasets) for datasets in turns]
    for slices in zip(*turns, strict=True):
        for assoc, ds in zip(open_ones, slices, strict=True):
            sender.store(assoc, ds)
    for assoc in open_ones:
        assoc.release()


def send_the_localizer_later(sender: Sender) -> None:
    """The localizer comes an hour after the CT"""
    sender.send(sender.ct())
    sender.wait_until_settled()
    sender.send(sender.localizer())


def send_the_localizer_before(sender: Sender) -> None:
    """The localizer comes an hour before the CT"""
    sender.send(sender.localizer())
    sender.wait_until_settled()
    sender.send(sender.ct())


def send_again_nightly(sender: Sender) -> None:
    """The PACS sends all it has of the study again, three nights in a row, results of ours included"""
    sender.send(sender.ct())
    archive = sender.known_as("PACS")
    for _ in range(3):
        sender.wait_until_settled()
        archive.send([*sender.ct(), *sender.stage.received(sender.uids[0])])


def split_over_two_days(sender: Sender) -> None:
    """Half of the CT one day, the other half the next"""
    sender.send(sender.ct(1, 2, 3, 4, 5))
    sender.wait_until_settled()
    sender.send(sender.ct(6, 7, 8, 9, 10))


def send_many(sender: Sender) -> None:
    """200 studies at once: over ten associations, slices of four in turn on each"""
    tiny = Geometry(slices=3)

    def from_one(start: int) -> None:
        mine = [sender.ct(of=n, geometry=tiny) for n in range(start, MANY, 10)]
        # Four at a time: of twenty, on a busy machine, each would be quiet between its own slices.
        turns = [mine[n : n + 4] for n in range(0, len(mine), 4)]
        sender.send([study[n] for turn in turns for n in range(3) for study in turn])

    with ThreadPoolExecutor(10) as pool:
        list(pool.map(from_one, range(10)))


def send_twice(sender: Sender) -> None:
    """Every slice twice in a row"""
    sender.send([ds for ds in sender.ct() for _ in range(2)])


def send_other_bytes(sender: Sender) -> None:
    """After the result three slices come again, with other bytes under the same UIDs"""
    sender.send(sender.ct())
    sender.wait_until_settled()
    changed = sender.ct(1, 2, 3)
    for ds in changed:
        ds.SeriesDescription = "Changed by the archive"
    sender.send(changed)


def send_series_in_random_order(sender: Sender) -> None:
    """Thin and thick CT and a localizer, slices of all in random order"""
    thick = sender.ct(series=3, geometry=Geometry(slices=5, slice_spacing=6.0))
    everything = [*sender.ct(), *thick, *sender.localizer()]
    random.Random(6).shuffle(everything)  # noqa: S311 - the same order each time
    sender.send(everything)


def send_a_better_series_later(sender: Sender) -> None:
    """Thick CT; the thin one comes after the result of the thick"""
    sender.send(sender.ct(series=3, geometry=Geometry(slices=5, slice_spacing=6.0)))
    sender.wait_until_settled()
    sender.send(sender.ct())


def abort_in_the_middle(sender: Sender) -> None:
    """The association is aborted after 4 slices; all come in another"""
    sender.send(sender.ct(1, 2, 3, 4), is_aborted=True)
    time.sleep(1.5 * RELEASED_S)
    sender.send(sender.ct())


def send_a_late_slice(sender: Sender) -> None:
    """The last slice comes after the result was sent"""
    sender.send(sender.ct(*range(1, 10)))
    sender.wait_until_settled()
    sender.send(sender.ct(10))


def send_our_own_back(sender: Sender) -> None:
    """SEG and report of ours come back from the PACS as they are"""
    sender.send(sender.ct())
    sender.wait_until_settled()
    sender.known_as("PACS").send(sender.stage.received(sender.uids[0]))


def send_our_own_back_coerced(sender: Sender) -> None:
    """The same with new UIDs for instances and series, and another patient"""
    sender.send(sender.ct())
    sender.wait_until_settled()
    made = sender.stage.received(sender.uids[0])
    sender.known_as("PACS").send([coerced(ds) for ds in made])


def _with_a_gap(sender: Sender) -> list[Dataset]:
    return sender.ct(1, 2, 3, 6, 7, 8, 9, 10)


def leave_a_gap(sender: Sender) -> None:
    """Two slices in the middle never come"""
    sender.send(_with_a_gap(sender))


def leave_a_gap_that_may_be(sender: Sender) -> None:
    """The same, and the rule says `incomplete = "run"`"""
    leave_a_gap(sender)


def fill_the_gap(sender: Sender) -> None:
    """Two slices in the middle come while the rule waits for them"""
    leave_a_gap(sender)
    sender.wait_until_it_waits()
    sender.send(sender.ct(4, 5))


def fill_the_gap_much_later(sender: Sender) -> None:
    """Two slices in the middle come when the study is held for them"""
    leave_a_gap(sender)
    sender.wait_until_settled()
    sender.send(sender.ct(4, 5))


def send_the_pair(sender: Sender) -> None:
    """PET; its CT comes while the rule waits for it"""
    sender.send(sender.pet())
    sender.wait_until_it_waits()
    sender.send(sender.ct())


def send_no_partner(sender: Sender) -> None:
    """PET whose CT never comes"""
    sender.send(sender.pet())


def send_no_partner_where_none_is_needed(sender: Sender) -> None:
    """The same, and the rule may go without"""
    sender.send(sender.pet())


def send_the_partner_much_later(sender: Sender) -> None:
    """PET; its CT comes after the result of the PET alone, where the rule may go without"""
    sender.send(sender.pet())
    sender.wait_until_settled()
    sender.send(sender.ct())


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """Who does what, to how many studies."""

    play: Play
    calling_ae: str = "CT1"
    studies: int = 1

    @property
    def name(self) -> str:
        return self.play.__name__

    @property
    def title(self) -> str:
        return str(self.play.__doc__)


SCENARIOS = (
    Scenario(play=send_at_once),
    Scenario(play=send_slowly),
    Scenario(play=send_each_alone),
    Scenario(play=interleave, studies=2),
    Scenario(play=send_series_in_random_order),
    Scenario(play=send_many, calling_ae="CT3", studies=MANY),
    Scenario(play=send_twice),
    Scenario(play=send_again_nightly),
    Scenario(play=send_other_bytes),
    Scenario(play=abort_in_the_middle),
    Scenario(play=send_the_localizer_later),
    Scenario(play=send_the_localizer_before),
    Scenario(play=split_over_two_days),
    Scenario(play=send_a_late_slice),
    Scenario(play=send_a_better_series_later),
    Scenario(play=send_our_own_back),
    Scenario(play=send_our_own_back_coerced),
    Scenario(play=leave_a_gap),
    Scenario(play=leave_a_gap_that_may_be, calling_ae="CT2"),
    Scenario(play=fill_the_gap),
    Scenario(play=fill_the_gap_much_later),
    Scenario(play=send_the_pair, calling_ae="PET1"),
    Scenario(play=send_no_partner, calling_ae="PET1"),
    Scenario(play=send_no_partner_where_none_is_needed, calling_ae="PET2"),
    Scenario(play=send_the_partner_much_later, calling_ae="PET2"),
)


@dataclass(frozen=True, kw_only=True)
class Played:
    """All scenarios, played to the end."""

    stage: Stage = field(repr=False)
    senders: Mapping[str, Sender] = field(repr=False)
    #: What became of each study, by scenario.
    seen: Mapping[str, tuple[Account, ...]] = field(repr=False)

    def accounts(self, play: Play) -> tuple[Account, ...]:
        return self.seen[play.__name__]

    def account(self, play: Play) -> Account:
        (one,) = self.accounts(play)
        return one


def play(stage: Stage) -> Played:
    """Play every scenario, side by side, until nothing is left to do and nothing more happens."""
    senders, number = {}, 1
    for one in SCENARIOS:
        senders[one.name] = stage.sender(one.calling_ae, range(number, number + one.studies))
        number += one.studies
    with ThreadPoolExecutor(len(SCENARIOS)) as pool:
        playing = [pool.submit(one.play, senders[one.name]) for one in SCENARIOS]
        for each in playing:
            each.result()
    for sender in senders.values():
        sender.wait_until_settled()
    # What should not happen gets time to.
    time.sleep(QUIET_S + 2)
    for sender in senders.values():
        sender.wait_until_settled()
    return look(stage, senders)


def look(stage: Stage, senders: Mapping[str, Sender]) -> Played:
    """What became of all, as it is now."""
    seen = {
        name: tuple(stage.account_of(uid) for uid in sender.uids)
        for name, sender in senders.items()
    }
    return Played(stage=stage, senders=senders, seen=seen)


# -- the table ------------------------------------------------------------------------------------

#: A loaded machine makes every sender slow.
_OF_THE_MACHINE = frozenset(("slow-sender",))
#: Of many studies over one association: whether it ends before or after the first of them is quiet.
_OF_MANY = frozenset(("released", "still-sending"))
HEADING = ("Scenario", "Instances", "Associations", "Evaluated", "Ran", "The PACS shows", "Why")
PAGE = f"""\
# What the node does, scenario by scenario

Made by `PYTHONPATH=.:tests python tests/scenarios.py docs/scenarios.md`: a real node, senders and a PACS over real
associations, all scenarios side by side. Every cell but the first of a line is what was seen. A test plays them
again and compares.

Time is compressed by settings: a study is quiet after {QUIET_S:g} s (by default 60 s), or {RELEASED_S:g} s (5 s) where
it is plainly whole; a rule waits {WAIT_S} s for what is missing (an hour). "An hour" later and "the next" day are after
all that followed from what came before. The pipelines are a threshold in CT, and uptake in PET with CT in one frame of
reference, which stands for SPECT/CT. The PACS takes rejection notes (IHE IOCM); *shows* leaves out what they reject.

*Instances* counts answers 0x0000: *added* are held, *duplicate* are the same bytes again, *beside* are other bytes
under a UID that is held, *ours* are results of the node that came back. *Why* has the codes of the last verdict, then
what was decided of series and inputs (`osteonode studies explain`), then what the last result says of itself.
"""


def write_page(played: Played) -> str:
    """The page, as Markdown."""
    lines = [HEADING, ("---",) * len(HEADING)]
    for one in SCENARIOS:
        hidden = _OF_THE_MACHINE | (_OF_MANY if one.studies == MANY else frozenset())
        seen = Counter(_row(account, hidden) for account in played.accounts(one.play))
        for row, count in sorted(seen.items()):
            title = one.title if count == 1 else f"{one.title} ({count} studies, each)"
            lines.append((title, *row))
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{PAGE}\n{table}\n"


def _row(account: Account, hidden: frozenset[str]) -> tuple[str, ...]:
    decided = Counter(
        f"{one.role + ' ' if one.role else ''}{one.code}"
        for one in account.decisions
        if one.rule in _rules_of(account)
    )
    codes = [
        ", ".join(sorted(account.reasons - hidden)),
        _listed(decided),
        ", ".join(sorted(account.notices)),
    ]
    return (
        _came(account),
        _listed(account.associations),
        str(account.evaluations),
        "; then ".join(map(_run, account.workitems)) or "nothing",
        _shown(account),
        "; ".join(filter(None, codes)),
    )


def _rules_of(account: Account) -> set[str]:
    """Rules of which some series fits an input: those of other senders are left out."""
    return {one.rule for one in account.decisions if one.code not in ("unfit", "not-installed")}


def _came(account: Account) -> str:
    came = {"beside" if name == "conflict" else name: n for name, n in account.came.items()}
    if account.own:
        came["ours"] = len(account.own)
        came["added"] -= len(account.own)
    return _listed(came)


def _run(workitem: Workitem) -> str:
    inputs = ", ".join(f"{one.role} of {len(one.sop_instance_uids)}" for one in workitem.inputs)
    gone = f" {workitem.reason_code}" if workitem.reason_code else ""
    return f"{inputs}: {workitem.state}{gone}"


def _shown(account: Account) -> str:
    if not account.received:
        return "nothing"
    rejected = account.rejected
    return _listed(account.shown) + (f"; {len(rejected)} rejected" if rejected else "")


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))


def main(arguments: Iterable[str]) -> None:
    """Play, and write the page."""
    (path,) = arguments
    with tempfile.TemporaryDirectory() as folder, hospital(Path(folder)) as stage:
        page = write_page(play(stage))
    Path(path).write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
