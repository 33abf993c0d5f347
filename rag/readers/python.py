"""Python: modules and the manual by their docstrings, notebooks by their cells."""

import json
import re
from pathlib import PurePath

from ..documents import Document, Heading
from .markup import markdown_headings
from .text import NoText, decode, joined

PYTHON_MANUAL = "python-manual"
# The docstrings of modules written in C are in a private module that does the same in Python.
PUBLIC_NAME = {"_pydatetime": "datetime", "_pydecimal": "decimal", "_pyio": "io", "_collections_abc": "collections.abc"}
TERMINAL = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def manual_documents() -> list[Document]:
    """Return the manual of the running Python as documents "python-manual/<name>", without private names."""
    from ...data.python_manual import is_private, python_manual

    documents, manual = [], dict(python_manual())
    for name, text in manual.items():
        module, dot, rest = name.partition(".")
        public = PUBLIC_NAME.get(module, module) + dot + rest
        if public not in manual:
            name, text = public, text.replace(module, PUBLIC_NAME[module], 1)  # in the signature at its start
        if not is_private(name):
            title = name.removeprefix("topics/")
            documents.append(Document(f"{PYTHON_MANUAL}/{name}", text, title, {"type": PYTHON_MANUAL}))
    return documents


def module(name: str, data: bytes) -> dict:
    """Read the docstrings of a module, each after the signature that it describes."""
    from ...data.python_manual import docstrings_in

    try:
        found = docstrings_in(data, PurePath(name).stem)
    except MemoryError:  # raised by the parser; the machine has memory
        raise RecursionError from None
    if not found:
        raise NoText("holds no docstrings")
    parts = [{"text": f"{t}\n\n{body}", "headings": (Heading(0, n.count(".") + 1, n),)} for n, t, body in found]
    return joined(parts, PurePath(name).stem)


def notebook(name: str, data: bytes) -> dict:
    book = json.loads(decode(data))
    sheets = book.get("worksheets") or [book]  # in notebooks from before 2015
    parts = []
    for cell in [cell for sheet in sheets for cell in sheet["cells"]]:
        source = "".join(cell.get("source", cell.get("input", "")))  # a text, or its lines
        headings = markdown_headings(source) if cell["cell_type"] == "markdown" else ()
        parts.append({"text": source, "headings": headings})
        for output in cell.get("outputs", []):
            shown = output.get("data", output)
            texts = shown.get("text", shown.get("text/plain", shown.get("text/markdown", ""))), output.get("evalue", "")
            parts += [{"text": TERMINAL.sub("", "".join(text))} for text in texts if text]
    return joined(parts)
