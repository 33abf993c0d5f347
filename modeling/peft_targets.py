"""The default target modules of PEFT's methods in a Folio model.

PEFT has them in tables by model type. Ours is added when PEFT is imported, before or after this file, and importing
this file does not import PEFT.
"""

import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder

from .positions import apply_rotary_pos_emb

LIKE = "llama"  # the model type whose modules have our names


def add_targets(constants, model_type: str) -> None:
    """Add `model_type` to every table of PEFT's that has `LIKE`."""
    for name, table in vars(constants).items():
        if name.startswith("TRANSFORMERS_MODELS_TO_") and isinstance(table, dict) and LIKE in table:
            table.setdefault(model_type, table[LIKE])


def add_attention(config, model_type: str) -> None:
    """Tell PEFT's AdaptionPrompt which parts of our attention to use."""
    table = config.TRANSFORMERS_MODEL_CONFIG
    table.setdefault(model_type, table[LIKE]._replace(compute_query_states=query_states))


def query_states(model, hidden_states, position_embeddings=None, **kwargs):
    """Compute the queries (B, H, T, D) of an attention module `model` for `hidden_states` (B, T, C)."""
    q = model.q_proj(hidden_states).unflatten(-1, (-1, model.head_dim))
    q = (model.q_norm(q) if model.qk_norm else q).transpose(1, 2)
    return q if position_embeddings is None else apply_rotary_pos_emb(q, q, *position_embeddings)[0]


TABLES = {"peft.utils.constants": add_targets, "peft.tuners.adaption_prompt.config": add_attention}


class _WhenImported(MetaPathFinder):
    """A finder of the modules of `TABLES`, which adds our entries to each when it is loaded."""

    def __init__(self, model_type: str):
        self.model_type = model_type

    def find_spec(self, name, path, target=None):
        spec = PathFinder.find_spec(name, path, target) if name in TABLES else None
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def load_and_add(module):
                load(module)
                TABLES[name](module, self.model_type)

            spec.loader.exec_module = load_and_add
        return spec


def register(model_type: str) -> None:
    """Register `model_type` with PEFT, now or when it is imported."""
    for name, add in TABLES.items():
        if name in sys.modules:
            add(sys.modules[name], model_type)
    if not any(getattr(finder, "model_type", None) == model_type for finder in sys.meta_path):
        sys.meta_path.insert(0, _WhenImported(model_type))
