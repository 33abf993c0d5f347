"""The dense index can be lost, damaged or served; the catalog rebuilds it."""

import os
import random
import shutil
import socket
import subprocess
import time

import chromadb
import forks
import numpy as np
import pytest
from embedders import DIMENSION, WordEmbedder

from foliogpt.rag import Document, Rag
from foliogpt.rag.catalog import Catalog
from foliogpt.rag.index import DenseIndex, server_address, without_password
from foliogpt.rag.store import Store

ANIMALS = [f"the {name} number {n}" for n in range(15) for name in ("cat", "dog", "bird", "fish")]


@pytest.fixture
def indexed(rag, tmp_path):
    rag.sync(Document(f"d{n}", text) for n, text in enumerate(ANIMALS))
    rag.close()
    return tmp_path / "index"


def vector_files(index):
    return next(path for path in (index / "chroma").iterdir() if path.is_dir())


def truncate(path, share=0.5):
    os.truncate(path, int(path.stat().st_size * share))


def flip_vectors(index):
    path = vector_files(index) / "data_level0.bin"
    data = bytearray(path.read_bytes())
    for start in range(2000, len(data) - 8, 1000):
        data[start : start + 8] = os.urandom(8)
    path.write_bytes(data)


DAMAGE = {
    "gone": lambda index: shutil.rmtree(index / "chroma"),
    "the vectors' files gone": lambda index: shutil.rmtree(vector_files(index)),
    "the vectors truncated": lambda index: truncate(vector_files(index) / "data_level0.bin"),
    "the vectors changed": flip_vectors,
    "the ids truncated": lambda index: truncate(vector_files(index) / "index_metadata.pickle"),
    "the database truncated": lambda index: truncate(index / "chroma" / "chroma.sqlite3"),
    "the database emptied": lambda index: truncate(index / "chroma" / "chroma.sqlite3", 0),
}


@pytest.fixture
def flushed(indexed, words):
    """Chroma writes its vectors' files every 1,000 changes; before, they are in its log."""
    with Rag.open(indexed, embedder=words) as rag:
        rag.sync([Document(f"n{n}", f"number {n}") for n in range(1200)])
    assert vector_files(indexed).is_dir()
    return indexed


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_found_and_repaired_without_embedding(flushed, words, damage):
    DAMAGE[damage](flushed)
    seen = words.seen
    with Rag.open(flushed, embedder=words) as rag:
        report = rag.verify()
        assert not report.ok
        assert rag.search("cat", mode="lexical")  # needs no vectors
        assert rag.rebuild() == 0
        assert words.seen == seen
        assert rag.verify().ok, rag.verify().problems
        assert {hit.text.split()[1] for hit in rag.search("the cat", k=10, mode="dense")} == {"cat"}


@pytest.mark.parametrize("damage", ["gone", "the database truncated", "the database emptied", "the ids truncated"])
def test_a_search_or_sync_of_a_damaged_index_says_what_to_do(flushed, words, damage):
    DAMAGE[damage](flushed)
    with Rag.open(flushed, embedder=words) as rag:
        with pytest.raises(RuntimeError, match="folio rag rebuild"):
            rag.search("cat")
        with pytest.raises(RuntimeError, match="folio rag rebuild"):
            rag.sync([Document("new", "a new text")])
    with Rag.open(flushed, embedder=words) as rag:  # which sees that what was begun is not done
        assert rag.verify().ok
        assert rag.search("a new text")[0].document == "new"


def test_search_rejects_outdated_files_of_the_dense_index(indexed, words, tmp_path):
    shutil.copytree(indexed / "chroma", tmp_path / "old")
    with Rag.open(indexed, embedder=words) as rag:
        rag.sync([Document("d0", "something else")])
    shutil.rmtree(indexed / "chroma")
    shutil.copytree(tmp_path / "old", indexed / "chroma")
    with Rag.open(indexed, embedder=words) as rag:
        with pytest.raises(RuntimeError, match="folio rag rebuild"):
            rag.search("cat")
        assert not rag.verify().ok


def test_index_is_private_to_its_user(indexed):
    assert indexed.stat().st_mode & 0o077 == 0
    assert (indexed / "chroma").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("wrong", ["embedding function", "space"])
