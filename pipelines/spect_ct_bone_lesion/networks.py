"""One network for each set of inputs, kept and trained together."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import torch
from torch import nn

from pipelines.inference import Engine, compile_network
from pipelines.networks.mtunet import MTUNet

#: Logits of each network: background, metastasis, benign lesion.
CLASSES = 3
#: Slices of each image that a network sees at once; it answers for the middle one.
SLICES = 3
#: Channels that pixel blocks of one image enter the stem with.
_FOLDED = 4 * SLICES
#: Share of a run after which SPECT/CT begins, with what CT has learned.
TRANSFER_AT = 0.3


class Inputs(StrEnum):
    """Which images there are."""

    SPECT = "spect"
    CT = "ct"
    BOTH = "spect_ct"


#: Channels that each network sees.
_CHANNELS = {Inputs.SPECT: SLICES, Inputs.CT: SLICES, Inputs.BOTH: 2 * SLICES}


class LesionNetworks(nn.Module):
    """Three MT-UNets: of SPECT, of CT, and of both, which is initialised by the one of CT.

    Parameters
    ----------
    channels
        Of the levels of each; None: those that ship.
    """

    transferred: torch.Tensor

    def __init__(self, channels: Sequence[int] | None = None) -> None:
        super().__init__()
        widths = {} if channels is None else {"channels": channels}
        self.spect = MTUNet(SLICES, CLASSES, **widths)
        self.ct = MTUNet(SLICES, CLASSES, **widths)
        self.spect_ct = MTUNet(2 * SLICES, CLASSES, **widths)
        self.register_buffer("transferred", torch.zeros(()))
        self.learns_both = True

    def of(self, inputs: Inputs) -> MTUNet:
        """Return the network of a set of inputs."""
        return {Inputs.SPECT: self.spect, Inputs.CT: self.ct, Inputs.BOTH: self.spect_ct}[inputs]

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return the logits of all three, one after the other, for training.

        Parameters
        ----------
        image
            float, shape (batch, 2 x `SLICES`, rows, columns): neighbouring slices of SPECT, then of CT, normalised.

        Returns
        -------
        torch.Tensor
            float, shape (batch, 9, rows, columns), in the order of `Inputs`; while CT is still learned alone, those of
            SPECT/CT are zero.
        """
        spect, ct = self.spect(image[:, :SLICES]), self.ct(image[:, SLICES:])
        wait = self.training and not self.learns_both
        both = torch.zeros_like(ct) if wait else self.spect_ct(image)
        return torch.cat([spect, ct, both], dim=1)

    @torch.no_grad()
    def transfer(self) -> None:
        """Begin SPECT/CT with the weights of CT; in the stem those of the SPECT channel stay as they are."""
        mine, stem = self.spect_ct.state_dict(), "stem.0.0.weight"
        learned = dict(self.ct.state_dict())
        # PixelUnshuffle keeps the pixels of one channel together; CT is the second half.
        whole = mine[stem].clone()
        whole[:, _FOLDED:] = learned[stem]
        self.spect_ct.load_state_dict(learned | {stem: whole})
        self.transferred.fill_(1)


class Engines:
    """The networks on their device, each compiled when images first need it, and then kept.

    Parameters
    ----------
    networks
        In eval mode.
    device
        torch device, e.g. `cpu` or `cuda:0`.
    """

    def __init__(self, networks: LesionNetworks, device: str) -> None:
        self._networks, self._device = networks, device
        self._compiled: dict[Inputs, Engine] = {}

    @property
    def ready(self) -> tuple[Inputs, ...]:
        """Those that are compiled, in the order in which they were needed."""
        return tuple(self._compiled)

    def of(self, inputs: Inputs) -> Engine:
        """Return the network of a set of inputs, ready to run."""
        if inputs not in self._compiled:
            channels = _CHANNELS[inputs]
            self._compiled[inputs] = compile_network(
                self._networks.of(inputs),
                self._device,
                ((1, channels, 64, 128), (2, channels, 128, 64)),
            )
        return self._compiled[inputs]


def schedule(network: nn.Module, done: float) -> None:
    """Learn SPECT and CT first, then all three; weights that have been transferred once learn all from the start."""
    if not isinstance(network, LesionNetworks):
        raise TypeError(f"{type(network).__name__} is no LesionNetworks")
    if done >= TRANSFER_AT and not bool(network.transferred):
        network.transfer()
    network.learns_both = bool(network.transferred)
