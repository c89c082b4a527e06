"""Is the study whole? Pure: the clock is a parameter.

DICOM has no sign for the end of a study, so there is a verdict, with what speaks for it and against it:

    quiet time    nothing new for `quiet_s`: all that others go by, and what remains where nothing else is known
    pace          the longest wait between two instances so far: who sends slowly is given `PACES` times as long
    association   released after the last instance; an abort is no end, and costs the full quiet time
    counts        Number of Study / Series Related Instances, asked of the sender's archive (C-FIND) or in the header
    geometry      of the series that rules want: one orientation, one frame of reference, no place without a slice
    inputs        whether every input that the rules want is there

A study that is plainly whole is ready after a short quiet time: `count_quiet_s` where counts agree, `released_quiet_s`
where the sender said it is done and no slice is missing between others. Every other one is ready when it was quiet for
long; what its wanted series lack (`lacking`) is then waited for, rule by rule (`node.selection`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from node.config import RoutingSection
from node.pairing import SLICES_MISSING
from storage.model import Asked, Confidence, Series, Study, Verdict, VerdictReason

#: Waits as long as the longest so far that must pass before a sender counts as done.
PACES = 3.0
#: Associations of one study up to which their ends say anything where each brought hardly an instance.
FEW_ASSOCIATIONS = 3
#: Modalities of objects about images, and of pictures of screens: they belong to no stack of slices.
APART = frozenset(
    (
        "SR",
        "KO",
        "PR",
        "SEG",
        "DOC",
        "RTSTRUCT",
        "RTPLAN",
        "RTDOSE",
        "REG",
        "FID",
        "RWV",
        "OT",
        "SC",
    )
)
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


class ReasonCode(StrEnum):
    """What speaks for a study being whole, or against it."""

    ARRIVING = "arriving"
    QUIET = "quiet"
    SLOW_SENDER = "slow-sender"
    RELEASED = "released"
    ABORTED = "aborted"
    STILL_SENDING = "still-sending"
    #: An association for each instance: its end says nothing.
    RELEASES_SAY_NOTHING = "releases-say-nothing"
    COUNTS_AGREE = "counts-agree"
    #: The archive or the header knows of more than came.
    COUNTS_SHORT = "counts-short"
    #: The archive has less: it is not done itself.
    COUNTS_DIFFER = "counts-differ"
    HEADER_AGREES = "header-agrees"
    #: Its archive is to be asked and has neither answered nor failed to: a release alone is not enough.
    NOT_ASKED_YET = "not-asked-yet"
    NO_ANSWER = "no-answer"
    GEOMETRY_WHOLE = "geometry-whole"
    GEOMETRY_UNKNOWN = "geometry-unknown"
    SLICES_MISSING = SLICES_MISSING
    INSTANCES_MISSING = "instances-missing"
    INPUTS_THERE = "inputs-there"
    INPUTS_MISSING = "inputs-missing"
    NOT_WANTED = "not-wanted"
    RELEASED_BY_HAND = "released-by-hand"


#: Of a wanted series.
_LACKS = frozenset((ReasonCode.SLICES_MISSING, ReasonCode.INSTANCES_MISSING))


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the rules make of a study as it is."""

    #: Series that would run, or wait for another.
    series: frozenset[str] = frozenset()
    #: Roles that no series plays yet.
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """All that a verdict is made of."""

    study: Study
    series: Sequence[Series]
    wanted: Wanted
    #: Longest wait between two instances, s; pauses left out.
    pace_s: float = 0.0
    #: A hint: an association of this process that brought some of it is open. Unknown after a restart.
    is_sending: bool = False


def first_look(study: Study, settings: RoutingSection) -> datetime:
    """Before then no study is ready, whatever is known of it."""
    if study.forced_at is not None:
        return study.forced_at
    shortest = min(settings.quiet_s, settings.released_quiet_s, settings.count_quiet_s)
    return study.last_received_at + timedelta(seconds=shortest)


