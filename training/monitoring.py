"""What a training run writes down and warns of while it goes on: metrics.jsonl, samples, signs of trouble."""

import json
import math
import re
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import TrainerCallback

from ..checkpoints.loading import context_length
from ..evaluation.comparison import read_metrics
from ..jobs.saving import write_atomically
from .callbacks import StepClock
from .sharding import whole_model

SAMPLE_TOKENS = 60
DIVERGED = 0.5  # nats above the lowest loss so far
PATIENCE = 3  # entries in a row


class MetricsFile(TrainerCallback):
    """Appends all that Trainer logs, one JSON object a line, and the seconds and tokens it took to get there."""

    def __init__(self, path: Path):
        self.path = path

    def on_train_begin(self, args, state, control, **kwargs):
        self.start = time.perf_counter()
        if state.is_world_process_zero:
            kept = [entry for entry in read_metrics(self.path) if came_before(entry, state.global_step)]
            self.before = kept[-1].get("seconds", 0.0) if kept else 0.0
            write_atomically(self.path, "".join(json.dumps(entry) + "\n" for entry in kept))

    def on_log(self, args, state, control, logs=None, **kwargs):
        if state.is_world_process_zero and logs:
            self.add(state, logs)

    def add(self, state, entry: dict) -> None:
        seconds = round(self.before + time.perf_counter() - self.start, 3)
        known = {"step": state.global_step, "seconds": seconds, "tokens": state.num_input_tokens_seen}
        # JSON has no NaN and no infinity.
        entry = {k: str(v) if isinstance(v, float) and not math.isfinite(v) else v for k, v in entry.items()}
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(known | entry) + "\n")
        except OSError as error:
            reason = error.strerror or error
            raise OSError(f"Cannot write to {self.path} ({reason}). Make room, then go on with --resume.") from None


def came_before(entry: dict, step: int) -> bool:
    """Whether an entry is older than the checkpoint of a step; what came after it will come again."""
    return entry["step"] < step or (entry["step"] == step > 0 and "train_loss" not in entry)


@dataclass
class Speed:
    """Tokens a second, and their share of the peak flops where that is known, for Trainer to log."""

    clock: StepClock
    flops_per_token: float
    peak_flops: float | None

    def __call__(self, state) -> dict[str, float]:
        speed = self.clock.tokens_per_second(state)
        if not speed:
            return {}
        figures = {"tokens_per_second": round(speed, 1)}
        if self.peak_flops:
            figures["fraction_of_peak_flops"] = round(speed * self.flops_per_token / self.peak_flops, 4)
        return figures


class Samples(TrainerCallback):
    """After each evaluation, lets the model continue a prompt, shows the text, and writes it to the metrics."""

    def __init__(self, tokenizer, prompt_ids: list[int], show, metrics: MetricsFile):
        self.tokenizer, self.prompt_ids, self.show, self.metrics = tokenizer, prompt_ids, show, metrics

    def on_evaluate(self, args, state, control, model=None, **kwargs):
        model = whole_model(model)  # of which every process may have a part
        if not state.is_world_process_zero:
            return
        room = (context_length(model) or len(self.prompt_ids) + SAMPLE_TOKENS) - len(self.prompt_ids)
        if room < 1:
            return
        ids = torch.tensor([self.prompt_ids], device=model.device)
        # With a generator of its own: the run must not depend on whether anybody looks.
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())), torch.no_grad():
            torch.manual_seed(args.seed)
            ids = model.generate(input_ids=ids, max_new_tokens=min(SAMPLE_TOKENS, room), use_cache=True)[0]
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        self.metrics.add(state, {"sample": text})
        shown = re.sub(r"\n\s*\n+", "\n", text.strip())
        self.show(f"  step {state.global_step:,}:\n{textwrap.indent(shown, '    ')}")


class Warnings(TrainerCallback):
    """Says once that the model memorises or diverges, and what to try."""

    def __init__(self, show, smaller: str):
        self.show = show
        self.smaller = smaller  # what to try against memorising
        self.reset()

    def reset(self):
        self.lowest, self.high = math.inf, 0
        self.best, self.best_step, self.worse = math.inf, 0, 0
        self.train_loss_at_best = math.inf
        self.loss = math.inf
        self.said = set()

    def on_train_begin(self, args, state, control, **kwargs):
        self.reset()
        for entry in state.log_history:  # of the run that goes on
            self._look(args, entry, entry["step"])

    def on_log(self, args, state, control, logs=None, **kwargs):
        if state.is_world_process_zero and logs:
            self._look(args, logs, state.global_step)

    def _look(self, args, logs: dict, step: int) -> None:
        if "loss" in logs:
            self.loss = float(logs["loss"])
            self.lowest = min(self.lowest, self.loss)
            self.high = self.high + 1 if self.loss > self.lowest + DIVERGED else 0
            if self.high == PATIENCE:
                rates = f"--learning_rate {args.learning_rate / 3:.2g}"
                if getattr(args, "use_muon", False):
                    rates += f" --adam_learning_rate {args.adam_learning_rate / 3:.2g}"
                self._say(
                    "diverges",
                    f"The training loss has risen from {self.lowest:.2f} to {self.loss:.2f}: the training diverges. "
                    f"Try {rates}, or a longer warm-up with --warmup_steps 0.1.",
                )
        if "eval_loss" in logs:
            loss = float(logs["eval_loss"])
            if loss < self.best:
                self.best, self.best_step, self.worse = loss, step, 0
                self.train_loss_at_best = self.loss
            else:
                self.worse += 1
            if self.worse >= 2 and self.loss < self.train_loss_at_best:
                self._say(
                    "memorises",
                    f"The validation loss was lowest at step {self.best_step:,} ({self.best:.3f}) and is {loss:.3f} "
                    f"now, while the training loss still falls: the model memorises. Try more text, {self.smaller}, "
                    f"--weight_decay {max(args.weight_decay, 0.1) * 3:.2g}, or --max_steps {self.best_step}; "
                    "--load_best_model_at_end keeps the best checkpoint.",
                )

    def _say(self, what: str, message: str) -> None:
        if what not in self.said:
            self.said.add(what)
            self.show(f"Warning: {message}")
