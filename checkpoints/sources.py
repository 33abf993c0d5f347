"""Sources of conversion: checkpoints of any known kind, checked before a weight is read."""

import copy
import functools
import gc
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from .. import tokenization
from ..jobs.errors import first_line
from ..modeling.configuration_folio import FolioConfig
from .loading import check_counts
from .native import KINDS, to_folio, to_folio_config
from .weight_files import GENERATION, StoredTensor, check_shapes, find_checkpoint, read_config, some, stored_tensors

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "vocab.txt", "merges.txt", "*.model", "chat_template.jinja", "chat_template.json",
)  # fmt: skip
COMPUTED = (".attn.bias", ".attn.masked_bias", "rotary_emb.inv_freq")  # buffers in older files


@dataclass(frozen=True)
class Source:
    """A checkpoint whose config and tensors fit each other."""

    folder: Path
    kind: str  # "folio" or a native architecture
    config: FolioConfig  # of the Folio model that computes the same
    own_config: PreTrainedConfig
    model_class: type
    stored: dict[str, StoredTensor]
    tokenizer: PreTrainedTokenizerBase | None

    @cached_property
    def dtype(self) -> torch.dtype:
        """The dtype that holds every weight exactly."""
        return functools.reduce(torch.promote_types, (tensor.dtype for tensor in self.stored.values()))

    def tensors(self) -> dict[str, torch.Tensor]:
        """Read the weights and convert them to Folio's names and form."""
        stored = {name: tensor[...] for name, tensor in self.stored.items()}
        return to_folio(stored, KINDS[self.kind].weights(self.config.num_hidden_layers))

    def logits(self, batches: list[torch.Tensor], dtype: torch.dtype) -> list[torch.Tensor]:
        """Compute the source's own logits for batches of ids, in float32 or float64."""
        read = functools.partial(self.model_class.from_pretrained, None, config=self.own_config, dtype=self.dtype)
        return logits_of(lambda: read(state_dict=dict(self.stored)), batches, dtype)


def open_checkpoint(source: str) -> Source:
    """Open a checkpoint; raises OSError if it is incomplete, ValueError if it is damaged or Folio has no equal."""
    folder = find_checkpoint(source)
    written = read_config(folder)
    if (folder / GENERATION).is_file():
        read_config(folder, GENERATION)  # only checked: it will be copied unchanged
    kind = written.get("model_type")
    if kind not in KINDS:
        raise ValueError(f"{folder} has model_type {kind!r}: give a causal language model of type {', '.join(KINDS)}.")
    files = stored_tensors(folder)
    check_written_config(written, len(files), folder)
    model_class = KINDS[kind].model_class
    try:
        config = model_class.config_class.from_pretrained(folder, local_files_only=True)
        expected = shapes_of(model_class, config)
    except Exception as error:  # from any layer, such as an assertion in torch's Embedding
        raise ValueError(f"No model can be made of {folder / 'config.json'}: {first_line(error)}") from None
    folio_config = config if kind == "folio" else to_folio_config(config)

    stored = named_for(model_class, files)
    optional = {"lm_head.weight"} if config.tie_word_embeddings else set()
    check_shapes({name: tensor.shape for name, tensor in stored.items()}, expected, optional, folder)
    if others := [name for name, tensor in stored.items() if tensor.dtype is None]:
        remedy = "give a model in float32, bfloat16 or float16"
        raise ValueError(f"{some(others)} in {folder} is quantized or of a rare dtype: {remedy}.")
    head, embedding = next(iter(model_class._tied_weights_keys.items()))
    if config.tie_word_embeddings and head in stored and not torch.equal(stored.pop(head)[...], stored[embedding][...]):
        what = f"{head} is not {embedding} in {folder}, but tie_word_embeddings is true"
        raise ValueError(f"{what}: set it to false in config.json.")
    return Source(folder, kind, folio_config, config, model_class, stored, load_tokenizer(folder))


def check_written_config(written: dict, tensors: int, folder: Path) -> None:
    """Raise ValueError for other than plain causal language models, unknown fields, or more layers than tensors."""
    for name in written.get("architectures") or []:
        if not str(name).endswith(("ForCausalLM", "LMHeadModel")):
            raise ValueError(f"architectures is [{name!r}] in {folder}: only causal language models can be converted.")
    if written.get("quantization_config"):
        raise ValueError(f"quantization_config is set in {folder}: convert the model it was quantized from.")
    check_counts(written, tensors, folder)
    if written["model_type"] != "folio":
        if "AutoModelForCausalLM" in str(written.get("auto_map")):
            what = f"auto_map is set in {folder}: the model has code of its own, which is not run"
            raise ValueError(f"{what}: remove the entry if it computes the same as transformers' class.")
    elif written.get("is_causal") is False:
        raise ValueError("is_causal is False: an encoder. Give a causal language model, such as it was made from.")
    elif unknown := sorted(set(written) - set(FolioConfig().to_dict())):
        what = f"config.json has {', '.join(unknown)}, which this version does not know"
        raise ValueError(f"{what}: upgrade foliogpt, or remove fields that you added.")


def named_for(model_class: type, stored: dict[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Rename tensors to the names of `model_class`, and leave out those that it computes itself."""
    prefix = f"{model_class.base_model_prefix}."
    if not any(name.startswith(prefix) for name in stored):  # saved from the model without its head, as gpt2 was
        stored = {name if name == "lm_head.weight" else prefix + name: tensor for name, tensor in stored.items()}
    return {name: tensor for name, tensor in stored.items() if not name.endswith(COMPUTED)}


def shapes_of(model_class: type, config: PreTrainedConfig) -> dict[str, tuple]:
    return {name: tuple(tensor.shape) for name, tensor in without_memory(model_class, config).state_dict().items()}


def without_memory(model_class: type, config: PreTrainedConfig, dtype: torch.dtype = torch.float32):
    """Make a model that has shapes and no weights."""
    with torch.device("meta"):
        return model_class(copy.deepcopy(config)).to(dtype)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase | None:
    if not any(next(folder.glob(name), None) for name in TOKENIZER_FILES):
        return None
    return tokenization.load_tokenizer(str(folder))


def logits_of(load: Callable, batches: list[torch.Tensor], dtype=torch.float32) -> list[torch.Tensor]:
    """Compute the logits (1, T, V) of a model for each batch of ids, and remove the model from memory."""
    model = load().eval()
    compute_in(model, dtype)
    with torch.no_grad():
        logits = [model(ids, use_cache=False).logits for ids in batches]
    del model
    gc.collect()  # modules refer to themselves
    return logits


def compute_in(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """Make each module cast its weights to a wider dtype while it runs: exact, at the memory of the stored dtype."""

    def widen(module, inputs):
        module.stored = [parameter.data for parameter in module.parameters(recurse=False)]
        for parameter in module.parameters(recurse=False):
            parameter.data = parameter.data.to(dtype)

    def restore(module, inputs, output):
        for parameter, stored in zip(module.parameters(recurse=False), module.stored, strict=True):
            parameter.data = stored
        del module.stored

    for module in model.modules():
        if any(parameter.dtype != dtype for parameter in module.parameters(recurse=False)):
            module.register_forward_pre_hook(widen)
            module.register_forward_hook(restore)
