"""Datasets to evaluate an index with: questions, and where their answers are.

A folder in BEIR's layout: N. Thakur et al., "BEIR: A Heterogeneous Benchmark for Zero-shot Evaluation of Information
Retrieval Models", 2021. SQuAD's form: P. Rajpurkar, R. Jia and P. Liang, "Know What You Don't Know", 2018.
"""

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path

from ..documents import Document, Hit

ACCEPTED = "give a folder in BEIR's layout (queries.jsonl, qrels/test.tsv), a file in SQuAD's form, or known-items"
NUMBER = re.compile(r"\s*[-+]?\d+(\.\d*)?\s*")
BETWEEN = "\n\n"  # paragraphs of SQuAD
QUERIES = [f"{name}.jsonl{gz}" for name in ("queries.test", "queries") for gz in ("", ".gz")]
Place = tuple[str, int]  # a document, and the number of a section of it


@dataclass(frozen=True)
class Question:
    id: str
    text: str
    relevant: Mapping[Place, float]  # the places that answer it, each with how well (1, or a grade)
    spans: tuple[tuple[str, int, int], ...] = ()  # (document, start, end) of answers, each as good as another
    answers: tuple[str, ...] = ()  # in words
    answerable: bool = True  # False if the dataset says that nothing answers it, whatever `relevant` has


@dataclass(frozen=True)
class Dataset:
    name: str
    questions: list[Question]
    documents: list[Document] | None = None  # None if the index has them
    sections: Mapping[str, list[int]] = field(default_factory=dict)  # starts of those of documents with more than one
    # The larger text that a document is a part of, as a docstring is of its module; all its parts may have the answer.
    articles: Mapping[str, str] = field(default_factory=dict)

    def article(self, document: str) -> str:
        return self.articles.get(document, document)

    def places(self, hit: Hit) -> list[Place]:
        """Return the sections that a passage touches."""
        starts = self.sections.get(hit.document, [0])
        first, last = bisect_right(starts, hit.start), bisect_right(starts, hit.end - 1)
        return [(hit.document, max(number - 1, 0)) for number in range(first, last + 1)]


def load_dataset(source: str | Path) -> Dataset:
    """Read a folder in BEIR's layout, or questions in SQuAD's form: its nested file, rows, or hub:NAME[:CONFIG].

    A folder has corpus.jsonl, queries.jsonl and qrels/test.tsv, or queries.test.jsonl and qrels.test.tsv, each .jsonl
    also as .jsonl.gz; without a corpus, the judgments name documents of the index.
    """
    path = Path(source).expanduser()
    if not str(source).startswith("hub:") and not (str(source).strip() and path.exists()):
        raise FileNotFoundError(f"There is no dataset {str(source)!r}: {ACCEPTED}.")
    return beir(path) if path.is_dir() else squad(str(source))


def beir(folder: Path) -> Dataset:
    """Read a folder in BEIR's layout: its documents, and the queries that have relevance judgments."""
    qrels, queries = _first(folder, "qrels/test.tsv", "qrels.test.tsv"), _first(folder, *QUERIES)
    if qrels is None or queries is None:
        missing = "qrels/test.tsv" if qrels is None else "queries.jsonl"
        raise ValueError(f"{folder} is not a dataset, as it has no {missing}: {ACCEPTED}.")
    corpus = _first(folder, "corpus.jsonl", "corpus.jsonl.gz")
    documents = None if corpus is None else [_document(place, row) for place, row in read_mappings(corpus)]
    names = Counter(document.name for document in documents or [])
    if names and (most := names.most_common(1)[0])[1] > 1:
        raise ValueError(f"{corpus} has two documents {most[0]!r}: correct it.")
    texts = {_string(place, row, "_id"): _string(place, row, "text") for place, row in read_mappings(queries)}
    relevant: dict[str, dict[Place, float]] = {}
    for place, row in read_mappings(qrels):
        query, document = (_string(place, row, name) for name in ("query-id", "corpus-id"))
        if not NUMBER.fullmatch(row.get("score") or ""):
            raise ValueError(f"{place} has a score that is not a number: correct it.")
        if query not in texts:
            raise ValueError(f"{place} names the query {query!r}, which {queries.name} does not have: correct it.")
        if documents is not None and document not in names:
            raise ValueError(f"{place} names the document {document!r}, which the corpus does not have: correct it.")
        if (grade := float(row["score"])) > 0:
            relevant.setdefault(query, {})[document, 0] = grade
    questions = [Question(id, texts[id], places) for id, places in relevant.items()]
    return Dataset(folder.resolve().name, questions, documents)


def _document(place: str, row: Mapping) -> Document:
    text = _string(place, row, "text", may_be_empty=True)
    title = _string(place, {"title": row.get("title") or ""}, "title", may_be_empty=True)
    return Document(_string(place, row, "_id"), f"{title}\n\n{text}" if title else text, title)


def squad(source: str) -> Dataset:
    """Read questions in SQuAD's form. The paragraphs of a title are one document, its sections."""
    from ...data.columns import Columns, Malformed
    from ...data.formats import recognize
    from ...data.readers import read_example

    columns = Columns()
    articles: dict[str, dict[str, None]] = {}  # title, or the paragraph if it has none -> paragraphs
    found: list[tuple[str, dict]] = []
    for place, row in read_mappings(source, "validation"):
        try:
            if not found:
                recognize(row, "qa", columns, source)
            example = read_example("qa", columns.cells("qa", row))
        except Malformed as error:
            raise ValueError(f"{place} {error}: correct it.") from None
        title = row.get("title")
        key = title if isinstance(title, str) and title.strip() else example["context"]
        articles.setdefault(key, {})[example["context"]] = None
        found.append((key, example))
    documents, sections, places = [], {}, {}
    for number, (key, texts) in enumerate(articles.items(), 1):
        name, title = (f"context-{number}", "") if key in texts else (key, key.replace("_", " "))
        documents.append(Document(name, BETWEEN.join(texts), title))
        sections[name] = [0, *accumulate(len(text) + len(BETWEEN) for text in texts)][:-1]
        places |= {(key, text): (name, *place) for text, place in zip(texts, enumerate(sections[name]), strict=True)}
    questions = [_question(n, each, *places[key, each["context"]]) for n, (key, each) in enumerate(found, 1)]
    return Dataset(Path(source).name, questions, documents, sections)


def _question(number: int, example: dict, document: str, section: int, start: int) -> Question:
    texts, starts = example["answers"]["text"], example["answers"]["answer_start"]
    spans = {(document, start + at, start + at + len(text)) for text, at in zip(texts, starts, strict=True) if text}
    id, answers = example["id"] or str(number), tuple(dict.fromkeys(texts))
    return Question(id, example["question"], {(document, section): 1}, tuple(sorted(spans)), answers, bool(texts))


def _first(folder: Path, *names: str) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)


def read_mappings(source: str | Path, split: str = "train") -> Iterator[tuple[str, Mapping]]:
    """Yield the rows of a source, each with its place; raises ValueError for a row that is not a mapping."""
    from ...data.rows import read_rows  # here: it imports datasets

    for place, row in read_rows(str(source), split):
        if not isinstance(row, Mapping):
            wrong = row if isinstance(row, ValueError) else "is not an object with columns"
            raise ValueError(f"{place} {wrong}: correct it.")
        yield place, row


def _string(place: str, row: Mapping, name: str, may_be_empty: bool = False) -> str:
    value = row.get(name)
    value = str(value) if name == "_id" and isinstance(value, int) else value
    if not isinstance(value, str) or not (may_be_empty or value.strip()):
        raise ValueError(f"{place} has no text as {name}: correct it.")
    return value
