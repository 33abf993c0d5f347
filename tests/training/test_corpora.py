import json
import logging
import os
import pickle
import subprocess
import sys
import traceback
from pathlib import Path

import datasets
import pytest
from foliogpt.training.corpora import corpus_bytes, is_validation, load_corpus
from foliogpt.training.python_manual import library_docstrings, python_manual


@pytest.fixture(scope="session", autouse=True)
def _private_cache(tmp_path_factory):
    """Let datasets store what it converts in a folder of this run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
        yield


@pytest.fixture(scope="session")
def manual():
    return python_manual()


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


# --- The Python manual -------------------------------------------------------------------------------------


def test_the_manual_holds_topics_and_docstrings_under_sorted_unique_names(manual):
    names = [name for name, _ in manual]
    assert names == sorted(set(names))
    assert len(names) > 5000
    assert {"topics/for", "json", "json.dump", "json.dumps", "json.decoder.JSONDecoder.decode"} <= set(names)
    assert all(text.strip() for _, text in manual)


def test_a_document_of_the_manual_begins_with_its_signature(manual):
    texts = dict(manual)
    assert texts["json"].startswith("json\n\nJSON (JavaScript")
    assert texts["json.dumps"].startswith("json.dumps(obj, *, skipkeys=False, ")
    assert texts["json.decoder.JSONDecoder"].startswith(
        "class json.decoder.JSONDecoder(*, object_hook=None, "
    )
    assert texts["asyncio.tasks.sleep"].startswith("async asyncio.tasks.sleep(delay, result=None)\n\n")


def test_the_manual_leaves_out_tests_and_what_is_not_the_librarys(manual):
    left_out = (
        *("test", "unittest.test", "idlelib.idle_test", "ctypes.test", "distutils.tests", "lib2to3.tests"),
        *("ensurepip._bundled", "site-packages", "pip", "setuptools", "pytest", "numpy"),
    )
    assert not [name for name, _ in manual if f"{name}.".startswith(tuple(f"{part}." for part in left_out))]


def test_the_manual_repeats_no_text_and_prefers_public_names(manual):
    bodies = [text.partition("\n\n")[2] for name, text in manual if "/" not in name]
    assert len(bodies) == len(set(bodies))
    assert not any(name.startswith("_") for name, text in manual if "Concrete date type." in text)


def test_reading_the_manual_imports_nothing_of_it():
    code = (
        "import sys; from foliogpt.training.python_manual import python_manual; python_manual();"
        "print({'antigravity', 'this', 'turtle', 'idlelib', 'tkinter'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_docstrings_are_found_in_nested_classes_and_under_conditions(tmp_path):
    (tmp_path / "module.py").write_text(
        '"""Module."""\n'
        "import nowhere\n"
        "class Outer(Base):\n"
        "    class Inner:\n"
        '        """Inner."""\n'
        "        def __init__(self, a, b=1): ...\n"
        "        @property\n"
        "        def size(self):\n"
        '            """Size."""\n'
        "        @size.setter\n"
        "        def size(self, value):\n"
        '            """Set it."""\n'
        "try:\n"
        "    def f(x: int, /, *, y=2) -> str:\n"
        '        """F\n\n'
        '            indented."""\n'
        '        def local(): """Unreachable."""\n'
        "except ImportError:\n"
        "    if True:\n"
        '        async def g(): "G."\n'
        'def empty(): "  "\n'
    )
    (tmp_path / "broken.py").write_text("def (:")
    (tmp_path / "latin.py").write_bytes(b'"""caf\xe9"""')
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "inside.py").write_text('"""Not this."""')
    assert list(library_docstrings(tmp_path)) == [
        ("module", "module", "Module."),
        ("module.Outer.Inner", "class module.Outer.Inner(a, b=1)", "Inner."),
        ("module.Outer.Inner.size", "module.Outer.Inner.size", "Size."),
        ("module.f", "module.f(x: int, /, *, y=2) -> str", "F\n\nindented."),
        ("module.g", "async module.g()", "G."),
    ]


def test_the_default_corpus_is_the_manual_split_into_whole_documents(manual, monkeypatch):
    monkeypatch.setattr("foliogpt.training.corpora.python_manual", lambda: manual)
    corpus = load_corpus()
    train, validation = documents(corpus["train"]), documents(corpus["validation"])
    assert sorted(train + validation) == manual
    assert 0.03 < len(validation) / len(manual) < 0.07
    total = corpus_bytes(corpus["train"]) + corpus_bytes(corpus["validation"])
    assert total == sum(len(text.encode()) for _, text in manual)


