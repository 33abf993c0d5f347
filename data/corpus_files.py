"""Reading the files of a corpus: text files as one document each, files of rows as a document a row."""

import csv
import glob
import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import datasets
from datasets import Dataset, IterableDataset, Value

from ..jobs.errors import first_line
from .preprocessing import decode

logger = logging.getLogger(__name__)

# Suffix -> one of datasets' packaged builders and its options.
ROW_FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    ".jsonl": ("json", {}),
    ".json": ("json", {}),
    ".csv": ("csv", {"sep": ","}),
    ".tsv": ("csv", {"sep": "\t"}),
    ".parquet": ("parquet", {}),
}
ACCEPTED_FORMS = 'give "python-manual", a file, a folder, a pattern such as "texts/*.md" or hub:NAME[:CONFIG]'

Document = tuple[str, str]  # name, text


class File(NamedTuple):
    """A file of a corpus: where it is, and what its documents are called."""

    path: Path
    name: str

    @property
    def holds_rows(self) -> bool:
        return self.path.suffix.lower() in ROW_FORMATS


def find_files(spec: str) -> tuple[list[File], list[File], Counter[str]]:
    """The files that a path or pattern stands for: those of text, and those of rows, both sorted by name.

    Also how many were left out in a folder or for a pattern, and why: hidden files, symbolic links, empty files, parts
    of a training run.

    A file is named by its path below the folder (or below the part of the pattern without wildcards); by its own name
    if `spec` is the file.

    Raises:
        FileNotFoundError: nothing is there, or nothing matches.
        ValueError: `spec` is neither a file nor a folder.
    """
    path = Path(spec).expanduser()
    if spec.strip() and path.exists() and not path.is_dir():
        if not path.is_file():
            raise ValueError(f"{spec} is not a regular file; {ACCEPTED_FORMS}")
        file = File(path, path.name)
        return ([], [file], Counter()) if file.holds_rows else ([file], [], Counter())
    skipped: Counter[str] = Counter()
    found = _find_files(spec, skipped)
    files = [file for file in found if file.path.stat().st_size > 0]
    skipped["empty"] += len(found) - len(files)
    return [file for file in files if not file.holds_rows], [file for file in files if file.holds_rows], skipped


def read_texts(files: list[File], spec: str, skipped: Counter[str]) -> Iterator[Document]:
    """Read text files one after the other. Of several, those that are not text are skipped.

    One warning at the end says how many, together with those that were `skipped` before.

    Raises:
        ValueError: `spec` is the only file, and it is not text.
    """
    skipped = skipped.copy()
    for file in files:
        data = file.path.read_bytes()
        try:
            text = decode(data, str(file.path))
        except ValueError:
            if file.path == Path(spec).expanduser():
                raise
            skipped["not text"] += 1
            continue
        if text.strip():
            yield file.name, text
        else:
            skipped["empty"] += 1
    if skipped.total():
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(skipped.items()) if count)
        logger.warning("%s: files skipped: %d (%s)", spec, skipped.total(), reasons)


def _find_files(spec: str, skipped: Counter[str]) -> list[File]:
    path = Path(spec).expanduser()
    if spec.strip() and path.is_dir():
        folder, pattern = path, "**/*"
    else:
        wild = [i for i, part in enumerate(path.parts) if glob.has_magic(part)]
        if not wild:
            raise FileNotFoundError(f"there is no file or folder {spec!r}; {ACCEPTED_FORMS}")
        folder, pattern = Path(*path.parts[: wild[0]]), "/".join(path.parts[wild[0] :])
        if pattern.endswith("**"):
            pattern += "/*"  # by itself it matches only folders before Python 3.13

    files = []
    runs = {found.parent.relative_to(folder) for found in folder.rglob("run.yaml")}
    for found in sorted(folder.glob(pattern)):
        below = found.relative_to(folder)
        if any(part.startswith(".") for part in below.parts):
            if found.is_file():
                skipped["hidden"] += 1
        elif runs.intersection(below.parents):
            if found.is_file():
                skipped["of a training run"] += 1
        # What a link leads to is either outside, or inside and read under its own name.
        elif any((folder / part).is_symlink() for part in (below, *below.parents)[:-1]):
            skipped["symbolic link"] += 1
        elif found.is_file():
            # A file name may hold what is not valid Unicode; a dataset may not.
            files.append(File(found, below.as_posix().encode(errors="replace").decode()))
    if not files and not skipped and pattern != "**/*":
        raise FileNotFoundError(f"no file matches {spec!r}; {ACCEPTED_FORMS}")
    return files


