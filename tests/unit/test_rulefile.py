"""Rules as TOML, there and back."""

from __future__ import annotations

from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.errors import RuleError
from node.rulefile import LONGEST_WAIT_S, dump_rules, format_wait, parse_rules, parse_wait
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
FIELDS = dict(
    name=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,20}", fullmatch=True),
    pipeline=TEXT,
    where=st.lists(TEXT, min_size=1, max_size=3).map(tuple),
    destinations=st.lists(TEXT, min_size=1, max_size=3).map(tuple),
    priority=st.integers(0, 100),
    enabled=st.booleans(),
    parameters=st.dictionaries(TEXT, SCALAR, max_size=3),
    roles=st.dictionaries(TEXT, st.lists(TEXT, max_size=3).map(tuple), max_size=3),
    wait_s=st.one_of(st.integers(0, LONGEST_WAIT_S), st.sampled_from([0, 1800, 86400])),
    without=st.lists(TEXT, max_size=3).map(tuple),
    incomplete=st.sampled_from(["hold", "run"]),
    report_refusals=st.booleans(),
    prefer=st.lists(TEXT, max_size=3).map(tuple),
    each=st.booleans(),
    prior=st.sampled_from(["", "compare"]),
    prior_days=st.integers(1, 36500),
    prior_from=st.one_of(st.just(""), TEXT),
    window=st.one_of(st.just(""), st.just("mon-fri 20:00-06:00, stat"), TEXT),
)
RULES = st.lists(
    st.builds(Rule, **FIELDS), min_size=1, max_size=4, unique_by=lambda rule: rule.name
)


def test_every_field_of_a_rule_goes_there_and_back() -> None:
    """Whoever adds a field adds it above."""
    assert {one.name for one in fields(Rule)} - {"version"} == set(FIELDS)


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
        ("[[rule]]\nname = 'a'\npipeline = 'p'\nwhere = []\nto = ['X']", "where: there is no clause"),
        ("[[rule]]\nname = 'a'\npipeline = 'p'\nwhere = ['x']\nto = ['X']\nwait = '30 min'", "rule a: wait"),
        ("[[rule]]\nname = 'a'\npipeline = 'p'\nwhere = ['Modality = CT']", "rule a: to"),
        ("[[rule]]\nname = '../a'\npipeline = 'p'\nwhere = ['x']\nto = ['X']", "rule ../a: name"),
        ("[[rule]]\nname = 'a'\npipeline = 'p'\nwhere = ['x']\nto = ['X']\nprio = 3", "prio"),
        ("[[rule]]\nname = 'a'\npipeline = 'p'\nwhere = ['x']\nto = ['X']\nincomplete = 'no'", "incomplete"),
        ("[[rule]]\nname = 'a'\npipeline = 'p'\nwhere = ['x']\nto = ['X']\npriority = '3'", "priority"),
        ("[[rule]]\nname = 'a'\npipeline = 'p'\nwhere = ['x']\nto = ['X']\n" * 2, "two rules 'a'"),
    ],
)  # fmt: skip
def test_a_broken_file_is_refused_by_name(text: str, said: str) -> None:
    with pytest.raises(RuleError, match=r"rules\.toml") as refused:
        parse_rules(text, source="rules.toml")
    assert said in str(refused.value)


def test_a_rule_that_compares_says_so_and_no_other() -> None:
    rule = Rule(
        name="a",
        pipeline="p",
        where=("Modality = CT",),
        destinations=("PACS",),
        prior="compare",
        prior_days=365,
    )
    text = dump_rules([rule])
    assert text.endswith("prior = 'compare'\nprior_days = 365\n")
    assert parse_rules(text, source="x") == (rule,)
    (plain,) = parse_rules(text.replace("prior = 'compare'\nprior_days = 365\n", ""), source="x")
    assert (plain.prior, plain.prior_days) == ("", 1095)
    assert "\nprior =" not in dump_rules([plain])
    with pytest.raises(RuleError, match="rule a: prior"):
        parse_rules(text.replace("compare", "show"), source="x")


def test_a_rule_of_two_inputs_reads_as_it_is_meant() -> None:
    rule = Rule(
        name="bone-spect",
        pipeline="spect_ct_bone_lesion",
        where=(),
        destinations=("PACS",),
        roles={"spect": ("ImageType = RECON TOMO",), "ct": (r"ConvolutionKernel ~ ^B",)},
        wait_s=5400,
        without=("ct",),
    )
    text = dump_rules([rule])
    assert text.endswith(
        """\
wait = '90m'
without = ['ct']
[rule.roles]
'spect' = [
    'ImageType = RECON TOMO',
]
'ct' = [
    'ConvolutionKernel ~ ^B',
]
"""
    )
    assert parse_rules(text, source="x") == (rule,)


def test_wishes_stand_in_their_order() -> None:
    wishes = ("ConvolutionKernel ~ (?i)^b", "most slices")
    rule = Rule(name="a", pipeline="p", where=("x",), destinations=("X",), prefer=wishes, each=True)
    text = dump_rules([rule])
    assert text.endswith(
        "prefer = [\n    'ConvolutionKernel ~ (?i)^b',\n    'most slices',\n]\neach = true\n"
    )
    assert parse_rules(text, source="x") == (rule,)


@pytest.mark.parametrize(
    ("text", "seconds"), [("0", 0), ("90s", 90), ("30m", 1800), (" 2h ", 7200), ("7d", 604800)]
)
def test_a_wait_is_a_number_and_a_unit(text: str, seconds: int) -> None:
    assert parse_wait(text) == seconds
    assert parse_wait(format_wait(seconds)) == seconds


@pytest.mark.parametrize("text", ["", "30", "-1m", "1.5h", "30 m", "32d", "30min"])
def test_what_is_no_wait_is_refused(text: str) -> None:
    with pytest.raises(RuleError, match="write 90s, 30m"):
        parse_wait(text)
