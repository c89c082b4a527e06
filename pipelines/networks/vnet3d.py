"""A V-Net after Milletari et al. (2016), narrow enough for a CPU."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

# Logits at the start: a few percent of foreground, and steep enough to reach certainty soon.
_GAIN, _PRIOR = 4.0, -3.0

#: Channels that ship: at full resolution, then at each half of it.
CHANNELS = (4, 16, 32, 64, 128)


def stride_of(channels: Sequence[int] = CHANNELS) -> int:
    """Return what every side of the network's input must be a multiple of."""
    return int(2 ** (len(channels) - 1))


class VNet3d(nn.Module):
    """Residual encoder and decoder: strided convolutions down, transposed ones up, PReLU.

    As in "V-Net: Fully Convolutional Neural Networks for Volumetric Medical Image Segmentation" (3DV 2016, arXiv
    1606.04797): each stage learns a residual, nothing is pooled, features of the way down are joined on the way up.
    Ours: kernels of 3 instead of 5 voxels, group norm, few channels, and no convolution of the way down at full
    resolution, where most of a CPU's time would go: there the image itself is joined.

    Parameters
    ----------
    channels
        At full resolution (way up only), at half, at a quarter ...; the default has 1.7 million weights.
    """

    def __init__(self, channels: Sequence[int] = CHANNELS) -> None:
        super().__init__()
        full, *levels = channels
        self.enter = _down(1, levels[0])
        self.encoders = nn.ModuleList([_Stage(levels[0], levels[0], 1)])
        self.downs, self.ups, self.decoders = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for upper, lower in pairwise(levels):
            self.downs.append(_down(upper, lower))
            self.encoders.append(_Stage(lower, lower, 2))
            self.ups.append(_up(lower, upper))
            self.decoders.append(_Stage(2 * upper, upper, 1))
        self.leave = _up(levels[0], full)
        self.refine = nn.Sequential(
            nn.Conv3d(full + 1, full, 3, padding=1), nn.PReLU(full), nn.Conv3d(full, 1, 1)
        )
        # A quarter faster on CPUs, and what GPUs want with mixed precision.
        self.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return logits.

        Parameters
        ----------
        image
            float, shape (batch, 1, slices, rows, columns), normalised; sides are multiples of `stride_of`.

        Returns
        -------
        torch.Tensor
            float, shape (batch, 1, slices, rows, columns).
        """
        image = image.contiguous(memory_format=torch.channels_last_3d)
        features = self.enter(image)
        joined = []
        for level, encoder in enumerate(self.encoders):
            features = encoder(features)
            if level < len(self.downs):
                joined.append(features)
                features = self.downs[level](features)
        for level in reversed(range(len(self.ups))):
            features = self.ups[level](features)
            features = self.decoders[level](torch.cat([joined[level], features], dim=1))
        logits: torch.Tensor = self.refine(torch.cat([self.leave(features), image], dim=1))
        return logits * _GAIN + _PRIOR


class _Stage(nn.Module):
    """Convolutions of 3 x 3 x 3 whose result is added to what came in."""

    def __init__(self, channels_in: int, channels: int, convolutions: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for number in range(convolutions):
            before = channels_in if number == 0 else channels
            layers += [nn.Conv3d(before, channels, 3, padding=1, bias=False), _norm(channels)]
            if number < convolutions - 1:
                layers.append(nn.PReLU(channels))
        self.residual = nn.Sequential(*layers)
        same = channels_in == channels
        self.shortcut = nn.Identity() if same else nn.Conv3d(channels_in, channels, 1, bias=False)
        self.activate = nn.PReLU(channels)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.activate(self.residual(features) + self.shortcut(features))
        return out


def _norm(channels: int) -> nn.Module:
    return nn.GroupNorm(4, channels)


def _down(channels_in: int, channels: int) -> nn.Module:
    convolution = nn.Conv3d(channels_in, channels, 2, stride=2, bias=False)
    return nn.Sequential(convolution, _norm(channels), nn.PReLU(channels))


def _up(channels_in: int, channels: int) -> nn.Module:
    convolution = nn.ConvTranspose3d(channels_in, channels, 2, stride=2, bias=False)
    return nn.Sequential(convolution, _norm(channels), nn.PReLU(channels))