def load_rows(file: File, text_column: str, streaming: bool) -> Any:
    """Open a file of rows as a Dataset, or as an IterableDataset if `streaming`.

    Raises:
        ValueError: the file has no rows, has no such column or is malformed.
    """
    with file.path.open("rb") as opened:  # here, because datasets would hide a PermissionError
        if not opened.read(1):
            raise ValueError(f"{file.name} is empty; give a file with a document a row")
    builder, builder_options = ROW_FORMATS[file.path.suffix.lower()]
    if builder == "csv":
        _check_fields(file, builder_options["sep"])
    options: dict[str, Any] = {"data_files": glob.escape(str(file.path)), "split": "train", **builder_options}
    with one_line_error(file.name):
        first = next(iter(datasets.load_dataset(builder, **options, streaming=True)), None)
    if first is None:
        raise ValueError(f"{file.name} has no rows; give a file with a document a row")
    _check_column(first, text_column, file.name)
    if builder == "csv":
        # Without these a text "None" is read as null, and "1984" as a number.
        options |= {"usecols": [text_column], "converters": {text_column: str}, "keep_default_na": False}
    options["streaming"] = streaming
    with one_line_error(file.name):
        return datasets.load_dataset(builder, **options)


def _check_fields(file: File, separator: str) -> None:
    """Refuse rows that have more fields than the header, of which pandas would quietly keep the first ones."""
    with file.path.open(newline="", encoding="utf-8", errors="replace") as opened:
        header, *rows = islice(csv.reader(opened, delimiter=separator), 2)
    if rows and len(rows[0]) > len(header):
        raise ValueError(
            f"{file.name} has {len(header)} columns but {len(rows[0])} fields in its first row; "
            f"put quotes around text that holds {separator!r}"
        )


def table_documents(rows: Dataset, source: str, text_column: str) -> Dataset:
    """The rows of a table as documents named "<source>:<row>", counted from 1, without copying the texts.

    Rows whose text is null or blank are skipped, and counted in a warning.

    Raises:
        ValueError: there is no such column, or a row's text is not a string.
    """
    _check_column(rows.column_names, text_column, source)
    texts: Iterable[Any] = rows.select_columns(text_column)[text_column]
    written = []
    for index, text in enumerate(texts):
        if _is_written(text, index + 1, source, text_column):
            written.append(index)
    _warn_of_blank_rows(len(rows) - len(written), len(rows), source)
    documents = rows.select_columns(text_column)
    if text_column != "text":
        documents = documents.rename_column(text_column, "text")
    documents = documents.cast_column("text", Value("string"))
    names = [f"{source}:{number}" for number in range(1, len(rows) + 1)]
    documents = documents.add_column("name", names).select_columns(["name", "text"])
    return documents.select(written) if len(written) < len(rows) else documents


def stream_documents(rows: IterableDataset, source: str, text_column: str) -> Iterator[Document]:
    """The same as `table_documents` for rows that are read while iterating."""
    number = blank = 0
    iterator = iter(rows)
    while True:
        with one_line_error(source):
            row: Any = next(iterator, None)
        if row is None:
            break
        number += 1
        _check_column(row, text_column, source)
        if _is_written(row[text_column], number, source, text_column):
            yield f"{source}:{number}", row[text_column]
        else:
            blank += 1
    _warn_of_blank_rows(blank, number, source)


def _check_column(columns: Iterable[str], text_column: str, source: str) -> None:
    columns = list(columns)
    if text_column not in columns:
        raise ValueError(f"{source} has no column {text_column!r}; pass --text-column with one of {', '.join(columns)}")


def _is_written(text: Any, number: int, source: str, text_column: str) -> bool:
    if text is None:
        return False
    if not isinstance(text, str):
        raise ValueError(
            f"row {number} of {source} has {type(text).__name__} {str(text)[:40]!r} in the column "
            f"{text_column!r}, not a string; quote it, or pass --text-column with another column"
        )
    return bool(text.strip())


def _warn_of_blank_rows(blank: int, count: int, source: str) -> None:
    if blank:
        logger.warning("%s: skipped %d of %d rows, whose text is null or blank", source, blank, count)


@contextmanager
def one_line_error(source: str) -> Iterator[None]:
    """Turn what a builder of datasets raises (pandas', pyarrow's or its own errors) into one ValueError."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        reason = first_line(error.__cause__ or error)
        raise ValueError(f"{source} cannot be read: {reason}; correct it or leave it out") from None
