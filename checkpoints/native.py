"""What GPT-2, Llama and Qwen3 have in common with Folio, as data: config fields and names of weights."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import GPT2LMHeadModel, LlamaForCausalLM, PreTrainedConfig, Qwen3ForCausalLM

from ..modeling.configuration_folio import FolioConfig

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
# Of FolioConfig: what none of them has.
PLAIN = {
    "norm_position": "pre", "scale_embeddings": False, "final_logit_softcapping": None, "is_causal": True,
    "add_cross_attention": False,
}  # fmt: skip
GPT2_UNKNOWN = ("scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn", "add_cross_attention")
LEARNED = {**PLAIN, "position_embedding_type": "learned", "norm_type": "layernorm", "gated_mlp": False}
MODERN = {**PLAIN, "position_embedding_type": "rope", "norm_type": "rmsnorm", "gated_mlp": True}


@dataclass(frozen=True)
class Weight:
    """A weight of the other side and what it is here: one parameter, or several joined along their outputs."""

    theirs: str
    ours: tuple[str, ...]
    transposed: bool = False


@dataclass(frozen=True)
class Architecture:
    """A family of transformers' and the Folio models that compute the same."""

    model_class: type
    fields: dict[str, str]  # what a field of FolioConfig is called there
    fixed: dict  # fields of FolioConfig in which there is no choice there
    unknown: dict = field(default_factory=dict)  # fields there alone, and the values with which they change nothing
    layer: tuple[Weight, ...] | None = None  # the weights of one, with `{}` for its number; None if all names are ours
    outside: tuple[Weight, ...] = ()  # the weights outside of the layers
    # What else of a FolioConfig cannot be said there: (field, value, what there is instead).
    obstacles: Callable[[FolioConfig], Iterator[tuple]] = lambda config: iter(())

    def weights(self, num_layers: int) -> list[Weight]:
        """All weights of a model; empty if every name is ours."""
        layers = [
            Weight(weight.theirs.format(i), tuple(name.format(i) for name in weight.ours), weight.transposed)
            for i in range(num_layers)
            for weight in self.layer or ()
        ]
        return [*layers, *self.outside]


def all_full(config: FolioConfig) -> Iterator[tuple]:
    if "sliding_attention" in config.layer_types:
        yield "layer_types", config.layer_types, "full_attention in every layer"


def gpt2_obstacles(config: FolioConfig) -> Iterator[tuple]:
    yield from all_full(config)
    if config.num_key_value_heads != config.num_attention_heads:
        yield "num_key_value_heads", config.num_key_value_heads, "as many as num_attention_heads"
    if config.head_dim * config.num_attention_heads != config.hidden_size:
        yield "head_dim", config.head_dim, "hidden_size / num_attention_heads"


def both(theirs: str, ours: str, transposed: bool = False) -> tuple[Weight, Weight]:
    """A matrix, or a norm's scale, and its bias."""
    return Weight(f"{theirs}.weight", (f"{ours}.weight",), transposed), Weight(f"{theirs}.bias", (f"{ours}.bias",))


Q_K_V = tuple(f"model.layers.{{}}.self_attn.{name}_proj" for name in "qkv")
GPT2_LAYER = (
    *both("transformer.h.{}.ln_1", "model.layers.{}.input_layernorm"),
    Weight("transformer.h.{}.attn.c_attn.weight", tuple(f"{name}.weight" for name in Q_K_V), transposed=True),
    Weight("transformer.h.{}.attn.c_attn.bias", tuple(f"{name}.bias" for name in Q_K_V)),
    *both("transformer.h.{}.attn.c_proj", "model.layers.{}.self_attn.o_proj", transposed=True),
    *both("transformer.h.{}.ln_2", "model.layers.{}.post_attention_layernorm"),
    *both("transformer.h.{}.mlp.c_fc", "model.layers.{}.mlp.up_proj", transposed=True),
    *both("transformer.h.{}.mlp.c_proj", "model.layers.{}.mlp.down_proj", transposed=True),
)
GPT2_OUTSIDE = (
    Weight("transformer.wte.weight", ("model.embed_tokens.weight",)),
    Weight("transformer.wpe.weight", ("model.embed_positions.weight",)),
    *both("transformer.ln_f", "model.norm"),
    Weight("lm_head.weight", ("lm_head.weight",)),
)

