"""Going on with a run: the checkpoint to go on from, and what may not change on the way."""

from collections.abc import Iterable
from pathlib import Path

from transformers import TrainingArguments
from transformers.trainer_callback import TrainerState

from .arguments import FIXED
from .checkpoints import STATE_FILE, last_checkpoint
from .run_folder import read_settings


def checkpoint_to_resume(
    output_dir: Path, settings: dict, args: TrainingArguments, fixed: Iterable[str] = FIXED
) -> Path:
    """The newest whole checkpoint in `output_dir`.

    Args:
        fixed: the settings that a resumed run may not change.

    Raises:
        ValueError: if the `settings` are those of another run, or the run is complete.
        FileNotFoundError: if there is no whole checkpoint.
    """
    saved = read_settings(output_dir) or {}
    for name in fixed:
        if name in saved and saved[name] != settings[name]:
            raise ValueError(
                f"The run in {output_dir} has {name} {saved[name]}, not {settings[name]}: "
                "leave it out to go on, or start another run with another --output_dir."
            )
    checkpoint = last_checkpoint(output_dir)
    if checkpoint is None:
        raise FileNotFoundError(f"{output_dir} has no whole checkpoint to resume from: start again with --overwrite.")
    if reached_its_end(checkpoint, args) and _step(output_dir) == _step(checkpoint):
        more = "--max_steps" if args.max_steps > 0 else "--num_train_epochs"
        raise ValueError(
            f"The run in {output_dir} is complete at step {_step(checkpoint):,}: to train longer, give a larger {more}."
        )
    return checkpoint


def reached_its_end(checkpoint: Path, args: TrainingArguments) -> bool:
    """Whether there is nothing left to train after this checkpoint."""
    if getattr(args, "minutes", None) is not None:
        return False
    state = read_state(checkpoint)
    if args.max_steps > 0:
        return state.global_step >= args.max_steps
    return (state.epoch or 0) >= args.num_train_epochs


def read_state(folder: Path) -> TrainerState:
    """The trainer's state in a checkpoint."""
    return TrainerState.load_from_json(str(folder / STATE_FILE))


def _step(folder: Path) -> int | None:
    """The step of the checkpoint in a folder, or None if there is none."""
    try:
        return read_state(folder).global_step
    except (OSError, ValueError, TypeError):  # not there, or not written by Trainer
        return None
