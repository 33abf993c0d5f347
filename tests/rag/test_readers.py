"""Every format becomes text with its structure; what is wrong with a file is said in one line."""

import bz2
import gzip
import io
import lzma
import zipfile
from pathlib import PurePosixPath

import pytest

from foliogpt.rag import readers
from foliogpt.rag.readers import read_documents

pytest.importorskip("bs4")
docx = pytest.importorskip("docx")
pypdf = pytest.importorskip("pypdf")


def read(name: str, data: bytes | str, column: str = "text"):
    return read_documents(PurePosixPath("/x") / name, data.encode() if isinstance(data, str) else data, column)


def headings(document):
    return [(h.level, h.text, document.text[h.start :].lstrip()[: len(h.text)]) for h in document.headings]


def test_plain_text_is_kept_to_the_byte_in_any_encoding():
    for data in ("naïve\r\ncafé\n", "日本"):
        assert read("a.txt", data)[0].text == data
        assert read("LICENSE", data.encode("utf-16"))[0].text == data
    assert read("a.txt", "Grüße aus Köln, schöne Straßen".encode("cp1252"))[0].text == "Grüße aus Köln, schöne Straßen"
    assert read("a.txt", " \n") == []
    with pytest.raises(ValueError, match="not text"):
        read("a.txt", bytes(range(256)) * 9)


def test_markdown_headings_are_those_outside_code():
    text = "# One\n\ntext\n\nTwo\n---\n\n```\n# no heading\n```\n### Three ###\n    # code\n#hashtag\n"
    (document,) = read("a.md", text)
    assert document.text == text
    assert [heading[:2] for heading in headings(document)] == [(1, "One"), (2, "Two"), (3, "Three")]
    assert document.title == "One"


def test_restructured_text_levels_are_in_the_order_of_their_styles():
    text = (
        "=====\nTitle\n=====\n\nPart\n====\n\ntext\n\nSub\n---\n\n.. include:: /etc/passwd\n\nOther\n=====\n\na | b\n"
    )
    (document,) = read("a.rst", text)
    assert [h[:2] for h in headings(document)] == [(1, "Title"), (2, "Part"), (3, "Sub"), (2, "Other")]
    assert document.text == text


def test_html_is_read_as_a_browser_shows_it():
    page = (
        "<!doctype html><html><head><title>The  page</title><style>p{}</style></head><body><!-- no --><h1>Top</h1>"
        "<p>A <b>bold</b>\n word&amp;more.</p><script>no()</script><ul><li>one<li>two</ul><h2>Sub</h2>"
        "<pre>  kept\n  so</pre><table><tr><td>a</td><td>b</td></tr></table>"
    )
    (document,) = read("a.html", page)
    assert document.title == "The page"
    assert headings(document) == [(1, "Top", "Top"), (2, "Sub", "Sub")]
    assert "A bold word&more.\n" in document.text
    assert "one\ntwo\n" in document.text
    assert "  kept\n  so" in document.text
    assert not {"no()", "p{}", " no "} & set(document.text.split("\n"))
    assert read("a.html", "<div>" * 20_000 + "deep")[0].text.strip() == "deep"
    assert read("a.html", '<meta charset="cp1252"><p>Käse'.encode("cp1252"))[0].text.strip() == "Käse"


def pdf(*texts: str, password: str | None = None) -> bytes:
    """A PDF with a page for each text."""
    from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject

    writer = pypdf.PdfWriter()
    for text in texts:
        page = writer.add_blank_page(300, 300)
        font = DictionaryObject({"/Type": "/Font", "/Subtype": "/Type1", "/BaseFont": "/Helvetica"}.items())
        font = DictionaryObject({NameObject(k): NameObject(v) for k, v in font.items()})
        fonts = DictionaryObject({NameObject("/F1"): writer._add_object(font)})
        page[NameObject("/Resources")] = DictionaryObject({NameObject("/Font"): fonts})
        content = DecodedStreamObject()
        content.set_data(f"BT /F1 12 Tf 20 200 Td ({text}) Tj ET".encode() if text else b"")
        page[NameObject("/Contents")] = writer._add_object(content)
    if password is not None:
        writer.encrypt(password, algorithm="RC4-128")
    writer.write(file := io.BytesIO())
    return file.getvalue()


def test_a_pdf_has_pages():
    (document,) = read("a.pdf", pdf("first page", "second page"))
    assert document.text.split() == ["first", "page", "second", "page"]
    assert document.text[document.pages[1] :].startswith("second")
    assert read("a.pdf", pdf("open to all", password=""))[0].text.split() == ["open", "to", "all"]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (lambda: pdf("secret", password="key"), "encrypted"), (lambda: pdf("", ""), "scanned"),
        (lambda: pdf("x")[:200], "broken PDF"), (lambda: b"no pdf", "broken PDF"), (lambda: b"", "broken PDF"),
    ],
)  # fmt: skip
def test_a_pdf_without_readable_text_says_why(data, says):
    with pytest.raises(ValueError, match=says):
        read("a.pdf", data())


