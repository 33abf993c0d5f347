"""Continuous batching: each text is a row, which joins and leaves the batch between two tokens.

Not transformers' `ContinuousBatchingManager`: as of 5.24, all of its requests share one state of the random numbers,
whether tokens are drawn at all, and all processors but temperature, top_k and top_p. A processor that reads a text's
tokens sees the last one alone. A log-probability is that after the processors, and comes without alternatives.
"""

import itertools
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import torch
from torch.nn.functional import pad
from transformers import Cache, DynamicCache, LogitsProcessorList, PreTrainedModel
from transformers.generation import GenerationMode, logits_process

from ..checkpoints.self_check import relative_difference, tolerance
from ..modeling.forward_arguments import CACHE
from .choice import Choice, Listener
from .cuda_graphs import Recorder, StaticSteps, states_of

MAX_ROWS = 64
PREFILL_CHUNK = 256  # tokens of a prompt that are read between two tokens of the other texts
PREFILL_BUDGET = 512  # tokens of all prompts: several clients may ask in the same moment
MAX_BYTES = 2**31  # of keys and values, unless there is a GPU, of which it is half of what is free
MAX_PREFIX_TOKENS = 2**12  # tokens of recent prompts whose keys and values are kept
MIN_SHARED_PREFIX = 16  # tokens at the beginning of two prompts for which keys and values are copied
WARPERS = {  # they treat each row alike, whatever its tokens
    getattr(logits_process, f"{name}LogitsWarper") for name in ("Temperature", "TopK", "TopP", "MinP", "Typical")
}
ALONE = ("max_time", "guidance_scale", "cache_implementation", "token_healing", "watermarking_config")


class Row:
    """A text of the batch: its tokens so far, and by what the next one is chosen."""

    def __init__(self, choice: Choice, listener: Listener, model: PreTrainedModel):
        self.choice, self.listener, self.ids = choice, listener, list(choice.prompt_ids)
        config, _ = model._prepare_generation_config(choice.config)
        config.max_length = len(self.ids) + config.max_new_tokens
        model._prepare_special_tokens(config, True, device=model.device)
        own, size = LogitsProcessorList(choice.processors), len(self.ids)
        self.processors = model._get_logits_processor(config, size, logits_processor=own, device=model.device)
        self.draws, seed = bool(config.do_sample), choice.seed
        self.chance = None if seed is None else torch.Generator(model.device).manual_seed(seed)
        self.cache: Cache | None = None  # of what is read of the prompt, until the row joins the others
        # Rows of one kind are processed together.
        self.needs_ids = not {type(processor) for processor in self.processors} <= WARPERS
        same = tuple((type(processor), *vars(processor).values()) for processor in self.processors)
        self.kind = id(self) if self.needs_ids else (self.draws, same)

    @property
    def key(self) -> tuple:
        """All that the keys and values of its tokens depend on."""
        return self.choice.adapter, *self.ids


def next_tokens(rows: list[Row], logits: torch.Tensor) -> list[int]:
    """Choose the next token of each row, all of one kind, by logits (rows, V), as `generate` does."""
    scores = logits.to(torch.float32, copy=True)
    ids: Any = torch.tensor([rows[0].ids], device=logits.device) if rows[0].needs_ids else None
    for processor in rows[0].processors:
        scores = processor(ids, scores)
    if not rows[0].draws:
        return scores.argmax(-1).tolist()
    chances = scores.softmax(-1)
    if all(row.chance is None for row in rows):
        return torch.multinomial(chances, 1)[:, 0].tolist()
    drawn = [torch.multinomial(chances[i : i + 1], 1, generator=row.chance) for i, row in enumerate(rows)]
    return torch.cat(drawn)[:, 0].tolist()


