"""Answers that a model with a question-answering head marks in texts, for `folio answer` and `folio evaluate`."""

from collections.abc import Sequence

import numpy as np

from ..data.encoding import encode_question
from .inference import Subject, head_logits

MAX_ANSWER_TOKENS = 30
Span = tuple[int, int]  # the first character and the one after the last


def find_answers(subject: Subject, questions: Sequence[str], contexts: Sequence[str]) -> list[Span | None]:
    """Find the answer to each question in its whole context, which is read in overlapping windows.

    In training, a window without the answer has the label (0, 0). So there is no answer, None, if the first token of
    every window scores higher than the best span of all windows. The rule is the same for every model: a small one that
    was trained on made-up, answered questions alone said "no answer" to 0 of 300 more of them. Raises ValueError if a
    question leaves no room for its context.
    """
    return [span if lead >= 0 else None for span, lead in find_spans(subject, questions, contexts)]


def find_spans(subject: Subject, questions: Sequence[str], contexts: Sequence[str]) -> list[tuple[Span | None, float]]:
    """Find the best span of each context, and by how much its score exceeds that of "no answer"."""
    size = subject.input_length()
    windows = [
        (index, ids, spans)
        for index, (question, context) in enumerate(zip(questions, contexts, strict=True))
        for ids, spans in encode_question(subject.tokenizer, question, context, size)
    ]
    logits = head_logits(subject.model, [ids for _, ids, _ in windows], subject.batch_size, subject.progress)
    best: list[tuple[float, Span | None]] = [(-np.inf, None)] * len(questions)
    none = [np.inf] * len(questions)
    for (index, _, spans), (starts, ends) in zip(windows, logits, strict=True):
        best[index] = max(best[index], _best_span(spans, starts, ends), key=lambda found: found[0])
        none[index] = min(none[index], starts[0] + ends[0])
    rows = zip(contexts, best, none, strict=True)
    return [(span and _stripped(context, span), float(score - nowhere)) for context, (score, span), nowhere in rows]


def _best_span(spans: Sequence[Span], starts: np.ndarray, ends: np.ndarray) -> tuple[float, Span | None]:
    """Return the score and span of the context whose first and last token score the most together."""
    places = np.array([i for i, (begin, end) in enumerate(spans) if end > begin], int)
    if not len(places):
        return -np.inf, None
    scores = starts[places][:, None] + ends[places][None]
    length = places[None] - places[:, None]
    scores[(length < 0) | (length >= MAX_ANSWER_TOKENS)] = -np.inf
    first, last = np.unravel_index(scores.argmax(), scores.shape)
    return float(scores[first, last]), (spans[places[first]][0], spans[places[last]][1])


def _stripped(text: str, span: Span) -> Span | None:
    """Return the span without whitespace around it, or None if it contains nothing else."""
    found = text[slice(*span)]
    start = span[0] + len(found) - len(found.lstrip())
    return (start, start + len(found.strip())) if found.strip() else None