# --- The split ---------------------------------------------------------------------------------------------


def test_the_split_of_a_name_is_the_same_on_every_machine():
    held_out = [number for number in range(100) if is_validation(f"rows.jsonl:{number}")]
    assert held_out == [16, 18, 46, 49, 84]


def test_the_split_does_not_move_when_documents_are_added(tmp_path):
    for folder in ("few", "many"):
        (tmp_path / folder).mkdir()
    few = write_jsonl(tmp_path / "few" / "rows.jsonl", numbered(150))
    many = write_jsonl(tmp_path / "many" / "rows.jsonl", numbered(300))
    before, after = both(load_corpus(str(few))), both(load_corpus(str(many)))
    assert set(before["train"]) < set(after["train"])
    assert set(before["validation"]) < set(after["validation"])
    assert not set(after["train"]) & set(after["validation"])
    assert len(after["train"]) + len(after["validation"]) == 300


def test_the_last_tenth_of_each_of_a_few_texts_is_held_out(tmp_path):
    texts = {"a.txt": "0123456789" * 7 + "tail", "b.txt": "Ünïcödé " * 9}
    for name, text in texts.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    corpus = both(load_corpus(str(tmp_path)))
    assert corpus["train"] == [(name, text[: int(0.9 * len(text))]) for name, text in texts.items()]
    assert corpus["validation"] == [(name, text[int(0.9 * len(text)) :]) for name, text in texts.items()]


def test_shakespeare_is_split_as_usual(shared_data):
    corpus = load_corpus(str(shared_data / "shakespeare" / "input.txt"))
    assert [len(part[0]["text"]) for part in corpus.values()] == [1_003_854, 111_540]
    assert corpus["train"][0]["name"] == "input.txt"
    assert corpus["train"].column_names == ["name", "text"]


@pytest.mark.parametrize("streaming", [False, True])
def test_an_empty_split_is_refused(tmp_path, streaming, monkeypatch):
    monkeypatch.setattr("foliogpt.training.corpora.is_validation", lambda name: False)
    path = write_jsonl(tmp_path / "rows.jsonl", numbered(120))
    with pytest.raises(ValueError, match=r"the validation split of .* would be empty; add text"):
        both(load_corpus(str(path), streaming=streaming))


def test_a_text_too_short_to_split_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(ValueError, match=r"the train split of .* would be empty; add text"):
        load_corpus(str(tmp_path / "a.txt"))


def test_bytes_are_counted_in_utf_8(tmp_path):
    (tmp_path / "a.txt").write_text("é🦊" * 10, encoding="utf-8")
    corpus = load_corpus(str(tmp_path / "a.txt"))
    assert corpus_bytes(corpus["train"]) + corpus_bytes(corpus["validation"]) == 60


# --- Files, folders and patterns ---------------------------------------------------------------------------


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
    write_jsonl(
        folder / "rows.jsonl", [{"text": "the first row of rows"}, {"text": "the second row of rows"}]
    )
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


# --- Rows --------------------------------------------------------------------------------------------------

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


def test_streams_begin_anew_shuffle_without_moving_the_split_and_can_be_pickled(tmp_path):
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


# --- Bad input ---------------------------------------------------------------------------------------------

BAD_FILES = {
    "empty.txt": (b"", "holds no text"),
    "blank.txt": (b" \n\t\n", "holds no text"),
    "binary.txt": (b"a\0b", r"binary.txt is not text \(a NUL byte at offset 1\)"),
    "empty.jsonl": (b"", "empty.jsonl is empty"),
    "blank.jsonl": (b"\n", "blank.jsonl has no rows"),
    "none.json": (b"[]", "none.json has no rows"),
    "header.csv": (b"id,text\n", "header.csv has no rows"),
    "null.jsonl": (b'{"text": null}\n', "holds no text"),
    "column.jsonl": (
        b'{"body": "a", "id": 1}\n',
        "no column 'text'; pass --text-column with one of body, id",
    ),
    "column.csv": (b"body,id\na,1\n", "no column 'text'; pass --text-column with one of body, id"),
    "number.jsonl": (
        b'{"text": "a"}\n{"text": 5}\n',
        "row 2 of number.jsonl has int '5' in the column 'text'",
    ),
    "numbers.jsonl": (b'{"text": 4}\n{"text": 5}\n', "row 1 of numbers.jsonl has int '4'"),
    "list.jsonl": (b'{"text": ["a"]}\n', "row 1 of list.jsonl has list"),
    "broken.jsonl": (b'{"text": "a"}\n{"text":\n', "broken.jsonl cannot be read: "),
    "words.jsonl": (b"these are words\n", "words.jsonl cannot be read: "),
    "latin.jsonl": (b'{"text": "caf\xe9"}\n', "latin.jsonl cannot be read: 'utf-8' codec can't decode"),
    "ragged.csv": (b"id,text\n1,a\n2,b,c,d\n", "ragged.csv cannot be read: "),
    "words.parquet": (b"these are words", "words.parquet cannot be read: "),
}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_refused_in_one_line_that_says_why(tmp_path, name, streaming):
    data, message = BAD_FILES[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=message) as caught:
        load_corpus(str(tmp_path / name), streaming=streaming)
    assert "\n" not in str(caught.value)
    assert len(traceback.format_exception(caught.value)[-1].splitlines()) == 1
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None or caught.value.__suppress_context__


