"""How well a causal language model predicts: texts, the answers in chats, and which of two answers people prefer."""

import math
from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..data.encoding import encode_preference, encode_turns
from ..data.packing import IGNORE_INDEX
from ..tokenization import encode_texts
from .bootstrap import Metric, divide, mean
from .inference import Said, input_length, nothing, token_nats, windows
from .results import Evaluation

STRETCH = 1000  # characters
FEW_DOCUMENTS = 100  # with fewer, the rows that are resampled are stretches of them


def evaluate_texts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    batch_size: int = 8,
    max_length: int | None = None,
    said: Said = nothing,
) -> Evaluation:
    """Loss, perplexity and bits per byte of documents, each on its own.

    Every token of the text is predicted once, the first from the token that begins a document. A document longer than
    the context is read in windows that overlap by half. What ends a document is not counted.

    Raises:
        ValueError: if there is no text, or the tokenizer has no token to begin with.
    """
    start = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    if start is None:
        raise ValueError("The tokenizer has no bos_token and no eos_token to begin a text with: give it one.")
    texts = [text for text in texts if text]
    if not texts:
        raise ValueError("There is no text to evaluate on: give --data with text in it.")
    size = input_length(model, max_length)
    documents = [[start, *ids] for ids in encode_texts(tokenizer, texts)]
    pieces = [(index, *window) for index, ids in enumerate(documents) for window in windows(len(ids), size)]
    losses = token_nats(model, [documents[i][begin:end] for i, begin, end, _ in pieces], batch_size, said)
    nats: list[list[np.ndarray]] = [[] for _ in texts]
    for (index, _, _, counted), loss in zip(pieces, losses, strict=True):
        nats[index].append(loss[counted - 1 :])
    few = len(texts) < FEW_DOCUMENTS
    rows = []  # nats, tokens, bytes
    for text, ids, parts in zip(texts, documents, nats, strict=True):
        rows += _stretches(tokenizer, text, ids[1:], np.concatenate(parts), few)
    unit = f"stretches of {STRETCH:,} characters" if few else "documents"
    notes = [f"intervals are over {len(rows):,} {unit}"]
    changed = _changed(tokenizer, texts, documents)
    if changed:
        notes.append(f"too good: the tokenizer does not give {changed:,} of {len(texts):,} texts back as they were")
    return Evaluation("lm", _language_metrics(np.array(rows, float)), len(texts), notes=notes)


def _changed(tokenizer, texts: Sequence[str], documents: Sequence[Sequence[int]]) -> int:
    decoded = (tokenizer.decode(ids[1:], clean_up_tokenization_spaces=False) for ids in documents)
    return sum(text != again for text, again in zip(texts, decoded, strict=True))


