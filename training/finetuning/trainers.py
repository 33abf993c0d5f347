"""The trainers of fine-tuning: TRL's for text, Trainer for heads; each with what makes training safe."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import torch
from torch import nn
from transformers import PreTrainedModel

from ...data.examples import Examples
from ...data.packing import IGNORE_INDEX
from ...jobs.extras import extra
from ...jobs.options import switch
from ...modeling.loss import classification_loss, span_loss
from ..parallel_trainer import WholeBatches
from ..trainer import SafeTraining
from .arguments import FinetuningArguments

with extra("finetune", "Fine-tuning"):
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer
    from trl.trainer import utils as trl_utils

LOSS_COLUMNS = 4096  # of the vocabulary at a time, where TRL has no GPU kernel for its loss
LOSS_TOKENS = 4096  # whose loss TRL computes at once
Kind = TypeVar("Kind")


def fixed(**values: Any) -> Callable[[type[Kind]], type[Kind]]:
    """Give a dataclass fields that are no flags: what they would change is done before, in data/examples.py."""

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
        "take the reference's figures of all rows before the first step, not at each step; true if the run "
        "sees each row more than once, in one process"
    )

    def __post_init__(self):
        super().__post_init__()
        if self.precompute_ref_log_probs and self.world_size > 1:
            raise ValueError("precompute_ref_log_probs works in one process: use --precompute_ref_log_probs false.")


class _Quiet(SafeTraining):
    """What TRL would do on the side is left out: the card is ours, and nobody is told of the run."""

    def create_model_card(self, *args, **kwargs):
        pass

    def _send_telemetry(self):
        pass


class SupervisedTrainer(_Quiet, WholeBatches, SFTTrainer):
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


class HeadTrainer(SafeTraining, WholeBatches):
    """Trainer for heads: texts' labels, words' labels, answers. The loss is ours, for stock models too.

    It is divided by the number of labels in the whole accumulated batch, which stock classifiers do not.
    """

    def __init__(self, model: PreTrainedModel, task: str, args: FinetuningArguments, **kwargs):
        args.label_names = ["labels"]
        self.task, self.head_config = task, model.config
        super().__init__(model=model, args=args, compute_loss_func=self.loss, **kwargs)
        self._loss_shifts_labels = False

    def compute_loss(self, model, inputs, *args, **kwargs):
        self.is_text = inputs["attention_mask"] != 0  # (B, T)
        return super().compute_loss(model, inputs, *args, **kwargs)

    def loss(self, outputs, labels: torch.Tensor, num_items_in_batch=None) -> torch.Tensor:
        """Mean loss of `labels`: (B) or (B, num_labels) for classify, (B, T) for tag, (B, 2) for qa."""
        if self._counts_for_nothing(labels):
            return sum((logits * 0).sum() for logits in outputs.to_tuple() if logits.is_floating_point())
        if self.task == "classify":
            return classification_loss(outputs.logits, labels, self.head_config, num_items_in_batch)
        if self.task == "qa":
            texts = None if num_items_in_batch is None else num_items_in_batch / 2  # each has two labels
            # An answer is nowhere in the padding; else the loss would depend on what a text is batched with.
            starts, ends = (
                logits.masked_fill(~self.is_text, torch.finfo(logits.dtype).min)
                for logits in (outputs.start_logits, outputs.end_logits)
            )
            return span_loss(starts, ends, labels[:, 0], labels[:, 1], texts)
        total = nn.functional.cross_entropy(
            outputs.logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORE_INDEX, reduction="sum"
        )
        return total / ((labels != IGNORE_INDEX).sum() if num_items_in_batch is None else num_items_in_batch)

    def _counts_for_nothing(self, labels: torch.Tensor) -> bool:
        """Whether this is what a process is dealt for which nothing is left of a batch."""
        return self.args.world_size > 1 and bool((labels == IGNORE_INDEX).all())

    def _judge(self, model, batch):
        labels = batch.pop("labels")
        self.is_text = batch["attention_mask"] != 0
        outputs = model(**batch)
        # A number to be learnt may be what ignored labels are written as.
        counted = labels != IGNORE_INDEX if self.task == "tag" or self._counts_for_nothing(labels) else labels == labels
        figures = {"loss": (self.loss(outputs, labels, num_items_in_batch=1), counted.sum())}
        if self.task == "tag" or self.head_config.problem_type == "single_label_classification":
            # The share of labels that are right, of texts or of words.
            figures["accuracy"] = (((outputs.logits.argmax(-1) == labels) & counted).sum(), counted.sum())
        return figures


ARGUMENTS = {"sft": SupervisedArguments, "lm": SupervisedArguments, "dpo": PreferenceArguments}


def arguments_of(task: str) -> type[FinetuningArguments]:
    """The class of a task's settings."""
    return ARGUMENTS.get(task, FinetuningArguments)


def loss_bytes(task: str, model, args: FinetuningArguments) -> Callable[[int], int]:
    """The bytes that a trainer's loss takes beside the model for so many tokens."""
    if task not in ARGUMENTS:
        return lambda tokens: 0
    config, on_gpu = model.config.get_text_config(), args.device.type == "cuda"
    # TRL folds the logits of some tokens and columns at a time: torch in eight steps with a copy each, its kernel in
    # place. Smoothing holds the logits, what is made of them, and the gradients.
    tile = trl_utils._CHUNKED_LOGPROB_CHUNK_SIZE if on_gpu else 8 * LOSS_COLUMNS
    smoothing = 4 * config.vocab_size if args.label_smoothing_factor else 0
    return lambda tokens: 4 * (min(tokens, LOSS_TOKENS) * tile + tokens * (config.hidden_size + smoothing))


def _reference(model, args: FinetuningArguments, rows: int) -> PreTrainedModel | None:
    """The model before training, if a copy is needed: an adapter is switched off instead.

    Its figures are computed once for each row that is trained on, so beforehand only if rows are seen again.
    """
    if args.precompute_ref_log_probs is None:
        passes = args.max_steps * args.global_batch_size / rows if args.max_steps > 0 else args.num_train_epochs
        args.precompute_ref_log_probs = passes > 1 and args.world_size == 1
    return None if args.precompute_ref_log_probs or hasattr(model, "peft_config") else copy.deepcopy(model)


def make_trainer(
    task: str, model, tokenizer, data: Examples, args: FinetuningArguments, callbacks: list
) -> SafeTraining:
    """The trainer of a task, for a model that has its adapter already."""
    common: dict[str, Any] = {
        "model": model,
        "args": args,
        "train_dataset": data.train,
        "eval_dataset": data.validation,
        "data_collator": data.collator,
        "processing_class": tokenizer,
        "callbacks": callbacks,
    }
    if args.device.type != "cuda":
        # Else TRL holds eight tiles of 32,768 columns each, more than all that LoRA needs beside the weights.
        trl_utils._CHUNKED_LOGPROB_CHUNK_SIZE = LOSS_COLUMNS
    if task in ("sft", "lm"):
        packing, args.packing = args.packing, False  # it is done; else TRL would want a collator of its own
        trainer = SupervisedTrainer(**common)
        args.packing = packing
        return trainer
    if task == "dpo":
        return PreferenceTrainer(ref_model=_reference(model, args, len(data.train)), **common)
    return HeadTrainer(task=task, **common)
