"""Positions of tokens in a Transformer: added to the embeddings (learned, sinusoidal) or as a rotation of
queries and keys (RoPE)."""

import math

import torch
from torch import nn
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS, dynamic_rope_update


class FolioLearnedPositions(nn.Embedding):
    """One trained vector for each position (GPT-2)."""

    def __init__(self, config):
        super().__init__(config.max_position_embeddings, config.hidden_size)

    def forward(self, position_ids: torch.Tensor) -> torch.Tensor:  # (B, T) -> (B, T, C)
        return super().forward(position_ids)


class FolioSinusoidalPositions(nn.Module):
    """Sines and cosines of geometrically spaced wavelengths (Vaswani et al., 2017, section 3.5).

    Computed when called: there is no table that could be lost when weights are loaded.
    """

    def __init__(self, config):
        super().__init__()
        self.dim = config.hidden_size

    def forward(self, position_ids: torch.Tensor) -> torch.Tensor:  # (B, T) -> (B, T, C)
        pairs = torch.arange(0, self.dim, 2, device=position_ids.device, dtype=torch.float)
        angles = position_ids[..., None].float() * torch.exp(-math.log(10_000.0) * pairs / self.dim)
        return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2)


class FolioRotaryEmbedding(nn.Module):
    """The angles of RoPE (Su et al., 2021), with every `rope_type` of transformers' `ROPE_INIT_FUNCTIONS`.

    transformers finds this class by its name and the buffer `original_inv_freq`, and fills the buffers
    again after a model was made without memory (on the meta device).
    """

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.max_seq_len_cached = config.max_position_embeddings
        self.original_max_seq_len = config.max_position_embeddings
        self.rope_type = config.rope_parameters["rope_type"]
        compute = ROPE_INIT_FUNCTIONS.get(self.rope_type, self.compute_default_rope_parameters)
        inv_freq, self.attention_scaling = compute(config)
        self.register_buffer("inv_freq", inv_freq, persistent=False)
        self.register_buffer("original_inv_freq", inv_freq.clone(), persistent=False)

    @staticmethod
    def compute_default_rope_parameters(config, device=None, seq_len=None) -> tuple[torch.Tensor, float]:
        """Compute the angular frequency of each pair of dimensions, theta^(-2i/d), and the scale of the result (1)."""
        pairs = torch.arange(0, config.head_dim, 2, device=device, dtype=torch.float)
        return config.rope_parameters["rope_theta"] ** (-pairs / config.head_dim), 1.0

    @torch.no_grad()
    @dynamic_rope_update  # lets the types "dynamic" and "longrope" follow the sequence length
    def forward(self, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute cosines and sines for `position_ids` (B, T), each (B, T, head_dim) in the dtype of `x`.

        The sines of the first half are negated: the sign that `apply_rotary_pos_emb` needs there.
        """
        angles = position_ids[..., None].float() * self.inv_freq.to(device=x.device, dtype=torch.float)
        cos, sin = angles.cos() * self.attention_scaling, angles.sin() * self.attention_scaling
        return torch.cat((cos, cos), dim=-1).to(x.dtype), torch.cat((-sin, sin), dim=-1).to(x.dtype)


def apply_rotary_pos_emb(q, k, cos, sin) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotate queries and keys (B, heads, T, head_dim) by the angles of `FolioRotaryEmbedding`.

    The halves (a, b) of a head become (a cos - b sin, b cos + a sin).
    """
    cos, sin, half = cos.unsqueeze(1), sin.unsqueeze(1), q.shape[-1] // 2  # (B, 1, T, head_dim) twice

    def rotate(x: torch.Tensor) -> torch.Tensor:
        return torch.addcmul(x * cos, x.roll(half, dims=-1), sin)  # rolled by half: (b, a)

    return rotate(q), rotate(k)


def build_positions(config) -> nn.Module | None:
    """Build the module whose output is added to the token embeddings, or None for RoPE and for no positions."""
    if config.position_embedding_type == "learned":
        return FolioLearnedPositions(config)
    if config.position_embedding_type == "sinusoidal":
        return FolioSinusoidalPositions(config)
    return None
