"""Changes to the scores of the next token: penalties, a bias, and a JSON schema that the text must follow.

Schemas are llguidance's (https://github.com/guidance-ai/llguidance). It bounds the work on each token, not all of that
on a schema, and its recursion may end the process: so schemas are of limited length, and compiled on a large stack.
"""

import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import torch
from transformers import LogitsProcessor, PreTrainedModel, PreTrainedTokenizerBase

from ..jobs.extras import extra
from .choice import log_probabilities

MAX_SCHEMA = 100_000  # characters of a structure
STACK = 2**28  # bytes, of which it takes what it needs
SLOW_MULTIPLE = re.compile(r'"multipleOf": [\d.e+-]{6}')  # a million takes eight seconds
# Between the parts of JSON, so that no model writes spaces to the end of its context.
SPACING = {"x-guidance": {"whitespace_pattern": r"( |\n {0,32})?"}}


class Adjustment(LogitsProcessor):
    """Subtracts frequency and presence penalties from generated tokens, and adds a bias."""

    def __init__(self, start: int, frequency: float, presence: float, bias: dict[int, float]):
        self.start, self.frequency, self.presence, self.bias = start, frequency, presence, bias

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        counts = torch.bincount(input_ids[0, self.start :], minlength=scores.shape[1])[: scores.shape[1]]
        scores = scores - self.frequency * counts - self.presence * (counts > 0)
        scores[0, [*self.bias]] += torch.tensor([*self.bias.values()]).to(scores)
        return scores


class Structured(LogitsProcessor):
    """Masks tokens with which a text could not continue, or end, within its structure."""

    def __init__(self, matcher, start: int):
        self.matcher, self.read = matcher, start

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        if not self.matcher.is_stopped():  # an engine may continue for a step after the end
            self.matcher.consume_tokens(input_ids[0, self.read :].tolist())
        self.read = input_ids.shape[1]
        mask = np.frombuffer(self.matcher.compute_bitmask(), np.uint8)  # after an error, the ends alone
        known = torch.from_numpy(np.unpackbits(mask, bitorder="little")[: scores.shape[1]]).bool()
        forbidden = torch.ones_like(scores, dtype=torch.bool)
        forbidden[0, : len(known)] = ~known.to(scores.device)
        kept = scores.masked_fill(forbidden, -torch.inf)
        if kept.max() == -torch.inf:  # others forbid the rest, such as min_tokens: the structure wins
            kept = torch.zeros_like(scores).masked_fill(forbidden, -torch.inf)
        return kept

    @property
    def failure(self) -> str:
        """The reason why the text could not follow the structure to its end; usually empty."""
        return self.matcher.get_error().partition("\n")[0]


@lru_cache(4)
def _vocabulary(tokenizer: PreTrainedTokenizerBase, rows: int, ends: tuple[int, ...]):
    from llguidance import LLTokenizer

    if not ends:
        raise ValueError("This model has no token that ends a text, so no text of it can follow a schema.")
    try:
        return LLTokenizer(tokenizer.backend_tokenizer.to_str(), n_vocab=rows, eos_token=list(ends))
    except (AttributeError, ValueError) as error:
        raise ValueError(f"No text of this model's tokenizer can follow a schema ({error}).") from None


def compiled(lark: str, tokenizer: PreTrainedTokenizerBase, rows: int, ends: list[int]):
    """Compile a matcher, to be copied for each text; `rows` are those of the embeddings. ValueError if it fails."""
    with extra("serve", "Structured output"):
        from llguidance import LLMatcher
    if len(lark) > MAX_SCHEMA or SLOW_MULTIPLE.search(lark):
        raise ValueError(f"The schema has more than {MAX_SCHEMA:,} characters, or a multipleOf with more than 5.")
    vocabulary = _vocabulary(tokenizer, rows, tuple(end for end in ends if end < rows))
    usual = threading.stack_size(STACK)
    try:
        with ThreadPoolExecutor(1) as pool:
            matcher = pool.submit(LLMatcher, vocabulary, lark, log_level=0).result()
    finally:
        threading.stack_size(usual)
    if not matcher.is_error():
        matcher.deep_copy().compute_bitmask()  # the first step finds out more
    if matcher.is_error():
        raise ValueError(f"No text can follow the schema: {' '.join(matcher.get_error().split())[:300]}")
    return matcher


def json_rule(schema: dict | bool) -> str:
    """Return a schema in llguidance's variant of Lark."""
    return f"%json {json.dumps(schema if isinstance(schema, bool) else {**schema, **SPACING})}"


@torch.inference_mode()
def prompt_scores(model: PreTrainedModel, ids: list[int], count: int, **kwargs) -> list[tuple]:
    """Return each token of a prompt, its log-probability (None for the first), and the `count` most likely."""
    logits = model(torch.tensor([ids], device=model.device), use_cache=False, **kwargs).logits[0]
    pairs = zip(ids[1:], logits, strict=False)
    return [(ids[0], None, []), *(log_probabilities(token, row, count) for token, row in pairs)]
