"""The runs of a scaling grid: trained from a common trunk, judged on the same text, and kept when they are finished.

Runs of one size share their beginning. With a warm-up, a plateau and a decay only the decay differs by the length of a
run, so the plateau is trained once and left at several places (Hägele et al., 2024). Each is, bit for bit, the run that
its own schedule would have given.
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
EVALUATED = 100_000  # tokens of the held-out text at the most


class Workshop:
    """Trains and judges the runs, all on the same text."""

    def __init__(self, data: PackedCorpora, chosen: ScaleArguments, folder: Path):
        self.data, self.chosen, self.folder = data, chosen, folder
        held_out = datasets.concatenate_datasets(data.validation_blocks)
        every = -(-len(held_out) * chosen.block_size // EVALUATED)
        self.held_out = held_out.select(range(0, len(held_out), every))  # from all over the text
        self.batch_tokens = BATCH_SIZE * chosen.block_size
        self.device = self.settings(folder, 1, 0, save=False).device
        self.text_tokens = len(data.train_blocks) * chosen.block_size

    def model(self, width: int):
        """Fresh weights; those of a width are always the same."""
        transformers.set_seed(self.chosen.seed)
        sizes, ids = (vocabulary_size(self.data.tokenizer), self.chosen.block_size), token_ids(self.data.tokenizer)
        model = family_member(width, *sizes, self.chosen.preset, **ids, **chosen_fields(self.chosen))
        model.loss_chunk_size = LOSS_CHUNK
        return model

    def settings(self, folder: Path, steps: int, decay_steps: int, save: bool) -> PretrainingArguments:
        """Of a part of a run: up to step `steps`, at a constant rate if there are no `decay_steps`."""
        args = PretrainingArguments(
            output_dir=str(folder),
            max_steps=steps,
            # A schedule that ends with a decay of no steps would end at a rate of 0, and a branch begin with it.
            lr_scheduler_type="warmup_stable_decay" if decay_steps else "constant_with_warmup",
            warmup_steps=WARMUP_STEPS,
            decay_steps=decay_steps,
            per_device_train_batch_size=BATCH_SIZE,
            dataloader_drop_last=True,
            eval_strategy="no",
            save_strategy="steps" if save else "no",
            save_steps=steps,
            save_total_limit=1,
            logging_strategy="no",
            seed=self.chosen.seed,
        )
        args.set_bf16(args.device.type == "cuda" and torch.cuda.is_bf16_supported())  # in all runs the same
        return args

    def measure(self, width: int) -> tuple[int, float]:
        """Parameters, and seconds of a training step."""
        model, args = self.model(width), self.settings(self.folder, 1, 0, save=False)
        batch = self.data.collator(list(islice(self.data.train_blocks, BATCH_SIZE)))
        return multiplied_parameters(model), step_seconds(model, batch, args, bool(args.bf16))

    def train(self, run: Run, shares_trunk: bool) -> dict:
        """One run, from the trunk of its size on if others share it; returns its figures."""
        decay = run.steps - run.branch
        if not shares_trunk:
            return self._figures(run, self._part(run, run.steps, decay, None))
        trunk = self.folder / TRUNK / str(run.width)
        checkpoint = last_checkpoint(trunk) if trunk.is_dir() else None
        step = 0 if checkpoint is None else int(checkpoint.name.rpartition("-")[2])
        if step > run.branch:  # a run before one that is finished: somebody has changed the list of them
            shutil.rmtree(trunk)
            checkpoint = None
        if step != run.branch:
            self._part(run, run.branch, 0, checkpoint, trunk)
            checkpoint = last_checkpoint(trunk)
        return self._figures(run, self._part(run, run.steps, decay, checkpoint))

    def _part(self, run: Run, steps: int, decay_steps: int, start: Path | None, save_to: Path | None = None):
        trainer = FolioTrainer(
            model=self.model(run.width),
            args=self.settings(save_to or self.folder, steps, decay_steps, save=save_to is not None),
            train_dataset=self.data.train_blocks,
            data_collator=self.data.collator,
            processing_class=self.data.tokenizer,
        )
        trainer.train(resume_from_checkpoint=str(start) if start else None)
        return trainer

    def _figures(self, run: Run, trainer: FolioTrainer) -> dict:
        trainer.check_weights()
        model = trainer.accelerator.unwrap_model(trainer.model_wrapped, keep_fp32_wrapper=False)
        nats, count = total_loss(model, self.held_out, self.data.collator, 4 * BATCH_SIZE)
        return {
            "width": run.width,
            "layers": model.config.num_hidden_layers,
            "parameters": multiplied_parameters(model),
            "steps": run.steps,
            "tokens": run.steps * self.batch_tokens,
            "loss": nats / count,
        }


def train_all(workshop: Workshop, plan: Plan, runs: list[Run]) -> list[dict]:
    """Train the runs that are not finished yet, and say a line for each; returns the figures of all, in order."""
    file = workshop.folder / RUNS_FILE
    finished = {(entry["width"], entry["steps"]): entry for entry in read_metrics(file)}
    missing = [run for run in runs if (run.width, run.steps) not in finished]
    for run in missing:
        begun = time.perf_counter()
        figures = workshop.train(run, shares_trunk=run.width in plan.widths)
        figures["seconds"] = round(time.perf_counter() - begun, 1)
        finished[(run.width, run.steps)] = figures
        # Written anew: the last line of a run that was killed may be torn.
        write_atomically(file, "".join(json.dumps(entry) + "\n" for entry in finished.values()))
        if run.steps == plan.steps[-1] or run == plan.larger:
            shutil.rmtree(workshop.folder / TRUNK / str(run.width), ignore_errors=True)
        print(
            f"  {figures['parameters']:>11,} parameters, {figures['tokens']:>11,} tokens: loss {figures['loss']:.3f}  "
            f"({figures['seconds']:.0f} s)",
            flush=True,
        )
    return [finished[(run.width, run.steps)] for run in runs]