ARCHITECTURES = {
    "gpt2": Architecture(
        GPT2LMHeadModel,
        fields=GPT2_LIKE,
        fixed={**LEARNED, "qk_norm": False},
        unknown={"scale_attn_weights": True} | dict.fromkeys(GPT2_UNKNOWN, False),
        layer=GPT2_LAYER,
        outside=GPT2_OUTSIDE,
        obstacles=gpt2_obstacles,
    ),
    "llama": Architecture(
        LlamaForCausalLM,
        fields={**LLAMA_LIKE, "mlp_bias": "mlp_bias"},
        fixed={**MODERN, "qk_norm": False},
        obstacles=all_full,
    ),
    "qwen3": Architecture(
        Qwen3ForCausalLM,
        fields={**LLAMA_LIKE, "layer_types": "layer_types", "sliding_window": "sliding_window"},
        fixed={**MODERN, "qk_norm": True, "mlp_bias": False},
    ),
}
GELU = {"gelu_new": "gelu_pytorch_tanh"}  # one function; the second computes it in one kernel


def obstacles(config: FolioConfig, architecture: Architecture) -> list[str]:
    """What in a FolioConfig has no equal in the architecture, each as a phrase that names field and value."""
    choices = [(name, getattr(config, name), value) for name, value in architecture.fixed.items()]
    found = [*(choice for choice in choices if choice[1] != choice[2]), *architecture.obstacles(config)]
    return [f"{name} is {got!r} (it has {there})" for name, got, there in found]


def to_native_config(config: FolioConfig, to: str) -> PreTrainedConfig:
    """The config by which architecture `to` computes the same; raises ValueError, with all obstacles, if none does."""
    architecture = ARCHITECTURES[to]
    if found := obstacles(config, architecture):
        others = [name for name, other in ARCHITECTURES.items() if not obstacles(config, other)]
        instead = f"it can go to {', '.join(others)}" if others else "no native architecture has it"
        raise ValueError(f"This model has no equal in {to}: {'; '.join(found)}; {instead}.")
    fields = {theirs: getattr(config, ours) for ours, theirs in architecture.fields.items()}
    if to == "gpt2":
        names = {ours: theirs for theirs, ours in GELU.items()}
        fields["activation_function"] = names.get(config.hidden_act, config.hidden_act)
        fields["embd_pdrop"] = config.hidden_dropout
        if config.intermediate_size == 4 * config.hidden_size:
            fields["n_inner"] = None
    if to == "qwen3":
        fields["use_sliding_window"] = "sliding_attention" in config.layer_types
        fields["max_window_layers"] = config.layer_types.count("full_attention")  # for readers without layer_types
    return architecture.model_class.config_class(**fields)


def to_folio_config(config: PreTrainedConfig) -> FolioConfig:
    """The FolioConfig that computes what the native one does; raises ValueError, with the field, if none does."""
    architecture = ARCHITECTURES[config.model_type]
    for name, value in architecture.unknown.items():
        if getattr(config, name) != value:
            what = f"{name} is {getattr(config, name)!r}"
            raise ValueError(f"{what}: FolioConfig has no such choice; only {value!r} can be converted.")
    fields = {ours: getattr(config, theirs) for ours, theirs in architecture.fields.items()}
    if config.model_type == "gpt2":
        fields |= {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": None}
        fields["hidden_act"] = GELU.get(config.activation_function, config.activation_function)
    try:
        return FolioConfig(**fields, **architecture.fixed, dtype=config.dtype)
    except StrictDataclassError as error:
        raise ValueError(f"config.json asks for what FolioConfig refuses: {error.__cause__ or error}") from None


def to_ours(tensors: dict[str, torch.Tensor], weights: list[Weight]) -> dict[str, torch.Tensor]:
    """Weights under their Folio names and in Folio's form; what `weights` has no entry for keeps its name."""
    converted = {}
    for weight in (weight for weight in weights if weight.theirs in tensors):
        tensor = tensors[weight.theirs]
        parts = (tensor.T if weight.transposed else tensor).chunk(len(weight.ours))
        converted |= {name: part.contiguous() for name, part in zip(weight.ours, parts, strict=True)}
    known = {weight.theirs for weight in weights}
    return converted | {name: tensor for name, tensor in tensors.items() if name not in known}


def to_theirs(tensors: dict[str, torch.Tensor], weights: list[Weight], shapes: dict) -> dict[str, torch.Tensor]:
    """The reverse of `to_ours`. A bias that ours does without becomes one of zeros, of the shape in `shapes`."""
    converted, dtype = {}, next(iter(tensors.values())).dtype
    for weight in weights:
        parts = [tensors[name] for name in weight.ours if name in tensors]
        if parts:
            tensor = torch.cat(parts) if len(parts) > 1 else parts[0]
            converted[weight.theirs] = tensor.T.contiguous() if weight.transposed else tensor
        elif weight.theirs.endswith(".bias"):
            converted[weight.theirs] = torch.zeros(shapes[weight.theirs], dtype=dtype)
    known = {name for weight in weights for name in weight.ours}
    return converted | {name: tensor for name, tensor in tensors.items() if name not in known}
