"""An index follows its documents, and loses nothing."""

import os

import pytest

from foliogpt.rag import Document, Rag, sync


def counts(report):
    return report.added, report.updated, report.deleted, report.unchanged


def test_a_folder_is_indexed_found_and_followed(rag, folder):
    report = rag.sync(folder)
    assert counts(report) == (6, 0, 0, 0)
    assert not report.failed
    for mode in ("hybrid", "dense", "lexical"):
        hit = rag.search("the moon is silver", k=3, mode=mode)[0]
        assert hit.document == (folder / "2.txt").as_posix()
        assert rag.document(hit.document).text[hit.start : hit.end] == hit.text == "the moon is silver"
    assert counts(rag.sync(folder)) == (0, 0, 0, 6)
    (folder / "2.txt").write_text("the sun is gold")
    (folder / "3.txt").unlink()
    report = rag.sync(folder)
    assert counts(report) == (0, 1, 0, 4)
    assert report.embedded == 1
    assert rag.search("wine", mode="lexical")[0].document.endswith("3.txt")
    assert counts(rag.sync(folder, prune=True)) == (0, 0, 1, 5)
    assert not rag.search("wine", mode="lexical")
    assert rag.verify().ok


def test_unchanged_files_are_neither_read_nor_embedded(rag, folder, words, monkeypatch):
    for path in folder.rglob("*.*"):
        os.utime(path, (1, 1))
    monkeypatch.setattr("foliogpt.rag.sources.STAMP_NANOSECONDS", -1)  # as if they had not just been written
    rag.sync(folder)
    seen = words.seen
    monkeypatch.setattr(sync, "read_file", None)
    assert rag.sync(folder).unchanged == 6
    assert words.seen == seen


def test_a_file_that_changed_within_the_clocks_tick_is_noticed(rag, folder):
    path = folder / "2.txt"
    rag.sync(folder)
    stat = path.stat()
    path.write_text("the sun is golden!")  # as long as before
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert rag.sync(folder).updated == 1


def test_only_the_chunks_that_changed_are_embedded(rag, folder, words):
    paragraphs = [f"Paragraph {n} tells of {'many things and ' * 50}more." for n in range(10)]
    path = folder / "long.txt"
    path.write_text("\n\n".join(paragraphs))
    rag.sync(folder)
    before = {hit.text: hit.chunk for hit in rag.search("paragraph", k=100, where={"document": path.as_posix()})}
    paragraphs[4] = "Another."
    path.write_text("\n\n".join(["A new beginning.", *paragraphs]))
    seen = words.seen
    report = rag.sync(folder)
    assert report.embedded == words.seen - seen <= 3
    after = {hit.text: hit for hit in rag.search("paragraph", k=100, where={"document": path.as_posix()})}
    assert len(before.keys() & after.keys()) >= 7
    for text, hit in after.items():
        assert path.read_text()[hit.start : hit.end] == text
        assert before.get(text, hit.chunk) == hit.chunk
    assert rag.verify().ok


def test_two_roots_may_have_the_same_file_names(rag, tmp_path):
    for root in ("a", "b"):
        (tmp_path / root).mkdir()
        (tmp_path / root / "same.txt").write_text(f"the cat of {root}")
        rag.sync(tmp_path / root)
    (tmp_path / "a" / "same.txt").rename(tmp_path / "a" / "other.txt")
    assert counts(rag.sync(tmp_path / "a", prune=True)) == (1, 0, 1, 0)
    names = {hit.document for hit in rag.search("cat", mode="lexical")}
    assert names == {(tmp_path / name).as_posix() for name in ("a/other.txt", "b/same.txt")}


def test_a_root_named_like_another_ones_beginning_is_another(rag, tmp_path):
    for root in ("docs", "docs2"):
        (tmp_path / root).mkdir()
        (tmp_path / root / "f.txt").write_text("cat")
        rag.sync(tmp_path / root)
    (tmp_path / "docs" / "f.txt").rename(tmp_path / "docs" / "g.txt")
    assert counts(rag.sync(tmp_path / "docs", prune=True)) == (1, 0, 1, 0)