class Batch:
    """The rows that are generated, those whose prompts are read, and the keys and values of both."""

    def __init__(self, model: PreTrainedModel, adapters: Sequence[str] = ()):
        self.model, self.adapters = model, adapters
        self.rows: list[Row] = []
        self.reading: list[Row] = []
        self.cache: Any = DynamicCache()  # of the rows, which end together; or what stands for it
        self.prefixes: dict[tuple, Cache] = {}
        self.max_bytes, self.width, self.graphs = MAX_BYTES, 0, None  # width: bytes of a token
        self.last_alone = {"logits_to_keep": 1} if model._supports_logits_to_keep() else {}
        if model.device.type == "cuda":
            self.max_bytes = torch.cuda.mem_get_info(model.device)[0] // 2
            # A graph is of one device, and of the adapters that were active when it was captured.
            if {p.device for p in model.parameters()} == {model.device} and not getattr(model, "peft_config", None):
                self.graphs = StaticSteps(self._logits, self._eager, self.max_bytes // 2, Recorder(model.device))

    @cached_property
    @torch.no_grad()
    def fault(self) -> str | None:
        """The reason why this model's texts cannot be batched: rows of different lengths change each other's logits."""
        config, trial = self.model.config.get_text_config(), Batch(self.model, self.adapters)
        if not set(getattr(config, "layer_types", None) or ()) <= {"full_attention", "sliding_attention"}:
            return "this model's layers are not all full or sliding attention"
        ids = [place * (config.vocab_size // 8) for place in range(1, 7)]
        adapters, found = self.adapters or [None], []
        trial.graphs = None
        try:
            for i in range(max(len(adapters), 2)):
                text, adapter = (ids[:4], ids[4:])[i % 2], adapters[i % len(adapters)]
                choice = SimpleNamespace(adapter=adapter)
                row: Any = SimpleNamespace(ids=text[:-1], cache=DynamicCache(), choice=choice)
                trial._prefill(row, len(text))
                trial._join(row)
                row.ids = text
                alone = torch.tensor([text], device=self.model.device)
                found.append(self.model(input_ids=alone, **self.names([choice])).logits[:, -1])
            found, alone = trial._forward().float(), torch.cat(found).float()
            error = relative_difference(found, alone)
        except Exception as problem:
            return f"this model fails in a batch ({' '.join(str(problem).split())})"
        is_same = error <= tolerance(self.model.dtype)
        return None if is_same else f"this model's logits differ in a batch (relative difference {error:.2g})"

    def can_take(self, choice: Choice) -> bool:
        """Return True if a text is generated token by token, by processors of the logits and nothing else."""
        config = choice.config
        is_plain = config.get_generation_mode() in (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE)
        is_plain = is_plain and config.use_cache is not False and config.max_new_tokens is not None
        return is_plain and all(getattr(config, name) in (None, False) for name in ALONE) and self.fault is None

    @torch.no_grad()
    def step(self, admit: Callable[[], None]) -> None:
        """Read tokens of prompts, then generate a token of each row. An error ends the rows that it concerns.

        `admit` may append to `reading`, so that a text that arrives while prompts are read need not wait for the rows.
        """
        for row in (*self.rows, *self.reading):
            if row.choice.cancelled.is_set():
                row.listener.end()
        self._drop(self.rows)
        budget, seen = PREFILL_BUDGET, set()
        while budget > 0 and (row := next((row for row in self.reading if row not in seen), None)):
            seen.add(row)
            if not row.choice.done.done() and self._fits(len(self.rows) + 1, len(row.ids)):
                self.reading.append(self.reading.pop(0))  # a long prompt delays no others
                try:
                    budget -= self._read(row, min(budget, PREFILL_CHUNK))
                except Exception as error:
                    row.choice.end(error)
                admit()
        if len(self.rows) > 1 and not self._fits(len(self.rows), 1):
            self.reading.append(last := min(self.rows, key=lambda row: row.choice.tokens))  # it is read again later
            self._drop([row for row in self.rows if row is not last])
        self._drop(self.rows)
        try:
            if self.rows:
                self._choose(self.rows, self._forward())
        except Exception as error:
            for row in self.rows:
                row.choice.end(error)
        self._drop(self.rows)

    def _fits(self, rows: int, tokens: int) -> bool:
        """Return True if the cache may hold so many rows of so many tokens. The first row may be of any length."""
        room = self.max_bytes - (self.graphs.nbytes if self.graphs else 0)
        return not self.rows or rows * max(self.cache.get_seq_length(), tokens) * self.width <= room

    def _read(self, row: Row, most: int) -> int:
        """Read more of a row's tokens; at their end, the row joins the others and gets its first token."""
        if row.cache is None:
            row.cache = DynamicCache()
            shared, recent = max(((_shared(other, row.key) - 1, other) for other in self.prefixes), default=(0, ()))
            if shared >= MIN_SHARED_PREFIX:
                self.prefixes[recent] = self.prefixes.pop(recent)  # the last to be forgotten
                for i, (keys, values) in enumerate(states_of(self.prefixes[recent])):
                    row.cache.update(keys[:, :, :shared], values[:, :, :shared], i)
        seen = row.cache.get_seq_length()
        logits = self._prefill(row, most)
        if (now := row.cache.get_seq_length()) == len(row.ids):
            self.prefixes = {key: cache for key, cache in self.prefixes.items() if _shared(key, row.key) < len(key)}
            self.prefixes[row.key] = row.cache
            while sum(map(len, self.prefixes)) > MAX_PREFIX_TOKENS:
                self.prefixes.pop(next(iter(self.prefixes)))
            self._join(row)
            self._choose([row], logits)
        return now - seen

    def _prefill(self, row: Row, most: int) -> torch.Tensor:
        """Compute the logits (1, V) after more of a row's tokens, and append their keys and values to its cache."""
        seen = row.cache.get_seq_length()
        ids = torch.tensor([row.ids[seen : seen + most]], device=self.model.device)
        places = torch.arange(seen + ids.shape[1], device=ids.device)[None]
        return self._logits(ids, torch.ones_like(places), places[:, seen:], row.cache, [row.choice])

    def _join(self, row: Row) -> None:
        """Add a row to the others; the shorter ones are padded on the left."""
        longest, states = max(self.cache.get_seq_length(), row.cache.get_seq_length()), states_of(row.cache)
        self.width = sum(state[0, :, 0].nbytes for layer in states for state in layer)
        if self.rows:
            both = zip(states_of(self.cache), states, strict=True)
            states = [[_stacked(old, new, longest) for old, new in zip(*layer, strict=True)] for layer in both]
        self.cache, row.cache = DynamicCache(states), None
        self.reading = [other for other in self.reading if other is not row]
        self.rows = [*self.rows, row]

    def _drop(self, kept: list[Row]) -> None:
        """Keep some of the rows, if they are not done, and of the cache what they need."""
        self.reading = [row for row in self.reading if not row.choice.done.done()]
        places = [i for i, row in enumerate(self.rows) if row in kept and not row.choice.done.done()]
        if len(places) < len(self.rows):
            self.rows = [self.rows[i] for i in places]
            longest = max((len(row.ids) - 1 for row in self.rows), default=0)
            states = [[state[places, :, -longest:] for state in layer] for layer in states_of(self.cache)]
            self.cache = DynamicCache(states if places else [])

    def _forward(self) -> torch.Tensor:
        """Compute the logits (rows, V) after the last token of each row, and append it to the cache."""
        tokens = [[row.ids[-1] for row in self.rows], [len(row.ids) - 1 for row in self.rows]]
        if self.graphs is None:
            return self._eager(tokens, self.cache)
        logits, self.cache = self.graphs(tokens, self.cache)
        return logits

    def _eager(self, tokens: list[list[int]], cache: Cache) -> torch.Tensor:
        ids, places = torch.tensor(tokens, device=self.model.device)[:, :, None]  # (rows, 1)
        mask = (torch.arange(cache.get_seq_length(), -1, -1, device=ids.device) <= places).long()  # (rows, size + 1)
        return self._logits(ids, mask, places, cache, [row.choice for row in self.rows])

    def _logits(
        self, ids: torch.Tensor, mask: torch.Tensor, places: torch.Tensor, cache: Cache, choices: Sequence[Choice] = ()
    ) -> torch.Tensor:
        inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": places, CACHE: cache}
        return self.model(**inputs, use_cache=True, **self.last_alone, **self.names(choices)).logits[:, -1]

    def names(self, choices: Sequence[Any]) -> dict[str, list[str]]:
        """Name the adapters of rows to the model, if it has several."""
        return {"adapter_names": [choice.adapter for choice in choices]} if self.adapters else {}

    def _choose(self, rows: list[Row], logits: torch.Tensor) -> None:
        """Choose the next token of each row by logits (rows, V), and pass it to the row's listener."""
        kinds = defaultdict(list)
        for i, row in enumerate(rows):
            kinds[row.kind].append(i)
        for places in kinds.values():
            same = [rows[i] for i in places]
            try:
                tokens = next_tokens(same, logits[places])
            except Exception as error:
                for row in same:
                    row.choice.end(error)
                continue
            for i, row, token in zip(places, same, tokens, strict=True):
                row.ids.append(token)
                row.listener.add_token(token, logits[i])


def _stacked(old: torch.Tensor, new: torch.Tensor, longest: int) -> torch.Tensor:
    return torch.cat([pad(state, (0, 0, longest - state.shape[2], 0)) for state in (old, new)])


def _shared(one: tuple, other: tuple) -> int:
    """Count what is equal at the beginning of both, except for the last token of `other`, which must be read."""
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other[:-1], strict=False))
    return sum(1 for _ in same)
