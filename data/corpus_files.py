"""The documents in the files of a corpus: one per text file, and one per row of a file of rows."""

import hashlib
import json
import logging
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import datasets
import pyarrow
from datasets import Dataset, Features, Value
from filelock import FileLock

from .files import File, open_file
from .files import find_files as find
from .preprocessing import decode
from .rows import FIX_OR_SKIP, Numbered, rows_in_file

logger = logging.getLogger(__name__)

ACCEPTED = 'give "python-manual", a file, a folder, a pattern such as "texts/*.md" or hub:NAME[:CONFIG]'
FEATURES = Features({"name": Value("string"), "text": Value("string")})
FORMAT = "1"  # of the stored documents: to be changed with the way in which files are read
BATCH_DOCUMENTS, BATCH_CHARACTERS = 1000, 50_000_000  # limits of one write
LOOK_AHEAD = 1000  # rows, one of which must have the column

Document = dict[str, str]  # as FEATURES says


def find_files(spec: str) -> tuple[list[File], list[File], Counter[str]]:
    """Find the text files and the files of rows of a path or pattern, and count others by reason; errors as `find`."""
    files, left_out = find(spec, ACCEPTED)
    texts, rows = ([file for file in files if file.holds_rows is holds_rows] for holds_rows in (False, True))
    return texts, rows, Counter(left_out.values())


def read_texts(files: list[File], spec: str, skipped: Counter[str]) -> Iterator[Document]:
    """Read text files, and skip files that are not text with one warning; ValueError if `spec` is such a file."""
    skipped = skipped.copy()
    for file in files:
        try:
            with open_file(file.path) as opened:
                text = decode(opened.read(), str(file.path))
        except ValueError:
            if file.path == Path(spec).expanduser():
                raise
            skipped["not text"] += 1
            continue
        if text.strip():
            yield {"name": file.name, "text": text}
        else:
            skipped["empty"] += 1
    if skipped.total():
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(skipped.items()) if count)
        logger.warning("%s: files skipped: %d (%s)", spec, skipped.total(), reasons)


def stored_rows(file: File, text_column: str, skip_malformed: bool) -> Dataset:
    """Return the documents of a file of rows, memory-mapped from a cache by its path, size and time of change."""
    found, place = file.path.stat(), str(file.path.absolute())
    identity = [FORMAT, place, file.name, found.st_size, found.st_mtime_ns, text_column, skip_malformed]
    key = hashlib.blake2b(json.dumps(identity).encode(), digest_size=16).hexdigest()
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "foliogpt" / f"documents-{key}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):  # of processes that start together, one reads
        if not folder.is_dir():
            staging = folder.with_suffix(".part")
            shutil.rmtree(staging, ignore_errors=True)  # the rest of a killed process
            staging.mkdir()
            try:
                notes, rows = [], rows_in_file(file, [text_column])
                documents = row_documents(rows, file.name, text_column, skip_malformed, notes.append)
                with pyarrow.ipc.new_stream(str(staging / "documents.arrow"), FEATURES.arrow_schema) as writer:
                    while batch := list(_batch(documents)):
                        writer.write_table(pyarrow.Table.from_pylist(batch, FEATURES.arrow_schema))
                (staging / "notes.json").write_text(json.dumps(notes))
                staging.rename(folder)
            finally:
                shutil.rmtree(staging, ignore_errors=True)
    for note in json.loads((folder / "notes.json").read_text()):
        logger.warning(note)
    return Dataset.from_file(str(folder / "documents.arrow"))


def _batch(documents: Iterator[Document]) -> Iterator[Document]:
    size = 0
    for document in islice(documents, BATCH_DOCUMENTS):
        yield document
        size += len(document["text"])
        if size >= BATCH_CHARACTERS:
            return


def row_documents(
    rows: Iterable[Numbered], source: str, text_column: str, skip_malformed: bool, warn: Callable = logger.warning
) -> Iterator[Document]:
    """Yield rows as documents "<source>:<row>", counted from 1, without blank ones, of which `warn` gets the number.

    Raises ValueError that names the column, or the row if malformed ones may not be skipped.
    """
    rows = iter(rows)
    first: list[Numbered] = []
    for row in islice(rows, LOOK_AHEAD):
        first.append(row)
        if isinstance(row.value, dict) and text_column in row.value:
            break
    else:
        if not first:
            raise ValueError(f"{source} has no rows; give a file with a document a row")
        if columns := next((list(row.value) for row in first if isinstance(row.value, dict)), None):
            _check_column(columns, text_column, source)
    total, blank, malformed = 0, 0, []
    for row in chain(first, rows):
        total += 1
        text = _text_of(row.value, text_column)
        if isinstance(text, ValueError):
            if not skip_malformed:
                raise ValueError(f"{source}, {row.where} {text}: {FIX_OR_SKIP}.")
            malformed.append(f"{row.where} {text}")
        elif not text or text.isspace():
            blank += 1
        else:
            yield {"name": f"{source}:{row.number}", "text": text}
    if malformed:
        warn(f"{source}: skipped {len(malformed)} malformed of {total} rows, the first one at {malformed[0]}")
    if blank:
        warn(f"{source}: skipped {blank} of {total} rows, whose text is null or blank")


def _text_of(value: Any, text_column: str) -> str | ValueError | None:
    text = value.get(text_column) if isinstance(value, dict) else value
    if isinstance(text, str | ValueError) or (text is None and isinstance(value, dict)):
        return text
    if not isinstance(value, dict):
        return ValueError(f"is {type(value).__name__}, not an object with columns")
    return ValueError(f"has {type(text).__name__} {str(text)[:40]!r} in the column {text_column!r}, not a string")


def table_rows(rows: Dataset, source: str, text_column: str, skip_malformed: bool = False) -> Dataset:
    """Return the documents of `row_documents` for a stored dataset, without a copy of the texts."""
    _check_column(rows.column_names, text_column, source)
    numbered = (Numbered(n, None, {text_column: text}) for n, text in enumerate(rows[text_column], 1))
    names = [document["name"] for document in row_documents(numbered, source, text_column, skip_malformed)]
    written = [int(name.rpartition(":")[2]) - 1 for name in names]
    documents = rows.select_columns(text_column).rename_columns({text_column: "text"})
    documents = documents.cast_column("text", Value("string")).select(written)
    return documents.add_column("name", names).select_columns(["name", "text"])


def _check_column(columns: list[str], text_column: str, source: str) -> None:
    if text_column not in columns:
        raise ValueError(f"{source} has no column {text_column!r}; use --text-column with one of {', '.join(columns)}")
