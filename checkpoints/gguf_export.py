"""GGUF, the file format of llama.cpp and Ollama, under llama.cpp's names (github.com/ggml-org/ggml, docs/gguf.md)."""

import dataclasses
from functools import partial
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig

from ..jobs.extras import extra
from ..modeling.configuration_folio import FolioConfig
from .gguf_tokenizer import load_gguf_tokenizer, tokenizer_fields
from .native import ARCHITECTURES, obstacles, to_native_config, to_theirs
from .sources import Source, shapes_of
from .targets import Plan

FILE_TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 32}
ACTIVATIONS = {"gpt2": "gelu_pytorch_tanh", "llama": "silu", "qwen3": "silu"}


def plan_gguf(source: Source, destination: Path) -> Plan:
    """A GGUF file of the architecture that computes what the source does; raises ImportError, ValueError."""
    with extra("gguf", "Writing GGUF"):
        import gguf  # noqa: F401
    if destination.suffix != ".gguf":
        raise ValueError(f"{destination} will be a file: call it {destination.name}.gguf.")
    name = choose_architecture(source.config)
    if source.tokenizer is None:
        raise ValueError("A GGUF file holds the tokenizer as well, and this checkpoint has none: save one beside it.")
    vocabulary = tokenizer_fields(source.tokenizer, source.config.vocab_size)
    config = to_native_config(source.config, name)

    def load(path: Path):
        # transformers' reader has no word for the feed-forward width of a GPT-2.
        known = {"config": config} if name == "gpt2" and config.n_inner else {}
        return AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=source.dtype, **known)

    return Plan(partial(write_gguf, name, source, config, vocabulary), load, load_gguf_tokenizer)


def choose_architecture(config: FolioConfig) -> str:
    """llama.cpp's architecture that computes the same; raises ValueError, with the nearest, if none does."""
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
    found = [(field, getattr(config, field), value) for field, value in choices.items()]
    if name != "gpt2" and config.rope_parameters:
        found.append(("rope_type", config.rope_parameters["rope_type"], "default"))
    if "sliding_attention" in config.layer_types:
        found.append(("sliding_window", config.sliding_window, None))
    return [f"{field} is {got!r} (here only {there!r})" for field, got, there in found if got != there]


def write_gguf(name: str, source: Source, native: PreTrainedConfig, vocab: dict, tensors: dict, path: Path) -> None:
    """Write Folio's weights as a model of the architecture `name`."""
    import gguf

    config = source.config
    writer = gguf.GGUFWriter(path, name)
    writer.add_name(path.stem)
    writer.add_file_type(FILE_TYPES[source.dtype])
    for key, value in {**model_fields(config, name), **vocab}.items():
        add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
        add.get(type(value), writer.add_array)(key, value)

    architecture = next(arch for arch, known in gguf.MODEL_ARCH_NAMES.items() if known == name)
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    weights = ARCHITECTURES[name].weights(config.num_hidden_layers)
    weights = [dataclasses.replace(weight, transposed=False) for weight in weights]  # ggml's matrices are as ours
    shapes = shapes_of(ARCHITECTURES[name].model_class, native)
    for native_name, tensor in to_theirs(tensors, weights, shapes).items():
        if name == "llama":
            tensor = interleave(native_name, tensor, config)
        add_tensor(writer, names.get_name(native_name, try_suffixes=(".weight", ".bias")), tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def model_fields(config: FolioConfig, name: str) -> dict:
    """The config under llama.cpp's keys."""
    fields = {
        "block_count": config.num_hidden_layers, "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size, "feed_forward_length": config.intermediate_size,
        "vocab_size": config.vocab_size, "attention.head_count": config.num_attention_heads,
    }  # fmt: skip
    # transformers' reader takes some keys from nowhere, or under a name that its own config does not have; it does
    # take them under other architectures' names, which llama.cpp does not look at.
    for_transformers = {}
    if name == "gpt2":
        fields["attention.layer_norm_epsilon"] = config.norm_eps
        for_transformers["stablelm.context_length"] = config.max_position_embeddings
    else:
        sizes = ("attention.key_length", "attention.value_length", "rope.dimension_count")
        fields |= {"attention.head_count_kv": config.num_key_value_heads, **dict.fromkeys(sizes, config.head_dim)}
        fields["attention.layer_norm_rms_epsilon"] = config.norm_eps
        fields["rope.freq_base"] = float(config.rope_parameters["rope_theta"])
    if name == "qwen3":
        for_transformers["qwen3_moe.attention.key_length"] = config.head_dim
    return {f"{name}.{key}": value for key, value in fields.items()} | for_transformers


def interleave(name: str, tensor: torch.Tensor, config: FolioConfig) -> torch.Tensor:
    """llama.cpp's Llama rotates neighbouring dimensions, not the halves of a head (its Qwen3 rotates halves)."""
    rotated = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    if (heads := rotated.get(name.split(".")[-2])) is None:
        return tensor
    half = tensor.shape[0] // heads // 2
    return tensor.unflatten(0, (heads, 2, half)).transpose(1, 2).flatten(0, 2).contiguous()


def add_tensor(writer, name: str, tensor: torch.Tensor) -> None:
    """Matrices keep their dtype; llama.cpp wants vectors and positions in float32, which holds them exactly."""
    import gguf

    if tensor.dim() == 1 or name.startswith("position_embd"):
        tensor = tensor.float()
    if tensor.dtype == torch.bfloat16:  # numpy has none
        data = tensor.contiguous().view(torch.uint8).numpy()
        writer.add_tensor(name, data, raw_dtype=gguf.GGMLQuantizationType.BF16)
    else:
        writer.add_tensor(name, tensor.numpy())
