"""Files to documents: one function a format, from bytes to text with headings, pages and metadata.

A reader says what is wrong with a file in a ValueError without the file's name. It never fetches or includes anything
that a file names.
"""

import io
import logging
import re
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import PurePath

from ..data.files import ARCHIVES, COMPRESSIONS, kind_of, one_line_error, unpack
from ..jobs.extras import extra
from .documents import DOCUMENT, Document, Heading, Scalar

VERSION = "2"  # of the readers: files that others read are read anew
MAX_UNPACKED_BYTES = 100_000_000  # of a docx
PYTHON_MANUAL = "python-manual"

ATX = re.compile(r"^ {0,3}(#{1,6})[ \t]+(.*?)[ \t]*#*[ \t]*$", re.MULTILINE)
SETEXT = re.compile(r"^ {0,3}(\S.*)\n {0,3}(=+|-+)[ \t]*$", re.MULTILINE)
FENCE = re.compile(r"^ {0,3}(```+|~~~+).*?(?:^ {0,3}\1|\Z)", re.MULTILINE | re.DOTALL)
# A reStructuredText title: a line, and below it, and perhaps above it, one punctuation mark repeated.
RST_TITLE = re.compile(r"^(?:([!-/:-@\[-`{-~])\1*\n)?(\S.*|[ \t]+\S.*)\n([!-/:-@\[-`{-~])\3+[ \t]*$", re.MULTILINE)

HTML_BLOCKS = re.compile(
    "address|article|aside|blockquote|body|br|caption|d[dlt]|details|div|fieldset|figcaption|figure|footer|form|h[1-6]|"
    "header|hr|li|main|nav|ol|p|pre|section|summary|table|t[dhr]|ul"
)
HTML_APART = re.compile("p|h[1-6]|pre|table")  # an empty line stands before these
HTML_UNSEEN = frozenset(["script", "style", "template", "noscript", "svg", "head", "iframe", "object"])


def read_documents(path: PurePath, data: bytes, text_column: str) -> list[Document]:
    """The documents in a file: one, or a row each of CSV, TSV, JSONL and Parquet; none if there is nothing to read.

    A compressed file is unpacked first.

    Raises:
        ValueError: the file cannot be read as what its name says, or is not text.
        ImportError: its format needs a package that is not installed.
    """
    kind = kind_of(path).lstrip(".")
    name = path.as_posix()
    if f".{kind}" in ARCHIVES:
        raise ValueError("is an archive: unpack it, and sync the folder that comes out")
    try:
        data = _unpacked(data, path.suffix.lower())
        if kind in ROWS:
            return list(_row_documents(name, data, kind, text_column))
        with extra("rag", f"Reading .{kind} files"):
            document = READERS.get(kind, _plain)(name, data)
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    return [Document(**{"metadata": {"type": kind or "txt"}, **document})] if document["text"].strip() else []


# Modules written in C, whose docstrings stand in a private one that does the same in Python.
TWINS = {"_pydatetime": "datetime", "_pydecimal": "decimal", "_pyio": "io", "_collections_abc": "collections.abc"}


def manual_documents() -> list[Document]:
    """The manual of the Python that is running, without private names; it has documents "python-manual/<name>"."""
    from ..data.python_manual import is_private, python_manual

    documents = []
    manual = dict(python_manual())
    for name, text in manual.items():
        module, dot, rest = name.partition(".")
        public = TWINS.get(module, module) + dot + rest
        if public not in manual:
            name, text = public, text.replace(module, TWINS[module], 1)  # in the signature that it begins with
        if is_private(name):
            continue
        title = name.removeprefix("topics/")
        documents.append(Document(f"{PYTHON_MANUAL}/{name}", text, title, {"type": PYTHON_MANUAL}))
    return documents


def _unpacked(data: bytes, suffix: str) -> bytes:
    if suffix not in COMPRESSIONS:
        return data
    with _one_line_errors(), unpack(io.BytesIO(data), suffix) as file:
        unpacked = file.read(MAX_UNPACKED_BYTES + 1)
    if len(unpacked) > MAX_UNPACKED_BYTES:
        raise ValueError(f"unpacks to more than {MAX_UNPACKED_BYTES / 1e6:,.0f} MB: split it")
    return unpacked


