"""The settings of a training run: ours, and all of transformers' `TrainingArguments` with defaults that suit us."""

import glob
import math
import os
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any, ClassVar

import torch
from transformers import TrainingArguments
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK, get_available_reporting_integrations

from ..jobs.options import option, switch
from ..jobs.processes import connect
from ..modeling.presets import PRESETS, SIZES
from .config_fields import FIELDS, read_fields, with_config_fields

# The arguments that are no property of the run; what it is spread over may change on the way.
OF_ONE_CALL = ("output_dir", "resume", "overwrite", "hub_token", "fsdp", "fsdp_config")
PLACES = {"corpus", "tokenizer", "data", "validation_data", "model", "model_config", "init_from"}  # may be paths
# The embeddings of wide models want smaller steps (Yang et al., 2022); at a width of 256 they do not yet.
ADAM_LEARNING_RATE, NARROW = 0.02, 256
CONTINUED = 0.1  # of the rates, with --init_from
BLOCK_SIZE = 256
TRACKERS = ("tensorboard", "trackio", "wandb")  # for which there are extras


@with_config_fields()
@dataclass
class ModelArguments:
    """Which model is trained, and how it reads text."""

    _argument_group_name = "the model"

    tokenizer: str | None = option(
        None, "a tokenizer's directory or Hub name, or 'char'; trained on the corpus if not given"
    )
    vocab_size: int = option(4096, "vocabulary size of the new tokenizer")
    preset: str | None = option(None, "the architecture; folio if not given", choices=list(PRESETS))
    size: str | None = option(None, "about 1M, 5M, 25M, 120M, 350M parameters; nano if not given", choices=list(SIZES))
    block_size: int | None = option(None, "tokens in an example; if not given 256, or the context of init_from")
    model_config: str | None = option(None, "instead of a preset: a config.json, directory or hub:NAME of transformers")
    init_from: str | None = option(None, "go on from the weights and the tokenizer of this directory or hub:NAME")
    trust_remote_code: bool = option(False, "run the code in the folder of model_config or init_from")
    attn_implementation: str | None = option(
        None, "eager, sdpa, flex_attention or varlen; the fastest on this device if not given"
    )

    def __post_init__(self):
        read_fields(self)
        given = [name for name in ("model_config", "init_from", "preset", "size") if getattr(self, name) is not None]
        if len(given) > 1 and given[0] != "preset":
            raise ValueError(f"{given[0]} and {given[1]} are both given, and each says what the model is: choose one.")
        if not given or given[0] in ("preset", "size"):
            self.preset, self.size = self.preset or "folio", self.size or "nano"
        else:  # a name as transformers takes it
            setattr(self, given[0], os.path.expanduser(getattr(self, given[0]).removeprefix("hub:")))
        if self.init_from is None:
            self.block_size = self.block_size or BLOCK_SIZE


