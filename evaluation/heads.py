"""Evaluation of models with a head: labels of texts, labels of words, answers that are marked in a text."""

import re
from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedModel

from ..data.encoding import encode_text, encode_words
from .answers import answer_metrics
from .classification import confusion_matrix, entity_metrics, label_metrics, tfidf_predictions
from .inference import Subject, head_logits, windows
from .predictions import check_single_label
from .results import Evaluation
from .spans import find_answers

BASELINE = "TF-IDF + logistic regression"


def evaluate_labels(
    subject: Subject, rows: Sequence[dict], train_rows: Sequence[dict] = (), seed: int = 0
) -> Evaluation:
    """Measure accuracy, F1 and the confusion matrix of a classifier of texts.

    The baseline, TF-IDF with logistic regression, learns from `train_rows`. Raises ValueError if the model has no
    label of the rows, or predicts no single label.
    """
    check_single_label(subject.model)
    names, size = label_names(subject.model), subject.input_length(most=None)
    texts, references = [row["text"] for row in rows], [str(row["label"]) for row in rows]
    notes = check_labels(set(references), names, "labels")
    ids = [encode_text(subject.tokenizer, text, size) or [subject.tokenizer.eos_token_id or 0] for text in texts]
    if cut := sum(len(encode_text(subject.tokenizer, text)) > size for text in texts):
        notes.append(f"{cut:,} of {len(rows):,} texts were cut at the end: they are longer than the context")
    logits = head_logits(subject.model, ids, subject.batch_size, subject.progress)
    predictions = [names[int(one.argmax())] for one in logits]
    evaluation = Evaluation("classify", label_metrics(references, predictions), len(rows), notes)
    evaluation.details["confusion_matrix"] = confusion_matrix(references, predictions)
    if train_rows:
        known = [(row["text"], str(row["label"])) for row in train_rows]
        guesses = tfidf_predictions(*zip(*known, strict=True), texts, seed=seed)
        evaluation.baselines[BASELINE] = label_metrics(references, guesses)
    return evaluation


def label_names(model: PreTrainedModel) -> list[str]:
    """Return the names of a head's labels; if it has only LABEL_0, LABEL_1 ..., the numbers alone."""
    names = [str(model.config.id2label[i]) for i in range(model.config.num_labels)]
    numbers = [re.fullmatch(r"LABEL_(\d+)", name) for name in names]
    return [number[1] for number in numbers if number] if all(numbers) else names


def check_labels(found: set[str], names: Sequence[str], kind: str) -> list[str]:
    """Return a note if the model lacks some labels of the data; raises ValueError if it lacks all of them."""
    unknown = sorted(found.difference(names))
    if unknown and len(unknown) == len(found):
        what = f"The {kind} of the data ({', '.join(unknown[:5])}) are none of the model's ({', '.join(names[:5])})"
        raise ValueError(f"{what}: give data with the {kind} that it was trained on.")
    return [f"the model does not have the {kind} {', '.join(unknown)}: they count as wrong"] if unknown else []


def evaluate_tags(subject: Subject, rows: Sequence[dict]) -> Evaluation:
    """Measure entities and tags of rows with `tokens` and `tags`; raises ValueError if the model has none of them."""
    names, size = label_names(subject.model), subject.input_length(most=None)
    notes = check_labels({tag for row in rows for tag in row["tags"]}, names, "tags")
    sentences = [encode_words(subject.tokenizer, row["tokens"]) for row in rows]
    pieces = [(i, *window) for i, (ids, _) in enumerate(sentences) if ids for window in windows(len(ids), size)]
    ids = [sentences[i][0][begin:end] for i, begin, end, _ in pieces]
    logits = head_logits(subject.model, ids, subject.batch_size, subject.progress)
    found = [np.zeros(len(ids), int) for ids, _ in sentences]
    for (index, begin, end, counted), one in zip(pieces, logits, strict=True):
        first = counted if begin else 0  # before that, the window before has seen more
        found[index][begin + first : end] = one[first:].argmax(1)
    other, predictions = "O" if "O" in names else names[0], []  # the tag of a word without tokens
    for tags, (_, places), row in zip(found, sentences, rows, strict=True):
        by_word = {place: names[tag] for tag, place in zip(reversed(tags), reversed(places), strict=True)}
        predictions.append([by_word.get(i, other) for i in range(len(row["tokens"]))])  # of a word's first token
    return Evaluation("tag", entity_metrics([row["tags"] for row in rows], predictions), len(rows), notes)


def evaluate_spans(subject: Subject, rows: Sequence[dict]) -> Evaluation:
    """Measure marked answers of rows with `question`, `context` and `answers`; raises ValueError."""
    questions, contexts = [row["question"] for row in rows], [row["context"] for row in rows]
    spans = find_answers(subject, questions, contexts)
    references = [row["answers"]["text"] for row in rows]
    predictions = [context[slice(*span)] if span else "" for context, span in zip(contexts, spans, strict=True)]
    answers = [{"reference": true, "prediction": text} for true, text in zip(references, predictions, strict=True)]
    return Evaluation("qa", answer_metrics(references, predictions), len(rows), details={"predictions": answers})
