"""Where a labelled study is; its images and labels are read when they are needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pipelines.training.case import Case


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseRef:
    """One labelled study.

    Attributes
    ----------
    name
        Names nobody: a number, or a hash of the Series Instance UID.
    group
        As of `Case`.
    subject
        The same for all studies of a patient, who must not be in training and test at once; names nobody.
    load
        Reads the study. Raises PipelineError, naming the file.
    """

    name: str
    group: str = ""
    subject: str
    load: Callable[[], Case]
