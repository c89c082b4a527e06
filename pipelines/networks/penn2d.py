"""A patch extraction network after Chen et al. (J Bone Oncol 2024;49:100649), narrow enough for a CPU."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional

#: Rows and columns of the input must be multiples of this: patches begin so far apart.
STRIDE = 64
#: Rows and columns of a patch; a third of it is shared with each neighbour.
PATCH = 96
#: Channels at half, a quarter and an eighth of the resolution, and of the surroundings.
CHANNELS = (16, 40, 96, 96)

_BORDER = (PATCH - STRIDE) // 2
_EIGHTH = 8
# Logits at the start, of background, vertebrae and tumours: nearly all is background.
_PRIOR = (2.0, 0.0, -2.0)


class Penn2d(nn.Module):
    """Patches are extracted, encoded by convolutions, decoded by deconvolutions, and stitched with weights.

    As published: a patch extraction module, a convolutional encoder, and a decoder of deconvolutions that restores
    the size of the image.
    Ours, where its abstract and highlights are silent: overlapping patches whose logits are joined by weights that
    fall towards their edges; residual stages, and features of the encoder joined to those of the decoder; and
    surroundings: the whole image at an eighth of its resolution is encoded once, and each patch gets its part of it,
    for a patch of bone alone does not tell where in the body it is.

    Parameters
    ----------
    channels
        At half, a quarter and an eighth of the resolution, and of the surroundings.
    """

    def __init__(self, channels: Sequence[int] = CHANNELS) -> None:
        super().__init__()
        *levels, around = channels
        self.surroundings = nn.Sequential(
            nn.PixelUnshuffle(_EIGHTH),
            _convolution(_EIGHTH**2, around),
            *(_Stage(around, dilation) for dilation in (1, 2, 4, 1)),
        )
        self.enter = nn.Sequential(nn.PixelUnshuffle(2), _convolution(4, levels[0]))
        self.encoders = nn.ModuleList([_Stage(width) for width in levels])
        self.downs, self.ups = nn.ModuleList(), nn.ModuleList()
        self.decoders = nn.ModuleList()
        for upper, lower in pairwise(levels):
            self.downs.append(_convolution(upper, lower, stride=2))
            self.ups.append(_deconvolution(lower, upper))
            self.decoders.append(nn.Sequential(_convolution(2 * upper, upper), _Stage(upper)))
        self.join = nn.Sequential(_convolution(levels[-1] + around, levels[-1]), _Stage(levels[-1]))
        self.leave = nn.ConvTranspose2d(levels[0], len(_PRIOR), 2, stride=2)
        self.leave.bias = nn.Parameter(torch.tensor(_PRIOR))
        self.register_buffer("weights", _weights(), persistent=False)
        self.weights: torch.Tensor

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return logits.

        Parameters
        ----------
        image
            float, shape (batch, 1, rows, columns), normalised; rows and columns are multiples of `STRIDE`.

        Returns
        -------
        torch.Tensor
            float, shape (batch, 3, rows, columns): background, vertebrae, tumours.
        """
        padded = functional.pad(image, (_BORDER,) * 4, mode="replicate")
        patches = _extract(padded, PATCH, STRIDE)
        around = _extract(self.surroundings(padded), PATCH // _EIGHTH, STRIDE // _EIGHTH)
        return self._stitch(self._decode(patches, around), image)

    def _decode(self, patches: torch.Tensor, around: torch.Tensor) -> torch.Tensor:
        """Return the logits of each patch."""
        features = self.enter(patches)
        joined = []
        for level, encoder in enumerate(self.encoders):
            features = encoder(features)
            if level < len(self.downs):
                joined.append(features)
                features = self.downs[level](features)
        features = self.join(torch.cat([features, around], dim=1))
        for level in reversed(range(len(self.ups))):
            features = self.ups[level](features)
            features = self.decoders[level](torch.cat([joined[level], features], dim=1))
        logits: torch.Tensor = self.leave(features)
        return logits

    def _stitch(self, logits: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """Average the logits of overlapping patches."""
        batch, classes = image.shape[0], logits.shape[1]
        size = (image.shape[2] + 2 * _BORDER, image.shape[3] + 2 * _BORDER)
        weights = self.weights.to(logits.dtype)
        columns = (logits * weights).reshape(batch, -1, classes * PATCH**2).transpose(1, 2)
        total = weights.reshape(1, -1, 1).expand(-1, -1, columns.shape[2])
        whole = functional.fold(columns, size, PATCH, stride=STRIDE)
        # One inside, less at the border of the image, where there is no neighbour.
        whole = whole / functional.fold(total, size, PATCH, stride=STRIDE)
        return whole[:, :, _BORDER:-_BORDER, _BORDER:-_BORDER]


class _Stage(nn.Module):
    """Two convolutions whose result is added to what came in."""

    def __init__(self, channels: int, dilation: int = 1) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation, bias=False),
            _norm(channels),
            nn.LeakyReLU(0.1),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            _norm(channels),
        )
        self.activate = nn.LeakyReLU(0.1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.activate(self.residual(features) + features)
        return out


def _extract(image: torch.Tensor, size: int, stride: int) -> torch.Tensor:
    """Return overlapping patches: (batch x patches, channel, size, size), row by row."""
    channels = image.shape[1]
    columns = functional.unfold(image, size, stride=stride)
    return columns.transpose(1, 2).reshape(-1, channels, size, size)


def _weights() -> torch.Tensor:
    """Return what a patch's pixels count: one in the middle, falling to nothing where the neighbour's middle begins.

    Two neighbours' ramps add up to one.
    """
    ramp = (torch.arange(2 * _BORDER) + 0.5) / (2 * _BORDER)
    line = torch.cat([ramp, torch.ones(PATCH - 4 * _BORDER), ramp.flip(0)])
    return line[:, None] * line[None, :]


def _norm(channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels, momentum=0.02)


def _convolution(channels_in: int, channels: int, stride: int = 1) -> nn.Module:
    convolution = nn.Conv2d(channels_in, channels, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(convolution, _norm(channels), nn.LeakyReLU(0.1))


def _deconvolution(channels_in: int, channels: int) -> nn.Module:
    convolution = nn.ConvTranspose2d(channels_in, channels, 2, stride=2, bias=False)
    return nn.Sequential(convolution, _norm(channels), nn.LeakyReLU(0.1))
