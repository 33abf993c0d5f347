"""Forgotten documents are neither found nor in the bytes of the files."""

import shutil

import pytest

from foliogpt.rag import Document


def bytes_of(rag) -> bytes:
    return b"".join(path.read_bytes() for path in rag._store.path.rglob("*") if path.is_file())


@pytest.fixture
def full(rag, folder):
    """An index with an own word, title and metadata for each of its sources."""
    for name in ("gone", "kept"):
        (folder / name).mkdir()
        for n in range(40):
            (folder / name / f"{n}.md").write_text(f"# Title{name}{n}\n\nword{name}{n} and a cat, {name}.\n")
    (folder / "rows.csv").write_text("text,colour\nrowone,colourone\nrowtwo,colourtwo\n")
    rag.sync(folder)
    rag.sync([Document("note", "noteword", metadata={"key": "notevalue"})])
    return rag


@pytest.mark.parametrize("is_still_there", [False, True])
def test_no_byte_of_a_forgotten_folder_is_left(full, folder, is_still_there):
    before = bytes_of(full)
    catalog = full._store.catalog
    chunk = full.search("wordgone7", mode="lexical")[0].chunk
    _, (vector,) = catalog.vectors([chunk])
    assert b"wordgone7" in before
    assert vector.astype("<f4").tobytes() in before
    if not is_still_there:
        shutil.rmtree(folder / "gone")
    assert full.delete(folder / "gone") == 40
    full.close()
    after = bytes_of(full)
    assert b"wordkept7" in after
    for trace in (b"wordgone", b"Titlegone", b"gone/7.md", vector.astype("<f4").tobytes(), vector.tobytes()[:16]):
        assert trace not in after
    assert not full.search("wordgone7", mode="lexical")
    assert len(full.search("cat", k=100, mode="dense")) == 40 + 6 + 3
    assert full.verify().ok
    assert full.sync(folder).added == 40 * is_still_there


def test_one_document_is_forgotten_by_its_name_and_comes_back_if_it_is_still_there(full, folder):
    row = (folder / "rows.csv:1").as_posix()
    assert full.delete("note", row, "nothing") == 2
    full.close()
    after = bytes_of(full)
    assert b"rowtwo" in after
    for trace in (b"noteword", b"notevalue", b"rowone", b"colourone"):
        assert trace not in after
    assert full.sync(folder).added == 1
    (folder / "rows.csv").write_text("text\nanother\n")
    assert full.sync(folder).deleted == 1


def test_forget_removes_traces_of_earlier_deletions(full, folder):
    shutil.rmtree(folder / "gone")
    assert full.sync(folder, prune=True).deleted == 40
    assert full.delete(folder / "gone") == 0
    full.close()
    assert b"wordgone" not in bytes_of(full)


def test_an_interrupted_forget_is_completed_by_the_next_process(full, folder, monkeypatch):
    def killed(*command, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("foliogpt.rag.store.subprocess.run", killed)
        with pytest.raises(KeyboardInterrupt):
            full.delete(folder / "gone")
    assert not [hit for hit in full.search("wordgone7", k=100) if "/gone/" in hit.document]
    assert full.verify().ok


def test_an_empty_name_forgets_nothing(full):
    with pytest.raises(ValueError, match="empty"):
        full.delete("note", "")
    assert full.search("noteword", mode="lexical")


def test_the_next_process_completes_a_forgetting_that_was_killed(full, folder, monkeypatch):
    def kill(store, method):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(type(full._store), "_in_subprocess", kill)
        with pytest.raises(KeyboardInterrupt):
            full.delete(folder, "note")  # all documents
    full.close()
    full.sync([Document("new", "a new word")])
    full.close()
    assert [hit.document for hit in full.search("cat", k=100, mode="dense")] == ["new"]
    assert full.verify().ok
