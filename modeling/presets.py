"""Named architectures and sizes, as data. A preset says how the model is built, a size how large it is."""

from huggingface_hub.errors import StrictDataclassError

from .configuration_folio import FolioConfig

PRESETS: dict[str, dict] = {
    # The stack of "Attention Is All You Need" (Vaswani et al., 2017).
    "vaswani": {
        "position_embedding_type": "sinusoidal",
        "scale_embeddings": True,
        "norm_type": "layernorm",
        "norm_position": "post",
        "norm_eps": 1e-5,
        "hidden_act": "relu",
        "gated_mlp": False,
        "mlp_bias": True,
        "num_key_value_heads": None,
        "qk_norm": False,
        "residual_init": "normal",
    },
    # GPT-2 (Radford et al., 2019); exchanges weights with GPT2LMHeadModel.
    "gpt2": {
        "position_embedding_type": "learned",
        "norm_type": "layernorm",
        "norm_eps": 1e-5,
        "hidden_act": "gelu_pytorch_tanh",  # GPT-2's `gelu_new` in one kernel
        "gated_mlp": False,
        "attention_bias": True,
        "mlp_bias": True,
        "num_key_value_heads": None,
        "qk_norm": False,
    },
    # Llama 2 and 3 (Touvron et al., 2023); exchanges weights with LlamaForCausalLM.
    "llama": {"qk_norm": False},
    # The lowest loss a second on small machines, after modded-nanogpt and nanochat; no native export.
    "speedrun": {
        "hidden_act": "relu2",
        "gated_mlp": False,
        "num_key_value_heads": None,
        "residual_init": "zero",
        "final_logit_softcapping": 15.0,
    },
    # The default; exchanges weights with Qwen3ForCausalLM.
    "folio": {},
}

# Key-value heads count where a preset uses grouped-query attention.
SIZES: dict[str, dict] = {
    "nano": {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2},
    "micro": {"hidden_size": 256, "num_hidden_layers": 6, "num_attention_heads": 8, "num_key_value_heads": 4},
    "mini": {"hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8, "num_key_value_heads": 4},
    "small": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "num_key_value_heads": 4},
    "medium": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "num_key_value_heads": 8},
}


def preset_config(preset: str = "folio", size: str = "nano", **overrides) -> FolioConfig:
    """Make the config of a named architecture at a named size; `overrides` are any fields of `FolioConfig`.

    Raises:
        ValueError: for an unknown name (the message lists the known ones), or overrides that
            `FolioConfig` rejects.
    """
    if preset not in PRESETS:
        raise ValueError(f"There is no preset {preset!r}: choose one of {', '.join(PRESETS)}.")
    if size not in SIZES:
        raise ValueError(f"There is no size {size!r}: choose one of {', '.join(SIZES)}.")
    try:
        return FolioConfig(**{**SIZES[size], **PRESETS[preset], **overrides})
    except StrictDataclassError as error:
        raise ValueError(str(error.__cause__ or error)) from None
    except KeyError as error:  # of what a rope_type needs
        raise ValueError(error.args[0]) from None
