"""What workers print: all of a little, no more than a little of a flood, and nobody waits."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from nodes import wait_for
from structlog.testing import capture_logs

from node.output import BUDGET, WINDOW_S, Budget, Output

#: As a worker does it, in a process of its own.
PRINT = """
import sys
from node.output import redirect
redirect(sys.argv[1])
print("one\\n\\ntwo")
print("three", file=sys.stderr)
for _ in range(int(sys.argv[2])):
    print("x" * 999)
sys.stdout.write("y" * 200_000)
"""


def run(output: Output, thousands: int) -> None:
    command = [sys.executable, "-c", PRINT, output.path, str(thousands)]
    done = subprocess.run(command, capture_output=True, timeout=30, check=True)
    assert (done.stdout, done.stderr) == (b"", b"")


def test_what_is_printed_is_said_in_the_log_until_it_is_too_much(tmp_path: Path) -> None:
    clock = [0.0]
    with capture_logs() as lines, Output(tmp_path, elapsed=lambda: clock[0]) as output:
        run(output, 50_000)
        # A worker that comes again finds the pipe; not before the window is over is anything more passed on.
        run(output, 0)
        clock[0] = WINDOW_S
        wait_for("the count of what was dropped", lambda: _dropped(lines), 10)
        run(output, 0)
        wait_for("more lines", lambda: [line.get("line") for line in lines].count("two") >= 2, 10)
    said = [line["line"] for line in lines if line["event"] == "worker_output"]
    assert {"one", "two", "three"} <= set(said)
    assert len("".join(said)) <= 2 * BUDGET
    assert 50_000_000 < _dropped(lines) + BUDGET < 51_000_000
    assert not Path(output.path).exists()


def _dropped(lines: list[dict[str, int]]) -> int:  # type: ignore[type-arg]
    return sum(line["bytes"] for line in lines if line["event"] == "worker_output_dropped")


def test_a_budget_is_of_a_window() -> None:
    clock = [0.0]
    budget = Budget(lambda: clock[0])
    assert budget.take(BUDGET)
    assert not budget.take(1)
    assert budget.renew() == 0
    clock[0] = WINDOW_S
    assert budget.renew() == 1
    assert budget.take(1)


def test_a_pipe_that_nobody_reads_is_left_alone(tmp_path: Path) -> None:
    pipe = tmp_path / "worker-output"
    os.mkfifo(pipe)
    command = [sys.executable, "-c", PRINT, str(pipe), "0"]
    done = subprocess.run(command, capture_output=True, timeout=30, check=True)
    assert done.stdout.startswith(b"one\n")


def test_a_pipe_that_a_killed_node_left_is_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "worker-output")
    with capture_logs() as lines, Output(tmp_path) as output:
        run(output, 0)
        wait_for("a line", lambda: lines, 10)
