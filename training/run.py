"""What every training run has: a locked folder, written settings, a loop that a signal can stop, a way to go on."""

import contextlib
import pickle
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import torch
import transformers
from transformers import TrainerCallback

from ..checkpoints.self_check import check_cache
from ..evaluation.comparison import METRICS_FILE
from ..jobs.processes import command_to_resume, connected, from_first, is_first, largest_of_all, wait_for_all
from ..jobs.report import Stages, code_version, machine, peak_memory_bytes
from ..jobs.resume import reached_its_end, read_state
from ..jobs.run_folder import lock_run_folder, start_run
from ..jobs.saving import STAGING, checkpoints
from ..jobs.signals import Interrupted, signal_of
from .arguments import RunArguments
from .callbacks import ProgressBar, StepClock, StopOnInterrupt
from .monitoring import MetricsFile, Samples, Speed, Warnings
from .trainer import SafeTraining

Flops = tuple[float, float | None]  # of a token, and a second at most, if that is known


@contextlib.contextmanager
def folder_of(args: RunArguments) -> Iterator[Path]:
    """Lock the folder of the run, in the first process for all."""
    path = Path(args.output_dir).expanduser()
    with lock_run_folder(path, args.overwrite, args.resume) if is_first() else contextlib.nullcontext():
        check_is_shared(path, args.device)
        yield path
        wait_for_all()


def check_is_shared(path: Path, device: torch.device) -> None:
    """Raises OSError in all processes if one of them has another folder at `path`: a checkpoint would lack its part."""
    if not connected():
        return
    sign = path / from_first(lambda: f"{STAGING}{uuid.uuid4().hex}")
    if is_first():
        sign.touch()
    wait_for_all()
    tries = (sign.exists() or time.sleep(0.2) for _ in range(10))  # a network's file system may take a moment
    without = largest_of_all(0 if any(tries) else torch.distributed.get_rank(), device)
    if is_first():
        sign.unlink()
    if without:
        raise OSError(
            f"Process {without} does not see the folder {path} of process 0: give an --output_dir that all processes "
            "share, such as one on a network file system."
        )


class KeepSettings(TrainerCallback):
    """Writes the run's settings once training begins: nothing that was in the folder is lost to a false start."""

    def __init__(self, output_dir: Path, settings: dict):
        self.output_dir, self.settings = output_dir, settings

    def on_train_begin(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            start_run(self.output_dir, self.settings, is_new=state.global_step == 0)


def train(
    trainer: SafeTraining, checkpoint: Path | None, prompt: list[int], smaller: str, flops: Flops = (0, None)
) -> float | None:
    """Train, from `checkpoint` on if there is one, and return the tokens a second, None if there was no step to take.

    Args:
        prompt: ids that the model continues after each evaluation, if there are any.
        smaller: what to try if the model memorizes.

    Raises Interrupted if a signal stopped it.
    """
    metrics = MetricsFile(Path(trainer.args.output_dir) / METRICS_FILE)
    if checkpoint is not None and reached_its_end(checkpoint, trainer.args):  # and was stopped before it was saved
        trainer.state = read_state(checkpoint)
        trainer.state.is_world_process_zero = trainer.is_world_process_zero()  # in the file it is that of the first
        best = trainer.state.best_model_checkpoint if trainer.args.load_best_model_at_end else None
        trainer._load_from_checkpoint(best if best and Path(best).is_dir() else str(checkpoint))
        trainer.add_callback(metrics)
        trainer.callback_handler.on_train_begin(trainer.args, trainer.state, trainer.control)
        trainer.continuity.log_end()
        return None
    if checkpoint is not None:
        trainer.args.eval_on_start = False  # it was
    check_cache(trainer.model)  # now, when nothing can be lost
    clock, stop, progress = StepClock(), StopOnInterrupt(), ProgressBar()
    trainer.speed = Speed(clock, *flops)
    samples = [Samples(trainer.processing_class, prompt, progress.write, metrics)] if prompt else []
    for callback in (clock, metrics, progress, Warnings(progress.write, smaller), *samples, stop):
        trainer.add_callback(callback)
    try:
        with resumable(trainer):  # after a second signal
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except pickle.UnpicklingError:
        raise ValueError(
            f"{checkpoint} has an optimizer.pt, scheduler.pt or rng_state.pth with more than tensors, which could run "
            "code, so it was not read: begin a new run in another --output_dir."
        ) from None
    finally:
        progress.close()
        stop.close()
    signum = stop.agreed(trainer.args)
    if signum and saved_step(trainer) == trainer.state.global_step:
        raise Interrupted(stopped(trainer), signum)
    return clock.tokens_per_second(trainer.state)


@contextlib.contextmanager
def resumable(trainer: SafeTraining) -> Iterator[None]:
    """If a signal stops the block, say how to go on with the run."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise Interrupted(stopped(trainer), signal_of(error)) from None


def saved_step(trainer: SafeTraining) -> int:
    """The step of the newest checkpoint, 0 if there is none."""
    return max((int(path.name.rpartition("-")[2]) for path in checkpoints(trainer.args.output_dir)), default=0)


def stopped(trainer: SafeTraining) -> str:
    """What a run says that a signal has ended, and the command that continues it."""
    state, saved = trainer.state, saved_step(trainer)
    command = command_to_resume(trainer.command, trainer.args)
    if saved == 0:
        return f"Stopped before a checkpoint was saved. To begin again: {command}"
    if saved == state.max_steps:
        return f"The training is complete. To save its result: {command}"
    done = f"step {state.global_step:,} of {state.max_steps:,}"
    return f"Stopped after {done}; step {saved:,} is saved. Go on with: {command}"


def facts(trainer: SafeTraining, network, stages: Stages) -> dict:
    """What the report of every run says of its training and of the machine."""
    args, state = trainer.args, trainer.state
    return {
        "steps": state.global_step,
        "tokens": state.num_input_tokens_seen,
        "precision": "bf16" if args.bf16 else "fp16" if args.fp16 else "fp32",
        "custom_code": bool(getattr(network.config, "auto_map", None)),
        "seconds": dict(stages.seconds),
        "peak_memory_bytes": peak_memory_bytes(args.device),
        "seed": args.seed,
        "machine": machine(args.device),
        "world_size": args.world_size,
        "backend": torch.distributed.get_backend() if connected() else None,
        "versions": {"foliogpt": code_version(), "transformers": transformers.__version__, "torch": torch.__version__},
    }
