"""A residual 2D U-Net that works at half resolution and answers at full resolution."""

from collections.abc import Sequence

import torch
from monai.networks.nets.unet import UNet
from torch import nn

# Logits at the start: about 3 % foreground, and steep enough to reach certainty soon. Normalised
# features and small first weights alone would spend hundreds of steps on that.
_GAIN, _PRIOR = 4.0, -3.5

#: Rows and columns of the input must be multiples of this.
STRIDE = 16


class UNet2d(nn.Module):
    """MONAI's residual U-Net between a pixel unshuffle and a pixel shuffle.

    Each 2 x 2 block of pixels enters as four channels and four logits leave it, so nothing of the
    resolution is lost while every convolution runs on a quarter of the pixels.

    Parameters
    ----------
    channels
        Channels of the five levels; the default has 1.6 million weights.
    """

    def __init__(self, channels: Sequence[int] = (16, 32, 64, 128, 256)) -> None:
        super().__init__()
        self.fold = nn.PixelUnshuffle(2)
        self.body = UNet(
            spatial_dims=2,
            in_channels=4,
            out_channels=4,
            channels=tuple(channels),
            strides=(1,) + (2,) * (len(channels) - 2),
            num_res_units=2,
            norm=("GROUP", {"num_groups": 4}),
            act=("LEAKYRELU", {"negative_slope": 0.1, "inplace": True}),
        )
        self.unfold = nn.PixelShuffle(2)
        # A third faster on CPUs, and what GPUs want with mixed precision.
        for weight in self.parameters():
            if weight.dim() == 4:
                weight.data = weight.data.contiguous(memory_format=torch.channels_last)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return logits.

        Parameters
        ----------
        image
            float, shape (batch, 1, rows, columns), normalised; rows and columns are multiples of
            `STRIDE`.

        Returns
        -------
        torch.Tensor
            float, shape (batch, 1, rows, columns).
        """
        folded = self.fold(image).contiguous(memory_format=torch.channels_last)
        logits: torch.Tensor = self.unfold(self.body(folded))
        return logits * _GAIN + _PRIOR
