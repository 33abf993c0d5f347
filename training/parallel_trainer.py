"""Trainer with the same batches, validation loss and checkpoints in several processes as in one."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import Trainer
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME
from transformers.trainer_utils import EvalLoopOutput, has_length
from transformers.utils import SAFE_WEIGHTS_NAME

from ..data.packing import IGNORE_INDEX
from .arguments import PretrainingArguments
from .sharding import is_sharded, spread, whole


class ProcessCountInvariantTrainer(Trainer):
    """Trains on each example once per epoch, and evaluates the mean loss of all labels, in any number of processes."""

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        batches = self._drop_repeated_examples(epoch_iterator, self.train_dataset, self._train_batch_size)
        return super().get_batch_samples(batches, num_batches, device)

    def _drop_repeated_examples(self, batches: Iterable[dict], dataset, size: int) -> Iterator[dict]:
        """Drop the examples that accelerate repeats at the end of an epoch so that all processes have equally many.

        A process for which nothing is left gets one example with all labels ignored.
        """
        repeats = self.args.world_size > 1 and has_length(dataset) and not self.args.dataloader_drop_last
        remainder = len(dataset) % (size * self.args.world_size) if repeats else 0
        for batch in batches:
            if remainder and self.accelerator.gradient_state.end_of_dataloader:
                left = remainder - size * self.args.process_index
                # The lengths of documents are not by row; a model finds them itself.
                batch = {name: t[: max(left, 1)] for name, t in batch.items() if name != "cu_seq_lens_q"}
                if left <= 0:
                    batch["labels"] = torch.full_like(batch["labels"], IGNORE_INDEX)
            yield batch

    def _track_num_input_tokens(self, inputs):
        if self.args.world_size > 1 and (inputs["labels"] == IGNORE_INDEX).all():  # see `_drop_repeated_examples`
            inputs = {**inputs, "input_ids": inputs["input_ids"][:0]}
        super()._track_num_input_tokens(inputs)

    def _eval_sums(self, model, batch: dict) -> dict[str, tuple]:
        """Return the metrics of a batch, each as a sum and the count that divides it, to add up over batches."""
        tokens = (batch["labels"][:, 1:] != IGNORE_INDEX).sum()
        nats = self.compute_loss(model, batch, num_items_in_batch=torch.ones((), device=tokens.device))
        # Trainer multiplies it, since DDP takes the mean of the gradients.
        return {"loss": (nats / self.args.world_size if self.args.average_tokens_across_devices else nats, tokens)}

    @torch.no_grad()
    def evaluation_loop(self, dataloader, description, *args, metric_key_prefix="eval", **kwargs) -> EvalLoopOutput:
        model = self.model.eval()
        totals: Any = 0.0  # (metrics, 2): sums, counts
        found: dict[str, tuple] = {}
        for batch in self._drop_repeated_examples(dataloader, dataloader.dataset, self.args.eval_batch_size):
            found = self._eval_sums(model, self._prepare_inputs(batch))
            totals += torch.tensor([[float(number) for number in pair] for pair in found.values()], dtype=torch.float64)
            self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)
        if self.args.world_size > 1:
            totals = self.accelerator.reduce(totals.to(self.args.device))
        means = (totals[:, 0] / totals[:, 1].clamp(min=1)).tolist()
        metrics = {f"{metric_key_prefix}_{name}": mean for name, mean in zip(found, means, strict=True)}
        return EvalLoopOutput(None, None, metrics=metrics, num_samples=len(dataloader.dataset))


class ParallelTrainer(ProcessCountInvariantTrainer):
    """`Trainer` whose results do not depend on the number of processes, under DDP and FSDP2."""

    args: PretrainingArguments

    def _eval_sums(self, model, batch):
        tokens = (batch["labels"][:, 1:] != IGNORE_INDEX).sum()
        return {"loss": (model(**batch, num_items_in_batch=torch.ones((), device=tokens.device)).loss, tokens)}

    # A checkpoint does not depend on the sharding, so that any number of processes can resume from it.

    def _save_optimizer_and_scheduler(self, output_dir):
        if not is_sharded(self.model):
            return super()._save_optimizer_and_scheduler(output_dir)
        saved = self.optimizer.state_dict()
        state = {i: {k: whole(v) if torch.is_tensor(v) else v for k, v in s.items()} for i, s in saved["state"].items()}
        if self.args.should_save:
            torch.save({**saved, "state": state}, Path(output_dir) / OPTIMIZER_NAME)
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        model = self.model if model is None else model
        if not is_sharded(model):
            return super()._load_from_checkpoint(resume_from_checkpoint, model)
        weights = load_file(Path(resume_from_checkpoint) / SAFE_WEIGHTS_NAME)
        model.load_state_dict({name: spread(weights[name], p) for name, p in model.named_parameters()}, strict=False)

    def _load_best_model(self):
        if not is_sharded(self.model):
            return super()._load_best_model()
        self._load_from_checkpoint(self.state.best_model_checkpoint)

    def _load_optimizer_and_scheduler(self, checkpoint):
        if checkpoint is None or not is_sharded(self.model):
            return super()._load_optimizer_and_scheduler(checkpoint)
        saved = torch.load(Path(checkpoint) / OPTIMIZER_NAME, weights_only=True)
        params, state = [p for group in self.optimizer.param_groups for p in group["params"]], {}
        for i, values in saved["state"].items():
            like = params[i]
            state[i] = {k: spread(v, like) if getattr(v, "shape", None) == like.shape else v for k, v in values.items()}
        self.optimizer.load_state_dict({**saved, "state": state})
        self.lr_scheduler.load_state_dict(torch.load(Path(checkpoint) / SCHEDULER_NAME, weights_only=True))
