"""Read files in a process that may neither take too long nor too much memory.

A file that makes its reader hang, crash or take all memory ends that process: the file is named, and the next one gets
a new process.
"""

import contextlib
import pickle
from pathlib import PurePath

from ...jobs.limited_process import LimitedProcess
from ..documents import Document
from .reading import read_documents

SECONDS, MEMORY_BYTES = 60, 2_000_000_000  # a file
BATCH = 1000  # documents
PLAIN_SUFFIXES = (".txt", ".text", ".log")  # in UTF-8 they take linear time, and no process


class ReaderPool(LimitedProcess):
    """Reads one file after another; `close` ends its process."""

    def __init__(self) -> None:
        super().__init__(__name__, read_pickled.__name__, MEMORY_BYTES)

    def read(self, path: PurePath, data: bytes, text_column: str) -> list[Document]:
        """Return the documents in a file, as `read_documents` does; ValueError beyond the limits, too."""
        if path.suffix.lower() in PLAIN_SUFFIXES:
            with contextlib.suppress(UnicodeDecodeError):
                data.decode()
                return read_documents(path, data, text_column)
        batches = self.call(SECONDS, path, data, text_column)
        return [document for batch in batches for document in pickle.loads(batch)]


def read_pickled(path: PurePath, data: bytes, text_column: str) -> list[bytes]:
    """Read in that process, and pickle in batches: one pickle of all documents would take half as much memory again."""
    documents = read_documents(path, data, text_column)
    return [pickle.dumps(documents[start : start + BATCH]) for start in range(0, len(documents), BATCH)]
