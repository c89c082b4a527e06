"""A campaign: so many inputs against a real node and a reader of files, and what must be true after them.

    python -m fuzz.campaign --inputs 100000 --seed 1        (`make fuzz`; tests and the project on PYTHONPATH)
    python -m fuzz.campaign --seed 1 --only 4711            one input again

Half of the inputs are conversations (`wire`), half are files (`files`), which are sent by C-STORE and read as a worker
reads them; where atheris is installed (`pip install -e '.[fuzz]'`) a tenth is made by it for the header reader
(`guided`). Each of the others is made of the seed and its number. Exit status 1 when anything is a fault.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from fuzz import pdus
from fuzz.files import MARKER, Sample, file_of, make_right, make_sample, seeds
from fuzz.reader import Reader
from fuzz.wire import Conversation, Outcome, converse, make_conversation, right_conversation
from nodes import Node, wait_for

from storage.archive import Archive, make_key, new_digest

#: Of the node's own process, whatever it is sent.
MOST_MEMORY_MB = 600
#: Files that go on one association.
_BATCH = 20
_PEERS = 4
#: Inputs that are made before any of them is put.
_AT_ONCE = 2000
_ABORTS = re.compile(r"\babort_sent\b")
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")
_TRACEBACK = re.compile(r"^Traceback .*\n(?:[ ].*\n|\n)*(.*)", re.M)
_REFUSALS = re.compile(r"\b(?:instance_refused|instance_not_kept|archive_full|store_failed)\b")

#: Its door would close on one address that comes so often.
UNLIMITED = {"OSTEONODE_RECEIVE__MAX_RATE": "0"}
#: Below its folder: what a node leaves among the temporary files is seen.
TEMPORARY = "tmp"


def make_node(folder: Path) -> Node:
    """A node to be fed, not started."""
    temporary = folder / TEMPORARY
    temporary.mkdir(parents=True)
    return Node(folder=folder, settings={**UNLIMITED, "TMPDIR": str(temporary)})


@dataclass(kw_only=True)
class Report:
    """Counts by outcome, and every fault."""

    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    #: C-STORE requests that were answered with a failure, to compare with the log.
    refused: int = 0
    #: Keys of instances that were answered 0x0000.
    kept: set[str] = field(default_factory=set)
    #: Of each kind of work: the longest an input took, in seconds, and its number.
    slowest: dict[str, tuple[float, int]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, number: int, kind: str, fault: str = "") -> None:
        """One outcome."""
        with self.lock:
            self.counts[kind] += 1
            if fault:
                self.faults.append(f"input {number}: {fault}")

    def time(self, number: int, kind: str, seconds: float) -> None:
        """How long it took."""
        with self.lock:
            self.slowest[kind] = max(self.slowest.get(kind, (0.0, 0)), (seconds, number))

    def take(self, statuses: Sequence[int]) -> None:
        """Answers to C-STORE requests."""
        with self.lock:
            for status in statuses:
                self.counts[f"status 0x{status:04X}"] += 1
                self.refused += status != 0

    def lines(self) -> list[str]:
        """To print."""
        counted = [f"{count:8} {kind}" for kind, count in sorted(self.counts.items())]
        counted += [
            f"{seconds:8.2f} s at most: {kind}, input {number}"
            for kind, (seconds, number) in sorted(self.slowest.items())
        ]
        kinds: dict[str, list[str]] = {}
        for fault in self.faults:
            kinds.setdefault(re.sub(r"[0-9]+|'.*'", "#", fault), []).append(fault)
        shown = [f"{len(alike):8} like: {alike[0]}" for alike in kinds.values()]
        return [*counted, f"{len(self.faults):8} faults", *shown[:40]]


def run(node: Node, numbers: Sequence[int], seed: int, originals: Sequence[Sample]) -> Report:
    """Put the inputs to a node that runs, and look after it.

    Parameters
    ----------
    numbers
        Even ones are conversations, odd ones are files.
    """
    report = Report()
    with Reader() as reader, ThreadPoolExecutor(_PEERS) as peers:
        for at in range(0, len(numbers), _AT_ONCE):
            some = numbers[at : at + _AT_ONCE]
            samples = [(n, make_sample(Random(f"{seed}-{n}"), originals)) for n in some if n % 2]
            batches = [samples[at : at + _BATCH] for at in range(0, len(samples), _BATCH)]
            waiting = [peers.submit(_talk, node, n, seed, report) for n in some if n % 2 == 0]
            waiting += [peers.submit(_send, node, batch, report) for batch in batches]
            _read(reader, samples, node.folder / "fuzz.dcm", report)
            for done in waiting:
                done.result()
            if node.process is None or node.process.poll() is not None:
                report.faults.append(f"the node died of one of the inputs {some}")
                break
    report.faults += look_after(node, report)
    return report


def _talk(node: Node, number: int, seed: int, report: Report) -> None:
    conversation = make_conversation(Random(f"{seed}-{number}"), make_right)
    started = time.monotonic()
    outcome = _converse(node, conversation)
    report.time(number, "wire", time.monotonic() - started)
    report.add(number, f"wire: {outcome.kind}", outcome.fault)
    # Of a conversation that was broken, a message may be answered that was never meant as a C-STORE.
    report.take(outcome.statuses)


def _converse(node: Node, conversation: Conversation) -> Outcome:
    try:
        return converse(node.port, conversation)
    except OSError as error:
        return Outcome(kind="no connection", fault=f"no connection: {error}")


def _send(node: Node, batch: list[tuple[int, Sample]], report: Report) -> None:
    """Files by C-STORE on one association: each must be answered, whatever is in it."""
    contexts = [(s.sop_class_uid, s.transfer_syntax_uid) for _, s in batch]
    said = [pdus.associate_rq(contexts)]
    for index, (_, sample) in enumerate(batch):
        command = pdus.command(pdus.store_rq(sample.sop_instance_uid, sample.sop_class_uid))
        said.append(pdus.data(pdus.value(2 * index + 1, 3, command)))
        said += [
            pdus.data(pdus.value(2 * index + 1, 2 * (at + 16000 >= len(sample.data)), part))
            for at in range(0, max(len(sample.data), 1), 16000)
            for part in (sample.data[at : at + 16000],)
        ]
    outcome = _converse(
        node,
        Conversation(
            pieces=(*said, pdus.RELEASE_RQ),
            broken=("data",),
            messages=len(batch),
            is_released=True,
        ),
    )
    fault = outcome.fault
    if not fault and len(outcome.statuses) != len(batch):
        fault = f"{len(outcome.statuses)} answers ({outcome.kind}) to {len(batch)} files, this the first"
    report.add(batch[0][0], f"files sent: {outcome.kind}", fault)
    report.take(outcome.statuses)
    for (_, sample), status in zip(batch, outcome.statuses, strict=False):
        if status == 0:
            digest = new_digest()
            digest.update(sample.data)
            report.kept.add(make_key(sample.sop_instance_uid, digest.hexdigest()))


def _read(reader: Reader, samples: list[tuple[int, Sample]], path: Path, report: Report) -> None:
    for number, sample in samples:
        path.write_bytes(file_of(sample))
        reading = reader.read(sample.transfer_syntax_uid, path)
        report.add(number, f"header: {reading.header or 'fault'}", reading.fault)
        report.add(number, f"series: {reading.series or 'fault'}")
        report.time(number, "header and series", reading.took_s)
        report.counts["most memory of the reader, MB"] = max(
            report.counts["most memory of the reader, MB"], reading.memory_mb
        )
    path.unlink(missing_ok=True)


def run_guided(runs: int, seed: int, report: Report) -> None:
    """A share of the inputs made by atheris, which looks for those that reach new lines of the header reader."""
    done = subprocess.run(
        [sys.executable, "-m", "fuzz.guided", f"-runs={runs}", f"-seed={seed}"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    report.counts["header by coverage"] += runs
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if "Error" in line or "==" in line]
        report.faults.append(f"the header reader, guided: {' | '.join(said)[:600]}")


# -- what must be true after it -------------------------------------------------------------------


def look_after(node: Node, report: Report) -> list[str]:
    """Everything that is not as it must be, of the node as a whole."""
    assert node.process is not None
    faults = []
    if node.process.poll() is not None:
        return [f"the node died with {node.process.returncode}"]
    if fault := _converse(node, right_conversation(Random(), make_right, 8)).fault:
        faults.append(f"afterwards {fault}")
    memory = _most_memory_mb(node.process.pid)
    report.counts["most memory of the node, MB"] = memory
    if memory > MOST_MEMORY_MB:
        faults.append(f"the node took {memory} MB")
    return [*faults, *_associations_left(node), *_files(node, report), *_log(node, report)]


def _most_memory_mb(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) // 1024


def _associations_left(node: Node) -> Iterator[str]:
    """Threads and connections of associations that are over must be gone."""
    assert node.process is not None
    pid = node.process.pid

    def connections() -> int:
        return sum(
            os.readlink(entry).startswith("socket:")
            for entry in Path(f"/proc/{pid}/fd").iterdir()
            if entry.is_symlink()
        )

    try:
        wait_for("the connections to close", lambda: connections() < 60, 20)
    except (AssertionError, OSError) as error:
        yield f"{connections()} sockets are open: {error}"


def _files(node: Node, report: Report) -> Iterator[str]:
    """Only what the node says it makes lies in its folder and around it, and everything it answered 0x0000 to."""
    data = node.folder / "data"
    known = {data, node.config, node.folder / "node.log", node.folder / TEMPORARY}
    for path in (*node.folder.iterdir(), *(node.folder / TEMPORARY).iterdir()):
        if path not in known:
            yield f"a file outside the archive: {path.name}"
    archive = Archive(str(data / "archive"))
    for path in data.rglob("*"):
        name = path.relative_to(data).as_posix()
        if MARKER in name.encode(errors="surrogateescape"):
            yield f"a file is called {name}"
        if path.is_file() and not re.fullmatch(
            r"archive/([0-9a-f])/([0-9a-f])/\1\2[0-9a-f]{62}\.dcm|index\.sqlite(-\w+)?|worker/.*|[\w.]+\.(lock|pid)",
            name,
        ):
            yield f"a file that nobody expects: {name}"
    missing = [key for key in report.kept if not archive.exists(key)]
    report.counts["instances kept"] = len(report.kept)
    if missing:
        yield f"{len(missing)} instances were answered 0x0000 and are not in the archive"


def _log(node: Node, report: Report) -> Iterator[str]:
    """Every refusal has a line; none has the patient's name, or characters that command a terminal."""
    log = node.log
    report.counts["log bytes"] = len(log)
    for line in log.split("\n"):
        if MARKER.decode() in line:
            yield f"the log names the patient: {line[:300]!r}"
        elif _CONTROL.search(line):
            yield f"the log has control characters: {line[:300]!r}"
    tracebacks = Counter(_TRACEBACK.findall(log))
    for last, count in tracebacks.items():
        yield f"{count} tracebacks in the log that end in {last[:300]}"
    logged = len(_REFUSALS.findall(log))
    if logged < report.refused:
        yield f"{report.refused} refusals, but {logged} lines of them in the log"
    aborted = sum(n for kind, n in report.counts.items() if kind.endswith(": aborted"))
    if len(_ABORTS.findall(log)) < aborted:
        yield f"{aborted} aborts, but {len(_ABORTS.findall(log))} lines of them in the log"
    with node.index() as index, index.read() as connection:
        for (line,) in connection.exec_driver_sql("SELECT detail FROM events"):
            if MARKER.decode() in str(line):
                yield f"an event names the patient: {str(line)[:300]}"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description="Feed a node what no node should be fed.")
    parser.add_argument("--inputs", type=int, default=2000, help="how many")
    parser.add_argument("--seed", type=int, default=1, help="of all of them")
    parser.add_argument("--only", type=int, help="the number of one input to put again")
    parser.add_argument("--data", type=Path, help="folder of real files to break as well")
    parser.add_argument("--most-bytes", type=int, default=300_000, help="of a real file")
    options = parser.parse_args(arguments)
    guided = options.inputs // 10 if find_spec("atheris") and options.only is None else 0
    numbers = range(options.inputs - guided) if options.only is None else [options.only]
    started = time.monotonic()
    total = Report()
    with TemporaryDirectory(prefix="osteonode-fuzz-") as folder:
        node = make_node(Path(folder))
        node.start()
        try:
            originals = seeds(options.data, options.most_bytes)
            total = run(node, numbers, options.seed, originals)
            if guided:
                run_guided(guided, options.seed, total)
        finally:
            node.kill_if_running()
    seconds = time.monotonic() - started
    print(
        f"{len(numbers) + guided} inputs of seed {options.seed} in {seconds:.0f} s",
        *total.lines(),
        sep="\n",
    )
    return 1 if total.faults else 0


if __name__ == "__main__":
    sys.exit(main())
