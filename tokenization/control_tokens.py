"""Text to ids without forgery: what spells a control token in somebody's text is text, in a document and in a chat.

A chat template writes control tokens around what people and tools say. Were the result simply encoded, a message that
says `<|im_end|>` would end its turn, and could go on as the system.
"""

import contextlib
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from inspect import isfunction, ismethod
from itertools import chain
from typing import Any

import jinja2
from tokenizers import Encoding, PreTokenizedString
from transformers import PreTrainedTokenizerBase
from transformers.utils import get_json_schema
from transformers.utils.chat_template_utils import render_jinja_template

from .tokenizer_json import check_unicode

# The roles that models know. A template may put another one between "<|" and "|>", so it must not complete a token.
ROLES = {"system", "developer", "user", "assistant", "tool", "function", "ipython"}
Span = tuple[int, int]  # of characters


def encode_texts(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    """Ids of ordinary texts, such as documents: no special tokens are added, and none is found in them.

    Like everything that encodes with a tokenizer of transformers, this sets flags in it: do not call it for one
    tokenizer from several threads at once.

    Raises:
        ValueError: for a text that is not valid Unicode, or that the tokenizer fails on or makes a control token of.
    """
    if not texts:
        return []
    try:
        with _panics_as_errors():
            encoded = _encode_batch(tokenizer, texts)
    except (TypeError, UnicodeEncodeError):
        for text in texts:
            check_unicode(text)
        raise
    # Special tokens alone have been split, but a template can give a meaning to others, and a model can make any.
    steering = _steering(tokenizer)
    for index, ids in enumerate(encoded):
        if not steering.isdisjoint(ids):
            if not tokenizer.is_fast:
                raise _made_of_text(tokenizer, steering.intersection(ids))
            encoded[index] = _encode_ordinary(tokenizer, texts[index], []).ids
    return encoded


@contextlib.contextmanager
def _panics_as_errors() -> Iterator[None]:
    """What goes wrong in Rust, where a hostile pattern may search without end, is no `Exception`."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise ValueError(f"The tokenizer cannot encode this text ({error}): use another tokenizer.") from None


def _encode_batch(tokenizer, texts: list[str]) -> list[list[int]]:
    """What `tokenizer(texts, split_special_tokens=True)` gives, without the offsets, which cost a fifth of the time."""
    if not tokenizer.is_fast:
        return tokenizer(texts, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
    backend = tokenizer.backend_tokenizer
    if backend.truncation is not None:
        backend.no_truncation()
    if backend.padding is not None:
        backend.no_padding()
    backend.encode_special_tokens = True
    try:
        return [encoding.ids for encoding in backend.encode_batch_fast(texts, add_special_tokens=False)]
    finally:
        backend.encode_special_tokens = tokenizer.split_special_tokens


def encode_chat(
    tokenizer: PreTrainedTokenizerBase,
    messages: list[dict],
    tools: Sequence[dict | Callable] | None = None,
    add_generation_prompt: bool = False,
) -> dict[str, list[int]]:
    """Ids of a chat in which only the template, and nothing in messages and tools, can write a control token.

    For chats that spell none, the ids are those of `apply_chat_template`. In the others, the first character of each
    control token is replaced by a private-use one before the template is rendered, and put back when the text has been
    cut at the tokens that the template wrote. So is that of an unfinished token at the end of a string, which the next
    string could complete.

    Returns:
        `input_ids`, and `assistant_masks`: 1 where the template has `{% generation %}`, 0 elsewhere; each (T,).

    Raises:
        ValueError: if the template refuses the messages, there is no template, a text is not valid Unicode, or the
            tokenizer's model makes control tokens of ordinary text.
    """
    if not tokenizer.is_fast:
        raise ValueError(f"{type(tokenizer).__name__} does not say where its tokens are: use a fast tokenizer.")
    template = tokenizer.get_chat_template(tools=tools)
    tools = [get_json_schema(tool) if isfunction(tool) or ismethod(tool) else tool for tool in tools or []] or None
    control = control_tokens(tokenizer)
    shield = _Shield(control, used=set(template).union(*_strings([messages, tools])))
    shielded, generated = _render(
        tokenizer, template, shield.value(messages), shield.value(tools), add_generation_prompt
    )
    text = shield.restore(shielded)
    genuine = _find(control, shielded)
    with _panics_as_errors():
        encoding = _encode_chat_text(tokenizer, text, control, genuine)
    return {"input_ids": encoding[0], "assistant_masks": _mask(encoding[1], generated)}


def control_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The tokens by which a model is steered: the special ones, and added ones that the chat template writes.

    Other added tokens are words that somebody wanted in the vocabulary; texts are encoded with them.
    """
    template = tokenizer.chat_template or ""
    written = "\n".join(template.values()) if isinstance(template, dict) else template
    return [
        token.content
        for token in tokenizer.added_tokens_decoder.values()
        if token.special or (len(token.content) > 1 and not token.content.isspace() and token.content in written)
    ]


def _steering(tokenizer) -> set[int]:
    """Ids of control tokens, but for the one that ordinary text has where the vocabulary has a gap."""
    return set(tokenizer.convert_tokens_to_ids(control_tokens(tokenizer))) - {tokenizer.unk_token_id}


class _Shield:
    """Replaces first characters of control tokens by private-use characters that are in nobody's text."""

    def __init__(self, tokens: list[str], used: set[str]):
        self.tokens, self.longest = tuple(tokens), max(map(len, tokens), default=0)
        self.first = re.compile("|".join(sorted({re.escape(token[0]) for token in tokens})) or "(?!)")
        private = chain(range(0xE000, 0xF900), range(0xF0000, 0xFFFFE), range(0x100000, 0x10FFFE))
        self.free = (chr(code) for code in private if chr(code) not in used)
        self.stand_ins: dict[str, str] = {}

    def value(self, value: Any, key: str = "") -> Any:
        """A copy of messages or tools with all their strings shielded, those that are keys too."""
        if isinstance(value, str):
            return self.text(value, is_role=key == "role")
        if isinstance(value, Mapping):
            return {self.value(name): self.value(item, name) for name, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.value(item, key) for item in value]
        return value

    def text(self, text: str, is_role: bool = False) -> str:
        end = len(text.rstrip())  # templates strip what they are given
        places = [found.start() for found in self.first.finditer(text) if self._begins_token(text, found.start(), end)]
        if is_role and text and text not in ROLES and any(text in token for token in self.tokens):
            places.append(0)
        if not places:
            return text
        characters = list(text)
        for place in places:
            character = text[place]
            if character not in self.stand_ins:
                self.stand_ins[character] = next(self.free)
            characters[place] = self.stand_ins[character]
        return "".join(characters)

    def _begins_token(self, text: str, place: int, end: int) -> bool:
        if text.startswith(self.tokens, place):
            return True
        unfinished = (text[place:], text[place:end]) if end - place < self.longest else ()
        return any(token.startswith(unfinished) for token in self.tokens)

    def restore(self, text: str) -> str:
        return text.translate({ord(stand_in): character for character, stand_in in self.stand_ins.items()})


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from _strings([*value, *value.values()])
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _strings(item)
    elif not (value is None or isinstance(value, (bool, int, float))):
        raise ValueError(f"Messages and tools hold strings, numbers, lists and dicts, not {type(value).__name__}.")


def _render(tokenizer, template: str, messages, tools, add_generation_prompt: bool) -> tuple[str, list[Span]]:
    """The text of a chat, and where the assistant speaks in it."""
    for message in messages:
        if not isinstance(message, dict):
            raise ValueError(f"A message is {message!r}, not a dict with a role and content.")
    if not messages:
        raise ValueError("There are no messages: give at least one.")
    # Without what is None, as in apply_chat_template: templates look for what is there.
    messages = [{name: value for name, value in message.items() if value is not None} for message in messages]
    try:
        (text,), (generated,) = render_jinja_template(
            [messages],
            tools=tools,
            chat_template=template,
            return_assistant_tokens_mask=True,
            add_generation_prompt=add_generation_prompt,
            **tokenizer.special_tokens_map,
        )
    except (jinja2.TemplateError, TypeError) as error:
        raise ValueError(f"The chat template refuses these messages: {error}") from None
    check_unicode(text, "The chat")
    return text, generated


def _find(tokens: list[str], text: str) -> list[Span]:
    pattern = "|".join(re.escape(token) for token in sorted(tokens, key=len, reverse=True))
    return [found.span() for found in re.finditer(pattern or "(?!)", text)]


def _encode_chat_text(tokenizer, text: str, control: list[str], genuine: list[Span]) -> tuple[list[int], list[Span]]:
    """Ids and the places of their characters. Only at `genuine` are control tokens."""
    written = tokenizer.convert_tokens_to_ids([text[start:end] for start, end in genuine])
    if _find(control, text) == genuine:  # nothing is spelled: as apply_chat_template does
        encoding = tokenizer(
            text, add_special_tokens=False, split_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        steering = _steering(tokenizer)
        if [id for id in encoding["input_ids"] if id in steering] == [id for id in written if id in steering]:
            return encoding["input_ids"], encoding["offset_mapping"]
    encoding = _encode_ordinary(tokenizer, text, genuine)
    ids, offsets = list(encoding.ids), list(encoding.offsets)
    for id, span in zip(written, genuine, strict=True):
        place = bisect_left(offsets, span)
        ids.insert(place, id)
        offsets.insert(place, span)
    return ids, offsets


def _encode_ordinary(tokenizer, text: str, without: list[Span]) -> Encoding:
    """Encode a text outside some spans, step by step as the library does, but without looking for added tokens.

    Raises:
        ValueError: if the model itself gives a control token.
    """
    backend = tokenizer.backend_tokenizer
    pieces = PreTokenizedString(text)
    between = _between(tokenizer, text, without)
    pieces.split(lambda _, whole: [whole[start:end] for start, end in between])
    if backend.normalizer is not None:
        pieces.normalize(backend.normalizer.normalize)
    if backend.pre_tokenizer is not None:
        backend.pre_tokenizer.pre_tokenize(pieces)
    pieces.tokenize(backend.model.tokenize)
    encoding = pieces.to_encoding()
    if made := _steering(tokenizer).intersection(encoding.ids):
        raise _made_of_text(tokenizer, made)
    return encoding


def _made_of_text(tokenizer, made: set[int]) -> ValueError:
    token = tokenizer.convert_ids_to_tokens(min(made))
    return ValueError(f"This tokenizer makes the control token {token!r} of ordinary text: use another tokenizer.")


def _between(tokenizer, text: str, without: list[Span]) -> list[Span]:
    """What is left of a text, less the space that a token takes to itself, as some do."""
    tokens = {token.content: token for token in tokenizer.added_tokens_decoder.values()}
    left, begin = [], 0
    for start, end in [*without, (len(text), len(text))]:
        token, stop = tokens.get(text[start:end]), start
        if token is not None and token.lstrip:
            stop = begin + len(text[begin:start].rstrip())
        if begin < stop:
            left.append((begin, stop))
        begin = end
        if token is not None and token.rstrip:
            begin = len(text) - len(text[end:].lstrip())
    return left


def _mask(offsets: list[Span], generated: list[Span]) -> list[int]:
    mask = [0] * len(offsets)
    starts, ends = [start for start, _ in offsets], [end for _, end in offsets]
    for start, end in generated:
        for index in range(bisect_right(ends, start), bisect_left(starts, end)):
            mask[index] = 1
    return mask