def assess(seen: Seen, *, now: datetime, settings: RoutingSection) -> Verdict:
    """Whether a study is whole, and whether it is ready to be evaluated.

    Parameters
    ----------
    now
        Aware. With the same evidence a later clock makes no verdict less ready.
    """
    study, last = seen.study, seen.study.last_received_at
    counts, geometry = tuple(_judge_counts(seen, settings)), tuple(_judge_geometry(seen))
    association = _judge_association(seen, settings)
    inputs = _judge_inputs(seen.wanted)
    patience = PACES * seen.pace_s
    full = last + timedelta(seconds=max(settings.quiet_s, patience))
    known = {reason.code for reason in (*counts, *geometry, association, inputs) if reason}
    lacks = bool(known & _LACKS)
    confidence, quiet_s = _weigh(known, settings)
    due = min(full, last + timedelta(seconds=max(quiet_s, patience)))
    ready = now >= due or study.forced_at is not None
    reasons = [
        _by_hand(study),
        _of_time(study, now, due, ready=ready),
        _of_pace(patience, settings),
        association,
        *counts,
        *geometry,
        inputs,
    ]
    return Verdict(
        whole=ready and not lacks and ReasonCode.COUNTS_SHORT not in known,
        confidence=confidence,
        ready=ready,
        reasons=tuple(reason for reason in reasons if reason is not None),
        look_again_at=None if ready else due,
    )


def _weigh(known: Collection[str], settings: RoutingSection) -> tuple[Confidence, float]:
    """How sure the verdict is, and the seconds of quiet that are enough."""
    if _LACKS & set(known):
        return Confidence.CERTAIN, settings.quiet_s
    quiet_s = [settings.quiet_s]
    confidence = Confidence.PRESUMED
    differs = bool({ReasonCode.COUNTS_SHORT, ReasonCode.COUNTS_DIFFER} & set(known))
    if ReasonCode.GEOMETRY_WHOLE in known and not differs:
        if ReasonCode.RELEASED in known and ReasonCode.NOT_ASKED_YET not in known:
            quiet_s.append(settings.released_quiet_s)
            confidence = Confidence.LIKELY
        if ReasonCode.HEADER_AGREES in known:
            quiet_s.append(settings.count_quiet_s)
            confidence = Confidence.LIKELY
    if ReasonCode.COUNTS_AGREE in known:
        quiet_s.append(settings.count_quiet_s)
        confidence = Confidence.CERTAIN
    return confidence, min(quiet_s) if ReasonCode.INPUTS_THERE in known else settings.quiet_s


def lacking(series: Collection[Series], asked: Asked | None) -> dict[str, VerdictReason]:
    """Series Instance UID -> what did not come of it yet, of series that others' slices or counts say so of.

    Parameters
    ----------
    asked
        What the sender's archive answered; None when it was not asked.
    """
    found = {}
    for one in series:
        uid, missing = one.series_instance_uid, one.facts.get("missing_slices")
        expected = asked.by_series.get(uid, 0) if asked is not None else 0
        if one.own or is_apart(one):
            continue
        if isinstance(missing, int) and missing > 0:
            places = missing + int(one.facts.get("slices") or 0)
            sentence = f"{_name(one)}: {missing} of {places} places on its grid have no slice."
            found[uid] = VerdictReason(code=ReasonCode.SLICES_MISSING, sentence=sentence)
        elif missing is None and (irregular := one.facts.get("slice_gap_irregular_mm")):
            sentence = (
                f"{_name(one)}: its slices lie on no regular grid, their distances differ by up to {irregular} mm: "
                "some may be missing."
            )
            found[uid] = VerdictReason(code=ReasonCode.SLICES_MISSING, sentence=sentence)
        elif asked is not None and expected > one.instance_count:
            sentence = f"{_name(one)}: {asked.of} has {expected} instances of it, here are {one.instance_count}."
            found[uid] = VerdictReason(code=ReasonCode.INSTANCES_MISSING, sentence=sentence)
    return found


def is_apart(series: Series) -> bool:
    """Whether a series is no stack of slices: a localizer, a report, a presentation state, a picture of a screen."""
    # PS3.3 C.8.2.1.1.1: value 3 of Image Type.
    if "LOCALIZER" in series.header.get("ImageType", ()):
        return True
    sop_class = str(series.header.get("SOPClassUID", ("",))[0])
    # The multi-frame ones are below it.
    return series.modality in APART or f"{sop_class}.".startswith(f"{_SECONDARY_CAPTURE}.")


