"""A text to generate, its state, and the decoding of its tokens to pieces of text, up to a stop string."""

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field

import torch
from transformers import GenerationConfig, LogitsProcessor, PreTrainedTokenizerBase

UNDECODABLE = "\N{REPLACEMENT CHARACTER}"
MAX_PARTIAL_BYTES = 3  # bytes of an unfinished UTF-8 character


@dataclass(eq=False)
class Choice:
    """One text to generate, its result so far, and an event that cancels it.

    `processors` are called with ids (1, T) and scores (1, V), before the sampling of `config`. If `logprobs` is given,
    `scored` gets for each token its log-probability, by the model alone, and that many of the most likely tokens with
    theirs. `done` has no result; it may have an error.
    """

    prompt_ids: list[int]
    config: GenerationConfig
    stop: Sequence[str] = ()
    seed: int | None = None
    logprobs: int | None = None
    processors: list[LogitsProcessor] = field(default_factory=list)
    adapter: str | None = None  # PEFT's name for it, if the model has several
    text: str = ""
    tokens: int = 0
    scored: list[tuple[int, float, list[tuple[int, float]]]] = field(default_factory=list)
    finish_reason: str = "length"
    begun: float = field(default_factory=time.monotonic)
    seconds_to_first: float | None = None  # token
    cancelled: threading.Event = field(default_factory=threading.Event)
    done: Future = field(default_factory=Future)

    def end(self, error: BaseException | None = None) -> None:
        with contextlib.suppress(InvalidStateError):  # it has ended before
            self.done.set_result(None) if error is None else self.done.set_exception(error)


class Listener:
    """Decodes the tokens of a choice, emits their text, and ends the choice."""

    def __init__(self, choice: Choice, tokenizer: PreTrainedTokenizerBase, emit: Callable[[str], None]):
        self.choice = choice
        self.emit = emit
        self.decoder = IncrementalDecoder(tokenizer)
        self.filter = StopFilter(choice.stop)
        eos = choice.config.eos_token_id
        self.ends = set(eos) if isinstance(eos, list) else {eos}
        self.least = choice.config.min_new_tokens or 0  # tokens, before which no stop string counts

    def add_token(self, token: int, logits: torch.Tensor | None = None) -> None:
        """Add a token, chosen by logits (V). The last one ends the choice; so does an error of `emit`."""
        choice = self.choice
        choice.tokens += 1
        if choice.seconds_to_first is None:
            choice.seconds_to_first = time.monotonic() - choice.begun
        if choice.logprobs is not None and logits is not None:
            choice.scored.append(log_probabilities(token, logits, choice.logprobs))
        try:
            if token in self.ends:
                choice.finish_reason = "stop"
            else:
                text = self.decoder.push(token)
                self._emit(self.filter.push(text) if choice.tokens > self.least else text)
            if token in self.ends or self.filter.found or choice.tokens == choice.config.max_new_tokens:
                self.end()
        except Exception as error:
            choice.end(error)

    def end(self) -> None:
        """Emit the remaining text, unless the choice was cancelled, and end the choice."""
        if not self.choice.cancelled.is_set():
            self._emit(self.filter.push(self.decoder.flush()) + self.filter.flush())
        if self.filter.found:
            self.choice.finish_reason = "stop"
        self.choice.end()

    def _emit(self, text: str) -> None:
        if text:
            self.choice.text += text
            self.emit(text)


def log_probabilities(token: int, logits: torch.Tensor, count: int) -> tuple[int, float, list[tuple[int, float]]]:
    """Return a token, its log-probability by logits (V), and the `count` most likely tokens with theirs."""
    scores = logits.float().log_softmax(-1)
    top = scores.topk(min(count, len(scores)))
    return token, scores[token].item(), list(zip(top.indices.tolist(), top.values.tolist(), strict=True))


class IncrementalDecoder:
    """Decodes tokens one at a time; the pieces together are the text of all tokens decoded at once."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self.tokenizer = tokenizer
        self.before: list[int] = []  # all of their text is out; some tokenizers need them to decode those that follow
        self.ids: list[int] = []
        self.out = 0  # characters of the text of `ids` that are out

    def push(self, token: int) -> str:
        """Return the text that this token completes, without bytes that may be the beginning of a character."""
        self.ids.append(token)
        text = self._text()
        unsure = min(len(text) - len(text.rstrip(UNDECODABLE)), MAX_PARTIAL_BYTES)
        piece = text[self.out : len(text) - unsure]
        self.out += len(piece)
        if text and not unsure:
            self.before, self.ids, self.out = self.ids, [], 0
        return piece

    def flush(self) -> str:
        """Return the remaining text; bytes of an unfinished character become replacement characters."""
        piece = self._text()[self.out :]
        self.before, self.ids, self.out = self.ids, [], 0
        return piece

    def _text(self) -> str:
        return self._decode(self.before + self.ids)[len(self._decode(self.before)) :]

    def _decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


class StopFilter:
    """Ends a text before the first stop string, and holds back text that could be the beginning of one."""

    def __init__(self, stop: Sequence[str]):
        self.stop = [string for string in stop if string]
        self.held = ""
        self.found = False

    def push(self, text: str) -> str:
        """Return the text that cannot belong to a stop string; after one, nothing."""
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
