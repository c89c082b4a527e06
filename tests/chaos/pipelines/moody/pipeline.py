"""Bone by a threshold; a file beside this one, where there is one, says what goes wrong instead."""

from __future__ import annotations

import ctypes
import logging
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from pydicom.sr.coding import Code

from pipelines.manifest import SegmentSpec
from pipelines.result import AnalysisResult, LoadContext, Measurement, Segment, SourceSeries
from storage.model import Parameters

VOLUME = Code("118565006", "SCT", "Volume")
MILLILITER = Code("mL", "UCUM", "milliliter")
MOOD = Path(__file__).with_name("mood")
#: Of a flood: bytes in all, and lines of so many.
FLOOD = 100_000_000
LINE = "x" * 999


def load(context: LoadContext) -> SegmentSpec:
    """No weights: what is kept is the segment's description."""
    return context.manifest.segments[0]


def run(
    model: SegmentSpec, inputs: Mapping[str, SourceSeries], parameters: Parameters
) -> AnalysisResult:
    """Voxels at or above `threshold_hu`, once the mood has passed."""
    match MOOD.read_text(encoding="ascii") if MOOD.exists() else "":
        case "hang":
            time.sleep(3600)
        case "leak":
            _leak()
        case "segfault":
            ctypes.string_at(0)
        case "flood":
            _flood()
    volume = inputs["ct"].volume
    mask = volume.array >= float(parameters["threshold_hu"])
    return AnalysisResult(
        role="ct",
        label_map=volume.with_array(mask.astype(np.uint8)),
        segments=(Segment(number=1, spec=model, label="Bone"),),
        measurements=(
            Measurement(
                name=VOLUME,
                value=float(np.count_nonzero(mask) * volume.voxel_volume / 1000),
                unit=MILLILITER,
                segment_number=1,
            ),
        ),
    )


def _leak() -> None:
    """More than the manifest allows, and an end to it where nobody looks."""
    held = []
    for _ in range(60):
        held.append(np.ones(50_000_000, np.uint8))
        time.sleep(0.02)


def _flood() -> None:
    """A third each to standard output, standard error and the log."""
    talk = logging.getLogger("moody")
    for _ in range(FLOOD // 3 // (len(LINE) + 1)):
        print(LINE)
        print(LINE, file=sys.stderr)
        talk.warning(LINE)
