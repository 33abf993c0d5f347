"""A file to its documents: the reader of its kind, rows, and what is said if there is none or nothing to read."""

import io
from collections.abc import Callable, Iterator
from pathlib import PurePath

from ...data.files import ARCHIVES, COMPRESSIONS, kind_of, unpack
from ...jobs.errors import first_line
from ...jobs.extras import extra
from ..documents import Document, Heading
from .html import html
from .mail import mail
from .markup import latex, markdown, restructured_text
from .office import epub, open_document, powerpoint, spreadsheet, word
from .pdf import pdf
from .python import module, notebook
from .text import NoText, Unreadable, decode, one_line_errors, scalars, storable

VERSION = "3"  # of the readers: files that others read are read anew
MAX_UNPACKED_BYTES = 100_000_000  # of a compressed file
ROWS = ("jsonl", "csv", "tsv", "parquet")

READERS: dict[str, Callable[[str, bytes], dict]] = {
    "md": markdown, "markdown": markdown, "rst": restructured_text, "tex": latex, "html": html, "htm": html,
    "xhtml": html, "pdf": pdf, "docx": word, "pptx": powerpoint, "xlsx": spreadsheet, "odt": open_document,
    "ods": open_document, "odp": open_document, "epub": epub, "eml": mail, "ipynb": notebook, "py": module,
}  # fmt: skip
OTHERS = {
    "it is a picture": "png jpg jpeg gif bmp tif tiff webp ico heic avif psd",
    "it is sound or video": "mp3 wav flac ogg m4a aac mp4 mkv avi mov webm mpg mpeg",
    "it is a font": "ttf otf woff woff2",
    "save it as .docx, .xlsx, .pptx or .pdf": "doc xls ppt xlsb rtf pages numbers wpd mobi azw azw3 djvu vsd",
}
NOT_READ = {kind: why for why, kinds in OTHERS.items() for kind in kinds.split()}


def read_documents(path: PurePath, data: bytes, text_column: str) -> list[Document]:
    """The documents in a file: one, or a row each of CSV, TSV, JSONL and Parquet. A compressed file is unpacked first.

    Raises NoText if there is nothing to find, another ValueError if it cannot be read as what its name says, and
    ImportError if its format needs a package that is not installed.
    """
    kind, name = kind_of(path).lstrip("."), path.as_posix()
    if f".{kind}" in ARCHIVES:
        raise Unreadable("is an archive: unpack it, and sync the folder that comes out")
    if kind in NOT_READ:
        raise Unreadable(f"is not read: {NOT_READ[kind]}")
    try:
        if (suffix := path.suffix.lower()) in COMPRESSIONS:
            with one_line_errors(), unpack(io.BytesIO(data), suffix) as file:
                data = file.read(MAX_UNPACKED_BYTES + 1)
            if len(data) > MAX_UNPACKED_BYTES:
                raise Unreadable(f"unpacks to more than {MAX_UNPACKED_BYTES / 1e6:,.0f} MB: split it")
        if not data.strip():
            raise NoText("is empty")
        with extra("rag", f"Reading .{kind} files"):
            if kind in ROWS:
                if documents := list(_rows(name, data, kind, text_column)):
                    return documents
                raise NoText(f"holds no row with text in {text_column!r}")
            return [_document(name, kind, READERS[kind](name, data) if kind in READERS else {"text": decode(data)})]
    except (Unreadable, ImportError, MemoryError):
        raise
    except RecursionError:
        raise Unreadable("is nested too deeply") from None
    except Exception as error:  # libraries raise all kinds for a broken file
        raise Unreadable(f"is a broken {kind} file ({type(error).__name__}: {first_line(error)[:100]})") from None


def _document(name: str, kind: str, read: dict) -> Document:
    text = storable(read["text"])
    if not text.strip():
        raise NoText("holds no text")
    headings = tuple(Heading(h.start, h.level, storable(h.text)) for h in read.get("headings", ()))
    highest_first = headings and headings[0].level == min(heading.level for heading in headings)
    title = storable(read.get("title", "")).strip() or (headings[0].text if highest_first else "")
    metadata = {"type": kind or "txt", **read.get("metadata", {})}
    return Document(name, text, title, metadata, headings, read.get("pages", ()))


def _rows(name: str, data: bytes, kind: str, text_column: str) -> Iterator[Document]:
    from ...data.rows import parse_rows  # here: it brings datasets along

    with one_line_errors():
        for row in parse_rows(io.BytesIO(data), "it", f".{kind}"):
            if isinstance(row.value, ValueError):
                raise ValueError(f"{row.where} {row.value}")
            if not isinstance(row.value, dict):
                raise ValueError(f"{row.where} is not an object with a field for the text")
            fields = dict(row.value)
            if text_column not in fields:
                reason = f"has no column {text_column!r}, only {', '.join(fields)[:200]}: name one with --text_column"
                raise ValueError(f"{row.where} {reason}")
            text, title = fields.pop(text_column), fields.pop("title", "")
            if text is not None and not isinstance(text, str):
                raise ValueError(f"{row.where} has {type(text).__name__} in {text_column!r}, not text")
            if text and text.strip():
                number = row.line if kind == "jsonl" and row.line else row.number
                title = storable(title) if isinstance(title, str) else ""
                yield Document(f"{name}:{number}", storable(text), title, {"type": kind, **scalars(fields)})
