"""Read files in a process that may neither take too long nor too much memory.

A file that makes its reader hang, crash or take all memory ends that process: the file is named, and the next one gets
a new process. It is no pool of multiprocessing's, or pebble's, as those import the caller's main module again.
"""

import contextlib
import faulthandler
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import PurePath

from ..documents import Document
from .reading import read_documents

SECONDS, MEMORY_BYTES = 60, 2_000_000_000  # a file
BATCH = 1000  # documents pickled at once
OUT_OF_MEMORY = 3  # exit code
PROGRAM = f"from {__name__} import serve; serve()"
# Threads and Arrow's own pool reserve memory that they do not use, and the limit would count it.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "ARROW_DEFAULT_MEMORY_POOL": "system"}
PLAIN_SUFFIXES = (".txt", ".text", ".log")  # in UTF-8 they take linear time, and no process


class ReaderPool:
    """Reads one file after another; `close` ends its process."""

    def __init__(self) -> None:
        self._process: subprocess.Popen | None = None

    def read(self, path: PurePath, data: bytes, text_column: str) -> list[Document]:
        """Return the documents in a file, as `read_documents` does; ValueError beyond the limits, too."""
        if path.suffix.lower() in PLAIN_SUFFIXES:
            with contextlib.suppress(UnicodeDecodeError):
                data.decode()
                return read_documents(path, data, text_column)
        if self._process is None or self._process.poll() is not None:
            self.close()
            # -P: nothing in the current folder is imported.
            command = [sys.executable, "-P", "-c", PROGRAM, str(SECONDS), str(MEMORY_BYTES)]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
            self._process = subprocess.Popen(command, env={**os.environ, **ENVIRONMENT}, **pipes)
        process, start, documents = self._process, time.monotonic(), []
        try:
            pickle.dump((path, data, text_column), process.stdin)
            process.stdin.flush()
            while isinstance(answer := pickle.load(process.stdout), list):
                documents += answer
        except (EOFError, OSError, pickle.UnpicklingError):
            self.close()
            code = process.returncode
            reason = f"crashes its reader ({signal.Signals(-code).name if code < 0 else f'exit code {code}'})"
            if code == OUT_OF_MEMORY:
                reason = f"takes more than {MEMORY_BYTES / 1e9:g} GB of memory to read"
            elif time.monotonic() - start >= SECONDS:
                reason = f"takes more than {SECONDS} seconds to read"
            raise ValueError(reason) from None
        except BaseException:  # Ctrl-C: its answer would be taken for that to the next file
            process.kill()
            raise
        if answer is not None:
            raise answer
        return documents

    def close(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(OSError), process:  # closes the pipes, at which it ends, and waits
                pass


def serve() -> None:
    """Read what comes through stdin, and answer through stdout, until it is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it too, and decides
    answers, silence = os.fdopen(os.dup(1), "wb"), os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)  # a library that prints would break the answers
    with contextlib.suppress(ImportError, ValueError, OSError):  # Windows has no limits, macOS not this one
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (int(sys.argv[2]), resource.getrlimit(resource.RLIMIT_DATA)[1]))
    while True:
        try:
            request = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        # Ends the process from a thread in C, whatever the reader is doing.
        faulthandler.dump_traceback_later(int(sys.argv[1]), exit=True, file=silence)
        answer = None
        try:
            documents = read_documents(*request)
            for start in range(0, len(documents), BATCH):
                pickle.dump(documents[start : start + BATCH], answers)
        except MemoryError:
            os._exit(OUT_OF_MEMORY)
        except (ValueError, ImportError) as error:
            answer = error
        pickle.dump(answer, answers)
        answers.flush()
        faulthandler.cancel_dump_traceback_later()
        request = documents = answer = None
