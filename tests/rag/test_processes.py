"""Several processes, killed processes, and processes without a network."""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import forks
import pytest
from embedders import WordEmbedder

from foliogpt.rag import Document, Rag

pytestmark = pytest.mark.slow

START = f"""
import json, sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
from embedders import WordEmbedder
from foliogpt.rag import Document, Rag
class Slow(WordEmbedder):
    def encode(self, texts):
        time.sleep(0.001 * len(texts))
        return super().encode(texts)
rag = Rag.open(sys.argv[1], embedder=Slow())
"""
WRITER = """
for n in range(6):
    batch = [Document(f"{sys.argv[2]}-{n}-{m}", f"text {m} of {n} by {sys.argv[2]}") for m in range(40)]
    rag.sync(batch)
    print(f"{sys.argv[2]}-{n}", flush=True)
"""
READER = """
print("ready", flush=True)
while line := sys.stdin.readline().strip():
    writer, n = line.split("-")
    hits = rag.search(f"text 7 of {n} by {writer}", k=50, mode="dense", where={"document": f"{line}-7"})
    print(json.dumps([hit.document for hit in hits]), flush=True)
"""


def start(script: str, *arguments: str) -> subprocess.Popen:
    return forks.Popen([START + script, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_two_writers_lose_nothing_and_a_reader_sees_all_at_once(tmp_path):
    index = str(tmp_path / "index")
    with Rag.open(index, embedder=WordEmbedder()) as rag:
        rag.sync([Document("first", "first")])
    reader = start(READER, index)
    reader.stdout.readline()
    writers = [start(WRITER, index, name) for name in ("a", "b")]
    written = []
    for turn in range(12):
        line = writers[turn % 2].stdout.readline().strip()
        written.append(line)
        reader.stdin.write(f"{line}\n")
        reader.stdin.flush()
        assert json.loads(reader.stdout.readline()) == [f"{line}-7"], "the reader is behind"
    reader.stdin.close()
    assert {process.wait(60) for process in (*writers, reader)} == {0}
    with Rag.open(index, embedder=WordEmbedder()) as rag:
        report = rag.verify()
    assert report.ok, report.problems
    assert report.documents == 1 + 12 * 40


@pytest.mark.parametrize("seed", range(2))
def test_a_killed_sync_is_completed_by_the_next(tmp_path, seed):
    """benchmarks/rag.py kills more often."""
    chance = random.Random(seed)
    folder, index = tmp_path / "documents", tmp_path / "index"
    folder.mkdir()
    words = WordEmbedder()
    for turn in range(5):
        for _ in range(400):
            (folder / f"{chance.randrange(600)}.txt").write_text(f"text {chance.random()} of turn {turn}")
        script = "print('go', flush=True); rag.sync(sys.argv[2], prune=True)"
        process = start(script, str(index), str(folder))
        process.stdout.readline()
        time.sleep(chance.uniform(0.05, 1.5))
        process.kill()
        process.wait()
        with Rag.open(index, embedder=words) as rag:
            if (index / "catalog.sqlite3").exists() and turn:
                assert rag.verify().ok, rag.verify().problems
    with Rag.open(index, embedder=words) as rag:
        report = rag.sync(folder)
        assert report.added + report.updated + report.unchanged == len(list(folder.iterdir()))
        for path in random.Random(1).sample(sorted(folder.iterdir()), 20):
            hit = rag.search(path.read_text(), k=1, mode="dense")[0]
            assert rag.document(hit.document).text == path.read_text()
        assert rag.verify().ok
        assert rag.verify().documents == len(list(folder.iterdir()))


def test_nothing_is_sent_anywhere(tmp_path, embedder_folder):
    """The user's environment may turn telemetry and proxies on."""
    script = f"""
import socket
class Nowhere(socket.socket):
    def connect(self, address):
        if self.family != socket.AF_UNIX:
            print("connects to", address, flush=True)
        raise OSError("no network")
    connect_ex = connect
socket.socket = Nowhere
def nowhere(*address, **options):
    print("asks for", address, flush=True)
    raise OSError("no network")
socket.getaddrinfo = socket.create_connection = nowhere
from foliogpt.rag import Document, Rag
with Rag.open({str(tmp_path / "index")!r}, embedder={str(embedder_folder)!r}) as rag:
    rag.sync([Document("a", "the cat"), Document("b", "the dog")])
    assert rag.search("the cat")[0].document == "a"
    assert rag.verify().ok
    rag.rebuild()
"""
    environment = {**os.environ, "ANONYMIZED_TELEMETRY": "True", "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-c", script]
    if subprocess.run(["unshare", "-rn", "true"], capture_output=True).returncode == 0:
        command = ["unshare", "-rn", *command]  # what is not Python has no network either
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
