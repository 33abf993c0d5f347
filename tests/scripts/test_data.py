"""`folio data` writes the texts that the pages use."""

import json

from foliogpt.scripts.cli import main
from foliogpt.scripts.data import PLAYS


def test_shakespeare_is_written_once_and_nothing_is_replaced(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["data", "shakespeare"]) == 0
    text = (tmp_path / "shakespeare.txt").read_text()
    assert len(text.encode()) > 10**6
    assert "First Citizen" in text[:20]
    assert main(["data", "shakespeare"]) == 0  # it is the same
    (tmp_path / "mine.txt").write_text("mine")
    for argv, says in (
        (["data", "shakespeare", "--output", "mine.txt"], "exists with other content"),
        (["data", "shakespeare", "--output", "."], "exists with other content"),
        (["data", "milton"], "give shakespeare or dialogues"),
    ):
        assert main(argv) == 2
        assert says in capsys.readouterr().err
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_an_installation_without_the_texts_says_where_they_are(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("foliogpt.scripts.data.PLAYS", tmp_path / "no.txt")
    assert main(["data", "shakespeare"]) == 2
    assert "git clone" in capsys.readouterr().err


def test_dialogues_are_chats_of_the_plays_in_their_order(tmp_path, capsys):
    file = tmp_path / "chats.jsonl"
    assert main(["data", "dialogues", "--output", str(file)]) == 0
    rows = [json.loads(line)["messages"] for line in file.read_text().splitlines()]
    assert len(rows) > 1500
    assert {tuple(message["role"] for message in row) for row in rows} == {("user", "assistant") * 2}
    assert rows[0][0]["content"] == "Before we proceed any further, hear me speak."
    assert rows[0][1]["content"] == "Speak, speak."
    said = " ".join(message["content"] for row in rows for message in row)
    plays = PLAYS.read_text().replace("\n", " ")
    assert len(said) > 0.8 * len(plays)
    assert all(row[2]["content"][:40] in plays for row in rows)
