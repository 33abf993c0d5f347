"""GGUF, the one-file format of llama.cpp and Ollama: weights, config and tokenizer under llama.cpp's names.

Names and values follow llama.cpp's own converter and its loaders (`src/models/`); the format is described in
github.com/ggml-org/ggml, docs/gguf.md.
"""

import dataclasses
import json
import re
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from ..jobs.extras import extra
from ..modeling.configuration_folio import FolioConfig
from .native import ARCHITECTURES, obstacles, to_native_config, to_theirs
from .sources import Source, shapes_of
from .targets import Plan

# The patterns by which text is cut before merging, and llama.cpp's names for them.
GPT2_SPLIT = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
MODERN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{digits}"
    r"| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPLITS = {
    GPT2_SPLIT: "gpt-2",
    MODERN_SPLIT.format(digits="{1,3}"): "llama-bpe",
    MODERN_SPLIT.format(digits=""): "qwen2",
}
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # llama.cpp's types of tokens
FILE_TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 32}
ACTIVATIONS = {"gpt2": "gelu_pytorch_tanh", "llama": "silu", "qwen3": "silu"}


def plan_gguf(source: Source, destination: Path) -> Plan:
    """A GGUF file of the architecture that computes what the source does.

    Raises:
        ImportError: if the package `gguf` is not installed.
        ValueError: if no architecture, or no tokenizer, of llama.cpp's does; or if `destination` is not called *.gguf.
    """
    with extra("gguf", "Writing GGUF"):
        import gguf  # noqa: F401
    if destination.suffix != ".gguf":
        raise ValueError(f"{destination} will be a file: call it {destination.name}.gguf.")
    name = choose_architecture(source.config)
    if source.tokenizer is None:
        raise ValueError("A GGUF file holds the tokenizer as well, and this checkpoint has none: save one beside it.")
    vocabulary = tokenizer_fields(source.tokenizer, source.config.vocab_size)
    config = to_native_config(source.config, name)

    def write(tensors: dict[str, torch.Tensor], path: Path) -> None:
        write_gguf(path, name, source, config, tensors, vocabulary)

    def load(path: Path):
        # transformers' reader has no word for the feed-forward width of a GPT-2.
        known = {"config": config} if name == "gpt2" and config.n_inner else {}
        return AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=source.dtype, **known)

    def load_tokenizer(path: Path) -> PreTrainedTokenizerBase:
        return AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)

    return Plan(write, load, load_tokenizer)


def choose_architecture(config: FolioConfig) -> str:
    """The architecture of llama.cpp's that computes what a model with `config` does.

    Raises:
        ValueError: if there is none; names the fields that are in the way of the nearest one.
    """
    found = {name: [*obstacles(config, ARCHITECTURES[name]), *gguf_obstacles(config, name)] for name in ARCHITECTURES}
    nearest = min(found, key=lambda name: len(found[name]))
    if found[nearest]:
        raise ValueError(f"llama.cpp cannot compute this model; nearest is {nearest}: {'; '.join(found[nearest])}.")
    return nearest


def gguf_obstacles(config: FolioConfig, name: str) -> list[str]:
    """What transformers' class of that name has and llama.cpp's has not."""
    choices = {"hidden_act": ACTIVATIONS[name]}
    if name != "gpt2":
        choices |= {"attention_bias": False, "mlp_bias": False}
    wrong = [(field, getattr(config, field), value) for field, value in choices.items()]
    if name != "gpt2" and config.rope_parameters:
        wrong.append(("rope_type", config.rope_parameters["rope_type"], "default"))
    if "sliding_attention" in config.layer_types:
        wrong.append(("sliding_window", config.sliding_window, None))
    return [f"{field} is {got!r} (here only {there!r})" for field, got, there in wrong if got != there]


def write_gguf(
    path: Path,
    name: str,
    source: Source,
    native: PreTrainedConfig,
    tensors: dict[str, torch.Tensor],
    vocabulary: dict,
) -> None:
    """Write Folio's weights as a model of the architecture `name`."""
    import gguf

    config = source.config
    writer = gguf.GGUFWriter(path, name)
    writer.add_name(path.stem)
    writer.add_file_type(FILE_TYPES.get(source.dtype, 0))
    for key, value in {**model_fields(config, name), **vocabulary}.items():
        add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
        add.get(type(value), writer.add_array)(key, value)

    architecture = next(arch for arch, known in gguf.MODEL_ARCH_NAMES.items() if known == name)
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    weights = ARCHITECTURES[name].weights(config.num_hidden_layers)
    weights = [dataclasses.replace(weight, transposed=False) for weight in weights]  # ggml's matrices are as ours
    shapes = shapes_of(ARCHITECTURES[name].model_class, native)
    for native_name, tensor in to_theirs(tensors, weights, shapes).items():
        if name == "llama" and (heads := rotated_heads(native_name, config)):
            tensor = interleave(tensor, heads)
        add_tensor(writer, names.get_name(native_name, try_suffixes=(".weight", ".bias")), tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def model_fields(config: FolioConfig, name: str) -> dict:
    """The config under llama.cpp's keys."""
    fields = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "vocab_size": config.vocab_size,
        "attention.head_count": config.num_attention_heads,
    }
    # transformers' reader takes some keys from nowhere, or under a name that its own config does not have; it does
    # take them under other architectures' names, which llama.cpp does not look at.
    for_transformers = {}
    if name == "gpt2":
        fields["attention.layer_norm_epsilon"] = config.norm_eps
        for_transformers["stablelm.context_length"] = config.max_position_embeddings
    else:
        fields |= {
            "attention.head_count_kv": config.num_key_value_heads,
            "attention.key_length": config.head_dim,
            "attention.value_length": config.head_dim,
            "attention.layer_norm_rms_epsilon": config.norm_eps,
            "rope.dimension_count": config.head_dim,
            "rope.freq_base": float(config.rope_parameters["rope_theta"]),
        }
    if name == "qwen3":
        for_transformers["qwen3_moe.attention.key_length"] = config.head_dim
    return {f"{name}.{key}": value for key, value in fields.items()} | for_transformers


