"""The trainers of fine-tuning: TRL's for text, Trainer for heads; each with what makes training safe."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import torch
from transformers import PreTrainedModel
from transformers.loss.loss_utils import fixed_cross_entropy

from ...data.examples import Examples
from ...data.packing import IGNORE_INDEX
from ...jobs.extras import extra
from ...jobs.options import switch
from ...modeling.loss import span_loss
from ..parallel_trainer import ProcessCountInvariantTrainer
from ..trainer import SafeTrainerMixin
from .arguments import FinetuningArguments

with extra("finetune", "Fine-tuning"):
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer
    from trl.trainer import utils as trl_utils

LOSS_COLUMNS = 4096  # of the vocabulary at a time, where TRL has no GPU kernel for its loss
LOSS_TOKENS = 4096  # whose loss TRL computes at once
Kind = TypeVar("Kind")


def fixed(**values: Any) -> Callable[[type[Kind]], type[Kind]]:
    """Give a dataclass fields that are no flags, as data/examples.py has done what they would change."""

    def decorate(kind: type[Kind]) -> type[Kind]:
        for name, value in values.items():
            kind.__annotations__[name] = Any
            setattr(kind, name, field(default_factory=partial(copy.copy, value), init=False))
        return kind

    return decorate


OF_BOTH = {
    "trust_remote_code": False, "model_init_kwargs": None, "dataset_num_proc": None, "pad_token": None,
    "truncation_mode": "keep_start", "padding_free": False, "pad_to_multiple_of": None,
}  # fmt: skip


@dataclass
@fixed(
    **OF_BOTH, chat_template_path=None, dataset_text_field="text", dataset_kwargs={"skip_prepare_dataset": True},
    eos_token=None, shuffle_dataset=False, packing_strategy="bfd", eval_packing=None, completion_only_loss=None,
    assistant_only_loss=False,
)  # fmt: skip
class SupervisedArguments(FinetuningArguments, SFTConfig):
    """The settings of sft and lm: ours, and TRL's."""


@dataclass
@fixed(**OF_BOTH, sync_ref_model=False)
class PreferenceArguments(FinetuningArguments, DPOConfig):
    """The settings of dpo: ours, and TRL's."""

    precompute_ref_log_probs: bool | None = switch(
        "compute the reference model's log probabilities before the first step (default: if that saves time)"
    )

    def __post_init__(self):
        super().__post_init__()
        if self.precompute_ref_log_probs and self.world_size > 1:
            raise ValueError("precompute_ref_log_probs works in one process: use --precompute_ref_log_probs false.")


class _Quiet(SafeTrainerMixin):
    """Trainer without TRL's model card and telemetry."""

    def create_model_card(self, *args, **kwargs):
        pass

    def _send_telemetry(self):
        pass


class SupervisedTrainer(_Quiet, ProcessCountInvariantTrainer, SFTTrainer):
    """TRL's SFTTrainer on examples that are encoded and packed already."""

    def compute_loss(self, model, inputs, *args, **kwargs):
        # After vectors that stand before the text its first token is predicted too, and Trainer does not count it.
        labels = inputs["labels"].clone()  # (B, T)
        labels[:, 0] = IGNORE_INDEX
        return super().compute_loss(model, {**inputs, "labels": labels}, *args, **kwargs)


class PreferenceTrainer(_Quiet, DPOTrainer):
    """TRL's DPOTrainer on examples that are encoded already."""

    def _prepare_dataset(self, dataset, *args, **kwargs):
        return dataset


