"""The split, and the corpora that are not files. Those that are: test_corpus_files.py."""

import json
from pathlib import Path

import datasets
import forks
import pytest

from foliogpt.data.corpora import corpus_bytes, is_validation, load_corpus

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


def test_the_default_corpus_is_the_manual_split_into_whole_documents(monkeypatch):
    manual = [(f"module.function_{number}", f"The docstring nº {number}.") for number in range(1000)]
    monkeypatch.setattr("foliogpt.data.corpora.python_manual", lambda: manual)
    corpus = load_corpus()
    train, validation = documents(corpus["train"]), documents(corpus["validation"])
    assert sorted(train + validation) == sorted(manual)
    assert 0.03 < len(validation) / len(manual) < 0.07
    total = corpus_bytes(corpus["train"]) + corpus_bytes(corpus["validation"])
    assert total == sum(len(text.encode()) for _, text in manual)


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
def test_load_corpus_rejects_an_empty_split(tmp_path, streaming, monkeypatch):
    monkeypatch.setattr("foliogpt.data.corpora.is_validation", lambda name: False)
    path = write_jsonl(tmp_path / "rows.jsonl", numbered(120))
    with pytest.raises(ValueError, match=r"the validation split of .* would be empty; add text"):
        both(load_corpus(str(path), streaming=streaming))


def test_load_corpus_rejects_a_text_too_short_to_split(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(ValueError, match=r"the train split of .* would be empty; add text"):
        load_corpus(str(tmp_path / "a.txt"))


def test_bytes_are_counted_in_utf_8(tmp_path):
    (tmp_path / "a.txt").write_text("é🦊" * 10, encoding="utf-8")
    corpus = load_corpus(str(tmp_path / "a.txt"))
    assert corpus_bytes(corpus["train"]) + corpus_bytes(corpus["validation"]) == 60


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


def test_load_corpus_rejects_a_hub_dataset_without_a_train_split(fake_hub):
    fake_hub["splits"] = {"test": numbered(9)}
    with pytest.raises(ValueError, match="has no train split, only test"):
        load_corpus("hub:some/name")


def test_load_corpus_rejects_a_hub_dataset_without_the_column(fake_hub):
    fake_hub["splits"] = {"train": [{"body": "a"}], "validation": [{"body": "a"}]}
    for streaming in (False, True):
        with pytest.raises(ValueError, match="no column 'text'; use --text-column with one of body"):
            both(load_corpus("hub:some/name", streaming=streaming))


def test_a_hub_that_cannot_be_reached_is_reported_in_one_line():
    code = "from foliogpt.data.corpora import load_corpus; load_corpus('hub:no-such/name')"
    done = forks.run([code])
    assert done.returncode == 1
    assert done.stderr.count("Traceback") == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ConnectionError: hub:no-such/name cannot be loaded: Couldn't reach")
    assert last.endswith("check hub:NAME[:CONFIG] and the network")
