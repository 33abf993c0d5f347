"""Generation for many clients: one thread that answers one request after another and can be told to stop."""

import asyncio
import copy
import logging
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase, StoppingCriteria

from ..checkpoints.loading import context_length

logger = logging.getLogger(__name__)

UNDECODABLE = "\N{REPLACEMENT CHARACTER}"
LONGEST_BEGINNING = 3  # bytes of an unfinished UTF-8 character
SAMPLING = {"temperature", "top_k", "top_p", "min_p", "typical_p"}  # who sets one of them wants tokens to be drawn
NO_TOKEN = 2**31 - 1  # an id that no vocabulary has
COLDEST = 1e-4  # below this temperature the division of the logits could overflow; there is one choice left anyway


class ServerEnding(Exception):
    """The text was not finished, since the server was told to end."""


@dataclass(eq=False)
class Choice:
    """One text to generate, what has come of it so far, and by what to stop it."""

    prompt_ids: list[int]
    config: GenerationConfig
    stop: Sequence[str] = ()
    seed: int | None = None
    text: str = ""
    tokens: int = 0
    finish_reason: str = "length"
    cancelled: threading.Event = field(default_factory=threading.Event)


class TextGenerator:
    """Runs `generate` of any causal language model for one `Choice` after another, in the order in which they came."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase):
        self.model = model.eval()
        self.context_length: int | None = context_length(model)
        own = model.generation_config.stop_strings or []  # pyright: ignore[reportOptionalMemberAccess]
        self.stop_strings: list[str] = [own] if isinstance(own, str) else list(own)
        model.generation_config.stop_strings = None  # pyright: ignore[reportOptionalMemberAccess]
        self.unfinished: set[Choice] = set()
        self.ending = False
        self._tokenizer = copy.deepcopy(tokenizer)  # another thread encodes with the original
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="generate")

    async def stream(self, choice: Choice) -> AsyncIterator[str]:
        """The text of a choice, piece by piece; the generation ends with the iteration. ServerEnding after `stop`."""
        if self.ending:
            raise ServerEnding
        loop, pieces = asyncio.get_running_loop(), asyncio.Queue()

        def emit(piece: str) -> None:
            loop.call_soon_threadsafe(pieces.put_nowait, piece)

        self.unfinished.add(choice)
        work = loop.run_in_executor(self._thread, self._generate, choice, emit)
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
            work.cancel()  # if it has not begun, it never will

    def generate(self, choice: Choice, emit: Callable[[str], None]) -> None:
        """Generate a choice and wait for it. `emit` gets each piece, in the generating thread; its errors end it."""
        work = self._thread.submit(self._generate, choice, emit)
        self.unfinished.add(choice)
        try:
            work.result()
        finally:
            self.unfinished.remove(choice)
            choice.cancelled.set()
            work.cancel()

    def try_out(self, choice: Choice) -> None:
        """Generate one token, so that whatever `generate` has against the options is raised now."""
        config = copy.deepcopy(choice.config)
        config.max_new_tokens = 1
        self._thread.submit(self._generate, Choice(choice.prompt_ids, config, seed=0), lambda piece: None).result()

    def stop(self) -> None:
        """End all texts, with their next token or before their first. There will be no others."""
        self.ending = True
        for choice in list(self.unfinished):
            choice.cancelled.set()

    def close(self) -> None:
        """Stop, and wait until the thread has."""
        self.stop()
        self._thread.shutdown(cancel_futures=True)

    def _generate(self, choice: Choice, emit: Callable[[str], None]) -> None:
        if choice.cancelled.is_set():
            return
        device = self.model.device
        input_ids = torch.tensor([choice.prompt_ids], device=device)
        listener = _Listener(choice, self._tokenizer, emit)
        with torch.random.fork_rng(enabled=choice.seed is not None):  # the next request is as random as ever
            if choice.seed is not None:
                torch.manual_seed(choice.seed)
            outputs = self.model.generate(
                input_ids,
                attention_mask=torch.ones_like(input_ids),
                generation_config=choice.config,
                stopping_criteria=[listener],
            )
        if listener.beams:
            listener.hear_all(outputs[0, input_ids.shape[1] :].tolist())
        listener.flush()


class _Listener(StoppingCriteria):
    """Hears each token from `generate`, passes the text on, and says when it is enough."""

    def __init__(self, choice: Choice, tokenizer: PreTrainedTokenizerBase, emit: Callable[[str], None]):
        self.choice = choice
        self.emit = emit
        self.decoder = IncrementalDecoder(tokenizer)
        self.filter = StopFilter(choice.stop)
        eos = choice.config.eos_token_id
        self.ends = set(eos) if isinstance(eos, list) else {eos}
        self.least = choice.config.min_new_tokens or 0  # tokens, before which no stop string counts
        self.beams = choice.config.num_beams > 1  # which of them is the text is known at the end

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs) -> torch.BoolTensor:
        if not self.beams:
            self._hear(input_ids[0, -1].item())
        enough = self.filter.found or self.choice.cancelled.is_set()
        return torch.full((len(input_ids),), enough, dtype=torch.bool, device=input_ids.device)

    def hear_all(self, tokens: list[int]) -> None:
        for token in tokens:
            if self.choice.finish_reason == "stop" or self.filter.found or self.choice.cancelled.is_set():
                break
            self._hear(token)

    def _hear(self, token: int) -> None:
        self.choice.tokens += 1
        if token in self.ends:
            self.choice.finish_reason = "stop"
            return
        text = self.decoder.push(token)
        self._pass_on(self.filter.push(text) if self.choice.tokens > self.least else text)

    def flush(self) -> None:
        if not self.choice.cancelled.is_set():
            self._pass_on(self.filter.push(self.decoder.flush()) + self.filter.flush())
        if self.filter.found:
            self.choice.finish_reason = "stop"

    def _pass_on(self, text: str) -> None:
        if text:
            self.choice.text += text
            self.emit(text)


class IncrementalDecoder:
    """Text from tokens, one at a time: together, the pieces are what decoding all tokens at once gives."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self.tokenizer = tokenizer
        self.before: list[int] = []  # all of their text is out; some tokenizers need them to decode those that follow
        self.ids: list[int] = []
        self.out = 0  # characters of the text of `ids` that are out

    def push(self, token: int) -> str:
        """The text that this token makes certain: not that of bytes which may be the beginning of a character."""
        self.ids.append(token)
        text = self._text()
        unsure = min(len(text) - len(text.rstrip(UNDECODABLE)), LONGEST_BEGINNING)
        piece = text[self.out : len(text) - unsure]
        self.out += len(piece)
        if text and not unsure:
            self.before, self.ids, self.out = self.ids, [], 0
        return piece

    def flush(self) -> str:
        """What is left at the end, bytes of an unfinished character as replacement characters."""
        piece = self._text()[self.out :]
        self.before, self.ids, self.out = self.ids, [], 0
        return piece

    def _text(self) -> str:
        return self._decode(self.before + self.ids)[len(self._decode(self.before)) :]

    def _decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


