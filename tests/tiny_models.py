"""Tiny random models."""

import pytest
import torch

from foliogpt.checkpoints import conversion
from foliogpt.modeling import FolioForCausalLM, preset_config
from foliogpt.tokenization import train_tokenizer

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


@pytest.fixture(scope="session")
def tiny_config():
    """A function that makes a small config of a preset; fields can be given."""

    def make(preset: str = "folio", **fields):
        # residual_init: a block that starts as zero would hide what it does wrong
        return preset_config(preset, "nano", **{**TINY, "residual_init": "normal", **fields})

    return make


@pytest.fixture
def tiny(tiny_config):
    """`tiny_config`, and the same random numbers for each test."""
    torch.manual_seed(0)
    return tiny_config


@pytest.fixture(scope="session")
def tokenizer():
    return train_tokenizer([conversion.TEXT * 3], 300, show_progress=False)


@pytest.fixture
def save(tiny, tokenizer, tmp_path):
    """Writes a tiny Folio checkpoint whose every weight, norms and biases too, is random."""

    def write(preset: str, dtype=torch.float32, max_shard_size="1GB", name="source", tokenizer=tokenizer, **fields):
        config = tiny(preset, **{"vocab_size": 304, "initializer_range": 0.2, **fields})
        model = FolioForCausalLM(config).to(dtype)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 1:
                    parameter.normal_(1.0, 0.2)
        model.save_pretrained(tmp_path / name, max_shard_size=max_shard_size)
        tokenizer.save_pretrained(tmp_path / name)
        return tmp_path / name

    return write