def word_file(change=None) -> bytes:
    document = docx.Document()
    document.add_heading("Report", 1)
    document.add_paragraph("First paragraph.")
    document.add_heading("Details", 2)
    table = document.add_table(1, 2)
    table.cell(0, 0).text, table.cell(0, 1).text = "left", "right"
    document.save(file := io.BytesIO())
    if change is None:
        return file.getvalue()
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(changed := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return changed.getvalue()


def test_a_docx_has_headings_and_tables_in_order():
    (document,) = read("a.docx", word_file())
    assert headings(document) == [(1, "Report", "Report"), (2, "Details", "Details")]
    assert document.text.split("\n\n")[:4] == ["Report", "First paragraph.", "Details", "left\tright"]


def test_bombs_in_a_docx_do_not_go_off(monkeypatch):
    monkeypatch.setattr(readers, "MAX_UNPACKED_BYTES", 2_000_000)
    bomb = word_file(lambda name, data: b"\0" * 3_000_000 if name == "docProps/app.xml" else data)
    assert len(bomb) < 100_000
    with pytest.raises(ValueError, match="unpacks to"):
        read("a.docx", bomb)
    entities = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 12))
    lol = f'<!DOCTYPE lol [<!ENTITY e0 "lol">{entities}<!ENTITY file SYSTEM "file:///etc/passwd">]>'.encode()

    def with_entities(name, data):
        if name != "word/document.xml":
            return data
        return data.replace(b"<w:document ", lol + b"<w:document ", 1).replace(b"First paragraph", b"A &e11;&file; B")

    try:
        text = "".join(document.text for document in read("a.docx", word_file(with_entities)))
    except ValueError as error:
        text = str(error)
    assert "root:" not in text
    assert len(text) < 10_000
    with pytest.raises(ValueError, match="not a docx"):
        read("a.docx", b"PK nonsense")


def test_python_is_read_by_its_docstrings():
    source = (
        '"""Module."""\nclass A:\n    """Class."""\n    def f(self, x=1):\n        """Method."""\ny = "no docstring"\n'
    )
    (document,) = read("mod.py", source)
    assert [h[:2] for h in headings(document)] == [(1, "mod"), (2, "mod.A"), (3, "mod.A.f")]
    assert "mod.A.f(self, x=1)\n\nMethod." in document.text
    assert "no docstring" not in document.text
    assert read("mod.py", "x = 1") == []
    with pytest.raises(ValueError, match="not Python"):
        read("mod.py", "def (")


def test_a_row_is_a_document_with_its_other_columns_as_metadata():
    rows = (
        '{"text": "one", "title": "T", "year": 2001, "tags": ["a"], "none": null}\n\n{"text": " "}\n{"text": "two"}\n'
    )
    first, second = read("a.jsonl", rows)
    assert (first.name, first.text, first.title) == ("/x/a.jsonl:1", "one", "T")
    assert first.metadata == {"type": "jsonl", "year": 2001}
    assert second.name == "/x/a.jsonl:4"
    (row,) = read("a.csv", 'body,kind\n"a, ""b""\nc",x\n,y\n', column="body")
    assert (row.text, row.metadata) == ('a, "b"\nc', {"type": "csv", "kind": "x"})
    assert read("a.tsv", f"text\n{'x' * 200_000}\n")[0].text == "x" * 200_000


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("a.jsonl", '{"text": "a"}\n{"text": ', "line 2 is not JSON"), ("a.jsonl", "[1]", "row 1 is not an object"),
        ("a.jsonl", '{"body": "a"}', "--text_column"), ("a.jsonl", '{"text": 5}', "not text"),
        ("a.csv", "text\na,b\n", "line 2 has 2 fields, and the header 1"),
        ("a.csv", "body;x\na\n", "no column 'text', only body;x: name one"),
        ("a.csv", 'text\n"a', "line 2 is not CSV"), ("a.jsonl", "[" * 100_000, "nested|not JSON"),
    ],
)  # fmt: skip
def test_rows_that_cannot_be_read_are_named(name, data, says):
    with pytest.raises(ValueError, match=says):
        read(name, data)


def test_compressed_files_and_parquet_are_read_as_their_contents():
    import pyarrow

    rows = '{"text": "one"}\n{"text": "two"}\n'
    assert [d.name for d in read("a.jsonl.gz", gzip.compress(rows.encode()))] == ["/x/a.jsonl.gz:1", "/x/a.jsonl.gz:2"]
    assert read("a.md.xz", lzma.compress(b"# One\n\ntext"))[0].title == "One"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["one"], "year": [2001]}), file := io.BytesIO())
    (document,) = read("a.parquet", file.getvalue())
    assert (document.name, document.text, document.metadata["year"]) == ("/x/a.parquet:1", "one", 2001)


def test_archives_and_compressed_bombs_are_refused(monkeypatch):
    with pytest.raises(ValueError, match=r"^is an archive: unpack it"):
        read("a.tar.gz", b"")
    with pytest.raises(ValueError, match=r"^cannot be read: "):
        read("a.jsonl.gz", b"no gzip")
    monkeypatch.setattr(readers, "MAX_UNPACKED_BYTES", 1000)
    with pytest.raises(ValueError, match="unpacks to more than"):
        read("a.txt.bz2", bz2.compress(b"a" * 1001))


@pytest.fixture(scope="module")
def manual():
    return {document.name: document for document in readers.manual_documents()}


def test_the_manual_is_a_document_a_name(manual):
    assert len(manual) > 5000
    assert manual["python-manual/json.dumps"].title == "json.dumps"
    assert not any(name.startswith("python-manual/_") for name in manual)


@pytest.mark.parametrize("name", ["datetime.date.weekday", "decimal.Decimal.sqrt", "io.IOBase", "collections.abc"])
def test_what_is_written_in_c_is_in_the_manual_under_its_public_name(manual, name):
    document = manual[f"python-manual/{name}"]
    assert document.title == name
    assert document.text.removeprefix("class ").startswith(name)