@dataclass
class RunArguments(TrainingArguments):
    """transformers' `TrainingArguments`, all of them, with what every training run of ours has in common."""

    _argument_group_name = "the training"
    FIXED: ClassVar[tuple[str, ...]] = ()  # what a resumed run may not change
    FIXED_FOR_STREAMS: ClassVar[tuple[str, ...]] = ()
    RANGES: ClassVar[dict[str, tuple[float, float]]] = {  # setting: (least, below)
        "per_device_train_batch_size": (1, math.inf),
        "per_device_eval_batch_size": (1, math.inf),
        "gradient_accumulation_steps": (1, math.inf),
    }
    ABOVE_ZERO: ClassVar = ("learning_rate", "num_train_epochs", "logging_steps", "eval_steps", "save_steps")

    resume: bool = option(False, "go on from the last checkpoint in output_dir")
    overwrite: bool = option(False, "replace the run that is in output_dir")
    eval_strategy: str = "steps"
    eval_steps: float | None = 0.2
    save_steps: float = 0.2
    logging_steps: float = 10
    logging_first_step: bool = True
    save_total_limit: int | None = 2
    report_to: list[str] = field(default_factory=lambda: ["none"], metadata={"help": "trackers, such as tensorboard"})
    include_num_input_tokens_seen: str = "all"  # what speeds are counted in
    remove_unused_columns: bool = False
    disable_tqdm: bool | None = True  # our own progress bar shows tokens a second as well
    dataloader_pin_memory: bool = torch.cuda.is_available()

    def __post_init__(self):
        for name, (least, below) in self.RANGES.items():
            value = getattr(self, name)
            if value is not None and not least <= value < below:
                upper = "" if below == math.inf else f", and less than {below}"
                raise ValueError(f"{name} is {value}: give at least {least}{upper}.")
        for name in self.ABOVE_ZERO:
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} is {value}: give a number above 0.")
        if self.max_steps < 1 and self.max_steps != -1:
            raise ValueError(f"max_steps is {self.max_steps}: give at least 1, or leave it out.")
        if self.resume_from_checkpoint is not None:
            raise ValueError("Instead of resume_from_checkpoint give --resume: it finds the last whole checkpoint.")
        if self.enable_jit_checkpoint:
            raise ValueError("Leave enable_jit_checkpoint out: a SIGTERM saves a checkpoint by itself.")
        if not torch.accelerator.is_available():
            self.use_cpu = True  # otherwise bf16 is refused
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
            raise ValueError(
                "auto_find_batch_size works in one process: say --per_device_train_batch_size and "
                "--gradient_accumulation_steps."
            )

    @property
    def global_batch_size(self) -> int:
        """Rows in a step of the optimizer, of all processes together."""
        return self.train_batch_size * self.gradient_accumulation_steps * self.world_size


