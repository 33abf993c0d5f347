"""The SQLite file of the catalog: its tables, its connections and its errors."""

import os
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from .lexical import TOKENIZER

CATALOG_FILE = "catalog.sqlite3"
SCHEMA_VERSION = 2  # of the tables, and of the terms that `lexical` makes
APPLICATION_ID = 0x466F6C69  # "Foli": marks the file as ours
CHECK_SECONDS = 0.2  # for checking a file's pages on opening; `verify` checks all of them

SCHEMA = f"""
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE sources (name TEXT PRIMARY KEY, stamp TEXT NOT NULL, hash TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE documents (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, source TEXT NOT NULL, hash TEXT NOT NULL,
    title TEXT NOT NULL, metadata TEXT NOT NULL, structure TEXT NOT NULL, text TEXT NOT NULL
);
CREATE INDEX documents_source ON documents (source);
-- AUTOINCREMENT: an id is never given twice, so a vector in the dense index can never stand for another chunk.
CREATE TABLE chunks (
    id INTEGER PRIMARY KEY AUTOINCREMENT, document INTEGER NOT NULL REFERENCES documents (id),
    position INTEGER NOT NULL, "start" INTEGER NOT NULL, "end" INTEGER NOT NULL, page INTEGER,
    heading TEXT NOT NULL, context TEXT NOT NULL, text TEXT NOT NULL, hash BLOB NOT NULL
);
CREATE UNIQUE INDEX chunks_document ON chunks (document, position);
CREATE INDEX chunks_hash ON chunks (hash);
CREATE TABLE vectors (
    hash BLOB NOT NULL, model TEXT NOT NULL, dtype TEXT NOT NULL, vector BLOB NOT NULL,
    PRIMARY KEY (hash, model, dtype)
);
CREATE TABLE outbox (chunk INTEGER PRIMARY KEY);
CREATE VIRTUAL TABLE words USING fts5 (context, text, tokenize = "{TOKENIZER}");
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
"""


class Database:
    """The catalog's file in a folder. Each thread has its own connection."""

    def __init__(self, folder: Path, create: bool = False) -> None:
        self.path = folder / CATALOG_FILE
        self._local, self._pid = threading.local(), os.getpid()
        if self._exists():
            return
        if not create:
            raise FileNotFoundError(f"There is no index in {folder}: run `folio rag sync PATH --index {folder}`.")
        self.path.touch(0o600)
        with self.transaction() as db:
            for statement in SCHEMA.split(";\n"):
                db.execute(statement)
            db.execute("INSERT INTO meta VALUES ('index_id', ?)", [uuid.uuid4().hex])

    @property
    def is_read_only(self) -> bool:
        return self.path.is_file() and not (os.access(self.path.parent, os.W_OK) and os.access(self.path, os.W_OK))

    def _exists(self) -> bool:
        """Return True if the file exists and is an index. A file of another program is not changed."""
        if not self.path.is_file() or not self.path.stat().st_size:
            return False
        with closing(self._connect(can_write=False)) as db:
            if not db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                return False  # another process is creating it
            application, version = (db.execute(f"PRAGMA {n}").fetchone()[0] for n in ("application_id", "user_version"))
            if application != APPLICATION_ID:
                raise FileExistsError(f"{self.path} is not an index of FolioGPT: give another --index.")
            if version != SCHEMA_VERSION:
                raise ValueError(f"{self.path} has version {version}, not {SCHEMA_VERSION}: sync into a new --index.")
            check_schema(db, self.path)
        return True

    def _connect(self, can_write: bool) -> sqlite3.Connection:
        address = self.path.absolute().as_uri()
        if not can_write:
            # Without a log, no process is writing, and SQLite need not create files next to this one.
            is_immutable = self.is_read_only and not Path(f"{self.path}-wal").exists()
            address += "?mode=ro&immutable=1" if is_immutable else "?mode=ro"
        db = sqlite3.connect(address, uri=True, timeout=60, isolation_level=None)
        db.executescript("PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON")
        if can_write:
            # FULL: the dense index must never be ahead of the catalog, not even after a power cut.
            db.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL")
        return db

    @property
    def connection(self) -> sqlite3.Connection:
        """The connection of this thread; RuntimeError in a forked child, which must not use its parent's."""
        if os.getpid() != self._pid:
            raise RuntimeError("The index was opened before this process was forked: open it again with Rag.open.")
        if not hasattr(self._local, "connection"):
            self._local.connection = self._connect(can_write=not self.is_read_only)
        return self._local.connection

    def close(self) -> None:
        if hasattr(self._local, "connection"):
            self._local.connection.close()
            del self._local.connection

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Write everything that the block writes, or nothing."""
        with self.connection as db:  # which commits, or rolls back
            db.execute("BEGIN IMMEDIATE")
            yield db

    def purge(self) -> None:
        """Rewrite the file, as deleted data is still in the index of words, in free pages and in the log."""
        self.connection.execute("PRAGMA secure_delete = ON")  # or VACUUM copies what a page held before
        for statement in ("INSERT INTO words (words) VALUES ('optimize')", "VACUUM", "PRAGMA wal_checkpoint(TRUNCATE)"):
            self.connection.execute(statement)


def check_schema(db: sqlite3.Connection, path: Path) -> None:
    """Reject tables, views and triggers of others, which could run their SQL, and broken pages found in short time."""
    query = "SELECT name, type, sql FROM sqlite_master"
    with closing(sqlite3.connect(":memory:")) as ours:
        ours.executescript(SCHEMA)
        expected = set(ours.execute(query))
    for name, kind, sql in db.execute(query):
        if (name, kind, sql) not in expected and not (name.startswith("words") and kind == "table"):
            raise ValueError(f"{path} has a {kind} {name!r} that is not ours: do not use this index.")
    end = time.monotonic() + CHECK_SECONDS
    db.set_progress_handler(lambda: time.monotonic() > end, 10_000)
    with suppress(sqlite3.OperationalError):  # interrupted
        if (found := db.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
            raise sqlite3.DatabaseError(found)


@contextmanager
def storage_errors(folder: Path) -> Iterator[None]:
    """Raise SQLite's errors as those that a caller expects."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise OSError(f"The catalog in {folder}: {error}. Your index is intact: fix this and try again.") from error
    except sqlite3.DatabaseError as error:
        is_damage = type(error) is sqlite3.DatabaseError  # its subclasses have other causes
        remedy = " is damaged ({}): restore it from a copy, or sync into a new --index." if is_damage else ": {}."
        raise RuntimeError(f"The catalog in {folder}{remedy.format(error)}") from error


def make_folder(folder: Path) -> None:
    """Create the folder of an index, private to the user; FileExistsError if it has other contents."""
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file: give another --index.")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not (folder / CATALOG_FILE).exists():
        if any(entry.suffix != ".lock" for entry in folder.iterdir()):
            raise FileExistsError(f"{folder} is not empty and has no index: give another --index.")
        folder.chmod(0o700)  # it may have existed, open to others
