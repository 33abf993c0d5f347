"""Text to ids without forgery: what spells a control token in somebody's text is text, in a document and in a chat.

A chat template writes control tokens around what people and tools say. Were the result simply encoded, a message that
says `<|im_end|>` would end its turn, and could go on as the system.
"""

import contextlib
import json
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from inspect import isfunction, ismethod
from itertools import chain
from operator import itemgetter
from typing import Any, NamedTuple

import jinja2
from tokenizers import Encoding, PreTokenizedString
from transformers import PreTrainedTokenizerBase
from transformers.utils import get_json_schema
from transformers.utils.chat_template_utils import render_jinja_template

from .template_limits import render_with_limits
from .tokenizer_json import check_unicode
from .trained import CHAT_TEMPLATE

# The roles that models know. A template may put another one between "<|" and "|>", so it must not complete a token.
ROLES = {"system", "developer", "user", "assistant", "tool", "function", "ipython"}
TO_JSON = json.JSONEncoder(ensure_ascii=False, default=str).encode
PRIVATE = range(0xE000, 0xF900), range(0xF0000, 0xFFFFE), range(0x100000, 0x10FFFE)  # codes of characters
GENERATION = re.compile(r"{%-?\s*generation\s*-?%}")
Span = tuple[int, int]  # of characters


def encode_texts(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    """Ids of ordinary texts, such as documents: no special tokens are added, and none is found in them.

    It sets flags in the tokenizer, as transformers does: do not call it for one tokenizer from several threads at once.
    Raises ValueError for a text that is not valid Unicode, or that the tokenizer fails on or makes a control token of.
    """
    if not texts:
        return []
    try:
        with _panics_as_errors():
            if tokenizer.is_fast:  # without the offsets of `tokenizer(texts)`, which cost a fifth of the time
                with _as_they_are(tokenizer, spelled_tokens=False):
                    found = tokenizer.backend_tokenizer.encode_batch_fast(texts, add_special_tokens=False)
                encoded = [encoding.ids for encoding in found]
            else:
                options = {"add_special_tokens": False, "split_special_tokens": True, "verbose": False}
                encoded = tokenizer(texts, **options)["input_ids"]
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
    # What goes wrong in Rust, where a hostile pattern may search without end, is no `Exception`.
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise ValueError(f"The tokenizer cannot encode this text ({error}): use another tokenizer.") from None


@contextlib.contextmanager
def _as_they_are(tokenizer, spelled_tokens: bool) -> Iterator[None]:
    """Texts are neither cut nor filled up; special tokens are found in them only if asked for."""
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = not spelled_tokens
    try:
        yield
    finally:
        backend.encode_special_tokens = tokenizer.split_special_tokens


class Rendered(NamedTuple):
    """The text of a chat, where the template wrote control tokens in it, and where it marks what is generated."""

    text: str
    genuine: list[Span]
    generated: list[Span]


class EncodedChat(NamedTuple):
    """The ids of a chat, and the place of each in the text."""

    ids: list[int]
    offsets: list[Span]
    rendered: Rendered


def encode_chat(
    tokenizer: PreTrainedTokenizerBase,
    messages: list[dict],
    tools: Sequence[dict | Callable] | None = None,
    add_generation_prompt: bool = False,
) -> dict[str, list[int]]:
    """Ids of a chat in which only the template, and nothing in messages and tools, can write a control token.

    For chats that spell none, the ids are those of `apply_chat_template`. In the others, the first character of each
    control token, or of an unfinished one at the end of a string, is replaced by a private-use one before the template
    is rendered, and put back when the text has been cut at the tokens that the template wrote.

    Returns `input_ids`, and `assistant_masks`: 1 where the template has `{% generation %}`, 0 elsewhere; each (T,).
    Raises ValueError if there is no template, it refuses the messages, a text is not valid Unicode, or the tokenizer's
    model makes control tokens of ordinary text.
    """
    encoder = ChatEncoder(tokenizer)
    (chat,) = encoder.encode_batch([encoder.render(messages, tools, add_generation_prompt)])
    mask = [0] * len(chat.ids)
    for span in chat.rendered.generated:
        tokens = tokens_in(chat.offsets, span)
        mask[tokens] = [1] * len(mask[tokens])
    return {"input_ids": chat.ids, "assistant_masks": mask}


class ChatEncoder:
    """What `encode_chat` does, in steps, for many chats, with a fast tokenizer that must not change meanwhile.

    `template` takes the place of the tokenizer's own.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: str | None = None):
        if not tokenizer.is_fast:
            raise ValueError(f"{type(tokenizer).__name__} does not say where its tokens are: use a fast tokenizer.")
        self.tokenizer, self.template = tokenizer, template
        self.ids = {token: tokenizer.convert_tokens_to_ids(token) for token in control_tokens(tokenizer)}
        self.pattern, self.first = _any_of(self.ids), _any_of({token[0] for token in self.ids})
        self.steering = _steering(tokenizer)
        self.named = dict(tokenizer.special_tokens_map)

    def render(
        self, messages: list[dict], tools: Sequence[dict | Callable] | None = None, add_generation_prompt: bool = False
    ) -> Rendered:
        """The text of a chat; raises ValueError as `encode_chat` does."""
        return self.renderer(messages, tools)(len(messages), add_generation_prompt)

    def renderer(
        self, messages: list[dict], tools: Sequence[dict | Callable] | None = None
    ) -> Callable[[int, bool], Rendered]:
        """Renders the first messages of a chat, as many as it is called with, with or without a prompt for the next."""
        template = self.template or self.tokenizer.get_chat_template(tools=tools)
        tools = [get_json_schema(tool) if isfunction(tool) or ismethod(tool) else tool for tool in tools or []] or None
        shield = _Shield(self.ids, self.first, lambda: {*template, *TO_JSON([messages, tools])})
        shielded = shield.value(messages)
        options = {"tools": shield.value(tools), **self.named}

        def render(count: int, add_generation_prompt: bool) -> Rendered:
            text, generated = _render(shielded[:count], template, add_generation_prompt, options)
            return Rendered(shield.restore(text), self._find(text), generated)

        return render

    def encode_batch(self, chats: Sequence[Rendered]) -> list[EncodedChat]:
        """Ids of chats' texts; raises ValueError as `encode_chat` does."""
        # If nothing is spelled, as apply_chat_template does.
        plain = [index for index, chat in enumerate(chats) if self._find(chat.text) == chat.genuine]
        with _panics_as_errors(), _as_they_are(self.tokenizer, spelled_tokens=True):
            texts = [chats[index].text for index in plain]
            encodings = self.tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False)
            found = dict(zip(plain, encodings, strict=True))
            return [self._checked(chat, found.get(index)) for index, chat in enumerate(chats)]

    def _checked(self, chat: Rendered, encoding: Encoding | None) -> EncodedChat:
        """What was encoded; if it has other control tokens than the template wrote, the text is encoded around them."""
        written = [self.ids[chat.text[start:end]] for start, end in chat.genuine]
        if encoding is not None:
            ids, steering = encoding.ids, self.steering
            if [id for id in ids if id in steering] == [id for id in written if id in steering]:
                return EncodedChat(ids, encoding.offsets, chat)
        encoding = _encode_ordinary(self.tokenizer, chat.text, chat.genuine)
        ids, offsets = list(encoding.ids), list(encoding.offsets)
        for id, span in zip(written, chat.genuine, strict=True):
            place = bisect_left(offsets, span)
            ids.insert(place, id)
            offsets.insert(place, span)
        return EncodedChat(ids, offsets, chat)

    def _find(self, text: str) -> list[Span]:
        return [found.span() for found in self.pattern.finditer(text)]


