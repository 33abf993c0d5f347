"""Reading in a process with limited time and memory; after a file that ends it, the next file gets a new process."""

import contextlib
import pickle
from pathlib import PurePath

from ...jobs.limited_process import LimitedProcess
from ..documents import Document
from .reading import read_documents

SECONDS, MEMORY_BYTES = 60, 2_000_000_000  # for each file
BATCH = 1000  # documents
PLAIN_SUFFIXES = (".txt", ".text", ".log")  # read in this process if they are UTF-8, which takes linear time


class ReaderPool(LimitedProcess):
    """A process that reads one file after another; `close` ends it."""

    def __init__(self) -> None:
        super().__init__(__name__, read_pickled.__name__, MEMORY_BYTES)

    def read(self, path: PurePath, data: bytes, text_column: str) -> list[Document]:
        """Return the documents in a file, as `read_documents` does; raises ValueError beyond the limits, too."""
        if path.suffix.lower() in PLAIN_SUFFIXES:
            with contextlib.suppress(UnicodeDecodeError):
                data.decode()
                return read_documents(path, data, text_column)
        return [document for batch in self.call(SECONDS, path, data, text_column) for document in pickle.loads(batch)]


def read_pickled(path: PurePath, data: bytes, text_column: str) -> list[bytes]:
    """Read a file and pickle its documents in batches: one pickle of all would take half as much memory again."""
    documents = read_documents(path, data, text_column)
    return [pickle.dumps(documents[start : start + BATCH]) for start in range(0, len(documents), BATCH)]
