"""The Mixed Transformer U-Net (MT-UNet), narrow, at half resolution within.

After Wang et al., "Mixed Transformer U-Net For Medical Image Segmentation", ICASSP 2022 (arXiv 2111.04734): a
convolutional stem at the fine level, mixed transformer modules at 1/4, 1/8 and 1/16 of the resolution. Ours: the
widths; each 2 x 2 block of pixels enters as channels, as in `unet2d`, so that the stem runs on a quarter of the pixels.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

#: Rows and columns of the input must be multiples of this: windows of the coarsest level.
STRIDE = 64
_WINDOW = 4
_HEADS = 4
#: Entries of the external memory, in each head.
_MEMORY = 32
_MOMENTUM = 0.02
#: Logit of the background at the start: lesions are rare.
_PRIOR = 3.0


class MTUNet(nn.Module):
    """A level of convolutions, three of mixed transformer modules, and the way back up with skips.

    Parameters
    ----------
    channels_in
        Images that enter, as channels.
    classes
        With the background, which comes first.
    channels
        Of the four levels: the stem, two of the encoder, the bottleneck. The default has 1.3 million weights.
    """

    prior: torch.Tensor

    def __init__(
        self,
        channels_in: int = 1,
        classes: int = 3,
        channels: Sequence[int] = (32, 64, 96, 160),
    ) -> None:
        super().__init__()
        if len(channels) != 4 or any(width % _HEADS for width in channels[1:]):
            raise ValueError(f"MTUNet needs four widths, the last three multiples of {_HEADS}")
        first, *mixed = channels
        self.fold = nn.PixelUnshuffle(2)
        self.stem = nn.Sequential(_conv(4 * channels_in, first), _conv(first, first))
        before = (first, *mixed[:-1])
        self.merges = nn.ModuleList(
            [_conv(old, new, stride=2) for old, new in zip(before, mixed, strict=True)]
        )
        self.encoder = nn.ModuleList([MixedTransformer(width) for width in mixed])
        self.ups = nn.ModuleList(
            [
                nn.ConvTranspose2d(new, old, 2, stride=2)
                for old, new in zip(before, mixed, strict=True)
            ]
        )
        self.joins = nn.ModuleList([_conv(2 * old, old) for old in before])
        self.decoder = nn.ModuleList(
            [_conv(first, first), *(MixedTransformer(width) for width in mixed[:-1])]
        )
        self.head = nn.Conv2d(first, 4 * classes, 1)
        self.unfold = nn.PixelShuffle(2)
        prior = torch.zeros(1, classes, 1, 1)
        prior[:, 0] = _PRIOR
        self.register_buffer("prior", prior, persistent=False)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return logits.

        Parameters
        ----------
        image
            float, shape (batch, channels_in, rows, columns), normalised; rows and columns are multiples of `STRIDE`.

        Returns
        -------
        torch.Tensor
            float, shape (batch, classes, rows, columns).
        """
        features = self.stem(self.fold(image))
        skips = []
        for merge, mix in zip(self.merges, self.encoder, strict=True):
            skips.append(features)
            features = mix(merge(features))
        for level in reversed(range(len(self.ups))):
            up = self.ups[level](features)
            features = self.decoder[level](self.joins[level](torch.cat([skips[level], up], dim=1)))
        logits: torch.Tensor = self.unfold(self.head(features))
        return logits + self.prior


class MixedTransformer(nn.Module):
    """One mixed transformer module (MTM): attention within a sample, then across all samples, each with a residual."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.before_attention = nn.LayerNorm(width)
        self.attention = LocalGlobalAttention(width)
        self.before_memory = nn.LayerNorm(width)
        self.memory = ExternalAttention(width)
        self.before_mixing = nn.LayerNorm(width)
        self.mixing = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return features of the same shape (batch, width, rows, columns)."""
        tokens = features.permute(0, 2, 3, 1)
        tokens = tokens + self.attention(self.before_attention(tokens))
        tokens = tokens + self.memory(self.before_memory(tokens))
        tokens = tokens + self.mixing(self.before_mixing(tokens))
        mixed: torch.Tensor = tokens.permute(0, 3, 1, 2).contiguous()
        return mixed


