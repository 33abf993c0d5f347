"""Short answers: the words that a model with a question-answering head marks in the passages."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..checkpoints.loading import load_model, task_of
from ..evaluation.inference import Subject
from ..evaluation.spans import find_spans
from .answering import AnswerGenerator, Passage, Sentence, merge_adjacent


@dataclass(frozen=True)
class ShortAnswer(Sentence):
    """A few words of a passage with their citation. `lead` is their score minus that of "no answer"."""

    lead: float = 0.0


@dataclass(frozen=True)
class Reader:
    """A generator of the words that answer a question, and then of what `generator` writes."""

    subject: Subject
    generator: AnswerGenerator | None = None

    def read(self, question: str, passages: Sequence[Passage]) -> ShortAnswer | None:
        """Return the span of the passages with the highest lead; None if all leads are negative."""
        passages = merge_adjacent(passages)
        found = find_spans(self.subject, [question] * len(passages), [passage.text for passage in passages])
        leads = [(lead, n, span) for n, (span, lead) in enumerate(found) if span and lead >= 0]
        if not leads:
            return None
        lead, n, span = max(leads)
        citation = passages[n].citation(*span)
        return ShortAnswer((f"{' '.join(citation.quote.split())} ", citation), lead)

    def write(self, question: str, passages: Sequence[Passage], emit: Callable[[Sentence], None]) -> None:
        if short := self.read(question, passages):
            emit(short)
        if self.generator:
            self.generator.write(question, passages, emit)


def load_reader(name: str) -> Reader:
    """Load a model of `folio finetune qa` by directory or Hub name; OSError or ValueError if it is none."""
    if task_of(name) != "qa":
        raise ValueError(f"The reader {name} does not mark answers in texts: train one with folio finetune qa.")
    return Reader(Subject(*load_model(name, "qa")))