# -- what each piece of evidence says -------------------------------------------------------------


def _judge_association(seen: Seen, settings: RoutingSection) -> VerdictReason | None:
    study = seen.study
    if seen.is_sending:
        sentence = "An association that brought some of it is open."
        return VerdictReason(code=ReasonCode.STILL_SENDING, sentence=sentence)
    ends = [at for at in (study.released_at, study.aborted_at) if at is not None]
    if not ends or max(ends) < study.last_received_at:
        return None
    if study.aborted_at is not None and (
        study.released_at is None
        or study.released_at < study.aborted_at + timedelta(seconds=settings.quiet_s)
    ):
        sentence = "An association was aborted, which is no end: the sender may come again."
        return VerdictReason(code=ReasonCode.ABORTED, sentence=sentence)
    if study.associations > max(FEW_ASSOCIATIONS, study.instance_count / 2):
        sentence = (
            f"Its sender made {study.associations} associations: the end of one says nothing."
        )
        return VerdictReason(code=ReasonCode.RELEASES_SAY_NOTHING, sentence=sentence)
    sentence = "Its sender released the association after the last instance."
    return VerdictReason(code=ReasonCode.RELEASED, sentence=sentence)


def _judge_counts(seen: Seen, settings: RoutingSection) -> Iterator[VerdictReason]:
    """What the archive answered since the last instance, or else what the header says."""
    asked, study = seen.study.asked, seen.study
    held = [one for one in seen.series if not one.own]
    if asked is not None and asked.at is not None and asked.at >= study.last_received_at:
        yield from _compare_answer(asked, held)
        return
    archives = {settings.ask.get(str(one.facts.get("calling_ae"))) for one in held} - {None}
    if asked is not None and asked.again_at is not None and asked.again_at > study.last_received_at:
        sentence = f"{asked.of} does not say how much it has: {asked.failure}"
        yield VerdictReason(code=ReasonCode.NO_ANSWER, sentence=sentence)
    elif archives:
        sentence = f"{' and '.join(sorted(map(str, archives)))} did not say yet how much it has."
        yield VerdictReason(code=ReasonCode.NOT_ASKED_YET, sentence=sentence)
    said, there = _header_counts(seen.wanted, held)
    if said is not None:
        code = ReasonCode.HEADER_AGREES if said == there else ReasonCode.COUNTS_SHORT
        sentence = f"The header speaks of {said} instances, {there} are here."
        yield VerdictReason(code=code, sentence=sentence)


def _compare_answer(asked: Asked, held: Sequence[Series]) -> Iterator[VerdictReason]:
    # Reports and results are kept by an archive that sends images, and not sent with them.
    here = {
        one.series_instance_uid: one.instance_count for one in held if one.modality not in APART
    }
    if asked.by_series:
        more = any(here.get(uid, 0) < count for uid, count in asked.by_series.items())
        less = any(asked.by_series.get(uid, 0) < count for uid, count in here.items())
        there = f"{sum(asked.by_series.values())} instances in {len(asked.by_series)} series"
    elif asked.instances is not None:
        more, less = asked.instances > sum(here.values()), asked.instances < sum(here.values())
        there = f"{asked.instances} instances"
    else:
        return
    sentence = (
        f"{asked.of} has {there}, here are {sum(here.values())} instances in {len(here)} series."
    )
    code = ReasonCode.COUNTS_DIFFER if less else ReasonCode.COUNTS_AGREE
    code = ReasonCode.COUNTS_SHORT if more else code
    yield VerdictReason(code=code, sentence=sentence)


def _header_counts(wanted: Wanted, held: Sequence[Series]) -> tuple[int | None, int]:
    """Instances that headers speak of, and those that are here: of the study, or else of every wanted series."""
    of_study = {_number(one, "NumberOfStudyRelatedInstances") for one in held}
    here = sum(one.instance_count for one in held)
    if len(of_study) == 1 and (said := of_study.pop()) is not None and said >= here:
        return said, here
    said, there = 0, 0
    for one in held:
        if one.series_instance_uid in wanted.series:
            count = _number(one, "NumberOfSeriesRelatedInstances") or _number(
                one, "ImagesInAcquisition"
            )
            # An acquisition may be several series, or a series several acquisitions: less than is here is no count.
            if count is None or count < one.instance_count:
                return None, 0
            said, there = said + count, there + one.instance_count
    return (said, there) if said else (None, 0)


