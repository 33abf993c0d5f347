"""The files below a folder or of a pattern, opened whether compressed or not."""

import bz2
import glob
import gzip
import lzma
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import BinaryIO, NamedTuple

from ..jobs.errors import first_line

ROW_SUFFIXES = (".json", ".jsonl", ".csv", ".tsv", ".parquet")
COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
ARCHIVES = (".zip", ".tar", ".tgz", ".tbz2", ".txz", ".7z", ".rar")
RUN_MARKER = "run.yaml"  # in the folder of a training run


def kind_of(path: PurePath) -> str:
    """Return the suffix of a file's format: ".jsonl" of "rows.jsonl.gz"."""
    suffix = path.suffix.lower()
    return PurePath(path.stem).suffix.lower() if suffix in COMPRESSIONS else suffix


class File(NamedTuple):
    """A file, whose `name` is its path below the folder that was searched."""

    path: Path
    name: str

    @property
    def holds_rows(self) -> bool:
        return kind_of(self.path) in ROW_SUFFIXES


class Found(NamedTuple):
    """The files below a folder in order, those that were left out and why, and folders that could not be listed."""

    files: list[Path]
    left_out: dict[Path, str]
    failed: dict[Path, str]


def find_files(spec: str, accepted: str) -> tuple[list[File], dict[Path, str]]:
    """Find the files of a path or pattern, and those left out and why; raises FileNotFoundError, ValueError."""
    path = Path(spec).expanduser()
    wild = [index for index, part in enumerate(path.parts) if glob.has_magic(part)]
    if not spec.strip() or not (wild or path.exists()):
        raise FileNotFoundError(f"there is no file or folder {spec!r}; {accepted}.")
    if path.is_file():
        if kind_of(path) in ARCHIVES:
            raise ValueError(f"{spec} is an archive: unpack it, and give the folder that comes out.")
        return [File(path, path.name)], {}
    if path.is_dir():
        found, folder = walk(path), path
    elif path.exists():
        raise ValueError(f"{spec} is not a regular file; {accepted}.")
    else:
        folder = Path(*path.parts[: wild[0]])
        found = walk(folder, "/".join(path.parts[wild[0] :]))
        if not found.files and not found.left_out:
            raise FileNotFoundError(f"no file matches {spec!r}; {accepted}.")
    left_out, files = found.left_out | found.failed, []
    for each in found.files:
        if kind_of(each) in ARCHIVES:
            left_out[each] = "archive, to be unpacked"
        elif each.stat().st_size == 0:
            left_out[each] = "empty"
        else:
            # A file name can contain bytes that are not valid Unicode; a dataset cannot.
            name = each.relative_to(folder).as_posix().encode(errors="replace").decode()
            files.append(File(each, name))
    return files, left_out


def walk(folder: Path, pattern: str | None = None, marker: str = RUN_MARKER) -> Found:
    """Find the files below a folder, or those of them that match `pattern`.

    Hidden files, folders that contain a file `marker`, and links are left out: their targets are outside, or found too.
    """
    # Before Python 3.13, a final "**" matches folders only.
    wanted = None if pattern is None else set(folder.glob(f"{pattern}/*" if pattern.endswith("**") else pattern))
    found = Found([], {}, {})

    def cannot_list(error: OSError) -> None:
        found.failed[Path(error.filename)] = f"cannot be listed ({error.strerror})"

    for here, folders, names in os.walk(folder, onerror=cannot_list):
        if marker in names:
            if wanted is None or any(Path(here) in path.parents for path in wanted):
                found.left_out[Path(here)] = f"folder with {marker}"
            folders.clear()
            continue
        for name in [*folders, *names]:
            path = Path(here, name)
            reason = _reason_to_skip(path, name in folders)
            if reason and name in folders:
                folders.remove(name)
            if wanted is not None and path not in wanted:
                continue
            if reason:
                found.left_out[path] = reason
            elif name not in folders:
                found.files.append(path)
    found.files.sort()
    return found


def _reason_to_skip(path: Path, is_folder: bool) -> str | None:
    if path.name.startswith("."):
        return "hidden"
    if os.path.islink(path):
        return "symbolic link"
    return None if is_folder or os.path.isfile(path) else "not a regular file"


@contextmanager
def open_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file to read its bytes, unpacked; raises OSError, or ValueError in one line if it is broken."""
    with path.open("rb") as file, one_line_error(path.name), unpack(file, path.suffix) as unpacked:
        yield unpacked


def unpack(file: BinaryIO, suffix: str) -> BinaryIO:
    """Return the unpacked bytes of an open file; the file itself if its suffix is not a compression's."""
    suffix = suffix.lower()
    if suffix == ".zst":
        import pyarrow  # here: finding files needs none of it

        return pyarrow.CompressedInputStream(pyarrow.PythonFile(file), "zstd")
    openers = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
    return openers[suffix](file) if suffix in openers else file  # pyright: ignore[reportReturnType] (of mode "rb")


@contextmanager
def one_line_error(source: str) -> Iterator[None]:
    """Turn the errors that libraries raise for a broken file into one ValueError that names it."""
    try:
        yield
    except (OSError, EOFError, ValueError, NotImplementedError, lzma.LZMAError, zlib.error) as error:
        # An OSError with a number is about the disk, one without about the contents; a plain ValueError is one line.
        if type(error) is ValueError or getattr(error, "errno", None) is not None:
            raise
        raise ValueError(f"{source} cannot be read: {first_line(error)}; correct it or leave it out") from None
