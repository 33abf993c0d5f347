"""Hugging Face's Trainer with three additions: Muon, a decay that needs no step count, and checkpoints that are
whole or not there."""

from pathlib import Path

from transformers import PrinterCallback, Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, SchedulerType

from .arguments import PretrainingArguments
from .checkpoints import saving
from .optimizers import MuonAdamW


class FolioTrainer(Trainer):
    """Trains a causal language model on packed blocks; see `PretrainingArguments` for what it can be told."""

    args: PretrainingArguments

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.remove_callback(PrinterCallback)

    def create_optimizer(self, model=None):
        if self.optimizer is None and self.args.use_muon:
            self.optimizer = MuonAdamW(
                self.model if model is None else model,
                lr=self.args.learning_rate,
                adam_lr=self.args.adam_learning_rate,
                weight_decay=self.args.weight_decay,
                betas=(self.args.adam_beta1, self.args.adam_beta2),
            )
        return super().create_optimizer(model)

    def create_scheduler(self, num_training_steps, optimizer=None):
        given = self.args.lr_scheduler_kwargs
        if self.args.lr_scheduler_type == SchedulerType.WARMUP_STABLE_DECAY:
            self.args.lr_scheduler_kwargs = {**self._decay(num_training_steps), **dict(given or {})}
        try:
            return super().create_scheduler(num_training_steps, optimizer)
        except TypeError as error:
            raise ValueError(f"lr_scheduler_kwargs do not fit {self.args.lr_scheduler_type}: {error}") from None
        finally:
            self.args.lr_scheduler_kwargs = given

    def _decay(self, num_training_steps: int) -> dict:
        decay, warmup = self.args.decay_steps, self.args.get_warmup_steps(num_training_steps)
        steps = int(decay if decay >= 1 else decay * num_training_steps)
        if warmup + steps > num_training_steps:
            raise ValueError(
                f"{warmup} warmup_steps and {steps} decay_steps do not fit into {num_training_steps} steps of training."
            )
        return {"num_decay_steps": steps, "decay_type": "linear"}

    def _save_checkpoint(self, model, trial):
        # The state is written last, and `last_checkpoint` takes no checkpoint without it.
        path = Path(self._get_output_dir(trial)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        with saving(path):
            super()._save_checkpoint(model, trial)
