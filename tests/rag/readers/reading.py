"""What the tests of all readers share."""

import io
import re
import zipfile
from collections import Counter
from pathlib import PurePosixPath

from foliogpt.rag.readers import read_documents


def read(name: str, data: bytes | str):
    """The document in a file, and `headings` as (level, words, the text where they should stand)."""
    (document,) = read_documents(PurePosixPath("/x") / name, data.encode() if isinstance(data, str) else data, "text")
    return document


def headings(document):
    return [(h.level, h.text) for h in document.headings]


def headings_stand_where_they_say(document) -> bool:
    return all(document.text[h.start :].lstrip().startswith(h.text[:10]) for h in document.headings)


def words(text: str) -> Counter:
    return Counter(re.findall(r"\w+", text))


def archive(parts: dict[str, str | bytes]) -> bytes:
    with zipfile.ZipFile(file := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as opened:
        for name, data in parts.items():
            opened.writestr(name, data)
    return file.getvalue()
