"""Checkpoint directories: never half-written, never overwritten by accident, found again after an interruption."""

import contextlib
import json
import logging
import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open

logger = logging.getLogger(__name__)

RUN_FILE = "run.yaml"  # the settings of the run, written before it starts
STATE_FILE = "trainer_state.json"
STAGING = ".saving-"


def prepare_output_dir(
    output_dir: str | Path, overwrite: bool = False, resume: bool = False, marker: str = RUN_FILE
) -> Path:
    """Make sure that we can write to `output_dir` and destroy nothing there. `marker` is the file that tells ours.

    With `overwrite`, the intermediate checkpoints of the run that is there are removed; its other files are
    replaced when the new ones are whole.

    Raises:
        FileExistsError: if another run, or something else, is there.
        FileNotFoundError: if `resume` is asked for and there is no run.
        PermissionError: if the directory cannot be written to.
    """
    path = Path(output_dir).expanduser()
    holds_run = (path / marker).is_file()
    if path.exists() and not path.is_dir():
        raise FileExistsError(f"{path} is a file: give another --output_dir.")
    if resume and not holds_run:
        raise FileNotFoundError(f"{path} holds no run to resume: start one without --resume.")
    if path.is_dir() and any(path.iterdir()) and not resume:
        if not holds_run:
            raise FileExistsError(f"{path} is not empty and has no {marker}: give another --output_dir.")
        if not overwrite:
            go_on = " continue it with --resume," if marker == RUN_FILE else ""
            raise FileExistsError(
                f"{path} already has a {marker}: give another --output_dir,{go_on} or replace it with --overwrite."
            )
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise PermissionError(f"Cannot write to {path} ({error.strerror}): give another --output_dir.") from None
    for leftover in path.glob(f"{STAGING}*"):  # of a process that was killed while saving
        shutil.rmtree(leftover, ignore_errors=True)
    if overwrite and not resume:
        for checkpoint in checkpoints(path):
            shutil.rmtree(checkpoint)
    return path


def checkpoints(output_dir: str | Path) -> list[Path]:
    """The intermediate checkpoints of a run, oldest first."""
    numbered = {int(m[1]): p for p in Path(output_dir).iterdir() if (m := re.fullmatch(r"checkpoint-(\d+)", p.name))}
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
    if not (checkpoint / STATE_FILE).is_file():  # written last
        return STATE_FILE
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
    """Whatever goes wrong in the block, `path` is removed and the error says what to do.

    Raises:
        OSError: for any error, since the libraries that write report a full disk in ways of their own.
    """
    try:
        yield
    except Exception as error:
        shutil.rmtree(path, ignore_errors=True)
        free = shutil.disk_usage(path.parent).free / 1e6
        raise OSError(
            f"Could not save to {path.parent} ({error}); {free:,.0f} MB are free there. "
            "Make room, then go on with --resume."
        ) from error


@contextlib.contextmanager
def staged(output_dir: str | Path) -> Iterator[Path]:
    """A temporary directory inside `output_dir` whose files move there when the block ends, and only then.

    `config.json`, without which transformers opens nothing, moves last: a half-saved checkpoint is never taken
    for a whole one. If the block fails, what was there before is untouched.
    """
    output_dir = Path(output_dir)
    staging = Path(tempfile.mkdtemp(prefix=STAGING, dir=output_dir))
    with saving(staging):
        yield staging
        for file in sorted(staging.iterdir(), key=lambda file: file.name == "config.json"):
            os.replace(file, output_dir / file.name)
        staging.rmdir()
