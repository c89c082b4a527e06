"""The plain U-Net of nnU-Net, of slices or of volumes, at half resolution inside."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

_SLOPE = 0.01
#: Logit of the background at the start, so that learning does not begin with finding out that most is background.
_PRIOR = 3.0


def stride_of(channels: Sequence[int]) -> int:
    """Return what every side of the network's input must be a multiple of."""
    return int(2 ** len(channels))


class PlainUNet(nn.Module):
    """Two convolutions a level, strided convolutions down, transposed ones up, leaky ReLU.

    As in Isensee et al., "nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation"
    (Nature Methods 2021;18:203). Ours: no deep supervision, and the first convolution halves the
    resolution, the last one restores it, so that no feature map of full resolution but the logits is ever made.

    Parameters
    ----------
    dimensions
        2 or 3.
    channels
        Of each level, from half resolution down.
    classes
        Background included.
    """

    def __init__(self, dimensions: int, channels: Sequence[int], classes: int) -> None:
        super().__init__()
        if dimensions not in (2, 3):
            raise ValueError(f"dimensions: 2 or 3, not {dimensions}")
        make = nn.Conv2d if dimensions == 2 else nn.Conv3d
        transposed = nn.ConvTranspose2d if dimensions == 2 else nn.ConvTranspose3d
        self.enter = make(1, channels[0], 2, stride=2, bias=False)
        self.encoders = nn.ModuleList([_stage(dimensions, channels[0], channels[0])])
        self.ups, self.decoders = nn.ModuleList(), nn.ModuleList()
        for upper, lower in pairwise(channels):
            self.encoders.append(_stage(dimensions, upper, lower, stride=2))
            self.ups.append(transposed(lower, upper, 2, stride=2, bias=False))
            self.decoders.append(_stage(dimensions, 2 * upper, upper))
        self.leave = transposed(channels[0], classes, 2, stride=2)
        with torch.no_grad():
            self.leave.bias.zero_()  # type: ignore[union-attr]
            self.leave.bias[0] = _PRIOR  # type: ignore[index]
        self._layout = torch.channels_last if dimensions == 2 else torch.channels_last_3d
        # Faster on CPUs, and what GPUs want with mixed precision.
        self.to(memory_format=self._layout)  # type: ignore[call-overload]

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return logits.

        Parameters
        ----------
        image
            float, shape (batch, 1, rows, columns) or (batch, 1, slices, rows, columns), normalised; sides are
            multiples of `stride_of`.

        Returns
        -------
        torch.Tensor
            float, the same shape but for the classes in place of the channel.
        """
        features = self.enter(image.contiguous(memory_format=self._layout))
        joined = []
        for encoder in self.encoders:
            features = encoder(features)
            joined.append(features)
        for level in reversed(range(len(self.ups))):
            features = torch.cat([joined[level], self.ups[level](features)], dim=1)
            features = self.decoders[level](features)
        logits: torch.Tensor = self.leave(features)
        return logits


def _stage(dimensions: int, channels_in: int, channels: int, stride: int = 1) -> nn.Module:
    convolution = nn.Conv2d if dimensions == 2 else nn.Conv3d
    norm = nn.InstanceNorm2d if dimensions == 2 else nn.InstanceNorm3d
    layers: list[nn.Module] = []
    for before, step in ((channels_in, stride), (channels, 1)):
        layers += [
            convolution(before, channels, 3, stride=step, padding=1, bias=False),
            norm(channels, affine=True),
            nn.LeakyReLU(_SLOPE, inplace=True),
        ]
    return nn.Sequential(*layers)
