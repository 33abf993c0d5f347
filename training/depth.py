"""The shape and the training settings that follow from a model's depth."""

import math
import os
from dataclasses import dataclass
from typing import Any

from ..jobs.options import option
from .arguments import ADAM_LEARNING_RATE, ADAM_LR_REFERENCE_WIDTH, BLOCK_SIZE

WIDTH, ROWS = 64, 16  # of a layer for each layer, and of a batch on each device
FOUND_AT, RATE, WEIGHT_DECAY, BATCH = 4, 0.02, 0.1, 2**15  # a depth, and what is taken there; the batch in tokens


def settings_of_depth(depth: int, block_size: int) -> dict[str, Any]:
    """Return the fields of `ModelArguments` and `PretrainingArguments` that `--depth` sets; raises ValueError."""
    if depth < 1:
        raise ValueError(f"depth is {depth}: give at least 1.")
    width, deeper, rows = WIDTH * depth, depth / FOUND_AT, ROWS * int(os.environ.get("WORLD_SIZE", "1"))
    tokens = 20 * 12 * depth * width**2  # 20 for each weight of the blocks (Hoffmann et al., 2022)
    # By the power 0.383 of the tokens (Bergsma et al., 2025).
    accumulation = max(1, 2 ** round(math.log2(BATCH * deeper ** (3 * 0.383) / (rows * block_size))))
    batch = accumulation * rows * block_size
    scale = (batch / BATCH) ** 0.5
    return {
        **dict.fromkeys(("num_hidden_layers", "num_attention_heads", "num_key_value_heads"), depth),
        "hidden_size": width,
        "learning_rate": RATE * scale / deeper**0.5,  # as benchmarks/transfer_of_rates.py measures it
        "adam_learning_rate": ADAM_LEARNING_RATE * scale * min(1, ADAM_LR_REFERENCE_WIDTH / width),
        # Weights forget over the same share of longer runs (Wang and Aitchison, 2024).
        "weight_decay": WEIGHT_DECAY * scale / max(1, deeper**3),
        "per_device_train_batch_size": ROWS,
        "gradient_accumulation_steps": accumulation,
        "max_steps": round(tokens / batch),
    }


@dataclass
class DepthArguments:
    """One number instead of many settings; a flag for one of them overrides it."""

    _argument_group_name = "the model"

    depth: int | None = option(None, "number of layers, which sets width, heads, rates, weight decay, batch and steps")

    @staticmethod
    def implied(known: Any, words: list[str]) -> dict[str, Any]:
        """Return the defaults of other options; `words` are all of the command line."""
        if known.depth is None:
            return {}
        if known.size or known.model_config or known.init_from:
            raise ValueError("--depth sets the model: leave out --size, --model_config and --init_from.")
        settings = settings_of_depth(known.depth, known.block_size or BLOCK_SIZE)
        if known.minutes or any(word.replace("-", "_").startswith("__num_train_epochs") for word in words):
            del settings["max_steps"]
        if known.optim != "muon":  # which the rates are for
            del settings["learning_rate"], settings["adam_learning_rate"]
        return settings
