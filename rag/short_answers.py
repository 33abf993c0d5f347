"""A short answer before the others: the words that a model with a question-answering head marks in the passages."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..checkpoints.loading import load_model, task_of
from ..evaluation.inference import Subject
from ..evaluation.spans import find_spans
from .answering import Passage, Sentence, Writer, join


@dataclass(frozen=True)
class ShortAnswer(Sentence):
    """A few words of a passage with their citation; `lead` is by how much their score is above that of no answer."""

    lead: float = 0.0


@dataclass(frozen=True)
class Reader:
    """Finds the words that answer a question in passages, and writes them before what `writer` has to say."""

    subject: Subject
    writer: Writer | None = None

    def read(self, question: str, passages: Sequence[Passage]) -> ShortAnswer | None:
        """The span of the passages that leads "no answer" the most; None if none of them does."""
        passages = join(passages)
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
        if self.writer:
            self.writer.write(question, passages, emit)


def load_reader(name: str) -> Reader:
    """A model of `folio finetune qa`, by directory or Hub name; OSError or ValueError if there is none."""
    if task_of(name) != "qa":
        raise ValueError(f"The reader {name} does not mark answers in texts: train one with folio finetune qa.")
    return Reader(Subject(*load_model(name, "qa")))
