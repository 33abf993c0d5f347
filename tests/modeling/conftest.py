"""Tiny random models."""

import pytest
import torch

from foliogpt.modeling import preset_config

TINY = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 1,
}


@pytest.fixture
def tiny():
    """A function that makes a small config of a preset; fields can be given."""

    def make(preset: str = "folio", **fields):
        # residual_init: a block that starts as zero would hide what it does wrong
        return preset_config(preset, "nano", **{**TINY, "residual_init": "normal", **fields})

    torch.manual_seed(0)
    return make
