"""Data sets that an index is judged by: questions, and where their answers are.

A folder in BEIR's layout: N. Thakur et al., "BEIR: A Heterogeneous Benchmark for Zero-shot Evaluation of Information
Retrieval Models", 2021. SQuAD's form: P. Rajpurkar, R. Jia and P. Liang, "Know What You Don't Know", 2018.
"""

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path

from ..documents import Document, Hit

ACCEPTED = (
    "give a folder in BEIR's layout (queries.jsonl, qrels/test.tsv, and corpus.jsonl unless the index has the "
    "documents), a file in SQuAD's form, or known-items"
)

BETWEEN = "\n\n"  # paragraphs of SQuAD
Place = tuple[str, int]  # a document, and the number of a section of it


@dataclass(frozen=True)
class Question:
    """A question, and what answers it."""

    id: str
    text: str
    relevant: Mapping[Place, float]  # the places that answer it, each with how well (1, or a grade)
    spans: tuple[tuple[str, int, int], ...] = ()  # (document, start, end) of answers, each as good as another
    answers: tuple[str, ...] = ()  # in words
    answerable: bool = True  # False if the data set says that nothing answers it, whatever `relevant` has


@dataclass(frozen=True)
class Dataset:
    """Questions to documents."""

    name: str
    questions: list[Question]
    documents: list[Document] | None = None  # None if the index has them
    # Where the sections of a document start, from the first; a document that is not in it is one section.
    sections: Mapping[str, list[int]] = field(default_factory=dict)
    # What a document is a part of, as a docstring is of its module. Without an article, none of its documents answers.
    articles: Mapping[str, str] = field(default_factory=dict)

    def article(self, document: str) -> str:
        return self.articles.get(document, document)

    def places(self, hit: Hit) -> list[Place]:
        """The sections that a passage touches."""
        starts = self.sections.get(hit.document)
        if starts is None:
            return [(hit.document, 0)]
        first, last = bisect_right(starts, hit.start), bisect_right(starts, hit.end - 1)
        return [(hit.document, max(number - 1, 0)) for number in range(first, last + 1)]


def load_dataset(source: str | Path) -> Dataset:
    """Read a folder in BEIR's layout, or questions in SQuAD's form: its nested file, rows, or hub:NAME[:CONFIG].

    A folder has corpus.jsonl, queries.jsonl and qrels/test.tsv, or queries.test.jsonl and qrels.test.tsv, each .jsonl
    also as .jsonl.gz; without a corpus, the judgements name documents of the index.

    Raises FileNotFoundError, ConnectionError if nothing is there; ValueError if it is none of these, or not whole.
    """
    path = Path(source).expanduser()
    if str(source).startswith("hub:"):
        dataset = squad(str(source))
    elif not str(source).strip() or not path.exists():
        raise FileNotFoundError(f"There is no data set {str(source)!r}: {ACCEPTED}.")
    else:
        dataset = beir(path) if path.is_dir() else squad(str(path))
    if not dataset.questions:
        raise ValueError(f"{source} has no questions: give other data.")
    return dataset


def beir(folder: Path) -> Dataset:
    """Read a folder in BEIR's layout: its documents, and the queries that are judged."""
    qrels = _first(folder, "qrels/test.tsv", "qrels.test.tsv")
    if qrels is None:
        raise ValueError(f"{folder} has no qrels/test.tsv, so it is no data set: {ACCEPTED}.")
    queries = _first(folder, *(f"{name}.jsonl{gz}" for name in ("queries.test", "queries") for gz in ("", ".gz")))
    if queries is None:
        raise ValueError(f"{folder} has no queries.jsonl, so it is no data set: {ACCEPTED}.")
    corpus = _first(folder, "corpus.jsonl", "corpus.jsonl.gz")
    documents = None if corpus is None else [_document(place, row) for place, row in _rows(corpus)]
    names = Counter(document.name for document in documents or [])
    if names and (most := names.most_common(1)[0])[1] > 1:
        raise ValueError(f"{corpus} has two documents {most[0]!r}: correct it.")
    texts = {_string(place, row, "_id"): _string(place, row, "text") for place, row in _rows(queries)}
    relevant: dict[str, dict[Place, float]] = {}
    for place, row in _rows(qrels):
        query, document = (_string(place, row, name) for name in ("query-id", "corpus-id"))
        try:
            grade = float(row.get("score") or "")
        except ValueError:
            grade = math.nan
        if not math.isfinite(grade):
            raise ValueError(f"{place} has no number as score: correct it.")
        if query not in texts:
            raise ValueError(f"{place} names the query {query!r}, which {queries.name} does not have: correct it.")
        if documents is not None and document not in names:
            raise ValueError(f"{place} names the document {document!r}, which the corpus does not have: correct it.")
        if grade > 0:
            relevant.setdefault(query, {})[document, 0] = grade
    questions = [Question(id, texts[id], places) for id, places in relevant.items()]
    return Dataset(folder.resolve().name, questions, documents)


