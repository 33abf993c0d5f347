"""The files that a sync reads, and those that it skips."""

import os

import pytest

from foliogpt.rag import Rag
from foliogpt.rag.sources import MAX_BYTES, find_files, read_file


def test_links_hidden_files_pipes_and_indexes_are_left_out(tmp_path, folder, words):
    outside = tmp_path / "secret.txt"
    outside.write_text("the secret")
    (folder / "link.txt").symlink_to(outside)
    (folder / "linked").symlink_to(tmp_path)
    (folder / ".hidden").write_text("hidden")
    os.mkfifo(folder / "pipe.txt")
    with Rag.open(folder / "index", embedder=words) as rag:
        report = rag.sync(folder)
        assert report.added == 6
        assert set(report.skipped) == {(folder / name).as_posix() for name in ("link.txt", "linked", "pipe.txt")}
        assert not rag.search("secret", mode="lexical")
        assert rag.sync(folder).added == 0


@pytest.mark.parametrize("path", ["link.txt", "pipe.txt", "."])
def test_read_file_rejects_a_path_that_is_no_longer_a_file(folder, path):
    (folder / "link.txt").symlink_to("/etc/passwd")
    os.mkfifo(folder / "pipe.txt")
    with pytest.raises((OSError, ValueError)):
        read_file(folder / path, "")


def test_a_file_that_is_too_large_is_named_and_the_rest_is_indexed(rag, folder):
    with (folder / "large.txt").open("wb") as file:
        file.truncate(2_000_000_000)
    report = rag.sync(folder)
    assert report.added == 6
    assert f"{MAX_BYTES / 1e6:,.0f}" in report.failed[(folder / "large.txt").as_posix()]


def test_a_file_that_cannot_be_read_keeps_what_it_had(rag, folder, monkeypatch):
    rag.sync(folder)
    (folder / "2.txt").write_bytes(b"\0\1\2")
    monkeypatch.setattr("foliogpt.rag.sync.find_files", lambda root: (*find_files(root)[:2], {f"{root}/deep": "gone"}))
    (folder / "deep" / "0.txt").unlink()
    report = rag.sync(folder, prune=True)
    assert report.deleted == 0
    assert "not text" in report.failed[(folder / "2.txt").as_posix()]
    for query in ("moon", "dance"):
        assert rag.search(query, mode="lexical")


def test_folders_that_cannot_be_listed_are_reported(tmp_path, monkeypatch):
    def walk(root, onerror):
        onerror(PermissionError(13, "Permission denied", f"{root}/closed"))
        return iter(())

    monkeypatch.setattr(os, "walk", walk)
    assert list(find_files(tmp_path)[2]) == [f"{tmp_path}/closed"]
