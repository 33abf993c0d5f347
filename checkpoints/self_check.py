"""A check that the installed transformers generates the same text with the key-value cache as without it.

transformers 5.24 renamed the argument by which `generate` passes the cache, and a model that did not know the new name
saw one token at a time, without an error. This file imports nothing of ours, so that any process can run it.
"""

import torch
import transformers
from transformers import GenerationConfig

PROMPT, NEW = 3, 3  # tokens: the last two are made with a cache


class CacheMismatchError(RuntimeError):
    """Generation with the cache differs from the model: the installed versions do not fit this package.

    The weights are correct. Remedy: install a version of transformers in the range that the package declares.
    """


def tolerance(dtype: torch.dtype) -> float:
    """Return the rounding of logits, relative to their variation; a cache that is not read gives 0.3 and more."""
    return 1e-2 if dtype.itemsize >= 4 else 0.1


@torch.no_grad()
def cache_error(model) -> float:
    """Compute the difference of logits with and without the cache over a few greedy tokens, relative to variation."""
    vocab_size = model.config.get_text_config().vocab_size
    ids = (torch.arange(1, PROMPT + 1, device=model.device) * (vocab_size // (PROMPT + 2)))[None]  # (1, T)
    options = GenerationConfig(
        max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False, use_cache=True, pad_token_id=0,
        output_logits=True, return_dict_in_generate=True,
    )  # fmt: skip
    own, training = model.generation_config, model.training
    model.generation_config = GenerationConfig()  # the defaults of `generate` for options that are not given
    model.eval()
    try:
        found = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=options)
        cached = torch.stack(found.logits, dim=1).float()  # (1, NEW, V)
        whole = model(input_ids=found.sequences[:, :-1], use_cache=False).logits[:, -NEW:].float()
    finally:
        model.generation_config = own
        model.train(training)
    return relative_difference(cached, whole)


def relative_difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Compute the distance of logits (..., V) from the expected ones, relative to how much those vary."""
    varies = (expected - expected.mean(-1, keepdim=True)).norm()
    return float((found - expected).norm() / varies.clamp(min=1e-6))


def check_cache(model, remedy: str = "") -> None:
    """Raise CacheMismatchError, with the `remedy`, if a model does not generate well; NaN passes."""
    text_config = model.config.get_text_config()
    if not getattr(model, "can_generate", bool)() or text_config.is_encoder_decoder:
        return
    if (getattr(text_config, "max_position_embeddings", None) or PROMPT + NEW) < PROMPT + NEW:
        return
    error = cache_error(model)
    if error > tolerance(model.dtype):
        installed = f"With transformers {transformers.__version__} and torch {torch.__version__}"
        what = f"this model generates other text with its cache than without (relative difference {error:.2g})"
        fix = f"Install the versions that foliogpt was tested with: pip install -U foliogpt. {remedy}".strip()
        raise CacheMismatchError(f"{installed} {what}. {fix}")
