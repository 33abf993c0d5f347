"""Probabilities and attention weights of a model for each token of a text."""

import copy
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

PROBE_TOKENS = 24  # random tokens, repeated once
MIN_SCORE = 0.4  # of a head that gets a name; uniform attention has 0.07


@dataclass
class Prediction:
    """A token of a text, and the tokens that the model expected in its place."""

    id: int
    probability: float | None  # None for the first, which nothing comes before
    top_tokens: list[tuple[int, float]]  # ids with their probabilities, the most likely first


@torch.no_grad()
def token_predictions(model: PreTrainedModel, ids: list[int], top_k: int = 5) -> list[Prediction]:
    """Compute the probability of each token of a text after those before it, and the `top_k` most likely ones."""
    logits = model(torch.tensor([ids], device=model.device)).logits[0, :-1]  # (T - 1, V)
    probabilities = logits.float().softmax(-1)
    of_text = probabilities.gather(1, torch.tensor(ids[1:], device=model.device)[:, None])[:, 0].tolist()
    values, best = probabilities.topk(min(top_k, probabilities.shape[-1]))
    top_tokens = [list(zip(*row, strict=True)) for row in zip(best.tolist(), values.tolist(), strict=True)]
    rows = zip(ids[1:], of_text, top_tokens, strict=True)
    return [Prediction(ids[0], None, []), *(Prediction(*row) for row in rows)]


def with_attentions(model: PreTrainedModel) -> PreTrainedModel:
    """Return a slower model, with the same parameters, not copies, that returns its attention weights."""
    twin = copy.deepcopy(model, memo={id(parameter): parameter for parameter in model.parameters()})
    twin.set_attn_implementation("eager")
    return twin


@torch.no_grad()
def attention_weights(model: PreTrainedModel, ids: list[int]) -> torch.Tensor:
    """Compute attention (layers, heads, T, T) by a model of `with_attentions`; raises ValueError if it returns none."""
    attentions = model(torch.tensor([ids], device=model.device), output_attentions=True).attentions
    if not attentions or attentions[0] is None:
        raise ValueError(f"{type(model).__name__} returns no attention weights: use another model.")
    return torch.cat([layer.float() for layer in attentions])


def previous_token_score(attentions: torch.Tensor) -> torch.Tensor:
    """Average the attention of each head to the token before: (layers, heads, T, T) -> (layers, heads)."""
    return attentions.diagonal(-1, dim1=-2, dim2=-1).mean(-1)


def induction_score(attentions: torch.Tensor, period: int) -> torch.Tensor:
    """Average the attention of each head to what came next the last time: (layers, heads, T, T) -> (layers, heads).

    The text repeats itself after `period` tokens, so an induction head looks from position t at t - period + 1, which
    holds the next token (Olsson et al., 2022). Raises ValueError if the text is not longer than a period.
    """
    tokens = attentions.shape[-1]
    if not 1 < period < tokens:
        raise ValueError(f"The text has {tokens} tokens: give a period from 2 to {tokens - 1}, not {period}.")
    return attentions.diagonal(1 - period, dim1=-2, dim2=-1)[..., 1:].mean(-1)


def first_token_score(attentions: torch.Tensor) -> torch.Tensor:
    """Average the attention of each head to the first token: (layers, heads, T, T) -> (layers, heads)."""
    return attentions[..., 1:, 0].mean(-1)


def head_names(model: PreTrainedModel, context_length: int | None = None) -> dict[tuple[int, int], str]:
    """Name the heads with one clear pattern, by layer and head from 0, of a model of `with_attentions`.

    The text is random tokens, repeated once, so that position and repetition alone determine the attention.
    """
    period = min(PROBE_TOKENS, (context_length or 2 * PROBE_TOKENS) // 2)
    if period < 2:
        return {}
    rows = model.config.get_text_config().vocab_size
    ids = torch.randint(rows, (period,), generator=torch.Generator().manual_seed(0)).tolist()
    weights = attention_weights(model, ids + ids)
    scores = {
        "first token": first_token_score(weights),
        "previous token": previous_token_score(weights),
        "induction": induction_score(weights, period),
    }
    found = [(place, name) for name, score in scores.items() for place in (score >= MIN_SCORE).nonzero().tolist()]
    return {(layer, head): name for (layer, head), name in found}  # the last name counts: the first two are common
