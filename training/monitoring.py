"""Callbacks for a run's metrics.jsonl, its samples and its warnings."""

import json
import math
import re
import textwrap
import time
from collections import deque
from pathlib import Path

import torch
from transformers import TrainerCallback

from ..checkpoints.loading import context_length
from ..evaluation.comparison import read_metrics
from ..jobs.saving import write_atomically
from .sharding import whole_model

SAMPLE_TOKENS = 60
DIVERGED = 0.5  # nats above the lowest loss so far
PATIENCE = 3  # entries in a row


class MetricsFile(TrainerCallback):
    """Appends all that Trainer logs, one JSON object per line, with the seconds and tokens so far."""

    def __init__(self, path: Path):
        self.path = path

    def on_train_begin(self, args, state, control, **kwargs):
        self.start = time.perf_counter()
        if state.is_world_process_zero:
            # Entries that are older than the checkpoint: a resumed run logs later ones again.
            step, entries = state.global_step, read_metrics(self.path)
            kept = [e for e in entries if e["step"] < step or (e["step"] == step > 0 and "train_loss" not in e)]
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
            raise OSError(f"Cannot write to {self.path} ({reason}). Make room, then continue with --resume.") from None


class Samples(TrainerCallback):
    """Continues a prompt after each evaluation, prints the text, and writes it to the metrics."""

    def __init__(self, tokenizer, prompt_ids: list[int], show, metrics: MetricsFile):
        self.tokenizer, self.prompt_ids, self.show, self.metrics = tokenizer, prompt_ids, show, metrics

    def on_evaluate(self, args, state, control, model=None, **kwargs):
        model = whole_model(model)  # a collective, if each process has a part
        if not state.is_world_process_zero:
            return
        room = (context_length(model) or len(self.prompt_ids) + SAMPLE_TOKENS) - len(self.prompt_ids)
        if room < 1:
            return
        ids = torch.tensor([self.prompt_ids], device=model.device)
        # Fork the random numbers so that sampling does not change the run.
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())), torch.no_grad():
            torch.manual_seed(args.seed)
            ids = model.generate(input_ids=ids, max_new_tokens=min(SAMPLE_TOKENS, room), use_cache=True)[0]
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        self.metrics.add(state, {"sample": text})
        shown = re.sub(r"\n\s*\n+", "\n", text.strip())
        self.show(f"  step {state.global_step:,}:\n{textwrap.indent(shown, '    ')}")


class Warnings(TrainerCallback):
    """Warns once if the model memorizes, and once if the training diverges, and names what to try."""

    def __init__(self, show, smaller: str):
        self.show, self.smaller = show, smaller  # what to try against memorizing

    def on_train_begin(self, args, state, control, **kwargs):
        self.warned, self.read = set(), 0  # entries of the log
        self.lowest, self.losses = math.inf, deque(maxlen=PATIENCE)
        self.evaluations = []  # validation loss, step, training loss at that time

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not state.is_world_process_zero:
            return
        losses, evaluations = self.losses, self.evaluations
        for entry in state.log_history[self.read :]:
            if "loss" in entry:
                losses.append(entry["loss"])
                self.lowest = min(self.lowest, entry["loss"])
            if "eval_loss" in entry:
                evaluations.append((entry["eval_loss"], entry["step"], losses[-1] if losses else math.inf))
        self.read = len(state.log_history)
        if len(losses) == PATIENCE and min(losses) > self.lowest + DIVERGED:
            rates = f"--learning_rate {args.learning_rate / 3:.2g}"
            if getattr(args, "use_muon", False):
                rates += f" --adam_learning_rate {args.adam_learning_rate / 3:.2g}"
            self._warn(
                "diverges",
                f"The training loss has risen from {self.lowest:.2f} to {losses[-1]:.2f}: the training diverges. "
                f"Try {rates}, or a longer warm-up with --warmup_steps 0.1.",
            )
        best, best_step, loss_at_best = min(evaluations, key=lambda entry: entry[0], default=(0.0, 0, 0.0))
        if sum(step > best_step for _, step, _ in evaluations) > 1 and evaluations[-1][2] < loss_at_best:
            self._warn(
                "memorizes",
                f"The validation loss was lowest at step {best_step:,} ({best:.3f}) and is {evaluations[-1][0]:.3f} "
                f"now, while the training loss still falls: the model memorizes. Try more text, {self.smaller}, "
                f"--weight_decay {max(args.weight_decay, 0.1) * 3:.2g}, or --max_steps {best_step}; "
                "--load_best_model_at_end keeps the best checkpoint.",
            )

    def _warn(self, kind: str, message: str) -> None:
        if kind not in self.warned:
            self.warned.add(kind)
            self.show(f"Warning: {message}")
