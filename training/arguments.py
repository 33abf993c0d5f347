"""The settings of a training run: ours, and all of transformers' `TrainingArguments` with defaults that suit us."""

import glob
import math
import os
from dataclasses import dataclass, field, fields
from enum import Enum

import torch
from transformers import TrainingArguments

from ..data.arguments import CorpusArguments
from ..jobs.processes import connect
from ..modeling.presets import PRESETS, SIZES

# The arguments that are no property of the run; what it is spread over may change on the way.
OF_ONE_CALL = ("output_dir", "resume", "overwrite", "hub_token", "fsdp", "fsdp_config")
# What a resumed run may not change: the weights would not fit, the data would be another, the loss would mean something
# else, or the restored state of the optimizer or the schedule would quietly win.
FIXED = (
    "corpus_weights",
    "text_column",
    "streaming",
    "shuffle_buffer_size",
    "tokenizer",
    "vocab_size",
    "preset",
    "size",
    "block_size",
    "seed",
    "data_seed",
    "dataloader_drop_last",
    "train_sampling_strategy",
    "optim",
    "optim_args",
    "learning_rate",
    "adam_learning_rate",
    "muon_momentum",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "weight_decay",
    "lr_scheduler_type",
    "warmup_steps",
    "label_smoothing_factor",
    "z_loss",
)
FIXED_FOR_STREAMS = ("dataloader_num_workers",)  # each reads files of its own
# The embeddings of wide models want smaller steps (Yang et al., 2022); at a width of 256 they do not yet.
ADAM_LEARNING_RATE, NARROW = 0.02, 256
RANGES = {  # setting: (least, below)
    "learning_rate": (0, 100),
    "adam_learning_rate": (0, 100),
    "muon_momentum": (0, 1),
    "adam_beta1": (0, 1),
    "adam_beta2": (0, 1),
    "weight_decay": (0, 1000),
    "z_loss": (0, 1000),
    "warmup_steps": (0, math.inf),
    "decay_steps": (0, math.inf),
    "max_grad_norm": (0, math.inf),
    "label_smoothing_factor": (0, 1),
    "per_device_train_batch_size": (1, math.inf),
    "per_device_eval_batch_size": (1, math.inf),
    "gradient_accumulation_steps": (1, math.inf),
    "ddp_timeout": (1, math.inf),
}
ABOVE_ZERO = (
    "learning_rate",
    "adam_learning_rate",
    "minutes",
    "num_train_epochs",
    "logging_steps",
    "eval_steps",
    "save_steps",
)


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
    adam_learning_rate: float | None = field(
        default=None,
        metadata={
            "help": "with muon: of embeddings, norms and biases, which AdamW trains; 0.02 if not given, and in models "
            "wider than 256 less, in inverse proportion to the width"
        },
    )
    muon_momentum: float = field(
        default=0.95,
        metadata={"help": "with muon: of its gradients; runs of some hundred steps want less, such as 0.9"},
    )
    adam_beta2: float = 0.95
    weight_decay: float = 0.1
    z_loss: float = field(
        default=0.0, metadata={"help": "weight of the squared log of the softmax's denominator, for instance 1e-4"}
    )
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
    report_to: list[str] = field(default_factory=lambda: ["none"], metadata={"help": "trackers, as in transformers"})
    prediction_loss_only: bool = True
    include_num_input_tokens_seen: str = "all"  # what speeds are counted in
    remove_unused_columns: bool = False
    disable_tqdm: bool | None = True  # our own progress bar shows tokens a second as well
    ddp_find_unused_parameters: bool | None = False  # there are none, and looking for them takes time
    ddp_broadcast_buffers: bool | None = False  # they never change
    dataloader_pin_memory: bool = torch.cuda.is_available()

    def __post_init__(self):
        use_muon = self.optim == "muon"
        if self.learning_rate is None:
            self.learning_rate = 0.02 if use_muon else 1e-3
        for name, (least, below) in RANGES.items():
            value = getattr(self, name)
            if value is not None and not least <= value < below:
                upper = "" if below == math.inf else f", and less than {below}"
                raise ValueError(f"{name} is {value}: give at least {least}{upper}.")
        for name in ABOVE_ZERO:
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} is {value}: give a number above 0.")
        if self.z_loss and self.label_smoothing_factor:
            raise ValueError("z_loss and label_smoothing_factor are both given: choose one of them.")
        if self.metric_for_best_model not in (None, "loss", "eval_loss"):
            raise ValueError(f"metric_for_best_model is {self.metric_for_best_model!r}: the one there is is 'loss'.")
        begin(self)
        if use_muon:
            self.optim = "adamw_torch"  # while the base class checks the name
        super().__post_init__()
        if use_muon:
            self.optim = "muon"
        self._check_processes()

    def _check_processes(self) -> None:
        """Refuse what needs more processes than there are."""
        if self.fsdp and self.world_size == 1:
            raise ValueError(
                "fsdp spreads the weights over several processes, and this is one: start it with torchrun "
                "--nproc_per_node N -m foliogpt.scripts.cli, or leave it out."
            )
        if self.z_loss and self.fsdp:  # only the chunked loss has it
            raise ValueError("z_loss does not work with weights that are spread over processes: leave it out.")
        check_batch_size_is_known(self)
        if self.fsdp and self.fsdp_config.get("state_dict_type", "FULL_STATE_DICT") != "FULL_STATE_DICT":
            raise ValueError("fsdp_config has a state_dict_type: leave it out, as checkpoints are always whole.")
        if self.world_size > 1 and self.accelerator_config.dispatch_batches is None:
            # Each process reads a stream by itself: blocks of several lengths could not be sent as one batch.
            self.accelerator_config.dispatch_batches = False

    @property
    def global_batch_size(self) -> int:
        """Blocks in a step of the optimizer, of all processes together."""
        return self.train_batch_size * self.gradient_accumulation_steps * self.world_size

    @property
    def use_muon(self) -> bool:
        """Whether matrices are trained by Muon."""
        return self.optim == "muon"

    def settle_adam_learning_rate(self, hidden_size: int) -> None:
        """Decide about AdamW's rate, if it was left open, when the width of the model is known."""
        if self.adam_learning_rate is None:
            self.adam_learning_rate = ADAM_LEARNING_RATE * min(1, NARROW / hidden_size)

    def set_bf16(self, bf16: bool) -> None:
        """Decide about bfloat16 after construction, when both have been timed."""
        self.bf16 = bf16
        self.mixed_precision = "bf16" if bf16 else "no"


