"""Ids of texts and chats that cannot inject special tokens: in their text, `<|im_end|>` is ordinary characters.

A chat template writes special tokens around messages. If the result were simply encoded, a message with `<|im_end|>`
would end its turn, and could continue as the system.
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
Tools = Sequence[dict | Callable] | None


def encode_texts(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    """Encode ordinary texts, such as documents: no special tokens are added, and none is found in them.

    It sets flags in the tokenizer, as transformers does: do not call it for one tokenizer from several threads at once.
    Raises ValueError for a text that is not valid Unicode, or that gives an error or a special token.
    """
    if not texts:
        return []
    try:
        with _panics_as_errors():
            if tokenizer.is_fast:  # without the offsets of `tokenizer(texts)`, which cost a fifth of the time
                with _uncut(tokenizer, find_special=False):
                    found = tokenizer.backend_tokenizer.encode_batch_fast(texts, add_special_tokens=False)
                encoded = [encoding.ids for encoding in found]
            else:
                options = {"add_special_tokens": False, "split_special_tokens": True, "verbose": False}
                encoded = tokenizer(texts, **options)["input_ids"]
    except (TypeError, UnicodeEncodeError):
        for text in texts:
            check_unicode(text)
        raise
    # The library splits special tokens, but not added ones that the template writes; and a model can make any token.
    special = _special_ids(tokenizer)
    for index, ids in enumerate(encoded):
        if not special.isdisjoint(ids):
            if not tokenizer.is_fast:
                raise _special_from_text(tokenizer, special.intersection(ids))
            encoded[index] = _encode_ordinary(tokenizer, texts[index], []).ids
    return encoded


@contextlib.contextmanager
def _panics_as_errors() -> Iterator[None]:
    # An error in Rust, where a hostile pattern may search without end, is no `Exception`.
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise ValueError(f"The tokenizer cannot encode this text ({error}): use another tokenizer.") from None


@contextlib.contextmanager
def _uncut(tokenizer, find_special: bool) -> Iterator[None]:
    """Switch truncation and padding off, and the search for special tokens in texts on or off."""
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = not find_special
    try:
        yield
    finally:
        backend.encode_special_tokens = tokenizer.split_special_tokens


class Rendered(NamedTuple):
    """The text of a chat, with the spans of the template's special tokens, and those that it marks as generated."""

    text: str
    special: list[Span]
    generated: list[Span]


class EncodedChat(NamedTuple):
    """The ids of a chat, and the characters of each in the text."""

    ids: list[int]
    offsets: list[Span]
    rendered: Rendered


def encode_chat(
    tokenizer: PreTrainedTokenizerBase, messages: list[dict], tools: Tools = None, add_generation_prompt: bool = False
) -> dict[str, list[int]]:
    """Encode a chat in which only the template, and nothing in messages and tools, can write a special token.

    Without special tokens in the messages, the ids are those of `apply_chat_template`. Otherwise the first character of
    each, or of an unfinished one at the end of a string, is replaced by a private-use one before the template is
    rendered, and put back when the text has been cut at the tokens that the template wrote.

    Returns `input_ids`, and `assistant_masks`: 1 where the template has `{% generation %}`, 0 elsewhere; each (T,).
    Raises ValueError if the template fails, a text is not Unicode, or the model makes special tokens of ordinary text.
    """
    encoder = ChatEncoder(tokenizer)
    (chat,) = encoder.encode_batch([encoder.render(messages, tools, add_generation_prompt)])
    mask = [0] * len(chat.ids)
    for span in chat.rendered.generated:
        tokens = tokens_in(chat.offsets, span)
        mask[tokens] = [1] * len(mask[tokens])
    return {"input_ids": chat.ids, "assistant_masks": mask}