@contextmanager
def _one_line_errors() -> Iterator[None]:
    """Leave out the file's name in errors, and warnings of a guessed encoding: thousands of files may give them."""
    from ..data import preprocessing  # here: it brings transformers along

    level = preprocessing.logger.level
    preprocessing.logger.setLevel(logging.ERROR)
    try:
        with one_line_error("it"):
            yield
    except ValueError as error:
        reason = re.sub("^it,? ", "", str(error))
        raise ValueError(reason if reason == str(error) else reason.partition(";")[0]) from None
    finally:
        preprocessing.logger.setLevel(level)


def _text(data: bytes) -> str:
    from ..data.preprocessing import decode

    with _one_line_errors():
        return decode(data, "it")


def _plain(name: str, data: bytes) -> dict:
    return {"name": name, "text": _text(data)}


def _markdown(name: str, data: bytes) -> dict:
    text = _text(data)
    fenced = [found.span() for found in FENCE.finditer(text)]
    found = [Heading(m.start(), len(m[1]), m[2]) for m in ATX.finditer(text)]
    found += [Heading(m.start(), 1 if m[2][0] == "=" else 2, m[1].strip()) for m in SETEXT.finditer(text)]
    headings = sorted(
        (h for h in found if h.text and not any(start <= h.start < end for start, end in fenced)), key=lambda h: h.start
    )
    return {"name": name, "text": text, "headings": tuple(headings), "title": _title(headings)}


def _restructured_text(name: str, data: bytes) -> dict:
    """The source as it is, with its titles; roles and directives stay, and nothing is included."""
    text = _text(data)
    styles: list[tuple[str, bool]] = []  # in the order in which they appear, which is what makes their level
    headings = []
    for found in RST_TITLE.finditer(text):
        over, title, under = found[1], found[2], found[3]
        underline = found[0].rstrip().rpartition("\n")[2]
        if (over and over != under) or len(underline) < min(len(title.rstrip()), 4) or title.strip(under) == "":
            continue
        style = (under, bool(over))
        if style not in styles:
            styles.append(style)
        headings.append(Heading(found.start(), styles.index(style) + 1, title.strip()))
    return {"name": name, "text": text, "headings": tuple(headings), "title": _title(headings)}


def _html(name: str, data: bytes) -> dict:
    from bs4 import BeautifulSoup
    from bs4.element import NavigableString, PreformattedString, Tag

    soup = BeautifulSoup(data, "html.parser")
    title = " ".join(soup.title.get_text().split()) if soup.title else ""
    parts, headings, size = [], [], 0

    def add(text: str) -> None:
        nonlocal size
        parts.append(text)
        size += len(text)

    def new_line() -> None:
        if parts and not parts[-1].endswith("\n"):
            add("\n")

    todo: list = [(soup, False)]
    while todo:  # not recursive: a page may be nested as deeply as it likes
        node, is_code = todo.pop()
        if node is None:
            new_line()
        elif isinstance(node, Tag):
            if node.name in HTML_UNSEEN:
                continue
            if HTML_BLOCKS.fullmatch(node.name):
                new_line()
                if HTML_APART.fullmatch(node.name):
                    add("\n")
                todo.append((None, False))
            if re.fullmatch("h[1-6]", node.name) and (words := " ".join(node.get_text().split())):
                headings.append(Heading(size, int(node.name[1]), words))
            todo.extend((child, is_code or node.name == "pre") for child in reversed(node.contents))
        elif isinstance(node, NavigableString) and not isinstance(node, PreformattedString):  # no comments
            text = str(node) if is_code else re.sub(r"\s+", " ", node)
            if not is_code and (not parts or parts[-1].endswith(("\n", " "))):
                text = text.lstrip()
            add(text.replace("\0", " "))
    return {"name": name, "text": "".join(parts), "headings": tuple(headings), "title": title or _title(headings)}


def _pdf(name: str, data: bytes) -> dict:
    from pypdf import PdfReader

    logging.getLogger("pypdf").setLevel(logging.CRITICAL)
    try:
        reader = PdfReader(io.BytesIO(data))
        if reader.is_encrypted and not reader.decrypt(""):
            raise ValueError("is encrypted: save it without its password")
        texts = [page.extract_text() for page in reader.pages]
        title = (reader.metadata and reader.metadata.title) or ""
    except (ValueError, RecursionError):
        raise
    except Exception as error:  # pypdf lets through whatever a broken file leads to
        reason = "is encrypted" if "cryptography" in str(error) else "is a broken PDF"
        raise ValueError(f"{reason} ({' '.join(str(error).split())[:100] or type(error).__name__})") from None
    parts = [f"{_clean(page)}\n\n" for page in texts]
    text, pages = "".join(parts), accumulate(map(len, parts[:-1]), initial=0)
    if texts and not text.strip():
        raise ValueError("has pages and no text: it was scanned; run text recognition on it first")
    return {"name": name, "text": text, "pages": tuple(pages), "title": _clean(str(title)).strip()}


