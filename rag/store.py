"""The store: a catalog, its dense index and its embedding model, consistent after any crash.

A process that writes, or queries the dense index, holds the lock. The next one completes what a killed writer began.
"""

import json
import random
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from .catalog import Catalog
from .chunking import CHUNK_TOKENS, CONTEXT_TOKENS, Chunk, chunk_document
from .database import make_folder
from .documents import Document
from .embedding import Embedder, is_chosen, load_embedder, remember
from .index import BATCH, CHROMA_FOLDER, LOCK_FILE, DenseIndex

LOCK_SECONDS = 60
DENSE_VERSION = "2"  # of what the dense index has, and how it links it; an index of another version is made again
SAME_VECTOR = 1e-3  # largest difference of a number in the catalog from the same one in the dense index
SAMPLE = 20  # chunks that are looked for by their own vectors
SUBPROCESS = f"""
import json, pathlib, sys
from {__name__} import Store
print(json.dumps(getattr(Store(pathlib.Path(sys.argv[1]), None, None), sys.argv[2])()))
"""


class Store:
    """The index in a folder. Nothing is opened or loaded before it is needed. `Rag.open` describes the arguments."""

    def __init__(self, path: Path, url: str | None, embedder: str | Path | Embedder | None) -> None:
        self.path, self.url, self.wanted = path, url, embedder
        self._is_loaded = not (embedder is None or isinstance(embedder, (str, Path)))  # then its dtype is not changed
        # Processes with the vectors on a server need not wait for those that use the folder's.
        self._lock = FileLock(path / ("catalog.lock" if url else LOCK_FILE), timeout=LOCK_SECONDS)

    @cached_property
    def catalog(self) -> Catalog:
        return Catalog(self.path)

    @cached_property
    def dense(self) -> DenseIndex:
        # Each index has its own collection, so that a server may have those of several.
        return DenseIndex(f"folio-{self.catalog.setting('index_id')}", self.path / CHROMA_FOLDER, self.url)

    def create(self) -> None:
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

    @cached_property
    def embedder(self) -> Embedder:
        """The embedding model of this index; ValueError if the given one is another."""
        embedder = self._load()
        if not self.catalog.model[0]:
            with self.catalog.transaction():
                if not self.catalog.model[0]:  # another process may have set it
                    if not self._is_loaded:
                        embedder.use(embedder.faster_dtype())
                    self._store_model(embedder)
        model, dtype = self.catalog.model
        if embedder.hash == model and not self._is_loaded:
            embedder.use(dtype)
        if (embedder.hash, embedder.dtype) != (model, dtype):
            made = f"The index in {self.path} was made with {self.catalog.setting('embedder')}"
            remedy = f"Give that one, or embed again: folio rag rebuild --index {self.path} --embedder {embedder.name}"
            raise ValueError(f"{made}, and {embedder.name} is another model, or its weights have changed. {remedy}")
        return embedder

    def _load(self) -> Embedder:
        if self._is_loaded:
            return self.wanted
        name = self.wanted or self.catalog.setting("embedder") or None
        if not self.wanted and name and not is_chosen(name):
            remedy = f"run `folio rag search ready --index {self.path} --embedder {name}` once"
            raise ValueError(f"The index asks for the embedding model {name}, new to you: if you trust it, {remedy}.")
        embedder = load_embedder(name)
        if self.wanted:
            remember(embedder.name)
        return embedder

    def _store_model(self, embedder: Embedder) -> None:
        for key, value in (("embedder", embedder.name), ("model", embedder.hash), ("dtype", embedder.dtype)):
            self.catalog.set_setting(key, value)

    def chunks(self, document: Document, embedder: Embedder) -> list[Chunk]:
        size = min(CHUNK_TOKENS, max(embedder.max_tokens - CONTEXT_TOKENS, 16))
        return chunk_document(document, embedder.token_starts, size)

    def embed(self, chunks: Iterable[Chunk], embedder: Embedder | None = None) -> int:
        """Embed the chunks that have no vector in the catalog, and return how many those were."""
        chunks, count = iter(chunks), 0
        while part := list(islice(chunks, BATCH)):
            embedder = embedder or self.embedder
            missing = self.catalog.missing_vectors([c.hash for c in part], embedder.hash, embedder.dtype)
            if texts := {chunk.hash: chunk.embedded_text for chunk in part if chunk.hash in missing}:
                vectors = embedder.encode(list(texts.values()))
                with self.catalog.transaction():
                    self.catalog.put_vectors(texts, vectors, embedder.hash, embedder.dtype)
            count += len(texts)
        return count

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Lock the index, and complete what another process had begun."""
        catalog = self.catalog  # opened before it is locked
        with self._locked():
            # A writer was killed, or failed, and may have left half-written files; or an earlier version wrote them.
            if any(catalog.outbox(1)) or catalog.setting("dense") != DENSE_VERSION:
                self._refill()
            yield

    @contextmanager
    def writing(self) -> Iterator[Catalog]:
        """Change the catalog, all or nothing, and then the dense index."""
        with self.exclusive():
            before = self.catalog.generation
            with self.catalog.transaction():
                yield self.catalog
                changed = any(self.catalog.outbox(1))
                if changed:
                    self.catalog.next_generation()
            if changed:
                self.dense.expect(before)
                self._empty_outbox()

    def nearest(self, vector: np.ndarray, limit: int, where: dict | None) -> list[tuple[int, float]]:
        """Return the chunks with the `limit` nearest vectors, with their cosines; without `where`, no copies."""
        if self.catalog.is_read_only:  # Chroma cannot open a folder that it may not write to
            copies, found = self.catalog.copies_where(where), []
            firsts = list(copies)
            for start in range(0, len(firsts), BATCH):
                ids, vectors = self.catalog.vectors(firsts[start : start + BATCH])
                found += zip(ids, (vectors @ vector).tolist() if ids else [], strict=True)
                found = sorted(found, key=lambda pair: -pair[1])[:limit]
        else:
            with self.exclusive():
                copies = {} if where is None else self.catalog.copies_where(where)
                if where is not None and not copies:
                    return []
                if self.dense.expect(self.catalog.generation):
                    self._check_opened()
                found = self.dense.query(vector, limit, copies)
        return [(copy, cosine) for id, cosine in found for copy in (copies[id] if where else [id])]

    def forget(self, names: Iterable[str]) -> int:
        """Delete the documents that `Catalog.forget` finds, and all traces of them in the files."""
        catalog = self.catalog
        with self._locked():
            with catalog.transaction():
                count = sum(catalog.forget(name) for name in names)
                catalog.prune_vectors()
                catalog.set_setting("dense", "")
            catalog.purge()
            self.dense.close()
            # Chroma writes uninitialized memory, in which this process may have what was deleted.
            self._in_subprocess("_refill")
        return count

    def problems(self) -> list[str]:
        with self.exclusive():
            found = self.catalog.problems()
            if self.catalog.counts()[1]:
                self.dense.close()  # the copy in memory may differ from the files
                try:  # damaged files can crash Chroma, and the process that uses it
                    found += self._in_subprocess("dense_problems")
                except RuntimeError as error:
                    found.append(str(error))
        return found

    def dense_problems(self) -> list[str]:
        """Compare all vectors of the catalog and the dense index; RuntimeError if Chroma cannot be used."""
        catalog, dense = self.catalog, self.dense
        dense.expect(catalog.generation)
        ids, lacking = catalog.firsts(), len(catalog.without_vector())
        missing = wrong = 0
        for start in range(0, len(ids), BATCH):
            found, vectors = catalog.vectors(ids[start : start + BATCH])
            stored = dense.get(found) if found else {}
            missing += len(found) - len(stored)
            pairs = ((stored[id], vector) for id, vector in zip(found, vectors, strict=True) if id in stored)
            wrong += sum(not np.abs(ours - theirs).max() <= SAME_VECTOR for ours, theirs in pairs)  # NaN is wrong too
        _, vectors = catalog.vectors(random.sample(ids, min(SAMPLE, len(ids))))
        nearest = [dense.query(vector, 1) for vector in vectors]  # the graph may be torn
        lost = sum(not found or found[0][1] < 1 - SAME_VECTOR for found in nearest)
        counts = {
            "chunks have no vector in the catalog": lacking,
            "chunks are not in the dense index": missing,
            "vectors of the dense index differ from those of the catalog": wrong,
            "vectors of the dense index belong to no chunk": dense.count() - (len(ids) - lacking - missing),
            "of a sample of chunks are not found by their own vectors": lost,
        }
        return [f"{count} {what}" for what, count in counts.items() if count]

    def rebuild(self) -> int:
        """Rebuild the dense index; with another embedding model, embed all chunks first. Return how many were."""
        catalog = self.catalog
        with self._locked():
            lacks, (model, dtype) = catalog.without_vector(), catalog.model
            embedder = self._load() if self.wanted is not None or lacks else None
            if embedder and not self._is_loaded:
                embedder.use(dtype if embedder.hash == model else embedder.faster_dtype())
            if embedder and not lacks and (embedder.hash, embedder.dtype) == (model, dtype):
                embedder = None  # all chunks have their vectors
            # The old index stays in use until all chunks have a vector.
            chunks = (chunk for _, each in catalog.documents() for chunk in self.chunks(each, embedder))
            embedded = self.embed(chunks, embedder) if embedder else 0
            with catalog.transaction():
                if embedder is not None:
                    for id, document in catalog.documents():
                        catalog.replace_chunks(id, self.chunks(document, embedder))
                    self._store_model(embedder)
                    self.embedder = embedder
                catalog.prune_vectors()
                catalog.set_setting("dense", "")
            self._refill()
        return embedded

    @contextmanager
    def _locked(self) -> Iterator[None]:
        if "catalog" in vars(self) and self.catalog.is_read_only:
            raise OSError(f"{self.path} is read-only, so you can only search the index: copy it to change it.")
        try:
            held = self._lock.acquire()
        except Timeout:
            raise OSError(f"{self.path} is still in use by another process: try again later.") from None
        with held:
            yield

    def _in_subprocess(self, method: str) -> Any:
        """Call a method in another process, unless a server has the vectors; RuntimeError if that raises or crashes."""
        if self.url is not None:
            return getattr(self, method)()
        # -P: nothing in the current folder is imported.
        command = [sys.executable, "-P", "-c", SUBPROCESS, str(self.path), method]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["it crashed"])[-1]
            raise RuntimeError(f"the dense index cannot be read ({last.removeprefix('RuntimeError: ')[:300]})")
        return json.loads(done.stdout)

    def _refill(self) -> None:
        with self.catalog.transaction():
            self.catalog.fill_outbox()
        self.dense.create(self.catalog.generation)
        self._empty_outbox()
        with self.catalog.transaction():
            self.catalog.set_setting("dense", DENSE_VERSION)

    def _empty_outbox(self) -> None:
        while any(page := self.catalog.outbox(BATCH)):
            added, deleted = page
            found, vectors = self.catalog.vectors(added)
            if len(found) < len(added):
                raise RuntimeError(f"Vectors are missing in {self.path}: run `folio rag rebuild`.")
            self.dense.write(found, vectors, deleted, self.catalog.generation)
            with self.catalog.transaction():
                self.catalog.clear_outbox([*added, *deleted])

    def _check_opened(self) -> None:
        """Check that the dense index has the last chunk, as Chroma reports neither lost nor outdated files."""
        firsts = self.catalog.firsts()
        _, vectors = self.catalog.vectors([max(firsts)])
        has, needs = self.dense.count(), len(firsts)
        found = self.dense.query(vectors[0], 1) if has == needs and len(vectors) else []
        if not (found and found[0][1] > 1 - SAME_VECTOR):
            self.dense.close()
            remedy = f"`folio rag rebuild --index {self.path}` makes it again without embedding."
            raise RuntimeError(f"The dense index of {self.path} is damaged ({has} of {needs} chunks): {remedy}")
