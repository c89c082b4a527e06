"""What can go wrong in a pipeline, and who must act.

    PipelineError
    +-- ManifestError    the folder's pipeline.toml or its code: whoever added the pipeline
    +-- WeightsError     weights missing, altered or of another network: whoever installed them
    +-- InputError       the series is no volume this node can place in space: whoever sends it
    +-- Refused          the pipeline declines this series (too few slices, no contrast ...): the rule's author
    +-- TrainingError    training data, a checkpoint or the disk: whoever trains
    +-- UnprovenError    our own object does not say what the network said: us

Each carries a `code` (lower case, hyphens: it is stored, counted and searched) and a sentence.
"""

from __future__ import annotations


class PipelineError(Exception):
    """A coded failure of one workitem; another attempt gives the same answer."""

    code = "pipeline-error"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code

    def __reduce__(self) -> tuple[object, ...]:
        # A worker process hands it to the node by pickle; keyword arguments do not survive otherwise.
        return _rebuild, (type(self), str(self), self.code)


class ManifestError(PipelineError):
    """A manifest or a pipeline module that breaks the contract."""

    code = "manifest-invalid"


class WeightsError(PipelineError):
    """Weights that are missing, altered, or of another network."""

    code = "weights-invalid"


class InputError(PipelineError):
    """A series that is no volume: gaps, mixed orientation, no geometry, unreadable pixels."""

    code = "input-not-a-volume"


class Refused(PipelineError):
    """The pipeline declines this series and says why."""

    code = "refused"


class TrainingError(PipelineError):
    """Data that cannot be learned from, a checkpoint of something else, a disk that is full."""

    code = "training-failed"


class UnprovenError(PipelineError):
    """Evidence that, read back, does not match the result it was made of."""

    code = "evidence-unproven"


def shown(value: object, longest: int = 64) -> str:
    """A value that came with a file, as a sentence may repeat it: short, in one line, without control characters."""
    text = str(value)
    text = f"{text[:longest]}..." if len(text) > longest else text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _rebuild(kind: type[PipelineError], message: str, code: str) -> PipelineError:
    return kind(message, code=code)
