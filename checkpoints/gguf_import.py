"""A GGUF file as a source. transformers reads it, and what it would pass over is refused here."""

import functools
from pathlib import Path

import torch
from transformers import AutoConfig

from ..jobs.errors import first_line
from ..jobs.extras import extra
from .gguf_export import model_fields, tensor_names
from .gguf_tokenizer import load_gguf_tokenizer
from .native import ARCHITECTURES, to_folio_config, to_ours
from .sources import Source, logits_of, shapes_of, tied
from .weight_files import check_shapes


def open_gguf(path: Path) -> Source:
    """Read a GGUF file, quantized weights as float32; raises ImportError, or ValueError for what would be misread."""
    with extra("gguf", "Reading GGUF"):
        from gguf import GGUFReader
    try:
        reader = GGUFReader(path)
        values = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("tokenizer.")}
        stored = {tensor.name: tuple(map(int, reversed(tensor.shape))) for tensor in reader.tensors}
        name = values["general.architecture"]
    except Exception as error:  # a damaged file raises whatever its last bytes happen to mean
        raise ValueError(f"{path} is cut off or is no GGUF file ({first_line(error)}): get it again.") from None
    if name not in ARCHITECTURES:
        raise ValueError(f"{path} is a GGUF file of architecture {name!r}: known are {', '.join(ARCHITECTURES)}.")
    try:
        architecture, tokenizer = ARCHITECTURES[name], load_gguf_tokenizer(path)
    except Exception as error:  # of tokenizers, which has no class of its own
        if isinstance(error, (ValueError, OSError)):
            raise
        raise ValueError(f"The tokenizer in {path} is damaged ({first_line(error)}): get the file again.") from None
    native = _native_config(path, name, values, stored)
    for kind in ("bos", "eos", "pad"):
        setattr(native, f"{kind}_token_id", getattr(tokenizer, f"{kind}_token_id"))
    config = to_folio_config(native)
    understood = model_fields(config, name)
    for key, value in values.items():  # a key that is passed over, of a stretched RoPE for one, changes the function
        if key.startswith(f"{name}.") and understood.get(key) != value:
            raise ValueError(f"{key} is {value!r} in {path}: convert the safetensors checkpoint that it was made from.")
    weights = architecture.weights(config.num_hidden_layers)
    turned = {weight.theirs for weight in weights if weight.transposed}
    name_of, shapes = tensor_names(name, config), shapes_of(architecture.model_class, native)
    expected = {name_of(theirs): shape[::-1] if theirs in turned else shape for theirs, shape in shapes.items()}
    check_shapes(stored, expected, {name_of(theirs) for theirs in tied(config)}, path)

    def load():
        read = architecture.model_class.from_pretrained
        return read(path.parent, gguf_file=path.name, config=native, dtype=torch.float32)

    def tensors() -> dict[str, torch.Tensor]:
        theirs = load().state_dict()
        return to_ours({name: tensor for name, tensor in theirs.items() if name not in tied(config)}, weights)

    logits = functools.partial(logits_of, load)
    return Source("gguf", config, torch.float32, tensors, logits, tokenizer, folder=None)


def _native_config(path: Path, name: str, values: dict, stored: dict[str, tuple]):
    """The config as transformers reads it, with the sizes that it takes from nowhere, and no dropout by default."""
    config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
    sizes = {"vocab_size": stored.get("token_embd.weight", (None,))[0]}
    if name == "gpt2":
        sizes |= {"n_positions": values.get("gpt2.context_length"), "n_inner": values.get("gpt2.feed_forward_length")}
        sizes |= {"attn_pdrop": 0.0, "resid_pdrop": 0.0}
    else:
        sizes["head_dim"] = values.get(f"{name}.attention.key_length")
    for field, value in sizes.items():
        if value is not None:
            setattr(config, field, value)
    return config
