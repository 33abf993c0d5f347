"""A file that harms its reader is named, and the others are indexed."""

import os
import subprocess
import sys
import time
from contextlib import closing
from pathlib import PurePath

import pytest

from foliogpt.jobs import limited_process
from foliogpt.rag.readers import NoText, pool, read_documents

# The actions of a reader, by the name of its file; the file is read as usual afterwards.
ACTIONS = {
    "hang.md": "while True: pass",
    "backtrack.md": "re.match('(a+)+$', 'a' * 60 + 'b')",
    "eat.md": "x = bytearray(3 * 10**9)",
    "crash.md": "ctypes.string_at(0)",
    "quit.md": "os._exit(7)",
    "raise.md": "raise ValueError('is a broken file')",
    "chat.md": "print('noise', flush=True); os.write(1, b'noise')",
}
REASONS = {
    "hang.md": "takes more than 1 seconds", "backtrack.md": "takes more than 1 seconds",
    "eat.md": "takes more than 2 GB of memory", "crash.md": "ends its process (SIGSEGV)",
    "quit.md": "ends its process (exit code 7)", "raise.md": "is a broken file",
}  # fmt: skip
PROGRAM = f"""
import ctypes, os, re, sys
from foliogpt.jobs.limited_process import serve
from foliogpt.rag.readers import pool
real = pool.read_documents
def read_documents(path, data, text_column):
    exec({ACTIONS!r}.get(path.name, ""))
    return real(path, data, text_column)
pool.read_documents = read_documents
serve(*sys.argv[1:])
"""


@pytest.fixture
def hostile(monkeypatch):
    monkeypatch.setattr(limited_process, "PROGRAM", PROGRAM)
    monkeypatch.setattr(pool, "SECONDS", 1)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the memory of a process")
def test_a_file_that_hangs_crashes_or_exhausts_its_reader_is_named_and_the_rest_is_indexed(hostile, rag, folder):
    for name in ACTIONS:
        (folder / name).write_text(f"# A zebra in {name}\n")
    report = rag.sync(folder)
    assert {PurePath(name).name: why for name, why in report.failed.items()} == REASONS
    assert report.added == 6 + 1  # chat.md
    assert {hit.document for hit in rag.search("zebra", mode="lexical")} == {(folder / "chat.md").as_posix()}


def test_one_process_reads_many_files_and_ends_with_the_pool():
    with closing(pool.ReaderPool()) as readers:
        processes = set()
        for number in range(3):
            path, data = PurePath(f"/x/{number}.md"), f"# Title {number}\n\nText".encode()
            assert readers.read(path, data, "text") == read_documents(path, data, "text")
            processes.add(readers._running())
    (process,) = processes
    assert process.returncode == 0


def test_plain_text_takes_no_process_and_everything_else_does(monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", None)
    readers = pool.ReaderPool()
    assert readers.read(PurePath("a.txt"), "Grüße".encode(), "text")[0].text == "Grüße"
    for name, data in (("a.txt", "Grüße".encode("latin-1")), ("a.md", b"x")):
        with pytest.raises(TypeError):
            readers.read(PurePath(name), data, "text")


def test_rows_come_through_as_they_are():
    rows = "".join(f'{{"text": "row {n}", "n": {n}}}\n' for n in range(2 * pool.BATCH + 1)).encode()
    with closing(pool.ReaderPool()) as readers:
        documents = readers.read(PurePath("/x/rows.jsonl"), rows, "text")
    assert documents == read_documents(PurePath("/x/rows.jsonl"), rows, "text")


def test_a_reader_ends_with_the_process_that_started_it():
    """Without a pipe to read from, or, while it reads a file, when its time is over."""
    script = (
        "from pathlib import PurePath; from foliogpt.rag.readers.pool import ReaderPool\n"
        "p = ReaderPool(); p.read(PurePath('a.md'), b'x', 'text'); print(p._running().pid, flush=True)\n"
        "import os; os._exit(0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    end = time.monotonic() + 10
    while os.path.exists(f"/proc/{int(done.stdout)}") and time.monotonic() < end:
        time.sleep(0.05)
    assert not os.path.exists(f"/proc/{int(done.stdout)}")


def test_readers_import_no_deep_learning_library():
    script = "import foliogpt.rag.readers.pool, sys; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_pool_distinguishes_empty_files_from_unreadable_ones():
    with closing(pool.ReaderPool()) as readers:
        with pytest.raises(NoText, match="is empty"):
            readers.read(PurePath("/x/a.md"), b" ", "text")
        with pytest.raises(ValueError, match="not text") as caught:
            readers.read(PurePath("/x/a.md"), b"\0\1\2" * 100, "text")
        assert not isinstance(caught.value, NoText)
