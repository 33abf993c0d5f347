"""Corpora: any text as documents in two splits, "train" and "validation".

    corpus = load_corpus()                                  # the manual inside every Python
    corpus = load_corpus("shakespeare.txt")                 # a file, a folder, or a pattern: "texts/**/*.md"
    corpus = load_corpus("rows.jsonl", text_column="body")  # or CSV, TSV, Parquet: a document a row
    corpus = load_corpus("hub:roneneldan/TinyStories", streaming=True)

A document is a row with the columns "name" and "text", and its name alone decides which split it is in, so
that adding documents, reordering them or changing machines moves none from one split to the other.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from typing import Any, cast

import datasets
from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict

from .corpus_files import ACCEPTED, FEATURES, Document, find_files, read_texts, row_documents, stored_rows, table_rows
from .files import File
from .python_manual import python_manual
from .rows import Numbered, hub_errors, rows_in_file

TRAIN, VALIDATION = "train", "validation"
VALIDATION_FRACTION = 0.05
# With fewer documents a twentieth of them is no sample, so each text's last tenth is held out instead.
MIN_DOCUMENTS_TO_SPLIT = 100
TRAIN_FRACTION_OF_TEXT = 0.9


def load_corpus(
    spec: str = "python-manual", *, text_column: str = "text", streaming: bool = False, skip_malformed: bool = False
) -> Any:
    """Load a corpus, which `CorpusArguments` describes, and split it.

    Of at least 100 documents, 5 % are the validation split, chosen by a hash of their names; of fewer, the last tenth
    of each text is. A hub dataset that has both splits keeps its own. A folder is read recursively, without hidden
    files and symbolic links.

    Returns a DatasetDict, of a stream an IterableDatasetDict, with "train" and "validation", each with the string
    columns "name" and "text". A file's name is its path below the folder, a row's is "<file>:<row>", counted from 1.
    Raises FileNotFoundError, ConnectionError if the hub cannot be reached, and ValueError for a corpus without text or
    column, or too small to be split.
    """
    if spec.startswith("hub:"):
        return _load_hub(spec, text_column, streaming, skip_malformed)
    if not streaming or spec == "python-manual":
        corpus = _split(load_documents(spec, text_column, skip_malformed), spec)
        return _to_streams(corpus) if streaming else corpus
    return _split_stream(partial(_stream_files, spec, *find_files(spec), text_column, skip_malformed), spec)


def load_documents(spec: str, text_column: str = "text", skip_malformed: bool = False) -> Dataset:
    """Load all documents of a corpus on this machine without a split; errors as `load_corpus`."""
    if spec == "python-manual":
        return _to_dataset({"name": name, "text": text} for name, text in python_manual())
    text_files, row_files, skipped = find_files(spec)
    parts = [_to_dataset(read_texts(text_files, spec, skipped))]
    parts += [stored_rows(file, text_column, skip_malformed) for file in row_files]
    return datasets.concatenate_datasets(parts)


def corpus_bytes(documents: Dataset | IterableDataset) -> int:
    """Return the size of all texts in UTF-8 bytes, the unit of bits per byte."""
    return sum(len(row["text"].encode()) for row in cast(Iterable[Document], documents))


def position_of(text: str) -> float:
    """Return a number between 0 and 1 that depends on the text alone; hash() differs from run to run."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") / 2**64


def is_validation(name: str) -> bool:
    """Return True if the document of this name is held out."""
    return position_of(name) < VALIDATION_FRACTION


def _load_hub(spec: str, text_column: str, streaming: bool, skip_malformed: bool) -> Any:
    with hub_errors(spec) as (name, config):
        splits: Any = datasets.load_dataset(name, config, streaming=streaming)
    if TRAIN not in splits:
        raise ValueError(f"{spec} has no train split, only {', '.join(splits)}; give another dataset")
    if VALIDATION not in splits:
        if streaming:
            return _split_stream(partial(_stream_hub, splits[TRAIN], name, text_column, skip_malformed), spec)
        return _split(table_rows(splits[TRAIN], name, text_column, skip_malformed), spec)
    own = {split: (splits[split], f"{name}/{split}", text_column, skip_malformed) for split in (TRAIN, VALIDATION)}
    if streaming:
        return IterableDatasetDict({split: _to_stream(partial(_stream_hub, *rows)) for split, rows in own.items()})
    return _checked({split: table_rows(*rows) for split, rows in own.items()}, spec)


