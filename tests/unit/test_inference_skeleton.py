"""The shipped skeleton network by the engine: what it finds is what it found slice by slice in plain torch."""

import highdicom as hd
import numpy as np
import pytest
import torch
from torch.nn import functional

from pipelines.ct_skeleton.pipeline import PIXEL_SPACING, load_network
from pipelines.ct_skeleton.preprocessing import apply_threshold, clip, normalise
from pipelines.inference import (
    Box,
    Engine,
    SliceInference,
    compile_network,
    engine_of,
    segment_slices,
)
from pipelines.inference.engine import Backend
from pipelines.inference.openvino import is_installed
from pipelines.networks.unet2d import STRIDE
from pipelines.registry import BUILT_IN

WEIGHTS = BUILT_IN / "ct_skeleton" / "weights.safetensors"
BOX = Box(slices=(1, 9), rows=(20, 190), columns=(10, 230))


@pytest.fixture(scope="module")
def body() -> hd.Volume:
    """An ellipse with bones: bright shells around marrow."""
    image = np.random.default_rng(3).normal(0, 15, (10, 210, 240))
    y, x = np.mgrid[-1:1:210j, -1:1:240j]
    image += np.where(np.hypot(x / 0.85, y / 0.7) < 1, 40, -1000)
    for left, top, radius in ((0, 0.4, 0.18), (-0.6, 0, 0.07), (0.6, 0, 0.07)):
        distance = np.hypot(x - left, y - top)
        image[:, distance < radius] += 600
        image[:, distance < 0.7 * radius] -= 450
    return hd.Volume.from_components(
        image.astype(np.int16), spacing=(3, 1.4, 1.4), coordinate_system="PATIENT",
        position=(0, 0, 0), patient_orientation="FPL",
    )  # fmt: skip


def _prepare(image: np.ndarray) -> np.ndarray:
    return normalise(clip(apply_threshold(image.astype(np.float32))), 1200.0)


def _plainly(volume: hd.Volume) -> np.ndarray:
    """One slice after the other: what version 1.0.0 did, in as few words as there are."""
    network = load_network(WEIGHTS, "cpu")
    found = np.zeros(volume.shape, np.uint8)
    for index in range(*BOX.slices):
        image = torch.from_numpy(_prepare(volume.array[index][BOX.index[1:]]))[None, None]
        grid = [round(length * 1.4 / PIXEL_SPACING) for length in BOX.shape[1:]]
        resampled = functional.interpolate(
            image, size=grid, mode="bilinear", align_corners=False, antialias=True
        )
        padding = (0, -grid[1] % STRIDE, 0, -grid[0] % STRIDE)
        with torch.inference_mode():
            logits = network(functional.pad(resampled, padding, value=-1.0))
        back = functional.interpolate(
            logits[..., : grid[0], : grid[1]], size=BOX.shape[1:], mode="bilinear"
        )
        found[index][BOX.index[1:]] = (torch.sigmoid(back) >= 0.5)[0, 0].numpy()
    return found


def _engines() -> dict[Backend, Engine]:
    network = load_network(WEIGHTS, "cpu")
    engines = {Backend.TORCH: engine_of(network)}
    if is_installed():
        engine = compile_network(network, "cpu", ((1, 1, 64, 96), (2, 1, 96, 64)))
        engines[engine.backend] = engine
    return engines


def test_results_are_those_of_plain_torch(body: hd.Volume) -> None:
    expected = _plainly(body)
    assert 5_000 < expected.sum() < 100_000
    engines = _engines()
    assert set(engines) == (set(Backend) if is_installed() else {Backend.TORCH})
    for engine in engines.values():
        how = SliceInference(pixel_spacing=PIXEL_SPACING, stride=STRIDE, batch_size=3)
        found = segment_slices(engine, body, _prepare, BOX, how)
        # Logits within rounding of zero: a few voxels in ten thousand of the boundary.
        assert (found.array != expected).sum() <= 1e-4 * expected.sum()
