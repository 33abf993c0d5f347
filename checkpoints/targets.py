"""What a checkpoint is converted to: a directory that transformers opens."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..modeling.modeling_folio import FolioForCausalLM
from .native import ARCHITECTURES, Architecture, to_native_config, to_theirs
from .sources import TOKENIZER_FILES, Source, load_tokenizer, shapes_of, without_memory
from .weight_files import GENERATION


@dataclass(frozen=True)
class Plan:
    """How a target is written, given Folio's weights, and how its users will load the model and the tokenizer."""

    write: Callable[[dict[str, torch.Tensor], Path], None]
    load: Callable[[Path], PreTrainedModel]
    load_tokenizer: Callable[[Path], PreTrainedTokenizerBase]


def plan_folder(source: Source, to: str) -> Plan:
    """A directory that transformers opens; raises ValueError if `to` cannot express the source's config."""
    config, architecture, model_class = source.config, None, FolioForCausalLM
    if to != "folio":
        config, architecture = to_native_config(source.config, to), ARCHITECTURES[to]
        model_class = architecture.model_class

    def write(tensors: dict[str, torch.Tensor], folder: Path) -> None:
        model = without_memory(model_class, config, source.dtype)
        model.save_pretrained(folder, state_dict=for_target(tensors, config, architecture))
        write_tokenizer(source, folder)
        if (source.folder / GENERATION).is_file():
            shutil.copyfile(source.folder / GENERATION, folder / GENERATION)
        mode = (folder / "config.json").stat().st_mode
        for file in folder.iterdir():
            file.chmod(mode)  # safetensors lets nobody else read what it writes

    def load(folder: Path):
        return model_class.from_pretrained(folder, dtype="auto", local_files_only=True)

    return Plan(write, load, load_tokenizer)


def for_target(
    tensors: dict[str, torch.Tensor], config: PreTrainedConfig, architecture: Architecture | None
) -> dict[str, torch.Tensor]:
    """Folio's weights as the target stores them."""
    if architecture is None or architecture.layer is None:
        return tensors
    shapes = shapes_of(architecture.model_class, config)
    return to_theirs(tensors, architecture.weights(config.num_hidden_layers), shapes)


def write_tokenizer(source: Source, folder: Path) -> None:
    """The tokenizer as transformers saves it, which names its class, and what other files of its the source has."""
    if source.tokenizer is None:
        return
    source.tokenizer.save_pretrained(folder)
    for pattern in TOKENIZER_FILES:
        for file in source.folder.glob(pattern):
            if not (folder / file.name).exists():
                shutil.copyfile(file, folder / file.name)
