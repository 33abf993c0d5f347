"""Serving the vectors of an index to other processes of this machine, with Chroma's own server."""

import signal
import socket
from pathlib import Path

from filelock import FileLock, Timeout

from ..jobs.extras import extra
from .catalog import Catalog
from .index import CHROMA_FOLDER
from .store import lock_name


def serve(folder: Path, port: int) -> None:
    """Serve the vectors of the index in `folder` at 127.0.0.1 until Ctrl-C. There is no authentication.

    Raises:
        FileNotFoundError: there is no index.
        OSError: another process is using it, or the port.
        ImportError: the extra is not installed.
    """
    with extra("rag", "The server of an index"):
        import chromadb_rust_bindings
    Catalog(folder)
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError) as error:
            raise OSError(f"Port {port} cannot be used ({error}): give another --port.") from None
    lock = FileLock(folder / lock_name(None))
    try:
        lock.acquire(timeout=5)
    except Timeout:
        raise OSError(f"{folder} is in use by another process: try again later.") from None
    (folder / CHROMA_FOLDER).mkdir(mode=0o700, exist_ok=True)
    arguments = ["--path", str(folder / CHROMA_FOLDER), "--host", "127.0.0.1", "--port", str(port)]
    for signum in (signal.SIGINT, signal.SIGTERM):  # while Rust runs, Python would not get to handle them
        signal.signal(signum, signal.SIG_DFL)
    with lock:
        chromadb_rust_bindings.cli(["chroma", "run", *arguments])
