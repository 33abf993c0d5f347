"""The store: a catalog, its dense index and its embedder, kept in step whatever happens to whom.

Whoever writes, or asks the dense index, holds the lock for that moment. Whoever gets it first makes good what a writer
that was killed had begun, so that nobody ever sees half of a change.
"""

import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from .catalog import Catalog
from .chunking import CHUNK_TOKENS, CONTEXT_TOKENS, Chunk, chunk_document
from .database import make_folder
from .documents import Document
from .embedding import Embedder, is_chosen, load_embedder, remember
from .index import BATCH, CHROMA_FOLDER, LOCK_FILE, SAME_VECTOR, DenseIndex, dense_problems

LOCK_SECONDS = 60
CALL = f"""
import json, pathlib, sys
from {__name__} import Store
print(json.dumps(getattr(Store(pathlib.Path(sys.argv[1]), None, None), sys.argv[2])()))
"""


class Store:
    """What is in a folder. Nothing is opened or loaded before it is needed.

    `url` names the Chroma server that has the vectors, if they are not in the folder. `embedder` is a directory or
    name, or a loaded one, whose dtype is left alone; None for the index's own.
    """

    def __init__(self, path: Path, url: str | None, embedder: str | Path | Embedder | None) -> None:
        self.path, self.url, self.wanted = path, url, embedder
        self._is_loaded = not (embedder is None or isinstance(embedder, (str, Path)))
        # Whoever has the vectors on a server need not wait for those who use the folder's.
        self._lock = FileLock(path / ("catalog.lock" if url else LOCK_FILE), timeout=LOCK_SECONDS)

    @cached_property
    def catalog(self) -> Catalog:
        return Catalog(self.path)

    @cached_property
    def dense(self) -> DenseIndex:
        # Every index has a collection of its own, so that a server may have those of several.
        return DenseIndex(f"folio-{self.catalog.meta.get('index_id')}", self.path / CHROMA_FOLDER, self.url)

    def create(self) -> None:
        """Make the folder and an empty catalog, unless they are there."""
        if "catalog" not in vars(self):
            make_folder(self.path)
            with self._locked():
                self.catalog = Catalog(self.path, create=True)

    def close(self) -> None:
        if "dense" in vars(self):
            with self._locked():
                self.dense.close()
        if "catalog" in vars(self):
            self.catalog.close()

    # The embedder

    @cached_property
    def embedder(self) -> Embedder:
        """The embedder of this index; ValueError if it is not the one that the index was made with."""
        embedder = self._load()
        if not self.catalog.model[0]:
            with self._locked():
                if not self.catalog.model[0]:  # else somebody was faster
                    if not self._is_loaded:
                        embedder.use(embedder.faster_dtype())
                    with self.catalog.transaction():
                        self._remember(embedder)
        model, dtype = self.catalog.model
        if embedder.hash == model and not self._is_loaded:
            embedder.use(dtype)
        if (embedder.hash, embedder.dtype) != (model, dtype):
            raise ValueError(
                f"The index in {self.path} was made with {self.catalog.meta.get('embedder')}, and {embedder.name} is "
                f"another embedder or has other weights by now. Give the one it was made with, or embed everything "
                f"anew: folio rag rebuild --index {self.path} --embedder {embedder.name}"
            )
        return embedder

    def _load(self) -> Embedder:
        if self._is_loaded:
            return self.wanted
        name = self.wanted or self.catalog.meta.get("embedder") or None
        if not self.wanted and name and not is_chosen(name):
            wants = f"The index in {self.path} wants the embedder {name}, which you have not named before"
            raise ValueError(f"{wants}: if you trust it, add --embedder {name}, this once.")
        embedder = load_embedder(name)
        if self.wanted:
            remember(embedder.name)
        return embedder

    def _remember(self, embedder: Embedder) -> None:
        meta = self.catalog.meta
        meta["embedder"], meta["model"], meta["dtype"] = embedder.name, embedder.hash, embedder.dtype

    def chunks(self, document: Document, embedder: Embedder) -> list[Chunk]:
        size = min(CHUNK_TOKENS, max(embedder.max_tokens - CONTEXT_TOKENS, 16))
        return chunk_document(document, embedder.token_starts, size)

    def embed(self, chunks: list[Chunk], embedder: Embedder | None = None) -> int:
        """See to it that the catalog has a vector for each chunk; returns how many had to be embedded."""
        if not chunks:
            return 0
        embedder = embedder or self.embedder
        missing = self.catalog.missing_vectors([c.hash for c in chunks], embedder.hash, embedder.dtype)
        texts = {chunk.hash: chunk.embedded_text for chunk in chunks if chunk.hash in missing}
        hashes = list(texts)
        for start in range(0, len(hashes), BATCH):
            part = hashes[start : start + BATCH]
            vectors = embedder.encode([texts[hash] for hash in part])
            with self.catalog.transaction():
                self.catalog.put_vectors(part, vectors, embedder.hash, embedder.dtype)
        return len(hashes)

    # The lock, and what is done under it

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Have the index to ourselves, whole."""
        catalog = self.catalog  # opened before it is locked
        with self._locked():
            if catalog.outbox_ids():  # a writer was killed, or failed, and may have left Chroma's files half-written
                with catalog.transaction():
                    catalog.fill_outbox()
                self._refill()
            yield

    @contextmanager
    def writing(self) -> Iterator[Catalog]:
        """Change the catalog, all or nothing; the dense index follows."""
        with self.exclusive():
            before = self.catalog.generation
            with self.catalog.transaction():
                yield self.catalog
                changed = bool(self.catalog.outbox_ids())
                if changed:
                    self.catalog.next_generation()
            if changed:
                self.dense.expect(before, create=before == "0")
                self._empty_outbox()

    def nearest(self, vector: np.ndarray, limit: int, where: dict | None) -> list[tuple[int, float]]:
        """The chunks whose vectors are nearest, of the documents that `where` is true for, with their cosines."""
        if self.catalog.is_read_only and self.url is None:
            return self._nearest_of_all(vector, limit, where)
        with self.exclusive():
            ids = None if where is None else self.catalog.chunks_where(where)
            if ids == []:
                return []
            if self.dense.expect(self.catalog.generation):
                self._probe()
            return self.dense.query(vector, min(limit, len(ids) if ids else self.catalog.counts()[1]), ids)

    def _nearest_of_all(self, vector: np.ndarray, limit: int, where: dict | None) -> list[tuple[int, float]]:
        """The same from the catalog's own vectors: Chroma cannot open a folder that it may not write to."""
        ids = self.catalog.chunks_where(where)
        best: list[tuple[int, float]] = []
        for start in range(0, len(ids), BATCH):
            found, vectors = self.catalog.vectors(ids[start : start + BATCH])
            best += zip(found, (vectors @ vector).tolist() if found else [], strict=True)
            best = sorted(best, key=lambda pair: -pair[1])[:limit]
        return best

    def forget(self, names: Iterable[str]) -> int:
        """Delete what `Catalog.forget` takes, and all traces of what was deleted."""
        catalog = self.catalog
        with self._locked():
            with catalog.transaction():
                count = sum(catalog.forget(name) for name in names)
                self._renew()
            catalog.purge()
            if catalog.model[0] and self.url is None:
                # Chroma writes memory that it never set, in which this process may have what was deleted.
                self.dense.close()
                self._elsewhere("_refill")
            elif catalog.model[0]:
                self._refill()
        return count

    def _renew(self) -> None:
        """Within a transaction: the dense index is about to be made anew."""
        self.catalog.prune_vectors()
        self.catalog.fill_outbox()
        self.catalog.next_generation()

    def problems(self) -> list[str]:
        """What is wrong with the catalog, the dense index, or between them."""
        with self.exclusive():
            found = self.catalog.problems()
            if self.catalog.counts()[1]:
                self.dense.close()  # what is in memory says nothing about the files
                try:  # damaged files can crash Chroma, and whoever uses it
                    found += self._elsewhere("_compared") if self.url is None else self._compared()
                except RuntimeError as error:
                    found.append(str(error))
        return found

    def rebuild(self) -> int:
        """Make the dense index anew; with another embedder than before, embed everything. Returns how much that was."""
        catalog = self.catalog
        with self._locked():
            lacks, (model, dtype) = catalog.chunks_without_vector(), catalog.model
            embedder = self._load() if self.wanted is not None or lacks else None
            if embedder and not self._is_loaded:
                embedder.use(dtype if embedder.hash == model else embedder.faster_dtype())
            if embedder and not lacks and (embedder.hash, embedder.dtype) == (model, dtype):
                embedder = None  # everything has its vectors
            embedded, chunks = 0, []
            # The old index goes on as it is until there is a vector for everything.
            for _, document in catalog.documents() if embedder else ():
                chunks += self.chunks(document, embedder)
                if len(chunks) >= BATCH:
                    embedded += self.embed(chunks, embedder)
                    chunks = []
            embedded += self.embed(chunks, embedder)
            with catalog.transaction():
                if embedder is not None:
                    for id, document in catalog.documents():
                        catalog.replace_chunks(id, self.chunks(document, embedder))
                    self._remember(embedder)
                    self.embedder = embedder
                self._renew()
            self._refill()
        return embedded

    @contextmanager
    def _locked(self) -> Iterator[None]:
        if "catalog" in vars(self) and self.catalog.is_read_only:
            raise OSError(f"{self.path} is read-only, so the index can be searched and no more: copy it to change it.")
        try:
            self._lock.acquire()
        except Timeout:
            raise OSError(
                f"{self.path} has been in use by another process for {LOCK_SECONDS} seconds: try again later."
            ) from None
        try:
            yield
        finally:
            self._lock.release()

    def _compared(self) -> list[str]:
        return dense_problems(self.catalog, self.dense)

    def _elsewhere(self, method: str) -> Any:
        """What a method returns in a process of its own; RuntimeError if it raises one, or crashes, there."""
        # -P: nothing in the current folder is imported.
        command = [sys.executable, "-P", "-c", CALL, str(self.path), method]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["it crashed"])[-1]
            raise RuntimeError(f"the dense index cannot be read ({last.removeprefix('RuntimeError: ')[:300]})")
        return json.loads(done.stdout)

    def _refill(self) -> None:
        self.dense.clear()
        self.dense.expect(self.catalog.generation, create=True)
        self._empty_outbox()

    def _empty_outbox(self) -> None:
        while any(page := self.catalog.outbox(BATCH)):
            taken, dropped = page
            found, vectors = self.catalog.vectors(taken)
            if len(found) < len(taken):
                raise RuntimeError(f"Vectors are missing in {self.path}: `folio rag rebuild` makes them anew.")
            self.dense.write(found, vectors, dropped)
            with self.catalog.transaction():
                self.catalog.clear_outbox([*taken, *dropped])
        self.dense.wrote(self.catalog.generation)

    def _probe(self) -> None:
        """Chroma does not say when its files are gone, or of another time: see that it has what was written last."""
        _, vectors = self.catalog.vectors([max(self.catalog.chunks_where(None))])
        has, needs = self.dense.count(), self.catalog.counts()[1]
        found = self.dense.query(vectors[0], 1) if has == needs and len(vectors) else []
        if found and found[0][1] > 1 - SAME_VECTOR:
            return
        self.dense.close()
        raise RuntimeError(
            f"The dense index of {self.path} is not whole ({has} of {needs} chunks): "
            f"`folio rag rebuild --index {self.path}` makes it anew without embedding."
        )
