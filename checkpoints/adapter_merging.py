"""Merging of an adapter with its base, with proof that the result computes the same.

PEFT changes the weights of the base in place. If two modules share a weight, as a tied head and the embeddings do, or
the copies of a replicated layer, that would change both.
"""

import warnings
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from ..jobs.errors import first_line
from .self_check import relative_difference

TOKENS = 16  # in the input on which logits are compared
TOLERANCE = 1e-3  # of logits, relative to their variation. Rounding gives 1e-5 in a model of 30 layers.


class MergeError(ValueError):
    """An adapter cannot be expressed by the weights of its base. Remedy: use it unmerged."""


def merged(adapted: Any, name: str) -> PreTrainedModel:
    """Merge a `peft.PeftModel`, which cannot be used afterwards, even if this fails.

    Weights of 16 bits are float32 meanwhile: their rounding would hide errors, and add to the result's. Raises
    MergeError if the method cannot be merged, or the merged model computes something else; ValueError if the adapter
    `name` gives logits that are not finite.
    """
    if not hasattr(adapted.base_model, "merge_and_unload"):
        raise MergeError(f"{adapted.active_peft_config.peft_type.value} keeps trained vectors outside of the weights")
    ids, was_tied, base = ids_to_compare(adapted), adapted.config.tie_word_embeddings, adapted.get_base_model()
    dtype, dtypes = base.dtype, {name.replace("base_layer.", ""): p.dtype for name, p in base.named_parameters()}
    for weight in adapted.parameters():
        if weight.dtype in (torch.float16, torch.bfloat16):
            weight.data = weight.data.float()
    expected = scores_of(adapted, ids)
    if not expected.isfinite().all():
        raise ValueError(f"{name} gives NaN or infinite logits: its weights are broken, so train the adapter again.")
    _unshare(adapted)
    try:
        with warnings.catch_warnings(action="ignore"):  # of tied embeddings, which `_unshare` has separated
            model = adapted.base_model.merge_and_unload()
    except Exception as error:  # each method has its own
        raise MergeError(f"PEFT does not merge it: {first_line(error)}") from None
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    if was_tied and head is not None:
        model.config.tie_word_embeddings = torch.equal(embeddings.weight, head.weight)
        if model.config.tie_word_embeddings:
            head.weight = embeddings.weight
    difference = relative_difference(scores_of(model, ids), expected)
    if not difference <= TOLERANCE:  # also for NaN
        raise MergeError(f"the logits would differ by {difference:.1g} of their variation, more than {TOLERANCE}")
    for name, weight in model.named_parameters():
        if weight.is_floating_point():
            weight.data = weight.data.to(dtypes.get(name, dtype))
    return model


def ids_to_compare(adapted: Any) -> torch.Tensor:
    """Return token ids (1, T) to compare on, first those whose embeddings the adapter trains."""
    config = adapted.active_peft_config
    trained = getattr(config, "token_indices", None) or getattr(config, "trainable_token_indices", None) or []
    if isinstance(trained, dict):
        trained = [token for tokens in trained.values() for token in tokens]
    text_config = adapted.config.get_text_config()
    spread = torch.arange(TOKENS) * text_config.vocab_size // TOKENS
    tokens = min(TOKENS, getattr(text_config, "max_position_embeddings", None) or TOKENS)
    return torch.cat([torch.tensor(trained[: TOKENS // 2], dtype=torch.long), spread])[None, :tokens].to(adapted.device)


@torch.no_grad()
def scores_of(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """Compute a model's logits, or, if it marks answers, those of their starts and ends."""
    found = model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids))
    logits = [found.logits] if "logits" in found else [found.start_logits, found.end_logits]
    return torch.stack(logits).float()


def _unshare(adapted: Any) -> None:
    """Give each module weights of its own. Tied embeddings stay tied if the adapter changes neither end."""
    model = adapted.get_base_model()
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    is_adapted = any(type(end).__module__.startswith("peft.") for end in ends)
    tied, seen = None if is_adapted else ends[0].weight, set()
    for module in model.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            if id(weight) in seen and weight is not tied:
                setattr(module, name, nn.Parameter(weight.detach().clone(), requires_grad=False))
            seen.add(id(weight))
