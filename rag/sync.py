"""Sync of an index with documents. While one batch is embedded, the previous one is written."""

import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from . import readers
from .catalog import Catalog, Source
from .chunking import Chunk
from .documents import Document, SyncReport
from .readers import PYTHON_MANUAL, NoText, manual_documents
from .readers.pool import ReaderPool
from .sources import Read, find_files, name_of, read_file, stamp_of
from .store import Store

BATCH_CHUNKS = 1000  # to embed; sorted by length, so that little of it is padding
BATCH_DOCUMENTS = 2000
GIVEN_SOURCE = ""  # the source of documents that the caller gives


@dataclass
class Item:
    """The documents of one transaction: all of a source, or one that the caller gives."""

    documents: list[Document] | None  # None if only the source's stamp changed
    source: Source | None = None
    path: Path | None = None
    is_stable: bool = True
    seen: Source | None = None  # the source in the catalog before it was read
    chunks: dict[str, list[Chunk]] = field(default_factory=dict)  # of the documents that are new in the catalog


class Sync:
    def __init__(self, store: Store, prune: bool, text_column: str, progress: Callable[[SyncReport], None] | None):
        self.store, self.prune, self.text_column = store, prune, text_column
        self.progress = progress or (lambda report: None)
        self.reading = f"{readers.VERSION} {text_column}"
        self.report = SyncReport()

    def run(self, source: str | Path | Iterable[Document]) -> SyncReport:
        if not isinstance(source, (str, Path)):
            names: set[str] = set()
            self._write_all(self._given(source, names))
            if self.prune:
                with self.store.writing() as catalog:
                    self.report.deleted += catalog.delete(catalog.names_from(GIVEN_SOURCE) - names)
        elif str(source) == PYTHON_MANUAL:
            self._write_all(self._manual())
        else:
            self._run_files(source)
        return self.report

    def _run_files(self, source: str | Path) -> None:
        if not str(source).strip() or "\0" in str(source):
            raise ValueError('Give a file, a folder, or "python-manual".')
        root = Path(source).expanduser().resolve()
        if not root.exists():
            remedy = 'Give one, or "python-manual"; `folio rag forget` (Rag.delete) deletes its documents.'
            raise FileNotFoundError(f"There is no file or folder {source}. {remedy}")
        if not root.is_dir() and not root.is_file():
            raise ValueError(f"{source} is not a regular file.")
        files, self.report.skipped, self.report.failed = find_files(root)
        if not files:
            raise ValueError(f"{source} has no file to read: the index was not changed.")
        self.store.create()
        known = self.store.catalog.sources_below(name_of(root))
        with closing(ReaderPool()) as pool:
            self._write_all(self._changed(files, known, pool))
        if files == [root] and name_of(root) in self.report.failed:
            raise ValueError(f"{source} {self.report.failed[name_of(root)]}.")
        if self.prune:
            there = {name_of(path) for path in files}
            unreadable = tuple(name.rstrip("/") + "/" for name in self.report.failed)
            unseen = [name for name in known if name not in there and not f"{name}/".startswith(unreadable)]
            with self.store.writing() as catalog:
                self.report.deleted += sum(catalog.delete_source(name) for name in unseen)

    def _changed(self, files: list[Path], known: dict[str, tuple[Source, int]], pool: ReaderPool) -> Iterator[Item]:
        for number, path in enumerate(files):
            name, self.report.progress = name_of(path), number / len(files)
            seen, count = known.get(name, (None, 0))
            try:
                if seen is not None and seen.stamp == stamp_of(path, self.reading):
                    self.report.unchanged += count
                    continue
                read, documents = read_file(path, self.reading), None
                if seen is not None and seen.hash == read.source.hash:
                    self.report.unchanged += count
                else:
                    documents = pool.read(PurePath(name), read.data, self.text_column)
            except NoText as error:  # the index loses its documents, and the next sync reports it again
                self.report.failed[name] = str(error)
                read, documents = Read(Source(name, "", ""), False, b""), []
            except (OSError, ValueError, ImportError) as error:
                reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
                kept = "; the index keeps its earlier version" if count else ""
                self.report.failed[name] = " ".join(str(reason).split()) + kept
                continue
            yield Item(documents, read.source, path, read.is_stable, seen)

    def _manual(self) -> Iterator[Item]:
        source = Source(PYTHON_MANUAL, f"{sys.version} {readers.VERSION}", "")
        seen = self.store.catalog.source(PYTHON_MANUAL)
        if seen == source:
            self.report.unchanged = len(self.store.catalog.names_from(PYTHON_MANUAL))
            return
        yield Item(manual_documents(), source, seen=seen)

    def _given(self, documents: Iterable[Document], names: set[str]) -> Iterator[Item]:
        for document in documents:
            if not isinstance(document, Document):
                raise ValueError(f"sync takes a path or Documents, not {type(document).__name__}s.")
            if document.name in names:
                self.report.failed[document.name] = "is the name of an earlier document too"
                continue
            names.add(document.name)
            yield Item([document])

    def _write_all(self, items: Iterator[Item]) -> None:
        self.store.create()
        with ThreadPoolExecutor(1) as thread:
            writing: Future[SyncReport] | None = None
            for batch in self._batches(items):
                self._count(writing)
                writing = thread.submit(self._write, batch)
            self._count(writing)
            thread.submit(self.store.catalog.close)  # the connection of that thread

    def _count(self, writing: Future[SyncReport] | None) -> None:
        if writing is not None:
            self.report.add(writing.result())
            self.progress(self.report)

    def _batches(self, items: Iterator[Item]) -> Iterator[list[Item]]:
        """Yield items in batches, after embedding their chunks."""
        store, batch, chunks, documents = self.store, [], [], 0
        for item in items:
            for document in item.documents or []:
                if store.catalog.document_hash(document.name) != document.hash:
                    item.chunks[document.name] = store.chunks(document, store.embedder)
                    chunks += item.chunks[document.name]
            batch.append(item)
            documents += max(len(item.documents or []), 1)
            if len(chunks) >= BATCH_CHUNKS or documents >= BATCH_DOCUMENTS:
                self.report.embedded += store.embed(chunks)
                yield batch
                batch, chunks, documents = [], [], 0
        if batch:
            self.report.embedded += store.embed(chunks)
            yield batch

    def _write(self, batch: list[Item]) -> SyncReport:
        done = SyncReport()
        with self.store.exclusive():
            # Embeds nothing, unless a rebuild has just deleted the new vectors, which no document had yet.
            self.store.embed([chunk for item in batch for chunks in item.chunks.values() for chunk in chunks])
            with self.store.writing() as catalog:
                for item in batch:
                    if not self._is_outdated(item, catalog):
                        write_item(item, catalog, done)
        return done

    def _is_outdated(self, item: Item, catalog: Catalog) -> bool:
        """Return True if another process may have written a newer version. The next sync reads the source again."""
        if item.source is None or catalog.source(item.source.name) == item.seen:
            return False
        with suppress(OSError):
            if item.path is None or stamp_of(item.path, self.reading) == item.source.stamp:
                unchunked = (each for each in item.documents or [] if each.name not in item.chunks)
                return any(catalog.document_hash(each.name) != each.hash for each in unchunked)
        return True


def write_item(item: Item, catalog: Catalog, done: SyncReport) -> None:
    """Write an item within a transaction, and count its documents. Names of other sources' documents are left out."""
    source = item.source or Source(GIVEN_SOURCE, "", "")
    is_complete = True
    for document in item.documents or []:
        owner = catalog.source_of(document.name)
        if owner not in (None, source.name):
            of = owner or "the documents that you gave"
            done.failed[document.name] = f"has the name of a document of {of}: rename this one, or forget that one"
            is_complete = False
            continue
        outcome = catalog.put(document, source.name, item.chunks.get(document.name))
        setattr(done, outcome, getattr(done, outcome) + 1)
    if item.source is not None:
        if item.documents is not None:
            done.deleted += catalog.delete(catalog.names_from(source.name) - {d.name for d in item.documents})
        # Without stamp and hash, the next sync reads the source again, and reports what was left out again.
        stored = source if item.is_stable else source._replace(stamp="")
        catalog.put_source(stored if is_complete else Source(source.name, "", ""))
