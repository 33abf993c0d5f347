"""Data sets that an index is judged by: questions, and where their answers are."""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field

from .documents import Document, Hit

Place = tuple[str, int]  # a document, and the number of a section of it


@dataclass(frozen=True)
class Question:
    """A question, and what answers it.

    Args:
        relevant: the places that answer it, each with how well (1, or a grade).
        spans: (document, start, end) of the answer itself, where somebody marked it; each is as good as another.
        answers: right answers, in words.
        answerable: False if the data set says that nothing answers it, though `relevant` looks as if it did.
    """

    id: str
    text: str
    relevant: Mapping[Place, float]
    spans: tuple[tuple[str, int, int], ...] = ()
    answers: tuple[str, ...] = ()
    answerable: bool = True


@dataclass(frozen=True)
class Dataset:
    """Questions to documents.

    Args:
        documents: what is asked about; None if that is what the index has.
        sections: where the sections of a document start, from the first; a document that is not in it is one section.
    """

    name: str
    questions: list[Question]
    documents: list[Document] | None = None
    sections: Mapping[str, list[int]] = field(default_factory=dict)

    def places(self, hit: Hit) -> list[Place]:
        """The sections that a passage touches."""
        starts = self.sections.get(hit.document)
        if starts is None:
            return [(hit.document, 0)]
        first, last = bisect_right(starts, hit.start), bisect_right(starts, hit.end - 1)
        return [(hit.document, max(number - 1, 0)) for number in range(first, last + 1)]
