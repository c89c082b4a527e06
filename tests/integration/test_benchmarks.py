"""Benchmarks that need no other program run; how fast, a busy machine does not say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from postgresql import BOTH

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.mark.parametrize("empty_database_url", BOTH[1:], indirect=True)
def test_the_index_is_filled_and_asked(empty_database_url: str, tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "index.py")]
    command += ["--scale", "0.002", "--rounds", "2", "--idle", "0", "--json", str(out)]
    command += ["--folder", str(tmp_path), "--database", empty_database_url]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, cwd=ROOT
    )
    # Whatever the exit code: 1 says that a question took longer than it may.
    assert not done.stderr
    figures = json.loads(out.read_text())
    assert {one["database"] for one in figures} == {"sqlite", "postgresql"}
    assert len({one["question"] for one in figures}) * 2 == len(figures) == 30
    assert all(0 < one["p50_ms"] <= one["p95_ms"] for one in figures)


def test_sparse_and_full_labels_are_compared() -> None:
    weights = str(ROOT / "pipelines" / "ct_trunk_muscle" / "weights.safetensors")
    command = [sys.executable, str(ROOT / "benchmarks" / "sparse_labels.py"), "--phantoms", "1"]
    done = subprocess.run(
        [*command, "--sparse", weights, "--full", weights],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
        cwd=ROOT,
    )
    rows = [line.strip("| ").split(" | ") for line in done.stdout.splitlines()]
    (sparse, full) = next(row[2:] for row in rows if row[0] == "all structures")
    # The same weights on both sides.
    assert 0 < float(sparse) == float(full) <= 1