def _judge_geometry(seen: Seen) -> Iterator[VerdictReason]:
    """Of the series that rules want."""
    lacks = lacking(seen.series, seen.study.asked)
    wanted = [one for one in seen.series if one.series_instance_uid in seen.wanted.series]
    yield from (
        lacks[one.series_instance_uid] for one in wanted if one.series_instance_uid in lacks
    )
    unknown = [
        f"{_name(one)} {why}"
        for one in wanted
        if one.series_instance_uid not in lacks and (why := _why_unknown(one))
    ]
    if unknown:
        yield VerdictReason(
            code=ReasonCode.GEOMETRY_UNKNOWN,
            sentence=f"Whether slices are missing cannot be seen: {'; '.join(unknown)}.",
        )
    elif wanted and not any(one.series_instance_uid in lacks for one in wanted):
        yield VerdictReason(
            code=ReasonCode.GEOMETRY_WHOLE,
            sentence=f"No slice is missing between others in {len(wanted)} wanted series.",
        )


def _why_unknown(series: Series) -> str:
    """Why geometry says nothing of a series; empty when it does."""
    facts = series.facts
    if int(facts.get("frames") or 0) > int(facts.get("instances") or 0):
        # One object is the whole volume.
        return ""
    orientations = facts.get("orientations")
    for holds, why in (
        (int(facts.get("frames_of_reference") or 0) > 1, "has several frames of reference"),
        (orientations is None, "does not say where each instance lies"),
        (orientations != 1, f"has {orientations} orientations"),
        (facts.get("duplicate_positions"), "has several instances at one position"),
        (facts.get("missing_slices") is None, "has slices on no regular grid"),
    ):
        if holds:
            return why
    return ""


def _judge_inputs(wanted: Wanted) -> VerdictReason:
    if not wanted.series:
        sentence = "No rule wants a series of it as it is."
        return VerdictReason(code=ReasonCode.NOT_WANTED, sentence=sentence)
    if wanted.missing:
        sentence = f"No series fits as {' or '.join(wanted.missing)} yet."
        return VerdictReason(code=ReasonCode.INPUTS_MISSING, sentence=sentence)
    sentence = "Every input that rules want is there."
    return VerdictReason(code=ReasonCode.INPUTS_THERE, sentence=sentence)


def _by_hand(study: Study) -> VerdictReason | None:
    if study.forced_at is None:
        return None
    sentence = "It was released by hand: it is evaluated as it is."
    return VerdictReason(code=ReasonCode.RELEASED_BY_HAND, sentence=sentence)


def _of_time(study: Study, now: datetime, due: datetime, *, ready: bool) -> VerdictReason:
    waited = max(0.0, (now - study.last_received_at).total_seconds())
    if ready:
        sentence = f"No instance came for {waited:.0f} s."
        return VerdictReason(code=ReasonCode.QUIET, sentence=sentence)
    needed = (due - study.last_received_at).total_seconds()
    sentence = f"The last instance came {waited:.0f} s ago; quiet is {needed:.0f} s."
    return VerdictReason(code=ReasonCode.ARRIVING, sentence=sentence)


def _of_pace(patience: float, settings: RoutingSection) -> VerdictReason | None:
    if patience <= min(settings.quiet_s, settings.released_quiet_s):
        return None
    sentence = f"Its sender let {patience / PACES:.1f} s pass between instances: {patience:.0f} s are no end."
    return VerdictReason(code=ReasonCode.SLOW_SENDER, sentence=sentence)


def _number(series: Series, keyword: str) -> int | None:
    value = series.header.get(keyword, (None,))[0]
    return value if isinstance(value, int) and value > 0 else None


def _name(series: Series) -> str:
    return f"Series …{series.series_instance_uid[-12:]}"