def rotated_heads(name: str, config: FolioConfig) -> int:
    """How many heads a weight makes that RoPE rotates; 0 if it makes none."""
    kinds = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    return next((heads for kind, heads in kinds.items() if f".{kind}." in name), 0)


def interleave(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    """llama.cpp's Llama rotates neighbouring dimensions, not the halves of a head (its Qwen3 rotates halves)."""
    half = tensor.shape[0] // heads // 2
    return tensor.unflatten(0, (heads, 2, half)).transpose(1, 2).flatten(0, 2).contiguous()


def add_tensor(writer, name: str, tensor: torch.Tensor) -> None:
    """Matrices keep their dtype; llama.cpp wants vectors and positions in float32, which holds them exactly."""
    import gguf

    if tensor.dim() == 1 or name.startswith("position_embd") or tensor.dtype not in FILE_TYPES:
        tensor = tensor.float()
    if tensor.dtype == torch.bfloat16:  # numpy has none
        data = tensor.contiguous().view(torch.uint8).numpy()
        writer.add_tensor(name, data, raw_dtype=gguf.GGMLQuantizationType.BF16)
    else:
        writer.add_tensor(name, tensor.numpy())


def tokenizer_fields(tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> dict:
    """A byte-level BPE tokenizer under llama.cpp's keys.

    Raises:
        ValueError: for another kind of tokenizer, one that cuts text in a way that llama.cpp does not know, one without
            merges, or one of more tokens than the model has.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ValueError(f"{type(tokenizer).__name__} is no tokenizer of the `tokenizers` library: GGUF needs one.")
    spec = json.loads(backend.to_str())
    vocab, added = tokenizer.get_vocab(), tokenizer.added_tokens_decoder
    by_id = {i: token for token, i in vocab.items()}
    if max(by_id) >= vocab_size:
        raise ValueError(
            f"The tokenizer has id {max(by_id)} ({by_id[max(by_id)]!r}), but vocab_size is {vocab_size}: resize the "
            "model's embeddings, or remove the token."
        )
    types = [
        UNUSED if i not in by_id else NORMAL if i not in added else CONTROL if added[i].special else USER_DEFINED
        for i in range(vocab_size)
    ]
    bare, whole = tokenizer("a", add_special_tokens=False)["input_ids"], tokenizer("a")["input_ids"]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in spec["model"].get("merges", [])]
    split = split_name(spec)
    if not merges:  # as readers of GGUF tell kinds of tokenizers apart
        raise ValueError("The tokenizer has no merges, and GGUF cannot be without: train one with more tokens.")
    fields = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": split,
        "tokenizer.ggml.tokens": [by_id.get(i, f"[PAD{i}]") for i in range(vocab_size)],
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.add_bos_token": whole != bare and whole[0] == tokenizer.bos_token_id,
        "tokenizer.ggml.add_eos_token": whole != bare and whole[-1] == tokenizer.eos_token_id,
    }
    ids = {"bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id, "padding": tokenizer.pad_token_id}
    fields |= {f"tokenizer.ggml.{kind}_token_id": i for kind, i in ids.items() if i is not None}
    if template := chat_template(tokenizer):
        fields["tokenizer.chat_template"] = template
    return fields


def split_name(spec: dict) -> str:
    """llama.cpp's name for the way in which a tokenizer cuts text before it merges.

    Raises:
        ValueError: if there is none.
    """
    model, steps, normalizer = spec["model"], spec.get("pre_tokenizer") or {}, spec.get("normalizer") or {}
    steps = steps.get("pretokenizers", [steps])
    plain = not model.get("byte_fallback") and not model.get("continuing_subword_prefix")
    if model["type"] != "BPE" or not plain or steps[-1].get("type") != "ByteLevel":
        raise ValueError(
            f"The tokenizer is a {model['type']} that is not byte-level: GGUF is written for byte-level BPE, which "
            "`folio tokenizer train` makes."
        )
    pattern = GPT2_SPLIT if steps[-1].get("use_regex", True) else None
    if len(steps) == 2 and pattern is None and steps[0].get("type") == "Split" and not steps[0].get("invert"):
        pattern = steps[0]["pattern"].get("Regex")
    known = pattern in SPLITS and len(steps) == (1 if pattern == GPT2_SPLIT else 2)
    # llama.cpp does not compose characters as NFC, Qwen's, does; nearly all text is composed already.
    if not known or steps[-1].get("add_prefix_space") or normalizer.get("type") not in (None, "NFC"):
        raise ValueError(
            "The tokenizer prepares text in a way that llama.cpp has no name for: known are the patterns of "
            f"{', '.join(SPLITS.values())}, without a prefix space or a normalizer."
        )
    return SPLITS[pattern]


def chat_template(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The chat template, with the tag `generation` replaced, which only transformers knows and which prints nothing."""
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    if template is None:
        return None
    template = re.sub(r"(\{%[-+]?)\s*generation\s*([-+]?%\})", r"\1 if true \2", template)
    return re.sub(r"(\{%[-+]?)\s*endgeneration\s*([-+]?%\})", r"\1 endif \2", template)
