"""Going on with a run: the checkpoint to go on from, and what may not change on the way."""

from pathlib import Path

from transformers.trainer_callback import TrainerState

from .arguments import FIXED, PretrainingArguments
from .checkpoints import STATE_FILE, last_checkpoint
from .processes import job
from .run_folder import BATCH, JOB, read_settings


def checkpoint_to_resume(output_dir: Path, settings: dict, args: PretrainingArguments) -> Path:
    """The newest whole checkpoint in `output_dir`.

    Raises:
        ValueError: if the `settings` are those of another run, or the run is complete.
        FileNotFoundError: if there is no whole checkpoint.
    """
    saved = read_settings(output_dir) or {}
    for name in FIXED:
        if name in saved and saved[name] != settings[name]:
            raise ValueError(
                f"The run in {output_dir} has {name} {saved[name]}, not {settings[name]}: "
                "leave it out to go on, or start another run with another --output_dir."
            )
    _check_batch(output_dir, saved, args)
    checkpoint = last_checkpoint(output_dir)
    if checkpoint is None:
        raise FileNotFoundError(f"{output_dir} has no whole checkpoint to resume from: start again with --overwrite.")
    if reached_its_end(checkpoint, args) and _step(output_dir) == _step(checkpoint):
        more = "--max_steps" if args.max_steps > 0 else "--num_train_epochs"
        raise ValueError(
            f"The run in {output_dir} is complete at step {_step(checkpoint):,}: to train longer, give a larger {more}."
        )
    return checkpoint


def _check_batch(output_dir: Path, saved: dict, args: PretrainingArguments) -> None:
    """Refuse another global batch, which would be another run; how many processes share it may change."""
    of_one = saved.get("per_device_train_batch_size", 1) * saved.get("gradient_accumulation_steps", 1)
    blocks = saved.get(BATCH, of_one)
    if blocks == args.global_batch_size:
        return
    sharing = args.world_size // args.tp_size
    if blocks % sharing:
        remedy = f"which {sharing} processes cannot share equally: start it with another number of them"
    else:
        remedy = f"so give --per_device_train_batch_size {blocks // sharing} --gradient_accumulation_steps 1"
    raise ValueError(
        f"The run in {output_dir} has {blocks} blocks in a step, not {args.global_batch_size} "
        f"({args.train_batch_size} per_device_train_batch_size x {args.gradient_accumulation_steps} "
        f"gradient_accumulation_steps x {sharing} processes), {remedy}."
    )


def after_restart(output_dir: Path) -> list[str]:
    """The flag with which a run goes on after torchrun has started its processes again.

    Without a whole checkpoint the run begins again, but only in a folder that this very job has written to.
    """
    path = Path(output_dir).expanduser()
    if (read_settings(path) or {}).get(JOB, "") != job():
        return []
    return ["--overwrite"] if last_checkpoint(path) is None else ["--resume"]


def reached_its_end(checkpoint: Path, args: PretrainingArguments) -> bool:
    """Whether there is nothing left to train after this checkpoint."""
    if args.minutes is not None:
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
