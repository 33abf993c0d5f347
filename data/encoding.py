"""Examples as ids and labels. What spells a control token in them is text, and can forge no turn."""

from bisect import bisect_right
from collections.abc import Callable
from itertools import accumulate

from transformers import PreTrainedTokenizerBase

from ..tokenization.control_tokens import ChatEncoder, Rendered, Span, marks_generation, tokens_in
from .messages import length_shared
from .packing import IGNORE_INDEX

AS_TEXT = {"split_special_tokens": True, "verbose": False}  # what spells a control token is text


class TurnEncoder:
    """Encodes chats, with labels on what the assistant says; the tokenizer must not change meanwhile.

    The chat template says what that is with `{% generation %}`. Of a template that does not, TRL may know a variant
    that does, and that one is used, as TRL does. Otherwise a turn is what the template adds for it: the text after the
    prompt that it writes for the assistant, up to what it writes for the next message.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self.chats = ChatEncoder(tokenizer)
        self.marks = marks_generation(tokenizer.get_chat_template())
        if not self.marks and (marked := _marked_by_trl(tokenizer)):
            self.chats, self.marks = ChatEncoder(tokenizer, marked), True

    def render(self, messages: list[dict], tools: list[dict] | None = None) -> tuple[Rendered, list[Span]]:
        """The text of a chat and the spans that are learnt; raises ValueError if the template refuses or marks none."""
        render = self.chats.renderer(messages, tools or None)
        rendered = render(len(messages), False)
        spans = rendered.generated
        if self.marks and not spans:
            raise ValueError("The chat template marks nothing of these messages with {% generation %}")
        if not self.marks or any(message.get("weight") == 0 for message in messages):
            learnt = [
                self._turn(render, number, number + 1 == len(messages), rendered.text)
                for number, message in enumerate(messages)
                if message["role"] == "assistant" and message.get("weight") != 0
            ]
            found = [(max(start, begin), min(stop, end)) for start, stop in spans for begin, end in learnt]
            spans = [(start, end) for start, end in found if start < end] if self.marks else learnt
        return rendered, spans

    def encode_batch(self, chats: list[tuple[Rendered, list[Span]]]) -> list[dict[str, list[int]]]:
        """Rendered chats as `input_ids`, and `labels` with -100 (no loss) on all that is not learnt."""
        rows = []
        for chat, (_, spans) in zip(self.chats.encode_batch([chat for chat, _ in chats]), chats, strict=True):
            rows.append({"input_ids": chat.ids, "labels": [IGNORE_INDEX] * len(chat.ids)})
            for tokens in (tokens_in(chat.offsets, span) for span in spans):
                rows[-1]["labels"][tokens] = chat.ids[tokens]
        return rows

    def _turn(self, render: Callable[[int, bool], Rendered], number: int, is_last: bool, text: str) -> Span:
        """The characters that the template writes for a message of the assistant."""
        before = render(number, True).text if number else ""
        begin = length_shared(before, text)
        if begin < len(before):  # the prompt is written in another way; what is before it must not be
            self._end(render(number, False), text, 0)
        return begin, len(text) if is_last else self._end(render(number + 1, False), text, begin)

    def _end(self, after: Rendered, text: str, begin: int) -> int:
        """Where what a chat begins with ends, less what the template writes at the end of a chat alone."""
        if text.startswith(after.text):
            return len(after.text)
        end = length_shared(after.text, text)
        end = min((start for start, stop in after.genuine if start < end < stop), default=end)
        if end <= begin or self.chats.pattern.sub("", after.text[end:]).strip():
            raise ValueError(
                "The chat template writes earlier turns in another way when later ones follow, and does not mark what "
                "the assistant says with {% generation %}: give the tokenizer a template that does"
            )
        return end


def _marked_by_trl(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The variant of a chat template that marks what the assistant says, if TRL is installed and has one."""
    try:
        from trl.chat_template_utils import get_training_chat_template

        return get_training_chat_template(tokenizer)
    except (ImportError, ValueError):
        return None


