"""One layer of the backbone: attention and a feed-forward network around the residual stream."""

import torch
from torch import nn
from transformers.cache_utils import EncoderDecoderCache
from transformers.modeling_layers import GradientCheckpointingLayer

from .attention import FolioAttention, FolioCrossAttention
from .configuration_folio import FolioConfig
from .feed_forward import FolioMLP
from .forward_arguments import CACHE
from .normalization import build_norm


class FolioDecoderLayer(GradientCheckpointingLayer):
    """One layer: attention, then the feed-forward network, each added to the residual stream.

    The norm comes before each of them, which is stable when deep (Xiong et al., 2020), or after the sum, as in the
    original.
    """

    def __init__(self, config: FolioConfig, layer_idx: int):
        super().__init__()
        self.norm_first = config.norm_position == "pre"
        self.hidden_dropout = config.hidden_dropout
        self.attention_type = config.layer_types[layer_idx]
        self.self_attn = FolioAttention(config, layer_idx)
        self.input_layernorm = build_norm(config)
        if config.add_cross_attention:
            self.cross_attn = FolioCrossAttention(config, layer_idx)
            self.cross_attention_layernorm = build_norm(config)
        self.mlp = FolioMLP(config)
        self.post_attention_layernorm = build_norm(config)

    def forward(
        self,
        hidden_states: torch.Tensor,  # (B, T, C)
        encoder_hidden_states: torch.Tensor | None = None,  # (B, S, C)
        attention_mask: torch.Tensor | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
        **kwargs,
    ) -> torch.Tensor:
        cache = kwargs.pop(CACHE, None)
        own_cache = cache.self_attention_cache if isinstance(cache, EncoderDecoderCache) else cache

        x = self.input_layernorm(hidden_states) if self.norm_first else hidden_states
        x, _ = self.self_attn(hidden_states=x, attention_mask=attention_mask, cache=own_cache, **kwargs)
        hidden_states = hidden_states + self.dropout(x)
        if not self.norm_first:
            hidden_states = self.input_layernorm(hidden_states)

        if encoder_hidden_states is not None:
            x = self.cross_attention_layernorm(hidden_states) if self.norm_first else hidden_states
            mask = encoder_attention_mask
            x, _ = self.cross_attn(x, encoder_hidden_states, mask, cache=cache, **kwargs)
            hidden_states = hidden_states + self.dropout(x)
            if not self.norm_first:
                hidden_states = self.cross_attention_layernorm(hidden_states)

        x = self.post_attention_layernorm(hidden_states) if self.norm_first else hidden_states
        hidden_states = hidden_states + self.dropout(self.mlp(x))
        return hidden_states if self.norm_first else self.post_attention_layernorm(hidden_states)

    def dropout(self, output: torch.Tensor) -> torch.Tensor:
        """Apply dropout to a sublayer's output, before it is added to the residual stream."""
        if self.training and self.hidden_dropout:
            return nn.functional.dropout(output, self.hidden_dropout)
        return output
