import bz2
import csv
import gzip
import json
import logging
import lzma
import pickle
import random
import traceback
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from foliogpt.data import corpus_files
from foliogpt.data.corpora import load_corpus, load_documents
from foliogpt.data.rows import rows_in_file as rows

pytestmark = pytest.mark.usefixtures("private_datasets_cache")


def write_jsonl(path: Path, rows: list) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def documents(part) -> list[tuple[str, str]]:
    return [(row["name"], row["text"]) for row in part]


def both(corpus) -> dict[str, list[tuple[str, str]]]:
    assert list(corpus) == ["train", "validation"]
    return {split: documents(part) for split, part in corpus.items()}


def numbered(count: int) -> list[dict]:
    return [{"text": f"text number {number}"} for number in range(count)]


@pytest.mark.parametrize("name", ["wikitext-2/valid.txt", "movie_dialogs/movie_lines.txt"])
def test_real_text_files_are_read_whole(shared_data, name):
    corpus = load_corpus(str(shared_data / name))
    texts = [part[0]["text"] for part in corpus.values()]
    assert "".join(texts).encode() == (shared_data / name).read_bytes()


def test_a_file_that_is_not_utf_8_is_read_with_a_warning(tmp_path, caplog):
    text = "Le garçon préfère les oeufs à la crème brûlée. " * 50
    (tmp_path / "old.txt").write_bytes(text.encode("latin-1"))
    corpus = both(load_corpus(str(tmp_path / "old.txt")))
    assert corpus["train"][0][1] + corpus["validation"][0][1] == text
    assert "read as cp1252" in caplog.text


def test_a_folder_is_read_recursively_and_what_is_skipped_is_counted_once(tmp_path, caplog):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.txt").write_text("a text outside of the folder")
    folder = tmp_path / "folder"
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("a hidden text")
    (folder / "b.txt").write_text("the text b of the folder")
    (folder / "deep" / "er" / "a.md").write_text("the text a of the folder")
    (folder / "image.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0")
    (folder / "empty.txt").write_text("")
    (folder / "link").symlink_to(outside)
    (folder / "link.txt").symlink_to(outside / "secret.txt")
    write_jsonl(folder / "rows.jsonl", [{"text": "the first row of rows"}, {"text": "the second row of rows"}])
    with caplog.at_level(logging.WARNING):
        corpus = both(load_corpus(str(folder)))
    assert [name for name, _ in corpus["train"]] == ["b.txt", "deep/er/a.md", "rows.jsonl:1", "rows.jsonl:2"]
    messages = [record.getMessage() for record in caplog.records if record.name.startswith("foliogpt")]
    assert messages == [f"{folder}: files skipped: 5 (1 empty, 1 hidden, 1 not text, 2 symbolic link)"]


