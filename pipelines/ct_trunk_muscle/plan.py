"""The plan: what was derived from a training set, read by pipeline and training alike.

A plan belongs to weights: other sizes are another network, other normalisation is another image.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipelines.errors import WeightsError

PLAN_NAME = "plan.json"


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Intensities(_Model):
    """Hounsfield units of the foreground of the training set."""

    low: float = Field(description="0.5th percentile; clipped below.")
    high: float = Field(description="99.5th percentile; clipped above.")
    mean: float
    sd: float = Field(gt=0)

    def normalise(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Clip HU to the percentiles, subtract the mean, divide by the standard deviation."""
        clipped = np.clip(image, np.float32(self.low), np.float32(self.high))
        return np.asarray((clipped - self.mean) / self.sd, np.float32)

    @property
    def air(self) -> float:
        """What air is afterwards."""
        return (self.low - self.mean) / self.sd


class Fingerprint(_Model):
    """What of the training set decides."""

    cases: int = Field(ge=1)
    spacing: tuple[float, float, float] = Field(description="Median; slices, rows, columns, mm.")
    finest_slices: float = Field(description="10th percentile of the slice spacing, mm.")
    extent: tuple[float, float, float] = Field(description="Median of the body, mm.")
    intensities: Intensities


class NetworkPlan(_Model):
    """One network's input and size."""

    spacing: tuple[float, ...] = Field(description="Of the network's grid, mm.")
    patch: tuple[int, ...] = Field(description="Voxels of a training sample, and of inference.")
    channels: tuple[int, ...] = Field(description="Of each level, from half resolution down.")
    halvings: tuple[int, ...] = Field(description="How often each side is halved on the way down.")
    batch_size: int = Field(ge=1)

    @property
    def multiples(self) -> tuple[int, ...]:
        """What the sides of the network's input are multiples of."""
        return tuple(2**number for number in self.halvings)


class Plan(_Model):
    """What `planning` derives."""

    classes: tuple[str, ...] = Field(description="Of `slices` and `volume`, background first.")
    level_classes: tuple[str, ...] = Field(description="Of `levels`, background first.")
    fingerprint: Fingerprint
    slices: NetworkPlan
    volume: NetworkPlan
    levels: NetworkPlan

    def write(self, path: Path) -> None:
        """Write the plan as JSON."""
        path.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")


def read_plan(path: Path) -> Plan:
    """Read a plan.

    Raises
    ------
    WeightsError
        When it is missing or no plan, naming the file.
    """
    try:
        return Plan.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        raise WeightsError(
            f"{path} is no plan ({error}); install the one that was derived with the weights beside it."
        ) from error
