"""What goes into a pipeline and what comes out: the contract of `pipeline.py`.

A pipeline is a folder with a manifest and a module of two functions, `load` and `run` (`Pipeline` below). Weights
are loaded once and stay warm; `run` is called once per workitem. Neither touches the network, the database or the
archive, and neither knows DICOM objects it did not get.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from highdicom import Volume
from pydicom import Dataset
from pydicom.sr.coding import Code

from pipelines.manifest import Manifest, SegmentSpec
from storage.model import Parameters


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSeries:
    """One input series: its volume, and the headers of its slices.

    Attributes
    ----------
    volume
        Modality values (CT: HU) after the rescale of PS3.3 C.11.1, int16 or float32, shape (slices, rows, columns),
        affine in LPS mm. The slice axis is ordered by position along the slice normal.
    datasets
        One data set per slice without pixel data, in the order of `volume`'s first axis. Of a multi-frame image each
        has the instance's header and the Image Position and Orientation (Patient) of its frame.
    frame_numbers
        Of a multi-frame image: which frame, from 1, each slice is. Empty where each slice is an instance.
    gap
        What is left out, where the series lacks slices and the volume is its longest run without a gap.
    """

    volume: Volume
    datasets: tuple[Dataset, ...]
    frame_numbers: tuple[int, ...] = ()
    gap: Notice | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One structure found (or looked for and not found)."""

    #: Value in the label map, and Segment Number (0062,0004): 1, 2, 3 ...
    number: int
    spec: SegmentSpec
    #: Segment Label (0062,0005) and Tracking ID (0062,0020), e.g. `Tumour 3`; unique within the result.
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One number about one segment, or about the whole result when `segment_number` is None."""

    name: Code
    value: float
    #: UCUM.
    unit: Code
    #: Derivation modifier (121401, DCM), e.g. mean; None for a plain value.
    derivation: Code | None = None
    #: Where in the structure, as Finding Site (363698007, SCT), e.g. a vertebral level; None for all of it.
    site: Code | None = None
    segment_number: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class QualitativeEvaluation:
    """A coded question and its coded answer."""

    name: Code
    value: Code
    segment_number: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """Something a reader must know, coded for the database and said in a sentence."""

    code: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalysisResult:
    """What a pipeline found.

    Attributes
    ----------
    role
        The input on whose slice grid the label map lies.
    label_map
        uint8 or uint16, same shape and affine as that input's volume; 0 is background, other values are segment
        numbers.
    segments
        In order of number, empty ones included: a measured zero is a result.
    """

    role: str
    label_map: Volume
    segments: tuple[Segment, ...]
    measurements: tuple[Measurement, ...] = ()
    evaluations: tuple[QualitativeEvaluation, ...] = ()
    notices: tuple[Notice, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadContext:
    """What `load` gets."""

    manifest: Manifest
    folder: Path
    #: torch device, e.g. `cpu` or `cuda:0`.
    device: str
    #: Weights whose checksum was checked, or None when the manifest names none.
    weights: Path | None


class Pipeline(Protocol):
    """The two functions of a `pipeline.py`."""

    def load(self, context: LoadContext) -> Any:
        """Build the network and put its weights on the device; called once per worker process."""
        ...

    def run(
        self, model: Any, inputs: Mapping[str, SourceSeries], parameters: Parameters
    ) -> AnalysisResult:
        """Analyse one set of inputs (role -> series). `parameters` is complete: defaults and overrides merged.

        An input that the manifest calls optional may be missing; one is always there.

        Raises
        ------
        pipelines.errors.Refused
            When the series is outside the intended use, with a coded reason and a sentence.
        """
        ...
