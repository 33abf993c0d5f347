"""A text to generate, and the way from its tokens to pieces of text that end where they should."""

import contextlib
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field

import torch
from transformers import GenerationConfig, LogitsProcessor, PreTrainedTokenizerBase

UNDECODABLE = "\N{REPLACEMENT CHARACTER}"
LONGEST_BEGINNING = 3  # bytes of an unfinished UTF-8 character


@dataclass(eq=False)
class Choice:
    """One text to generate, what has come of it so far, and by what to stop it.

    `processors` are called with ids (1, T) and scores (1, V), before the sampling of `config`. If `logprobs` is given,
    `scored` gets for each token its log-probability, by the model alone, and that many of the likeliest tokens with
    theirs. `done` has no result; it may have an error.
    """

    prompt_ids: list[int]
    config: GenerationConfig
    stop: Sequence[str] = ()
    seed: int | None = None
    logprobs: int | None = None
    processors: list[LogitsProcessor] = field(default_factory=list)
    text: str = ""
    tokens: int = 0
    scored: list[tuple[int, float, list[tuple[int, float]]]] = field(default_factory=list)
    finish_reason: str = "length"
    cancelled: threading.Event = field(default_factory=threading.Event)
    done: Future = field(default_factory=Future)

    def end(self, error: BaseException | None = None) -> None:
        with contextlib.suppress(InvalidStateError):  # it has ended before
            self.done.set_result(None) if error is None else self.done.set_exception(error)


class Listener:
    """Hears the tokens of a choice, passes their text on, and says when it is enough."""

    def __init__(self, choice: Choice, tokenizer: PreTrainedTokenizerBase, emit: Callable[[str], None]):
        self.choice = choice
        self.emit = emit
        self.decoder = IncrementalDecoder(tokenizer)
        self.filter = StopFilter(choice.stop)
        eos = choice.config.eos_token_id
        self.ends = set(eos) if isinstance(eos, list) else {eos}
        self.least = choice.config.min_new_tokens or 0  # tokens, before which no stop string counts

    def hear(self, token: int, logits: torch.Tensor | None = None) -> None:
        """Take up a token, chosen by logits (V). The last one ends the choice; so does an error of `emit`."""
        choice = self.choice
        choice.tokens += 1
        if choice.logprobs is not None and logits is not None:
            scores = logits.float().log_softmax(-1)
            top = scores.topk(min(choice.logprobs, len(scores)))
            likeliest = list(zip(top.indices.tolist(), top.values.tolist(), strict=True))
            choice.scored.append((token, scores[token].item(), likeliest))
        try:
            if token in self.ends:
                choice.finish_reason = "stop"
            else:
                text = self.decoder.push(token)
                self._pass_on(self.filter.push(text) if choice.tokens > self.least else text)
            if token in self.ends or self.filter.found or choice.tokens == choice.config.max_new_tokens:
                self.end()
        except Exception as error:
            choice.end(error)

    def end(self) -> None:
        """Pass on what is left, unless nobody wants it, and end the choice."""
        if not self.choice.cancelled.is_set():
            self._pass_on(self.filter.push(self.decoder.flush()) + self.filter.flush())
        if self.filter.found:
            self.choice.finish_reason = "stop"
        self.choice.end()

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
