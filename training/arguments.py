"""The settings of a training run: ours, and all of transformers' `TrainingArguments` with defaults that suit us."""

import glob
import json
import math
import os
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import torch
from transformers import TrainingArguments
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK, get_available_reporting_integrations

from ..jobs.options import check_ranges, option, switch
from ..jobs.processes import connect
from ..modeling.presets import PRESETS, SIZES
from .config_fields import FIELDS, read_fields, with_config_fields

# The arguments that are no property of the run; what it is spread over may change on the way.
UNSAVED_ARGUMENTS = ("output_dir", "resume", "overwrite", "hub_token", "fsdp", "fsdp_config")
PLACES = {"corpus", "tokenizer", "data", "validation_data", "model", "model_config", "init_from"}  # may be paths
# The embeddings of wide models want smaller steps (Yang et al., 2022); at a width of 256 they do not yet.
ADAM_LEARNING_RATE, ADAM_LR_REFERENCE_WIDTH = 0.02, 256
CONTINUED_SHARE = 0.1  # of the learning rates, with --init_from
BLOCK_SIZE = 256
TRACKERS = ("tensorboard", "trackio", "wandb")  # for which there are extras


@with_config_fields()
@dataclass
class ModelArguments:
    """The model that is trained, and its tokenizer."""

    _argument_group_name = "the model"

    tokenizer: str | None = option(None, "directory or Hub name of a tokenizer, or 'char' (default: train one)")
    vocab_size: int = option(4096, "vocabulary size of the new tokenizer")
    preset: str | None = option(None, "architecture of the model (default: folio)", choices=list(PRESETS))
    size: str | None = option(None, "1.3M, 5.5M, 26M, 114M or 330M parameters (default: nano)", choices=list(SIZES))
    block_size: int | None = option(None, "tokens in a training example (default: 256, or the context of init_from)")
    model_config: str | None = option(None, "instead of a preset: a config.json, directory or hub:NAME of transformers")
    init_from: str | None = option(None, "continue from the weights and the tokenizer of this directory or hub:NAME")
    trust_remote_code: bool = option(False, "allow Python code from model_config or init_from to run")
    attn_implementation: str | None = option(None, "eager, sdpa, flex_attention or varlen (default: the fastest here)")

    def __post_init__(self):
        read_fields(self)
        given = [name for name in ("model_config", "init_from", "preset", "size") if getattr(self, name) is not None]
        if len(given) > 1 and given[0] != "preset":
            raise ValueError(f"--{given[0]} and --{given[1]} both set the model: choose one.")
        if not given or given[0] in ("preset", "size"):
            self.preset, self.size = self.preset or "folio", self.size or "nano"
        else:  # a name as transformers takes it
            setattr(self, given[0], os.path.expanduser(getattr(self, given[0]).removeprefix("hub:")))
        if self.init_from is None:
            self.block_size = self.block_size or BLOCK_SIZE


