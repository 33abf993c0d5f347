"""RMSNorm computes what Llama's does, and its gradient by hand is the true one."""

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from foliogpt.modeling.normalization import FolioRMSNorm, RMSNormFunction


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_output_and_gradients_are_those_of_llama(dtype):
    generator = torch.Generator().manual_seed(0)
    ours, theirs = FolioRMSNorm(12, eps=1e-5).to(dtype), LlamaRMSNorm(12, eps=1e-5).to(dtype)
    weight = torch.randn(12, generator=generator)
    gradient = torch.randn(2, 5, 3, 12, generator=generator).to(dtype)
    results = []
    for norm in (ours, theirs):
        norm.weight.data.copy_(weight)
        x = torch.randn(2, 5, 3, 12, generator=torch.Generator().manual_seed(1)).to(dtype).requires_grad_()
        y = norm(x)
        y.backward(gradient)
        results.append((y, x.grad, norm.weight.grad))
    with torch.no_grad():  # the road of inference
        results.append((ours(x), *results[0][1:]))
    for result in (results[0], results[2]):
        for a, b in zip(result, results[1], strict=True):
            assert a.dtype == b.dtype == dtype
            torch.testing.assert_close(a, b, atol=5 * torch.finfo(dtype).eps, rtol=8 * torch.finfo(dtype).eps)


def test_the_gradient_by_hand_is_right_to_the_second_order():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 2, 7, dtype=torch.double, generator=generator, requires_grad=True)
    weight = torch.randn(7, dtype=torch.double, generator=generator, requires_grad=True)
    assert torch.autograd.gradcheck(RMSNormFunction.apply, (x, weight, 1e-6))
    assert torch.autograd.gradgradcheck(RMSNormFunction.apply, (x, weight, 1e-6))


def test_gradients_of_many_inputs_at_once():
    norm, x = FolioRMSNorm(7), torch.randn(4, 7, generator=torch.Generator().manual_seed(0))

    def loss(x):
        return norm(x).pow(3).sum()

    alone = torch.stack([torch.func.grad(loss)(row) for row in x])
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(loss))(x), alone)


def test_a_token_of_zeros_has_a_finite_gradient():
    x = torch.zeros(1, 7, requires_grad=True)
    FolioRMSNorm(7)(x).sum().backward()
    assert torch.isfinite(x.grad).all()
