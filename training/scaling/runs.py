"""The runs of a scaling grid: trained from a common trunk, evaluated on the same text, and kept when they are finished.

Runs of one size share warm-up and plateau; only the decay depends on the length of a run. So the plateau is trained
once, and the decays begin at several places (Hägele et al., 2024). Each run is, bit for bit, that of its own schedule.
"""

import json
import shutil
import time
from itertools import islice
from pathlib import Path

import datasets
import torch
import transformers

from ...data.packed_corpus import PackedCorpora
from ...evaluation.bits_per_byte import total_loss
from ...jobs.saving import last_checkpoint, write_atomically
from ...tokenization import vocabulary_size
from ..arguments import PretrainingArguments
from ..calibration import step_seconds
from ..config_fields import chosen_fields
from ..flops import multiplied_parameters
from ..monitoring import read_metrics
from ..new_model import LOSS_CHUNK, token_ids
from ..trainer import FolioTrainer
from .plan import BATCH_SIZE, WARMUP_STEPS, Plan, Run, ScaleArguments, family_member

RUNS_FILE, TRUNK = "runs.jsonl", "trunk"
EVALUATED = 100_000  # at most so many tokens of the held-out text


class GridTrainer:
    """Trainer and evaluator of all runs, on the same text."""

    def __init__(self, data: PackedCorpora, chosen: ScaleArguments, folder: Path):
        self.data, self.chosen, self.folder = data, chosen, folder
        held_out = datasets.concatenate_datasets(data.validation_blocks)
        every = -(-len(held_out) * chosen.block_size // EVALUATED)
        self.held_out = held_out.select(range(0, len(held_out), every))  # from all over the text
        self.batch_tokens = BATCH_SIZE * chosen.block_size
        self.device = self.settings(folder, 1, 0, save=False).device
        self.text_tokens = len(data.train_blocks) * chosen.block_size

    def model(self, width: int):
        """Return a model with new weights, which are always the same for a width."""
        transformers.set_seed(self.chosen.seed)
        sizes, ids = (vocabulary_size(self.data.tokenizer), self.chosen.block_size), token_ids(self.data.tokenizer)
        model = family_member(width, *sizes, self.chosen.preset, **ids, **chosen_fields(self.chosen))
        model.loss_chunk_size = LOSS_CHUNK
        return model

    def settings(self, folder: Path, steps: int, decay_steps: int, save: bool) -> PretrainingArguments:
        """Return the settings of a part of a run: up to `steps`, at a constant rate if there are no `decay_steps`."""
        # A schedule that ends with a decay of no steps would end at a rate of 0, and a branch begin with it.
        schedule = "warmup_stable_decay" if decay_steps else "constant_with_warmup"
        args = PretrainingArguments(
            output_dir=str(folder), max_steps=steps, seed=self.chosen.seed,
            lr_scheduler_type=schedule, warmup_steps=WARMUP_STEPS, decay_steps=decay_steps,
            per_device_train_batch_size=BATCH_SIZE, dataloader_drop_last=True,
            save_strategy="steps" if save else "no", save_steps=steps, save_total_limit=1,
            eval_strategy="no", logging_strategy="no",
        )  # fmt: skip
        args.set_bf16(args.device.type == "cuda" and torch.cuda.is_bf16_supported())  # the same in all runs
        return args

    def measure(self, width: int) -> tuple[int, float]:
        """Return the parameters and the seconds per training step of a width."""
        model, args = self.model(width), self.settings(self.folder, 1, 0, save=False)
        batch = self.data.collator(list(islice(self.data.train_blocks, BATCH_SIZE)))
        return multiplied_parameters(model), step_seconds(model, batch, args, bool(args.bf16))

    def train(self, run: Run, shares_trunk: bool) -> dict:
        """Train a run, from the trunk of its size on if others share it; return its metrics."""
        checkpoint = self._trunk(run) if shares_trunk else None
        trainer = self._train_part(run, run.steps, run.steps - run.branch, checkpoint)
        trainer.check_weights()
        model = trainer.model_wrapped
        nats, count = total_loss(model, self.held_out, self.data.collator, 4 * BATCH_SIZE)
        return {
            "width": run.width,
            "layers": model.config.num_hidden_layers,
            "parameters": multiplied_parameters(model),
            "steps": run.steps,
            "tokens": run.steps * self.batch_tokens,
            "loss": nats / count,
        }

    def _trunk(self, run: Run) -> Path | None:
        """Return the checkpoint of the step at which the run's decay begins; train up to it if need be."""
        trunk = self.folder / TRUNK / str(run.width)
        checkpoint = last_checkpoint(trunk) if trunk.is_dir() else None
        step = 0 if checkpoint is None else int(checkpoint.name.rpartition("-")[2])
        if step > run.branch:  # the list of finished runs was edited: this one comes before one of them
            shutil.rmtree(trunk)
            checkpoint = None
        if step != run.branch:
            self._train_part(run, run.branch, 0, checkpoint, trunk)
        return last_checkpoint(trunk)

    def _train_part(self, run: Run, steps: int, decay_steps: int, start: Path | None, save_to: Path | None = None):
        trainer = FolioTrainer(
            model=self.model(run.width),
            args=self.settings(save_to or self.folder, steps, decay_steps, save=save_to is not None),
            train_dataset=self.data.train_blocks,
            data_collator=self.data.collator,
            processing_class=self.data.tokenizer,
        )
        trainer.train(resume_from_checkpoint=str(start) if start else None)
        return trainer


def train_all(trainer: GridTrainer, plan: Plan, runs: list[Run]) -> list[dict]:
    """Train the runs that are not finished yet, print a line for each, and return the metrics of all, in order."""
    file = trainer.folder / RUNS_FILE
    finished = {(entry["width"], entry["steps"]): entry for entry in read_metrics(file)}
    missing = [run for run in runs if (run.width, run.steps) not in finished]
    for run in missing:
        begun = time.perf_counter()
        metrics = trainer.train(run, shares_trunk=run.width in plan.widths)
        metrics["seconds"] = round(time.perf_counter() - begun, 1)
        finished[(run.width, run.steps)] = metrics
        # All lines are written again: the last line of a run that was killed may be incomplete.
        write_atomically(file, "".join(json.dumps(entry) + "\n" for entry in finished.values()))
        if run.steps == plan.steps[-1] or run == plan.larger:
            shutil.rmtree(trainer.folder / TRUNK / str(run.width), ignore_errors=True)
        print(
            f"  {metrics['parameters']:>11,} parameters, {metrics['tokens']:>11,} tokens: loss {metrics['loss']:.3f}  "
            f"({metrics['seconds']:.0f} s)",
            flush=True,
        )
    return [finished[(run.width, run.steps)] for run in runs]
