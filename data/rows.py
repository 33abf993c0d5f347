"""Rows as they are in files, folders and data sets on the Hub, each with the place to find it at."""

import csv
import io
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import pyarrow.parquet
from datasets import ClassLabel, Dataset, List

from ..jobs.errors import first_line
from .corpus_files import one_line_error
from .preprocessing import decode

ACCEPTED = "give a file of rows (.json, .jsonl, .csv, .tsv, .parquet), a folder of them, or hub:NAME[:CONFIG]"
SUFFIXES = (".json", ".jsonl", ".csv", ".tsv", ".parquet")
SPLITS = {"train": "train", "training": "train", "validation": "validation", "valid": "validation", "val": "validation",
          "dev": "validation", "test": "test", "eval": "validation"}  # fmt: skip


class Row(NamedTuple):
    """A row, and where it is: "rows.jsonl, line 3". The row is what the file holds, not always a mapping."""

    place: str
    value: Any


def read_rows(source: str, split: str = "train") -> Iterator[Row]:
    """The rows of `source`.

    Args:
        source: a file, a folder, or hub:NAME[:CONFIG].
        split: of a data set on the Hub; in a folder, of the files that have a split's name in theirs
            ("data-validation.jsonl"). Files with no such name are for training.

    Raises:
        FileNotFoundError: if nothing is there.
        ConnectionError: if the Hub cannot be reached.
        ValueError: if a file cannot be read as what its name says. A JSON line that is none is yielded as an error, for
            the caller to report.
    """
    if source.startswith("hub:"):
        yield from _hub_rows(source, split)
        return
    path = Path(source).expanduser()
    if not source.strip() or not path.exists():
        raise FileNotFoundError(f"There is no file or folder {source!r}: {ACCEPTED}.")
    files = [path]
    if path.is_dir():
        files = [file for file in sorted(path.iterdir()) if file.suffix.lower() in SUFFIXES and file.is_file()]
        files = [file for file in files if not file.name.startswith(".") and split_of(file.name) == split]
        if not files:
            raise FileNotFoundError(f"{source} has no rows for {split}: {ACCEPTED}.")
    for file in files:
        yield from _file_rows(file)


def splits_in(source: str) -> set[str]:
    """The splits that a source has itself."""
    if source.startswith("hub:"):
        name, _, config = source.removeprefix("hub:").partition(":")
        try:
            return set(datasets.get_dataset_split_names(name, config or None))
        except Exception as error:
            kind = ConnectionError if isinstance(error, OSError) else ValueError
            raise kind(f"{source} cannot be loaded: {first_line(error)}; check the name and the network.") from None
    path = Path(source).expanduser()
    if not path.is_dir():
        return {"train"}
    return {split_of(file.name) for file in path.iterdir() if file.suffix.lower() in SUFFIXES}


def split_of(file_name: str) -> str:
    """The split that a file's name tells: "dialogsum.dev.jsonl" is for validation."""
    words = re.split(r"[^a-z]+", file_name.lower())
    return next((SPLITS[word] for word in words if word in SPLITS), "train")


def _hub_rows(source: str, split: str) -> Iterator[Row]:
    name, _, config = source.removeprefix("hub:").partition(":")
    try:
        rows = datasets.load_dataset(name, config or None, split=split)
    except Exception as error:
        kind = ConnectionError if isinstance(error, OSError) else ValueError
        raise kind(f"{source} cannot be loaded: {first_line(error)}; check the name and the network.") from None
    yield from _table_rows(rows, source)


def _file_rows(file: Path) -> Iterator[Row]:
    suffix = file.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"{file} is no file of rows: {ACCEPTED}.")
    if suffix == ".parquet":
        with one_line_error(str(file)):
            table = pyarrow.parquet.read_table(file)
            rows = Dataset(datasets.table.InMemoryTable(table))
        yield from _table_rows(rows, file.name)
        return
    text = decode(file.read_bytes(), str(file))
    if suffix in (".csv", ".tsv"):
        yield from _separated_rows(text, file, "," if suffix == ".csv" else "\t")
    elif suffix == ".jsonl" or not text.lstrip().startswith(("[", "{")) or _is_lines(text):
        yield from _json_lines(text, file)
    else:
        yield from _json_rows(text, file)


def _is_lines(text: str) -> bool:
    """Whether the first line of a .json file is a whole object: then each line is one."""
    try:
        return isinstance(json.loads(text.lstrip().split("\n", 1)[0]), dict) and "\n" in text.strip()
    except ValueError:
        return False


def _json_lines(text: str, file: Path) -> Iterator[Row]:
    # Not splitlines: JSON may hold other line ends than these within a string.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                value = json.loads(line)
            except ValueError as error:
                value = ValueError(f"is not JSON ({error})")
            yield Row(f"{file.name}, line {number}", value)


def _json_rows(text: str, file: Path) -> Iterator[Row]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{file} is not JSON ({error}): correct it, or write a row a line as .jsonl.") from None
    if isinstance(value, dict):
        value = next((rows for rows in value.values() if isinstance(rows, list)), [value])
    if value and all(isinstance(row, dict) and "paragraphs" in row for row in value):
        value = list(_questions(value))
    for number, row in enumerate(value, 1):
        yield Row(f"{file.name}, row {number}", row)


def _questions(articles: list) -> Iterator[Any]:
    """The rows in SQuAD's nested file, as the Hub has them: a question and its context in each."""
    try:
        for article in articles:
            for paragraph in article["paragraphs"]:
                for question in paragraph["qas"]:
                    found = [] if question.get("is_impossible") else question.get("answers", [])
                    answers = {key: [answer[key] for answer in found] for key in ("text", "answer_start")}
                    yield {
                        "id": str(question.get("id", "")),
                        "title": article.get("title", ""),
                        "context": paragraph["context"],
                        "question": question["question"],
                        "answers": answers,
                    }
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"The file has paragraphs, but not as SQuAD has them ({error}): correct it.") from None


def _separated_rows(text: str, file: Path, separator: str) -> Iterator[Row]:
    csv.field_size_limit(sys.maxsize)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    while True:
        begins = reader.line_num + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise ValueError(f"{file}, line {begins} is not {file.suffix[1:].upper()} ({error}): correct it.") from None
        if row is None:
            return
        begins = max(begins, 2)  # the first call has read the header as well
        place = f"{file.name}, line {begins}"
        if None in row or None in row.values():
            given = sum(value is not None for key, value in row.items() if key) + len(row.get(None) or ())
            expected = len(reader.fieldnames or ())
            yield Row(place, ValueError(f"has {given} fields, and the header {expected}"))
        else:
            yield Row(place, row)


def _table_rows(rows: Dataset, source: str) -> Iterator[Row]:
    """Rows of a typed table, with the names of classes in the place of their numbers."""
    named = {}
    for column, feature in rows.features.items():
        inner = feature.feature if isinstance(feature, List) else feature
        if isinstance(inner, ClassLabel):
            named[column] = inner.names
    row: Any
    for number, row in enumerate(rows, 1):
        yield Row(f"{source}, row {number}", {**row, **{c: _named(row[c], names) for c, names in named.items()}})


def _named(value: Any, names: list[str]) -> Any:
    if isinstance(value, list):
        return [_named(item, names) for item in value]
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else None