class ChatEncoder:
    """The steps of `encode_chat` for many chats, with a fast tokenizer that must not change, or another `template`."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: str | None = None):
        if not tokenizer.is_fast:
            raise ValueError(f"{type(tokenizer).__name__} has no offsets of tokens: use a fast tokenizer.")
        self.tokenizer, self.template = tokenizer, template
        self.ids = {token: tokenizer.convert_tokens_to_ids(token) for token in special_tokens(tokenizer)}
        self.pattern, self.first = _any_of(self.ids), _any_of({token[0] for token in self.ids})
        self.special = _special_ids(tokenizer)
        self.named = dict(tokenizer.special_tokens_map)

    def render(self, messages: list[dict], tools: Tools = None, add_generation_prompt: bool = False) -> Rendered:
        """Return the text of a chat; raises ValueError as `encode_chat` does."""
        return self.renderer(messages, tools)(len(messages), add_generation_prompt)

    def renderer(self, messages: list[dict], tools: Tools = None) -> Callable[[int, bool], Rendered]:
        """Return a function that renders the first N messages of a chat, with or without a prompt for the next."""
        template = self.template or self.tokenizer.get_chat_template(tools=tools)
        tools = [get_json_schema(tool) if isfunction(tool) or ismethod(tool) else tool for tool in tools or []] or None
        escaper = _Escaper(self.ids, self.first, lambda: {*template, *TO_JSON([messages, tools])})
        escaped = escaper.value(messages)
        options = {"tools": escaper.value(tools), **self.named}

        def render(count: int, add_generation_prompt: bool) -> Rendered:
            text, generated = _render(escaped[:count], template, add_generation_prompt, options)
            return Rendered(escaper.unescape(text), self._find(text), generated)

        return render

    def encode_batch(self, chats: Sequence[Rendered]) -> list[EncodedChat]:
        """Encode chats' texts; raises ValueError as `encode_chat` does."""
        # Chats without special tokens in their messages, as apply_chat_template does.
        plain = [index for index, chat in enumerate(chats) if self._find(chat.text) == chat.special]
        with _panics_as_errors(), _uncut(self.tokenizer, find_special=True):
            texts = [chats[index].text for index in plain]
            encodings = self.tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False)
            found = dict(zip(plain, encodings, strict=True))
            return [self._checked(chat, found.get(index)) for index, chat in enumerate(chats)]

    def _checked(self, chat: Rendered, encoding: Encoding | None) -> EncodedChat:
        """Return an encoding with the template's special tokens; if it has others, encode the text around them."""
        written = [self.ids[chat.text[start:end]] for start, end in chat.special]
        if encoding is not None:
            ids, special = encoding.ids, self.special
            if [id for id in ids if id in special] == [id for id in written if id in special]:
                return EncodedChat(ids, encoding.offsets, chat)
        encoding = _encode_ordinary(self.tokenizer, chat.text, chat.special)
        ids, offsets = list(encoding.ids), list(encoding.offsets)
        for id, span in zip(written, chat.special, strict=True):
            place = bisect_left(offsets, span)
            ids.insert(place, id)
            offsets.insert(place, span)
        return EncodedChat(ids, offsets, chat)

    def _find(self, text: str) -> list[Span]:
        return [found.span() for found in self.pattern.finditer(text)]


