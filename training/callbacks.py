"""Callbacks for a run's progress bar, its clock and its signals."""

import contextlib
import signal
import sys
import time

import torch
from tqdm.auto import tqdm
from transformers import TrainerCallback

from ..jobs.processes import all_reduce_max, is_main_process
from ..jobs.signals import handled, interrupt

SHOWN = {"loss": ("loss", "{:.3f}"), "eval_loss": ("validation", "{:.3f}"),
         "tokens_per_second": ("tokens/s", "{:,.0f}"), "fraction_of_peak_flops": ("of peak", "{:.0%}")}  # fmt: skip


class ProgressBar(TrainerCallback):
    """One line: steps, time left, loss, tokens per second and their share of the peak flops."""

    def __init__(self):
        self.bar, self.shown = tqdm(disable=True), {}

    def on_train_begin(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            interval = 0.5 if sys.stderr.isatty() else 30  # lines in a log file do not overwrite each other
            looks = {"desc": "training", "unit": "step", "dynamic_ncols": True, "mininterval": interval}
            self.bar = tqdm(total=state.max_steps, initial=state.global_step, **looks)

    def on_step_end(self, args, state, control, **kwargs):
        self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args, state, control, logs, **kwargs):
        self.shown |= {label: text.format(logs[name]) for name, (label, text) in SHOWN.items() if name in logs}
        self.bar.set_postfix(self.shown, refresh=False)

    def write(self, text: str) -> None:
        """Show a line above the bar."""
        tqdm.write(text, file=sys.stderr)

    def close(self) -> None:
        """End the line, so that the next print begins below it."""
        self.bar.close()


class StepClock(TrainerCallback):
    """The time of training steps, with the loading of their batches, without evaluations and saves.

    A GPU works asynchronously: the clock waits for it only where it stops, not at each step.
    """

    def __init__(self):
        self.flops_per_token, self.peak_flops = 0.0, 0.0  # the latter per second, 0 if it is not known
        self.seconds, self.start = 0.0, None

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
        """Return the speed of this call of `train`, all processes together; None before the first step."""
        return (state.num_input_tokens_seen - self.tokens_before) / self.seconds if self.seconds else None

    def metrics(self, state) -> dict[str, float]:
        """Return the tokens per second, and their share of the peak flops if that is known, for Trainer to log."""
        if not (speed := self.tokens_per_second(state)):
            return {}
        metrics = {"tokens_per_second": round(speed, 1)}
        if self.peak_flops:
            metrics["fraction_of_peak_flops"] = round(speed * self.flops_per_token / self.peak_flops, 4)
        return metrics


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
        if not is_main_process():
            return
        what, again = ("Interrupted", "Ctrl-C") if signum == signal.SIGINT else ("Terminated", "The signal")
        with contextlib.suppress(RuntimeError):  # in the middle of another line
            print(f"\n{what}: saving a checkpoint after this step. {again} again to stop at once.", file=sys.stderr)

    def agreed(self, args) -> int | None:
        """Return the signal that any process received: all stop after the same step. A collective."""
        # The signals of others are not kept: our own may come later, and would count as a second one.
        return all_reduce_max(self.received or 0, args.device) or None

    def on_step_end(self, args, state, control, **kwargs):
        if self.agreed(args):
            control.should_save = control.should_training_stop = True

    def on_save(self, args, state, control, **kwargs):
        if self.agreed(args):  # while saving
            control.should_training_stop = True

    def close(self) -> None:
        """Restore the signals' handlers."""
        self.handlers.close()