@pytest.mark.parametrize("streaming", [False, True])
def test_rows_that_break_off_later_are_refused_too(tmp_path, streaming):
    path = write_jsonl(tmp_path / "late.jsonl", [{"text": "x" * 100}] * 100_000)
    with path.open("a") as file:
        file.write('{"text": "broken\n')
    with pytest.raises(ValueError, match=r"late.jsonl cannot be read: "):
        both(load_corpus(str(path), streaming=streaming))


@pytest.mark.parametrize("spec", ["missing.txt", "missing/*.txt", "*.none", "", " "])
def test_what_does_not_exist_is_refused_with_the_accepted_forms(tmp_path, monkeypatch, spec):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match='give "python-manual", a file, a folder, a pattern'):
        load_corpus(spec)


def test_a_folder_without_text_is_refused(tmp_path):
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


# --- The Hub -----------------------------------------------------------------------------------------------


@pytest.fixture
def fake_hub(monkeypatch):
    """Stands in for the Hub: what is put in is what load_dataset finds, and it notes what it was asked."""
    hub = {"splits": {}, "asked": []}

    def load_dataset(*args, streaming=False, **kwargs):
        hub["asked"].append((args, kwargs))
        splits = {split: datasets.Dataset.from_list(rows) for split, rows in hub["splits"].items()}
        if streaming:
            splits = {split: rows.to_iterable_dataset() for split, rows in splits.items()}
        return splits

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return hub


@pytest.mark.parametrize("streaming", [False, True])
def test_a_hub_datasets_own_splits_are_used(fake_hub, streaming):
    fake_hub["splits"] = {
        "train": numbered(3),
        "validation": [{"text": ""}, {"text": "held"}],
        "test": numbered(9),
    }
    corpus = both(load_corpus("hub:some/name:config-a", streaming=streaming))
    assert [name for name, _ in corpus["train"]] == [f"some/name/train:{number}" for number in (1, 2, 3)]
    assert corpus["validation"] == [("some/name/validation:2", "held")]
    assert fake_hub["asked"] == [(("some/name", "config-a"), {})]


@pytest.mark.parametrize("streaming", [False, True])
def test_a_hub_dataset_without_a_validation_split_is_split(fake_hub, streaming):
    fake_hub["splits"] = {"train": numbered(200), "test": numbered(9)}
    corpus = both(load_corpus("hub:some/name", streaming=streaming))
    assert len(corpus["train"]) + len(corpus["validation"]) == 200
    assert all(is_validation(name) for name, _ in corpus["validation"])
    assert corpus["train"][0] == ("some/name:1", "text number 0")


def test_a_hub_dataset_without_a_train_split_is_refused(fake_hub):
    fake_hub["splits"] = {"test": numbered(9)}
    with pytest.raises(ValueError, match="has no train split, only test"):
        load_corpus("hub:some/name")


def test_a_hub_dataset_without_the_column_is_refused(fake_hub):
    fake_hub["splits"] = {"train": [{"body": "a"}], "validation": [{"body": "a"}]}
    for streaming in (False, True):
        with pytest.raises(ValueError, match="no column 'text'; pass --text-column with one of body"):
            both(load_corpus("hub:some/name", streaming=streaming))


def test_a_hub_that_cannot_be_reached_is_reported_in_one_line():
    code = "from foliogpt.training.corpora import load_corpus; load_corpus('hub:no-such/name')"
    env = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.returncode == 1
    assert done.stderr.count("Traceback") == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ConnectionError: hub:no-such/name cannot be loaded: Couldn't reach")
    assert last.endswith("check hub:NAME[:CONFIG] and the network")
