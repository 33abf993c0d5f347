"""The catalog distinguishes our files from others."""

import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from foliogpt.rag import Document, Rag
from foliogpt.rag.database import storage_errors


def test_a_catalog_of_another_version_is_left_as_it_is(rag, tmp_path, words):
    rag.sync([Document("a", "cat")])
    rag.close()
    file = tmp_path / "index" / "catalog.sqlite3"
    for version in (1, 99):
        with closing(sqlite3.connect(file)) as db:
            db.execute(f"PRAGMA user_version = {version}")
        before = file.read_bytes()
        with Rag.open(tmp_path / "index", embedder=words) as opened:
            for use in (lambda: opened.search("cat"), lambda: opened.sync([Document("b", "dog")]), opened.rebuild):
                with pytest.raises(ValueError, match=f"version {version}.* into a new --index"):
                    use()
        assert file.read_bytes() == before


def test_files_of_other_programs_are_not_changed(tmp_path, words):
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


def test_verify_reports_a_damaged_catalog(rag):
    rag.sync([Document(str(n), f"the cat {n}") for n in range(3)])
    db = rag._store.catalog.connection
    db.execute("UPDATE chunks SET text = 'the dog' WHERE id = 1")
    db.execute("DELETE FROM vectors WHERE hash = (SELECT hash FROM chunks WHERE id = 2)")
    db.execute("DELETE FROM words WHERE rowid = 3")
    problems = "; ".join(rag.verify().problems)
    assert "1 documents differ from their chunks" in problems
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
    rag.sync([Document("a", "cat")], prune=True)
    count = "SELECT count(*) FROM vectors"
    assert rag._store.catalog.connection.execute(count).fetchone()[0] == 2
    rag.rebuild()
    assert rag._store.catalog.connection.execute(count).fetchone()[0] == 1


@pytest.mark.parametrize(
    "hostile",
    [
        "CREATE VIEW extra AS SELECT 1",
        "CREATE TRIGGER extra AFTER DELETE ON chunks BEGIN SELECT 1; END",
        "CREATE VIRTUAL TABLE extra USING fts5 (x)",
        "DROP TABLE sources; CREATE VIEW sources AS WITH RECURSIVE n (name, stamp, hash) AS "
        "(SELECT 1, 1, 1 UNION ALL SELECT name + 1, 1, 1 FROM n) SELECT * FROM n",
        "DROP TABLE outbox; CREATE TABLE outbox (chunk INTEGER PRIMARY KEY, more GENERATED ALWAYS AS (zeroblob(9e8)))",
        "DROP TABLE words; CREATE VIEW words AS SELECT * FROM chunks",
    ],
    ids=str,
)
def test_index_with_foreign_tables_is_rejected_before_any_query(rag, tmp_path, words, hostile):
    rag.sync([Document("a", "cat")])
    rag.close()
    with sqlite3.connect(tmp_path / "index" / "catalog.sqlite3") as db:
        db.executescript(hostile)
    opened = Rag.open(tmp_path / "index", embedder=words)
    with pytest.raises(ValueError, match="not ours"):
        opened.search("cat")


def test_broken_pages_are_found_on_opening(rag, tmp_path, words):
    rag.sync(Document(str(n), f"the cat {n} " * 50) for n in range(50))
    rag.close()
    file = tmp_path / "index" / "catalog.sqlite3"
    data = bytearray(file.read_bytes())
    data[8192 : len(data) : 4096] = b"\xff" * len(data[8192 : len(data) : 4096])  # the kind of every page
    file.write_bytes(data)
    with pytest.raises(RuntimeError, match="from a copy"):
        Rag.open(tmp_path / "index", embedder=words).search("cat", mode="lexical")


def test_no_schema_is_trusted(rag):
    rag.sync([Document("a", "cat")])
    assert rag._store.catalog.connection.execute("PRAGMA trusted_schema").fetchone() == (0,)


def test_an_index_is_private_in_a_folder_that_was_open_to_all(tmp_path, words):
    folder = tmp_path / "index"
    folder.mkdir()
    folder.chmod(0o755)
    mask = os.umask(0)
    try:
        with Rag.open(folder, embedder=words) as rag:
            rag.sync([Document("a", "cat")])
            modes = {path.name: path.stat().st_mode & 0o777 for path in (folder, *folder.glob("catalog*"))}
    finally:
        os.umask(mask)
    assert modes.pop("index") == 0o700
    assert modes.pop("catalog.sqlite3") == 0o600
    assert set(modes.values()) <= {0o600}


READ_ONLY = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from embedders import WordEmbedder
from foliogpt.rag import Rag
rag = Rag.open(sys.argv[1], embedder=WordEmbedder())
for mode in ("hybrid", "dense", "lexical"):
    for where in (None, {{"n": {{"$lt": 3}}}}):
        print([(hit.document, hit.text, round(hit.score, 5)) for hit in rag.search("the cat 2", 2, mode, where)])
for change in (lambda: rag.sync(sys.argv[2]), lambda: rag.delete("1"), rag.rebuild):
    try:
        change()
    except OSError as error:
        print(error)
rag.close()
"""


def test_an_index_on_a_read_only_mount_is_searched_in_every_mode_and_not_changed(rag, tmp_path, folder):
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"]).returncode:
        pytest.skip("needs a mount of its own")
    rag.sync(Document(str(n), f"the cat {n}", metadata={"n": n}) for n in range(20))
    expected = [
        str([(hit.document, hit.text, round(hit.score, 5)) for hit in rag.search("the cat 2", 2, mode, where)])
        for mode in ("hybrid", "dense", "lexical")
        for where in (None, {"n": {"$lt": 3}})
    ]
    rag.close()
    index = tmp_path / "index"
    (index / "chroma.lock").unlink(missing_ok=True)
    before = {path: path.stat().st_mtime_ns for path in index.rglob("*")}
    mount = f'mount --bind {index} {index} && mount -o remount,ro,bind {index} && exec "$@"'
    command = ["unshare", "-rm", "sh", "-c", mount, "sh", sys.executable, "-c", READ_ONLY, str(index), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:6] == expected
    assert len(lines) == 9
    assert all("readonly" in line.lower().replace("-", "") for line in lines[6:]), lines[6:]
    assert {path: path.stat().st_mtime_ns for path in index.rglob("*")} == before


def test_rejected_statements_are_not_reported_as_damage(rag):
    """Users delete an index that is reported as damaged."""
    rag.sync([Document("a", "cat")])
    db = rag._store.catalog.connection
    for statement in ("INSERT INTO meta VALUES ('index_id', 'x')", "SELECT * FROM nothing", "SELECT ?"):
        with pytest.raises((OSError, RuntimeError)) as caught, storage_errors(Path("folder")):
            db.execute(statement)
        assert "damaged" not in str(caught.value)
        assert "new --index" not in str(caught.value)
