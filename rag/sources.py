"""Where documents come from: the files of a folder, found and read once, and only when they changed."""

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
# A file that changed so short a time before it was read may change again with the same time stamp.
STAMP_NANOSECONDS = 2_000_000_000


def find_files(root: Path) -> tuple[list[Path], dict[str, str], dict[str, str]]:
    """The files at or below `root`, which is resolved: those to read, those left out, and what cannot be listed."""
    if not root.is_dir():
        return [root], {}, {}
    found = walk(root, marker=CATALOG_FILE)
    told = ("symbolic link", "not a regular file")
    skipped = {name_of(path): reason for path, reason in found.left_out.items() if reason in told}
    return found.files, skipped, {name_of(path): reason for path, reason in found.failed.items()}


def name_of(path: Path) -> str:
    """The path as text: a byte that is not UTF-8 becomes \\xff, since no catalog could store it."""
    return os.fsencode(path.as_posix()).decode(errors="backslashreplace")


def stamp_of(path: Path, reading: str) -> str:
    """What changes when a file does, or when it is read in another way; looking takes no reading."""
    found = path.lstat()
    return f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {found.st_ino} {reading}"


class Read(NamedTuple):
    """A file that was read. `settled`: its stamp can be relied on."""

    source: Source
    settled: bool
    data: bytes


def read_file(path: Path, reading: str) -> Read:
    """Read a file; OSError or ValueError if it cannot be read, is too large, or is no longer a file."""
    stamp = stamp_of(path, reading)
    # What was a file when it was listed may be a link or a pipe now.
    flags = sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"))
    descriptor = os.open(path, os.O_RDONLY | flags)
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("is not a regular file")
        if found.st_size > MAX_BYTES:
            raise ValueError(f"has {found.st_size / 1e6:,.0f} MB, more than {MAX_BYTES / 1e6:,.0f}: split it")
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"grew beyond {MAX_BYTES / 1e6:,.0f} MB while it was read")
    settled = time.time_ns() - max(found.st_mtime_ns, found.st_ctime_ns) > STAMP_NANOSECONDS
    digest = hashlib.blake2b(reading.encode() + b"\0" + data, digest_size=16)
    return Read(Source(name_of(path), stamp, digest.hexdigest()), settled, data)
