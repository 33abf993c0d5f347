"""Models with a head: labels of texts, labels of words, answers that are marked in a text."""

import re
from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedModel

from ..data.encoding import encode_text, encode_words
from .answers import answer_metrics
from .bootstrap import mean
from .classification import confusion_matrix, entity_metrics, label_metrics, tfidf_predictions
from .inference import Subject, head_logits, windows
from .results import Evaluation
from .spans import find_answers

BASELINE = "TF-IDF + logistic regression"


def evaluate_labels(
    subject: Subject, rows: Sequence[dict], train_rows: Sequence[dict] = (), seed: int = 0
) -> Evaluation:
    """Accuracy, F1 and the confusion matrix of a classifier of texts; of labels that are numbers, the mean errors.

    The baseline, TF-IDF with logistic regression, learns from `train_rows`. Raises ValueError if no label is known.
    """
    model, labels = subject.model, [row["label"] for row in rows]
    ids, cut = _encode(subject.tokenizer, [row["text"] for row in rows], subject.input_length(most=None))
    logits = head_logits(model, ids, subject.batch_size, subject.progress)
    notes = [f"{cut:,} of {len(rows):,} texts lost their end: the context has no room"] if cut else []
    if all(isinstance(label, float) for label in labels):
        if model.config.num_labels != 1:
            raise ValueError("The labels are numbers, and the model is a classifier: give data with names of classes.")
        errors = np.array([one[0] for one in logits]) - np.array(labels)
        squared = mean("mean_squared_error", errors**2, higher_is_better=False)
        absolute = mean("mean_absolute_error", abs(errors), higher_is_better=False)
        return Evaluation("classify", [squared, absolute], len(rows), notes)
    names = label_names(model)
    several = isinstance(labels[0], list)
    references = [set(label) if several else {str(label)} for label in labels]
    if unknown := check_labels(references, names):
        notes.append(f"the model does not have the labels {', '.join(unknown)}: rows with them count as wrong")
    if several:
        predictions = [{names[i] for i in np.flatnonzero(one > 0)} for one in logits]
        return Evaluation("classify", label_metrics(references, predictions), len(rows), notes)
    likeliest = [names[int(one.argmax())] for one in logits]
    evaluation = Evaluation("classify", label_metrics(references, [{name} for name in likeliest]), len(rows), notes)
    evaluation.details["confusion_matrix"] = confusion_matrix([str(label) for label in labels], likeliest)
    if train_rows:
        known = [(row["text"], str(row["label"])) for row in train_rows]
        guessed = tfidf_predictions(*zip(*known, strict=True), [row["text"] for row in rows], seed=seed)
        evaluation.baselines[BASELINE] = label_metrics(references, [{guess} for guess in guessed])
    return evaluation


def label_names(model: PreTrainedModel) -> list[str]:
    """The names of a head's labels; where it has none but LABEL_0, LABEL_1 ..., the numbers alone."""
    names = [str(model.config.id2label[i]) for i in range(model.config.num_labels)]
    numbers = [re.fullmatch(r"LABEL_(\d+)", name) for name in names]
    return [number[1] for number in numbers if number] if all(numbers) else names


def check_labels(references: Sequence[set[str]], names: Sequence[str]) -> list[str]:
    """The labels of the data that the model lacks; raises ValueError if it has none of them."""
    found = set().union(*references)
    unknown = sorted(found - set(names))
    if unknown and not found & set(names):
        what = f"The labels of the data ({', '.join(unknown[:5])}) are none of the model's ({', '.join(names[:5])})"
        raise ValueError(f"{what}: give data with the labels that it was trained on.")
    return unknown


def _encode(tokenizer, texts: Sequence[str], size: int) -> tuple[list[list[int]], int]:
    """Ids of texts, at most `size` each, and how many texts were longer."""
    encoded = [encode_text(tokenizer, text) for text in texts]
    cut = [encode_text(tokenizer, t, size) if len(ids) > size else ids for t, ids in zip(texts, encoded, strict=True)]
    return [ids or [tokenizer.eos_token_id or 0] for ids in cut], sum(len(ids) > size for ids in encoded)


def evaluate_tags(subject: Subject, rows: Sequence[dict]) -> Evaluation:
    """Figures of entities and tags, of rows with `tokens` and `tags`; raises ValueError if no tag is the model's."""
    names = label_names(subject.model)
    unknown = check_labels([set(row["tags"]) for row in rows if row["tags"]], names)
    notes = [f"the model does not have the tags {', '.join(unknown)}"] if unknown else []
    size = subject.input_length(most=None)
    sentences = [encode_words(subject.tokenizer, row["tokens"]) for row in rows]
    pieces = [(i, *window) for i, (ids, _) in enumerate(sentences) if ids for window in windows(len(ids), size)]
    ids = [sentences[i][0][begin:end] for i, begin, end, _ in pieces]
    logits = head_logits(subject.model, ids, subject.batch_size, subject.progress)
    found = [np.zeros(len(ids), int) for ids, _ in sentences]
    for (index, begin, end, counted), one in zip(pieces, logits, strict=True):
        first = counted if begin else 0  # before that, the window before has seen more
        found[index][begin + first : end] = one[first:].argmax(1)
    predictions = [
        _word_tags(tags, places, len(row["tokens"]), names)
        for tags, (_, places), row in zip(found, sentences, rows, strict=True)
    ]
    return Evaluation("tag", entity_metrics([row["tags"] for row in rows], predictions), len(rows), notes)


def _word_tags(tags: np.ndarray, places: list[int | None], count: int, names: list[str]) -> list[str]:
    """The tag of each word: that of its first token, and "O" if it has none."""
    found = ["O" if "O" in names else names[0]] * count
    for tag, place in zip(reversed(tags), reversed(places), strict=True):
        if place is not None:
            found[place] = names[tag]
    return found


def evaluate_spans(subject: Subject, rows: Sequence[dict]) -> Evaluation:
    """Exact match and F1 of marked answers, of rows with `question`, `context` and `answers`; raises ValueError."""
    questions, contexts = [row["question"] for row in rows], [row["context"] for row in rows]
    spans = find_answers(subject, questions, contexts)
    references = [row["answers"]["text"] for row in rows]
    predictions = [context[slice(*span)] if span else "" for context, span in zip(contexts, spans, strict=True)]
    answers = [{"reference": true, "prediction": text} for true, text in zip(references, predictions, strict=True)]
    return Evaluation("qa", answer_metrics(references, predictions), len(rows), details={"predictions": answers})