def test_a_pattern_names_files_by_their_path_below_its_fixed_part(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("a.md", "b.txt", "sub/c.md"):
        (tmp_path / name).write_text("some text that can be split")
    names = {
        pattern: [name for name, _ in documents(load_corpus(f"{tmp_path}/{pattern}")["train"])]
        for pattern in ("*.md", "**/*.md", "**", "sub/*")
    }
    assert names == {
        "*.md": ["a.md"],
        "**/*.md": ["a.md", "sub/c.md"],
        "**": ["a.md", "b.txt", "sub/c.md"],
        "sub/*": ["c.md"],
    }


def test_a_file_whose_name_looks_like_a_pattern_is_read(tmp_path):
    (tmp_path / "a[1].txt").write_text("some text that can be split")
    write_jsonl(tmp_path / "b[1].jsonl", [{"text": "some text that can be split"}])
    assert documents(load_corpus(str(tmp_path / "a[1].txt"))["train"])[0][0] == "a[1].txt"
    assert documents(load_corpus(str(tmp_path / "b[1].jsonl"))["train"])[0][0] == "b[1].jsonl:1"


ROWS = [f'text "{number}", with a comma\nand a line' for number in range(12)] + ["None", "1984"]


@pytest.fixture(params=["jsonl", "json", "csv", "tsv", "parquet"])
def rows_file(request, tmp_path) -> Path:
    path = tmp_path / f"rows.{request.param}"
    table = datasets.Dataset.from_dict({"id": list(range(len(ROWS))), "body": ROWS})
    if request.param == "json":
        path.write_text(json.dumps(list(table)))
    elif request.param == "jsonl":
        table.to_json(path)
    elif request.param == "parquet":
        table.to_parquet(path)
    else:
        table.to_csv(path, sep="\t" if request.param == "tsv" else ",", index=False)
    return path


@pytest.mark.parametrize("streaming", [False, True])
def test_every_row_of_every_format_is_a_document(rows_file, streaming):
    corpus = both(load_corpus(str(rows_file), text_column="body", streaming=streaming))
    tails = dict(corpus["validation"])
    whole = [(name, text + tails[name]) for name, text in corpus["train"]]
    assert whole == [(f"{rows_file.name}:{number}", text) for number, text in enumerate(ROWS, start=1)]


def test_real_rows_are_read(shared_data):
    path = str(shared_data / "summarization" / "dialogsum.dev.jsonl")
    corpus = load_corpus(path, text_column="dialogue")
    assert corpus["train"].num_rows + corpus["validation"].num_rows == 500
    assert both(corpus) == both(load_corpus(path, text_column="dialogue", streaming=True))


def test_streams_restart_shuffle_without_moving_the_split_and_can_be_pickled(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", numbered(200))
    write_jsonl(tmp_path / "b.jsonl", numbered(200))
    (tmp_path / "c.txt").write_text("a text among the rows")
    stored = both(load_corpus(str(tmp_path)))
    streamed = load_corpus(str(tmp_path), streaming=True)
    assert isinstance(streamed, datasets.IterableDatasetDict)
    assert both(streamed) == both(streamed) == stored
    assert streamed["train"].column_names == ["name", "text"]
    shuffled = streamed["train"].shuffle(seed=1, buffer_size=50)
    assert sorted(documents(shuffled)) == sorted(stored["train"])
    assert documents(pickle.loads(pickle.dumps(streamed["validation"]))) == stored["validation"]


def test_the_manual_and_text_files_can_be_streamed_too(tmp_path):
    (tmp_path / "a.txt").write_text("some text that can be split")
    corpus = load_corpus(str(tmp_path), streaming=True)
    assert isinstance(corpus, datasets.IterableDatasetDict)
    assert both(corpus) == both(load_corpus(str(tmp_path)))


@pytest.mark.parametrize("streaming", [False, True])
def test_rows_without_text_are_skipped_and_counted(tmp_path, streaming, caplog):
    rows = [
        {"text": "a first text to split"},
        {"text": None},
        {"other": 1},
        {"text": " "},
        {"text": "a last text"},
    ]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    corpus = both(load_corpus(str(path), streaming=streaming))
    assert [name for name, _ in corpus["train"]] == ["rows.jsonl:1", "rows.jsonl:5"]
    assert "rows.jsonl: skipped 3 of 5 rows, whose text is null or blank" in caplog.text


BAD_FILES = {
    "empty.txt": (b"", "holds no text"),
    "blank.txt": (b" \n\t\n", "holds no text"),
    "binary.txt": (b"a\0b", r"binary.txt is not text \(a NUL byte at offset 1\)"),
    "empty.jsonl": (b"", "empty.jsonl has no rows"),
    "blank.jsonl": (b"\n", "blank.jsonl has no rows"),
    "none.json": (b"[]", "none.json has no rows"),
    "header.csv": (b"id,text\n", "header.csv has no rows"),
    "null.jsonl": (b'{"text": null}\n', "holds no text"),
    "column.jsonl": (
        b'{"body": "a", "id": 1}\n',
        "no column 'text'; use --text-column with one of body, id",
    ),
    "column.csv": (b"body,id\na,1\n", "no column 'text'; use --text-column with one of body, id"),
    "number.jsonl": (
        b'{"text": "a"}\n{"text": 5}\n',
        "number.jsonl, line 2 has int '5' in the column 'text', not a string: correct it, or skip .* --skip_malformed",
    ),
    "numbers.jsonl": (b'{"text": 4}\n{"text": 5}\n', "numbers.jsonl, line 1 has int '4'"),
    "list.jsonl": (b'{"text": ["a"]}\n', "list.jsonl, line 1 has list"),
    "broken.jsonl": (b'{"text": "a"}\n{"text":\n', "broken.jsonl, line 2 is not JSON "),
    "words.jsonl": (b"these are words\n", "words.jsonl, line 1 is not JSON "),
    "null-rows.jsonl": (b"null\n5\n", "null-rows.jsonl, line 1 is NoneType, not an object with columns"),
    "mixed.jsonl": (
        '{"text": "é"}\n'.encode() + b'{"text": "caf\xe9"}\n',
        r"line 2 holds .\\udce9., which is half a character \(or",
    ),
    "emoji.jsonl": (b'{"text": "cut \\ud83d"}\n', r"line 1 holds .\\ud83d., which is half a character"),
    "utf-16.jsonl": ('{"text": "a"}\n'.encode("utf-16") + b"x", "utf-16.jsonl cannot be read: 'utf-16"),
    "binary.csv": (b"text\n\0\xff\n", r"binary.csv is not text \(a NUL byte at offset 5\)"),
    "torn.jsonl.gz": (gzip.compress(b'{"text": "a"}')[:-9], "torn.jsonl.gz cannot be read: Compressed file ended"),
    "none.txt.gz": (b"no gzip", "none.txt.gz cannot be read: Not a gzipped file"),
    "none.csv.zst": (b"no zstandard", "none.csv.zst cannot be read: ZSTD"),
    "texts.zip": (b"PK", r"texts.zip is an archive: unpack it, and give the folder"),
    "texts.tar.gz": (b"x", r"texts.tar.gz is an archive: unpack it, and give the folder"),
    "quote.csv": (b'id,text\n1,a\n2,"b\n3,c\n', "quote.csv, line 3 is not CSV"),
    "ragged.csv": (b"id,text\n1,a\n2,b,c,d\n", "ragged.csv, line 3 has 4 fields, and the header 2"),
    "words.parquet": (b"these are words", "words.parquet cannot be read: "),
}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", BAD_FILES)
def test_load_corpus_rejects_a_bad_file_in_one_line(tmp_path, name, streaming):
    data, message = BAD_FILES[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=message) as caught:
        load_corpus(str(tmp_path / name), streaming=streaming)
    assert "\n" not in str(caught.value)
    assert len(traceback.format_exception(caught.value)[-1].splitlines()) == 1
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None or caught.value.__suppress_context__


@pytest.mark.parametrize("streaming", [False, True])
def test_a_row_that_breaks_off_after_many_rows_is_an_error(tmp_path, streaming):
    path = write_jsonl(tmp_path / "late.jsonl", [{"text": "x" * 100}] * 100_000)
    with path.open("a") as file:
        file.write('{"text": "broken\n')
    with pytest.raises(ValueError, match=r"late.jsonl, line 100001 is not JSON"):
        both(load_corpus(str(path), streaming=streaming))


@pytest.mark.parametrize("spec", ["missing.txt", "missing/*.txt", "*.none", "", " "])
def test_load_corpus_names_the_accepted_forms_for_a_missing_path(tmp_path, monkeypatch, spec):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match='give "python-manual", a file, a folder, a pattern'):
        load_corpus(spec)


def test_load_corpus_rejects_a_folder_without_text(tmp_path):
    with pytest.raises(ValueError, match="holds no text"):
        load_corpus(str(tmp_path))


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_a_file_that_may_not_be_read_raises_permission_error(tmp_path, monkeypatch, name):
    (tmp_path / name).write_text('{"text": "a"}')

    def refuse(self, *args, **kwargs):
        raise PermissionError(13, "Permission denied", str(self))

    for method in ("open", "read_bytes"):  # not by chmod, which does not keep root out
        monkeypatch.setattr(Path, method, refuse)
    for spec in (tmp_path / name, tmp_path):
        with pytest.raises(PermissionError, match=name):
            load_corpus(str(spec))


def zstandard(data: bytes) -> bytes:
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


PACKERS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstandard}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("packed", PACKERS)
def test_compressed_files_are_read_as_the_plain_ones(rows_file, packed, streaming):
    plain = both(load_corpus(str(rows_file), text_column="body", streaming=streaming))
    data = rows_file.read_bytes()
    folder = rows_file.parent / "packed"
    folder.mkdir()
    (folder / f"{rows_file.name}{packed}").write_bytes(PACKERS[packed](data))
    (folder / f"notes.txt{packed}").write_bytes(PACKERS[packed](b"some text ") + PACKERS[packed](b"in two pieces"))
    (folder / "texts.zip").write_bytes(b"PK")
    corpus = both(load_corpus(str(folder), text_column="body", streaming=streaming))
    tails = dict(corpus["validation"])
    whole = {name.replace(packed, ""): text + tails[name] for name, text in corpus["train"]}
    assert whole.pop("notes.txt") == "some text in two pieces"
    tails = dict(plain["validation"])
    assert whole == {name: text + tails[name] for name, text in plain["train"]}
    names = [name for name, _ in documents(load_documents(f"{folder}/*{rows_file.suffix}{packed}", "body"))]
    assert names == [f"{rows_file.name}{packed}:{number}" for number in range(1, len(ROWS) + 1)]