class HeadTrainer(SafeTrainerMixin, ProcessCountInvariantTrainer):
    """Trainer of heads for classify, tag and qa; unlike stock losses, its loss does not depend on accumulation."""

    def __init__(self, model: PreTrainedModel, task: str, args: FinetuningArguments, **kwargs):
        args.label_names = ["labels"]
        self.task = task
        super().__init__(model=model, args=args, compute_loss_func=self.loss, **kwargs)
        self._loss_shifts_labels = False

    def compute_loss(self, model, inputs, *args, **kwargs):
        self.is_text = inputs["attention_mask"] != 0  # (B, T)
        return super().compute_loss(model, inputs, *args, **kwargs)

    def loss(self, outputs, labels: torch.Tensor, num_items_in_batch=None) -> torch.Tensor:
        """Return the mean loss of `labels`: (B) for classify, (B, T) for tag, (B, 2) for qa."""
        count = (labels != IGNORE_INDEX).sum() if num_items_in_batch is None else num_items_in_batch
        count = torch.as_tensor(count).clamp(min=1)  # 0 in a process that has no example left
        if self.task == "qa":
            # An answer is nowhere in the padding; otherwise the loss would depend on the other texts of the batch.
            starts, ends = (
                logits.masked_fill(~self.is_text, torch.finfo(logits.dtype).min)
                for logits in (outputs.start_logits, outputs.end_logits)
            )
            # A position behind the text costs nothing. A text has two labels.
            positions = labels.where(labels != IGNORE_INDEX, labels.new_tensor(self.is_text.shape[1]))
            return span_loss(starts, ends, positions[:, 0], positions[:, 1], count / 2)
        return fixed_cross_entropy(outputs.logits.float().flatten(0, -2), labels.flatten(), count, IGNORE_INDEX)

    def _eval_sums(self, model, batch):
        labels = batch.pop("labels")
        self.is_text, counted = batch["attention_mask"] != 0, labels != IGNORE_INDEX
        outputs = model(**batch)
        sums = {"loss": (self.loss(outputs, labels, num_items_in_batch=1), counted.sum())}
        if self.task != "qa":  # the share of labels that are right, of texts or of words
            sums["accuracy"] = (((outputs.logits.argmax(-1) == labels) & counted).sum(), counted.sum())
        return sums


ARGUMENTS = {"sft": SupervisedArguments, "lm": SupervisedArguments, "dpo": PreferenceArguments}


def arguments_of(task: str) -> type[FinetuningArguments]:
    """Return the class of a task's settings."""
    return ARGUMENTS.get(task, FinetuningArguments)


def loss_bytes(task: str, model, args: FinetuningArguments) -> Callable[[int], int]:
    """Return a function from a number of tokens to the bytes that the loss takes beside the model."""
    if task not in ARGUMENTS:
        return lambda tokens: 0
    config, on_gpu = model.config.get_text_config(), args.device.type == "cuda"
    # TRL folds the logits of some tokens and columns at a time: torch in eight steps with a copy each, its kernel in
    # place. Smoothing holds the logits, what is made of them, and the gradients.
    tile = trl_utils._CHUNKED_LOGPROB_CHUNK_SIZE if on_gpu else 8 * LOSS_COLUMNS
    smoothing = 4 * config.vocab_size if args.label_smoothing_factor else 0
    return lambda tokens: 4 * (min(tokens, LOSS_TOKENS) * tile + tokens * (config.hidden_size + smoothing))


def _reference(model, args: FinetuningArguments, rows: int) -> PreTrainedModel | None:
    """Return a copy of the model if each step needs its log probabilities: rows are seen once, by no adapter."""
    if args.precompute_ref_log_probs is None:
        passes = args.max_steps * args.global_batch_size / rows if args.max_steps > 0 else args.num_train_epochs
        args.precompute_ref_log_probs = passes > 1 and args.world_size == 1
    return None if args.precompute_ref_log_probs or hasattr(model, "peft_config") else copy.deepcopy(model)


def make_trainer(task: str, model, tokenizer, data: Examples, args: FinetuningArguments) -> SafeTrainerMixin:
    """Make the trainer of a task, for a model that has its adapter already."""
    datasets = {"train_dataset": data.train, "eval_dataset": data.validation, "data_collator": data.collator}
    common: dict[str, Any] = {"model": model, "args": args, "processing_class": tokenizer, **datasets}
    if args.device.type != "cuda":
        # Otherwise TRL holds eight tiles of 32,768 columns each, more than all that LoRA needs beside the weights.
        trl_utils._CHUNKED_LOGPROB_CHUNK_SIZE = LOSS_COLUMNS
    if task in ("sft", "lm"):
        packing, args.packing = args.packing, False  # it is done; otherwise TRL would want a collator of its own
        trainer = SupervisedTrainer(**common)
        args.packing = packing
        return trainer
    if task == "dpo":
        return PreferenceTrainer(ref_model=_reference(model, args, len(data.train)), **common)
    return HeadTrainer(task=task, **common)
