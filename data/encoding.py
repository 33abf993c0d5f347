"""Examples as ids and labels. What spells a control token in them is text, and can forge no turn."""

from bisect import bisect_right
from itertools import accumulate

from transformers import PreTrainedTokenizerBase

from ..tokenization import encode_chat
from .packing import IGNORE_INDEX


def encode_turns(tokenizer: PreTrainedTokenizerBase, messages: list[dict]) -> dict[str, list[int]]:
    """A chat as `input_ids`, and `labels` with -100 (no loss) on all but what the assistant says, its end included."""
    encoded = encode_chat(tokenizer, messages)
    ids, mask = encoded["input_ids"], encoded["assistant_masks"]
    if not any(mask):  # the template does not mark what is generated
        mask = _mask_by_prefixes(tokenizer, messages, ids)
    return {"input_ids": ids, "labels": [id if said else IGNORE_INDEX for id, said in zip(ids, mask, strict=True)]}


def _mask_by_prefixes(tokenizer, messages: list[dict], ids: list[int]) -> list[int]:
    """What the assistant says, as the difference between the chat before and after each of its messages."""
    mask = [0] * len(ids)
    for number, message in enumerate(messages):
        if message["role"] == "assistant":
            before = (
                encode_chat(tokenizer, messages[:number], add_generation_prompt=True)["input_ids"] if number else []
            )
            after = encode_chat(tokenizer, messages[: number + 1])["input_ids"]
            if ids[: len(before)] != before or ids[: len(after)] != after:
                raise ValueError(
                    "The chat template writes earlier turns in another way when later ones follow, and does not mark "
                    "what the assistant says with {% generation %}: give the tokenizer a template that does."
                )
            end = _end_of_turn(tokenizer, after)
            mask[len(before) : end] = [1] * (end - len(before))
    return mask


def _end_of_turn(tokenizer, ids: list[int]) -> int:
    """The length of a chat without what its template writes between turns, such as a newline."""
    ends = [index for index, id in enumerate(ids) if id == tokenizer.eos_token_id]
    return ends[-1] + 1 if ends and ends[-1] > len(ids) - 4 else len(ids)


def encode_preference(tokenizer, prompt: list[dict], chosen: str, rejected: str) -> dict[str, list[int]]:
    """A chat and two answers as `prompt_ids`, `chosen_ids` and `rejected_ids`; answers have their end of turn."""
    before = encode_chat(tokenizer, prompt, add_generation_prompt=True)["input_ids"]
    encoded = {"prompt_ids": before}
    for name, answer in (("chosen_ids", chosen), ("rejected_ids", rejected)):
        ids = encode_chat(tokenizer, [*prompt, {"role": "assistant", "content": answer}])["input_ids"]
        if ids[: len(before)] != before:
            raise ValueError(
                "The chat template writes a prompt in another way when an answer follows: use another template."
            )
        encoded[name] = ids[len(before) : _end_of_turn(tokenizer, ids)]
    return encoded


def encode_text(tokenizer, text: str, max_length: int | None = None) -> list[int]:
    """A text with what the tokenizer puts around texts, cut at the end if it is longer than `max_length`."""
    return tokenizer(
        text, truncation=max_length is not None, max_length=max_length, split_special_tokens=True, verbose=False
    )["input_ids"]


def encode_words(tokenizer, words: list[str], max_length: int | None = None) -> tuple[list[int], list[int | None]]:
    """A text given as words, joined by spaces: ids, and for each token the number of the word that it ends in.

    Tokens that belong to none, which the tokenizer puts around texts, have None.
    """
    encoded = tokenizer(
        " ".join(words),
        truncation=max_length is not None,
        max_length=max_length,
        split_special_tokens=True,
        return_offsets_mapping=True,
        verbose=False,
    )
    begins = [0, *accumulate(len(word) + 1 for word in words)][: len(words)]
    places = [bisect_right(begins, end - 1) - 1 if end > start else None for start, end in encoded["offset_mapping"]]
    return encoded["input_ids"], places


def encode_tags(tokenizer, words: list[str], tags: list[str], names: list[str], max_length: int) -> dict:
    """Words as `input_ids`, and as `labels` the id of its word's tag for each token.

    Of a word of several tokens, those after the first have I-X where the tag is B-X and there is such a tag.
    """
    ids, places = encode_words(tokenizer, words, max_length)
    known = {name: number for number, name in enumerate(names)}
    labels, last = [], None
    for place in places:
        tag = None if place is None else tags[place]
        if tag is not None and place == last and tag.startswith("B-"):
            tag = tag if f"I-{tag[2:]}" not in known else f"I-{tag[2:]}"
        labels.append(IGNORE_INDEX if tag is None else known[tag])
        last = place
    return {"input_ids": ids, "labels": labels}


def encode_question(
    tokenizer, question: str, context: str, max_length: int, stride: int | None = None
) -> list[tuple[list[int], list[tuple[int, int]]]]:
    """A question and the text that answers it, in as many windows as the text needs.

    The question comes first: a causal model must have read it to know what to look for. Between them is a newline.

    Args:
        max_length: tokens of a window.
        stride: tokens that a window shares with the one before; a quarter of it if not given.

    Returns:
        For each window its ids, and for each id the span of its characters in the context, (0, 0) outside of it.

    Raises:
        ValueError: if the question leaves no room for the context.
    """
    options = {"split_special_tokens": True, "verbose": False}
    asked = tokenizer(f"{question.strip()}\n", **options)["input_ids"]
    read = tokenizer(context, add_special_tokens=False, return_offsets_mapping=True, **options)
    room = max_length - len(asked)
    if room < min(8, len(read["input_ids"])):
        raise ValueError(f"A question has {len(asked)} tokens, which leaves no room for a text within {max_length}.")
    step = max(1, room - (room // 4 if stride is None else stride))
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
