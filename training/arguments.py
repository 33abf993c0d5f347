"""The settings of a training run: ours, and all of transformers' `TrainingArguments` with defaults that suit us."""

from dataclasses import dataclass, field, fields
from enum import Enum

import torch
from transformers import TrainingArguments

from ..modeling.presets import PRESETS, SIZES


@dataclass
class CorpusArguments:
    """Where the text comes from."""

    corpus: str = field(
        default="python-manual",
        metadata={
            "help": "the text: python-manual, a file, a folder, a glob, JSONL, CSV or Parquet, "
            "or hub:NAME[:CONFIG] for a data set on the Hub"
        },
    )
    text_column: str = field(default="text", metadata={"help": "the column with the text, where there are columns"})
    streaming: bool = field(default=False, metadata={"help": "read while training; for text larger than the disk"})


@dataclass
class ModelArguments:
    """Which model is trained, and how it reads text."""

    tokenizer: str | None = field(
        default=None,
        metadata={"help": "a tokenizer's directory or Hub name, or 'char'; trained on the corpus if not given"},
    )
    vocab_size: int = field(default=4096, metadata={"help": "of the tokenizer that is trained"})
    preset: str = field(default="folio", metadata={"help": "the architecture", "choices": list(PRESETS)})
    size: str = field(
        default="nano", metadata={"help": "about 1M, 5M, 25M, 120M, 350M parameters", "choices": list(SIZES)}
    )
    block_size: int = field(default=256, metadata={"help": "tokens in a training example"})


@dataclass
class PretrainingArguments(TrainingArguments):
    """transformers' `TrainingArguments`, all of them, with defaults for training a small model from scratch."""

    output_dir: str | None = field(default="runs/pretrain", metadata={"help": "where the checkpoint is written"})
    minutes: float | None = field(
        default=None,
        metadata={"help": "train for about this long: a step is timed first, and max_steps follows from it"},
    )
    resume: bool = field(default=False, metadata={"help": "go on from the last checkpoint in output_dir"})
    overwrite: bool = field(default=False, metadata={"help": "replace the run that is in output_dir"})
    optim: str = field(default="muon", metadata={"help": "muon (Muon and AdamW), or one of transformers' names"})
    learning_rate: float | None = field(
        default=None, metadata={"help": "peak; 0.02 for muon and 0.001 for others if not given"}
    )
    adam_learning_rate: float = field(
        default=0.02, metadata={"help": "with muon: of embeddings, norms and biases, which AdamW trains"}
    )
    adam_beta2: float = 0.95
    weight_decay: float = 0.1
    per_device_train_batch_size: int = 16
    per_device_eval_batch_size: int = 16
    num_train_epochs: float = 4.0  # repeated text is worth nearly as much as new up to here (Muennighoff et al., 2023)
    lr_scheduler_type: str = "warmup_stable_decay"
    warmup_steps: float = 0.02
    decay_steps: float = field(
        default=0.6,
        metadata={"help": "with warmup_stable_decay: steps of the decay, or their share if below 1"},
    )
    bf16: bool | None = field(
        default=None,
        metadata={
            "help": "train in bfloat16 (true, false); on CPU whatever is faster if not given",
            "nargs": "?",
            "const": True,
        },
    )
    eval_strategy: str = "steps"
    eval_steps: float | None = 0.2
    save_steps: float = 0.2
    logging_steps: float = 10
    logging_first_step: bool = True
    save_total_limit: int | None = 2
    report_to: str = "none"
    prediction_loss_only: bool = True
    remove_unused_columns: bool = False
    disable_tqdm: bool | None = True  # our own progress bar shows tokens a second as well
    dataloader_pin_memory: bool = torch.cuda.is_available()

    def __post_init__(self):
        use_muon = self.optim == "muon"
        if self.learning_rate is None:
            self.learning_rate = 0.02 if use_muon else 1e-3
        if self.learning_rate < 0 or not self.learning_rate < 1e3:
            raise ValueError(f"learning_rate is {self.learning_rate}: give a number from 0 to 1000.")
        if self.minutes is not None and not 0 < self.minutes < 1e6:
            raise ValueError(f"minutes is {self.minutes}: give a number above 0.")
        for name in ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: give at least 1.")
        for name in ("logging_steps", "eval_steps", "save_steps"):
            if getattr(self, name) is not None and getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}: give a number of steps, or a share below 1.")
        if not torch.accelerator.is_available():
            self.use_cpu = True  # otherwise bf16 is refused
        if use_muon:
            self.optim = "adamw_torch"  # while the base class checks the name
        super().__post_init__()
        if use_muon:
            self.optim = "muon"

    @property
    def use_muon(self) -> bool:
        """Whether matrices are trained by Muon."""
        return self.optim == "muon"

    def set_bf16(self, bf16: bool) -> None:
        """Decide about bfloat16 after construction, when both have been timed."""
        self.bf16 = bf16
        self.mixed_precision = "bf16" if bf16 else "no"


def changed_settings(*arguments) -> dict:
    """The fields that differ from the defaults, as plain values: what `--config` needs to repeat the run."""
    changed = {}
    for group in arguments:
        plain = type(group)(output_dir=group.output_dir) if isinstance(group, TrainingArguments) else type(group)()
        for f in fields(group):
            value = getattr(group, f.name)
            if f.init and value != getattr(plain, f.name) and f.name not in ("resume", "overwrite"):
                changed[f.name] = _plain(value)
        if isinstance(group, TrainingArguments):
            changed["output_dir"] = group.output_dir
    return changed


def _plain(value):
    """Enums as their values, also in lists."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.value if isinstance(value, Enum) else value
