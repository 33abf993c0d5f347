"""The dense index: chunk ids and their vectors in Chroma, in a folder or on a server.

Found by running Chroma 1.5.9 in a folder: two processes that write lose vectors without a word, a process does not see
what another one writes, vectors whose files are gone are not missed, and a collection can name an embedding function
that loads a remote model. So whoever calls this holds the index's lock, says which generation it expects, passes
vectors alone, and the catalog can make all of it anew. Chroma has no text and no metadata.
"""

import base64
import os
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np

from ..jobs.extras import extra
from .catalog import Catalog

CHROMA_FOLDER, LOCK_FILE = "chroma", "chroma.lock"
BATCH = 1000
# ef_search: how many neighbours HNSW looks at; twice as many as are asked for at most times.
CONFIGURATION = {"hnsw": {"space": "cosine", "ef_search": 200}}
SAME_VECTOR = 1e-3  # largest difference of a number in the catalog from the same one in the dense index
SAMPLE = 20  # chunks that are looked for by their own vectors


@dataclass
class Opened:
    client: Any
    collection: Any
    generation: str  # of the catalog, that the collection is known to have
    pid: int


# By folder, or by URL and collection. Chroma has one database for a folder in a process, whoever opens it: so have we.
_opened: dict[Path | tuple[str, str], Opened] = {}


class ForkedError(RuntimeError):
    """Raised in a child process that uses what its parent opened; there it would wait for ever."""


class DenseIndex:
    """The collection `name` in `folder`, or on the Chroma server at `url`.

    Its methods raise ConnectionError if the server does not answer, RuntimeError if the index is damaged or forked.
    """

    def __init__(self, name: str, folder: Path, url: str | None = None) -> None:
        self.name, self.folder, self.url = name, folder, url
        self._key = (url, name) if url is not None else folder

    def write(self, ids: list[int], vectors: np.ndarray, dropped: list[int]) -> None:
        """Take in vectors, and drop others, `BATCH` in all at most. Both may be repeated."""
        with self._errors():
            collection = self._open().collection
            if dropped:
                collection.delete(ids=[str(id) for id in dropped])
            if ids:
                collection.upsert(ids=[str(id) for id in ids], embeddings=vectors)

    def query(self, vector: np.ndarray, limit: int, ids: list[int] | None = None) -> list[tuple[int, float]]:
        """The nearest chunks, of `ids` if given, with their cosines."""
        with self._errors():
            collection = self._open().collection
            chosen = None if ids is None else [str(id) for id in ids]
            found = collection.query(query_embeddings=vector[None], n_results=limit, ids=chosen, include=["distances"])
        return [(int(id), 1 - d) for id, d in zip(found["ids"][0], found["distances"][0], strict=True)]

    def count(self) -> int:
        with self._errors():
            return self._open().collection.count()

    def get(self, ids: list[int]) -> dict[int, np.ndarray]:
        """The vectors of those of the ids that are there."""
        vectors: dict[int, np.ndarray] = {}
        with self._errors():
            for start in range(0, len(ids), BATCH):
                page = [str(id) for id in ids[start : start + BATCH]]
                found = self._open().collection.get(ids=page, include=["embeddings"])
                vectors |= zip(map(int, found["ids"]), found["embeddings"], strict=True)
        return vectors

    def expect(self, generation: str, create: bool = False) -> bool:
        """Open the index, anew if another process has written since we knew it; returns whether it was opened now."""
        opened = self._current()
        if opened is not None and opened.generation == generation:
            return False
        self.close()
        with self._errors():
            self._open(create).generation = generation
        return True

    def wrote(self, generation: str) -> None:
        """What was written is from now on known as `generation`."""
        self._current().generation = generation

    def clear(self) -> None:
        """Drop everything, damaged or not."""
        self.close()
        if self.url is None:
            shutil.rmtree(self.folder, ignore_errors=True)
            return
        with self._errors():
            client = self._connect()
            if any(collection.name == self.name for collection in client.list_collections()):
                client.delete_collection(self.name)
            client.close()

    def close(self) -> None:
        """Let go of it; whatever is asked next opens it again."""
        if self._current() is not None:
            _opened.pop(self._key).client.close()

    def _current(self) -> Opened | None:
        opened = _opened.get(self._key)
        if opened is not None and opened.pid != os.getpid():
            raise ForkedError("The index was opened before this process was forked, which Chroma does not survive.")
        return opened

    def _open(self, create: bool = False) -> Opened:
        opened = self._current()
        if opened is None:
            client = self._connect()
            try:
                opened = Opened(client, self._collection(client, create), "", os.getpid())
            except BaseException:
                client.close()
                raise
            _opened[self._key] = opened
        return opened

    def _collection(self, client, create: bool):
        if self.name not in {collection.name for collection in client.list_collections()}:
            if not create:
                raise RuntimeError(f"there is no collection {self.name}")
            return client.create_collection(self.name, embedding_function=None, configuration=CONFIGURATION)
        collection = client.get_collection(self.name, embedding_function=None)
        stored = collection.configuration_json
        if (stored.get("embedding_function") or {}).get("type", "legacy") != "legacy":
            raise RuntimeError(f"the collection {self.name} has an embedding function, which could load a remote model")
        if ((stored.get("hnsw") or stored.get("spann") or {}).get("space")) != "cosine":
            raise RuntimeError(f"the collection {self.name} does not compare by cosine")
        return collection

    def _connect(self):
        with extra("rag", "The dense index"):
            import chromadb
            from chromadb.config import Settings
        settings = Settings(_env_file=None, anonymized_telemetry=False)
        if self.url is None:
            self.folder.mkdir(mode=0o700, exist_ok=True)
            return chromadb.PersistentClient(str(self.folder), settings=settings)
        return chromadb.HttpClient(**server_address(self.url), settings=settings)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Whatever Chroma raises, Rust's panics included, as one error that says what to do."""
        try:
            yield
        except (ForkedError, ImportError, MemoryError):
            raise
        except BaseException as error:
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            self.close()
            reason = " ".join(str(error).split())[:300]
            if self.url is not None and ("Could not connect" in reason or type(error).__module__.startswith("http")):
                raise ConnectionError(
                    f"No Chroma server answers at {without_password(self.url)}: start it, or leave out --url."
                ) from None
            raise RuntimeError(
                f"The dense index cannot be used: {reason}. `folio rag rebuild` makes it anew."
            ) from error


