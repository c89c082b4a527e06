"""docs/writing-a-pipeline.md, followed to the letter: each block is written, run, or compared with what was printed."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydicom import dcmread

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "writing-a-pipeline.md"
_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INSTRUCTION = re.compile(
    r"^(Write|Add to|In) `([\w./-]+)`(?:, replace `(\w+)`)?:\n\n\Z", re.MULTILINE
)

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Block:
    """One fenced block, and the line above it that says what to do with it."""

    language: str
    text: str
    verb: str
    path: str
    name: str | None


def blocks() -> Iterator[Block]:
    page = PAGE.read_text(encoding="utf-8")
    end = 0
    for fence in _FENCE.finditer(page):
        said = _INSTRUCTION.search(page[end : fence.start()])
        end = fence.end()
        verb, path, name = said.groups() if said else ("", "", None)
        yield Block(fence[1], fence[2], verb, path, name)


def follow(block: Block, folder: Path, printed: str) -> str:
    """Do what a block says; what was printed last."""
    file = folder / block.path
    match block.verb, block.language:
        case "Write", "toml" | "python":
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block.text, encoding="utf-8")
        case "Add to", "toml" | "python":
            file.write_text(f"{file.read_text(encoding='utf-8')}\n\n{block.text}", encoding="utf-8")
        case "In", "python":
            assert block.name is not None
            file.write_text(replace_function(file, block.name, block.text), encoding="utf-8")
        case "", "sh":
            return run(block.text, folder)
        case "", "text":
            for line in block.text.splitlines():
                assert is_said(line, printed), f"{line!r} is not in\n{printed}"
        case _:
            raise AssertionError(f"nobody knows what to do with: {block}")
    return printed


def replace_function(file: Path, name: str, text: str) -> str:
    source = file.read_text(encoding="utf-8")
    (old,) = (
        node
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef) and node.name == name
    )
    lines = source.splitlines(keepends=True)
    return "".join([*lines[: old.lineno - 1], text, *lines[old.end_lineno :]])


def run(commands: str, folder: Path) -> str:
    done = subprocess.run(
        ["bash", "-euc", f'osteonode() {{ "{sys.executable}" -m node.cli "$@"; }}\n{commands}'],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, f"{commands}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def is_said(line: str, printed: str) -> bool:
    """Whether one line that was printed has all words of this one, in their order; numbers and UIDs may lie between."""
    pattern = re.compile(r"(^|\s)" + r"(\s|\s.*\s)".join(map(re.escape, line.split())))
    return any(pattern.search(each) for each in printed.splitlines())


@pytest.mark.timeout(900)
def test_the_page_is_followed_to_the_letter(tmp_path: Path) -> None:
    printed = ""
    for block in blocks():
        printed = follow(block, tmp_path, printed)
    # What the page promises at its end: a SEG and a report of both inputs.
    both = tmp_path / "both"
    modalities = [
        dcmread(path, stop_before_pixels=True).Modality for path in both.glob("demo-study/*")
    ]
    assert set(modalities) == {"CT", "PT"}
    assert dcmread(both / "seg.dcm").SegmentSequence[0].SegmentLabel == "Bone"
    table = (both / "measurements.csv").read_text(encoding="utf-8")
    (suv,) = re.findall(r",126401,DCM,SUVbw \(Mean\),([\d.]+),g/ml{SUVbw},", table)
    # Six in bone by construction, less at its borders.
    assert 3 < float(suv) < 6


def test_every_block_says_what_to_do_with_it() -> None:
    found = list(blocks())
    assert {block.language for block in found} == {"toml", "python", "sh", "text"}
    for block in found:
        assert bool(block.verb) == (block.language in ("toml", "python")), block.text


def test_code_of_the_page_is_laid_out_as_ours() -> None:
    for block in blocks():
        if block.language == "python":
            done = subprocess.run(
                [sys.executable, "-m", "ruff", "format", "--check", "--line-length", "100", "-"],
                input=block.text,
                capture_output=True,
                text=True,
                check=False,
                cwd=ROOT,
            )
            assert done.returncode == 0, block.text
