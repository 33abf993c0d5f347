"""Checkpoints: never half-written, and found again after an interruption."""

import contextlib
import fnmatch
import hashlib
import logging
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

logger = logging.getLogger(__name__)

STATE_FILE = "trainer_state.json"
SUMS_FILE = "SHA256SUMS"  # of all files in a checkpoint, for us and for `sha256sum -c`
STAGING = ".saving-"
# Without any of these, a resumed run would not reach the same weights.
NEEDED = (STATE_FILE, "optimizer*", "scheduler.pt", "rng_state*")
OPENED_BY = {"config.json", "adapter_config.json"}  # each with weights of its own
# Files that not every checkpoint has: a stale one would be loaded with a checkpoint that lacks it.
OPTIONAL = ("*.safetensors", "*.index.json", "chat_template.jinja", "vocab.*", "merges.txt", "*tokens*.json", "*.model",
            "base_model.json", "generation_config.json", "modules.json")  # fmt: skip


def checkpoints(output_dir: str | Path) -> list[Path]:
    """Return the intermediate checkpoints of a run, oldest first."""
    folders = [p for p in Path(output_dir).iterdir() if p.is_dir() and not p.is_symlink()]
    numbered = {int(m[1]): p for p in folders if (m := re.fullmatch(r"checkpoint-(\d+)", p.name))}
    return [numbered[step] for step in sorted(numbered)]


def last_checkpoint(output_dir: str | Path) -> Path | None:
    """Return the newest complete checkpoint, or None; warns of the ones that it skips."""
    for path in reversed(checkpoints(output_dir)):
        corrupt = find_corrupt_file(path)
        if corrupt is None:
            return path
        logger.warning("%s is damaged or incomplete (%s): going back to the checkpoint before it.", path, corrupt)
    return None


def find_corrupt_file(checkpoint: Path) -> str | None:
    """Return the name of a file that is missing or was changed since it was written, or None."""
    try:
        lines = (checkpoint / SUMS_FILE).read_text(encoding="utf-8").splitlines()
        digests = dict(reversed(line.split("  ", 1)) for line in lines)
        for pattern in NEEDED:
            if not fnmatch.filter(digests, pattern):
                return pattern
        return next((name for name, digest in digests.items() if _sha256(checkpoint / name) != digest), None)
    except FileNotFoundError as error:
        return Path(error.filename).name
    except (OSError, ValueError):  # ValueError: a line that is none
        return SUMS_FILE


def write_checksums(checkpoint: Path) -> None:
    """Sync a checkpoint's files to the disk, then write their hashes, which detect zeros after a loss of power."""
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name != SUMS_FILE)
    for file in files:
        _to_disk(file)
    lines = [f"{_sha256(file)}  {file.relative_to(checkpoint).as_posix()}\n" for file in files]
    write_atomically(checkpoint / SUMS_FILE, "".join(lines))
    for folder in {file.parent for file in files} | {checkpoint.parent}:
        _to_disk(folder)


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _to_disk(path: Path) -> None:
    """Wait until a file, or the names in a folder, would survive a loss of power."""
    if path.is_dir() and os.name == "nt":  # Windows cannot open folders, and syncs names by itself
        return
    descriptor = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, text: str) -> None:
    """Write a text file in UTF-8 so that `path` holds either its old content or the new one, after any interruption."""
    new = path.with_name(f"{STAGING}{os.getpid()}-{path.name}")
    try:
        new.write_text(text, encoding="utf-8", newline="\n")
        _to_disk(new)
        os.replace(new, path)
    finally:
        with contextlib.suppress(OSError):
            new.unlink()


@contextlib.contextmanager
def saving(path: Path) -> Iterator[None]:
    """Restore what was at `path` if the block that writes it fails; any error, such as a full disk, becomes OSError."""
    before = path.with_name(f"{STAGING}{path.name}")
    if path.exists():
        os.replace(path, before)
    try:
        yield
    except BaseException as error:
        shutil.rmtree(path, ignore_errors=True)
        if before.exists():
            os.replace(before, path)
        if not isinstance(error, Exception):  # Ctrl-C
            raise
        free = f"{shutil.disk_usage(path.parent).free / 1e6:,.0f} MB are free there"
        remedy = "Make room, then continue with --resume."
        raise OSError(f"Could not save to {path.parent} ({error}); {free}. {remedy}") from error
    shutil.rmtree(before, ignore_errors=True)


@contextlib.contextmanager
def staged(output_dir: Path) -> Iterator[Path]:
    """Yield a temporary directory inside `output_dir` whose files move there when the block ends, and only then.

    `config.json` or `adapter_config.json`, without which a model cannot be opened, is removed first and moves last: a
    mixture of an old and a new checkpoint, or half of one, cannot be opened.
    """
    staging = output_dir / f"{STAGING}{os.getpid()}"
    with saving(staging):
        staging.mkdir()
        yield staging
        files = {file.name: file for file in sorted(staging.iterdir())}
        is_model = not OPENED_BY.isdisjoint(files)
        for last in (*OPENED_BY, STATE_FILE):  # the state says that the run is complete
            if last in files or (last in OPENED_BY and is_model):
                (output_dir / last).unlink(missing_ok=True)
            if last in files:
                files[last] = files.pop(last)
        for pattern in OPTIONAL if is_model else ():
            for stale in output_dir.glob(pattern):
                if stale.name not in files:
                    stale.unlink()
        umask = os.umask(0)  # there is no other way to read it
        os.umask(umask)
        for file in files.values():
            if file.is_dir():
                shutil.rmtree(output_dir / file.name, ignore_errors=True)
            else:
                file.chmod(0o666 & ~umask)  # safetensors writes files that only their owner can read
            os.replace(file, output_dir / file.name)
        staging.rmdir()
