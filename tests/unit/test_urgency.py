"""Priority from rule, header and sender, with the reasons."""

from __future__ import annotations

from io import BytesIO

import pytest
from dicomgen import make_instance
from pydicom.uid import ExplicitVRLittleEndian
from rows import NOON

from node.header import read_header
from node.urgency import POINTS, assess
from storage.model import Header, Rule, Series

RULE = Rule(name="bones", pipeline="ct_skeleton", where=("Modality = CT",), destinations=("PACS",))


def series(header: Header, calling_ae: str = "CT1") -> Series:
    return Series(
        series_instance_uid="1.2",
        study_instance_uid="1",
        modality="CT",
        instance_count=1,
        first_received_at=NOON,
        last_received_at=NOON,
        header=header,
        facts={"calling_ae": calling_ae},
    )


def test_a_rule_alone() -> None:
    found = assess(RULE, [series({})], {"ER_CT": 20})
    assert (found.priority, found.is_stat) == (50, False)
    assert found.reasons == ("Rule bones has 50.",)


@pytest.mark.parametrize("term", POINTS)
def test_terms_of_the_header(term: str) -> None:
    found = assess(RULE, [series({"RequestedProcedurePriority": (term.lower(),)})], {})
    assert found.priority == 50 + POINTS[term]
    assert found.is_stat is (term == "STAT")
    assert (
        found.reasons[1]
        == f"Requested Procedure Priority (0040,1003) is {term}: {POINTS[term]:+d}."
    )


def test_the_retired_attribute_counts_where_the_other_says_nothing() -> None:
    header: Header = {"RequestedProcedurePriority": ("DOE^JANE",), "StudyPriorityID": ("HIGH",)}
    found = assess(RULE, [series(header)], {})
    assert found.priority == 75
    # A text from the network that is no term is not repeated.
    assert "DOE" not in " ".join(found.reasons)


def test_a_senders_points_and_the_most_urgent_of_several_inputs() -> None:
    inputs = [
        series({"RequestedProcedurePriority": ("LOW",)}, "NM1"),
        series({"RequestedProcedurePriority": ("STAT",)}, "ER_CT"),
    ]
    found = assess(RULE, inputs, {"ER_CT": 20, "NM1": -10})
    assert found.priority == 50 + 100 + 20
    assert found.reasons[2] == "Sender ER_CT ([routing] priorities): +20."


def test_an_empty_value_is_no_term() -> None:
    assert assess(RULE, [series({"StudyPriorityID": (None,)})], {}).priority == 50


@pytest.mark.parametrize(
    ("keyword", "value"), [("RequestedProcedurePriority", "STAT"), ("StudyPriorityID", "HIGH")]
)
def test_the_header_that_is_kept_says_it(keyword: str, value: str) -> None:
    ds = make_instance()
    setattr(ds, keyword, value)
    stream = BytesIO()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.save_as(stream, enforce_file_format=True)
    encoded = stream.getvalue()
    length = int.from_bytes(encoded[140:144], "little")
    parsed = read_header(ExplicitVRLittleEndian, encoded[144 + length :])
    assert parsed.header[keyword] == (value,)
