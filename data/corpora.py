"""Corpora: any text a user points at becomes documents in two splits, "train" and "validation".

    corpus = load_corpus()                                  # the manual inside every Python
    corpus = load_corpus("shakespeare.txt")                 # a file, a folder, or a pattern: "texts/**/*.md"
    corpus = load_corpus("rows.jsonl", text_column="body")  # or CSV, TSV, Parquet: a document a row
    corpus = load_corpus("hub:roneneldan/TinyStories", streaming=True)

A document is a row with the columns "name" and "text", and its name alone decides which split it is in, so
that adding documents, reordering them or changing machines moves none from one split to the other.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from typing import Any, Literal, cast, overload

import datasets
from datasets import Dataset, DatasetDict, Features, IterableDataset, IterableDatasetDict, Value

from ..jobs.errors import first_line
from .corpus_files import (
    ACCEPTED_FORMS,
    Document,
    find_files,
    load_rows,
    read_texts,
    stream_documents,
    table_documents,
)
from .python_manual import python_manual

TRAIN, VALIDATION = "train", "validation"
VALIDATION_FRACTION = 0.05
# With fewer documents a twentieth of them is no sample, so each text's last tenth is held out instead.
MIN_DOCUMENTS_TO_SPLIT = 100
TRAIN_FRACTION_OF_TEXT = 0.9

FEATURES = Features({"name": Value("string"), "text": Value("string")})
Row = dict[str, str]  # one document, as FEATURES says


@overload
def load_corpus(spec: str = ..., *, text_column: str = ..., streaming: Literal[False] = ...) -> DatasetDict: ...
@overload
def load_corpus(spec: str = ..., *, text_column: str = ..., streaming: bool) -> DatasetDict | IterableDatasetDict: ...
def load_corpus(
    spec: str = "python-manual", *, text_column: str = "text", streaming: bool = False
) -> DatasetDict | IterableDatasetDict:
    """Load a corpus and split it.

    Of at least 100 documents, 5 % are the validation split, chosen by a hash of their names; of fewer, the
    last tenth of each text is. A hub dataset's own train and validation splits are used if it has both.

    Args:
        spec: "python-manual"; the path of a text file or of a file of rows (.jsonl, .json, .csv, .tsv,
            .parquet); a folder, read recursively without hidden files and symbolic links; a pattern;
            or "hub:NAME[:CONFIG]".
        text_column: the column that holds the text, for rows and hub datasets.
        streaming: read files and hub datasets while iterating instead of storing them first.

    Returns:
        The splits "train" and "validation" with the string columns "name" and "text". A file's name is its
        path below the folder, a row's is "<file>:<row>", counted from 1.

    Raises:
        FileNotFoundError: nothing is at the path or matches the pattern.
        ConnectionError: the hub dataset cannot be reached.
        ValueError: the corpus holds no text, is not text, lacks the column, or is too small to be split.
    """
    if spec.startswith("hub:"):
        return _load_hub(spec, text_column, streaming)
    if spec == "python-manual" and streaming:
        return _to_streams(_split(load_documents(spec), spec))
    if not streaming:
        return _split(load_documents(spec, text_column), spec)
    text_files, row_files, skipped = find_files(spec)
    texts = partial(read_texts, text_files, spec, skipped)
    rows = [(load_rows(file, text_column, streaming=True), file.name) for file in row_files]
    return _split_stream(partial(_stream_files, texts, rows, text_column), spec)


def load_documents(spec: str, text_column: str = "text") -> Dataset:
    """All documents of a corpus on this machine, whole and in one: `load_corpus` without the split.

    Raises:
        FileNotFoundError, ValueError: as `load_corpus`.
    """
    if spec == "python-manual":
        return _to_dataset(python_manual())
    text_files, row_files, skipped = find_files(spec)
    parts = [_to_dataset(read_texts(text_files, spec, skipped))]
    for file in row_files:
        parts.append(table_documents(load_rows(file, text_column, streaming=False), file.name, text_column))
    return datasets.concatenate_datasets(parts)


def corpus_bytes(documents: Dataset | IterableDataset) -> int:
    """The size of all texts in UTF-8 bytes, the unit that bits per byte are counted in."""
    return sum(len(row["text"].encode()) for row in cast(Iterable[Row], documents))


def is_validation(name: str) -> bool:
    """Whether the document of this name is held out."""
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()  # hash() differs from run to run
    return int.from_bytes(digest, "big") < VALIDATION_FRACTION * 2**64


def _load_hub(spec: str, text_column: str, streaming: bool) -> DatasetDict | IterableDatasetDict:
    name, _, config = spec.removeprefix("hub:").partition(":")
    if not name:
        raise ValueError(f"{spec} names no dataset; give hub:NAME[:CONFIG]")
    try:
        splits: Any = datasets.load_dataset(name, config or None, streaming=streaming)
    except Exception as error:
        kind = ConnectionError if isinstance(error, OSError) else ValueError
        raise kind(f"{spec} cannot be loaded: {first_line(error)}; check hub:NAME[:CONFIG] and the network") from None
    if TRAIN not in splits:
        raise ValueError(f"{spec} has no train split, only {', '.join(splits)}; give another dataset")
    if VALIDATION not in splits:
        if streaming:
            return _split_stream(partial(stream_documents, splits[TRAIN], name, text_column), spec)
        return _split(table_documents(splits[TRAIN], name, text_column), spec)
    own = {split: (splits[split], f"{name}/{split}", text_column) for split in (TRAIN, VALIDATION)}
    if streaming:
        return IterableDatasetDict({split: _to_stream(partial(stream_documents, *rows)) for split, rows in own.items()})
    return _checked({split: table_documents(*rows) for split, rows in own.items()}, spec)


def _split(documents: Dataset, spec: str) -> DatasetDict:
    if len(documents) == 0:
        raise ValueError(f"{spec} holds no text; {ACCEPTED_FORMS} with text in it")
    if len(documents) < MIN_DOCUMENTS_TO_SPLIT:
        return _split_texts(cast(Iterable[Row], documents), spec)
    names = cast(Iterable[Row], documents.select_columns("name"))
    held_out = [is_validation(row["name"]) for row in names]
    train = documents.select([index for index, out in enumerate(held_out) if not out])
    validation = documents.select([index for index, out in enumerate(held_out) if out])
    return _checked({TRAIN: train, VALIDATION: validation}, spec)


def _split_texts(documents: Iterable[Row], spec: str) -> DatasetDict:
    train: list[Document] = []
    validation: list[Document] = []
    for row in documents:
        end = int(TRAIN_FRACTION_OF_TEXT * len(row["text"]))
        train.append((row["name"], row["text"][:end]))
        validation.append((row["name"], row["text"][end:]))
    parts = {TRAIN: train, VALIDATION: validation}
    return _checked(
        {split: _to_dataset((name, text) for name, text in part if text.strip()) for split, part in parts.items()},
        spec,
    )


def _split_stream(documents: Callable[[], Iterator[Document]], spec: str) -> IterableDatasetDict:
    """Split lazily. `documents` begins a new pass over the corpus each time it is called."""
    first = list(islice(documents(), MIN_DOCUMENTS_TO_SPLIT))
    if len(first) < MIN_DOCUMENTS_TO_SPLIT:
        return _to_streams(_split(_to_dataset(first), spec))
    return IterableDatasetDict(
        {split: _to_stream(partial(_part, documents, split, spec)) for split in (TRAIN, VALIDATION)}
    )


def _part(documents: Callable[[], Iterator[Document]], split: str, spec: str) -> Iterator[Document]:
    count = 0
    for name, text in documents():
        if is_validation(name) == (split == VALIDATION):
            count += 1
            yield name, text
    _check_not_empty(count, split, spec)


def _stream_files(
    texts: Callable[[], Iterator[Document]], rows: list[tuple[IterableDataset, str]], text_column: str
) -> Iterator[Document]:
    yield from texts()
    for dataset, source in rows:
        yield from stream_documents(dataset, source, text_column)


def _checked(parts: dict[Any, Dataset], spec: str) -> DatasetDict:
    for split, part in parts.items():
        _check_not_empty(len(part), split, spec)
    return DatasetDict(parts)


def _check_not_empty(count: int, split: str, spec: str) -> None:
    if count == 0:
        raise ValueError(f"the {split} split of {spec} would be empty; add text, or more documents")


def _to_dataset(documents: Iterable[Document]) -> Dataset:
    documents = list(documents)
    columns = {"name": [name for name, _ in documents], "text": [text for _, text in documents]}
    return Dataset.from_dict(columns, features=FEATURES)


def _to_streams(corpus: DatasetDict) -> IterableDatasetDict:
    return IterableDatasetDict({split: part.to_iterable_dataset() for split, part in corpus.items()})


def _to_stream(documents: Callable[[], Iterator[Document]]) -> IterableDataset:
    # One shard on purpose: datasets reorders shards when it shuffles and deals them out to workers, and rows
    # numbered after that would change their names, and with them their split.
    return IterableDataset.from_generator(_rows, features=FEATURES, gen_kwargs={"documents": documents})


def _rows(documents: Callable[[], Iterator[Document]]) -> Iterator[Row]:
    for name, text in documents():
        yield {"name": name, "text": text}