def test_foreign_collection_is_rejected(tmp_path, words, wrong):
    from chromadb.utils.embedding_functions import DefaultEmbeddingFunction

    with Rag.open(tmp_path / "index", embedder=words) as rag:
        rag.sync([Document("z", "text")])
        name = rag._store.dense.name
    client = chromadb.PersistentClient(str(tmp_path / "index" / "chroma"))
    client.delete_collection(name)
    if wrong == "space":
        client.create_collection(name, embedding_function=None, configuration={"hnsw": {"space": "l2"}})
    else:
        configuration = {"hnsw": {"space": "cosine"}}
        client.create_collection(name, embedding_function=DefaultEmbeddingFunction(), configuration=configuration)
    client.close()
    with Rag.open(tmp_path / "index", embedder=words) as rag, pytest.raises(RuntimeError, match="compares by"):
        rag.sync([Document("a", "text")])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_child_gets_an_error_instead_of_hanging(indexed):
    script = f"""
import os, sys
sys.path.insert(0, {str(os.path.dirname(__file__))!r})
from embedders import WordEmbedder
from foliogpt.rag import Rag
rag = Rag.open({str(indexed)!r}, embedder=WordEmbedder())
rag.search("cat")
child = os.fork()
if child == 0:
    for again in (rag, Rag.open({str(indexed)!r}, embedder=WordEmbedder())):
        try:
            again.search("cat")
        except RuntimeError as error:
            print(str(error), flush=True)
    os._exit(0)
os.waitpid(child, 0)
print(len(rag.search("cat")))
"""
    done = forks.run([script], timeout=60)
    lines = done.stdout.splitlines()
    assert len(lines) == 3, done.stderr
    assert all("forked" in line for line in lines[:2])
    assert lines[2] == "10"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://localhost", ("localhost", 8000, False)), ("https://h.example", ("h.example", 443, True)),
        ("http://[::1]:8001/", ("::1", 8001, False)),
    ],
)  # fmt: skip
def test_addresses_are_read(url, expected):
    address = server_address(url)
    assert (address["host"], address["port"], address["ssl"]) == expected
    assert not address["headers"]
    assert server_address("https://me:p%40ss@h")["headers"] == {"Authorization": "Basic bWU6cEBzcw=="}


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://x", "http://", "http://h:99999", "http://u:secret@h/path"])
def test_invalid_address_is_rejected_without_its_password(tmp_path, url):
    with pytest.raises(ValueError, match="HOST:PORT") as raised:
        Rag.open(tmp_path, url=url)
    assert "secret" not in str(raised.value)
    assert "secret" not in without_password("https://u:secret@host:1")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def server(tmp_path):
    """Starts `chroma run` for a folder and waits until it answers."""
    running = []
    log = tmp_path / "server.log"  # not a pipe: nobody reads it, and a full one stops the server

    def start(program: list[str], port: int) -> str:
        process = forks.Popen(program, stdout=log.open("w"), stderr=subprocess.STDOUT)
        running.append(process)
        for _ in range(300):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return f"http://127.0.0.1:{port}"
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
        raise TimeoutError(program)

    yield start
    for process in running:
        process.terminate()
        process.wait(30)


def test_a_server_has_the_vectors_by_the_same_api(tmp_path, words, server):
    port = free_port()
    chroma = "from chromadb.cli.cli import app; app()"
    place = ["--path", str(tmp_path / "server"), "--host", "127.0.0.1", "--port", str(port)]
    url = server([chroma, "run", *place], port)
    with Rag.open(tmp_path / "index", url=url, embedder=words) as rag:
        rag.sync(Document(f"d{n}", text) for n, text in enumerate(ANIMALS))
        with Rag.open(tmp_path / "index", url=url, embedder=words) as other:
            other.sync([Document("new", "a new text")])
        assert rag.search("a new text")[0].document == "new"
        assert rag.search("cat", mode="dense", where={"document": "d1"})[0].document == "d1"
        assert rag.sync([Document("new", "a new text")], prune=True).deleted == len(ANIMALS)
        assert rag.verify().ok
        assert rag.rebuild() == 0
        assert rag.verify().ok
    assert not (tmp_path / "index" / "chroma").exists()


def test_a_server_that_does_not_answer_is_named(indexed, words):
    with Rag.open(indexed, url=f"http://127.0.0.1:{free_port()}", embedder=words) as rag:
        with pytest.raises(ConnectionError, match="No Chroma server answers"):
            rag.search("cat")
        assert rag.search("cat", mode="lexical")


def test_vectors_survive_both_ways(indexed, words):
    with Rag.open(indexed, embedder=words) as rag:
        store = rag._store
        ids, vectors = store.catalog.vectors(store.catalog.firsts())
        with store.exclusive():
            store.dense.expect(store.catalog.generation)
            dense = store.dense.get(ids)
    assert vectors.shape == (len(ANIMALS), DIMENSION)
    np.testing.assert_allclose(np.stack([dense[id] for id in ids]), vectors, atol=1e-6)


def test_every_vector_is_found_by_itself(tmp_path):
    """HNSW can drop all links to one of many similar vectors. It did in a third of the builds of these."""
    chance = random.Random(65)
    texts = {chance.randrange(600): f"text {chance.random()} of turn 0" for _ in range(400)}
    vectors = WordEmbedder().encode(list(texts.values())).astype("f4")
    for turn in range(12):  # the threads insert in another order each time
        dense = DenseIndex("similar", tmp_path / str(turn))
        dense.create("1")
        dense.write(list(range(len(vectors))), vectors, [], "1")
        assert [dense.query(vector, 1)[0][0] for vector in vectors] == list(range(len(vectors)))
        dense.close()


