"""The dense index: chunk ids and their vectors in Chroma, in a folder or on a server.

In a folder, Chroma 1.5.9 loses vectors if two processes write, does not see what another process wrote, does not report
lost files, and lets a collection name an embedding function that loads a remote model. So callers hold the index's
lock, name the generation that they expect, and pass vectors alone. The catalog can rebuild all of it.
"""

import base64
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np

from ..jobs.extras import extra

CHROMA_FOLDER, LOCK_FILE = "chroma", "chroma.lock"
BATCH = 1000
# ef_search: candidates that HNSW looks at, mostly twice as many as are asked for. max_neighbors: with Chroma's 16, some
# vectors lose all links to them and are never found: 70 of 24,000 vectors of similar texts, and none with 64.
CONFIGURATION = {"hnsw": {"space": "cosine", "ef_search": 200, "ef_construction": 200, "max_neighbors": 64}}


@dataclass
class Opened:
    client: Any
    collection: Any
    generation: str  # of the catalog, which the collection is known to match
    pid: int


# By folder, or by URL and collection: Chroma has one database per folder and process, and so do we.
_opened: dict[Path | tuple[str, str], Opened] = {}


class DenseIndex:
    """The collection `name` in `folder`, or on the Chroma server at `url`.

    `expect` or `create` opens it, and must be called first. All methods raise ConnectionError if the server does not
    answer, and RuntimeError if the index is damaged or forked.
    """

    def __init__(self, name: str, folder: Path, url: str | None = None) -> None:
        self.name, self.folder, self.url = name, folder, url
        self._key = (url, name) if url is not None else folder

    def write(self, ids: list[int], vectors: np.ndarray, deleted: list[int], generation: str) -> None:
        """Add vectors, and delete others, at most `BATCH` in all, for a generation of the catalog. May be repeated."""
        with self._using() as collection:
            if deleted:
                collection.delete(ids=[str(id) for id in deleted])
            if ids:
                collection.upsert(ids=[str(id) for id in ids], embeddings=vectors)
        _opened[self._key].generation = generation
        for path in self.folder.glob("*/*") if self.url is None else ():
            with path.open("rb+") as file:  # Chroma leaves these to the system: a power cut would tear them
                os.fsync(file.fileno())

    def query(self, vector: np.ndarray, limit: int, ids: Iterable[int] = ()) -> list[tuple[int, float]]:
        """Return the nearest chunks, of `ids` if given, with their cosines."""
        chosen = [str(id) for id in ids] or None
        with self._using() as collection:
            found = collection.query(query_embeddings=vector[None], n_results=limit, ids=chosen, include=["distances"])
        return [(int(id), 1 - d) for id, d in zip(found["ids"][0], found["distances"][0], strict=True)]

    def count(self) -> int:
        with self._using() as collection:
            return collection.count()

    def get(self, ids: list[int]) -> dict[int, np.ndarray]:
        """Return the vectors of those of at most `BATCH` ids that exist."""
        with self._using() as collection:
            found = collection.get(ids=[str(id) for id in ids], include=["embeddings"])
        return dict(zip(map(int, found["ids"]), found["embeddings"], strict=True))

    def expect(self, generation: str) -> bool:
        """Open the index, again if another process has written since; return True if it was opened now."""
        opened = self._current()
        if opened is not None and opened.generation == generation:
            return False
        self._open(generation)
        return True

    def create(self, generation: str) -> None:
        """Make an empty index; the one before is deleted, damaged or not."""
        self.close()
        if self.url is None:
            shutil.rmtree(self.folder, ignore_errors=True)
        self._open(generation, is_new=True)

    def close(self) -> None:
        if self._current() is not None:
            _opened.pop(self._key).client.close()

    def _current(self) -> Opened | None:
        opened = _opened.get(self._key)
        if opened is not None and opened.pid != os.getpid():
            raise RuntimeError("The index was opened before this process was forked, which Chroma does not survive.")
        return opened

    def _open(self, generation: str, is_new: bool = False) -> None:
        self.close()
        with self._errors():
            client = self._connect()
            try:
                _opened[self._key] = Opened(client, self._collection(client, is_new), generation, os.getpid())
            except BaseException:
                client.close()
                raise

    def _collection(self, client, is_new: bool):
        exists = self.name in {collection.name for collection in client.list_collections()}
        if is_new:
            if exists:
                client.delete_collection(self.name)
            return client.create_collection(self.name, embedding_function=None, configuration=CONFIGURATION)
        if not exists:
            raise RuntimeError(f"there is no collection {self.name}")
        collection = client.get_collection(self.name, embedding_function=None)
        stored = collection.configuration_json
        function = (stored.get("embedding_function") or {}).get("type", "legacy")  # others could load a remote model
        space = (stored.get("hnsw") or stored.get("spann") or {}).get("space")
        if (function, space) != ("legacy", "cosine"):
            raise RuntimeError(f"the collection {self.name} has embedding function {function} and compares by {space}")
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
    def _using(self) -> Iterator[Any]:
        with self._errors():
            yield _opened[self._key].collection

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Raise Chroma's errors, Rust's panics included, as one error that names the remedy."""
        try:
            yield
        except (ImportError, MemoryError):
            raise
        except BaseException as error:
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            self.close()  # raises its own error in a forked child
            reason = " ".join(str(error).split())[:300]
            if self.url is not None and ("Could not connect" in reason or type(error).__module__.startswith("http")):
                server = without_password(self.url)
                raise ConnectionError(f"No Chroma server answers at {server}: start it, or omit --url.") from None
            raise RuntimeError(f"The dense index cannot be used: {reason}. Run `folio rag rebuild`.") from error


def server_address(url: str) -> dict[str, Any]:
    """Return the arguments of Chroma's client for http(s)://[user:password@]host[:port]; ValueError for other texts."""
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
    scheme, separator, rest = url.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"