def marks_generation(template: str) -> bool:
    """Return True if a chat template marks the part of a chat that the assistant generates."""
    return bool(GENERATION.search(template))


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return special tokens, and the added tokens that the chat template writes; others are ordinary words."""
    template = tokenizer.chat_template or ""
    written = "\n".join(template.values()) if isinstance(template, dict) else template
    return [
        token.content
        for token in tokenizer.added_tokens_decoder.values()
        if token.special or (len(token.content) > 1 and not token.content.isspace() and token.content in written)
    ]


def _special_ids(tokenizer) -> set[int]:
    """Return the ids of special tokens, without that of unknown text, which is ordinary."""
    return set(tokenizer.convert_tokens_to_ids(special_tokens(tokenizer))) - {tokenizer.unk_token_id}


class _Escaper:
    """First characters of special tokens, replaced by private-use characters that the text does not have."""

    def __init__(self, tokens: Iterable[str], first: re.Pattern, used: Callable[[], set[str]]):
        self.tokens, self.first = tuple(tokens), first
        self.used = used  # finds the characters of the text; called only if there is a token to escape
        self.replacements: dict[str, str] = {}

    def value(self, value: Any, key: str = "") -> Any:
        """Return a copy of messages or tools with all their strings escaped, keys included."""
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
        end = len(text.rstrip())  # templates strip texts
        places = [found.start() for found in self.first.finditer(text) if self._begins_token(text, found.start(), end)]
        if is_role and text and text not in ROLES and any(text in token for token in self.tokens):
            places.append(0)
        characters = list(text)
        for place in places:
            if text[place] not in self.replacements:
                taken = self.used().union(self.replacements.values())
                self.replacements[text[place]] = next(chr(code) for code in chain(*PRIVATE) if chr(code) not in taken)
            characters[place] = self.replacements[text[place]]
        return "".join(characters)

    def _begins_token(self, text: str, place: int, end: int) -> bool:
        unfinished = text[place:], text[place:end]
        longer = (token for token in self.tokens if len(token) > end - place)
        return text.startswith(self.tokens, place) or any(token.startswith(unfinished) for token in longer)

    def unescape(self, text: str) -> str:
        for character, replacement in self.replacements.items():
            text = text.replace(replacement, character)
        return text


def _render(messages: list, template: str, add_generation_prompt: bool, options: dict) -> tuple[str, list[Span]]:
    for message in messages:
        if not isinstance(message, dict):
            raise ValueError(f"A message is {message!r}, not a dict with a role and content.")
    if not messages:
        raise ValueError("There are no messages: give at least one.")
    # Without fields that are None, as in apply_chat_template: templates test which fields a message has.
    messages = [{name: value for name, value in message.items() if value is not None} for message in messages]
    try:
        options = options | {"chat_template": template, "return_assistant_tokens_mask": marks_generation(template)}
        render = render_jinja_template if template == CHAT_TEMPLATE else render_with_limits
        (text,), spans = render([messages], add_generation_prompt=add_generation_prompt, **options)
    except (jinja2.TemplateError, TypeError, ArithmeticError, LookupError, AttributeError) as error:
        raise ValueError(f"The chat template rejects these messages: {error}") from None
    check_unicode(text, "The chat")
    return text, spans[0] if spans else []


def _any_of(tokens: Iterable[str]) -> re.Pattern:
    return re.compile("|".join(re.escape(token) for token in sorted(tokens, key=len, reverse=True)) or "(?!)")


def _encode_ordinary(tokenizer, text: str, without: list[Span]) -> Encoding:
    """Encode a text outside some spans as the library does, but without a search for added tokens."""
    backend = tokenizer.backend_tokenizer
    pieces = PreTokenizedString(text)
    between = _spans_between(tokenizer, text, without)
    pieces.split(lambda _, whole: [whole[start:end] for start, end in between])
    if backend.normalizer is not None:
        pieces.normalize(backend.normalizer.normalize)
    if backend.pre_tokenizer is not None:
        backend.pre_tokenizer.pre_tokenize(pieces)
    pieces.tokenize(backend.model.tokenize)
    encoding = pieces.to_encoding()
    if special := _special_ids(tokenizer).intersection(encoding.ids):
        raise _special_from_text(tokenizer, special)
    return encoding


def _special_from_text(tokenizer, ids: set[int]) -> ValueError:
    token = tokenizer.convert_ids_to_tokens(min(ids))
    return ValueError(f"This tokenizer makes the special token {token!r} from ordinary text: use another tokenizer.")


def _spans_between(tokenizer, text: str, without: list[Span]) -> list[Span]:
    """Return the spans between those of tokens, without the spaces that some tokens include."""
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
    """Return the tokens of which a part is in a span of characters."""
    return slice(bisect_right(offsets, span[0], key=itemgetter(1)), bisect_left(offsets, span[1], key=itemgetter(0)))
