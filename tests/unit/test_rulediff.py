"""What changed between two versions of a rule."""

from __future__ import annotations

from dataclasses import fields, replace

from node.rulediff import FieldChange, diff
from storage.model import Rule

RULE = Rule(
    name="r",
    pipeline="bones",
    where=("Modality = CT", "SliceThickness <= 3"),
    destinations=("PACS",),
    parameters={"threshold": 200.0},
    prefer=("most slices", "plane = axial"),
)


def test_only_what_changed_is_told() -> None:
    new = replace(
        RULE,
        version=7,
        where=("Modality = CT", "SliceThickness <= 2"),
        parameters={"threshold": 250.0},
        wait_s=3600,
        roles={"ct": ("KVP = 120",), "pet": ()},
        each=True,
    )
    assert {one.field: (one.removed, one.added) for one in diff(RULE, new)} == {
        "where": (("SliceThickness <= 3",), ("SliceThickness <= 2",)),
        "parameters": (("threshold = 200.0",), ("threshold = 250.0",)),
        "wait_s": (("30m",), ("1h",)),
        "roles": ((), ("ct: KVP = 120", "pet")),
        "each": (("no",), ("yes",)),
    }
    assert diff(RULE, replace(RULE, version=2)) == ()


def test_another_order_is_a_change() -> None:
    turned = replace(RULE, prefer=RULE.prefer[::-1])
    assert diff(RULE, turned) == (
        FieldChange(field="prefer", removed=RULE.prefer, added=RULE.prefer[::-1]),
    )


def test_a_rule_that_comes_or_goes_is_told_whole() -> None:
    came, went = diff(None, RULE), diff(RULE, None)
    assert [one.added for one in came] == [one.removed for one in went]
    assert not any(one.removed for one in came)
    told = {one.field for one in came}
    empty = {one.name for one in fields(RULE) if getattr(RULE, one.name) in ((), {})}
    assert told == {one.name for one in fields(RULE)} - {"name", "version"} - empty
