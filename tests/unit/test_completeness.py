"""Is the study whole? Tables of evidence and verdicts, and what holds of every verdict."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.completeness import Seen, Wanted, assess, first_look, is_apart, lacking
from node.config import RoutingSection
from storage.model import Asked, Confidence, HeaderValue, Series, Study, Verdict

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
SETTINGS = RoutingSection(quiet_s=60, released_quiet_s=5, count_quiet_s=2)
CT = "1.2.3.1"
WANTED = Wanted(series=frozenset((CT,)))


def later(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def series(uid: str = CT, *, instances: int = 100, modality: str = "CT", **facts: int) -> Series:
    """A stack of slices without gap, complete at noon."""
    known: dict[str, HeaderValue] = {
        "calling_ae": "CT1",
        "instances": instances,
        "frames": instances,
        "slices": instances,
        "orientations": 1,
        "frames_of_reference": 1,
        "missing_slices": 0,
        "duplicate_positions": 0,
        **facts,
    }
    return Series(
        series_instance_uid=uid,
        study_instance_uid="1.2.3",
        modality=modality,
        instance_count=instances,
        first_received_at=NOON,
        last_received_at=NOON,
        header={"Modality": (modality,)},
        facts=known,
    )


def study(**changes: object) -> Study:
    """Its last instance came at noon; nothing else is known."""
    values: dict[str, object] = {
        "study_instance_uid": "1.2.3",
        "patient_id": "",
        "accession_number": "",
        "study_date": "",
        "study_description": "",
        "revision": 100,
        "evaluated_revision": 0,
        "series_count": 1,
        "instance_count": 100,
        "first_received_at": later(-60),
        "last_received_at": NOON,
    }
    return Study(**{**values, **changes})  # type: ignore[arg-type]


RELEASED = study(released_at=later(1), associations=1)


def asked(count: int, *, at: float = 3, **others: int) -> Asked:
    """What the PACS answered, so many seconds after noon."""
    return Asked(of="PACS", at=later(at), by_series={CT: count, **others})


def judged(of: Study, *held: Series, at: float, wanted: Wanted = WANTED, **seen: object) -> Verdict:
    everything = Seen(study=of, series=held or (series(),), wanted=wanted, **seen)  # type: ignore[arg-type]
    return assess(everything, now=later(at), settings=SETTINGS)


def codes(verdict: Verdict) -> set[str]:
    return {reason.code for reason in verdict.reasons}


#: What is known, seconds of quiet until it is ready, whether it is whole then, how sure that is, a reason.
TABLE = {
    "nothing is known but time": (study(), {}, 60, True, "presumed", "quiet"),
    "released, no gap, every input": (RELEASED, {}, 5, True, "likely", "released"),
    "released before the last instance": (
        replace(RELEASED, released_at=later(-1)), {}, 60, True, "presumed", "quiet"),
    "aborted": (study(aborted_at=later(1), associations=1), {}, 60, True, "presumed", "aborted"),
    "aborted, then released by another": (
        replace(RELEASED, aborted_at=later(-9)), {}, 60, True, "presumed", "aborted"),
    "aborted long before": (replace(RELEASED, aborted_at=later(-90)), {}, 5, True, "likely", "released"),
    "still sending": (RELEASED, {"is_sending": True}, 60, True, "presumed", "still-sending"),
    "an association for each slice": (
        replace(RELEASED, associations=100), {}, 60, True, "presumed", "releases-say-nothing"),
    "one slice every 3 s": (RELEASED, {"pace_s": 3.0}, 9, True, "likely", "slow-sender"),
    "one slice every 50 s": (RELEASED, {"pace_s": 50.0}, 150, True, "likely", "slow-sender"),
    "released with a gap": (
        RELEASED, {"series": [series(missing_slices=2)]}, 60, False, "certain", "slices-missing"),
    "a gap in a series that nobody wants": (
        RELEASED, {"series": [series(), series("1.9", missing_slices=2)]}, 5, True, "likely", "geometry-whole"),
    "two orientations": (
        RELEASED, {"series": [series(orientations=2)]}, 60, True, "presumed", "geometry-unknown"),
    "several at one position": (
        RELEASED, {"series": [series(duplicate_positions=50)]}, 60, True, "presumed", "geometry-unknown"),
    "one multi-frame object": (
        RELEASED, {"series": [replace(series(instances=1), facts={"instances": 1, "frames": 90})]},
        5, True, "likely", "geometry-whole"),
    "an input is missing": (
        RELEASED, {"wanted": replace(WANTED, missing=("ct",))}, 60, True, "likely", "inputs-missing"),
    "no rule wants it": (RELEASED, {"wanted": Wanted()}, 60, True, "presumed", "not-wanted"),
    "the PACS has as many": (study(asked=asked(100)), {}, 2, True, "certain", "counts-agree"),
    "the PACS has as many, slowly sent": (
        study(asked=asked(100)), {"pace_s": 3.0}, 9, True, "certain", "counts-agree"),
    "the PACS had as many before the last came": (
        study(asked=asked(100, at=-1)), {}, 60, True, "presumed", "quiet"),
    "the PACS has more of a wanted series": (
        replace(RELEASED, asked=asked(102)), {}, 60, False, "certain", "instances-missing"),
    "the PACS has another series": (
        replace(RELEASED, asked=asked(100, **{"1.9": 5})), {}, 60, False, "presumed", "counts-short"),
    "the PACS has less": (replace(RELEASED, asked=asked(90)), {}, 60, True, "presumed", "counts-differ"),
    "the PACS counts the study alone": (
        study(asked=Asked(of="PACS", at=later(3), instances=100)), {}, 2, True, "certain", "counts-agree"),
    "the PACS does not answer": (
        replace(RELEASED, asked=Asked(of="PACS", failure="dead.", again_at=later(9))), {},
        5, True, "likely", "no-answer"),
    "the PACS did not answer before": (
        replace(RELEASED, asked=Asked(of="PACS", failure="dead.", again_at=later(-9))), {},
        60, True, "presumed", "not-asked-yet"),
    "the PACS was not asked yet": (RELEASED, {}, 60, True, "presumed", "not-asked-yet"),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLE)
def test_verdicts(name: str) -> None:
    of, more, ready_at, whole, confidence, reason = TABLE[name]
    known = {"series": [series()], "wanted": WANTED, **more}
    seen = Seen(study=of, **known)  # type: ignore[arg-type]
    is_asked = "PACS" in name
    routing = SETTINGS.model_copy(update={"ask": {"CT1": "PACS"}}) if is_asked else SETTINGS
    before = assess(seen, now=later(ready_at - 0.1), settings=routing)
    assert (before.ready, before.whole, before.look_again_at) == (False, False, later(ready_at))
    assert "arriving" in codes(before)
    verdict = assess(seen, now=later(ready_at), settings=routing)
    assert (verdict.ready, verdict.look_again_at) == (True, None)
    assert (verdict.whole, verdict.confidence) == (whole, confidence)
    assert reason in codes(verdict)
    assert all(one.sentence.endswith(".") for one in verdict.reasons)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ({"NumberOfStudyRelatedInstances": (100,)}, 2),
        ({"NumberOfStudyRelatedInstances": (120,)}, 60),
        # Less than came: no count to believe in.
        ({"NumberOfStudyRelatedInstances": (90,)}, 60),
        ({"NumberOfSeriesRelatedInstances": (100,)}, 2),
        ({"ImagesInAcquisition": (100,)}, 2),
        ({"ImagesInAcquisition": (1,)}, 60),
        ({"ImagesInAcquisition": ("many",)}, 60),
    ],
)
def test_counts_in_the_header(header: dict[str, tuple[HeaderValue, ...]], seconds: float) -> None:
    verdict = judged(study(), replace(series(), header=header), at=1)
    assert verdict.look_again_at == later(seconds)


def test_counts_in_the_header_do_not_fill_a_gap() -> None:
    counted = replace(series(missing_slices=1), header={"ImagesInAcquisition": (100,)})
    assert judged(study(), counted, at=1).look_again_at == later(60)


def test_reports_of_the_archive_are_no_images_that_miss() -> None:
    sr = series("1.9", modality="SR", instances=1)
    assert "counts-agree" in codes(judged(study(asked=asked(100)), series(), sr, at=2))


def test_who_is_released_by_hand_waits_for_nothing() -> None:
    forced = study(forced_at=later(1))
    assert first_look(forced, SETTINGS) == later(1)
    verdict = judged(forced, series(missing_slices=3), at=1)
    assert (verdict.ready, verdict.whole) == (True, False)
    assert {"released-by-hand", "slices-missing"} <= codes(verdict)


def test_what_a_series_lacks_is_named() -> None:
    gap, tail = series("1.1", missing_slices=3), series("1.2")
    scout = replace(
        series("1.3", missing_slices=1), header={"ImageType": ("ORIGINAL", "PRIMARY", "LOCALIZER")}
    )
    lacks = lacking([gap, tail, scout], Asked(of="PACS", at=NOON, by_series={"1.2": 120, "1.3": 9}))
    assert {uid: reason.code for uid, reason in lacks.items()} == {
        "1.1": "slices-missing",
        "1.2": "instances-missing",
    }
    assert "3 of 103 places" in lacks["1.1"].sentence
    assert "PACS has 120 instances of it, here are 100" in lacks["1.2"].sentence
    assert lacking([replace(gap, own=True)], None) == {}


@pytest.mark.parametrize(
    ("changes", "apart"),
    [
        ({}, False),
        ({"modality": "SR"}, True),
        ({"modality": "PR"}, True),
        ({"modality": "KO"}, True),
        ({"header": {"ImageType": ("ORIGINAL", "PRIMARY", "LOCALIZER")}}, True),
        ({"header": {"ImageType": ("ORIGINAL", "PRIMARY", "AXIAL")}}, False),
        ({"header": {"SOPClassUID": ("1.2.840.10008.5.1.4.1.1.7",)}}, True),
        ({"header": {"SOPClassUID": ("1.2.840.10008.5.1.4.1.1.7.2",)}}, True),
        # A photograph: begins alike.
        ({"header": {"SOPClassUID": ("1.2.840.10008.5.1.4.1.1.77.1.4",)}}, False),
    ],
)
def test_what_stands_apart(changes: dict[str, object], apart: bool) -> None:
    assert is_apart(replace(series(), **changes)) == apart  # type: ignore[arg-type]


SECONDS = st.one_of(st.none(), st.floats(-200, 200))


@given(
    st.builds(
        lambda released, aborted, associations, answer: study(
            released_at=None if released is None else later(released),
            aborted_at=None if aborted is None else later(aborted),
            associations=associations,
            asked=answer,
        ),
        SECONDS,
        SECONDS,
        st.integers(0, 200),
        st.one_of(st.none(), st.builds(asked, st.integers(0, 200), at=st.floats(-9, 9))),
    ),
    st.integers(0, 5),
    st.floats(0, 59),
    st.booleans(),
    st.tuples(st.floats(0, 400), st.floats(0, 400)).map(sorted),
)
def test_what_holds_of_every_verdict(
    of: Study, missing: int, pace_s: float, is_sending: bool, moments: list[float]
) -> None:
    def at(seconds: float) -> Verdict:
        held = series(missing_slices=missing)
        return judged(of, held, at=seconds, pace_s=pace_s, is_sending=is_sending)

    first, second = moments
    early, late = at(first), at(second)
    # Time alone makes no study less ready, and the promised look finds it ready.
    assert late.ready or not early.ready
    assert (early.look_again_at is None) == early.ready
    if early.look_again_at is not None:
        assert at((early.look_again_at - NOON).total_seconds()).ready
    # Nobody is taken for done within his pace; nobody waits longer than the full quiet time or that.
    assert not early.ready or later(first) - NOON >= timedelta(seconds=3 * pace_s)
    assert early.ready or first < max(60, 3 * pace_s)
    # Never before the first look, and none with a gap is called whole.
    assert not early.ready or later(first) >= first_look(of, SETTINGS)
    assert not (early.whole and missing)
    assert early.confidence in set(Confidence)