class LocalGlobalAttention(nn.Module):
    """Local-global Gaussian-weighted self-attention (LGG-SA).

    Tokens attend to each other within windows. Each window is then summed up as one token, by weights that depend on
    what is in it; these attend to each other along rows and along columns, nearer ones more: their similarity is
    lowered by a multiple of the squared distance, which is learned. What a window hears is given back to its tokens.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.local = nn.Linear(width, 3 * width)
        self.place = nn.Parameter(torch.zeros(_HEADS, _WINDOW**2, _WINDOW**2))
        self.weigh = nn.Linear(width, 1)
        self.distant = nn.Linear(width, 3 * width)
        #: Before softplus: of a Gaussian whose standard deviation is about 1.7 windows at the start.
        self.nearness = nn.Parameter(torch.full((2, _HEADS), -1.7))
        self.join = nn.Linear(width, width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return tokens of the same shape (batch, rows, columns, width)."""
        batch, rows, columns, width = tokens.shape
        down, across = rows // _WINDOW, columns // _WINDOW
        windows = tokens.reshape(batch, down, _WINDOW, across, _WINDOW, width)
        windows = windows.transpose(2, 3).reshape(batch * down * across, _WINDOW**2, width)
        near = _attend(self.local(windows), self.place)
        weights = self.weigh(near).softmax(dim=1)
        summaries = (near * weights).sum(dim=1).reshape(batch, down, across, width)
        far = self._global(summaries).reshape(batch * down * across, 1, width)
        joined: torch.Tensor = self.join(near + far)
        joined = joined.reshape(batch, down, across, _WINDOW, _WINDOW, width)
        return joined.transpose(2, 3).reshape(batch, rows, columns, width)

    def _global(self, summaries: torch.Tensor) -> torch.Tensor:
        """Axial attention between windows, shape (batch, windows down, windows across, width)."""
        batch, down, across, width = summaries.shape
        together = self.distant(summaries)
        bias = functional.softplus(self.nearness)
        lines = together.reshape(batch * down, across, 3 * width)
        along = _attend(lines, -bias[0, :, None, None] * _squares(across, together))
        lines = together.transpose(1, 2).reshape(batch * across, down, 3 * width)
        upright = _attend(lines, -bias[1, :, None, None] * _squares(down, together))
        upright = upright.reshape(batch, across, down, width).transpose(1, 2)
        return along.reshape(batch, down, across, width) + upright


class ExternalAttention(nn.Module):
    """Attention to a memory of keys and values shared by all samples (Guo et al., arXiv 2105.02358), by heads."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ask = nn.Linear(width, width)
        self.keys = nn.Linear(width // _HEADS, _MEMORY, bias=False)
        self.values = nn.Linear(_MEMORY, width // _HEADS, bias=False)
        self.join = nn.Linear(width, width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return tokens of the same shape (batch, rows, columns, width)."""
        batch, rows, columns, width = tokens.shape
        asked = self.ask(tokens).reshape(batch, rows * columns, _HEADS, width // _HEADS)
        # Normalised twice: over the tokens, then over the memory.
        likeness = self.keys(asked).softmax(dim=1)
        likeness = likeness / (likeness.sum(dim=-1, keepdim=True) + 1e-9)
        found: torch.Tensor = self.join(self.values(likeness).reshape(tokens.shape))
        return found


def _attend(together: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Multi-head attention of sequences to themselves.

    Parameters
    ----------
    together
        Queries, keys and values, shape (sequences, length, 3 x width).
    bias
        Added to the similarity, shape (heads, length, length).
    """
    sequences, length, triple = together.shape
    split = together.reshape(sequences, length, 3, _HEADS, triple // 3 // _HEADS)
    query, key, value = split.permute(2, 0, 3, 1, 4)
    heard = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
    return heard.transpose(1, 2).reshape(sequences, length, triple // 3)


def _squares(length: int, like: torch.Tensor) -> torch.Tensor:
    """Squared distances between places in a line, shape (length, length)."""
    at = torch.arange(length, device=like.device, dtype=like.dtype)
    return (at[:, None] - at[None, :]) ** 2


def _conv(channels_in: int, channels: int, stride: int = 1) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(channels, momentum=_MOMENTUM),
        nn.LeakyReLU(0.1, inplace=True),
    )
