"""Attention, written out once for the reader; at run time transformers' interface may replace that part
by a faster kernel (sdpa, flash, flex, paged) that computes the same."""

import torch
from torch import nn
from transformers.cache_utils import Cache, EncoderDecoderCache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .forward_arguments import update_cache
from .normalization import FolioRMSNorm
from .positions import apply_rotary_pos_emb

# (B, H, T, D) = (batch, heads, tokens, head_dim); S = tokens that are attended to.


def repeat_kv(states: torch.Tensor, groups: int) -> torch.Tensor:
    """Copy each key-value head for the `groups` query heads that share it: (B, H/groups, S, D) -> (B, H, S, D)."""
    return states if groups == 1 else states.repeat_interleave(groups, dim=1)


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,  # (B, H, T, D)
    key: torch.Tensor,  # (B, H_kv, S, D)
    value: torch.Tensor,  # (B, H_kv, S, D)
    attention_mask: torch.Tensor | None,  # (B, 1, T, S), 0 where attention is allowed, else very negative
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute scaled dot-product attention: softmax(Q K^T / sqrt(d)) V (Vaswani et al., 2017, section 3.2.1).

    Returns the output as (B, T, H, D) and the attention weights as (B, H, T, S).
    """
    key, value = (repeat_kv(states, module.num_key_value_groups) for states in (key, value))

    scores = query @ key.transpose(-2, -1) * scaling  # (B, H, T, S)
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = nn.functional.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    output = weights @ value  # (B, H, T, D)
    return output.transpose(1, 2).contiguous(), weights


def build_projections(module: nn.Module, config, layer_idx: int) -> None:
    """Give an attention module its four matrices, and the attributes by which transformers' kernels know it."""
    module.config = config
    module.layer_idx = layer_idx
    module.head_dim = config.head_dim
    module.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
    module.scaling = config.head_dim**-0.5
    module.attention_dropout = config.attention_dropout

    hidden, bias = config.hidden_size, config.attention_bias
    width, kv_width = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    module.q_proj = nn.Linear(hidden, width, bias=bias)
    module.k_proj = nn.Linear(hidden, kv_width, bias=bias)
    module.v_proj = nn.Linear(hidden, kv_width, bias=bias)
    module.o_proj = nn.Linear(width, hidden, bias=bias)
    module.o_proj.writes_to_residual = True


class FolioAttention(nn.Module):
    """Self-attention: multi-head (Vaswani et al., 2017) or, with fewer key-value heads, grouped-query."""

    def __init__(self, config, layer_idx: int):
        super().__init__()
        build_projections(self, config, layer_idx)
        self.is_causal = config.is_causal
        self.sliding_window = None
        if config.layer_types[layer_idx] == "sliding_attention":
            # Kernels count the token itself; an encoder's mask reaches `sliding_window` tokens to either side of it.
            self.sliding_window = config.sliding_window + (0 if config.is_causal else 1)
        self.qk_norm = config.qk_norm
        if self.qk_norm:
            self.q_norm = FolioRMSNorm(self.head_dim, eps=config.norm_eps)
            self.k_norm = FolioRMSNorm(self.head_dim, eps=config.norm_eps)

    def forward(
        self,
        hidden_states: torch.Tensor,  # (B, T, C)
        attention_mask: torch.Tensor | None = None,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
        cache: Cache | None = None,
        **kwargs,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the output (B, T, C) and, when written out (`eager`), the attention weights."""
        batch_and_tokens = hidden_states.shape[:-1]
        by_head = (*batch_and_tokens, -1, self.head_dim)
        q = self.q_proj(hidden_states).view(by_head)  # (B, T, H, D)
        k = self.k_proj(hidden_states).view(by_head)
        v = self.v_proj(hidden_states).view(by_head)
        if self.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # (B, H, T, D)
        if position_embeddings is not None:
            q, k = apply_rotary_pos_emb(q, k, *position_embeddings)
        if cache is not None:
            k, v = update_cache(cache, k, v, self.layer_idx, kwargs)

        attention = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        output, weights = attention(
            self,
            q,
            k,
            v,
            attention_mask,
            dropout=self.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            sliding_window=self.sliding_window,
            **kwargs,
        )
        return self.o_proj(output.reshape(*batch_and_tokens, -1)), weights


class FolioCrossAttention(nn.Module):
    """A decoder's attention to an encoder's output (Vaswani et al., 2017, section 3.2.3)."""

    def __init__(self, config, layer_idx: int):
        super().__init__()
        build_projections(self, config, layer_idx)
        self.is_causal = False

    def forward(
        self,
        hidden_states: torch.Tensor,  # (B, T, C)
        encoder_hidden_states: torch.Tensor,  # (B, S, C)
        attention_mask: torch.Tensor | None = None,
        cache: Cache | None = None,
        **kwargs,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the output (B, T, C) and, when written out (`eager`), the attention weights."""
        batch_and_tokens = hidden_states.shape[:-1]
        q = self.q_proj(hidden_states).view(*batch_and_tokens, -1, self.head_dim).transpose(1, 2)
        k, v = self._keys_and_values(encoder_hidden_states, cache)

        attention = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        kwargs["is_causal"] = False  # the caller's flag is about the decoder's own past
        output, weights = attention(
            self,
            q,
            k,
            v,
            attention_mask,
            dropout=self.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            **kwargs,
        )
        return self.o_proj(output.reshape(*batch_and_tokens, -1)), weights

    def _keys_and_values(self, encoder_hidden_states, cache) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute the encoder's keys and values (B, H_kv, S, D) once per sequence: they are the same at every step."""
        cache = cache if isinstance(cache, EncoderDecoderCache) else None
        if cache is not None and cache.is_updated.get(self.layer_idx):
            layer = cache.cross_attention_cache.layers[self.layer_idx]
            return layer.keys, layer.values
        by_head = (*encoder_hidden_states.shape[:-1], -1, self.head_dim)
        k = self.k_proj(encoder_hidden_states).view(by_head).transpose(1, 2)
        v = self.v_proj(encoder_hidden_states).view(by_head).transpose(1, 2)
        if cache is not None:
            k, v = cache.cross_attention_cache.update(k, v, self.layer_idx)
            cache.is_updated[self.layer_idx] = True
        return k, v
