"""FolioConfig: every architectural choice of a Folio model, checked when the config is made."""

from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers.activations import ACT2FN
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

# Where a checkpoint's code is, for every way in. transformers alone would save the entry of the saved class only,
# and then no other head, nor PEFT or sentence-transformers, could open the checkpoint.
AUTO_MAP = {
    "AutoConfig": "configuration_folio.FolioConfig",
    "AutoModel": "modeling_folio.FolioModel",
    "AutoModelForCausalLM": "modeling_folio.FolioForCausalLM",
    "AutoModelForMaskedLM": "modeling_folio.FolioForMaskedLM",
    "AutoModelForSequenceClassification": "modeling_folio.FolioForSequenceClassification",
    "AutoModelForTokenClassification": "modeling_folio.FolioForTokenClassification",
    "AutoModelForQuestionAnswering": "modeling_folio.FolioForQuestionAnswering",
}


@strict
class FolioConfig(PreTrainedConfig):
    """Configuration of a Folio model, causal (a GPT) or bidirectional (an encoder).

    The defaults are the `folio` preset at size `nano`; `foliogpt.modeling.preset_config` makes the others.

    Args:
        vocab_size: number of token ids, the first dimension of the embedding matrix.
        hidden_size: width of the residual stream.
        num_hidden_layers: number of Transformer blocks.
        num_attention_heads: query heads in each block.
        num_key_value_heads: key and value heads in each block; fewer than the query heads is grouped-query
            attention (Ainslie et al., 2023), `None` means as many (multi-head attention).
        head_dim: width of one head; `None` means `hidden_size / num_attention_heads`.
        intermediate_size: inner width of the feed-forward network; `None` means 4 x `hidden_size`, or 8/3 of it
            rounded up to a multiple of 64 when gated, which has about as many parameters.
        hidden_act: activation of the feed-forward network, a name that transformers knows.
        gated_mlp: multiply the activation with a second projection (GLU variants, Shazeer 2020).
        attention_bias, mlp_bias: biases in the projections of attention and of the feed-forward network.
        qk_norm: normalize each query and key head before the dot product (Henry et al., 2020).
        position_embedding_type: how positions are encoded.
        rope_parameters: `rope_type`, `rope_theta` and what the type needs; only for `"rope"`.
        max_position_embeddings: the context length in tokens.
        scale_embeddings: multiply token embeddings by sqrt(hidden_size), as Vaswani et al. (2017) do.
        norm_type, norm_position, norm_eps: the normalization, and whether it comes before each sublayer
            ("pre") or after its residual connection ("post").
        layer_types: `"full_attention"` or `"sliding_attention"` for each layer; `None` means all sliding if
            `sliding_window` is set, else all full.
        sliding_window: how many tokens a sliding layer sees, itself included; in an encoder, how many to either side.
        is_causal: attend to the past only; `False` makes the stack an encoder.
        is_decoder, add_cross_attention: set by `EncoderDecoderModel` for the half that attends to an encoder.
        tie_word_embeddings: the output head shares the embedding matrix.
        final_logit_softcapping: logits become c * tanh(logits / c) (Gemma 2); no native export has it but Gemma's.
        attention_dropout, hidden_dropout: dropout on attention weights; on embeddings and sublayer outputs.
        initializer_range: standard deviation of the initial weights.
        residual_init: initial weights of the two projections in each block that write to the residual stream:
            `"normal"` like all others, `"scaled"` divided by sqrt(2 x layers) (GPT-2), or `"zero"`.

    Raises:
        huggingface_hub.errors.StrictDataclassError: if the choices contradict each other. The message names
            both values and the remedy.
    """

    model_type = "folio"
    keys_to_ignore_at_inference = ["past_key_values", "cache"]
    base_model_tp_plan = {
        "layers.*.self_attn.q_proj": "colwise",
        "layers.*.self_attn.k_proj": "colwise",
        "layers.*.self_attn.v_proj": "colwise",
        "layers.*.self_attn.q_norm": "replicated_with_grad_allreduce",
        "layers.*.self_attn.k_norm": "replicated_with_grad_allreduce",
        "layers.*.self_attn.o_proj": "rowwise",
        "layers.*.mlp.gate_proj": "colwise",
        "layers.*.mlp.up_proj": "colwise",
        "layers.*.mlp.down_proj": "rowwise",
    }
    base_model_pp_plan = {
        "embed_tokens": (["input_ids"], ["inputs_embeds"]),
        "layers": (["hidden_states", "attention_mask"], ["hidden_states"]),
        "norm": (["hidden_states"], ["hidden_states"]),
    }

    vocab_size: int = 4096
    hidden_size: int = 128
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    num_key_value_heads: int | None = 2
    head_dim: int | None = None
    intermediate_size: int | None = None
    hidden_act: str = "silu"
    gated_mlp: bool = True
    attention_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = True
    position_embedding_type: Literal["rope", "learned", "sinusoidal", "none"] = "rope"
    rope_parameters: dict | None = None
    max_position_embeddings: int = 1024
    scale_embeddings: bool = False
    norm_type: Literal["rmsnorm", "layernorm"] = "rmsnorm"
    norm_position: Literal["pre", "post"] = "pre"
    norm_eps: float = 1e-6
    layer_types: list[str] | None = None
    sliding_window: int | None = None
    is_causal: bool = True
    is_decoder: bool = False
    add_cross_attention: bool = False
    tie_word_embeddings: bool = True
    final_logit_softcapping: float | None = None
    attention_dropout: float | int = 0.0
    hidden_dropout: float | int = 0.0
    initializer_range: float = 0.02
    residual_init: Literal["normal", "scaled", "zero"] = "scaled"
    use_cache: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None

    def __post_init__(self, **kwargs):
        kwargs.pop("auto_map", None)  # of the repository it came from; a copy of the code travels with each save
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        if self.head_dim is None:
            self.head_dim = self.hidden_size // max(self.num_attention_heads, 1)
        if self.intermediate_size is None:
            width = 8 * self.hidden_size / 3
            self.intermediate_size = 64 * -(-int(width) // 64) if self.gated_mlp else 4 * self.hidden_size
        if self.layer_types is None:
            kind = "full_attention" if self.sliding_window is None else "sliding_attention"
            self.layer_types = [kind] * self.num_hidden_layers
        super().__post_init__(**kwargs)
        self.auto_map = dict(AUTO_MAP)
        if self.position_embedding_type != "rope":
            self.rope_parameters = None  # the base class fills in a default that nothing would read

    def __setattr__(self, name, value):
        super().__setattr__(name, value)
        # `from_pretrained(..., num_hidden_layers=n)` and PEFT's layer_replication change the number alone. Types are
        # added but not dropped: `generate(assistant_early_exit=n)` takes the number back.
        if name == "num_hidden_layers" and self.layer_types and len(self.layer_types) < value:
            self.layer_types = (self.layer_types * value)[:value]

    def validate_architecture(self):
        """Reject contradictory choices; runs when the config is made and when it is saved."""
        for name in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
                     "head_dim", "intermediate_size", "max_position_embeddings", "sliding_window"):  # fmt: skip
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} is {value}: it must be at least 1.")
        for name in ("norm_eps", "initializer_range", "final_logit_softcapping"):
            if (value := getattr(self, name)) is not None and not value > 0:
                raise ValueError(f"{name} is {value}: it must be above 0.")
        heads, kv_heads = self.num_attention_heads, self.num_key_value_heads
        if self.head_dim * heads != self.hidden_size and self.hidden_size % heads:
            raise ValueError(
                f"hidden_size ({self.hidden_size}) is not a multiple of num_attention_heads ({heads}): "
                f"use a hidden_size of {-(-self.hidden_size // heads) * heads}, or give head_dim."
            )
        if heads % kv_heads:
            divisors = [n for n in range(1, heads + 1) if heads % n == 0]
            raise ValueError(
                f"num_attention_heads ({heads}) is not a multiple of num_key_value_heads ({kv_heads}): "
                f"use one of {divisors} key-value heads."
            )
        if self.position_embedding_type == "rope" and self.head_dim % 2:
            raise ValueError(
                f"head_dim ({self.head_dim}) is odd, but RoPE rotates pairs: use head_dim={self.head_dim + 1} "
                f"or another position_embedding_type than '{self.position_embedding_type}'."
            )
        if self.hidden_act not in ACT2FN:
            raise ValueError(f"hidden_act is {self.hidden_act!r}: use one of {', '.join(sorted(ACT2FN))}.")
        if self.position_embedding_type == "rope":
            rope_type = (self.rope_parameters or {}).get("rope_type", "default")
            if rope_type != "default" and rope_type not in ROPE_INIT_FUNCTIONS:
                known = ", ".join(["default", *ROPE_INIT_FUNCTIONS])
                raise ValueError(f"rope_type is {rope_type!r} in rope_parameters: use one of {known}.")
        if self.position_embedding_type == "sinusoidal" and self.hidden_size % 2:
            raise ValueError(
                f"hidden_size ({self.hidden_size}) is odd, but sinusoidal positions come in sine-cosine pairs: "
                f"use hidden_size={self.hidden_size + 1}."
            )
        if len(self.layer_types) != self.num_hidden_layers:
            raise ValueError(
                f"layer_types has {len(self.layer_types)} entries for num_hidden_layers={self.num_hidden_layers}: "
                "give one per layer."
            )
        if unknown := set(self.layer_types) - {"full_attention", "sliding_attention"}:
            raise ValueError(f"layer_types has {sorted(unknown)}: use 'full_attention' or 'sliding_attention'.")
        if "sliding_attention" in self.layer_types and self.sliding_window is None:
            raise ValueError(
                f"layer_types asks for 'sliding_attention', but sliding_window is {self.sliding_window}: "
                "set it to the number of tokens that those layers may see."
            )
        if self.add_cross_attention and not self.is_causal:
            raise ValueError(
                "add_cross_attention=True with is_causal=False: only a causal stack can be a decoder; "
                "set is_causal=True for the half that generates."
            )


__all__ = ["FolioConfig"]
