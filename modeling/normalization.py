"""Normalization of the residual stream: LayerNorm and RMSNorm."""

import inspect

import torch
from torch import nn


class RMSNormFunction(torch.autograd.Function):
    """y = x / rms(x) * w with a gradient derived by hand, in half as many reads of memory as autograd's.

    With r = 1 / rms(x), D features and g the gradient of y:

        dx = r (g w - x r^2 mean(g w x))        dw = sum over all tokens of g x r
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """Normalize x (..., D) with weight (D,), both float32 or float64."""
        return (x * inverse_rms(x, eps)).mul_(weight)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        x, weight, ctx.eps = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx, grad: torch.Tensor):
        x, weight = ctx.saved_tensors
        r = inverse_rms(x, ctx.eps)
        grad_x = grad * x
        by_token = grad_x.reshape(-1, x.shape[-1])
        mean = (by_token @ weight).view_as(r) / x.shape[-1]
        return (x * (-(r**3) * mean)).addcmul_(grad * weight, r), r.reshape(-1) @ by_token, None


# torch inspects the signature at every call. Kept, it is ten times cheaper to read.
RMSNormFunction.forward.__signature__ = inspect.signature(RMSNormFunction.forward)


def inverse_rms(x: torch.Tensor, eps: float) -> torch.Tensor:
    """Compute 1 / rms(x): (..., D) -> (..., 1)."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return torch.rsqrt(norm * norm / x.shape[-1] + eps)


class FolioRMSNorm(nn.Module):
    """Root-mean-square normalization: x / rms(x) * weight (Zhang and Sennrich, 2019).

    The mean square is taken in float32 whatever the dtype of the input, as Llama and Qwen do.
    """

    def __init__(self, dim: int, eps: float = 1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        weight, dtype = self.weight, hidden_states.dtype
        if dtype == weight.dtype == torch.float32:  # a cast that does nothing still takes its microsecond
            return self.normalize(hidden_states, weight)
        return self.normalize(hidden_states.float(), weight.float()).to(dtype)

    def normalize(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Compute x / rms(x) * weight, all in float32."""
        # A GPU has a kernel, a compiler fuses the formula itself, and a trace cannot hold a function of Python's.
        is_plain = x.device.type != "cuda" and not (torch.compiler.is_compiling() or torch.jit.is_tracing())
        if is_plain and torch.is_grad_enabled():
            return RMSNormFunction.apply(x, weight, self.eps)
        return torch.rms_norm(x, weight.shape, weight, self.eps)

    def extra_repr(self) -> str:
        return f"{tuple(self.weight.shape)}, eps={self.eps}"


def build_norm(config, dim: int | None = None) -> nn.Module:
    """Build the normalization that `config.norm_type` names, over `dim` features (default: the hidden size)."""
    dim = config.hidden_size if dim is None else dim
    if config.norm_type == "layernorm":
        return nn.LayerNorm(dim, eps=config.norm_eps)
    return FolioRMSNorm(dim, eps=config.norm_eps)
