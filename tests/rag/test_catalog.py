"""The catalog is a file that tells what is ours from what is not."""

import sqlite3
import threading

import pytest

from foliogpt.rag import Document, Rag


def test_a_catalog_of_another_version_is_refused(rag, tmp_path, words):
    rag.sync([Document("a", "cat")])
    rag.close()
    with sqlite3.connect(tmp_path / "index" / "catalog.sqlite3") as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(ValueError, match="version 99"):
        Rag.open(tmp_path / "index", embedder=words).search("cat")


def test_somebody_elses_file_or_folder_is_left_alone(tmp_path, words):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    (tmp_path / "theirs").mkdir()
    with sqlite3.connect(tmp_path / "theirs" / "catalog.sqlite3") as db:
        db.execute("CREATE TABLE theirs (x)")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "catalog.sqlite3").write_bytes(b"no database " * 100)
    for name, error in (("notes", FileExistsError), ("theirs", FileExistsError), ("broken", RuntimeError)):
        before = {path: path.read_bytes() for path in (tmp_path / name).iterdir()}
        with pytest.raises(error, match="--index"):
            Rag.open(tmp_path / name, embedder=words).sync([Document("a", "cat")])
        assert {p: p.read_bytes() for p in (tmp_path / name).iterdir() if p.suffix != ".lock"} == before
    with pytest.raises(FileExistsError, match="--index"):
        Rag.open(tmp_path / "notes" / "mine.txt", embedder=words).sync([])


def test_a_torn_catalog_is_found(rag):
    rag.sync([Document(str(n), f"the cat {n}") for n in range(3)])
    db = rag._store.catalog.connection
    db.execute("UPDATE chunks SET text = 'the dog' WHERE id = 1")
    db.execute("DELETE FROM vectors WHERE hash = (SELECT hash FROM chunks WHERE id = 2)")
    db.execute("DELETE FROM words WHERE rowid = 3")
    problems = "; ".join(rag.verify().problems)
    assert "1 documents are not what their chunks say" in problems
    assert "1 chunks have no vector" in problems
    assert "index of words" in problems
    assert rag.rebuild() == 1  # the vector that was lost


def test_threads_share_an_index(rag):
    rag.sync([Document(str(n), f"the cat {n}") for n in range(20)])
    found, failed = [], []

    def work(number):
        try:
            if number % 4 == 0:
                rag.sync([Document(f"new {number}", f"the dog {number}")])
            found.append(rag.search(f"cat {number}", k=3)[0].document)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert len(found) == 12
    assert rag.verify().ok


def test_vectors_of_texts_that_are_gone_go_with_a_rebuild(rag):
    rag.sync([Document("a", "cat"), Document("b", "dog")])
    rag.sync([Document("a", "cat")], delete_missing=True)
    count = "SELECT count(*) FROM vectors"
    assert rag._store.catalog.connection.execute(count).fetchone()[0] == 2
    rag.rebuild()
    assert rag._store.catalog.connection.execute(count).fetchone()[0] == 1
