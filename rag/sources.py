"""Sources of documents: the files of a folder, read only when they changed."""

import hashlib
import os
import stat
import time
from pathlib import Path
from typing import NamedTuple

from ..data.files import walk
from .catalog import Source
from .database import CATALOG_FILE

MAX_BYTES = 100_000_000
# A file that changed so shortly before it was read may change again with the same time stamp.
STAMP_NANOSECONDS = 2_000_000_000


def find_files(root: Path) -> tuple[list[Path], dict[str, str], dict[str, str]]:
    """List the files at or below `root`, a resolved path; return those to read, those skipped, and those that fail."""
    if not root.is_dir():
        return [root], {}, {}
    found = walk(root, marker=CATALOG_FILE)
    reported = ("symbolic link", "not a regular file")
    skipped = {name_of(path): reason for path, reason in found.left_out.items() if reason in reported}
    return found.files, skipped, {name_of(path): reason for path, reason in found.failed.items()}


def name_of(path: Path) -> str:
    """Return a path as text. A byte that is not UTF-8 becomes \\xff, because the catalog cannot store it."""
    return os.fsencode(path.as_posix()).decode(errors="backslashreplace")


def stamp_of(path: Path, reading: str) -> str:
    """Return a stamp that differs when a file, or the way of reading it, changes. The file is not read."""
    found = path.lstat()
    return f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {found.st_ino} {reading}"


class Read(NamedTuple):
    """A file that was read. `is_stable`: a later change would give it another stamp."""

    source: Source
    is_stable: bool
    data: bytes


def read_file(path: Path, reading: str) -> Read:
    """Read a file; OSError or ValueError if it cannot be read, is too large, or is no longer a file."""
    stamp = stamp_of(path, reading)
    # The file that was listed may have become a link or a pipe.
    flags = sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"))
    descriptor = os.open(path, os.O_RDONLY | flags)
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("is not a regular file")
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"has more than {MAX_BYTES / 1e6:,.0f} MB: split it")
    is_stable = time.time_ns() - max(found.st_mtime_ns, found.st_ctime_ns) > STAMP_NANOSECONDS
    digest = hashlib.blake2b(reading.encode() + b"\0" + data, digest_size=16)
    return Read(Source(name_of(path), stamp, digest.hexdigest()), is_stable, data)