def marks_generation(template: str) -> bool:
    """Whether a chat template says which part of a chat the assistant generates."""
    return bool(GENERATION.search(template))


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

    def __init__(self, tokens: Iterable[str], first: re.Pattern, used: Callable[[], set[str]]):
        self.tokens, self.first = tuple(tokens), first
        self.used = used  # finds the characters that are taken; called only if there is a token to shield
        self.stand_ins: dict[str, str] = {}

    def value(self, value: Any, key: str = "") -> Any:
        """A copy of messages or tools with all their strings shielded, those that are keys too."""
        if isinstance(value, str):
            return self.text(value, is_role=key == "role")
        if isinstance(value, Mapping):
            return {self.value(name): self.value(item, name) for name, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.value(item, key) for item in value]
        if not (value is None or isinstance(value, (bool, int, float))):
            raise ValueError(f"Messages and tools hold strings, numbers, lists and dicts, not {type(value).__name__}.")
        return value

    def text(self, text: str, is_role: bool = False) -> str:
        end = len(text.rstrip())  # templates strip what they are given
        places = [found.start() for found in self.first.finditer(text) if self._begins_token(text, found.start(), end)]
        if is_role and text and text not in ROLES and any(text in token for token in self.tokens):
            places.append(0)
        characters = list(text)
        for place in places:
            if text[place] not in self.stand_ins:
                taken = self.used().union(self.stand_ins.values())
                self.stand_ins[text[place]] = next(chr(code) for code in chain(*PRIVATE) if chr(code) not in taken)
            characters[place] = self.stand_ins[text[place]]
        return "".join(characters)

    def _begins_token(self, text: str, place: int, end: int) -> bool:
        unfinished = text[place:], text[place:end]
        return text.startswith(self.tokens, place) or any(
            len(token) > end - place and token.startswith(unfinished) for token in self.tokens
        )

    def restore(self, text: str) -> str:
        for character, stand_in in self.stand_ins.items():
            text = text.replace(stand_in, character)
        return text


def _render(messages: list, template: str, add_generation_prompt: bool, options: dict) -> tuple[str, list[Span]]:
    for message in messages:
        if not isinstance(message, dict):
            raise ValueError(f"A message is {message!r}, not a dict with a role and content.")
    if not messages:
        raise ValueError("There are no messages: give at least one.")
    # Without what is None, as in apply_chat_template: templates look for what is there.
    messages = [{name: value for name, value in message.items() if value is not None} for message in messages]
    try:
        options = options | {"chat_template": template, "return_assistant_tokens_mask": marks_generation(template)}
        render = render_jinja_template if template == CHAT_TEMPLATE else render_with_limits
        (text,), spans = render([messages], add_generation_prompt=add_generation_prompt, **options)
    except (jinja2.TemplateError, TypeError, ArithmeticError, LookupError, AttributeError) as error:
        raise ValueError(f"The chat template refuses these messages: {error}") from None
    check_unicode(text, "The chat")
    return text, spans[0] if spans else []


def _any_of(tokens: Iterable[str]) -> re.Pattern:
    return re.compile("|".join(re.escape(token) for token in sorted(tokens, key=len, reverse=True)) or "(?!)")


def _encode_ordinary(tokenizer, text: str, without: list[Span]) -> Encoding:
    """Encode a text outside some spans, step by step as the library does, but without looking for added tokens.

    Raises ValueError if the model itself gives a control token.
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


def tokens_in(offsets: list[Span], span: Span) -> slice:
    """The tokens of which a part is in a span of characters."""
    return slice(bisect_right(offsets, span[0], key=itemgetter(1)), bisect_left(offsets, span[1], key=itemgetter(0)))
