"""The plain U-Net of nnU-Net, of slices or of volumes, at half resolution inside."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import nn

_SLOPE = 0.01
#: Logit of the background at the start, so that learning does not begin with finding out that most is background.
_PRIOR = 3.0


class PlainUNet(nn.Module):
    """Two convolutions a level, strided convolutions down, transposed ones up, leaky ReLU.

    As in Isensee et al., "nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation"
    (Nature Methods 2021;18:203). Ours: no deep supervision, and the first convolution halves the
    resolution, the last one restores it, so that no feature map of full resolution but the logits is ever made.

    Parameters
    ----------
    halvings
        How often each side of the input is halved, two or three sides: a side is a multiple of 2 to this power. Where a
        side is not halved any more, kernels do not reach along it either.
    channels
        Of each level, from half resolution down.
    classes
        Background included.
    """

    def __init__(self, halvings: Sequence[int], channels: Sequence[int], classes: int) -> None:
        super().__init__()
        if len(halvings) not in (2, 3):
            raise ValueError(f"halvings: of 2 or 3 sides, not {len(halvings)}")
        self.channels = tuple(channels)
        flat = len(halvings) == 2
        # Any: their annotations want pairs of two and of three apart.
        make: Any = nn.Conv2d if flat else nn.Conv3d
        transposed: Any = nn.ConvTranspose2d if flat else nn.ConvTranspose3d
        reach, stride = _reach(halvings, 0)
        self.enter = make(1, channels[0], stride, stride=stride, bias=False)
        self.encoders = nn.ModuleList([_stage(reach, channels[0], channels[0])])
        self.ups, self.decoders = nn.ModuleList(), nn.ModuleList()
        for level, (upper, lower) in enumerate(pairwise(channels), start=1):
            above, (reach, step) = _reach(halvings, level - 1)[0], _reach(halvings, level)
            self.encoders.append(_stage(reach, upper, lower, step))
            self.ups.append(transposed(lower, upper, step, stride=step, bias=False))
            self.decoders.append(_stage(above, 2 * upper, upper))
        self.leave = transposed(channels[0], classes, stride, stride=stride)
        with torch.no_grad():
            self.leave.bias.zero_()
            self.leave.bias[0] = _PRIOR
        self._layout = torch.channels_last if flat else torch.channels_last_3d
        # Faster on CPUs, and what GPUs want with mixed precision.
        self.to(memory_format=self._layout)  # type: ignore[call-overload]

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return logits.

        Parameters
        ----------
        image
            float, shape (batch, 1, rows, columns) or (batch, 1, slices, rows, columns), normalised.

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


@torch.no_grad()
def inflate(flat: PlainUNet, deep: PlainUNet) -> None:
    """Let a network of volumes begin as one of slices that has learned: it says of each slice about what that says.

    After Carreira and Zisserman, "Quo vadis, action recognition? A new model and the Kinetics dataset" (CVPR 2017);
    ours: kernels that reach to other slices begin with zeros there, not with copies, for neighbours are not alike.

    Raises
    ------
    ValueError
        When their channels differ.
    """
    if flat.channels != deep.channels:
        raise ValueError(f"channels {flat.channels} are not {deep.channels}")
    for (name, weight), source in zip(deep.named_parameters(), flat.parameters(), strict=True):
        if weight.ndim == source.ndim:
            weight.copy_(source)
            continue
        planes = weight.shape[2]
        if planes == 3:
            weight.zero_()
            weight[:, :, 1] = source
        else:
            # What enters is the mean of two slices; what leaves is the same for both.
            share = planes if name.startswith("enter") else 1
            weight.copy_(source[:, :, None] / share)


def _reach(halvings: Sequence[int], level: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the sizes of a level's kernels, and the step from the level above to it."""
    halved = [number > level for number in halvings]
    return tuple(3 if one else 1 for one in halved), tuple(2 if one else 1 for one in halved)


def _stage(
    reach: tuple[int, ...], channels_in: int, channels: int, stride: tuple[int, ...] | None = None
) -> nn.Module:
    convolution: Any = nn.Conv2d if len(reach) == 2 else nn.Conv3d
    norm = nn.InstanceNorm2d if len(reach) == 2 else nn.InstanceNorm3d
    around = tuple(size // 2 for size in reach)
    whole = (1,) * len(reach)
    layers: list[nn.Module] = []
    for before, step in ((channels_in, stride or whole), (channels, whole)):
        layers += [
            convolution(before, channels, reach, stride=step, padding=around, bias=False),
            norm(channels, affine=True),
            nn.LeakyReLU(_SLOPE, inplace=True),
        ]
    return nn.Sequential(*layers)
