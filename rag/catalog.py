"""The catalog: every document, chunk and vector in one SQLite file, the source of truth.

The dense index can be rebuilt from it without embedding. `outbox` has the chunks that the dense index must still add or
delete: it is written in the same transaction as the chunks, and emptied when the index has them. Of copies of a text it
has the first alone, as HNSW links hundreds of equal vectors to each other only, and finds no others behind them.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .chunking import Chunk
from .database import Database
from .documents import Document, Heading
from .filters import where_sql
from .lexical import FIRST, SHORTEST, indexed_words, match_expression

IS_FIRST = "NOT EXISTS (SELECT 1 FROM chunks copy WHERE copy.hash = chunks.hash AND copy.id < chunks.id)"
# Unknown words of a question that are corrected, corrections of each, and the least ratio of their spellings (difflib).
MAX_UNKNOWN, MAX_CORRECTIONS, MIN_SIMILARITY = 8, 3, 0.8


class Source(NamedTuple):
    """The origin of documents, such as a file: a stamp that changes with it, and a hash of its contents."""

    name: str
    stamp: str
    hash: str


class Catalog(Database):
    """The contents of an index. They are written within `transaction()`."""

    def setting(self, key: str) -> str:
        return self._value("SELECT value FROM meta WHERE key = ?", key) or ""

    def set_setting(self, key: str, value: str) -> None:
        self.connection.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", [key, value])

    @property
    def generation(self) -> str:
        """The number of writes to the dense index."""
        return self.setting("generation") or "0"

    def next_generation(self) -> None:
        self.set_setting("generation", str(int(self.generation) + 1))

    @property
    def model(self) -> tuple[str, str]:
        """The hash and dtype of the index's embedding model; empty before anything was embedded."""
        return self.setting("model"), self.setting("dtype")

    def source(self, name: str) -> Source | None:
        row = self.connection.execute("SELECT name, stamp, hash FROM sources WHERE name = ?", [name]).fetchone()
        return Source(*row) if row else None

    def sources_below(self, root: str) -> dict[str, tuple[Source, int]]:
        """Return the sources that are `root` or in that folder, each with its number of documents."""
        folder, tables = root.rstrip("/"), "sources s LEFT JOIN documents d ON d.source = s.name"
        query = f"SELECT s.name, stamp, s.hash, count(d.id) FROM {tables} WHERE s.name = ? OR s.name BETWEEN ? AND ?"
        rows = self.connection.execute(f"{query} GROUP BY s.name", [root, f"{folder}/", f"{folder}0"])  # 0 follows /
        return {name: (Source(name, stamp, hash), count) for name, stamp, hash, count in rows}

    def names_from(self, source: str) -> set[str]:
        return set(self._column("SELECT name FROM documents WHERE source = ?", source))

    def source_of(self, name: str) -> str | None:
        return self._value("SELECT source FROM documents WHERE name = ?", name)

    def document_hash(self, name: str) -> str | None:
        return self._value("SELECT hash FROM documents WHERE name = ?", name)

    def document(self, name: str) -> Document:
        """Return a document as it was indexed; KeyError if there is none of that name."""
        query = "SELECT text, title, metadata, structure FROM documents WHERE name = ?"
        row = self.connection.execute(query, [name]).fetchone()
        if row is None:
            raise KeyError(f"there is no document {name!r} in the index")
        headings, pages = json.loads(row[3])
        return Document(name, *row[:2], json.loads(row[2]), tuple(Heading(*each) for each in headings), tuple(pages))

    def document_hashes(self) -> Iterator[tuple[str, str]]:
        return iter(self.connection.execute("SELECT name, hash FROM documents"))

    def documents(self) -> Iterator[tuple[int, Document]]:
        for id, name in self.connection.execute("SELECT id, name FROM documents ORDER BY id").fetchall():
            yield id, self.document(name)

    def counts(self) -> tuple[int, int]:
        """Return the numbers of documents and chunks."""
        query = "SELECT (SELECT count(*) FROM documents), (SELECT count(*) FROM chunks)"
        return self.connection.execute(query).fetchone()

    def put(self, document: Document, source: str, chunks: list[Chunk] | None) -> str:
        """Write a document and its chunks, and return "added", "updated" or "unchanged"."""
        hash, before = document.hash, self.document_hash(document.name)
        if before == hash or chunks is None:  # None: it was unchanged when it was read, and may be newer now
            return "unchanged"
        metadata = json.dumps(document.metadata, allow_nan=False)
        structure = json.dumps([[[h.start, h.level, h.text] for h in document.headings], document.pages])
        self.connection.execute(
            "INSERT INTO documents (name, source, hash, title, metadata, structure, text) VALUES (?, ?, ?, ?, ?, ?, ?) "
            "ON CONFLICT (name) DO UPDATE SET hash = excluded.hash, title = excluded.title, "
            "metadata = excluded.metadata, structure = excluded.structure, text = excluded.text",
            [document.name, source, hash, document.title, metadata, structure, document.text],
        )
        self.replace_chunks(self._value("SELECT id FROM documents WHERE name = ?", document.name), chunks)
        return "updated" if before else "added"

    def replace_chunks(self, document: int, chunks: list[Chunk]) -> None:
        """Write the chunks of a document. Unchanged chunks keep their ids."""
        db = self.connection
        old: dict[bytes, list[int]] = {}
        for id, hash in db.execute("SELECT id, hash FROM chunks WHERE document = ? ORDER BY position DESC", [document]):
            old.setdefault(hash, []).append(id)
        db.execute("UPDATE chunks SET position = -1 - position WHERE document = ?", [document])  # makes room
        query = "INSERT OR REPLACE INTO chunks VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
        for position, c in enumerate(chunks):
            kept = old[c.hash].pop() if old.get(c.hash) else None
            values = [kept, document, position, c.start, c.end, c.page, c.heading, c.context, c.text, c.hash]
            id = db.execute(query, values).lastrowid
            if kept is None:
                words = [id, indexed_words(c.context), indexed_words(c.text)]
                db.execute("INSERT INTO words (rowid, context, text) VALUES (?, ?, ?)", words)
                db.execute("INSERT INTO outbox (chunk) VALUES (?)", [id])
        self._drop_chunks([id for ids in old.values() for id in ids])

    def delete(self, names: Iterable[str]) -> int:
        ids = [id for name in names for id in self._column("SELECT id FROM documents WHERE name = ?", name)]
        for id in ids:
            self._drop_chunks(self._column("SELECT id FROM chunks WHERE document = ?", id))
            self.connection.execute("DELETE FROM documents WHERE id = ?", [id])
        return len(ids)

    def _drop_chunks(self, ids: list[int]) -> None:
        rows = [[id] for id in ids]
        copies = "chunks JOIN chunks copy ON copy.hash = chunks.hash AND copy.id >= chunks.id WHERE chunks.id = ?"
        query = f"INSERT OR IGNORE INTO outbox SELECT copy.id FROM {copies} ORDER BY copy.id LIMIT 2"
        for row in rows:  # the next copy may be the first one now
            self.connection.execute(query, row)
            self.connection.execute("DELETE FROM chunks WHERE id = ?", row)
        self.connection.executemany("DELETE FROM words WHERE rowid = ?", rows)

    def put_source(self, source: Source) -> None:
        self.connection.execute("INSERT OR REPLACE INTO sources (name, stamp, hash) VALUES (?, ?, ?)", source)

    def delete_source(self, name: str) -> int:
        self.connection.execute("DELETE FROM sources WHERE name = ?", [name])
        return self.delete(self.names_from(name))

    def forget(self, name: str) -> int:
        """Delete the documents of a document's, file's or folder's name, and return how many those were."""
        count = sum(self.delete_source(source) for source in self.sources_below(name))
        # The next sync reads the file of a forgotten row again, and reports that row as added.
        self.connection.execute("UPDATE sources SET stamp = '', hash = '' WHERE name = ?", [self.source_of(name)])
        return count + self.delete([name])

    def missing_vectors(self, hashes: Iterable[bytes], model: str, dtype: str) -> set[bytes]:
        query = "SELECT 1 FROM vectors WHERE hash = ? AND model = ? AND dtype = ?"
        return {hash for hash in set(hashes) if not self._value(query, hash, model, dtype)}

    def put_vectors(self, hashes: Iterable[bytes], vectors: np.ndarray, model: str, dtype: str) -> None:
        rows = [(h, model, dtype, v.astype("<f4").tobytes()) for h, v in zip(hashes, vectors, strict=True)]
        query = "INSERT OR IGNORE INTO vectors (hash, model, dtype, vector) VALUES (?, ?, ?, ?)"
        self.connection.executemany(query, rows)

    def copy_vectors(self, catalog: Path, model: str, dtype: str) -> None:
        self.connection.execute("ATTACH ? AS other", [str(catalog)])
        theirs = "SELECT hash, model, dtype, vector FROM other.vectors WHERE model = ? AND dtype = ?"
        self.connection.execute(f"INSERT OR IGNORE INTO vectors {theirs}", [model, dtype])
        self.connection.execute("DETACH other")

    def prune_vectors(self) -> None:
        query = "DELETE FROM vectors WHERE model != ? OR dtype != ? OR hash NOT IN (SELECT hash FROM chunks)"
        self.connection.execute(query, self.model)

    def without_vector(self) -> set[bytes]:
        return self.missing_vectors(self._column("SELECT hash FROM chunks"), *self.model)

    def vectors(self, ids: list[int]) -> tuple[list[int], np.ndarray]:
        """Return the ids of the chunks that have a vector, and those vectors: (ids, dimension)."""
        query = "SELECT vector FROM chunks JOIN vectors USING (hash) WHERE chunks.id = ? AND model = ? AND dtype = ?"
        model = self.model
        found = {id: vector for id in ids if (vector := self._value(query, id, *model)) is not None}
        rows = [np.frombuffer(vector, "<f4") for vector in found.values()]
        return list(found), np.stack(rows) if rows else np.zeros((0, 0), "f4")

    def outbox(self, limit: int) -> tuple[list[int], list[int]]:
        """Return at most `limit` ids of chunks that the dense index must add, and of chunks that it must delete."""
        query = f"SELECT chunk, id IS NOT NULL AND {IS_FIRST} FROM outbox LEFT JOIN chunks ON chunks.id = chunk"
        rows = self.connection.execute(f"{query} ORDER BY chunk LIMIT ?", [limit]).fetchall()
        return [id for id, is_needed in rows if is_needed], [id for id, is_needed in rows if not is_needed]

    def clear_outbox(self, ids: Iterable[int]) -> None:
        self.connection.executemany("DELETE FROM outbox WHERE chunk = ?", [[id] for id in ids])

    def fill_outbox(self) -> None:
        """Make the dense index, which is about to be emptied, add all chunks again."""
        self.connection.execute("DELETE FROM outbox")
        self.connection.execute(f"INSERT INTO outbox SELECT id FROM chunks WHERE {IS_FIRST}")
        self.next_generation()

    def lexical(self, query: str, limit: int, where: dict | None) -> list[tuple[int, float]]:
        """Return the chunks that BM25 ranks first, with their scores."""
        expression = match_expression(query, self._similar)
        if expression is None:
            return []
        condition, parameters = where_sql(where) if where else ("TRUE", [])
        tables = "words JOIN chunks ON chunks.id = words.rowid JOIN documents ON documents.id = chunks.document"
        query = f"SELECT words.rowid, -bm25(words) AS score FROM {tables if where else 'words'} WHERE words MATCH ?"
        order = "ORDER BY score DESC, words.rowid LIMIT ?"
        return self.connection.execute(f"{query} AND {condition} {order}", [expression, *parameters, limit]).fetchall()

    def frequency(self, term: str, chunks: list[int]) -> tuple[int, set[int]]:
        """Return the number of chunks with a term of `question_terms`, and those of `chunks` that have it."""
        count = self._value("SELECT count(*) FROM words WHERE words MATCH ?", term)
        query = "SELECT 1 FROM words WHERE words MATCH ? AND rowid = ?"
        return count, {id for id in chunks if self._value(query, term, id)}

    def _similar(self, terms: Iterable[str]) -> list[str]:
        """Return terms of the index with a spelling and first letter like those of `terms` that no chunk has."""
        query = "SELECT 1 FROM words WHERE words MATCH ? LIMIT 1"
        words = [term for term in terms if len(term) >= SHORTEST and not any(c.isdigit() or c == " " for c in term)]
        unknown = [word for word in words if not self._value(query, f'"{word}"')]
        if unknown:
            self.connection.execute("CREATE VIRTUAL TABLE IF NOT EXISTS temp.terms USING fts5vocab (main, words, row)")
        query = "SELECT term FROM temp.terms WHERE term >= ? AND term < ? AND length(term) BETWEEN ? AND ?"
        similar: list[str] = []
        for word in unknown[:MAX_UNKNOWN]:
            spelled = self._column(query, word[0], chr(ord(word[0]) + 1), len(word) - 2, len(word) + 2)
            spelled = [term for term in spelled if not term.endswith(FIRST)]
            similar += get_close_matches(word, spelled, MAX_CORRECTIONS, MIN_SIMILARITY)
        return similar

    def neighbors(self, id: int) -> list[int]:
        adjacent = "other.document = chunks.document AND other.position IN (chunks.position - 1, chunks.position + 1)"
        tables = f"chunks JOIN chunks other ON {adjacent}"
        return self._column(f"SELECT other.id FROM {tables} WHERE chunks.id = ? ORDER BY other.position", id)

    def firsts(self) -> list[int]:
        return self._column(f"SELECT id FROM chunks WHERE {IS_FIRST}")

    def copies_where(self, where: dict | None) -> dict[int, list[int]]:
        """Return the chunks of the documents that a condition is true for, or of all, by the first with their text."""
        condition, parameters = where_sql(where) if where else ("TRUE", [])
        first = "(SELECT min(id) FROM chunks copy WHERE copy.hash = chunks.hash)"
        query = f"SELECT {first}, chunks.id FROM documents JOIN chunks ON document = documents.id WHERE {condition}"
        copies: dict[int, list[int]] = {}
        for id, copy in self.connection.execute(query, parameters):
            copies.setdefault(id, []).append(copy)
        return copies

    def chunk(self, id: int) -> dict[str, Any] | None:
        """Return a chunk with its document's name, title and metadata; None if it was deleted."""
        names = ("document", "start", "end", "text", "page", "title", "heading", "chunk", "metadata")
        columns = 'documents.name, "start", "end", chunks.text, page, title, heading, chunks.id, metadata'
        tables = "chunks JOIN documents ON documents.id = chunks.document"
        row = self.connection.execute(f"SELECT {columns} FROM {tables} WHERE chunks.id = ?", [id]).fetchone()
        return None if row is None else dict(zip(names, [*row[:-1], json.loads(row[-1])], strict=True))

    def problems(self) -> list[str]:
        db = self.connection
        found = [f"the catalog: {line}" for (line,) in db.execute("PRAGMA quick_check") if line != "ok"]
        torn = 0
        for id, document in self.documents():
            chunks = db.execute('SELECT "start", "end", text FROM chunks WHERE document = ?', [id])
            torn += any(document.text[start:end] != chunk for start, end, chunk in chunks)
        if torn:
            found.append(f"the catalog: {torn} documents differ from their chunks")
        try:
            db.execute("INSERT INTO words (words) VALUES ('integrity-check')")
            if self._value("SELECT (SELECT count(*) FROM chunks) != (SELECT count(*) FROM words)"):
                found.append("the index of words: its number of entries is not that of the chunks")
        except sqlite3.DatabaseError as error:
            found.append(f"the index of words: {error}")
        return found

    def _column(self, query: str, *parameters: Any) -> list:
        return [row[0] for row in self.connection.execute(query, parameters)]

    def _value(self, query: str, *parameters: Any) -> Any:
        """Return the first column of the first row; None if there is no row."""
        return next(iter(self._column(query, *parameters)), None)