def _docx(name: str, data: bytes) -> dict:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except zipfile.BadZipFile:
        raise ValueError("is not a docx file") from None
    if unpacked > MAX_UNPACKED_BYTES:  # what zipfile unpacks never exceeds what is declared
        raise ValueError(f"unpacks to {unpacked / 1e6:,.0f} MB, more than {MAX_UNPACKED_BYTES / 1e6:,.0f}")
    import docx
    from docx.table import Table

    text, headings = "", []
    try:
        opened = docx.Document(io.BytesIO(data))  # python-docx resolves no entities
        for block in opened.iter_inner_content():
            if isinstance(block, Table):
                text += "\n".join("\t".join(cell.text for cell in row.cells) for row in block.rows) + "\n\n"
                continue
            style = (block.style.name if block.style is not None else "") or ""
            level = re.fullmatch(r"Heading (\d)|(Title)", style)
            if level and block.text.strip():
                headings.append(Heading(len(text), int(level[1] or 1), block.text.strip()))
            text += block.text + "\n\n"
        title = opened.core_properties.title or _title(headings)
    except RecursionError:
        raise
    except Exception as error:  # lxml's, zipfile's and KeyErrors for parts that are missing
        raise ValueError(f"is a broken docx ({' '.join(str(error).split())[:100]})") from None
    return {"name": name, "text": text, "headings": tuple(headings), "title": title}


def _python(name: str, data: bytes) -> dict:
    """The docstrings, each under the signature of what it describes."""
    from ..data.python_manual import docstrings_in

    try:
        found = docstrings_in(data, PurePath(name).stem)
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"is not Python ({error.__class__.__name__}: {' '.join(str(error).split())[:100]})") from None
    text, headings = "", []
    for dotted, title, body in found:
        headings.append(Heading(len(text), dotted.count(".") + 1, dotted))
        text += f"{title}\n\n{body}\n\n"
    return {"name": name, "text": text.replace("\0", " "), "headings": tuple(headings), "title": PurePath(name).stem}


def _row_documents(name: str, data: bytes, kind: str, text_column: str) -> Iterator[Document]:
    from ..data.rows import parse_rows  # here: it brings datasets along

    with _one_line_errors():
        for row in parse_rows(io.BytesIO(data), "it", f".{kind}"):
            if isinstance(row.value, ValueError):
                raise ValueError(f"{row.where} {row.value}")
            if not isinstance(row.value, dict):
                raise ValueError(f"{row.where} is not an object with a field for the text")
            if _has_text(row.value, text_column, row.where):
                number = row.line if kind == "jsonl" and row.line else row.number
                yield _row_document(f"{name}:{number}", row.value, text_column, kind)


def _has_text(row: dict, text_column: str, where: str) -> bool:
    if text_column not in row:
        columns = ", ".join(row)[:200]
        raise ValueError(f"{where} has no column {text_column!r}, only {columns}: name one with --text_column")
    text = row[text_column]
    if text is not None and not isinstance(text, str):
        raise ValueError(f"{where} has {type(text).__name__} in {text_column!r}, not text")
    return bool(text and text.strip())


def _row_document(name: str, row: dict, text_column: str, kind: str) -> Document:
    title = row.get("title")
    rest = {
        key: value
        for key, value in row.items()
        if key not in (text_column, "title", DOCUMENT) and isinstance(value, Scalar) and key and '"' not in key
    }
    text, title = row[text_column].replace("\0", " "), title if isinstance(title, str) else ""
    return Document(name, text, title, {"type": kind, **rest})


def _title(headings: list[Heading]) -> str:
    return headings[0].text if headings and headings[0].level == min(h.level for h in headings) else ""


def _clean(text: str) -> str:
    """Without what cannot be stored: NULs, and halves of characters that a PDF's fonts may give."""
    return text.replace("\0", " ").encode("utf-8", "replace").decode()


READERS: dict[str, Callable[[str, bytes], dict]] = {
    "md": _markdown, "markdown": _markdown, "rst": _restructured_text, "html": _html, "htm": _html, "xhtml": _html,
    "pdf": _pdf, "docx": _docx, "py": _python,
}  # fmt: skip
ROWS = ("jsonl", "csv", "tsv", "parquet")
