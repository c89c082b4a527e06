"""Derived UIDs: always the same, always valid, never shared."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import UID

from pipelines import uids

ROOTS = st.sampled_from(["2.25", "1.2.840.99999", "1.2.3", "1.3.6.1.4.1.99999.1234567890123"])
INPUTS = ["1.2.3.1", "1.2.3.2", "1.2.3.10"]


def _workitem_uid(**changed: object) -> str:
    arguments = {
        "pipeline": "ct_skeleton",
        "version": "1.0.0",
        "parameters": {"threshold": 0.5, "clean": True},
        "sop_instance_uids": INPUTS,
    } | changed
    return uids.derive_workitem_uid("2.25", **arguments)  # type: ignore[arg-type]


@given(root=ROOTS, parts=st.lists(st.text(max_size=80), max_size=5))
def test_every_derived_uid_is_valid(root: str, parts: list[str]) -> None:
    uid = uids.derive_uid(root, *parts)

    assert UID(uid).is_valid
    assert len(uid) <= 64
    assert uid.startswith(f"{root}.")
    # PS3.5 9.1: no leading zero in a component.
    assert re.fullmatch(r"(0|[1-9]\d*)(\.(0|[1-9]\d*))+", uid)


@given(first=st.lists(st.text()), second=st.lists(st.text()))
def test_other_parts_make_another_uid(first: list[str], second: list[str]) -> None:
    same = uids.derive_uid("2.25", *first) == uids.derive_uid("2.25", *second)

    assert same == (first == second)


def test_parts_are_not_joined() -> None:
    assert uids.derive_uid("2.25", "ab", "c") != uids.derive_uid("2.25", "a", "bc")


def test_uids_are_the_same_in_another_process() -> None:
    # What a node made last year it must make again: this value is never to change.
    expected = _workitem_uid()
    code = (
        "from pipelines.uids import derive_workitem_uid as d; print(d('2.25', pipeline='ct_skeleton', version='1.0.0', "
        "parameters={'clean': True, 'threshold': 0.5}, sop_instance_uids=['1.2.3.10', '1.2.3.2', '1.2.3.1']))"
    )
    root = Path(__file__).parent.parent.parent
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=root
    )

    assert done.stdout.strip() == expected == "2.25.279725883545000399467178737008911993896"


def test_the_order_of_inputs_does_not_count() -> None:
    assert _workitem_uid(sop_instance_uids=INPUTS[::-1]) == _workitem_uid()


@pytest.mark.parametrize(
    "changed",
    [
        {"pipeline": "mr_muscle"},
        {"version": "1.0.1"},
        {"parameters": {"threshold": 0.6, "clean": True}},
        {"parameters": {"threshold": 0.5}},
        {"sop_instance_uids": INPUTS[:2]},
        {"sop_instance_uids": [*INPUTS, "1.2.3.11"]},
    ],
    ids=str,
)
def test_another_run_is_another_workitem(changed: dict[str, object]) -> None:
    assert _workitem_uid(**changed) != _workitem_uid()


def test_each_kind_of_uid_is_its_own() -> None:
    makers: list[Callable[[], str]] = [
        lambda: uids.derive_series_uid("2.25", workitem_uid="1.2", kind="SEG"),
        lambda: uids.derive_series_uid("2.25", workitem_uid="1.2", kind="SR"),
        lambda: uids.derive_sop_instance_uid("2.25", workitem_uid="1.2", kind="SEG"),
        lambda: uids.derive_sop_instance_uid("2.25", workitem_uid="1.2", kind="SR"),
        lambda: uids.derive_sop_instance_uid("2.25", workitem_uid="1.3", kind="SR"),
        lambda: uids.derive_tracking_uid("2.25", workitem_uid="1.2", segment_number=1),
        lambda: uids.derive_tracking_uid("2.25", workitem_uid="1.2", segment_number=2),
        lambda: uids.derive_device_uid("2.25", pipeline="a", version="1.0.0", weights_sha256="x"),
        lambda: uids.derive_device_uid("2.25", pipeline="a", version="1.0.0", weights_sha256="y"),
    ]

    made = [make() for make in makers]
    assert len(set(made)) == len(made)
    assert [make() for make in makers] == made