@dataclass
class RunArguments(TrainingArguments):
    """transformers' `TrainingArguments`, all of them, with the defaults that all of our training runs share."""

    _argument_group_name = "the training"
    IMMUTABLE_ON_RESUME: ClassVar[tuple[str, ...]] = ()
    IMMUTABLE_FOR_STREAMS: ClassVar[tuple[str, ...]] = ()
    RANGES: ClassVar[dict[str, tuple[float, float]]] = dict.fromkeys(  # setting: (least, limit)
        ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"), (1, math.inf)
    )
    ABOVE_ZERO: ClassVar = ("learning_rate", "num_train_epochs", "logging_steps", "eval_steps", "save_steps")

    resume: bool = option(False, "continue from the last checkpoint in output_dir")
    overwrite: bool = option(False, "replace the run that is in output_dir")
    eval_strategy: str = "steps"
    eval_steps: float | None = 0.2
    save_steps: float = 0.2
    logging_steps: float = 10
    logging_first_step: bool = True
    save_total_limit: int | None = 2
    report_to: list[str] = field(default_factory=lambda: ["none"], metadata={"help": "trackers, such as tensorboard"})
    include_num_input_tokens_seen: str = "all"  # for speeds
    remove_unused_columns: bool = False
    disable_tqdm: bool | None = True  # our own progress bar shows tokens per second as well
    dataloader_pin_memory: bool = torch.cuda.is_available()

    def __post_init__(self):
        check_ranges(self, self.RANGES, self.ABOVE_ZERO)
        if self.resume_from_checkpoint is not None:
            raise ValueError("Instead of resume_from_checkpoint give --resume: it finds the last complete checkpoint.")
        if self.enable_jit_checkpoint:
            raise ValueError("Leave enable_jit_checkpoint out: a SIGTERM saves a checkpoint by itself.")
        if not torch.accelerator.is_available():
            self.use_cpu = True  # otherwise transformers rejects bf16
        if self.use_cpu:
            connect(self.ddp_backend or "gloo", self.ddp_timeout)
        super().__post_init__()
        for name in set(self.report_to) - {*get_available_reporting_integrations(), "flyte"}:  # which is never in it
            if name not in INTEGRATION_TO_CALLBACK:
                known = ", ".join(INTEGRATION_TO_CALLBACK)
                raise ValueError(f"report_to names {name!r}: choose of none, all, {known}.")
            package = f"'foliogpt[{name}]'" if name in TRACKERS else name
            raise ImportError(f"--report_to {name} needs a package that is not installed: pip install {package}.")
        if self.world_size > 1 and self.auto_find_batch_size:  # in the process alone that ran out of memory
            instead = "set --per_device_train_batch_size and --gradient_accumulation_steps"
            raise ValueError(f"auto_find_batch_size works in one process: {instead}.")

    @property
    def global_batch_size(self) -> int:
        """Rows per step of the optimizer, of all processes together."""
        return self.train_batch_size * self.gradient_accumulation_steps * self.world_size


