"""A network asked twice: of the patient, and of the patient in a mirror."""

from collections.abc import Sequence

import torch

from pipelines.inference.engine import Engine, Network, engine_of


def mirrored(network: Network, sides: Sequence[int] = ()) -> Engine:
    """Return a network that averages its logits of an image and of its mirror image, left and right: twice the time.

    Parameters
    ----------
    network
        Takes float32 (batch, channel, ..., columns), returns logits (batch, classes, ..., columns).
    sides
        Which class each is in a mirror, for classes that have a side: of left psoas the number of right psoas. Empty:
        none has.
    """
    engine = engine_of(network)

    def infer(image: torch.Tensor) -> torch.Tensor:
        straight = engine.infer(image)
        other = engine.infer(image.flip(-1)).flip(-1)
        return (straight + (other[:, list(sides)] if sides else other)) / 2

    return Engine(infer=infer, device=engine.device, backend=engine.backend)