def test_copies_of_a_text_hide_no_other_text(rag):
    """HNSW links hundreds of equal vectors to each other alone. Then it finds nothing that lies behind them."""
    chance = random.Random(0)
    texts = [" ".join(f"w{chance.randrange(300)}" for _ in range(8)) for _ in range(600)]
    given = [*texts, *[texts[0]] * 400]
    chance.shuffle(given)
    documents = [Document(f"d{n}", text, metadata={"n": n}) for n, text in enumerate(given)]
    rag.sync(documents)
    store = rag._store
    for text in texts:
        assert store.nearest(store.embedder.encode_query(text), 1, None)[0][1] > 0.999
    copies = [document for document in documents if document.text == texts[0]]
    for copy in (copies[0], copies[200], copies[-1]):
        assert [hit.document for hit in rag.search(texts[0], 2, "dense", {"n": copy.metadata["n"]})] == [copy.name]
    assert len(rag.search(texts[0], 20, "dense")) == 20


def test_the_first_copy_of_a_text_may_change_or_go(rag):
    chance = random.Random(0)
    texts = ["the cat", "the dog", "a red bird"]
    there = {}
    for _ in range(12):
        for name in chance.sample("abcdefgh", 3):
            there[name] = chance.choice(texts)
        for name in chance.sample(sorted(there), 2):
            del there[name]
        rag.sync([Document(name, text) for name, text in there.items()], prune=True)
        for name, text in there.items():
            assert [hit.document for hit in rag.search(text, 5, "dense", {"document": name})] == [name]
        found = {hit.text for text in texts for hit in rag.search(text, 5, "dense")} if there else set()
        assert found == set(there.values())
        assert rag._store.dense.count() == len(found)
    assert rag.verify().ok, rag.verify().problems


def test_the_vectors_are_on_the_disk_before_the_catalog_says_so(rag, monkeypatch):
    """Otherwise a power cut can tear them, and nothing would tell."""
    calls, clear = [], Catalog.clear_outbox
    monkeypatch.setattr(os, "fsync", lambda file: calls.append(os.fstat(file).st_ino))
    monkeypatch.setattr(Catalog, "clear_outbox", lambda self, ids: calls.append("clear") or clear(self, ids))
    rag.sync([Document(f"n{n}", f"number {n}") for n in range(1200)])  # two batches; the first fills Chroma's log
    files = {path.stat().st_ino for path in vector_files(rag._store.path).iterdir()}
    first = calls.index("clear")
    assert set(calls[:first]) == set(calls[first + 1 : -1]) == files
    assert calls[-1] == "clear"


def test_the_dense_index_of_an_earlier_version_is_made_again_without_embedding(indexed, words):
    with Rag.open(indexed, embedder=words) as rag:
        db = rag._store.catalog.connection
        db.execute("DELETE FROM meta WHERE key = 'dense'")
        rag._store.dense.expect(rag._store.catalog.generation)
        rag._store.dense.write([10_000], words.encode(["of an earlier version"]), [], rag._store.catalog.generation)
    with Rag.open(indexed, embedder=words) as rag:
        seen = words.seen
        assert rag.search("the cat number 3", 1, "dense")[0].text == "the cat number 3"
        assert words.seen == seen
        assert rag._store.dense.count() == len(ANIMALS)
        assert rag.verify().ok


def test_another_embedder_is_rejected_until_the_index_is_rebuilt_with_it(indexed):
    other = WordEmbedder(seed=1)
    with Rag.open(indexed, embedder=other) as rag:
        with pytest.raises(ValueError, match=r"folio rag rebuild --index \S+ --embedder words-1"):
            rag.search("cat")
        with pytest.raises(ValueError, match="rebuild"):
            rag.sync([Document("new", "text")])
        assert rag.rebuild() == len(set(ANIMALS))
        assert "cat" in rag.search("the cat")[0].text
        assert rag.verify().ok
    with Rag.open(indexed, embedder=WordEmbedder()) as rag, pytest.raises(ValueError, match="words-1"):
        rag.search("cat")


def test_a_read_only_index_is_searched_without_its_server(indexed, words, monkeypatch):
    monkeypatch.setattr(Catalog, "is_read_only", True)
    with Rag.open(indexed, url="http://127.0.0.1:9", embedder=words) as rag:
        assert [hit.text for hit in rag.search("the cat number 3", 1, "dense")] == ["the cat number 3"]


def test_rebuild_embeds_the_first_chunks_before_it_reads_the_last_documents(indexed, monkeypatch):
    """All chunks of a large index need several times its size in memory."""
    other, read = WordEmbedder(seed=1), []
    encode, chunks = other.encode, Store.chunks
    monkeypatch.setattr("foliogpt.rag.store.BATCH", 10)
    monkeypatch.setattr(other, "encode", lambda texts: read.append("encode") or encode(texts))
    monkeypatch.setattr(Store, "chunks", lambda self, *given: read.append("chunks") or chunks(self, *given))
    with Rag.open(indexed, embedder=other) as rag:
        assert rag.rebuild() == len(ANIMALS)
        assert read[:22] == [*["chunks"] * 10, "encode"] * 2
        assert rag.search("the cat number 3", 1, "dense")[0].text == "the cat number 3"
        assert rag.verify().ok
