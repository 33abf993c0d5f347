"""What a training run shows while it goes on, and how it stops when asked to."""

import contextlib
import signal
import sys
import time

import torch
from tqdm.auto import tqdm
from transformers import TrainerCallback

from ..jobs.processes import is_first, largest_of_all
from ..jobs.signals import handled, interrupt


class ProgressBar(TrainerCallback):
    """One line: steps, time left, loss, tokens a second and their share of the peak flops."""

    def __init__(self):
        self.bar = None
        self.shown = {}

    def on_train_begin(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            # In a log file, where lines do not overwrite each other, seldom.
            looks = {"desc": "training", "unit": "step", "dynamic_ncols": True}
            looks["mininterval"] = 0.5 if sys.stderr.isatty() else 30
            self.bar = tqdm(total=state.max_steps, initial=state.global_step, **looks)

    def on_step_end(self, args, state, control, **kwargs):
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if self.bar is None or not logs:
            return
        for name, label in (("loss", "loss"), ("eval_loss", "validation")):
            if name in logs:
                self.shown[label] = f"{logs[name]:.3f}"
        if "tokens_per_second" in logs:
            self.shown["tokens/s"] = f"{logs['tokens_per_second']:,.0f}"
        if "fraction_of_peak_flops" in logs:
            self.shown["of peak"] = f"{logs['fraction_of_peak_flops']:.0%}"
        self.bar.set_postfix(self.shown, refresh=False)

    def write(self, text: str) -> None:
        """Show a line above the bar."""
        if self.bar is not None:
            tqdm.write(text, file=sys.stderr)

    def close(self) -> None:
        """Leave the line as it is; what is printed next begins below it."""
        if self.bar is not None:
            self.bar.close()


class StepClock(TrainerCallback):
    """The time that training steps took, with the loading of their batches, without evaluations and saves.

    A GPU works behind the program, which only gives it orders: it is waited for where the clock stops, not each step.
    """

    def __init__(self):
        self.seconds = 0.0
        self.start: float | None = None  # when it began to run

    def on_train_begin(self, args, state, control, **kwargs):
        self.tokens_before = state.num_input_tokens_seen
        if args.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(args.device)  # of the steps that were timed

    def on_step_begin(self, args, state, control, **kwargs):
        if self.start is None:
            self.start = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        if control.should_log or control.should_evaluate or control.should_save or control.should_training_stop:
            self.on_epoch_end(args, state, control)

    def on_epoch_end(self, args, state, control, **kwargs):
        if self.start is not None:
            if args.device.type != "cpu":
                torch.accelerator.synchronize()
            self.seconds += time.perf_counter() - self.start
            self.start = None

    def tokens_per_second(self, state) -> float | None:
        """Of this call of `train`, all processes together; None before the first step."""
        return (state.num_input_tokens_seen - self.tokens_before) / self.seconds if self.seconds else None


class StopOnInterrupt(TrainerCallback):
    """Ctrl-C or SIGTERM ends training after the current step, with a checkpoint; a second one ends it at once."""

    def __init__(self):
        self.received: int | None = None  # the signal that this process got
        self.handlers = contextlib.ExitStack()

    def on_train_begin(self, args, state, control, **kwargs):
        self.handlers.enter_context(handled(self._interrupt, signal.SIGINT, signal.SIGTERM))

    def _interrupt(self, signum, frame):
        if self.received:
            interrupt(signum)
        self.received = signum
        if not is_first():
            return
        what, again = ("Interrupted", "Ctrl-C") if signum == signal.SIGINT else ("Terminated", "The signal")
        with contextlib.suppress(RuntimeError):  # in the middle of another line
            print(f"\n{what}: saving a checkpoint after this step. {again} again to stop at once.", file=sys.stderr)

    def agreed(self, args) -> int | None:
        """The signal by which any process was told to stop: then all do, after the same step. A collective."""
        # What others have received is not kept: our own signal may come later, and would count as a second one.
        return largest_of_all(self.received or 0, args.device) or None

    def on_step_end(self, args, state, control, **kwargs):
        if self.agreed(args):
            control.should_save = control.should_training_stop = True

    def on_save(self, args, state, control, **kwargs):
        if self.agreed(args):  # while saving
            control.should_training_stop = True

    def close(self) -> None:
        """Give the signals their old meaning back."""
        self.handlers.close()
