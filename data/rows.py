"""Rows of files, folders and datasets on the Hub, each with its place."""

import csv
import io
import json
import re
import sys
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import datasets
import pyarrow.parquet
from datasets import ClassLabel, Features, List

from ..jobs.errors import first_line
from .files import ARCHIVES, ROW_SUFFIXES, File, find_files, kind_of, open_file
from .preprocessing import decode_lines

ACCEPTED = f"give a file of rows ({', '.join(ROW_SUFFIXES)}, also compressed), a folder, a pattern or hub:NAME[:CONFIG]"
FIX_OR_SKIP = "correct it, or skip such rows with --skip_malformed"
VALIDATION = ("validation", "valid", "val", "dev", "eval")
SPLITS = {"train": "train", "training": "train", "test": "test", **dict.fromkeys(VALIDATION, "validation")}
BATCH_ROWS = 1000  # rows in memory at once
NOT_SPACE, SURROGATE = re.compile(r"\S"), re.compile("[\ud800-\udfff]")
MESSAGE = {"role", "from"}  # a key of each message

Row = tuple[str, Any]  # a place, such as "rows.jsonl, line 3", and the value there, of any type


class Numbered(NamedTuple):
    """A row of a file, its number among the rows, and the line in which it begins if the file consists of lines."""

    number: int
    line: int | None
    value: Any

    @property
    def where(self) -> str:
        return f"row {self.number}" if self.line is None else f"line {self.line}"


def read_rows(source: str, split: str = "train") -> Iterator[Row]:
    """Yield the rows of a file, a folder, a pattern, or hub:NAME[:CONFIG]; one that cannot be read as a ValueError.

    A folder's files are of the split that their path below it names ("data-validation.jsonl"), otherwise for training.
    Raises FileNotFoundError, ConnectionError without the Hub, and ValueError for a file that cannot be read.
    """
    if source.startswith("hub:"):
        with hub_errors(source) as dataset:
            rows: Any = datasets.load_dataset(*dataset, split=split)
        names = _class_names(rows.features)
        for number, row in enumerate(rows, 1):
            yield f"{source}, row {number}", _with_class_names(row, names)
        return
    files = [file for file, its_split in _files_of_rows(source) if its_split in (split, None)]
    if not files:
        raise FileNotFoundError(f"{source} has no rows for {split}: {ACCEPTED}.")
    for file in files:
        for row in rows_in_file(file):
            yield f"{file.name}, {row.where}", row.value


def splits_in(source: str) -> set[str]:
    if source.startswith("hub:"):
        with hub_errors(source) as dataset:
            return set(datasets.get_dataset_split_names(*dataset))
    return {split or "train" for _, split in _files_of_rows(source)}


@contextmanager
def hub_errors(spec: str) -> Iterator[tuple[str, str | None]]:
    """Yield the name and config of a dataset on the Hub; turn any error inside into one of one line."""
    name, _, config = spec.removeprefix("hub:").partition(":")
    if not name:
        raise ValueError(f"{spec} names no dataset; give hub:NAME[:CONFIG]")
    try:
        yield name, config or None
    except Exception as error:
        kind = ConnectionError if isinstance(error, OSError) else ValueError
        raise kind(f"{spec} cannot be loaded: {first_line(error)}; check hub:NAME[:CONFIG] and the network") from None


def _files_of_rows(source: str) -> list[tuple[File, str | None]]:
    """Find files of rows, each with its split; None, for any split, if `source` is the file itself."""
    files, left_out = find_files(source, ACCEPTED)
    if len(files) == 1 and not left_out and files[0].path == Path(source).expanduser():
        if not files[0].holds_rows:
            raise ValueError(f"{source} is no file of rows: {ACCEPTED}.")
        return [(files[0], None)]
    words = ((file, re.split(r"[^a-z]+", file.name.lower())) for file in files if file.holds_rows)
    rows = [(file, next((SPLITS[word] for word in its if word in SPLITS), "train")) for file, its in words]
    archive = next((path for path, reason in left_out.items() if kind_of(path) in ARCHIVES), None)
    if not rows and archive:
        raise ValueError(f"{archive} is an archive: unpack it, and give the folder that comes out.")
    return rows