def dense_problems(catalog: Catalog, dense: DenseIndex) -> list[str]:
    """Compare all vectors; RuntimeError if Chroma cannot be used."""
    dense.expect(catalog.generation)
    ids = catalog.chunks_where(None)
    lacking = missing = wrong = 0
    for start in range(0, len(ids), BATCH):
        page = ids[start : start + BATCH]
        found, vectors = catalog.vectors(page)
        there = dense.get(found)
        lacking += len(page) - len(found)
        missing += len(found) - len(there)
        pairs = ((there[id], vector) for id, vector in zip(found, vectors, strict=True) if id in there)
        wrong += sum(not np.abs(ours - theirs).max() <= SAME_VECTOR for ours, theirs in pairs)  # NaN is wrong too
    _, vectors = catalog.vectors(random.sample(ids, min(SAMPLE, len(ids))))
    nearest = [dense.query(vector, 1) for vector in vectors]  # the graph may be torn
    lost = sum(not found or found[0][1] < 1 - SAME_VECTOR for found in nearest)
    surplus = dense.count() - (len(ids) - lacking - missing)
    counts = {
        "chunks have no vector in the catalog": lacking,
        "chunks are not in the dense index": missing,
        "vectors of the dense index are not those of the catalog": wrong,
        "vectors of the dense index belong to nothing": surplus,
        "of a sample of chunks are not found by their own vectors": lost,
    }
    return [f"{count} {what}" for what, count in counts.items() if count]


def server_address(url: str) -> dict[str, Any]:
    """What Chroma's client takes for http(s)://[user:password@]host[:port]; ValueError for anything else."""
    parts = urlsplit(url)
    try:
        port = parts.port or (443 if parts.scheme == "https" else 8000)
    except ValueError:
        port = 0
    if parts.scheme not in ("http", "https") or not parts.hostname or not port or parts.path.strip("/"):
        raise ValueError(f"--url is {without_password(url)}: give http://HOST:PORT or https://HOST:PORT.")
    secret = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
    basic = f"Basic {base64.b64encode(secret.encode()).decode()}"
    headers = {"Authorization": basic} if parts.username else {}
    return {"host": parts.hostname, "port": port, "ssl": parts.scheme == "https", "headers": headers}


def without_password(url: str) -> str:
    """An address as it may be shown."""
    scheme, separator, rest = url.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"