@dataclass
class PretrainingArguments(RunArguments):
    """transformers' `TrainingArguments`, all of them, with defaults for training a small model from scratch."""

    # Otherwise the weights would not fit, the data would be another, the loss would mean something else, or the
    # restored state of the optimizer or the schedule would quietly win.
    IMMUTABLE_ON_RESUME: ClassVar = (
        "corpus_weights", "text_column", "streaming", "shuffle_buffer_size", "tokenizer", "vocab_size", "preset",
        "size", "block_size", "model_config", "init_from", "dropout", *FIELDS, "seed", "data_seed",
        "dataloader_drop_last", "train_sampling_strategy", "optim", "optim_args", "learning_rate",
        "adam_learning_rate", "muon_momentum", "adam_beta1", "adam_beta2", "adam_epsilon", "weight_decay",
        "lr_scheduler_type", "warmup_steps", "label_smoothing_factor", "z_loss",
    )  # fmt: skip
    IMMUTABLE_FOR_STREAMS: ClassVar = ("dataloader_num_workers",)  # each reads files of its own
    RANGES: ClassVar = {
        **RunArguments.RANGES,
        **dict.fromkeys(("learning_rate", "adam_learning_rate"), (0, 100)),
        **dict.fromkeys(("muon_momentum", "adam_beta1", "adam_beta2", "label_smoothing_factor"), (0, 1)),
        **dict.fromkeys(("weight_decay", "z_loss"), (0, 1000)),
        **dict.fromkeys(("warmup_steps", "decay_steps", "max_grad_norm"), (0, math.inf)),
        "ddp_timeout": (1, math.inf),
    }
    ABOVE_ZERO: ClassVar = (*RunArguments.ABOVE_ZERO, "adam_learning_rate", "minutes")

    output_dir: str | None = option("runs/pretrain", "folder of the checkpoint")
    minutes: float | None = option(None, "minutes of training; a step is timed first, and max_steps follows from it")
    optim: str = option("muon", "the optimizer: muon (Muon and AdamW), or one of transformers' names")
    learning_rate: float | None = option(None, "highest rate (default: 0.02 with muon, else 0.001; init_from: a tenth)")
    adam_learning_rate: float | None = option(
        None, "with muon, AdamW's rate for embeddings, norms and biases (default: 0.02, or 0.02 * 256/width if wider)"
    )
    muon_momentum: float = option(0.95, "momentum of muon; 0.9 is better for runs of some hundred steps")
    adam_beta2: float = 0.95
    weight_decay: float = 0.1
    z_loss: float = option(0.0, "weight of the squared log of the softmax's denominator, for instance 1e-4")
    per_device_train_batch_size: int = 16
    per_device_eval_batch_size: int = 16
    num_train_epochs: float = 4.0  # repeated text is worth nearly as much as new up to here (Muennighoff et al., 2023)
    lr_scheduler_type: str = "warmup_stable_decay"
    warmup_steps: float = 0.02
    decay_steps: float = option(0.6, "steps of the decay of warmup_stable_decay, or their share if below 1")
    bf16: bool | None = switch("train in bfloat16 (true, false); if not given, a CPU takes what is faster")
    torch_compile: bool | None = switch("compile the model; if not given, on a GPU if the run is long enough to pay")
    sample_prompt: str | None = option(None, "text that samples begin with (default: words of the held-out text)")
    prediction_loss_only: bool = True
    ddp_find_unused_parameters: bool | None = False  # there are none, and looking for them takes time
    ddp_broadcast_buffers: bool | None = False  # they never change

    def __post_init__(self):
        optim = self.optim
        self.has_default_rate = self.learning_rate is None
        if self.learning_rate is None:
            self.learning_rate = 0.02 if self.use_muon else 1e-3
        if self.z_loss and self.label_smoothing_factor:
            raise ValueError("z_loss and label_smoothing_factor are both given: choose one of them.")
        if self.metric_for_best_model not in (None, "loss", "eval_loss"):
            raise ValueError(f"metric_for_best_model is {self.metric_for_best_model!r}: 'loss' is the only one.")
        if self.use_muon:
            self.optim = "adamw_torch"  # while the base class checks the name
        super().__post_init__()
        self.optim = optim
        if self.fsdp and self.world_size == 1:
            raise ValueError(
                "fsdp shards the weights over several processes, and this is one: start it with torchrun "
                "--nproc_per_node N -m foliogpt.scripts.cli, or leave it out."
            )
        if self.z_loss and self.fsdp:  # only the chunked loss has it
            raise ValueError("z_loss does not work with --fsdp: leave it out.")
        if self.fsdp and self.fsdp_config.get("state_dict_type", "FULL_STATE_DICT") != "FULL_STATE_DICT":
            raise ValueError("fsdp_config has a state_dict_type: leave it out, as checkpoints are always complete.")
        if self.world_size > 1 and self.accelerator_config.dispatch_batches is None:
            # Each process reads a stream by itself: blocks of several lengths could not be sent as one batch.
            self.accelerator_config.dispatch_batches = False

    @property
    def use_muon(self) -> bool:
        """True if Muon trains the matrices."""
        return self.optim == "muon"

    def set_default_learning_rates(self, hidden_size: int, is_trained: bool) -> None:
        """Set the learning rates that are not given; weights that are trained already need smaller ones."""
        share = CONTINUED_SHARE if is_trained else 1
        if self.has_default_rate:
            self.learning_rate, self.has_default_rate = self.learning_rate * share, False
        if self.adam_learning_rate is None:
            self.adam_learning_rate = share * ADAM_LEARNING_RATE * min(1, ADAM_LR_REFERENCE_WIDTH / hidden_size)

    def set_bf16(self, bf16: bool) -> None:
        """Set bfloat16 after construction, when both precisions have been timed."""
        self.bf16 = bf16
        self.mixed_precision = "bf16" if bf16 else "no"


def run_settings(data: Any, model: Any, args: RunArguments) -> dict:
    """Return all settings of ours, and those of transformers' that were changed, as plain values for `--config`."""
    settings = {**vars(data), **vars(model)}
    for name in PLACES & settings.keys():
        value = settings[name]
        settings[name] = list(map(absolute_if_path, value)) if isinstance(value, list) else absolute_if_path(value)
    ours = [kind.__annotations__ for kind in type(args).__mro__ if RunArguments in (kind, *kind.__bases__)]
    always = {*args.IMMUTABLE_ON_RESUME, *args.IMMUTABLE_FOR_STREAMS}.union(*ours)
    default = type(args)(output_dir=args.output_dir)
    for name in [f.name for f in fields(args) if f.init and f.name not in UNSAVED_ARGUMENTS]:
        value = getattr(args, name)
        if name in always or value != getattr(default, name):
            settings[name] = value
    return json.loads(json.dumps(settings, default=lambda value: value.to_dict()))  # enums become their values


def absolute_if_path(name: str | None) -> str | None:
    """Return a path or pattern of files as seen from every working directory, other names as they are."""
    if name is None or name == "char" or not (os.path.exists(os.path.expanduser(name)) or glob.has_magic(name)):
        return name
    return os.path.abspath(os.path.expanduser(name))