def rows_in_file(file: File, columns: Collection[str] | None = None) -> Iterator[Numbered]:
    with open_file(file.path) as opened:
        yield from parse_rows(opened, file.name, kind_of(file.path), columns)


def parse_rows(opened: BinaryIO, name: str, kind: str, columns: Collection[str] | None = None) -> Iterator[Numbered]:
    """Yield the rows of an open file of a `kind` such as .csv, one at a time; `name` is for messages.

    A file of one JSON value is read at once. Rows of a table may lack all but the `columns`; None asks for all. Raises
    ValueError if the rest of the file cannot be read, and yields one, which completes "line 3 ...", for a single row.
    """
    if kind == ".parquet":
        rows = ((None, row) for row in _parquet_rows(opened, columns))
    elif kind in (".csv", ".tsv"):
        rows = _separated_rows(decode_lines(opened, name), name, kind, columns)
    else:
        rows = _json_rows(decode_lines(opened, name), name, kind)
    for number, (line, value) in enumerate(rows, 1):
        yield Numbered(number, line, value)


def _flaw(text: str) -> ValueError | None:
    """Return the error of a text that cannot be stored; `decode_lines` makes surrogates of bytes that are not UTF-8."""
    if "\0" in text:
        return ValueError("holds a NUL character")
    if not text.isascii() and (half := SURROGATE.search(text)):
        return ValueError(f"holds {half[0]!a}, which is half a character (or a byte that is not UTF-8)")
    return None


def _json_rows(lines: Iterator[str], name: str, kind: str) -> Iterator[tuple[int | None, Any]]:
    """Yield a value per line, or the rows in one value over many lines."""
    numbered = ((number, line) for number, line in enumerate(lines, 1) if not line.isspace())
    begins = list(islice(numbered, 2))
    rows: Iterable[tuple[int, str]] = chain(begins, numbered)
    if _is_part_of_a_value([line for _, line in begins], kind):
        rows = list(rows)
        text = "".join(line for _, line in rows)
        try:
            values = _json_values(text)
        except (ValueError, RecursionError) as error:
            if kind == ".json":
                fix = "correct it, or write one row per line as .jsonl"
                raise ValueError(f"{name} is not JSON ({error}): {fix}.") from None
        else:
            yield from ((None, _json_flaw(value, text) or value) for value in _unnested(values))
            return
    for number, line in rows:
        try:
            value = json.loads(line)
            yield number, _json_flaw(value, line) or value
        except json.JSONDecodeError as error:
            yield number, ValueError(f"is not JSON ({error.msg.removesuffix(' at')} at column {error.pos + 1})")
        except (ValueError, RecursionError) as error:  # a number of thousands of digits, or lists in lists in lists
            yield number, ValueError(f"is not JSON ({error})")


def _is_part_of_a_value(begins: list[str], kind: str) -> bool:
    """Return True if the first of two lines is not a row: it is an array of rows, or breaks off."""
    first = "".join(begins[:1]).rstrip()
    try:
        is_row = isinstance(json.loads(first), dict)
    except json.JSONDecodeError as error:
        return first.lstrip().startswith(("[", "{")) and error.pos >= len(first) - 1
    except (ValueError, RecursionError):
        return False
    return len(begins) == 1 and (kind == ".json" or not is_row)


def _json_flaw(value: Any, text: str) -> ValueError | None:
    """Return the flaw of a value that was read from JSON, where a surrogate may be escaped."""
    if "\\ud" in text or "\\uD" in text:
        text = json.dumps(value, ensure_ascii=False)
    return None if text.isascii() else _flaw(text)


def _json_values(text: str) -> list:
    values, at, decoder = [], 0, json.JSONDecoder()
    while begins := NOT_SPACE.search(text, at):
        value, at = decoder.raw_decode(text, begins.start())
        values.append(value)
    return values


def _unnested(values: list) -> list:
    """Return the rows in one JSON value; of several values, each is a row."""
    if len(values) == 1 and isinstance(values[0], dict):
        lists = {name: rows for name, rows in values[0].items() if rows and isinstance(rows, list)}
        tables = [name for name, rows in lists.items() if all(isinstance(row, dict) for row in rows)]
        if any(not MESSAGE.isdisjoint(row) for name in tables for row in lists[name]):
            return values  # a chat, which may have a list of tools beside its messages
        if len(tables) > 1:
            raise ValueError(f"The file has several lists of rows ({', '.join(tables)}): put each in its own file.")
        values = lists[tables[0]] if tables else values
    elif len(values) == 1 and isinstance(values[0], list):
        values = values[0]
    if values and all(isinstance(row, dict) and "paragraphs" in row for row in values):
        return list(_questions(values))
    return values


