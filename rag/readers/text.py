"""Bytes to text, metadata that an index can store, and what readers say of a file, which is without its name."""

import datetime
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from ...data.files import one_line_error
from ..documents import DOCUMENT, Heading, Scalar, is_storable

# What pages and mails name. Python knows others, some of which take quadratic time.
ENCODING = re.compile(r"(iso|windows|cp|koi8|gb|big5|euc|shift|sjis|mac|latin|tis|utf)[\w-]*", re.IGNORECASE)
WESTERN = re.compile(r"(iso-?8859-?1|latin-?1)", re.IGNORECASE)  # Windows' encoding, as browsers read it


class Unreadable(ValueError):
    """A file that cannot be read as what its name says. The message is one line."""


class NoText(Unreadable):
    """A file that was read and has nothing to find."""


def decode(data: bytes, encoding: str = "") -> str:
    """Decode text in the encoding that it names, if that fits, otherwise in the one that it seems to have."""
    from ...data import preprocessing  # here: it brings transformers along

    if ENCODING.fullmatch(encoding) and not data.startswith(tuple(preprocessing.BYTE_ORDER_MARKS)):
        with suppress(LookupError, UnicodeError):
            return data.decode("cp1252" if WESTERN.fullmatch(encoding) else encoding)
    with one_line_errors():
        return preprocessing.decode(data, "it")


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Leave out the file's name in errors, and warnings of a guessed encoding: thousands of files may give them."""
    from ...data import preprocessing

    level = preprocessing.logger.level
    preprocessing.logger.setLevel(logging.ERROR)
    try:
        with one_line_error("it"):
            yield
    except ValueError as error:
        reason = re.sub("^it,? ", "", str(error))
        raise Unreadable(reason if reason == str(error) else reason.partition(";")[0]) from None
    finally:
        preprocessing.logger.setLevel(level)


def storable(text: str) -> str:
    """The text with a space for each NUL and "?" for each half of a character."""
    return text.replace("\0", " ").encode("utf-8", "replace").decode()


def scalars(fields: Mapping) -> dict[str, Scalar]:
    """The fields that metadata can have: text, dates, booleans, and numbers that a database has."""
    kept: dict[str, Scalar] = {}
    for key, value in fields.items():
        value = value.isoformat() if isinstance(value, datetime.date) else value
        is_named = isinstance(key, str) and key and key != DOCUMENT and '"' not in key
        if is_named and isinstance(value, Scalar) and is_storable(value):
            kept[storable(key)] = storable(value) if isinstance(value, str) else value
    return kept


def joined(parts: list[dict], title: str = "", are_pages: bool = False) -> dict:
    """The parts of a file as one text with their headings."""
    text, headings, pages, size = [], [], [], 0
    for part in parts:
        pages.append(size)
        headings += [Heading(size + h.start, h.level, h.text) for h in part.get("headings", ())]
        text.append(part["text"].strip("\n") + "\n\n")
        size += len(text[-1])
    return {"text": "".join(text), "headings": headings, "title": title, "pages": tuple(pages) if are_pages else ()}
