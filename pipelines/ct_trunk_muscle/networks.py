"""The three networks of the pipeline as one module, so that one file holds their weights.

- `slices`: a slice's muscles; learns from labelled slices, and teaches.
- `volume`: the muscles of a volume; begins as its teacher, the network of slices; learns from the labelled slices and,
  between them, from what that is sure of.
- `levels`: coarse, of the whole trunk: which vertebral body is which.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

import safetensors.torch
import torch
from torch import nn

from pipelines.ct_trunk_muscle.anatomy import CLASSES, LEVEL_CLASSES
from pipelines.ct_trunk_muscle.plan import Plan
from pipelines.errors import WeightsError
from pipelines.networks.plain_unet import PlainUNet, inflate


class Part(StrEnum):
    """One of the networks."""

    SLICES = "slices"
    VOLUME = "volume"
    LEVELS = "levels"


class TrunkNetworks(nn.Module):
    """All networks of a plan; called, it is the one that is being trained.

    Parameters
    ----------
    plan
        Their sizes.
    part
        Which is trained: the others' weights stay as they are.
    """

    def __init__(self, plan: Plan, part: Part = Part.VOLUME) -> None:
        super().__init__()
        self.slices = PlainUNet(plan.slices.halvings, plan.slices.channels, CLASSES)
        self.volume = PlainUNet(plan.volume.halvings, plan.volume.channels, CLASSES)
        self.levels = PlainUNet(plan.levels.halvings, plan.levels.channels, LEVEL_CLASSES)
        self._part = part
        for name, network in self.named_children():
            network.requires_grad_(name == part)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return the logits of the network that is being trained, see `PlainUNet`."""
        logits: torch.Tensor = self.get_submodule(self._part)(image)
        return logits

    def begin_volume(self) -> None:
        """Let the network of volumes begin as that of slices, where both have the same channels, as plans give them."""
        if self.slices.channels == self.volume.channels:
            inflate(self.slices, self.volume)


def load_networks(weights: Path, plan: Plan, device: str) -> TrunkNetworks:
    """Read weights (any float type) into networks of float32 in eval mode.

    Raises
    ------
    WeightsError
        When they are not this plan's.
    """
    networks = TrunkNetworks(plan)
    state = safetensors.torch.load_file(weights)
    try:
        networks.load_state_dict(
            {
                name: value.float() if value.is_floating_point() else value
                for name, value in state.items()
            }
        )
    except RuntimeError as error:
        raise WeightsError(
            f"{weights} holds weights of another plan; install the plan.json they were trained with beside them."
        ) from error
    return networks.to(device).eval()
