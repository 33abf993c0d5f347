"""Reading a file: the reader for its kind, rows, and the messages if there is no reader or no text."""

import io
import re
from collections.abc import Callable, Iterator
from pathlib import PurePath

from ...data.files import ARCHIVES, COMPRESSIONS, kind_of, one_line_error, unpack
from ...jobs.errors import first_line
from ...jobs.extras import extra
from ..documents import Document, Heading
from .html import html
from .mail import mail
from .markup import latex, markdown, restructured_text
from .office import epub, open_document, powerpoint, spreadsheet, word
from .pdf import pdf
from .python import module, notebook
from .text import MAX_UNPACKED_BYTES, NAME, NoText, Unreadable, decode, scalars, storable

VERSION = "3"  # of the readers: files that another version has read are read again
ROWS = ("jsonl", "csv", "tsv", "parquet")

READERS: dict[str, Callable[[str, bytes], dict]] = {
    "md": markdown, "markdown": markdown, "rst": restructured_text, "tex": latex, "html": html, "htm": html,
    "xhtml": html, "pdf": pdf, "docx": word, "pptx": powerpoint, "xlsx": spreadsheet, "odt": open_document,
    "ods": open_document, "odp": open_document, "epub": epub, "eml": mail, "ipynb": notebook, "py": module,
}  # fmt: skip
UNREADABLE = {  # the reason or the remedy: kinds
    "it is an archive; unpack it, and sync the folder": "".join(ARCHIVES).replace(".", " "),
    "it is an image": "png jpg jpeg gif bmp tif tiff webp ico heic avif psd",
    "it is sound or video": "mp3 wav flac ogg m4a aac mp4 mkv avi mov webm mpg mpeg",
    "it is a font": "ttf otf woff woff2",
    "save it as .docx, .xlsx, .pptx or .pdf": "doc xls ppt xlsb rtf pages numbers wpd mobi azw azw3 djvu vsd",
}


def read_documents(path: PurePath, data: bytes, text_column: str) -> list[Document]:
    """Read a file, unpacked if it is compressed: one document, or one for each row of CSV, TSV, JSONL and Parquet.

    Raises NoText without text, Unreadable for another format than the name's, ImportError without the format's package.
    """
    kind, name = kind_of(path).lstrip("."), path.as_posix()
    if reason := next((reason for reason, kinds in UNREADABLE.items() if kind in kinds.split()), None):
        raise Unreadable(f"is not read: {reason}")
    try:
        if (suffix := path.suffix.lower()) in COMPRESSIONS:
            with one_line_error(NAME), unpack(io.BytesIO(data), suffix) as file:
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
        ours = re.match(f"{NAME},? ([^;]*)", str(error)) if type(error) is ValueError else None
        broken = f"is a broken {kind} file ({type(error).__name__}: {first_line(error)[:100]})"
        raise Unreadable(ours[1] if ours else broken) from None


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
    from ...data.rows import parse_rows  # here: it imports datasets

    for row in parse_rows(io.BytesIO(data), NAME, f".{kind}"):
        if not isinstance(row.value, dict):
            wrong = row.value if isinstance(row.value, ValueError) else "is not an object with columns"
            raise Unreadable(f"{row.where} {wrong}")
        fields = dict(row.value)
        if text_column not in fields:
            has = f"no column {text_column!r}, only {', '.join(fields)[:200]}"
            raise Unreadable(f"{row.where} has {has}: name one with --text_column")
        text, title = fields.pop(text_column), fields.pop("title", "")
        if text is not None and not isinstance(text, str):
            raise Unreadable(f"{row.where} has {type(text).__name__} in {text_column!r}, not text")
        if text and text.strip():
            number = row.line if kind == "jsonl" and row.line else row.number
            title = storable(title) if isinstance(title, str) else ""
            yield Document(f"{name}:{number}", storable(text), title, {"type": kind, **scalars(fields)})
