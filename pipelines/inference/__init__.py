"""Running networks over volumes, fast and within bounded memory.

`compile_network` once, when a pipeline loads; then `segment_slices` for a network of slices and
`segment_patches` for a network of patches. Both read the source once, resample once, look only where the
patient is, and answer on the source's own grid: the network's logits are resampled, never labels. A network that
is `mirrored` looks twice.
docs/inference.md states what it costs.
"""

from pipelines.inference.engine import Engine, Network, compile_network, engine_of
from pipelines.inference.grid import Box, Floats, bounding_box, put_back, resample
from pipelines.inference.mirroring import mirrored
from pipelines.inference.patches import PatchInference, segment_patches
from pipelines.inference.slices import SliceInference, segment_slices

__all__ = [
    "Box",
    "Engine",
    "Floats",
    "Network",
    "PatchInference",
    "SliceInference",
    "bounding_box",
    "compile_network",
    "engine_of",
    "mirrored",
    "put_back",
    "resample",
    "segment_patches",
    "segment_slices",
]
