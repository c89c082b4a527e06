"""The mixed transformer U-Net: shapes, size, what attends to what."""

from __future__ import annotations

import pytest
import torch

from pipelines.networks.mtunet import STRIDE, ExternalAttention, LocalGlobalAttention, MTUNet

SMALL = (8, 8, 12, 16)


@pytest.mark.parametrize("channels", [1, 2])
def test_logits_have_the_size_of_the_image(channels: int) -> None:
    torch.manual_seed(0)
    network = MTUNet(channels, 3, SMALL).eval()
    image = torch.randn(2, channels, STRIDE, 2 * STRIDE)
    with torch.inference_mode():
        logits = network(image)
        one = network(image[1:])
    assert logits.shape == (2, 3, STRIDE, 2 * STRIDE)
    assert torch.isfinite(logits).all()
    torch.testing.assert_close(logits[1:], one, rtol=1e-4, atol=1e-4)


def test_the_network_that_ships_is_narrow() -> None:
    weights = sum(weight.numel() for weight in MTUNet(2).parameters())
    assert 1_000_000 < weights < 2_000_000


def test_every_weight_learns() -> None:
    torch.manual_seed(0)
    network = MTUNet(2, 3, SMALL)
    network(torch.randn(2, 2, 2 * STRIDE, 2 * STRIDE)).square().mean().backward()
    dead = [
        name
        for name, weight in network.named_parameters()
        if weight.grad is None or not weight.grad.any()
    ]
    # The bias of the keys moves all similarities of a query alike, and of the weights within a window.
    assert [name for name in dead if not name.endswith("weigh.bias")] == []


def test_it_begins_with_background() -> None:
    torch.manual_seed(0)
    network = MTUNet(1, 3, SMALL).eval()
    with torch.inference_mode():
        likely = network(torch.randn(1, 1, STRIDE, STRIDE)).softmax(dim=1)
    assert likely[:, 0].mean() > 0.7


def test_widths_must_fit() -> None:
    with pytest.raises(ValueError, match="four widths"):
        MTUNet(1, 3, (8, 8, 8))
    with pytest.raises(ValueError, match="multiples"):
        MTUNet(1, 3, (8, 8, 10, 12))


def test_near_windows_are_heard_more_than_far_ones() -> None:
    """Change one window, and see by how much the others in its row change: less and less, with a steep Gaussian."""
    torch.manual_seed(0)
    attention = LocalGlobalAttention(8)
    with torch.no_grad():
        attention.nearness.fill_(0.5)
    tokens = torch.randn(1, 4, 4 * 8, 8)
    changed = tokens.clone()
    changed[:, :, :4] += 2
    with torch.inference_mode():
        moved = (attention(changed) - attention(tokens)).abs().amax(dim=(0, 1, 3)).reshape(8, 4)
    by_window = moved.amax(dim=1)
    assert by_window[0] > by_window[1] > by_window[2] > by_window[3]
    assert by_window[7] < 1e-3 * by_window[1]


def test_external_attention_asks_one_memory_whatever_the_number_of_tokens() -> None:
    """Twice the same tokens find the same: what is found does not grow or shrink with the image."""
    torch.manual_seed(0)
    attention = ExternalAttention(8)
    tokens = torch.randn(1, 4, 4, 8)
    twice = torch.cat([tokens, tokens], dim=2)
    with torch.inference_mode():
        once, double = attention(tokens), attention(twice)
    torch.testing.assert_close(double[:, :, :4], once, rtol=1e-5, atol=1e-6)
