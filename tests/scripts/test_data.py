"""The text that the pages speak of can be had."""

from foliogpt.scripts.cli import main


def test_shakespeare_is_written_once_and_nothing_is_replaced(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["data", "shakespeare"]) == 0
    text = (tmp_path / "shakespeare.txt").read_text()
    assert len(text.encode()) > 10**6
    assert "First Citizen" in text[:20]
    assert main(["data", "shakespeare"]) == 0  # it is the same
    (tmp_path / "mine.txt").write_text("mine")
    for argv, says in (
        (["data", "shakespeare", "--output", "mine.txt"], "there already"),
        (["data", "shakespeare", "--output", "."], "there already"),
        (["data", "milton"], "give shakespeare"),
    ):
        assert main(argv) == 2
        assert says in capsys.readouterr().err
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_an_installation_without_the_texts_says_where_they_are(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("foliogpt.scripts.data.TEXTS", {"shakespeare": tmp_path / "no.txt"})
    assert main(["data", "shakespeare"]) == 2
    assert "git clone" in capsys.readouterr().err
