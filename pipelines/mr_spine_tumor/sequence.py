"""What a series' header says of its sequence: T1-weighted or not, after gadolinium or not, fat suppressed or not.

Headers of MR differ by vendor and site. A description that denies contrast medium counts before the agent, which some
scanners write into all series of a study; what nothing says is not known.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from pydicom import Dataset

from pipelines.errors import Refused

_NAMES = ("SeriesDescription", "ProtocolName", "SequenceName")
#: Words are parted by anything that is no letter, digit or sign: `T1_TSE_SAG_KM`, `t1 tse +c`.
_ENHANCED = re.compile(
    r"(?<![a-z0-9])(gd|gad|gado\w*|km|c\+|ce|post(?![ -]?op)|postcontrast|contrast|kontrast|enhanced)(?![a-z0-9])"
    r"|\+ ?(c|gd|gad|gado|km|contrast)(?![a-z])|t1(w|c|wc)?c(?![a-z0-9])"
    r"|gadolin|gadav|gadob|gadot|dotarem|omniscan|magnevist|prohance"
)
_NATIVE = re.compile(
    r"(?<![a-z0-9])(pre|w/?o|without|ohne|non?)[ -]?(gd|gad|km|contrast|kontrast)(?![a-z])"
    r"|(?<![a-z0-9])(pre|nativ\w*|unenhanced|w/?o|without)(?![a-z0-9])|- ?c(?![a-z0-9]| ?sp)"
)
_NO_AGENT = re.compile(r"^\W*(none|no|n|0|n/a|not applicable|without|w/?o)?\W*$")
_T1 = re.compile(r"(?<![a-z0-9])t1")
_OTHER = re.compile(
    r"(?<![a-z0-9])(t2\w*|stir|tirm|flair|pd|proton density|dwi|adc|diff\w*|swi|mra|tof|phase|myelo\w*)(?![a-z0-9])"
)
#: Whatever they are made of.
_DERIVED = re.compile(r"(?<![a-z0-9])(sub|subtr\w*|maps?|mip|loc\w*|scout)(?![a-z0-9])")
_FAT_SUPPRESSED = re.compile(
    r"(?<![a-z0-9])(fs|fatsat|fat[ -]?sat\w*|fat[ -]?sup\w*|spair|spir|chess|water|dixon[ -]?w|ideal)(?![a-z0-9])"
)
#: ms: a spin echo with a longer time of either is no T1 weighting.
_LONGEST_TR, _LONGEST_TE = 1300.0, 35.0


class Contrast(StrEnum):
    """What the header says of contrast medium."""

    GIVEN = "given"
    NONE = "none"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class MrSequence:
    """What a header says."""

    contrast: Contrast
    t1_weighted: bool
    fat_suppressed: bool
    why: str  #: what says that it is no T1 weighting; empty


def read_sequence(ds: Dataset) -> MrSequence:
    """Read a series' sequence from the header of one of its images."""
    text = " ".join(str(ds.get(keyword) or "") for keyword in _NAMES).lower().replace("_", " ")
    t1_weighted, why = _is_t1(ds, text)
    return MrSequence(
        contrast=_contrast(ds, text),
        t1_weighted=t1_weighted,
        fat_suppressed=_is_fat_suppressed(ds, text),
        why=why,
    )


def check_sequence(
    datasets: Sequence[Dataset], *, require_contrast: bool, fat_suppressed: bool
) -> MrSequence:
    """Return what the headers say, and refuse a sequence that the pipeline is not made for.

    Parameters
    ----------
    datasets
        Headers of the slices; with none nothing is known.
    require_contrast
        Whether the header must say that there is contrast medium.
    fat_suppressed
        Whether fat-suppressed series are taken.

    Raises
    ------
    Refused
        `not-t1-weighted`, `contrast-absent`, `contrast-unknown` or `fat-suppressed`.
    """
    found = read_sequence(datasets[0] if datasets else Dataset())
    if not found.t1_weighted:
        raise Refused(f"The series is not T1-weighted: {found.why}.", code="not-t1-weighted")
    if require_contrast and found.contrast is Contrast.NONE:
        raise Refused(
            "The series is from before contrast medium; the pipeline needs the one after gadolinium "
            "(or the parameter require_contrast = false).",
            code="contrast-absent",
        )
    if require_contrast and found.contrast is Contrast.UNKNOWN:
        raise Refused(
            "Neither Contrast/Bolus Agent nor the descriptions say that the series is after gadolinium; have the "
            "scanner say so, or set the parameter require_contrast = false.",
            code="contrast-unknown",
        )
    if found.fat_suppressed and not fat_suppressed:
        raise Refused(
            "The series is fat-suppressed, and the parameter fat_suppressed is false.",
            code="fat-suppressed",
        )
    return found


def _contrast(ds: Dataset, text: str) -> Contrast:
    """PS3.3 C.7.6.4: the agent is Type 2, present and often empty."""
    agent = str(ds.get("ContrastBolusAgent") or "").strip().lower()
    if _NATIVE.search(text) and not _ENHANCED.search(_NATIVE.sub(" ", text)):
        return Contrast.NONE
    if ds.get("ContrastBolusAgentSequence") or not _NO_AGENT.match(agent):
        return Contrast.GIVEN
    if _ENHANCED.search(_NATIVE.sub(" ", text)):
        return Contrast.GIVEN
    return Contrast.NONE if agent else Contrast.UNKNOWN


def _is_t1(ds: Dataset, text: str) -> tuple[bool, str]:
    other = _DERIVED.search(text) or (None if _T1.search(text) else _OTHER.search(text))
    if other is not None:
        return False, f"its description says {other.group()}"
    repetition, echo = (_number(ds, keyword) for keyword in ("RepetitionTime", "EchoTime"))
    if echo is not None and echo > _LONGEST_TE:
        return False, f"its echo time is {echo:.0f} ms"
    # An inversion before each echo makes T1 of a long repetition time: FLAIR, MPRAGE.
    inverted = "IR" in str(ds.get("ScanningSequence") or "") or _number(ds, "InversionTime")
    if repetition is not None and repetition > _LONGEST_TR and not inverted:
        return False, f"its repetition time is {repetition:.0f} ms"
    if inverted and not _T1.search(text):
        return False, "it is an inversion recovery whose description does not say T1"
    return True, ""


def _is_fat_suppressed(ds: Dataset, text: str) -> bool:
    options = ds.get("ScanOptions") or ()
    # PS3.3 C.8.3.1.1: FS is fat saturation.
    listed = [options] if isinstance(options, str) else list(options)
    return any(str(one).startswith("FS") for one in listed) or bool(_FAT_SUPPRESSED.search(text))


def _number(ds: Dataset, keyword: str) -> float | None:
    try:
        value = float(ds.get(keyword))
    except (TypeError, ValueError):
        return None
    return value if value > 0 else None