def _stretches(tokenizer, text: str, ids: list[int], nats: np.ndarray, cut: bool) -> list[tuple[float, int, int]]:
    """Nats, tokens and bytes of a document, or of each thousand of its characters, by where tokens begin."""
    whole = [(float(nats.sum()), len(ids), len(text.encode()))]
    if not cut or len(text) <= STRETCH or not tokenizer.is_fast:
        return whole
    encoded = tokenizer(
        text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True, verbose=False
    )
    if encoded["input_ids"] != ids:  # the text spells a control token
        return whole
    count = math.ceil(len(text) / STRETCH)
    places = np.array([min(begin, len(text) - 1) // STRETCH for begin, _ in encoded["offset_mapping"]])
    sums, tokens = np.bincount(places, nats, count), np.bincount(places, minlength=count)
    sizes = [len(text[i * STRETCH : (i + 1) * STRETCH].encode()) for i in range(count)]
    return list(zip(sums.tolist(), tokens.tolist(), sizes, strict=True))


def _language_metrics(rows: np.ndarray) -> list[Metric]:
    """Of rows (N, 3): nats, tokens, and bytes, which may be 0 where nobody counts them."""

    def loss(totals: np.ndarray) -> np.ndarray:
        return divide(totals[:, 0], totals[:, 1])

    metrics = [
        Metric("loss", rows, loss, higher_is_better=False),
        Metric("perplexity", rows, lambda totals: np.exp(np.minimum(loss(totals), 700)), higher_is_better=False),
    ]
    if rows[:, 2].any():
        bits = Metric("bits_per_byte", rows, lambda totals: divide(totals[:, 0], totals[:, 2]) / math.log(2), False)
        metrics.append(bits)
    return metrics


def evaluate_chats(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    chats: Sequence[list[dict]],
    batch_size: int = 8,
    max_length: int | None = None,
    said: Said = nothing,
) -> Evaluation:
    """Loss, perplexity and bits per byte of what the assistant says, its ends of turn included.

    A chat that is longer than the context is read in windows, as a text is. Its bytes are those of the assistant's
    messages.

    Raises:
        ValueError: if the assistant says nothing in any chat.
    """
    size = input_length(model, max_length)
    encoded = [encode_turns(tokenizer, chat) for chat in chats]
    pieces = [(i, *window) for i, chat in enumerate(encoded) for window in windows(len(chat["input_ids"]), size)]
    losses = token_nats(model, [encoded[i]["input_ids"][begin:end] for i, begin, end, _ in pieces], batch_size, said)
    rows = np.zeros((len(chats), 3))  # nats, tokens, bytes
    for (index, begin, end, counted), loss in zip(pieces, losses, strict=True):
        says = np.array(encoded[index]["labels"][begin + counted : end]) != IGNORE_INDEX
        rows[index, :2] += loss[counted - 1 :][says].sum(), says.sum()
    for row, chat in zip(rows, chats, strict=True):
        row[2] = sum(len(str(turn.get("content") or "").encode()) for turn in chat if turn["role"] == "assistant")
    if not rows[:, 1].any():
        raise ValueError("The assistant says nothing in the data: give chats in which it does.")
    return Evaluation(
        "sft", _language_metrics(rows), len(chats), notes=["of the assistant's words, ends of turn included"]
    )


def evaluate_preferences(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[dict],
    batch_size: int = 8,
    max_length: int | None = None,
    said: Said = nothing,
) -> Evaluation:
    """How often the answer that people chose is likelier than the one that they rejected.

    Args:
        pairs: each has a `prompt` of messages, and the answers `chosen` and `rejected`.

    Raises:
        ValueError: if the chat template writes a prompt in another way when an answer follows.
    """
    size = input_length(model, max_length)
    answers, lengths, cut = [], [], 0
    for pair in pairs:
        encoded = encode_preference(tokenizer, pair["prompt"], pair["chosen"], pair["rejected"])
        for name in ("chosen_ids", "rejected_ids"):
            ids = encoded["prompt_ids"] + encoded[name]
            cut += len(ids) > size
            answers.append(ids[-size:])  # the answer is at the end
            lengths.append(min(len(encoded[name]), len(answers[-1]) - 1))
    losses = token_nats(model, answers, batch_size, said)
    nats = np.array([loss[-length:].sum() for loss, length in zip(losses, lengths, strict=True)])
    tokens = np.array(lengths, float)
    (chosen, rejected), (length, other_length) = nats.reshape(-1, 2).T, tokens.reshape(-1, 2).T
    by_token = chosen / length, rejected / other_length
    metrics = [
        mean("preference_accuracy", _wins(chosen, rejected)),
        mean("preference_accuracy_by_token", _wins(*by_token)),
        mean("margin", rejected - chosen),
    ]
    notes = (
        [f"{cut:,} of {len(answers):,} chats lost their beginning, which the context has no room for"] if cut else []
    )
    return Evaluation("dpo", metrics, len(pairs), notes=notes)


def _wins(chosen: np.ndarray, rejected: np.ndarray) -> np.ndarray:
    """1 where `chosen` has fewer nats, a half where both have the same."""
    return (chosen < rejected) + 0.5 * (chosen == rejected)
