"""Examples as ids and labels. Text such as `<|im_end|>` in them is encoded as ordinary characters."""

from bisect import bisect_right
from collections.abc import Callable
from itertools import accumulate

from transformers import PreTrainedTokenizerBase

from ..tokenization.special_tokens import ChatEncoder, Rendered, Span, marks_generation, tokens_in
from .messages import shared_length
from .packing import IGNORE_INDEX

AS_TEXT = {"split_special_tokens": True, "verbose": False}  # finds no special tokens in texts


class TurnEncoder:
    """An encoder of chats, with labels on the assistant's messages; the tokenizer must not change meanwhile.

    Chat templates mark them with `{% generation %}`, or TRL has a variant that does. Otherwise a turn is the text after
    the prompt that the template writes for the assistant, and before the text that it writes for the next message.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self.chats = ChatEncoder(tokenizer)
        self.marks = marks_generation(tokenizer.get_chat_template())
        if not self.marks and (marked := _marked_by_trl(tokenizer)):
            self.chats, self.marks = ChatEncoder(tokenizer, marked), True

    def render(self, messages: list[dict], tools: list[dict] | None = None) -> tuple[Rendered, list[Span]]:
        """Return a chat's text and the spans that are learned; ValueError if the template fails or marks none."""
        render = self.chats.renderer(messages, tools or None)
        rendered = render(len(messages), False)
        spans = rendered.generated
        if self.marks and not spans:
            raise ValueError("The chat template marks nothing of these messages with {% generation %}")
        if not self.marks or any(message.get("weight") == 0 for message in messages):
            turns = [
                self._turn(render, number, number + 1 == len(messages), rendered.text)
                for number, message in enumerate(messages)
                if message["role"] == "assistant" and message.get("weight") != 0
            ]
            found = [(max(start, begin), min(stop, end)) for start, stop in spans for begin, end in turns]
            spans = [(start, end) for start, end in found if start < end] if self.marks else turns
        return rendered, spans

    def encode_batch(self, chats: list[tuple[Rendered, list[Span]]]) -> list[dict[str, list[int]]]:
        """Return `input_ids` of rendered chats, and `labels` with -100 (no loss) outside of the learned spans."""
        rows = []
        for chat, (_, spans) in zip(self.chats.encode_batch([chat for chat, _ in chats]), chats, strict=True):
            rows.append({"input_ids": chat.ids, "labels": [IGNORE_INDEX] * len(chat.ids)})
            for tokens in (tokens_in(chat.offsets, span) for span in spans):
                rows[-1]["labels"][tokens] = chat.ids[tokens]
        return rows

    def _turn(self, render: Callable[[int, bool], Rendered], number: int, is_last: bool, text: str) -> Span:
        """Return the characters that the template writes for a message of the assistant."""
        before = render(number, True).text if number else ""
        begin = shared_length(before, text)
        if begin < len(before):  # the prompt may be written in another way, the turns before it not
            self._end(render(number, False), text, 0)
        return begin, len(text) if is_last else self._end(render(number + 1, False), text, begin)

    def _end(self, after: Rendered, text: str, begin: int) -> int:
        """Return the end of a chat's first turns, without the text that the template writes only at a chat's end."""
        if text.startswith(after.text):
            return len(after.text)
        end = shared_length(after.text, text)
        end = min((start for start, stop in after.special if start < end < stop), default=end)
        if end <= begin or self.chats.pattern.sub("", after.text[end:]).strip():
            what = "changes earlier turns when later ones follow, and does not mark the assistant's turns with"
            raise ValueError(f"The chat template {what} {{% generation %}}: give the tokenizer a template that does")
        return end


def _marked_by_trl(tokenizer: PreTrainedTokenizerBase) -> str | None:
    try:
        from trl.chat_template_utils import get_training_chat_template

        return get_training_chat_template(tokenizer)
    except (ImportError, ValueError):
        return None


