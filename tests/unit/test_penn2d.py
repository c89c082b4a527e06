"""The network of extracted patches."""

from __future__ import annotations

import pytest
import torch

from pipelines.inference import compile_network
from pipelines.inference.engine import Backend
from pipelines.inference.openvino import is_installed
from pipelines.networks import penn2d
from pipelines.networks.penn2d import PATCH, STRIDE, Penn2d

TINY = (4, 4, 8, 8)


def test_the_network_that_ships_is_as_large_as_it_says() -> None:
    assert 1e6 < sum(weight.numel() for weight in Penn2d().parameters()) < 2e6


@pytest.mark.parametrize("size", [(STRIDE, STRIDE), (STRIDE, 3 * STRIDE), (4 * STRIDE, 2 * STRIDE)])
def test_it_answers_for_every_pixel_and_learns_in_every_weight(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    network = Penn2d(TINY)
    logits = network(torch.randn(2, 1, *size))
    assert logits.shape == (2, 3, *size)
    logits.square().mean().backward()
    assert all(weight.grad is not None for weight in network.parameters())


def test_patches_that_agree_are_stitched_to_what_they_say() -> None:
    """Of each pixel the weighted mean over patches: equal logits stay, up to the border of the image."""
    network = Penn2d(TINY)
    image = torch.zeros(1, 1, 2 * STRIDE, 3 * STRIDE)
    logits = torch.full((6, 3, PATCH, PATCH), 7.0)
    assert torch.allclose(network._stitch(logits, image), torch.full((1, 3, *image.shape[2:]), 7.0))


def test_patches_lie_where_they_were_taken_from() -> None:
    network = Penn2d(TINY)
    image = torch.rand(2, 1, 3 * STRIDE, 2 * STRIDE)
    border = (PATCH - STRIDE) // 2
    padded = torch.nn.functional.pad(image, (border,) * 4, mode="replicate")
    patches = penn2d._extract(padded, PATCH, STRIDE).expand(-1, 3, -1, -1)
    stitched = network._stitch(patches, image)
    torch.testing.assert_close(stitched, image.expand(-1, 3, -1, -1))


def test_a_patch_counts_less_towards_its_edge() -> None:
    weights = penn2d._weights()
    assert weights[PATCH // 2, PATCH // 2] == 1
    assert weights[PATCH // 2, 0] < 0.05
    assert (weights > 0).all()


def test_a_patch_knows_its_surroundings() -> None:
    torch.manual_seed(1)
    network = Penn2d(TINY).eval()
    image = torch.rand(1, 1, 4 * STRIDE, 4 * STRIDE)
    other = image.clone()
    other[..., 3 * STRIDE :] += 1  # no patch of the first column reaches there
    with torch.inference_mode():
        one, two = network(image), network(other)
    assert not torch.equal(one[..., :STRIDE], two[..., :STRIDE])


@pytest.mark.skipif(not is_installed(), reason="the extra `cpu` is not installed")
def test_openvino_runs_it() -> None:
    torch.manual_seed(2)
    network = Penn2d(TINY).eval()
    engine = compile_network(
        network, "cpu", [(1, 1, STRIDE, 2 * STRIDE), (2, 1, 3 * STRIDE, STRIDE)]
    )
    assert engine.backend is Backend.OPENVINO
