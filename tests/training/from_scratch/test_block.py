"""The block by hand is FolioDecoderLayer: the same output, and autograd's gradients, to 1e-6 in float64."""

import numpy as np
import pytest
import torch

from foliogpt.modeling import preset_config
from foliogpt.modeling.block import FolioDecoderLayer
from foliogpt.modeling.normalization import FolioRMSNorm
from foliogpt.modeling.positions import FolioRotaryEmbedding
from foliogpt.training.from_scratch import block as by_hand


@pytest.fixture
def norms_in_double(monkeypatch):
    """FolioRMSNorm casts to float32, as Llama does, whatever comes; here its own formula works in float64."""
    monkeypatch.setattr(FolioRMSNorm, "forward", lambda norm, x: norm.normalize(x, norm.weight))


def both(shape, heads: int, kv_heads: int, dtype: torch.dtype, **choices):
    """Output and gradients of x and of all weights: by autograd, and by hand."""
    torch.manual_seed(0)
    _, tokens, width = shape
    choices = {"num_attention_heads": heads, "num_key_value_heads": kv_heads, "intermediate_size": 24, **choices}
    config = preset_config("folio", "nano", hidden_size=width, **choices)
    config._attn_implementation = "sdpa"
    layer = FolioDecoderLayer(config, 0).to(dtype)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)  # norms, too, which are ones at first
    x = torch.randn(shape, dtype=dtype, requires_grad=True)
    d_y = torch.randn(shape, dtype=dtype)

    cos, sin = (torch.tensor(table, dtype=dtype) for table in by_hand.rope_tables(tokens, config.head_dim))
    turns = (torch.cat((cos, cos), -1)[None], torch.cat((-sin, sin), -1)[None])  # as FolioRotaryEmbedding gives them
    y = layer(x, position_embeddings=turns)
    y.backward(d_y)
    expected = {"y": y, "x": x.grad, **{name: p.grad for name, p in layer.named_parameters()}}

    weights = {name: p.detach().numpy() for name, p in layer.named_parameters()}
    y, saved = by_hand.block(x.detach().numpy(), weights, config.head_dim, config.norm_eps)
    d_x, grads = by_hand.block_backward(d_y.numpy(), saved)
    return expected, {"y": y, "x": d_x, **grads}


def assert_close(expected, ours, tolerance: float) -> None:
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        value = value.detach().numpy()
        atol = tolerance * max(1, np.abs(value).max())  # one token alone has attention gradients of 0
        np.testing.assert_allclose(ours[name], value, rtol=0, atol=atol, err_msg=name)


@pytest.mark.usefixtures("norms_in_double")
@pytest.mark.parametrize(
    ("shape", "heads", "kv_heads"),
    [((2, 7, 16), 4, 2), ((1, 1, 8), 2, 2), ((3, 12, 24), 6, 1), ((1, 33, 12), 2, 2)],
    ids=["grouped queries", "one token", "one key-value head", "as many heads"],
)
def test_output_and_gradients_in_float64(shape, heads, kv_heads):
    expected, ours = both(shape, heads, kv_heads, torch.float64)
    assert_close(expected, ours, 1e-6)
    assert_close(expected, ours, 1e-11)  # what float64 has room for


def test_the_block_as_it_is_used_in_float32():
    """Nothing replaced: as close as float32 allows."""
    assert_close(*both((2, 7, 16), 4, 2, torch.float32), 1e-5)


def test_the_angles_are_those_of_the_model():
    config = preset_config("folio", "nano")
    cos, sin = FolioRotaryEmbedding(config)(torch.zeros(()), torch.arange(50)[None])
    ours_cos, ours_sin = by_hand.rope_tables(50, config.head_dim)
    half = config.head_dim // 2
    np.testing.assert_allclose(ours_cos, cos[0, :, :half], atol=1e-5)
    np.testing.assert_allclose(ours_sin, sin[0, :, half:], atol=1e-5)


def test_the_gradient_is_the_slope():
    """Against no library at all: the loss after a small step along a random direction."""
    torch.manual_seed(1)
    config = preset_config("folio", "nano", hidden_size=8, num_attention_heads=2, num_key_value_heads=1)
    layer = FolioDecoderLayer(config, 0).double()
    weights = {name: 0.5 * torch.randn_like(p).numpy() for name, p in layer.named_parameters()}
    x, d_y = np.random.default_rng(0).normal(size=(2, 1, 5, 8))
    _, saved = by_hand.block(x, weights, config.head_dim)
    _, grads = by_hand.block_backward(d_y, saved)
    for name, weight in weights.items():
        direction = np.random.default_rng(1).normal(size=weight.shape)
        loss = [
            np.sum(d_y * by_hand.block(x, {**weights, name: weight + step * direction}, config.head_dim)[0])
            for step in (1e-6, -1e-6)
        ]
        assert np.sum(grads[name] * direction) == pytest.approx((loss[0] - loss[1]) / 2e-6, rel=1e-6), name