def run_settings(corpus: CorpusArguments, model: ModelArguments, args: PretrainingArguments) -> dict:
    """What `--config` needs to repeat the run, as plain values, also with a version that has other defaults.

    That is every setting of ours, and of transformers' those that were changed.
    """
    default = PretrainingArguments(output_dir=args.output_dir)
    settings = {**vars(corpus), **vars(model)}
    settings["corpus"] = [from_anywhere(name) for name in settings["corpus"]]
    settings["tokenizer"] = from_anywhere(settings["tokenizer"])
    settings |= chosen(args, default, {*PretrainingArguments.__annotations__, *FIXED, *FIXED_FOR_STREAMS})
    return {name: plain(value) for name, value in settings.items()}


def chosen(args: TrainingArguments, default: TrainingArguments, always: set[str]) -> dict:
    """The settings of a run that are not the `default`, and those that are `always` named."""
    values = {f.name: getattr(args, f.name) for f in fields(args) if f.init and f.name not in OF_ONE_CALL}
    return {name: value for name, value in values.items() if name in always or value != getattr(default, name)}


def begin(args: TrainingArguments) -> None:
    """What has to be before transformers looks at the settings of any run of ours.

    Raises:
        ValueError: for what transformers offers, and we do in another way.
        RuntimeError: if not all processes have come in time.
    """
    if args.max_steps < 1 and args.max_steps != -1:
        raise ValueError(f"max_steps is {args.max_steps}: give at least 1, or leave it out.")
    if args.resume_from_checkpoint is not None:
        raise ValueError("Instead of resume_from_checkpoint give --resume: it finds the last whole checkpoint.")
    if args.enable_jit_checkpoint:
        raise ValueError("Leave enable_jit_checkpoint out: a SIGTERM saves a checkpoint by itself.")
    if not torch.accelerator.is_available():
        args.use_cpu = True  # otherwise bf16 is refused
    if args.use_cpu:
        connect(args.ddp_backend or "gloo", args.ddp_timeout)


def check_batch_size_is_known(args: TrainingArguments) -> None:
    """Raises ValueError where Trainer would look for one in the process alone that ran out of memory."""
    if args.world_size > 1 and args.auto_find_batch_size:
        raise ValueError(
            "auto_find_batch_size works in one process: say --per_device_train_batch_size and "
            "--gradient_accumulation_steps."
        )


def from_anywhere(name: str | None) -> str | None:
    """A path or pattern of files as seen from every working directory; other names as they are."""
    if name is None or name == "char" or not (os.path.exists(os.path.expanduser(name)) or glob.has_magic(name)):
        return name
    return os.path.abspath(os.path.expanduser(name))


def plain(value):
    """Enums as their values, also in lists, and objects as dictionaries."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    if hasattr(value, "to_dict"):
        return value.to_dict()
    return value.value if isinstance(value, Enum) else value