def random_rows(seed: int) -> list[dict]:
    """Rows with what makes parsers disagree: null and blank texts, line ends, quotes, other columns first."""
    draw = random.Random(seed)
    words = ["one", 'a "quoted" word', "a,b", "tab\there", "two\nlines", "\r\n", " ", "", "ünï", "\u2028", "None", "12"]
    rows = [{"id": n, "text": "".join(draw.choices(words, k=3)), "rest": draw.choice(words)} for n in range(300)]
    return rows


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "tsv", "parquet"])
def test_documents_and_names_are_those_that_datasets_counts(tmp_path, suffix):
    """The name decides what is held out, so that the number of a row must never change."""
    rows, path = random_rows(seed=len(suffix)), tmp_path / f"rows.{suffix}"
    if suffix == "parquet":
        datasets.Dataset.from_list(rows).to_parquet(path)
    elif suffix == "json":
        path.write_text(json.dumps(rows))
    elif suffix == "jsonl":
        for number in range(0, 300, 7):
            rows[number]["text"] = None
        path.write_text("".join(json.dumps(row) + "\n" * (1 + row["id"] % 5 // 4) for row in rows))
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0], delimiter="," if suffix == "csv" else "\t")
            writer.writeheader()
            for row in rows:
                writer.writerow(row)
                file.write("\n" * (row["id"] % 5 // 4))
    builder = {"jsonl": "json", "tsv": "csv"}.get(suffix, suffix)
    options = {"sep": "," if suffix == "csv" else "\t", "keep_default_na": False} if builder == "csv" else {}
    expected = datasets.load_dataset(builder, data_files=str(path), split="train", **options)
    texts = [(f"{path.name}:{n}", text) for n, text in enumerate(expected["text"], 1) if (text or "").strip()]
    assert len(expected) == 300
    assert documents(load_documents(str(path))) == texts
    corpus = load_corpus(str(path), streaming=True)
    assert sorted(documents(corpus["train"]) + documents(corpus["validation"])) == sorted(texts)


def test_documents_of_rows_are_read_once_until_the_file_changes(tmp_path, monkeypatch, caplog):
    path = write_jsonl(tmp_path / "rows.jsonl", [{"text": "a"}, {"text": None}, 5])
    reads = []
    monkeypatch.setattr(corpus_files, "rows_in_file", lambda file, columns: reads.append(file) or rows(file, columns))
    for _ in range(2):
        caplog.clear()
        assert documents(load_documents(str(path), skip_malformed=True)) == [("rows.jsonl:1", "a")]
        assert "skipped 1 malformed of 3 rows, the first one at line 3 is int" in caplog.text
        assert "skipped 1 of 3 rows" in caplog.text
    assert len(reads) == 1
    write_jsonl(path, [{"text": "b"}])
    assert documents(load_documents(str(path), skip_malformed=True)) == [("rows.jsonl:1", "b")]
    with pytest.raises(ValueError, match="no column 'body'"):
        load_documents(str(path), "body")
    assert len(reads) == 3


def test_a_run_that_was_killed_while_it_stored_documents_leaves_no_half(tmp_path, monkeypatch):
    path = write_jsonl(tmp_path / "rows.jsonl", numbered(3))

    def interrupted(file, columns):
        yield from list(rows(file, columns))[:2]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(corpus_files, "rows_in_file", interrupted)
        with pytest.raises(KeyboardInterrupt):
            load_documents(str(path))
    assert len(load_documents(str(path))) == 3


@pytest.mark.parametrize("streaming", [False, True])
def test_malformed_rows_are_left_out_if_asked_and_move_no_other(tmp_path, streaming, caplog):
    lines = [json.dumps(row) for row in numbered(200)]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(lines))
    before = both(load_corpus(str(path), streaming=streaming))
    lines[3], lines[50], lines[120] = '{"text": "cut', '{"text": 5}', r'{"text": "\ud83d"}'
    path.write_text("\n".join(lines) + "\n\n")
    with pytest.raises(ValueError, match=r"rows.jsonl, line 4 is not JSON .*--skip_malformed"):
        both(load_corpus(str(path), streaming=streaming))
    after = both(load_corpus(str(path), streaming=streaming, skip_malformed=True))
    assert "rows.jsonl: skipped 3 malformed of 200 rows, the first one at line 4 is not JSON" in caplog.text
    left_out = {f"rows.jsonl:{number}" for number in (4, 51, 121)}
    assert after == {split: [row for row in before[split] if row[0] not in left_out] for split in before}


def test_long_documents_are_stored_in_batches_that_fit_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus_files, "BATCH_CHARACTERS", 50)
    path = write_jsonl(tmp_path / "rows.jsonl", [{"text": f"{number} " * 10} for number in range(7)])
    stored = load_documents(str(path))
    assert [row["text"] for row in stored] == [f"{number} " * 10 for number in range(7)]
    assert len(stored.data.column("text").chunks) == 3


def test_only_the_column_of_the_text_is_read_from_parquet(tmp_path):
    pairs = pyarrow.array([[("key", 1)], []], pyarrow.map_(pyarrow.string(), pyarrow.int64()))
    table = pyarrow.table({"meta": pairs, "text": ["one", "two"], "where": [{"a": 1}, {"a": 2}]})
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    assert documents(load_documents(str(tmp_path / "rows.parquet"))) == [
        ("rows.parquet:1", "one"),
        ("rows.parquet:2", "two"),
    ]


def test_a_pattern_skips_training_runs_and_hidden_files(tmp_path):
    for name in ("a/rows.txt", "run/run.yaml", "run/deep/rows.txt", ".hidden/rows.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("some text that can be split")
    for pattern in ("**/*.txt", "*/**", "**"):
        assert [row["name"] for row in load_documents(f"{tmp_path}/{pattern}")] == ["a/rows.txt"]
