"""Mutated files end in documents or in a ValueError, and soon: no reader hangs, crashes or raises anything else."""

import io
import random
import time
import zipfile

import pytest
from reading import archive, read
from test_office import paragraph, run, word_file
from test_pdf import pdf

from foliogpt.rag import Document

SECONDS = 5  # the most that a file of these sizes may take


def office_file(kind: str) -> bytes:
    file = io.BytesIO()
    if kind == "xlsx":
        book = pytest.importorskip("openpyxl").Workbook()
        book.active.append(["a", 1, 2.5])
        book.save(file)
    else:
        show = pytest.importorskip("pptx").Presentation()
        show.slides.add_slide(show.slide_layouts[0]).shapes.title.text = "title"
        show.save(file)
    return file.getvalue()


SEEDS = {
    "html": lambda: b"<title>t</title>"
    b"<h1>a</h1><p hidden>b<table><tr><td>c<pre>d</pre></table><svg/><!-- e --><dl><dt>f",
    "xhtml": lambda: b'<?xml version="1.0"?><html><head><title/></head><body><p id="a"/>b</body></html>',
    "md": lambda: b"---\ntitle: t\n---\n# a\n\n- b\n\n```\nc\n```\n> d\n\ne\n===\n[f]: g\n<div>\n",
    "rst": lambda: b"===\na\n===\n\nb\n---\n\n.. c::\n\n* d\n",
    "tex": lambda: b"\\title{a}\n\\section*[b]{c{d}}\n% e\n",
    "docx": lambda: word_file(paragraph(run("a"), "H2") + f"<w:tbl><w:tr><w:tc>{paragraph('b')}</w:tc></w:tr></w:tbl>"),
    "odt": lambda: archive({"content.xml": '<o xmlns:text="t"><text:h text:outline-level="1">a</text:h></o>'}),
    "pptx": lambda: office_file("pptx"), "xlsx": lambda: office_file("xlsx"), "pdf": lambda: pdf("a b", "c"),
    "eml": lambda: b"Subject: =?utf-8?q?a?=\nContent-Type: multipart/mixed; boundary=b\n\n--b\n\nc\n--b--\n",
    "ipynb": lambda: b'{"cells": [{"cell_type": "code", "source": ["a"], "outputs": [{"text": "b"}]}]}',
    "py": lambda: b'"""a"""\nclass B:\n    def c(self, d=1):\n        """e"""\n',
    "csv": lambda: b'text,b\n"a, ""c""",1\n', "jsonl": lambda: b'{"text": "a", "b": [1, null]}\n',
    "txt": lambda: "aé\r\n日本".encode("utf-16"),
}  # fmt: skip


def mutated_file(data: bytes, chance: random.Random) -> bytes:
    """A mutated copy; of an archive, often one with a mutated part, which its checksum would else give away."""
    if not data.startswith(b"PK") or chance.random() < 0.3:
        return mutated(data, chance)
    with zipfile.ZipFile(io.BytesIO(data)) as opened:
        parts = {name: opened.read(name) for name in opened.namelist()}
    name = chance.choice(list(parts))
    return archive({**parts, name: mutated(parts[name], chance)})


def mutated(data: bytes, chance: random.Random) -> bytes:
    """A copy with bytes changed, and with pieces dropped, repeated many times or moved."""
    copy = bytearray(data)
    for _ in range(chance.randint(1, 6)):
        if not copy:
            break
        start = chance.randrange(len(copy))
        end = min(start + chance.choice([1, 2, 8, 64]), len(copy))
        piece = bytes(copy[start:end])
        how = chance.randrange(5)
        if how == 0:
            copy[start:end] = chance.randbytes(end - start)
        elif how == 1:
            del copy[start:end]
        elif how == 2:
            copy[start:end] = piece * chance.choice([2, 100, 3000])
        elif how == 3:
            at = chance.randrange(len(copy) + 1)
            copy[at:at] = piece
        else:
            copy[start] ^= 1 << chance.randrange(8)
    return bytes(copy)


@pytest.mark.parametrize("kind", SEEDS)
def test_mutated_files_are_read_or_rejected(kind):
    check_mutations(kind, rounds=40)


def check_mutations(kind: str, rounds: int) -> None:
    seed, chance = SEEDS[kind](), random.Random(kind)
    for _ in range(rounds):
        data = mutated_file(seed, chance)
        start, reason = time.process_time(), ""
        try:
            document = read(f"a.{kind}", data)
            assert isinstance(document, Document)
            assert all(0 <= heading.start < len(document.text) for heading in document.headings)
        except ValueError as error:
            reason = str(error)
        assert "\n" not in reason
        assert time.process_time() - start < SECONDS, data