class StopFilter:
    """Passes text on until one of `stop` is in it, and holds back what could be the beginning of one."""

    def __init__(self, stop: Sequence[str]):
        self.stop = [string for string in stop if string]
        self.held = ""
        self.found = False

    def push(self, text: str) -> str:
        """The text that is certain not to belong to a stop string. Nothing comes after one."""
        if self.found:
            return ""
        text = self.held + text
        places = [place for string in self.stop if (place := text.find(string)) >= 0]
        if places:
            self.found, self.held = True, ""
            return text[: min(places)]
        beginnings = (
            size
            for string in self.stop
            for size in range(1, min(len(string), len(text) + 1))  # a client may send a stop string of any length
            if text.endswith(string[:size])
        )
        certain = len(text) - max(beginnings, default=0)
        self.held = text[certain:]
        return text[:certain]

    def flush(self) -> str:
        text, self.held = self.held, ""
        return text


def generation_config(
    model: PreTrainedModel, max_new_tokens: int, also_ends: Sequence[int] = (), ignore_eos: bool = False, **options
) -> GenerationConfig:
    """How to generate one sequence, which the checkpoint's `eos_token_id`, unless ignored, and `also_ends` end.

    The options are fields of `GenerationConfig`; None leaves the checkpoint's. A `temperature` of 0 takes the likeliest
    token; unless `do_sample` is False, any other of `SAMPLING` has tokens drawn.
    """
    options = {name: value for name, value in options.items() if value is not None}
    if SAMPLING & options.keys():
        options.setdefault("do_sample", True)
    config = copy.deepcopy(model.generation_config)
    config.update(num_beams=1, num_return_sequences=1, return_dict_in_generate=False, stop_strings=None)
    config.update(**{"max_new_tokens": max_new_tokens, "max_length": None, **options})
    if not config.do_sample or (config.temperature is not None and config.temperature < COLDEST):
        config.update(do_sample=False, **dict.fromkeys(SAMPLING))
    elif config.top_k is None:
        config.top_k = 0  # else generate would set 50
    eos = [] if ignore_eos or config.eos_token_id is None else config.eos_token_id
    ends = [*(eos if isinstance(eos, list) else [eos]), *also_ends]
    # generate takes the checkpoint's in the place of none.
    config.eos_token_id = ends or ([NO_TOKEN] if ignore_eos else None)
    return config
