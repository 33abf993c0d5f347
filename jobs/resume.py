"""Resuming a run: the checkpoint to continue from, and the settings that may not change."""

import logging
from collections.abc import Iterable
from pathlib import Path

from transformers import TrainingArguments
from transformers.trainer_callback import TrainerState

from .processes import job
from .run_folder import BATCH, FINGERPRINT, JOB, read_settings
from .saving import STATE_FILE, SUMS_FILE, checkpoints, last_checkpoint

logger = logging.getLogger(__name__)


def checkpoint_to_resume(
    output_dir: Path, settings: dict, args: TrainingArguments, fixed: Iterable[str]
) -> Path | None:
    """Return the newest complete checkpoint in `output_dir`; None if the run was stopped before its first.

    Raises ValueError for another value of a `fixed` setting, or a complete run; FileNotFoundError if none is intact.
    """
    checkpoint = last_checkpoint(output_dir)
    saved = run_settings_of(output_dir, checkpoint)
    check_unchanged(saved, settings, [name for name in fixed if name in saved], f"run of {checkpoint or output_dir}")
    _check_batch(output_dir, saved, args)
    done = _step(output_dir)
    if checkpoint is None:
        if done is not None:
            what = f"The run in {output_dir} is complete at step {done:,}, and has no intermediate checkpoint"
            remedy = "its model is ready to use; for a longer run give another --output_dir"
            raise FileNotFoundError(f"{what} to train on from: {remedy}.")
        if any((path / SUMS_FILE).exists() for path in checkpoints(output_dir)):
            remedy = "copy them from a backup, or start again with another --output_dir"
            raise FileNotFoundError(f"No checkpoint in {output_dir} is complete: {remedy}.")
        logger.warning("The run in %s has no checkpoint yet: it begins from the start.", output_dir)
        return None
    if reached_its_end(checkpoint, args) and done == _step(checkpoint):
        remedy = f"to train longer, give a larger {'--max_steps' if args.max_steps > 0 else '--num_train_epochs'}"
        raise ValueError(f"The run in {output_dir} is complete at step {done:,}: {remedy}.")
    return checkpoint


def run_settings_of(output_dir: Path, checkpoint: Path | None) -> dict:
    """Return the settings that a checkpoint was trained with, from its run.yaml; without one, those of the run."""
    return (checkpoint and read_settings(checkpoint)) or read_settings(output_dir) or {}


def check_unchanged(saved: dict, settings: dict, names: Iterable[str], what: str) -> None:
    """Raise ValueError if a setting is not the one that `what`, a run, began with."""
    for name in names:
        if saved.get(name) != settings[name]:
            change = f"The {what} has {name} {saved.get(name)}, not {settings[name]}"
            raise ValueError(f"{change}: leave it out to resume, or start another one with another --output_dir.")


def check_same_text(saved: dict, fingerprint) -> None:
    """Raise ValueError if the text is not the one of the `saved` settings."""
    if fingerprint != saved.get(FINGERPRINT):
        raise ValueError("The corpus is not the text that this run began with: start another run for it.")


def _check_batch(output_dir: Path, saved: dict, args) -> None:
    """Raise ValueError for another global batch; the number of processes that share it may change."""
    of_one = saved.get("per_device_train_batch_size", 1) * saved.get("gradient_accumulation_steps", 1)
    blocks = saved.get(BATCH, of_one)
    if blocks == args.global_batch_size:
        return
    remedy = f"so give --per_device_train_batch_size {blocks // args.world_size} --gradient_accumulation_steps 1"
    if blocks % args.world_size:
        remedy = f"which {args.world_size} processes cannot share equally: start it with another number of them"
    batch = f"{args.train_batch_size} per_device_train_batch_size x {args.gradient_accumulation_steps}"
    batch = f"{args.global_batch_size} ({batch} gradient_accumulation_steps x {args.world_size} processes)"
    raise ValueError(f"The run in {output_dir} has {blocks} rows in a step, not {batch}, {remedy}.")


def after_restart(output_dir: Path) -> list[str]:
    """Return the flag that resumes a run after torchrun's restart, if this job has written to the folder."""
    settings = read_settings(Path(output_dir).expanduser()) or {}
    return ["--resume"] if settings.get(JOB, "") == job() else []


def reached_its_end(checkpoint: Path, args: TrainingArguments) -> bool:
    """Return True if nothing is left to train after this checkpoint."""
    if getattr(args, "minutes", None) is not None:
        return False
    state = read_state(checkpoint)
    if args.max_steps > 0:
        return state.global_step >= args.max_steps
    return (state.epoch or 0) >= args.num_train_epochs


def read_state(folder: Path) -> TrainerState:
    """Read the trainer's state in a checkpoint."""
    return TrainerState.load_from_json(str(folder / STATE_FILE))


def _step(folder: Path) -> int | None:
    """Return the step of the checkpoint in a folder, or None if there is none."""
    try:
        return read_state(folder).global_step
    except (OSError, ValueError, TypeError):  # not there, or not written by Trainer
        return None
