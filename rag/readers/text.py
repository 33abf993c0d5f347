"""Decoding, metadata that an index can store, and errors of readers, which do not name the file."""

import datetime
import re
from collections.abc import Mapping
from contextlib import suppress

from ..documents import DOCUMENT, Heading, Scalar, is_storable

# Encodings of web pages and mails. Some others that Python has take quadratic time.
ENCODING = re.compile(r"(iso|windows|cp|koi8|gb|big5|euc|shift|sjis|mac|latin|tis|utf)[\w-]*", re.IGNORECASE)
MAX_UNPACKED_BYTES = 100_000_000  # of a compressed file, or an archive that is a document
NAME = "it"  # of the file in errors of `data`; `read_documents` removes it
WESTERN = re.compile(r"(iso-?8859-?1|latin-?1)", re.IGNORECASE)  # Windows' encoding, as browsers read it


class Unreadable(ValueError):
    """A file that does not have the format of its name. The message is one line."""


class NoText(Unreadable):
    """A file that was read and has no text."""


def decode(data: bytes, encoding: str = "") -> str:
    """Decode text in the given encoding, if that succeeds, otherwise in the one that it seems to have."""
    from ...data import preprocessing  # here: it imports transformers

    if ENCODING.fullmatch(encoding) and not data.startswith(tuple(preprocessing.BYTE_ORDER_MARKS)):
        with suppress(LookupError, UnicodeError):
            return data.decode("cp1252" if WESTERN.fullmatch(encoding) else encoding)
    return preprocessing.decode(data, NAME)


def storable(text: str) -> str:
    """Replace each NUL by a space, and each half of a character (a surrogate) by "?"."""
    return text.replace("\0", " ").encode("utf-8", "replace").decode()


def scalars(fields: Mapping) -> dict[str, Scalar]:
    """Select the fields that metadata can have: text, dates, booleans, and numbers that a database can store."""
    kept: dict[str, Scalar] = {}
    for key, value in fields.items():
        value = value.isoformat() if isinstance(value, datetime.date) else value
        is_name = isinstance(key, str) and key and key != DOCUMENT and '"' not in key
        if is_name and is_storable(value):
            kept[storable(key)] = storable(value) if isinstance(value, str) else value
    return kept


def joined(parts: list[dict], title: str = "", are_pages: bool = False) -> dict:
    """Join the parts of a file to one text with their headings."""
    text, headings, pages, size = [], [], [], 0
    for part in parts:
        pages.append(size)
        headings += [Heading(size + h.start, h.level, h.text) for h in part.get("headings", ())]
        text.append(part["text"].strip("\n") + "\n\n")
        size += len(text[-1])
    return {"text": "".join(text), "headings": headings, "title": title, "pages": tuple(pages) if are_pages else ()}
