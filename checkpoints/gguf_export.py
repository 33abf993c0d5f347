"""GGUF, the file format of llama.cpp and Ollama, under llama.cpp's names (github.com/ggml-org/ggml, docs/gguf.md)."""

import dataclasses
from functools import partial
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig

from ..jobs.extras import extra
from ..modeling.configuration_folio import FolioConfig
from .gguf_tokenizer import load_gguf_tokenizer, tokenizer_fields
from .native import ARCHITECTURES, obstacles, to_native, to_native_config
from .sources import Source, shapes_of
from .targets import Plan

FILE_TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 32, "q8_0": 7}
ACTIVATIONS = {"gpt2": "gelu_pytorch_tanh", "llama": "silu", "qwen3": "silu"}


def plan_gguf(source: Source, destination: Path, quantize: str | None = None) -> Plan:
    """Plan a GGUF file of the architecture that computes what the source does; raises ImportError, ValueError."""
    with extra("gguf", "Writing GGUF"):
        import gguf  # noqa: F401
    if destination.suffix != ".gguf":
        raise ValueError(f"{destination} will be a file: call it {destination.name}.gguf.")
    found = {
        name: [*obstacles(source.config, architecture), *gguf_obstacles(source.config, name)]
        for name, architecture in ARCHITECTURES.items()
    }
    name = min(found, key=lambda name: len(found[name]))
    if found[name]:
        raise ValueError(f"llama.cpp cannot compute this model; nearest is {name}: {'; '.join(found[name])}.")
    if source.tokenizer is None:
        raise ValueError("A GGUF file holds the tokenizer as well, and this checkpoint has none: save one next to it.")
    vocabulary = tokenizer_fields(source.tokenizer, source.config.vocab_size)
    config = to_native_config(source.config, name)

    def load(path: Path):
        # transformers' reader does not read the feed-forward width of a GPT-2.
        known = {"config": config} if name == "gpt2" and config.n_inner else {}
        dtype = torch.float32 if quantize else source.dtype
        return AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=dtype, **known)

    return Plan(partial(write_gguf, name, source, config, vocabulary, quantize), load, load_gguf_tokenizer)


def gguf_obstacles(config: FolioConfig, name: str) -> list[str]:
    """List the fields that transformers' class of that name has and llama.cpp's has not, with their values."""
    found = [("hidden_act", config.hidden_act, ACTIVATIONS[name])]
    if name != "gpt2":
        found += [(bias, getattr(config, bias), False) for bias in ("attention_bias", "mlp_bias")]
        found.append(("rope_type", (config.rope_parameters or {}).get("rope_type", "default"), "default"))
    if "sliding_attention" in config.layer_types:
        found.append(("sliding_window", config.sliding_window, None))
    return [f"{field} is {got!r} (here only {there!r})" for field, got, there in found if got != there]


def write_gguf(
    name: str, source: Source, native: PreTrainedConfig, vocab: dict, quantize: str | None, tensors: dict, path: Path
) -> None:
    """Write Folio's weights as a model of the architecture `name`."""
    import gguf

    config = source.config
    writer = gguf.GGUFWriter(path, name)
    writer.add_name(path.stem)
    writer.add_file_type(FILE_TYPES[quantize or source.dtype])
    if quantize:
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    for key, value in {**model_fields(config, name), **vocab}.items():
        add.get(type(value), writer.add_array)(key, value)

    architecture = next(arch for arch, known in gguf.MODEL_ARCH_NAMES.items() if known == name)
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    weights = ARCHITECTURES[name].weights(config.num_hidden_layers)
    weights = [dataclasses.replace(weight, transposed=False) for weight in weights]  # ggml stores matrices as Folio
    shapes = shapes_of(ARCHITECTURES[name].model_class, native)
    for native_name, tensor in to_native(tensors, weights, shapes).items():
        target = names.get_name(native_name, try_suffixes=(".weight", ".bias"))
        if name == "llama":
            tensor = interleave(native_name, tensor, config)
        data, kind = stored(target, tensor, quantize)
        writer.add_tensor(target, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def stored(name: str, tensor: torch.Tensor, quantize: str | None) -> tuple:
    """Return a weight as llama.cpp's converter writes it, and its type. Q8_0 has a scale for each 32 of a row."""
    from gguf import GGMLQuantizationType as Kind
    from gguf import quants

    if tensor.dim() == 1 or "position" in name:  # llama.cpp computes with these in float32
        kind = Kind.F32
    elif quantize:
        kind = Kind.Q8_0 if tensor.shape[-1] % 32 == 0 else Kind.F16
    else:
        kind = {torch.float32: Kind.F32, torch.float16: Kind.F16, torch.bfloat16: Kind.BF16}[tensor.dtype]
    return quants.quantize(tensor.float().numpy(), kind), kind


def rounded(tensors: dict[str, torch.Tensor], quantize: str) -> dict[str, torch.Tensor]:
    """Return Folio's weights as a reader of the quantized file finds them, in float32."""
    from gguf import quants

    return {name: torch.from_numpy(quants.dequantize(*stored(name, t, quantize))) for name, t in tensors.items()}


def model_fields(config: FolioConfig, name: str) -> dict:
    """Return the config under llama.cpp's keys."""
    fields = {
        "block_count": config.num_hidden_layers, "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size, "feed_forward_length": config.intermediate_size,
        "vocab_size": config.vocab_size, "attention.head_count": config.num_attention_heads,
    }  # fmt: skip
    if name == "gpt2":
        fields["attention.layer_norm_epsilon"] = config.norm_eps
    else:
        sizes = ("attention.key_length", "attention.value_length", "rope.dimension_count")
        fields |= {"attention.head_count_kv": config.num_key_value_heads, **dict.fromkeys(sizes, config.head_dim)}
        fields["attention.layer_norm_rms_epsilon"] = config.norm_eps
        fields["rope.freq_base"] = float(config.rope_parameters["rope_theta"])
    # transformers' reader ignores some keys, or reads them into a field that its own config does not have. It reads
    # them correctly under other architectures' names, which llama.cpp ignores.
    for_transformers = {
        "gpt2": {"stablelm.context_length": config.max_position_embeddings},
        "qwen3": {"qwen3_moe.attention.key_length": config.head_dim},
    }
    return {f"{name}.{key}": value for key, value in fields.items()} | for_transformers.get(name, {})


def interleave(name: str, tensor: torch.Tensor, config: FolioConfig) -> torch.Tensor:
    """Reorder rows for llama.cpp's Llama, which rotates neighboring dimensions, unlike Qwen3, and not halves."""
    rotated = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    if (heads := rotated.get(name.split(".")[-2])) is None:
        return tensor
    half = tensor.shape[0] // heads // 2
    return tensor.unflatten(0, (heads, 2, half)).transpose(1, 2).flatten(0, 2).contiguous()
