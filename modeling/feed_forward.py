"""The feed-forward network of a Transformer layer, which processes each position separately."""

import torch
from torch import nn
from transformers.activations import ACT2FN


class FolioMLP(nn.Module):
    """Two projections around an activation (ReLU, GELU, ReLU squared), or three when gated (SwiGLU).

    Plain: down(act(up(x))), Vaswani et al. (2017). Gated: down(act(gate(x)) * up(x)), Shazeer (2020).
    """

    def __init__(self, config):
        super().__init__()
        inner, outer, bias = config.intermediate_size, config.hidden_size, config.mlp_bias
        self.up_proj = nn.Linear(outer, inner, bias=bias)
        self.gated = config.gated_mlp
        if self.gated:
            self.gate_proj = nn.Linear(outer, inner, bias=bias)
        self.down_proj = nn.Linear(inner, outer, bias=bias)
        self.down_proj.writes_to_residual = True
        self.act_fn = ACT2FN[config.hidden_act]

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:  # (B, T, C) -> (B, T, C)
        if self.gated:
            return self.down_proj(self.act_fn(self.gate_proj(hidden_states)) * self.up_proj(hidden_states))
        return self.down_proj(self.act_fn(self.up_proj(hidden_states)))
