"""Rules as TOML, there and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.errors import RuleError
from node.rulefile import dump_rules, parse_rules
from storage.model import Rule

TEXT = st.text(
    st.characters(blacklist_categories=("Cs",), blacklist_characters="\x00"),
    min_size=1,
    max_size=30,
)
SCALAR = st.one_of(
    TEXT,
    st.integers(-(2**40), 2**40),
    st.booleans(),
    st.floats(allow_nan=False, allow_infinity=False),
)
RULES = st.lists(
    st.builds(
        Rule,
        name=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,20}", fullmatch=True),
        pipeline=TEXT,
        where=st.lists(TEXT, min_size=1, max_size=3).map(tuple),
        destinations=st.lists(TEXT, min_size=1, max_size=3).map(tuple),
        priority=st.integers(0, 100),
        enabled=st.booleans(),
        parameters=st.dictionaries(TEXT, SCALAR, max_size=3),
        version=st.just(1),
    ),
    max_size=4,
    unique_by=lambda rule: rule.name,
).filter(bool)


@given(RULES)
def test_what_is_written_is_read(rules: list[Rule]) -> None:
    assert parse_rules(dump_rules(rules), source="x") == tuple(sorted(rules, key=lambda r: r.name))


def test_regular_expressions_stay_readable() -> None:
    rule = Rule(
        name="a",
        pipeline="p",
        where=(r"SeriesDescription ~ (?i)\bbone", "StudyDescription = it's"),
        destinations=("PACS",),
    )
    text = dump_rules([rule])
    assert r"    'SeriesDescription ~ (?i)\bbone'," in text
    assert """    "StudyDescription = it's",""" in text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[rule]", "rules.toml"),
        ("[rule]\nname = 'a'", "not a list"),
        ("colour = 'red'", "not a list"),
        ("[[rule]]\nname = 'a'\npipeline = 'p'\nwhere = []\nto = ['X']", "rule a: where"),
        ("[[rule]]\nname = 'a'\npipeline = 'p'\nwhere = ['Modality = CT']", "rule a: to"),
        ("[[rule]]\nname = '../a'\npipeline = 'p'\nwhere = ['x']\nto = ['X']", "rule ../a: name"),
        ("[[rule]]\nname = 'a'\npipeline = 'p'\nwhere = ['x']\nto = ['X']\nprio = 3", "prio"),
        ("[[rule]]\nname = 'a'\npipeline = 'p'\nwhere = ['x']\nto = ['X']\npriority = '3'", "priority"),
        ("[[rule]]\nname = 'a'\npipeline = 'p'\nwhere = ['x']\nto = ['X']\n" * 2, "two rules 'a'"),
    ],
)  # fmt: skip
def test_a_broken_file_is_refused_by_name(text: str, said: str) -> None:
    with pytest.raises(RuleError, match=r"rules\.toml") as refused:
        parse_rules(text, source="rules.toml")
    assert said in str(refused.value)
