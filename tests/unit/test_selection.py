"""Which series play which role, what is waited for, and why each other series lost."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from node.errors import RuleError
from node.preference import count_slices
from node.routing import check_rule
from node.selection import Selection, route, select
from pipelines.manifest import Manifest
from storage.model import Decision, Rule, Series

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
CODE = {"value": "113343008", "scheme": "SCT", "meaning": "Organ"}
OF_BOTH = {
    "spect": {"modality": ["NM"], "min_instances": 20, "optional": True},
    "ct": {
        "modality": ["CT"],
        "min_instances": 20,
        "optional": True,
        "same_frame_as": "spect",
    },
}


def manifest(**inputs: dict[str, object]) -> Manifest:
    return Manifest.model_validate(
        {
            "name": "lesions",
            "version": "1.0.0",
            "title": "Lesions",
            "procedure": CODE,
            "inputs": {role: {**OF_BOTH[role], **inputs.get(role, {})} for role in OF_BOTH},
            "segments": [
                {"number": 1, "label": "Lesion", "category": CODE, "type": CODE, "rgb": [1, 2, 3]}
            ],
        }
    )


PAIRED = manifest()


def series(
    name: str,
    modality: str = "CT",
    *,
    slices: int = 100,
    frame: str | None = "1.9",
    at: float = 0,
    own: bool = False,
    **header: object,
) -> Series:
    """A series whose last instance came `at` seconds after noon."""
    moment = NOON + timedelta(seconds=at)
    said = {"Modality": (modality,), **{key: (value,) for key, value in header.items()}}
    if frame is not None:
        said["FrameOfReferenceUID"] = (frame,)
    return Series(
        series_instance_uid=name,
        study_instance_uid="1.2",
        modality=modality,
        instance_count=slices,
        first_received_at=moment,
        last_received_at=moment,
        header=said,
        facts={"frames": slices, "slices": slices},
        own=own,
    )


SPECT = series("nm", "NM")


def rule(**changes: object) -> Rule:
    values: dict[str, object] = {
        "name": "r",
        "pipeline": "lesions",
        "where": (),
        "destinations": ("PACS",),
        "roles": {"spect": (), "ct": ("ConvolutionKernel !~ ^Bl",)},
        "wait_s": 600,
        "without": ("ct",),
    }
    return Rule(**{**values, **changes})  # type: ignore[arg-type]


def chosen(
    held: list[Series], *, seconds: float = 0, to: Rule | None = None, of: Manifest = PAIRED
) -> tuple[Selection, ...]:
    return select(to or rule(), held, of, now=NOON + timedelta(seconds=seconds))


def inputs(selections: tuple[Selection, ...]) -> list[dict[str, str]]:
    """Role -> Series Instance UID of every set that runs."""
    return [
        {role: one.series_instance_uid for role, one in selected.inputs.items()}
        for selected in selections
        if selected.inputs
    ]


def decisions(selections: tuple[Selection, ...]) -> dict[tuple[str, str], Decision]:
    """By role and Series Instance UID."""
    return {
        (one.role, one.series_instance_uid): one for each in selections for one in each.decisions
    }


def codes(selections: tuple[Selection, ...]) -> dict[tuple[str, str], str]:
    return {key: one.code for key, one in decisions(selections).items()}


# -- a pair ---------------------------------------------------------------------------------------


def test_a_pair_runs_at_once_in_the_manifest_s_order() -> None:
    found = chosen([series("ct"), SPECT])
    assert inputs(found) == [{"spect": "nm", "ct": "ct"}]
    assert list(found[0].inputs) == ["spect", "ct"]
    assert found[0].waits_until is None
    assert codes(found) == {("spect", "nm"): "runs", ("ct", "ct"): "runs"}
    assert decisions(found)["ct", "ct"].reason == "Every clause holds, as ct: lesions runs."


def test_most_slices_win_and_the_loser_says_to_whom() -> None:
    found = chosen([SPECT, series("thick", slices=60), series("thin", slices=240)])
    assert inputs(found) == [{"spect": "nm", "ct": "thin"}]
    lost = decisions(found)["ct", "thick"]
    assert (lost.code, lost.matched) == ("outranked", False)
    assert lost.reason == "Does not run: prefer most slices (seen: 60; series …thin has 240)"
    assert [v.holds for v in lost.clauses] == [True, True, True, True, False]
    won = decisions(found)["ct", "thin"].clauses[-1]
    assert (won.clause, won.seen) == ("prefer most slices", "240; series …thick has 60")


def test_of_as_many_slices_the_smaller_series_number_wins() -> None:
    found = chosen([SPECT, series("a", at=4, SeriesNumber=4), series("b", at=5, SeriesNumber=3)])
    assert inputs(found) == [{"spect": "nm", "ct": "b"}]
    assert (
        "prefer least SeriesNumber (seen: 4; series …b has 3)" in decisions(found)["ct", "a"].reason
    )


def test_clauses_of_a_role_are_asked_of_its_series_alone() -> None:
    found = chosen([SPECT, series("soft", slices=300, ConvolutionKernel="Bl31"), series("ct")])
    assert inputs(found) == [{"spect": "nm", "ct": "ct"}]
    assert "ConvolutionKernel !~ ^Bl (seen: Bl31)" in decisions(found)["ct", "soft"].reason


def test_clauses_of_the_rule_are_asked_of_every_series() -> None:
    found = chosen(
        [series("nm", "NM", StationName="A"), series("ct", StationName="B")],
        to=rule(where=("StationName = A",)),
        seconds=600,
    )
    assert inputs(found) == [{"spect": "nm"}]


@pytest.mark.parametrize(
    ("frames", "seen"),
    [(("1.9", "1.8"), "1.8"), (("1.9", None), "missing"), ((None, None), "missing")],
)
def test_another_frame_of_reference_is_no_partner(
    frames: tuple[str | None, str | None], seen: str
) -> None:
    held = [series("nm", "NM", frame=frames[0]), series("ct", frame=frames[1], slices=500)]
    found = chosen(held, seconds=600)
    assert inputs(found) == [{"spect": "nm"}]
    lost = decisions(found)["ct", "ct"]
    assert lost.code == "unfit"
    assert lost.clauses[-1].clause.startswith("FrameOfReferenceUID = that of spect")
    assert (lost.clauses[-1].seen, lost.clauses[-1].holds) == (seen, False)
    assert codes(found)["ct", ""] == "absent"


def test_without_such_a_demand_frames_are_not_compared() -> None:
    free = manifest(ct={"same_frame_as": None})
    assert inputs(chosen([SPECT, series("ct", frame="1.8")], of=free)) == [
        {"spect": "nm", "ct": "ct"}
    ]


def test_the_demand_counts_from_either_side() -> None:
    turned = manifest(ct={"same_frame_as": None}, spect={"same_frame_as": "ct"})
    found = chosen([SPECT, series("ct", frame="1.8")], of=turned, seconds=600)
    assert inputs(found) == [{"spect": "nm"}]


def test_with_each_every_series_of_the_first_role_begins_a_set() -> None:
    held = [SPECT, series("nm2", "NM", frame="1.8"), series("ct"), series("ct2", frame="1.8")]
    assert inputs(chosen(held, to=rule(each=True))) == [
        {"spect": "nm", "ct": "ct"},
        {"spect": "nm2", "ct": "ct2"},
    ]


def test_else_one_set_wins_and_the_other_says_why() -> None:
    held = [SPECT, series("nm2", "NM", slices=60), series("ct")]
    found = chosen(held)
    assert inputs(found) == [{"spect": "nm", "ct": "ct"}]
    assert codes(found) == {
        ("spect", "nm"): "runs",
        ("spect", "nm2"): "outranked",
        ("ct", "ct"): "runs",
    }
    assert (
        "prefer most slices (seen: 60; series …nm has 100)"
        in decisions(found)["spect", "nm2"].reason
    )
    assert decisions(found)["spect", "nm"].clauses[-1].seen == "100; series …nm2 has 60"


def test_a_set_with_all_inputs_wins_over_a_better_first_series() -> None:
    held = [
        series("nm", "NM", slices=200),
        series("nm2", "NM", frame="1.8"),
        series("ct2", frame="1.8"),
    ]
    found = chosen(held)
    assert inputs(found) == [{"spect": "nm2", "ct": "ct2"}]
    lost = decisions(found)["spect", "nm"]
    assert (lost.code, lost.clauses[-1].clause) == ("outranked", "prefer a run with most inputs")
    assert "with series …nm2 spect and ct" in lost.reason


def test_one_series_plays_one_role() -> None:
    twins = Manifest.model_validate(
        PAIRED.model_dump()
        | {"inputs": {"native": {"modality": ["CT"]}, "contrast": {"modality": ["CT"]}}}
    )
    pair = rule(roles={"contrast": ("ContrastBolusAgent exists",)}, without=())
    held = [series("a", ContrastBolusAgent="x"), series("b")]
    found = chosen(held, to=pair, of=twins)
    assert {"native": "b", "contrast": "a"} in inputs(found)
    assert all(len(set(one.values())) == 2 for one in inputs(found))


def test_frames_count_as_slices() -> None:
    tomo = replace(SPECT, instance_count=1)
    assert count_slices(tomo) == 100
    assert inputs(chosen([tomo, series("ct")])) == [{"spect": "nm", "ct": "ct"}]
    short = replace(tomo, facts={"frames": 19, "slices": 19})
    assert "instances >= 20 (seen: 19)" in decisions(chosen([short]))["spect", "nm"].reason


# -- a missing partner ----------------------------------------------------------------------------


def test_a_missing_input_is_waited_for_since_the_last_instance() -> None:
    late = series("nm", "NM", at=30)
    found = chosen([late], seconds=629)
    assert inputs(found) == []
    assert found[0].waits_until == NOON + timedelta(seconds=630)
    assert codes(found) == {("spect", "nm"): "waits", ("ct", ""): "waits"}
    assert (
        decisions(found)["ct", ""].reason
        == "No series fits as ct yet: after 2026-03-01 12:10:30 UTC lesions runs without it."
    )
    assert "waits for ct until 2026-03-01 12:10:30 UTC" in decisions(found)["spect", "nm"].reason


def test_when_the_wait_is_over_it_runs_without_and_says_so() -> None:
    found = chosen([SPECT], seconds=600)
    assert inputs(found) == [{"spect": "nm"}]
    assert found[0].waits_until is None
    assert decisions(found)["spect", "nm"].reason.endswith("lesions runs without ct.")
    absent = decisions(found)["ct", ""]
    assert (absent.code, absent.matched) == ("absent", False)
    assert "came within 10m: lesions runs without it, as the rule allows" in absent.reason


def test_or_is_held_and_says_so() -> None:
    held = rule(without=())
    found = chosen([SPECT], seconds=600, to=held)
    assert inputs(found) == []
    assert codes(found) == {("spect", "nm"): "held", ("ct", ""): "held"}
    assert "allows no run without ct" in decisions(found)["spect", "nm"].reason
    # Until then it waits, too: so that nobody is told before.
    assert codes(chosen([SPECT], seconds=599, to=held))["ct", ""] == "waits"
    assert inputs(chosen([SPECT, series("ct", at=9000)], seconds=9000, to=held)) == [
        {"spect": "nm", "ct": "ct"}
    ]


def test_the_partner_may_come_first() -> None:
    ct = series("ct")
    assert codes(chosen([ct])) == {("spect", ""): "waits", ("ct", "ct"): "waits"}
    assert inputs(chosen([ct], seconds=600)) == []
    either = rule(without=("spect", "ct"))
    assert inputs(chosen([ct], seconds=600, to=either)) == [{"ct": "ct"}]


def test_no_wait_runs_at_once() -> None:
    assert inputs(chosen([SPECT], to=rule(wait_s=0))) == [{"spect": "nm"}]


# -- which roles are wanted -----------------------------------------------------------------------


def test_roles_that_the_rule_does_not_name_are_not_wanted() -> None:
    alone = rule(roles={"spect": ("Modality = NM",)}, without=())
    found = chosen([SPECT, series("ct")], to=alone)
    assert inputs(found) == [{"spect": "nm"}]
    assert "spect takes Modality in NM (seen: CT)" in decisions(found)["", "ct"].reason


def test_a_role_that_the_pipeline_needs_is_always_wanted() -> None:
    needed = manifest(spect={"optional": False})
    found = chosen([series("ct")], of=needed, to=rule(roles={"ct": ()}, without=()), seconds=600)
    assert codes(found)["spect", ""] == "held"


def test_a_rule_without_roles_wants_all() -> None:
    everything = rule(roles={}, where=("Modality in NM, CT",), without=())
    assert inputs(chosen([SPECT, series("ct")], to=everything)) == [{"spect": "nm", "ct": "ct"}]


def test_nothing_fits_and_nothing_waits() -> None:
    found = chosen([series("mr", "MR"), series("scout", slices=1)])
    assert codes(found) == {("", "mr"): "unfit", ("ct", "scout"): "unfit"}
    assert all(one.waits_until is None for one in found)


def test_our_own_series_and_disabled_rules_take_no_part() -> None:
    held = [SPECT, series("ct", own=True)]
    assert codes(chosen(held))["ct", ""] == "waits"
    assert route([rule(enabled=False)], held, {"lesions": PAIRED}, now=NOON) == ()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"roles": {"pet": ("Modality = PT",)}}, "has no input 'pet'; it takes spect, ct"),
        ({"without": ("pet",)}, "has no input 'pet'"),
        ({"without": ("spect",)}, "cannot run without its input 'spect'"),
        ({"roles": {"spect": ("Modality = NM",)}}, "roles do not want"),
        ({"roles": {"spect": (), "ct": ()}}, "no clause"),
        ({"roles": {"ct": ("Modalty = CT",)}}, "neither a DICOM keyword"),
    ],
)
def test_a_rule_that_could_never_be_followed_is_refused(
    changes: dict[str, object], said: str
) -> None:
    needs_spect = {"lesions": manifest(spect={"optional": False})}
    check_rule(rule(), needs_spect)
    with pytest.raises(RuleError) as caught:
        check_rule(rule(**changes), needs_spect)
    assert said in str(caught.value)
