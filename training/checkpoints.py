"""Checkpoints: never half-written, and found again after an interruption."""

import contextlib
import json
import logging
import os
import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open

logger = logging.getLogger(__name__)

STATE_FILE = "trainer_state.json"
STAGING = ".saving-"
# Without any of these, a run would not go on to the same weights.
NEEDED = ("*model*.safetensors", "optimizer.pt", "scheduler.pt", "rng_state*", "tokenizer*", STATE_FILE)
OPENED_BY = {"config.json", "adapter_config.json"}  # each with weights of its own
# What a checkpoint may have and another not. Beside one that lacks it, it would be loaded with it.
OPTIONAL = ("*.safetensors", "*.index.json", "chat_template.jinja", "vocab.*", "merges.txt", "*tokens*.json", "*.model",
            "base_model.json", "generation_config.json")  # fmt: skip


def checkpoints(output_dir: str | Path) -> list[Path]:
    """The intermediate checkpoints of a run, oldest first."""
    folders = [p for p in Path(output_dir).iterdir() if p.is_dir() and not p.is_symlink()]
    numbered = {int(m[1]): p for p in folders if (m := re.fullmatch(r"checkpoint-(\d+)", p.name))}
    return [numbered[step] for step in sorted(numbered)]


def last_checkpoint(output_dir: str | Path) -> Path | None:
    """The newest checkpoint that is whole, or None. Says which ones it passes over."""
    for path in reversed(checkpoints(output_dir)):
        torn = torn_file(path)
        if torn is None:
            return path
        logger.warning("%s is not whole (%s): going back to the one before.", path, torn)
    return None


def torn_file(checkpoint: Path) -> str | None:
    """The name of a file that is missing or was cut off, or None if the checkpoint is whole."""
    for pattern in NEEDED:
        if not any(checkpoint.glob(pattern)):
            return pattern
    for file in sorted(checkpoint.iterdir()):
        try:
            if file.suffix == ".json":
                json.loads(file.read_text(encoding="utf-8"))
            elif file.suffix == ".safetensors":
                with safe_open(file, framework="pt"):
                    pass
            elif file.suffix in (".pt", ".pth") and not zipfile.is_zipfile(file):
                return file.name
        except (OSError, ValueError, SafetensorError):
            return file.name
    return None


@contextlib.contextmanager
def saving(path: Path) -> Iterator[None]:
    """Whatever goes wrong in the block, which writes `path`, what was there before is there again.

    Raises:
        OSError: for any error, since the libraries that write report a full disk in ways of their own.
    """
    before = path.with_name(f"{STAGING}{path.name}")
    if path.exists():
        os.replace(path, before)
    try:
        yield
    except Exception as error:
        shutil.rmtree(path, ignore_errors=True)
        if before.exists():
            os.replace(before, path)
        free = shutil.disk_usage(path.parent).free / 1e6
        raise OSError(
            f"Could not save to {path.parent} ({error}); {free:,.0f} MB are free there. "
            "Make room, then go on with --resume."
        ) from error
    shutil.rmtree(before, ignore_errors=True)


@contextlib.contextmanager
def staged(output_dir: Path) -> Iterator[Path]:
    """A temporary directory inside `output_dir` whose files move there when the block ends, and only then.

    `config.json`, of an adapter `adapter_config.json`, without which nothing is opened, is taken away first and moves
    when the rest is there: a mixture of an old and a new checkpoint, or half of one, is never taken for a whole one. If
    the block fails, what was there before is untouched.
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
        for file in files.values():
            file.chmod(_new_file_mode())  # safetensors lets nobody else read what it writes
            os.replace(file, output_dir / file.name)
        staging.rmdir()


def _new_file_mode() -> int:
    """The permissions that a new file has here."""
    umask = os.umask(0)  # there is no other way to read it
    os.umask(umask)
    return 0o666 & ~umask