def _split(documents: Dataset, spec: str) -> DatasetDict:
    if len(documents) == 0:
        raise ValueError(f"{spec} holds no text; {ACCEPTED} with text in it")
    if len(documents) < MIN_DOCUMENTS_TO_SPLIT:
        parts: dict[str, list[Document]] = {TRAIN: [], VALIDATION: []}
        for row in cast(Iterable[Document], documents):
            end = int(TRAIN_FRACTION_OF_TEXT * len(row["text"]))
            parts[TRAIN].append({**row, "text": row["text"][:end]})
            parts[VALIDATION].append({**row, "text": row["text"][end:]})
        return _checked({s: _to_dataset(d for d in part if d["text"].strip()) for s, part in parts.items()}, spec)
    rows: tuple[list[int], list[int]] = ([], [])
    for index, name in enumerate(documents["name"]):
        rows[is_validation(name)].append(index)
    return _checked({TRAIN: documents.select(rows[False]), VALIDATION: documents.select(rows[True])}, spec)


def _split_stream(documents: Callable[[], Iterator[Document]], spec: str) -> IterableDatasetDict:
    """Split during the iteration. Each call of `documents` reads the corpus from its beginning."""
    first = list(islice(documents(), MIN_DOCUMENTS_TO_SPLIT))
    if len(first) < MIN_DOCUMENTS_TO_SPLIT:
        return _to_streams(_split(_to_dataset(first), spec))
    parts = {split: _to_stream(partial(_part, documents, split, spec)) for split in (TRAIN, VALIDATION)}
    return IterableDatasetDict(parts)


def _part(documents: Callable[[], Iterator[Document]], split: str, spec: str) -> Iterator[Document]:
    count = 0
    for document in documents():
        if is_validation(document["name"]) == (split == VALIDATION):
            count += 1
            yield document
    _check_not_empty(count, split, spec)


def _stream_files(
    spec: str, texts: list[File], rows: list[File], skipped: Counter[str], text_column: str, skip_malformed: bool
) -> Iterator[Document]:
    yield from read_texts(texts, spec, skipped)
    for file in rows:
        yield from row_documents(rows_in_file(file, [text_column]), file.name, text_column, skip_malformed)


def _stream_hub(rows: IterableDataset, source: str, text_column: str, skip_malformed: bool) -> Iterator[Document]:
    def numbered() -> Iterator[Numbered]:
        with hub_errors(f"hub:{source}"):
            for number, row in enumerate(rows, 1):
                yield Numbered(number, None, row)

    return row_documents(numbered(), source, text_column, skip_malformed)


def _checked(parts: dict[Any, Dataset], spec: str) -> DatasetDict:
    for split, part in parts.items():
        _check_not_empty(len(part), split, spec)
    return DatasetDict(parts)


def _check_not_empty(count: int, split: str, spec: str) -> None:
    if count == 0:
        raise ValueError(f"the {split} split of {spec} would be empty; add text, or more documents")


def _to_dataset(documents: Iterable[Document]) -> Dataset:
    rows = list(documents)
    return Dataset.from_dict({column: [row[column] for row in rows] for column in FEATURES}, features=FEATURES)


def _to_streams(corpus: DatasetDict) -> IterableDatasetDict:
    return IterableDatasetDict({split: part.to_iterable_dataset() for split, part in corpus.items()})


def _to_stream(documents: Callable[[], Iterator[Document]]) -> IterableDataset:
    # One shard on purpose: datasets reorders shards for shuffling and for workers, and rows that are numbered after
    # that would change their names, and with them their split.
    return IterableDataset.from_generator(documents, features=FEATURES)
