"""`folio rag` as a user meets it."""

import json
import shutil

import pytest

from foliogpt.rag.embedding import Embedder
from foliogpt.scripts.cli import main


@pytest.fixture(autouse=True)
def no_probe(monkeypatch):
    monkeypatch.setattr(Embedder, "faster_dtype", lambda self: "float32")


@pytest.fixture
def index(tmp_path, folder, embedder_folder, capsys):
    path = str(tmp_path / "index")
    assert main(["rag", "sync", str(folder), "--index", path, "--embedder", str(embedder_folder)]) == 0
    assert "6 added, 0 updated, 0 deleted, 0 unchanged; 6 chunks embedded" in capsys.readouterr().out
    return path


def error_of(capsys, argv: list[str]) -> str:
    capsys.readouterr()
    assert main(["rag", *argv]) == 2
    lines = [line for line in capsys.readouterr().err.strip().splitlines() if "%|" not in line]
    assert len(lines) == 1, lines
    return lines[0]


def test_an_index_is_made_searched_checked_and_repaired(index, folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    assert main(["rag", "search", "the moon is silver", "--index", index, "--k", "1"]) == 0
    assert capsys.readouterr().out.startswith("1. 2.txt [0:18]  (0.03")
    where = json.dumps({"type": "md"})
    assert main(["rag", "search", "bird", "--index", index, "--mode", "lexical", "--where", where]) == 0
    assert "deep/page.md [" in capsys.readouterr().out
    assert main(["rag", "search", "zebra", "--index", index, "--mode", "lexical"]) == 0
    assert "No passage was found" in capsys.readouterr().out
    assert main(["rag", "verify", "--index", index]) == 0
    assert "Complete, and equal in both: documents 6, chunks 6." in capsys.readouterr().out
    shutil.rmtree(f"{index}/chroma")
    said = error_of(capsys, ["verify", "--index", index])
    assert f" Repair it with: folio rag rebuild --index {index}" in said
    assert ".. " not in said
    assert main(["rag", "rebuild", "--index", index]) == 0
    assert "6 chunks written, 0 of them embedded" in capsys.readouterr().out
    (folder / "4.txt").write_bytes(b"\0" * 100)
    assert main(["rag", "sync", ".", "--index", index, "--prune"]) == 0
    out, err = capsys.readouterr()
    assert "6 unchanged" in out
    assert "left out: 4.txt is not text" in err


def test_a_document_cannot_steer_the_terminal(index, folder, capsys):
    (folder / "hostile.txt").write_text("The zebra \x1b[2Jis striped.")
    assert main(["rag", "sync", str(folder), "--index", index]) == 0
    assert main(["rag", "search", "zebra", "--index", index, "--mode", "lexical"]) == 0
    out = capsys.readouterr().out
    assert "The zebra \\u001b[2Jis striped." in out
    assert "\x1b" not in out


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["search", "", "--index", "INDEX"], "empty"),
        (["search", "x", "--index", "INDEX", "--k", "0"], "at least 1"),
        (["search", "x" * 1_000_000, "--index", "INDEX"], "at most"),
        (["search", "x", "--index", "nowhere"], "folio rag sync"),
        (["search", "x", "--index", "INDEX", "--where", "{"], "not JSON"), (["search", "x"], "--index"),
        (["search", "x", "--index", "INDEX", "--mode", "best"], "hybrid"),
        (["sync", "nowhere", "--index", "INDEX"], "nowhere"),
        (["search", "x", "--index", "INDEX", "--url", "nonsense"], "HOST:PORT"),
        (["verify", "--index", "nowhere"], "no index"), (["rebuild", "--index", "nowhere"], "no index"),
        (["dance"], "sync, search"),
        (["search", "x", "--index", "INDEX", "--embedder", "/nowhere"], "/nowhere"),
    ],
)  # fmt: skip
def test_rag_reports_invalid_arguments_in_one_line(argv, says, made_index, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    index = str(shutil.copytree(made_index, tmp_path / "index"))
    assert says in error_of(capsys, [index if word == "INDEX" else word for word in argv])
    assert not (tmp_path / "nowhere").exists()


def test_several_paths_are_synced_and_forgotten(index, folder, capsys, monkeypatch):
    monkeypatch.chdir(folder.parent)
    for name in ("one", "two"):
        (folder.parent / f"{name}.md").write_text(f"# {name}\n\nA zebra.")
    assert main(["rag", "sync", "one.md", "--index", index, "two.md", str(folder)]) == 0
    assert "2 added, 0 updated, 0 deleted, 6 unchanged" in capsys.readouterr().out
    (folder.parent / "one.md").unlink()
    assert "folio rag forget" in error_of(capsys, ["sync", "one.md", "--index", index])
    assert main(["rag", "forget", "--index", index, "one.md", "documents/deep"]) == 0
    assert "3 documents forgotten" in capsys.readouterr().out
    assert "no document of nothing" in error_of(capsys, ["forget", "nothing", "--index", index])
    assert "PATH" in error_of(capsys, ["forget", "--index", index])
    assert main(["rag", "verify", "--index", index]) == 0


def test_a_question_may_begin_with_a_dash(index, folder, capsys):
    (folder / "options.txt").write_text("zebra -x prints stripes")
    assert main(["rag", "sync", str(folder), "--index", index]) == 0
    for argv in (["--index", index, "--mode", "lexical", "--", "-x"], ["-x prints", "--index", index]):
        assert main(["rag", "search", "--k", "1", *argv]) == 0
        assert "options.txt" in capsys.readouterr().out


def test_of_many_files_that_yielded_nothing_some_are_named_and_the_others_counted(index, folder, capsys):
    for number in range(25):
        (folder / f"empty{number:02}.txt").write_text("")
    assert main(["rag", "sync", str(folder), "--index", index]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("left out")]
    assert len(lines) == 21
    assert lines[0].endswith("empty00.txt is empty")
    assert lines[-1] == "left out: 5 more"


def test_an_index_cannot_choose_an_embedder_that_the_user_has_not_named(
    index, embedder_folder, tmp_path, capsys, monkeypatch
):
    dense = ["search", "moon", "--mode", "dense", "--index", index]
    assert main(["rag", *dense]) == 0  # named when the index was made
    monkeypatch.setattr("foliogpt.rag.embedding.CHOSEN_FILE", tmp_path / "other" / "embedders.txt")
    assert f"--embedder {embedder_folder}` once" in error_of(capsys, dense)
    assert main(["rag", "search", "moon", "--mode", "lexical", "--index", index]) == 0
    assert main(["rag", *dense, "--embedder", str(embedder_folder)]) == 0
    assert main(["rag", *dense]) == 0


def test_no_name_error_or_heading_steers_the_terminal(index, folder, capsys):
    for number in range(22):
        (folder / f"\x1b[31m{number}.txt").write_text("")
    (folder / "\x1b[2J.md").write_text("# \x1b]0;title\x07\n\nA zebra\x9b2J.")
    for argv in (["sync", str(folder)], ["search", "zebra", "--mode", "lexical"], ["forget", "\x1b[31m"]):
        main(["rag", *argv, "--index", index])
    out, err = capsys.readouterr()
    assert "zebra" in out
    assert "left out: 2 more" in err
    assert not {"\x1b", "\x9b", "\x07"} & set(out + err)