def encode_preference(
    encoder: ChatEncoder, prompt: list[dict], chosen: list[dict], rejected: list[dict], tools: list[dict] | None = None
) -> dict[str, list[int]]:
    """A chat and two answers as `prompt_ids`, `chosen_ids` and `rejected_ids`; answers have their end of turn.

    An answer begins where its text parts from that of the prompt, with the token that this character is in: a prompt
    and an answer may share one, as two newlines do.
    """
    before = encoder.render(prompt, tools, add_generation_prompt=True).text
    chats = [encoder.render([*prompt, *answer], tools) for answer in (chosen, rejected)]
    one, other = encoder.encode_batch(chats)
    begins = (tokens_in(chat.offsets, (length_shared(before, chat.rendered.text), 0)).start for chat in (one, other))
    begin = min(*begins, length_shared(one.ids, other.ids))
    return {"prompt_ids": one.ids[:begin], "chosen_ids": one.ids[begin:], "rejected_ids": other.ids[begin:]}


def encode_text(tokenizer, text: str, max_length: int | None = None) -> list[int]:
    """A text with what the tokenizer puts around texts, cut at the end if it is longer than `max_length`."""
    return tokenizer(text, truncation=max_length is not None, max_length=max_length, **AS_TEXT)["input_ids"]


def encode_words(tokenizer, words: list[str], max_length: int | None = None) -> tuple[list[int], list[int | None]]:
    """Words joined by spaces: ids, and the number of the word that each token ends in, None if it is in none."""
    cut = {"truncation": max_length is not None, "max_length": max_length}
    encoded = tokenizer(" ".join(words), return_offsets_mapping=True, **cut, **AS_TEXT)
    begins = [0, *accumulate(len(word) + 1 for word in words)][: len(words)]
    places = [bisect_right(begins, end - 1) - 1 if end > start else None for start, end in encoded["offset_mapping"]]
    return encoded["input_ids"], places


def encode_tags(tokenizer, words: list[str], tags: list[str], names: list[str], max_length: int) -> dict:
    """Words as ids, and each token's tag as `labels`; of B-X, tokens after a word's first have I-X if it exists."""
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


def encode_question(
    tokenizer, question: str, context: str, max_length: int
) -> list[tuple[list[int], list[tuple[int, int]]]]:
    """A question and the text that answers it, in as many windows of `max_length` tokens as the text needs.

    The question comes first: a causal model must have read it to know what to look for. Windows share a quarter of
    their tokens. Returns the ids of each, and for each id the span of its characters in the context, (0, 0) outside of
    it. Raises ValueError if the question leaves no room for the context.
    """
    asked = tokenizer(f"{question.strip()}\n", **AS_TEXT)["input_ids"]
    read = tokenizer(context, add_special_tokens=False, return_offsets_mapping=True, **AS_TEXT)
    room = max_length - len(asked)
    if room < min(8, len(read["input_ids"])):
        raise ValueError(f"A question has {len(asked)} tokens, which leaves no room for a text within {max_length}.")
    step = max(1, room - room // 4)
    windows = []
    for start in range(0, max(1, len(read["input_ids"]) - (room - step)), step):
        spans = [tuple(span) for span in read["offset_mapping"][start : start + room]]
        windows.append((asked + read["input_ids"][start : start + room], [(0, 0)] * len(asked) + spans))
    return windows


def encode_answer(spans: list[tuple[int, int]], start: int, text: str) -> list[int]:
    """The first and last token of an answer in a window; 0 and 0 if there is none, or not all of it."""
    end = start + len(text)
    inside = [i for i, (a, b) in enumerate(spans) if b > a and a < end and b > start]
    if not text or not inside or spans[inside[0]][0] > start or spans[inside[-1]][1] < end:
        return [0, 0]
    return [inside[0], inside[-1]]
