"""Every format becomes text with its structure; an error is one line."""

import bz2
import gzip
import io
import lzma
from pathlib import PurePosixPath

import pytest

from foliogpt.rag import readers
from foliogpt.rag.readers import NoText, read_documents, reading

pytest.importorskip("selectolax")


def read(name: str, data: bytes | str, column: str = "text"):
    return read_documents(PurePosixPath("/x") / name, data.encode() if isinstance(data, str) else data, column)


def headings(document):
    return [(h.level, h.text, document.text[h.start :].lstrip()[: len(h.text)]) for h in document.headings]


def test_plain_text_is_kept_to_the_byte_in_any_encoding():
    for data in ("naïve\r\ncafé\n", "日本"):
        assert read("a.txt", data)[0].text == data
        assert read("LICENSE", data.encode("utf-16"))[0].text == data
    assert read("a.txt", "Grüße aus Köln, schöne Straßen".encode("cp1252"))[0].text == "Grüße aus Köln, schöne Straßen"
    for name, data in (("a.txt", " \n"), ("a.html", ""), ("a.docx", ""), ("a.csv", "")):
        with pytest.raises(NoText, match=r"^is empty$"):
            read(name, data)
    with pytest.raises(ValueError, match="not text"):
        read("a.txt", bytes(range(256)) * 9)


def test_python_is_read_by_its_docstrings():
    source = (
        '"""Module."""\nclass A:\n    """Class."""\n    def f(self, x=1):\n        """Method."""\ny = "no docstring"\n'
    )
    (document,) = read("mod.py", source)
    assert [h[:2] for h in headings(document)] == [(1, "mod"), (2, "mod.A"), (3, "mod.A.f")]
    assert "mod.A.f(self, x=1)\n\nMethod." in document.text
    assert "no docstring" not in document.text
    with pytest.raises(NoText, match="holds no docstrings"):
        read("mod.py", "x = 1")
    with pytest.raises(ValueError, match=r"^is nested too deeply$"):
        read("mod.py", "-" * 100_000)
    with pytest.raises(ValueError, match=r"^is a broken py file \(SyntaxError: "):
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
        ("a.csv", "body;x\na;b\n", "no column 'text', only body, x: name one"),
        ("a.jsonl", '{"text": " "}', "holds no row with text in 'text'"), ("a.csv", 'text\n"a', "line 2 is not CSV"),
        ("a.jsonl", "[" * 100_000, "nested|not JSON"),
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


def test_numbers_that_no_database_has_are_left_out_of_metadata():
    (row,) = read("a.jsonl", '{"text": "a\\u0000c", "nan": NaN, "big": 18446744073709551616, "n": 1}')
    assert row.text == "a c"
    assert row.metadata == {"type": "jsonl", "n": 1}


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("a.PNG", "it is an image"), ("a.mp3", "it is sound or video"), ("a.woff2", "it is a font"),
        ("a.doc", "save it as .docx"), ("a.rtf", "save it as .docx"),
    ],
)  # fmt: skip
def test_binary_kinds_are_named_as_not_read(name, says):
    with pytest.raises(ValueError, match=rf"^is not read: {says}"):
        read(name, b"\x89 caf\xe9")


def test_archives_and_compressed_bombs_are_rejected(monkeypatch):
    with pytest.raises(ValueError, match=r"^is not read: it is an archive; unpack it"):
        read("a.tar.gz", b"")
    with pytest.raises(ValueError, match=r"^cannot be read: "):
        read("a.jsonl.gz", b"no gzip")
    monkeypatch.setattr(reading, "MAX_UNPACKED_BYTES", 1000)
    with pytest.raises(ValueError, match="unpacks to more than"):
        read("a.txt.bz2", bz2.compress(b"a" * 1001))


@pytest.fixture(scope="module")
def manual():
    return {document.name: document for document in readers.manual_documents()}


def test_manual_has_a_document_for_each_name(manual):
    assert len(manual) > 5000
    assert manual["python-manual/json.dumps"].title == "json.dumps"
    assert not any(name.startswith("python-manual/_") for name in manual)


@pytest.mark.parametrize("name", ["datetime.date.weekday", "decimal.Decimal.sqrt", "io.IOBase", "collections.abc"])
def test_manual_has_modules_written_in_c_under_their_public_names(manual, name):
    document = manual[f"python-manual/{name}"]
    assert document.title == name
    assert document.text.removeprefix("class ").startswith(name)
