"""bandit's rules hold for all that ships, and what is let pass says why."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = ("node", "pipelines", "storage", "migrations")
_LETS_PASS = re.compile(r"#\s*noqa\b(?P<codes>:\s*[A-Z0-9, ]+)?(?P<rest>.*)")


def test_bandit_s_rules_are_on_for_all_that_ships() -> None:
    ruff = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["ruff"]
    assert not {"exclude", "extend-exclude"} & ruff.keys()
    assert "S" in ruff["lint"]["select"]
    assert not [rule for rule in ruff["lint"]["ignore"] if re.fullmatch(r"S\d*", rule)]
    for where, rules in ruff["lint"]["per-file-ignores"].items():
        if where.startswith(SHIPPED):
            assert not [rule for rule in rules if re.fullmatch(r"S\d*", rule)], where


def test_what_bandit_s_rules_let_pass_says_why() -> None:
    silent = []
    for path in (
        p for name in (*SHIPPED, "benchmarks", "tests") for p in (ROOT / name).rglob("*.py")
    ):
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
            found = _LETS_PASS.search(line)
            if path == Path(__file__) or found is None:
                continue
            codes = re.findall(r"\bS\d{3}\b", found["codes"] or "S000")
            if codes and not re.match(r"\s*- \w+", found["rest"]):
                silent.append(f"{path.relative_to(ROOT)}:{number}")
    assert silent == []
