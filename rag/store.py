"""The store: a catalog, its dense index and its embedder, kept in step whatever happens to whom.

Whoever writes, or asks the dense index, holds the lock for that moment. Whoever gets it first finishes what a writer
that was killed had begun, so that nobody ever sees half of a change.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from .catalog import Catalog
from .chunking import CHUNK_TOKENS, CONTEXT_TOKENS, Chunk, chunk_document
from .database import make_folder
from .documents import Document
from .embedding import Embedder, load_embedder
from .index import BATCH, CHROMA_FOLDER, DenseIndex, collection_name
from .inspection import SAME_VECTOR, dense_problems, inspect_folder

LOCK_SECONDS = 60
FIRST_GENERATION = "0"


class Store:
    """What is in a folder. Nothing is opened or loaded before it is needed.

    Args:
        path: the folder of the index.
        url: the Chroma server that has the vectors; None if they are in the folder.
        embedder: a directory or name, or a loaded one, whose dtype is left alone; None for the one that the index was
            made with.
    """

    def __init__(self, path: Path, url: str | None, embedder: str | Path | Embedder | None) -> None:
        self.path, self.url, self.wanted = path, url, embedder
        self._catalog: Catalog | None = None
        self._dense: DenseIndex | None = None
        self._embedder: Embedder | None = None
        # `folio rag serve-index` holds the folder's lock as long as it serves.
        self._lock = FileLock(path / lock_name(url), timeout=LOCK_SECONDS)

    @property
    def catalog(self) -> Catalog:
        if self._catalog is None:
            self._catalog = Catalog(self.path)
        return self._catalog

    def create(self) -> None:
        """Make the folder and an empty catalog, unless they are there."""
        if self._catalog is None:
            make_folder(self.path)
            with self._locked():
                self._catalog = Catalog(self.path, create=True)

    def close(self) -> None:
        if self._dense is not None:
            with self._locked():
                self._dense.close()
        if self._catalog is not None:
            self._catalog.close()

    # The embedder

    @property
    def embedder(self) -> Embedder:
        """The embedder of this index.

        Raises:
            ValueError: it is not the one that the index was made with.
        """
        if self._embedder is None:
            embedder = self._load()
            if not self.catalog.model[0]:
                self._choose_dtype(embedder)
                with self._locked(), self.catalog.transaction():
                    if not self.catalog.model[0]:
                        self._remember(embedder)
                if not self._is_loaded and embedder.dtype != self.catalog.model[1]:  # somebody else was faster
                    embedder = self._load()
            self._check(embedder)
            self._embedder = embedder
        return self._embedder

    @property
    def _is_loaded(self) -> bool:
        return not (self.wanted is None or isinstance(self.wanted, (str, Path)))

    def _load(self) -> Embedder:
        if self._is_loaded:
            return self.wanted
        return load_embedder(self.wanted or self.catalog.meta.get("embedder") or None)

    def _choose_dtype(self, embedder: Embedder) -> None:
        if not self._is_loaded:
            embedder.use(embedder.faster_dtype())

    def _remember(self, embedder: Embedder) -> None:
        meta = self.catalog.meta
        meta["embedder"], meta["model"], meta["dtype"] = embedder.name, embedder.hash, embedder.dtype

    def _check(self, embedder: Embedder) -> None:
        model, dtype = self.catalog.model
        if embedder.hash == model and not self._is_loaded:
            embedder.use(dtype)
        if (embedder.hash, embedder.dtype) != (model, dtype):
            raise ValueError(
                f"The index in {self.path} was made with {self.catalog.meta.get('embedder')}, and {embedder.name} is "
                f"another embedder or has other weights by now. Give the one it was made with, or embed everything "
                f"anew: folio rag rebuild --index {self.path} --embedder {embedder.name}"
            )

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

    def _embed_all(self, embedder: Embedder) -> int:
        chunks: list[Chunk] = []
        embedded = 0
        for _, document in self.catalog.documents():
            chunks += self.chunks(document, embedder)
            if len(chunks) >= BATCH:
                embedded += self.embed(chunks, embedder)
                chunks = []
        return embedded + self.embed(chunks, embedder)

    # The lock, and what is done under it

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Have the index to ourselves, whole."""
        catalog = self.catalog
        with self._locked():
            if catalog.outbox_ids():
                self._recover()
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
                self.dense.expect(before, create=before == FIRST_GENERATION)
                self._empty_outbox()

    def nearest(self, vector: np.ndarray, limit: int, where: dict | None) -> list[tuple[int, float]]:
        """The chunks whose vectors are nearest, of the documents that `where` is true for, with their cosines."""
        with self.exclusive():
            ids = None if where is None else self.catalog.chunks_where(where)
            if ids == []:
                return []
            if self.dense.expect(self.catalog.generation):
                self._probe()
            return self.dense.query(vector, min(limit, len(ids) if ids else self.catalog.counts()[1]), ids)

    def problems(self) -> list[str]:
        """What is wrong with the catalog, the dense index, or between them."""
        with self.exclusive():
            found = self.catalog.problems()
            if self.catalog.counts()[1]:
                self.dense.close()  # what is in memory says nothing about the files
                found += self._dense_problems()
        return found

    def rebuild(self) -> int:
        """Make the dense index anew; with another embedder than before, embed everything. Returns how much that was."""
        catalog = self.catalog
        with self._locked():
            embedder, embedded = self._for_rebuilding(), 0
            if embedder is not None:
                # The old index goes on as it is until there is a vector for everything.
                embedded = self._embed_all(embedder)
            with catalog.transaction():
                if embedder is not None:
                    for id, document in catalog.documents():
                        catalog.replace_chunks(id, self.chunks(document, embedder))
                    self._remember(embedder)
                    self._embedder = embedder
                catalog.prune_vectors(*self.catalog.model)
                catalog.fill_outbox()
                catalog.next_generation()
            self._refill()
        return embedded

    def _for_rebuilding(self) -> Embedder | None:
        """The embedder, if it is another than before, or if vectors are missing."""
        lacks = self.catalog.chunks_without_vector(*self.catalog.model)
        if self.wanted is None and not lacks:
            return None
        embedder = self._load()
        if embedder.hash != self.catalog.model[0]:
            self._choose_dtype(embedder)
        elif not self._is_loaded:
            embedder.use(self.catalog.model[1])
        return embedder if lacks or (embedder.hash, embedder.dtype) != self.catalog.model else None

    @property
    def dense(self) -> DenseIndex:
        if self._dense is None:
            self._dense = DenseIndex(collection_name(self.catalog), self.path / CHROMA_FOLDER, self.url)
        return self._dense

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            self._lock.acquire()
        except Timeout:
            raise OSError(
                f"{self.path} has been in use by another process for {LOCK_SECONDS} seconds: try again later, or, "
                "if that is `folio rag serve-index`, go there with --url."
            ) from None
        try:
            yield
        finally:
            self._lock.release()

    def _recover(self) -> None:
        """Finish what a writer had begun that was killed, or failed. It may have left Chroma's files half-written."""
        self.dense.close()  # others may have written with another client since
        if not self._dense_problems():
            self.dense.expect(self.catalog.generation)
            self._empty_outbox()
            return
        with self.catalog.transaction():
            self.catalog.fill_outbox()
        self._refill()

    def _dense_problems(self) -> list[str]:
        if self.url is None:
            return inspect_folder(self.path)
        try:
            return dense_problems(self.catalog, self.dense)
        except RuntimeError as error:
            return [str(error)]

    def _refill(self) -> None:
        self.dense.clear()
        self.dense.expect(self.catalog.generation, create=True)
        self._empty_outbox()

    def _empty_outbox(self) -> None:
        while True:
            taken, dropped = self.catalog.outbox(BATCH)
            if not taken and not dropped:
                break
            found, vectors = self.catalog.vectors(taken, *self.catalog.model)
            if len(found) < len(taken):
                raise RuntimeError(f"Vectors are missing in {self.path}: `folio rag rebuild` makes them anew.")
            self.dense.write(found, vectors, dropped)
            with self.catalog.transaction():
                self.catalog.clear_outbox([*taken, *dropped])
        self.dense.wrote(self.catalog.generation)

    def _probe(self) -> None:
        """Chroma does not say when its files are gone, or of another time: see that it has what was written last."""
        last = self.catalog.last_chunk()
        _, vectors = self.catalog.vectors([last], *self.catalog.model)
        has, needs = self.dense.count(), self.catalog.counts()[1]
        if has == needs and len(vectors):
            found = self.dense.query(vectors[0], 1)
            if found and found[0][1] > 1 - SAME_VECTOR:
                return
        self.dense.close()
        raise RuntimeError(
            f"The dense index of {self.path} is not whole ({has} of {needs} chunks): "
            f"`folio rag rebuild --index {self.path}` makes it anew without embedding."
        )


def lock_name(url: str | None) -> str:
    """The file whose lock is held: who has the vectors on a server does not wait for that server's folder."""
    return "catalog.lock" if url else f"{CHROMA_FOLDER}.lock"
