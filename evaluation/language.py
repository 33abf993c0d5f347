"""Evaluation of a causal language model's predictions: texts, the answers in chats, pairs of answers."""

import math
from collections.abc import Sequence

import numpy as np

from ..data.encoding import AS_TEXT, TurnEncoder, encode_preference
from ..data.packing import IGNORE_INDEX
from ..tokenization import encode_texts
from ..tokenization.special_tokens import ChatEncoder
from .bits_per_byte import documents_changed
from .bootstrap import Metric, divide, mean, ratio
from .inference import Subject, in_windows, token_nats
from .results import Evaluation

PASSAGE_CHARACTERS = 1000
FEW_DOCUMENTS = 100  # with fewer, the rows that are resampled are passages of them


def evaluate_texts(subject: Subject, texts: Sequence[str]) -> Evaluation:
    """Measure loss, perplexity and bits per byte of documents, each on its own; raises ValueError if there is no text.

    Every token of the text is predicted once, the first from the token that begins a document. A document longer than
    the context is read in windows that overlap by half. What ends a document is not counted.
    """
    tokenizer = subject.tokenizer
    start = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    if start is None:
        raise ValueError("The tokenizer has no bos_token and no eos_token to begin a text with: give it one.")
    texts = [text for text in texts if text]
    if not texts:
        raise ValueError("There is no text to evaluate on: give --data with text in it.")
    documents = [[start, *ids] for ids in encode_texts(tokenizer, texts)]
    few = len(texts) < FEW_DOCUMENTS
    rows = []  # nats, tokens, bytes
    losses = in_windows(token_nats, subject, documents, subject.input_length())
    for text, ids, nats in zip(texts, documents, losses, strict=True):
        rows += _passages(tokenizer, text, ids[1:], nats, few)
    unit = f"passages of {PASSAGE_CHARACTERS:,} characters" if few else "documents"
    notes = [f"intervals are over {len(rows):,} {unit}"]
    if changed := documents_changed(texts, tokenizer):
        notes.append(f"too good: the tokenizer does not give {changed:,} of {len(texts):,} texts back as they were")
    return Evaluation("lm", _language_metrics(np.array(rows, float)), len(texts), notes)


def _passages(tokenizer, text: str, ids: list[int], nats: np.ndarray, cut: bool) -> list[tuple[float, int, int]]:
    """Return nats, tokens and bytes of a document, or of each of its passages, by the characters that begin tokens."""
    whole, size = [(float(nats.sum()), len(ids), len(text.encode()))], PASSAGE_CHARACTERS
    if not cut or len(text) <= size or not tokenizer.is_fast:
        return whole
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, **AS_TEXT)
    if encoded["input_ids"] != ids:  # the text contains a special token
        return whole
    sizes = [len(text[start : start + size].encode()) for start in range(0, len(text), size)]
    places = np.array([min(begin, len(text) - 1) // size for begin, _ in encoded["offset_mapping"]])
    sums, tokens = np.bincount(places, nats, len(sizes)), np.bincount(places, minlength=len(sizes))
    return list(zip(sums.tolist(), tokens.tolist(), sizes, strict=True))


def _language_metrics(rows: np.ndarray) -> list[Metric]:
    """Return loss, perplexity and bits per byte of rows (N, 3) of nats, tokens and bytes."""
    loss = ratio("loss", rows[:, 0], rows[:, 1], higher_is_better=False)
    perplexity = Metric("perplexity", loss.rows, lambda totals: np.exp(np.minimum(loss.of_totals(totals), 700)), False)
    bits = Metric("bits_per_byte", rows, lambda totals: divide(totals[:, 0], totals[:, 2]) / math.log(2), False)
    return [loss, perplexity, *([bits] if rows[:, 2].any() else [])]


def evaluate_chats(subject: Subject, chats: Sequence[list[dict]], tools: Sequence[list[dict] | None]) -> Evaluation:
    """Measure loss, perplexity and bits per byte of the assistant's words; raises ValueError if there are none.

    A chat that is longer than the context is read in windows. `tools` are those that the template shows, of each chat.
    """
    encoder = TurnEncoder(subject.tokenizer)
    encoded = encoder.encode_batch([encoder.render(chat, some) for chat, some in zip(chats, tools, strict=True)])
    losses = in_windows(token_nats, subject, [one["input_ids"] for one in encoded], subject.input_length())
    rows = np.zeros((len(chats), 3))  # nats, tokens, bytes
    for row, chat, one, nats in zip(rows, chats, encoded, losses, strict=True):
        trained = np.array(one["labels"][1:]) != IGNORE_INDEX
        turns = (turn for turn in chat if turn["role"] == "assistant" and turn.get("weight") != 0)
        row[:] = nats[trained].sum(), trained.sum(), sum(len(str(turn.get("content") or "").encode()) for turn in turns)
    if not rows[:, 1].any():
        raise ValueError("The assistant says nothing in the data: give chats in which it does.")
    notes = ["metrics are of the assistant's words, with the tokens that end its turns"]
    return Evaluation("sft", _language_metrics(rows), len(chats), notes)


def evaluate_preferences(subject: Subject, pairs: Sequence[dict]) -> Evaluation:
    """Measure how often the chosen answer is more likely; raises ValueError if a template rewrites the prompt."""
    size, encoder = subject.input_length(most=None), ChatEncoder(subject.tokenizer)
    answers, lengths, cut = [], [], 0
    for pair in pairs:
        encoded = encode_preference(encoder, pair["prompt"], pair["chosen"], pair["rejected"], pair.get("tools"))
        for name in ("chosen_ids", "rejected_ids"):
            ids = encoded["prompt_ids"] + encoded[name]
            cut += len(ids) > size
            answers.append(ids[-size:])  # the answer is at the end
            lengths.append(min(len(encoded[name]), len(answers[-1]) - 1))
    losses = token_nats(subject.model, answers, subject.batch_size, subject.progress)
    nats = np.array([loss[-length:].sum() for loss, length in zip(losses, lengths, strict=True)])
    (chosen, rejected), by_token = nats.reshape(-1, 2).T, (nats / lengths).reshape(-1, 2).T
    metrics = [
        mean("preference_accuracy", np.heaviside(rejected - chosen, 0.5)),  # a half where both have the same
        mean("preference_accuracy_by_token", np.heaviside(by_token[1] - by_token[0], 0.5)),
        mean("margin", rejected - chosen),
    ]
    note = f"{cut:,} of {len(answers):,} chats lost their beginning: they are longer than the context"
    return Evaluation("dpo", metrics, len(pairs), [note] if cut else [])
