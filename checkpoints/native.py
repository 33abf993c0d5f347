"""Correspondence of GPT-2, Llama and Qwen3 to Folio, as data: config fields and names of weights."""

from dataclasses import dataclass, field

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import GPT2LMHeadModel, LlamaForCausalLM, PreTrainedConfig, Qwen3ForCausalLM

from ..modeling.configuration_folio import FolioConfig
from ..modeling.modeling_folio import FolioForCausalLM

COMMON = (
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings",
    "initializer_range", "use_cache", "tie_word_embeddings", "pad_token_id", "bos_token_id", "eos_token_id",
)  # fmt: skip
LLAMA_LIKE = {"norm_eps": "rms_norm_eps"} | {name: name for name in (
    *COMMON, "intermediate_size", "num_key_value_heads", "head_dim", "hidden_act", "attention_bias",
    "attention_dropout", "rope_parameters",
)}  # fmt: skip
GPT2_LIKE = {name: name for name in COMMON} | {
    "hidden_size": "n_embd", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head",
    "max_position_embeddings": "n_positions", "intermediate_size": "n_inner", "hidden_act": "activation_function",
    "norm_eps": "layer_norm_epsilon", "attention_dropout": "attn_pdrop", "hidden_dropout": "resid_pdrop",
}  # fmt: skip
# Fields of FolioConfig in which these architectures leave no choice.
BASE_FIELDS = {
    "norm_position": "pre", "scale_embeddings": False, "final_logit_softcapping": None, "is_causal": True,
    "add_cross_attention": False,
}  # fmt: skip
LEARNED_FIELDS = {**BASE_FIELDS, "position_embedding_type": "learned", "norm_type": "layernorm", "gated_mlp": False}
ROPE_FIELDS = {**BASE_FIELDS, "position_embedding_type": "rope", "norm_type": "rmsnorm", "gated_mlp": True}
GPT2_UNKNOWN = ("scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn", "add_cross_attention")


@dataclass(frozen=True)
class Weight:
    """A native weight and its Folio parameter, or several that are joined along their outputs."""

    native: str
    folio: tuple[str, ...]
    transposed: bool = False


@dataclass(frozen=True)
class Architecture:
    """An architecture of transformers and the Folio models that compute the same."""

    model_class: type
    fields: dict[str, str]  # fields of FolioConfig: their native names
    fixed: dict  # fields of FolioConfig: the only value that the architecture has
    unknown: dict = field(default_factory=dict)  # native fields that Folio lacks: the value that changes nothing
    layer: tuple[Weight, ...] = ()  # the weights of a layer, with `{}` for its number, if their names differ
    outside: tuple[Weight, ...] = ()  # the weights outside of the layers, if their names differ

    def weights(self, num_layers: int) -> list[Weight]:
        """Return the weights of a model whose names differ."""
        layers = [
            Weight(weight.native.format(i), tuple(name.format(i) for name in weight.folio), weight.transposed)
            for i in range(num_layers)
            for weight in self.layer
        ]
        return [*layers, *self.outside]


def with_bias(native: str, folio: str, transposed: bool = False) -> tuple[Weight, Weight]:
    """Return a matrix, or a norm's scale, and its bias."""
    return Weight(f"{native}.weight", (f"{folio}.weight",), transposed), Weight(f"{native}.bias", (f"{folio}.bias",))


Q_K_V = tuple(f"model.layers.{{}}.self_attn.{name}_proj" for name in "qkv")
GPT2_LAYER = (
    *with_bias("transformer.h.{}.ln_1", "model.layers.{}.input_layernorm"),
    Weight("transformer.h.{}.attn.c_attn.weight", tuple(f"{name}.weight" for name in Q_K_V), transposed=True),
    Weight("transformer.h.{}.attn.c_attn.bias", tuple(f"{name}.bias" for name in Q_K_V)),
    *with_bias("transformer.h.{}.attn.c_proj", "model.layers.{}.self_attn.o_proj", transposed=True),
    *with_bias("transformer.h.{}.ln_2", "model.layers.{}.post_attention_layernorm"),
    *with_bias("transformer.h.{}.mlp.c_fc", "model.layers.{}.mlp.up_proj", transposed=True),
    *with_bias("transformer.h.{}.mlp.c_proj", "model.layers.{}.mlp.down_proj", transposed=True),
)
GPT2_OUTSIDE = (
    Weight("transformer.wte.weight", ("model.embed_tokens.weight",)),
    Weight("transformer.wpe.weight", ("model.embed_positions.weight",)),
    *with_bias("transformer.ln_f", "model.norm"),
    Weight("lm_head.weight", ("lm_head.weight",)),
)

