"""Parts of every training run: a locked folder, written settings, a loop that a signal can stop, the saved result."""

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
from ..jobs.processes import all_reduce_max, barrier, broadcast_from_main, command_to_resume, connected, is_main_process
from ..jobs.report import Stages, code_version, hardware_name, peak_memory_bytes, write_result
from ..jobs.resume import reached_its_end, read_state
from ..jobs.run_folder import lock_run_folder, start_run
from ..jobs.saving import STAGING, checkpoints, staged
from ..jobs.signals import Interrupted, signal_of
from .arguments import RunArguments
from .callbacks import ProgressBar, StopOnInterrupt
from .monitoring import MetricsFile, Samples, Warnings
from .trainer import SafeTrainerMixin


@contextlib.contextmanager
def open_run_folder(args: RunArguments) -> Iterator[Path]:
    """Lock the folder of the run, in the first process for all."""
    path = Path(args.output_dir).expanduser()
    with lock_run_folder(path, args.overwrite, args.resume) if is_main_process() else contextlib.nullcontext():
        check_is_shared(path, args.device)
        yield path
        barrier()


def check_is_shared(path: Path, device: torch.device) -> None:
    """Raise OSError in all processes if one of them has another folder at `path`: a checkpoint would lack its part."""
    if not connected():
        return
    sign = path / broadcast_from_main(lambda: f"{STAGING}{uuid.uuid4().hex}")
    if is_main_process():
        sign.touch()
    barrier()
    tries = (sign.exists() or time.sleep(0.2) for _ in range(10))  # a network's file system may take a moment
    without = all_reduce_max(0 if any(tries) else torch.distributed.get_rank(), device)
    if is_main_process():
        sign.unlink()
    if without:
        raise OSError(
            f"Process {without} does not see the folder {path} of process 0: give an --output_dir that all processes "
            "share, such as one on a network file system."
        )


class SaveSettingsCallback(TrainerCallback):
    """Writes the run's settings once training begins: nothing that was in the folder is lost to a false start."""

    def __init__(self, output_dir: Path, settings: dict):
        self.output_dir, self.settings = output_dir, settings

    def on_train_begin(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            start_run(self.output_dir, self.settings, is_new=state.global_step == 0)


def train(trainer: SafeTrainerMixin, checkpoint: Path | None, settings: dict, prompt: list[int], smaller: str) -> None:
    """Train, from `checkpoint` on if there is one; raises Interrupted if a signal stopped it.

    `settings` are the contents of run.yaml. The model continues the ids of `prompt`, if there are any, after each
    evaluation; `smaller` is what to try if it memorizes.
    """
    output_dir = Path(trainer.args.output_dir)
    metrics = MetricsFile(output_dir / METRICS_FILE)
    trainer.add_callback(SaveSettingsCallback(output_dir, settings))
    trainer.add_callback(metrics)
    if checkpoint is not None and reached_its_end(checkpoint, trainer.args):  # and was stopped before it was saved
        trainer.state = read_state(checkpoint)
        trainer.state.is_world_process_zero = trainer.is_world_process_zero()  # in the file it is that of the first
        best = trainer.state.best_model_checkpoint if trainer.args.load_best_model_at_end else None
        trainer._load_from_checkpoint(best if best and Path(best).is_dir() else str(checkpoint))
        trainer.callback_handler.on_train_begin(trainer.args, trainer.state, trainer.control)
        trainer.continuity.log_end()
        return
    if checkpoint is not None:
        trainer.args.eval_on_start = False  # it was
    check_cache(trainer.model)  # now, when nothing can be lost
    stop, progress = StopOnInterrupt(), ProgressBar()
    samples = [Samples(trainer.processing_class, prompt, progress.write, metrics)] if prompt else []
    for callback in (progress, Warnings(progress.write, smaller), *samples, stop):
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
    if (signum := stop.agreed(trainer.args)) and saved_step(trainer) == trainer.state.global_step:
        raise Interrupted(stop_message(trainer), signum)


@contextlib.contextmanager
def resumable(trainer: SafeTrainerMixin) -> Iterator[None]:
    """Add the command that resumes the run to the interruption if a signal stops the block."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise Interrupted(stop_message(trainer), signal_of(error)) from None


def saved_step(trainer: SafeTrainerMixin) -> int:
    """Return the step of the newest checkpoint, 0 if there is none."""
    return max((int(path.name.rpartition("-")[2]) for path in checkpoints(trainer.args.output_dir)), default=0)


def stop_message(trainer: SafeTrainerMixin) -> str:
    """Return how far a run has come that a signal stopped, and the command that continues it."""
    state, saved = trainer.state, saved_step(trainer)
    command = command_to_resume(trainer.command, trainer.args)
    if saved == 0:
        return f"Stopped before a checkpoint was saved. To begin again: {command}"
    if saved == state.max_steps:
        return f"The training is complete. To save its result: {command}"
    done = f"step {state.global_step:,} of {state.max_steps:,}"
    return f"Stopped after {done}; step {saved:,} is saved. Continue with: {command}"


def run_facts(trainer: SafeTrainerMixin, network, stages: Stages) -> dict:
    """Return the part of a report that all runs share: its training and the machine."""
    args, state = trainer.args, trainer.state
    return {
        "name": Path(args.output_dir).resolve().name,
        "output_dir": str(Path(args.output_dir)),
        "tokens_per_second": trainer.clock.tokens_per_second(state),
        "steps": state.global_step,
        "tokens": state.num_input_tokens_seen,
        "precision": "bf16" if args.bf16 else "fp16" if args.fp16 else "fp32",
        "custom_code": bool(getattr(network.config, "auto_map", None)),
        "seconds": dict(stages.seconds),
        "peak_memory_bytes": peak_memory_bytes(args.device),
        "seed": args.seed,
        "machine": hardware_name(args.device),
        "world_size": args.world_size,
        "backend": torch.distributed.get_backend() if connected() else None,
        "versions": {"foliogpt": code_version(), "transformers": transformers.__version__, "torch": torch.__version__},
    }


def save_result(trainer, network, report: dict, card: str, quality: str, stages: Stages, more=(), **options) -> None:
    """Write a finished model, its tokenizer and what describes it, in the first process: all of it, or nothing.

    Each function of `more` writes to a folder, too; `options` are of the model's `save_pretrained`.
    """
    if not is_main_process():
        return
    output_dir = Path(trainer.args.output_dir)
    network.config.use_cache = True  # Trainer turned it off
    with stages("checkpoint") as say, staged(output_dir) as folder:
        network.save_pretrained(folder, **options)
        for save in (trainer.processing_class.save_pretrained, *more):
            save(folder)
        write_result(folder, trainer.state, report, card, quality)
        say(str(output_dir))
    check_cache(network, f"The weights are not at fault: {output_dir} is whole.")
