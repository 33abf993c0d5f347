"""Generation for many clients: one thread generates their texts together, until it is stopped."""

import asyncio
import copy
import logging
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase, StoppingCriteria

from ..checkpoints.loading import context_length
from ..checkpoints.named_adapters import Variant
from .batching import MAX_ROWS, Batch, Row
from .choice import Choice, Listener

logger = logging.getLogger(__name__)

SAMPLING = {"temperature", "top_k", "top_p", "min_p", "typical_p"}  # each of them turns on sampling
NO_TOKEN = 2**31 - 1  # an id that no vocabulary has
MIN_TEMPERATURE = 1e-4  # below it, the division of the logits could overflow, and only one token is left anyway


class ServerEnding(Exception):
    """Raised if a text was not finished because the server is shutting down."""


class TextGenerator:
    """Generates a `Choice` for each client: together if the model allows it, otherwise one after another.

    An `assistant` with the same vocabulary drafts tokens, which the model checks (speculative decoding), one text
    after another.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, assistant: PreTrainedModel | None = None,
        adapters: Sequence[str] = (),
    ):  # fmt: skip
        self.model, self.assistant = model.eval(), assistant
        self.context_length: int | None = context_length(model)
        own = model.generation_config.stop_strings or []  # pyright: ignore[reportOptionalMemberAccess]
        self.stop_strings: list[str] = [own] if isinstance(own, str) else list(own)
        model.generation_config.stop_strings = None  # pyright: ignore[reportOptionalMemberAccess]
        self.unfinished: set[Choice] = set()
        self.ending, self.counts = False, Counter()  # of the texts that have ended
        self._tokenizer = copy.deepcopy(tokenizer)  # another thread encodes with the original
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="generate")
        self.batch = Batch(model, adapters)
        self._waiting: deque[tuple[Choice, Listener]] = deque()

    @property
    def why_alone(self) -> str | None:
        """The reason why texts are generated one after another, or None if they are not."""
        lookup = self.model.generation_config.prompt_lookup_num_tokens  # pyright: ignore[reportOptionalMemberAccess]
        return "tokens are drafted" if self.assistant is not None or lookup else self.batch.fault

    async def stream(self, choice: Choice) -> AsyncIterator[str]:
        """Yield the text of a choice in pieces; the generation ends with the iteration. ServerEnding after `stop`."""
        loop, pieces = asyncio.get_running_loop(), asyncio.Queue()

        def emit(piece: str) -> None:
            loop.call_soon_threadsafe(pieces.put_nowait, piece)

        work = asyncio.wrap_future(self._begin(choice, emit))
        work.add_done_callback(lambda _: pieces.put_nowait(None))
        try:
            while (piece := await pieces.get()) is not None:
                yield piece
            await work
            if choice.cancelled.is_set():
                raise ServerEnding
        finally:
            self.unfinished.remove(choice)
            choice.cancelled.set()

    def generate(self, choice: Choice, emit: Callable[[str], None]) -> None:
        """Generate a choice and wait for it. `emit` gets each piece, in the generating thread; its errors end it."""
        work = self._begin(choice, emit)
        try:
            work.result()
        finally:
            self.unfinished.remove(choice)
            choice.cancelled.set()

    def try_out(self, choice: Choice) -> None:
        """Generate one token, so that `generate` raises now what is wrong with the options."""
        config = copy.deepcopy(choice.config)
        config.max_new_tokens = 1
        self.generate(Choice(choice.prompt_ids, config, seed=0, adapter=choice.adapter), lambda piece: None)

    def stop(self) -> None:
        """End all texts with their next token, and accept no others."""
        self.ending = True
        for choice in list(self.unfinished):
            choice.cancelled.set()

    def close(self) -> None:
        """Stop, and wait for the thread to end."""
        self.stop()
        self.thread.shutdown(cancel_futures=True)

    def _begin(self, choice: Choice, emit: Callable[[str], None]) -> Future:
        if self.ending:
            raise ServerEnding
        work = self.thread.submit(self._generate, choice, emit)
        self.unfinished.add(choice)
        if self.ending:  # another thread has stopped all texts meanwhile
            choice.cancelled.set()
        choice.done.add_done_callback(lambda _: self._count(choice))
        self._waiting.append((choice, Listener(choice, self._tokenizer, emit)))
        work.add_done_callback(lambda work: choice.end(None if work.cancelled() else work.exception()))
        return choice.done

    def _count(self, choice: Choice) -> None:
        self.counts.update(prompt=len(choice.prompt_ids), generated=choice.tokens)
        if choice.seconds_to_first is not None:
            self.counts.update(first=1, seconds=choice.seconds_to_first)

    def _generate(self, choice: Choice, emit: Callable[[str], None]) -> None:
        """Generate, in the thread, until a choice is done; the other unfinished ones advance with it."""
        while not choice.done.done():
            self._admit()
            self.batch.step(self._admit)

    def _admit(self) -> None:
        """Admit texts to the batch in order of arrival. One that cannot be batched waits for those before it."""
        while self._waiting and len(self.batch.rows) + len(self.batch.reading) < MAX_ROWS:
            choice, listener = self._waiting[0]
            if choice.logprobs is not None or choice.processors:  # which see one token after another
                choice.config.prompt_lookup_num_tokens = None
            is_drafted = self.assistant is not None and choice.logprobs is None and not choice.processors
            try:
                if choice.cancelled.is_set():
                    choice.end()
                elif not is_drafted and self.batch.can_take(choice):
                    self.batch.reading.append(Row(choice, listener, self.model))
                elif self.batch.rows or self.batch.reading:
                    return
                else:
                    self._generate_alone(choice, listener, self.assistant if is_drafted else None)
            except Exception as error:
                choice.end(error)
            self._waiting.popleft()

    def _generate_alone(self, choice: Choice, listener: Listener, assistant: PreTrainedModel | None) -> None:
        if choice.logprobs is not None:
            raise ValueError(f"There are no log-probabilities, since {self.batch.fault or 'there are beams'}.")
        input_ids = torch.tensor([choice.prompt_ids], device=self.model.device)
        forwarder = _TokenForwarder(listener, input_ids.shape[1])
        with torch.random.fork_rng(enabled=choice.seed is not None):  # the next request is as random as ever
            if choice.seed is not None:
                torch.manual_seed(choice.seed)
            options = {"generation_config": choice.config, "logits_processor": choice.processors}
            options |= {"stopping_criteria": [forwarder], "assistant_model": assistant, **self.batch.names([choice])}
            outputs = self.model.generate(input_ids, attention_mask=torch.ones_like(input_ids), **options)
        forwarder.forward(outputs)
        listener.end()


class _TokenForwarder(StoppingCriteria):
    """Passes the tokens of `generate` to a listener: those of beams at the end, when the best beam is known."""

    def __init__(self, listener: Listener, forwarded: int):
        self.listener, self.forwarded = listener, forwarded

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs) -> torch.BoolTensor:
        choice = self.listener.choice
        if choice.config.num_beams in (None, 1):
            self.forward(input_ids)
        enough = choice.cancelled.is_set() or choice.done.done()
        return torch.full((len(input_ids),), enough, dtype=torch.bool, device=input_ids.device)

    def forward(self, ids: torch.Tensor) -> None:
        """Pass the new tokens to the listener, to the end of the text."""
        for token in ids[0, self.forwarded :].tolist():
            if not self.listener.choice.done.done():
                self.listener.add_token(token)
        self.forwarded = ids.shape[1]


def generation_config(
    model: PreTrainedModel | Variant, max_new_tokens: int, also_ends: Sequence[int] = (), ignore_eos: bool = False,
    **options,
) -> GenerationConfig:  # fmt: skip
    """Configure one sequence, which the checkpoint's `eos_token_id`, unless ignored, and `also_ends` end.

    The options are fields of `GenerationConfig`; None leaves the checkpoint's. A `temperature` of 0 is greedy
    decoding; unless `do_sample` is False, any other of `SAMPLING` turns on sampling.
    """
    options = {name: value for name, value in options.items() if value is not None}
    if SAMPLING & options.keys():
        options.setdefault("do_sample", True)
    config = copy.deepcopy(model.generation_config)
    config.update(num_beams=1, num_return_sequences=1, return_dict_in_generate=False, stop_strings=None)
    config.update(**{"max_new_tokens": max_new_tokens, "max_length": None, **options})
    if not config.do_sample or (config.temperature is not None and config.temperature < MIN_TEMPERATURE):
        config.update(do_sample=False, **dict.fromkeys(SAMPLING))
    elif config.top_k is None:
        config.top_k = 0  # else generate would set 50
    eos = [] if ignore_eos or config.eos_token_id is None else config.eos_token_id
    ends = [*(eos if isinstance(eos, list) else [eos]), *also_ends]
    # generate takes the checkpoint's in the place of none.
    config.eos_token_id = ends or ([NO_TOKEN] if ignore_eos else None)
    return config