ARCHITECTURES = {
    "gpt2": Architecture(
        GPT2LMHeadModel, GPT2_LIKE, {**LEARNED_FIELDS, "qk_norm": False},
        {"scale_attn_weights": True} | dict.fromkeys(GPT2_UNKNOWN, False), GPT2_LAYER, GPT2_OUTSIDE,
    ),
    "llama": Architecture(LlamaForCausalLM, {**LLAMA_LIKE, "mlp_bias": "mlp_bias"}, {**ROPE_FIELDS, "qk_norm": False}),
    "qwen3": Architecture(
        Qwen3ForCausalLM, {**LLAMA_LIKE, "layer_types": "layer_types", "sliding_window": "sliding_window"},
        {**ROPE_FIELDS, "qk_norm": True, "mlp_bias": False},
    ),
}  # fmt: skip
KINDS = {"folio": Architecture(FolioForCausalLM, {}, {}), **ARCHITECTURES}  # of checkpoints
GELU = {"gelu_new": "gelu_pytorch_tanh"}  # one function; the second computes it in one kernel


def obstacles(config: FolioConfig, architecture: Architecture) -> list[str]:
    """List the fields of a FolioConfig that have no equal in the architecture, with their values."""
    implied = {
        "layer_types": (["full_attention"] * config.num_hidden_layers, "full_attention in every layer"),
        "num_key_value_heads": (config.num_attention_heads, "as many as num_attention_heads"),
        "head_dim": (config.hidden_size / config.num_attention_heads, "hidden_size / num_attention_heads"),
    }
    required = {name: (value, value) for name, value in architecture.fixed.items()}
    required |= {name: each for name, each in implied.items() if name not in architecture.fields}
    found = [(name, getattr(config, name), *each) for name, each in required.items()]
    return [f"{name} is {got!r} (it has {text})" for name, got, value, text in found if got != value]


def to_native_config(config: FolioConfig, to: str) -> PreTrainedConfig:
    """Return the config by which architecture `to` computes the same; raises ValueError with the obstacles."""
    architecture = ARCHITECTURES[to]
    if found := obstacles(config, architecture):
        others = [name for name, other in ARCHITECTURES.items() if not obstacles(config, other)]
        instead = f"it can go to {', '.join(others)}" if others else "no native architecture has it"
        raise ValueError(f"This model has no equal in {to}: {'; '.join(found)}; {instead}.")
    fields = {native: getattr(config, folio) for folio, native in architecture.fields.items()}
    if to == "gpt2":
        names = {folio: native for native, folio in GELU.items()}
        fields["activation_function"] = names.get(config.hidden_act, config.hidden_act)
        fields["embd_pdrop"] = config.hidden_dropout
        if config.intermediate_size == 4 * config.hidden_size:
            fields["n_inner"] = None
    if to == "qwen3":
        fields["use_sliding_window"] = "sliding_attention" in config.layer_types
        fields["max_window_layers"] = config.layer_types.count("full_attention")  # for readers without layer_types
    return architecture.model_class.config_class(**fields)


def to_folio_config(config: PreTrainedConfig) -> FolioConfig:
    """Return the FolioConfig that computes what the native one does; raises ValueError with the field."""
    architecture = ARCHITECTURES[config.model_type]
    for name, value in architecture.unknown.items():
        if (got := getattr(config, name)) != value:
            raise ValueError(f"{name} is {got!r}: FolioConfig has no such choice; only {value!r} can be converted.")
    fields = {folio: getattr(config, native) for folio, native in architecture.fields.items()}
    if config.model_type == "gpt2":
        fields |= {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": None}
        fields["hidden_act"] = GELU.get(config.activation_function, config.activation_function)
    try:
        return FolioConfig(**fields, **architecture.fixed, dtype=config.dtype)
    except StrictDataclassError as error:
        raise ValueError(f"FolioConfig rejects this config.json: {error.__cause__ or error}") from None


def to_folio(tensors: dict[str, torch.Tensor], weights: list[Weight]) -> dict[str, torch.Tensor]:
    """Convert weights to Folio's names and form; a tensor that is not in `weights` keeps its name."""
    converted = {}
    for weight in (weight for weight in weights if weight.native in tensors):
        tensor = tensors[weight.native]
        parts = (tensor.T if weight.transposed else tensor).chunk(len(weight.folio))
        converted |= {name: part.contiguous() for name, part in zip(weight.folio, parts, strict=True)}
    known = {weight.native for weight in weights}
    return converted | {name: tensor for name, tensor in tensors.items() if name not in known}


def to_native(tensors: dict[str, torch.Tensor], weights: list[Weight], shapes: dict) -> dict[str, torch.Tensor]:
    """Reverse `to_folio`. A bias that Folio does not have becomes zeros of the shape in `shapes`."""
    converted, dtype = {}, next(iter(tensors.values())).dtype
    for weight in weights:
        parts = [tensors[name] for name in weight.folio if name in tensors]
        if parts:
            tensor = torch.cat(parts) if len(parts) > 1 else parts[0]
            converted[weight.native] = tensor.T.contiguous() if weight.transposed else tensor
        elif weight.native.endswith(".bias"):
            converted[weight.native] = torch.zeros(shapes[weight.native], dtype=dtype)
    known = {name for weight in weights for name in weight.folio}
    return converted | {name: tensor for name, tensor in tensors.items() if name not in known}
