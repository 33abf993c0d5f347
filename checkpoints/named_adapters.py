"""Several LoRA adapters on one model, one of which computes each row of a batch."""

import os
import warnings
from dataclasses import dataclass

import torch
from safetensors import safe_open
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..jobs.extras import extra
from .adapter_merging import ids_to_compare, scores_of
from .base_record import BaseRecord, hash_weights
from .loading import PEFT_TASKS, adapter_folder, load_tokenizer_of, one_line
from .no_checkpoint import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from .self_check import relative_difference, tolerance

NO_ADAPTER = "__base__"  # PEFT's name for it


@dataclass
class Variant:
    """A model with one of its adapters, under PEFT's name, or None if the model has none at all."""

    adapter: str | None
    tokenizer: PreTrainedTokenizerBase
    generation_config: GenerationConfig


@torch.no_grad()
def add_adapters(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, names: list[str]
) -> tuple[PreTrainedModel, list[Variant]]:
    """Return the model with adapters, each a directory or Hub name, and its variants: the base first.

    Raises OSError for what is no adapter, ValueError for one that cannot share the model, ImportError without PEFT.
    """
    with extra("finetune", "An adapter"):
        from peft import PeftConfig, PeftModelForCausalLM, PeftType
    variants = [Variant(NO_ADAPTER, tokenizer, model.generation_config)]  # pyright: ignore[reportArgumentType]
    adapted, trained, alone, own_weights = None, [], [], dict(model.named_parameters())
    base_hash = hash_weights(own_weights)
    for name in names:
        folder = adapter_folder(os.path.expanduser(name))
        if folder is None:
            raise OSError(f"{name} is no adapter: name a folder with {ADAPTER_CONFIG}.")
        with one_line(name):
            config = PeftConfig.from_pretrained(str(folder))
        if config.peft_type != PeftType.LORA or config.use_dora or PEFT_TASKS.get(config.task_type, "lm") != "lm":
            raise ValueError(f"{name} is no plain LoRA adapter of a language model: serve it alone, as --model.")
        tokens = config.trainable_token_indices
        trained.append((config.modules_to_save, sorted(tokens) if isinstance(tokens, dict) else bool(tokens)))
        if trained[0] != trained[-1]:  # PEFT cannot load it
            raise ValueError(f"{name} trains other embeddings or heads than {names[0]}: serve it alone, as --model.")
        if (record := BaseRecord.load(folder)) and record.weights_hash != base_hash:
            raise ValueError(f"{name} was trained on a model with other weights: name that one as --model.")
        own = load_tokenizer_of(name, folder) if (folder / "tokenizer_config.json").is_file() else tokenizer
        if own.get_vocab() != tokenizer.get_vocab() or set(own.all_special_ids) != set(tokenizer.all_special_ids):
            raise ValueError(f"{name} has another vocabulary than the model: serve it alone, as --model.")
        variants.append(Variant(f"adapter_{len(variants)}", own, variants[0].generation_config))
        with one_line(name), warnings.catch_warnings(action="ignore"):  # of tied embeddings
            if (folder / "generation_config.json").is_file():
                variants[-1].generation_config = GenerationConfig.from_pretrained(folder)
            with safe_open(folder / ADAPTER_WEIGHTS, framework="pt") as file:  # not a pickle, as PEFT would
                has_others = any("lora_" not in key for key in file.keys())  # noqa: SIM118
            if adapted is None:
                adapted = PeftModelForCausalLM(model, config, variants[-1].adapter)
            lost = adapted.to(model.device).eval().load_adapter(str(folder), variants[-1].adapter).missing_keys
        if lost:
            raise ValueError(f"{name} has no {lost[0]}, so it was made for another model.")
        if has_others and hash_weights(own_weights) != base_hash:  # PEFT loads stored embeddings into the model itself
            raise ValueError(f"{name} has other embeddings than the model: serve it alone, as --model.")
    for variant in variants[1:]:
        adapted.set_adapter(variant.adapter)
        alone.append((ids := ids_to_compare(adapted), scores_of(adapted, ids)))
    for name, variant, (ids, expected) in zip(names, variants[1:], alone, strict=True):
        with one_line(name):
            found = adapted(input_ids=ids, adapter_names=[variant.adapter]).logits.float()
        if not relative_difference(found, expected[0]) <= tolerance(model.dtype):  # also for NaN
            raise ValueError(f"{name} would compute something else beside the others: serve it alone, as --model.")
    model.generation_config = GenerationConfig()  # `generate` takes from it what a variant does not set
    return adapted, variants