def _questions(articles: list) -> Iterator[Any]:
    """Yield the rows in SQuAD's nested file, as the Hub has them: a question and its context in each."""
    try:
        for article in articles:
            for paragraph in article["paragraphs"]:
                for question in paragraph["qas"]:
                    found = [] if question.get("is_impossible") else question.get("answers", [])
                    answers = {key: [answer[key] for answer in found] for key in ("text", "answer_start")}
                    row = {"id": str(question.get("id", "")), "title": article.get("title", "")}
                    yield row | {"context": paragraph["context"], "question": question["question"], "answers": answers}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"The file has paragraphs, but not as SQuAD has them ({error}): correct it.") from None


def _separated_rows(
    lines: Iterator[str], name: str, kind: str, columns: Collection[str] | None
) -> Iterator[tuple[int, Any]]:
    csv.field_size_limit(sys.maxsize)
    first = next(lines, "")  # spreadsheets of many countries write ";"
    separator = "\t" if kind == ".tsv" else next((sign for sign in ",;\t" if sign in first), ",")
    reader = csv.reader(chain([first], lines), delimiter=separator, strict=True)
    header: list[str] = []
    while True:
        line = reader.line_num + 1
        try:
            fields = next(reader, None)
        except csv.Error as error:
            wrong = ValueError(f"is not {kind[1:].upper()} ({error})")
            if reader.line_num > line or not header or "end of data" in str(error):
                # A quote that does not end may have swallowed any number of rows.
                raise ValueError(f"{name}, line {line} {wrong}: correct it.") from None
            yield line, wrong
            continue
        if fields is None:
            return
        if not fields or (len(fields) == 1 and fields[0].isspace()):
            continue
        if not header:
            header = fields
            read = columns or filter(None, header)
            if twice := next((field for field in read if header.count(field) > 1), None):
                raise ValueError(f"{name} has two columns {twice!r}: rename or remove one.")
            continue
        if len(fields) > len(header) or (len(fields) < len(header) and columns is None):
            fix = "; put quotes around text that holds the separator" if len(fields) > len(header) else ""
            yield line, ValueError(f"has {len(fields)} fields, and the header {len(header)}{fix}")
        else:
            yield line, _flaw("".join(fields)) or dict(zip(header, fields, strict=False))


def _parquet_rows(opened: BinaryIO, columns: Collection[str] | None) -> Iterator[dict]:
    can_seek = isinstance(opened, (io.BufferedReader, io.BytesIO))  # unlike a file that is unpacked during reading
    file = pyarrow.parquet.ParquetFile(opened if can_seek else io.BytesIO(opened.read()))
    schema = file.schema_arrow
    some = None if columns is None or not set(columns) <= set(schema.names) else list(columns)
    features = Features()
    for field in schema:
        if some is None or field.name in some:
            with suppress(ValueError):  # `datasets` has no type for a map, for instance
                features |= Features.from_arrow_schema(pyarrow.schema([field], schema.metadata))
    stored_as_json = Features({name: feature for name, feature in features.items() if "Json" in repr(feature)})
    names = _class_names(features)
    for batch in file.iter_batches(BATCH_ROWS, columns=some):
        for row in batch.to_pylist():
            if stored_as_json:
                row |= stored_as_json.decode_example({name: row[name] for name in stored_as_json})
            yield _with_class_names(row, names)


def _class_names(features: Features) -> dict[str, list[str]]:
    inner = {column: f.feature if isinstance(f, List) else f for column, f in features.items()}
    return {column: feature.names for column, feature in inner.items() if isinstance(feature, ClassLabel)}


def _with_class_names(row: dict, names: dict[str, list[str]]) -> dict:
    return {**row, **{column: _named(row[column], names[column]) for column in names}} if names else row


def _named(value: Any, names: list[str]) -> Any:
    if isinstance(value, list):
        return [_named(item, names) for item in value]
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else None