def _document(place: str, row: dict) -> Document:
    title, text = row.get("title") or "", _string(place, row, "text", may_be_empty=True)
    if not isinstance(title, str):
        raise ValueError(f"{place} has {type(title).__name__} as title, not text: correct it.")
    return Document(_string(place, row, "_id"), f"{title}\n\n{text}" if title else text, title)


def squad(source: str) -> Dataset:
    """Read questions in SQuAD's form. The paragraphs of a title are one document, its sections."""
    from ...data.columns import Columns, Malformed
    from ...data.formats import recognise
    from ...data.readers import read_example
    from ...data.rows import read_rows

    columns = Columns()
    paragraphs: dict[str, dict[str, int]] = {}  # document -> paragraph -> its number
    found: list[tuple[str, int, dict]] = []
    for place, row in read_rows(source, "validation"):
        try:
            if not isinstance(row, Mapping):
                raise Malformed(str(row) if isinstance(row, ValueError) else "is no object with columns")
            if not found:
                recognise(row, "qa", source=source)
            example = read_example("qa", columns.cells("qa", row))
        except Malformed as error:
            raise ValueError(f"{place} {error}: correct it.") from None
        title = row.get("title")
        name = title if isinstance(title, str) and title.strip() else example["context"]
        numbers = paragraphs.setdefault(name, {})
        found.append((name, numbers.setdefault(example["context"], len(numbers)), example))
    documents, sections = {}, {}
    for number, (key, texts) in enumerate(paragraphs.items(), 1):
        name, title = (f"context-{number}", "") if key in texts else (key, key.replace("_", " "))
        documents[key] = Document(name, BETWEEN.join(texts), title)
        sections[name] = [0, *accumulate(len(text) + len(BETWEEN) for text in texts)][:-1]
    asked = [(number, example, documents[key].name, at) for number, (key, at, example) in enumerate(found, 1)]
    questions = [_question(*each, sections[each[2]][each[3]]) for each in asked]
    return Dataset(Path(source).name, questions, list(documents.values()), sections)


def _question(number: int, example: dict, document: str, section: int, start: int) -> Question:
    texts, starts = example["answers"]["text"], example["answers"]["answer_start"]
    spans = {(document, start + at, start + at + len(text)) for text, at in zip(texts, starts, strict=True) if text}
    id, answers = example["id"] or str(number), tuple(dict.fromkeys(texts))
    relevant: dict[Place, float] = {(document, section): 1}
    return Question(id, example["question"], relevant, tuple(sorted(spans)), answers, bool(texts))


def _first(folder: Path, *names: str) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _rows(path: Path) -> Iterator[tuple[str, dict]]:
    """The rows of a file, each with its place."""
    from ...data.files import File
    from ...data.rows import rows_in_file

    for row in rows_in_file(File(path, str(path))):
        if not isinstance(row.value, dict):
            wrong = row.value if isinstance(row.value, ValueError) else "is not an object"
            raise ValueError(f"{path}, {row.where} {wrong}: correct it.")
        yield f"{path}, {row.where}", row.value


def _string(place: str, row: dict, name: str, may_be_empty: bool = False) -> str:
    value = row.get(name)
    value = str(value) if name == "_id" and isinstance(value, int) else value
    if not isinstance(value, str) or not (may_be_empty or value.strip()):
        raise ValueError(f"{place} has no text as {name}: correct it.")
    return value