def encode_preference(
    encoder: ChatEncoder, prompt: list[dict], chosen: list[dict], rejected: list[dict], tools: list[dict] | None = None
) -> dict[str, list[int]]:
    """Encode a chat and two answers as `prompt_ids`, `chosen_ids` and `rejected_ids`; answers have their end of turn.

    An answer begins with the token of the first character that is not the prompt's: they may share a token.
    """
    before = encoder.render(prompt, tools, add_generation_prompt=True).text
    chats = [encoder.render([*prompt, *answer], tools) for answer in (chosen, rejected)]
    one, other = encoder.encode_batch(chats)
    begins = (tokens_in(chat.offsets, (shared_length(before, chat.rendered.text), 0)).start for chat in (one, other))
    begin = min(*begins, shared_length(one.ids, other.ids))
    return {"prompt_ids": one.ids[:begin], "chosen_ids": one.ids[begin:], "rejected_ids": other.ids[begin:]}


def encode_text(tokenizer, text: str, max_length: int | None = None) -> list[int]:
    """Encode a text with the tokenizer's own first and last tokens, cut at the end to `max_length` tokens."""
    return tokenizer(text, truncation=max_length is not None, max_length=max_length, **AS_TEXT)["input_ids"]


def encode_words(tokenizer, words: list[str], max_length: int | None = None) -> tuple[list[int], list[int | None]]:
    """Encode words joined by spaces: ids, and the number of the word that each token ends in, or None."""
    cut = {"truncation": max_length is not None, "max_length": max_length}
    encoded = tokenizer(" ".join(words), return_offsets_mapping=True, **cut, **AS_TEXT)
    begins = [0, *accumulate(len(word) + 1 for word in words)][: len(words)]
    places = [bisect_right(begins, end - 1) - 1 if end > start else None for start, end in encoded["offset_mapping"]]
    return encoded["input_ids"], places


def encode_tags(tokenizer, words: list[str], tags: list[str], names: list[str], max_length: int) -> dict:
    """Encode words, and each token's tag as `labels`; of B-X, tokens after a word's first have I-X if it exists."""
    ids, places = encode_words(tokenizer, words, max_length)
    known = {name: number for number, name in enumerate(names)}
    labels, last = [], None
    for place in places:
        label = IGNORE_INDEX if place is None else known[tags[place]]
        if place is not None and place == last and tags[place].startswith("B-"):
            label = known.get(f"I-{tags[place][2:]}", label)
        labels.append(label)
        last = place
    return {"input_ids": ids, "labels": labels}


def encode_question(tokenizer, question: str, context: str, max_length: int) -> list[tuple[list[int], list[Span]]]:
    """Encode a question and then its context, in as many windows of `max_length` tokens as the context needs.

    Windows share a quarter of their tokens. Returns the ids of each, and for each id the span of its characters in the
    context, (0, 0) outside of it. Raises ValueError if the question leaves no room.
    """
    first = tokenizer(f"{question.strip()}\n", **AS_TEXT)["input_ids"]
    read = tokenizer(context, add_special_tokens=False, return_offsets_mapping=True, **AS_TEXT)
    room = max_length - len(first)
    if room < min(8, len(read["input_ids"])):
        raise ValueError(f"A question has {len(first)} tokens, which leaves no room for a text within {max_length}.")
    step = max(1, room - room // 4)
    windows = []
    for start in range(0, max(1, len(read["input_ids"]) - (room - step)), step):
        spans = [tuple(span) for span in read["offset_mapping"][start : start + room]]
        windows.append((first + read["input_ids"][start : start + room], [(0, 0)] * len(first) + spans))
    return windows


def encode_answer(spans: list[tuple[int, int]], start: int, text: str) -> list[int]:
    """Return the first and last token of an answer in a window; 0 and 0 if it is not in it as a whole."""
    end = start + len(text)
    inside = [i for i, (a, b) in enumerate(spans) if b > a and a < end and b > start]
    if not text or not inside or spans[inside[0]][0] > start or spans[inside[-1]][1] < end:
        return [0, 0]
    return [inside[0], inside[-1]]
