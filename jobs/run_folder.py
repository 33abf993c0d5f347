"""The folder of a run: one run writes to it at a time, and other files are never overwritten by accident."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import yaml
from filelock import FileLock, Timeout

from .processes import job
from .report import code_version
from .saving import STAGING, STATE_FILE, checkpoints, write_atomically

RUN_FILE = "run.yaml"  # the settings of the run, written when it starts
# A run.yaml of ours has the keys of one of these: pretraining, fine-tuning, training an embedding model.
REQUIRED_RUN_KEYS = ({"corpus", "preset", "size"}, {"task", "model", "data"}, {"model", "corpus", "pairs"})
SCALE_FILE = "scale.yaml"  # the same for a scaling grid
FINGERPRINT, BATCH, JOB, VERSION = "corpus_fingerprint", "global_batch_size", "torchrun_job", "foliogpt_version"
RUN_METADATA_KEYS = (FINGERPRINT, BATCH, JOB, VERSION)  # in run.yaml next to the settings
LOCK_FILE = ".lock"


@contextlib.contextmanager
def lock_run_folder(
    output_dir: str | Path, overwrite: bool = False, resume: bool = False, marker: str = RUN_FILE
) -> Iterator[Path]:
    """Make `output_dir` if need be, and lock it until the block ends; nothing in it is changed.

    With `overwrite` another run may be there, with `resume` one must be; `marker` is the file that marks it. Raises
    FileExistsError, FileNotFoundError, or PermissionError if the directory cannot be written to.
    """
    path = Path(output_dir).expanduser()
    _check(path, overwrite, resume, marker)
    is_new = not path.exists()
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path / LOCK_FILE)
        lock.acquire(timeout=0)
    except Timeout:
        raise FileExistsError(f"A run is writing to {path} now: wait for it, or give another --output_dir.") from None
    except (OSError, ValueError) as error:  # ValueError: a name with a null character
        reason = getattr(error, "strerror", error)
        raise PermissionError(f"Cannot write to {path} ({reason}): give another --output_dir.") from None
    try:
        _check(path, overwrite, resume, marker)  # once more, now that no other process can change it
        for leftover in path.glob(f"{STAGING}*"):  # of a process that was killed while saving
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink()
        yield path
    finally:
        with contextlib.suppress(OSError):  # on Windows the release removes it
            (path / LOCK_FILE).unlink()
        lock.release()
        if is_new:
            with contextlib.suppress(OSError):  # it is not empty
                path.rmdir()


def _check(path: Path, overwrite: bool, resume: bool, marker: str) -> None:
    try:
        exists = path.exists()
        holds_ours = read_settings(path) is not None if marker == RUN_FILE else (path / marker).is_file()
    except (OSError, ValueError):  # too long; with a null character, from Python 3.13 on
        raise PermissionError(f"{path} cannot be a folder: give another --output_dir.") from None
    if exists and not path.is_dir():
        raise FileExistsError(f"{path} is a file: give another --output_dir.")
    if resume and not holds_ours:
        raise FileNotFoundError(f"{path} holds no run to resume: start one without --resume.")
    if resume or not path.is_dir():
        return
    if all(entry.name == LOCK_FILE or entry.name.startswith(STAGING) for entry in path.iterdir()):
        return
    if not holds_ours:
        raise FileExistsError(f"{path} is not empty and has no {marker} of ours: give another --output_dir.")
    if marker != RUN_FILE and (path / "config.json").exists():
        raise FileExistsError(f"{path} holds a model: give another --output_dir.")
    if not overwrite:
        or_resume = " continue it with --resume," if marker in (RUN_FILE, SCALE_FILE) else ""
        remedy = f"give another --output_dir,{or_resume} or replace it with --overwrite"
        raise FileExistsError(f"{path} already has a {marker}: {remedy}.")


def run_metadata(fingerprint, global_batch_size: int) -> dict:
    """Return what run.yaml holds next to the settings: fingerprint of the text, batch, torchrun's job, version."""
    return {FINGERPRINT: fingerprint, BATCH: global_batch_size, JOB: job(), VERSION: code_version()}


def start_run(output_dir: Path, settings: dict, is_new: bool) -> None:
    """Write the settings of a run; one that is new deletes earlier checkpoints, and leaves the final model for now."""
    new = output_dir / f"{STAGING}{RUN_FILE}"
    write_atomically(new, yaml.safe_dump(settings, sort_keys=False))  # if that fails, no checkpoint is removed
    if is_new:
        for checkpoint in checkpoints(output_dir):
            shutil.rmtree(checkpoint)
        (output_dir / STATE_FILE).unlink(missing_ok=True)  # which marks a finished run
    os.replace(new, output_dir / RUN_FILE)


def read_settings(output_dir: Path) -> dict | None:
    """Read the settings of the run in a folder; None if there is none of ours."""
    try:
        settings = yaml.safe_load((output_dir / RUN_FILE).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, UnicodeDecodeError, yaml.YAMLError):
        return None
    is_ours = isinstance(settings, dict) and any(needed <= settings.keys() for needed in REQUIRED_RUN_KEYS)
    return settings if is_ours else None
