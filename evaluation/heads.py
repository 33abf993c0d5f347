"""Evaluation of models with a head: labels of texts, labels of words, answers that are marked in a text."""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedModel

from ..data.encoding import encode_text, encode_words
from ..jobs.extras import extra
from .answers import answer_metrics
from .bootstrap import Metric, divide, mean, ratio
from .inference import Subject, head_logits, in_windows
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
    logits = in_windows(head_logits, subject, [ids or [0] for ids, _ in sentences], size)
    other, predictions = "O" if "O" in names else names[0], []  # the tag of a word without tokens
    for one, (ids, places), row in zip(logits, sentences, rows, strict=True):
        tags = one[: len(ids)].argmax(1)
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


def label_metrics(references: Sequence[str], predictions: Sequence[str]) -> list[Metric]:
    """Compute accuracy and macro F1 of one label per row.

    Macro F1 is the mean over labels, rare ones alike. As in scikit-learn, labels are those in either list, and F1 is 0
    if nothing is right.
    """
    labels = sorted({*references, *predictions})
    true, predicted = (
        np.array([[row == label for label in labels] for row in rows], float) for rows in (references, predictions)
    )
    rows = np.hstack([true * predicted, predicted, true])  # (N, 3 * labels)
    return [mean("accuracy", (true == predicted).all(1)), Metric("f1_macro", rows, _macro_f1)]


def _macro_f1(totals: np.ndarray) -> np.ndarray:
    """Compute F1 from the counts of right, predicted and true labels, (R, 3 * labels), over labels that occur."""
    right, predicted, true = np.split(totals, 3, axis=1)
    count = predicted + true
    return divide(divide(2 * right, count).sum(1), (count > 0).sum(1))


def confusion_matrix(references: Sequence[str], predictions: Sequence[str]) -> dict:
    """Count how often each label (a row) was taken for each (a column), both in the order of `labels`."""
    labels = sorted({*references, *predictions})
    counts = Counter(zip(references, predictions, strict=True))
    return {"labels": labels, "counts": [[counts[true, predicted] for predicted in labels] for true in labels]}


def entity_metrics(references: Sequence[Sequence[str]], predictions: Sequence[Sequence[str]]) -> list[Metric]:
    """Compute F1, precision and recall of entities, and the accuracy of tags, for tags such as B-PER, I-PER, O.

    An entity is right if its first word, last word and type are (CoNLL-2000; seqeval's default reading of the tags).
    """
    with extra("evaluate", "F1 of entities"):
        from seqeval.metrics.sequence_labeling import get_entities

    counts = []  # right, predicted and true entities, right tags and tags of a row
    for true, predicted in zip(references, predictions, strict=True):
        entities, found = set(get_entities(list(true))), set(get_entities(list(predicted)))
        same = sum(a == b for a, b in zip(true, predicted, strict=True))
        counts.append((len(entities & found), len(found), len(entities), same, len(true)))
    right, found, true, same, tags = np.array(counts, float).T
    return [
        ratio("entity_f1", 2 * right, found + true),
        ratio("entity_precision", right, found),
        ratio("entity_recall", right, true),
        ratio("accuracy", same, tags),
    ]


def tfidf_predictions(
    train_texts: Sequence[str], train_labels: Sequence[str], texts: Sequence[str], seed: int = 0
) -> list[str]:
    """Predict the labels of `texts` by TF-IDF with logistic regression; raises ImportError without scikit-learn.

    The settings are scikit-learn's defaults, but for pairs of words and a logarithm of counts. It takes seconds on a
    CPU and is hard to beat on little data (Wang and Manning, 2012).
    """
    with extra("evaluate", "The baseline"):
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    pipeline = make_pipeline(words, LogisticRegression(max_iter=1000, random_state=seed))
    return pipeline.fit(train_texts, train_labels).predict(texts).tolist()