@dataclass
class PretrainingArguments(RunArguments):
    """transformers' `TrainingArguments`, all of them, with defaults for training a small model from scratch."""

    # Otherwise the weights would not fit, the data would be another, the loss would mean something else, or the
    # restored state of the optimizer or the schedule would quietly win.
    FIXED: ClassVar = (
        "corpus_weights", "text_column", "streaming", "shuffle_buffer_size", "tokenizer", "vocab_size", "preset",
        "size", "block_size", "model_config", "init_from", "dropout", *FIELDS, "seed", "data_seed",
        "dataloader_drop_last", "train_sampling_strategy", "optim", "optim_args", "learning_rate",
        "adam_learning_rate", "muon_momentum", "adam_beta1", "adam_beta2", "adam_epsilon", "weight_decay",
        "lr_scheduler_type", "warmup_steps", "label_smoothing_factor", "z_loss",
    )  # fmt: skip
    FIXED_FOR_STREAMS: ClassVar = ("dataloader_num_workers",)  # each reads files of its own
    RANGES: ClassVar = {
        **RunArguments.RANGES,
        **dict.fromkeys(("learning_rate", "adam_learning_rate"), (0, 100)),
        **dict.fromkeys(("muon_momentum", "adam_beta1", "adam_beta2", "label_smoothing_factor"), (0, 1)),
        **dict.fromkeys(("weight_decay", "z_loss"), (0, 1000)),
        **dict.fromkeys(("warmup_steps", "decay_steps", "max_grad_norm"), (0, math.inf)),
        "ddp_timeout": (1, math.inf),
    }
    ABOVE_ZERO: ClassVar = (*RunArguments.ABOVE_ZERO, "adam_learning_rate", "minutes")

    output_dir: str | None = option("runs/pretrain", "where the checkpoint is written")
    minutes: float | None = option(
        None, "train for about this long: a step is timed first, and max_steps follows from it"
    )
    optim: str = option("muon", "muon (Muon and AdamW), or one of transformers' names")
    learning_rate: float | None = option(None, "peak; if not given 0.02 for muon, 0.001 else, a tenth with init_from")
    adam_learning_rate: float | None = option(
        None,
        "learning rate of embeddings, norms and biases, which AdamW trains with muon; 0.02 if not given, and in models "
        "wider than 256 less, in inverse proportion to the width; a tenth with init_from",
    )
    muon_momentum: float = option(
        0.95, "momentum of muon's gradients; runs of some hundred steps want less, such as 0.9"
    )
    adam_beta2: float = 0.95
    weight_decay: float = 0.1
    z_loss: float = option(0.0, "weight of the squared log of the softmax's denominator, for instance 1e-4")
    per_device_train_batch_size: int = 16
    per_device_eval_batch_size: int = 16
    num_train_epochs: float = 4.0  # repeated text is worth nearly as much as new up to here (Muennighoff et al., 2023)
    lr_scheduler_type: str = "warmup_stable_decay"
    warmup_steps: float = 0.02
    decay_steps: float = option(0.6, "with warmup_stable_decay: steps of the decay, or their share if below 1")
    bf16: bool | None = switch("train in bfloat16 (true, false); on CPU whatever is faster if not given")
    torch_compile: bool | None = switch("compile the model; on a GPU if the run is long enough to pay if not given")
    sample_prompt: str | None = option(None, "text that samples begin with (default: words of the held-out text)")
    prediction_loss_only: bool = True
    ddp_find_unused_parameters: bool | None = False  # there are none, and looking for them takes time
    ddp_broadcast_buffers: bool | None = False  # they never change

    def __post_init__(self):
        use_muon = self.optim == "muon"
        self.rate_is_open = self.learning_rate is None
        if self.learning_rate is None:
            self.learning_rate = 0.02 if use_muon else 1e-3
        if self.z_loss and self.label_smoothing_factor:
            raise ValueError("z_loss and label_smoothing_factor are both given: choose one of them.")
        if self.metric_for_best_model not in (None, "loss", "eval_loss"):
            raise ValueError(f"metric_for_best_model is {self.metric_for_best_model!r}: the one there is is 'loss'.")
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
        if self.fsdp and self.fsdp_config.get("state_dict_type", "FULL_STATE_DICT") != "FULL_STATE_DICT":
            raise ValueError("fsdp_config has a state_dict_type: leave it out, as checkpoints are always whole.")
        if self.world_size > 1 and self.accelerator_config.dispatch_batches is None:
            # Each process reads a stream by itself: blocks of several lengths could not be sent as one batch.
            self.accelerator_config.dispatch_batches = False

    @property
    def use_muon(self) -> bool:
        """Whether matrices are trained by Muon."""
        return self.optim == "muon"

    def settle_learning_rates(self, hidden_size: int, is_trained: bool) -> None:
        """Decide about the rates that were left open; weights that are trained already want smaller ones."""
        share = CONTINUED if is_trained else 1
        if self.rate_is_open:
            self.learning_rate, self.rate_is_open = self.learning_rate * share, False
        if self.adam_learning_rate is None:
            self.adam_learning_rate = share * ADAM_LEARNING_RATE * min(1, NARROW / hidden_size)

    def set_bf16(self, bf16: bool) -> None:
        """Decide about bfloat16 after construction, when both have been timed."""
        self.bf16 = bf16
        self.mixed_precision = "bf16" if bf16 else "no"


def run_settings(data: Any, model: Any, args: RunArguments) -> dict:
    """What `--config` needs to repeat the run, as plain values, also with a version that has other defaults.

    That is every setting of ours, and of transformers' those that were changed.
    """
    settings = {**vars(data), **vars(model)}
    for name in PLACES & settings.keys():
        value = settings[name]
        settings[name] = list(map(from_anywhere, value)) if isinstance(value, list) else from_anywhere(value)
    ours = [kind.__annotations__ for kind in type(args).__mro__ if RunArguments in (kind, *kind.__bases__)]
    always = {*args.FIXED, *args.FIXED_FOR_STREAMS}.union(*ours)
    default = type(args)(output_dir=args.output_dir)
    for name in [f.name for f in fields(args) if f.init and f.name not in OF_ONE_CALL]:
        value = getattr(args, name)
        if name in always or value != getattr(default, name):
            settings[name] = value
    return {name: plain(value) for name, value in settings.items()}


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
