"""Plans of conversion, and the conversion to a directory that transformers opens."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .native import KINDS, to_native, to_native_config
from .sources import TOKENIZER_FILES, Source, load_tokenizer, shapes_of, without_memory
from .weight_files import GENERATION


@dataclass(frozen=True)
class Plan:
    """Functions that write a target, given Folio's weights, and load it and its tokenizer as its users do."""

    write: Callable[[dict[str, torch.Tensor], Path], None]
    load: Callable[[Path], PreTrainedModel]
    load_tokenizer: Callable[[Path], PreTrainedTokenizerBase]


def plan_folder(source: Source, to: str) -> Plan:
    """Plan a directory that transformers opens; raises ValueError if `to` cannot express the source's config."""
    architecture, model_class = KINDS[to], KINDS[to].model_class
    config = source.config if to == "folio" else to_native_config(source.config, to)

    def write(tensors: dict[str, torch.Tensor], folder: Path) -> None:
        model = without_memory(model_class, config, source.dtype)
        weights = architecture.weights(config.num_hidden_layers)
        model.save_pretrained(folder, state_dict=to_native(tensors, weights, shapes_of(model_class, config)))
        write_tokenizer(source, folder)
        if (source.folder / GENERATION).is_file():
            shutil.copyfile(source.folder / GENERATION, folder / GENERATION)
        mode = (folder / "config.json").stat().st_mode
        for file in folder.iterdir():
            file.chmod(mode)  # safetensors lets only the owner read the files that it writes

    def load(folder: Path):
        return model_class.from_pretrained(folder, dtype="auto", local_files_only=True)

    return Plan(write, load, load_tokenizer)


def write_tokenizer(source: Source, folder: Path) -> None:
    """Save the tokenizer by transformers, which names its class, and copy its other files from the source."""
    if source.tokenizer is None:
        return
    source.tokenizer.save_pretrained(folder)
    for file in (file for pattern in TOKENIZER_FILES for file in source.folder.glob(pattern)):
        if not (folder / file.name).exists():
            shutil.copyfile(file, folder / file.name)
