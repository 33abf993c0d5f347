"""`folio rag eval` as a user meets it."""

import json

import pytest
from test_rag_command import error_of

from foliogpt.rag import Rag
from foliogpt.rag.embedding import Embedder
from foliogpt.rag.refusal import SETTING
from foliogpt.scripts.cli import main

WORDS = "cat dog moon sun river stone tree bird fish night day king queen castle sword ship sea wind rain snow fire"


@pytest.fixture(autouse=True)
def no_probe(monkeypatch):
    monkeypatch.setattr(Embedder, "faster_dtype", lambda self: "float32")


@pytest.fixture
def index(tmp_path, embedder_folder, capsys):
    """An index of 21 files, each with a word of its own."""
    folder = tmp_path / "texts"
    folder.mkdir()
    for word in WORDS.split():
        (folder / f"{word}.txt").write_text(
            f"The {word} is old and new. " + f"The {word} is red and the {word} is blue. " * 9
        )
    path = str(tmp_path / "index")
    assert main(["rag", "sync", str(folder), "--index", path, "--embedder", str(embedder_folder)]) == 0
    return path


def test_known_items_are_judged_and_the_index_calibrated(index, tmp_path, capsys):
    figures = tmp_path / "out" / "figures.json"
    options = ["--calibrate", "--output", str(figures), "--generator", "quote"]
    assert main(["rag", "eval", "known-items", "--index", index, *options]) == 0
    out = capsys.readouterr().out
    for said in (
        "21 questions to 21 documents",
        "| dense ",
        "By nDCG@10",
        "| calibrated ",
        "| answered ",
    ):
        assert said in out
    found = json.loads(figures.read_text())
    assert found["figures"]["recall@1"]["lexical"]["value"] == 1
    with Rag.open(index) as rag:
        stored = json.loads(rag._store.catalog.setting(SETTING))
    assert stored["least"] == found["refusal"]["threshold"]["least"]


def test_a_beir_folder_goes_into_an_index_of_its_own(index, tmp_path, embedder_folder, capsys):
    data = tmp_path / "data"
    data.mkdir()
    (data / "corpus.jsonl").write_text('{"_id": "1", "text": "the moon"}\n{"_id": "2", "text": "the sun"}\n')
    (data / "queries.test.jsonl").write_text('{"_id": "q", "text": "moon"}\n')
    (data / "qrels.test.tsv").write_text("query-id\tcorpus-id\tscore\nq\t1\t1\n")
    new = ["--index", str(tmp_path / "data-index"), "--embedder", str(embedder_folder)]
    assert main(["rag", "eval", str(data), *new, "--modes", "lexical"]) == 0
    assert "| recall@1  | 1.000   |" in capsys.readouterr().out
    assert "documents that are not in data" in error_of(capsys, ["eval", str(data), "--index", index])


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["nowhere", "--index", "INDEX"], "no dataset 'nowhere'"), (["INDEX", "--index", "INDEX"], "qrels/test.tsv"),
        (["known-items", "--index", "nowhere"], "no index"), (["known-items"], "--index"),
        (["known-items", "--index", "INDEX", "--questions", "0"], "at least 1"),
        (["known-items", "--index", "INDEX", "--modes", "best"], "hybrid"),
        (["known-items", "--index", "INDEX", "--output", "/proc/x/y.json"], "another place"),
        (["known-items", "--index", "INDEX", "--output", "INDEX"], "a folder"),
        (["known-items", "--index", "INDEX", "--questions", "3", "--calibrate"], "needs 20 questions"),
        (["known-items", "--index", "INDEX", "--generator", "/nowhere"], "/nowhere"),
        (["known-items", "--index", "INDEX", "--embedder", "/nowhere"], "/nowhere"),
    ],
)  # fmt: skip
def test_what_cannot_be_judged_is_said_in_one_line(argv, says, index, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert says in error_of(capsys, ["eval", *(index if word == "INDEX" else word for word in argv)])
    assert not (tmp_path / "nowhere").exists()
