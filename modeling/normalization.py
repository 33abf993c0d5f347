"""Normalisation of the residual stream: LayerNorm and RMSNorm."""

import torch
from torch import nn


class FolioRMSNorm(nn.Module):
    """Root-mean-square normalisation: x / rms(x) * weight (Zhang and Sennrich, 2019).

    The mean square is taken in float32 whatever the dtype of the input, as Llama and Qwen do.
    """

    def __init__(self, dim: int, eps: float = 1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        # x * rsqrt(mean(x^2) + eps) * weight, in one kernel where PyTorch has one
        x = torch.rms_norm(hidden_states.float(), self.weight.shape, self.weight.float(), self.eps)
        return x.to(hidden_states.dtype)

    def extra_repr(self) -> str:
        return f"{tuple(self.weight.shape)}, eps={self.eps}"


def build_norm(config, dim: int | None = None) -> nn.Module:
    """The normalisation that `config.norm_type` names, over `dim` features (default: the hidden size)."""
    dim = config.hidden_size if dim is None else dim
    if config.norm_type == "layernorm":
        return nn.LayerNorm(dim, eps=config.norm_eps)
    return FolioRMSNorm(dim, eps=config.norm_eps)