def test_an_emptied_folder_deletes_nothing(rag, folder):
    rag.sync(folder)
    for path in sorted(folder.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    with pytest.raises(ValueError, match="was not changed"):
        rag.sync(folder, prune=True)
    folder.rmdir()
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        rag.sync(folder, prune=True)
    assert len(rag.search("a")) == 6


def test_given_documents_are_followed_too(rag, folder):
    rag.sync(folder)
    assert counts(rag.sync([Document("x", "old red wine"), Document("y", "white bread")])) == (2, 0, 0, 0)
    assert counts(rag.sync([Document("x", "old red wine", metadata={"a": 1})])) == (0, 1, 0, 0)
    assert rag.search("wine", where={"a": 1})[0].document == "x"
    report = rag.sync([Document("x", "old red wine", metadata={"a": 1}), Document("x", "again")], prune=True)
    assert counts(report) == (0, 0, 1, 1)
    assert "x" in report.failed
    assert len(rag.search("a", mode="dense", k=50)) == 7
    with pytest.raises(ValueError, match="Document"):
        rag.sync([("name", "text")])


def test_rows_that_left_a_file_leave_the_index(rag, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "cat"}\n{"text": "dog"}\n{"text": "bird"}\n')
    assert rag.sync(path).added == 3
    path.write_text('{"text": "cat"}\n{"text": "fish"}\n')
    assert counts(rag.sync(path)) == (0, 1, 1, 1)
    with pytest.raises(ValueError, match="no column 'body'"):
        rag.sync(path, text_column="body")
    assert len(rag.search("cat", mode="dense")) == 2


def test_concurrent_syncs_keep_the_newer_version_of_a_file(tmp_path, folder, words):
    """One process reads a file, another indexes it after it changed, and the first one writes last."""
    slow, fast = (Rag.open(tmp_path / "index", embedder=words) for _ in range(2))
    slow.sync(folder)
    write = sync.Sync._write

    def late(self, batch):
        (folder / "2.txt").write_text("the newest moon")
        sync.Sync._write = write
        fast.sync(folder)
        return write(self, batch)

    (folder / "2.txt").write_text("the second moon")
    try:
        sync.Sync._write = late
        slow.sync(folder)
    finally:
        sync.Sync._write = write
    assert slow.search("moon", mode="lexical")[0].text == "the newest moon"
    assert fast.verify().ok


def test_a_full_disk_costs_nothing_that_was_there(rag, folder):
    rag.sync(folder)
    db = rag._store.catalog.connection
    (folder / "large.txt").write_text("a river of stone " * 50_000)
    db.execute("PRAGMA max_page_count = 30")
    writer = sync.Sync._write

    def full(self, batch):  # the writer's thread has a connection of its own
        pages = self.store.catalog.connection.execute("PRAGMA page_count").fetchone()[0]
        self.store.catalog.connection.execute(f"PRAGMA max_page_count = {pages}")
        return writer(self, batch)

    try:
        sync.Sync._write = full
        with pytest.raises(OSError, match="full"):
            rag.sync(folder)
    finally:
        sync.Sync._write = writer
    db.execute("PRAGMA max_page_count = 1000000")
    assert rag.verify().ok
    assert rag.search("moon")[0].text == "the moon is silver"
    assert rag.sync(folder).added == 1


def test_sync_rejects_invalid_sources(rag, tmp_path):
    for wrong in ("", " ", "a\0b"):
        with pytest.raises(ValueError, match="python-manual"):
            rag.sync(wrong)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="not a regular file"):
        rag.sync(tmp_path / "pipe")
    assert not (tmp_path / "index").exists()


def test_a_documents_name_belongs_to_its_source(rag, folder):
    """Neither replaces the other, in any order, and each sync reports what it leaves out."""
    path = folder / "2.txt"
    assert rag.sync([Document((folder / "0.txt").as_posix(), "given zebra")]).added == 1
    for _ in range(2):
        report = rag.sync(folder)
        assert "the documents that you gave" in report.failed[(folder / "0.txt").as_posix()]
    report = rag.sync([Document(path.as_posix(), "given moon")], prune=True)
    assert path.as_posix() in report.failed[path.as_posix()]
    assert rag.document(path.as_posix()).text == "the moon is silver\n"
    assert rag.search("dog", mode="lexical") == []  # the given zebra is gone, its file is not yet back
    assert counts(rag.sync(folder)) == (1, 0, 0, 5)
    (folder / "rows.jsonl").write_text('{"text": "a row with a cat"}\n')
    (folder / "rows.jsonl:1").write_text("a file with a cat")
    report = rag.sync(folder)
    assert (report.added, list(report.failed)) == (1, [(folder / "rows.jsonl:1").as_posix()])
    assert rag.verify().ok


def test_an_emptied_file_is_named_by_every_sync_and_its_old_text_is_gone(rag, folder):
    rag.sync(folder)
    (folder / "2.txt").write_text(" \n")
    assert counts(rag.sync(folder)) == (0, 0, 1, 5)
    assert rag.sync(folder).failed == {(folder / "2.txt").as_posix(): "is empty"}
    assert not rag.search("moon", mode="lexical")


def test_a_name_that_is_not_utf8_is_indexed_followed_and_found_under_a_readable_one(rag, folder):
    path = os.fsencode(folder) + b"/caf\xe9.txt"
    with open(path, "w") as file:
        file.write("latte")
    assert rag.sync(folder).added == 7
    (hit,) = rag.search("latte", mode="lexical", where={"document": f"{folder}/caf\\xe9.txt"})
    assert hit.text == "latte"
    assert rag.sync(folder).unchanged == 7
    os.unlink(path)
    assert rag.sync(folder, prune=True).deleted == 1


def test_progress_is_a_share_that_grows_to_one(rag, folder, monkeypatch):
    monkeypatch.setattr(sync, "BATCH_DOCUMENTS", 1)
    shares = []
    rag.sync(folder, progress=lambda report: shares.append(report.progress))
    assert shares == sorted(shares)
    assert 0 < shares[0] < shares[-1] < 1


def test_a_file_whose_reader_finds_no_text_anymore_loses_its_old_text(rag, folder):
    path = folder / "module.py"
    path.write_text('"""A walrus swims."""\n')
    rag.sync(folder)
    path.write_text("x = 1\n")
    assert rag.sync(folder).failed == {path.as_posix(): "holds no docstrings"}
    assert not rag.search("walrus", mode="lexical")
