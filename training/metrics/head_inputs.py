"""Words and questions as a model's head reads them, and the way back to words and characters."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

OVERLAP = 4  # a window of a text shares a fourth with the one before


def encode_words(tokenizer: PreTrainedTokenizerBase, words: Sequence[str]) -> tuple[list[int], list[int | None]]:
    """Ids of words with a space between, and the place of each word's first token; None for one that has none.

    The words are encoded as running text, since that is what a pipeline gives to the model.
    """
    _needs_places(tokenizer)
    encoded = tokenizer(" ".join(words), split_special_tokens=True, return_offsets_mapping=True, verbose=False)
    ids, places, begin, token = encoded["input_ids"], [], 0, 0
    offsets = encoded["offset_mapping"]
    for word in words:
        end = begin + len(word)
        while token < len(ids) and offsets[token][1] <= begin:  # before the word, or a token of the template's
            token += 1
        has_one = token < len(ids) and offsets[token][0] < end
        places.append(token if has_one else None)
        begin = end + 1
    return ids, places


class QuestionWindow(NamedTuple):
    """A question, and as much of its context as there is room for."""

    ids: list[int]
    spans: list[tuple[int, int] | None]  # of characters of the context, for each id that is of the context


def question_windows(
    tokenizer: PreTrainedTokenizerBase, question: str, context: str, size: int
) -> Iterator[QuestionWindow]:
    """A question with all of its context, in overlapping windows of at most `size` tokens.

    Raises:
        ValueError: if the question leaves no room for a context.
    """
    _needs_places(tokenizer)
    how = {"split_special_tokens": True, "return_offsets_mapping": True, "verbose": False}
    beside = len(tokenizer(question, "", **how)["input_ids"])
    if size - beside < OVERLAP:
        raise ValueError(f"A question has {beside} tokens and the model reads {size}: give a larger --max_length.")
    encoded = tokenizer(
        question,
        context,
        truncation="only_second",
        max_length=size,
        stride=(size - beside) // OVERLAP,
        return_overflowing_tokens=True,
        **how,
    )
    for index, ids in enumerate(encoded["input_ids"]):
        parts = encoded.sequence_ids(index)
        spans = encoded["offset_mapping"][index]
        yield QuestionWindow(ids, [span if part == 1 else None for span, part in zip(spans, parts, strict=True)])


def _needs_places(tokenizer: PreTrainedTokenizerBase) -> None:
    if not tokenizer.is_fast:
        raise ValueError(f"{type(tokenizer).__name__} does not say where its tokens are: use a fast tokenizer.")
