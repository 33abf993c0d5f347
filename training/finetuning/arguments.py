"""The settings of fine-tuning: method, and all of transformers' `TrainingArguments` with defaults for it."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch

from ...data.arguments import LOADED_FOR, DataArguments
from ...jobs.options import option, switch
from ..arguments import RunArguments

RATES = {  # method: learning rate that works in most cases
    "full": 1e-4,
    "lora": 1e-3,  # ten times that of full fine-tuning (Schulman et al., LoRA Without Regret, 2025)
    "dora": 1e-3,
    "ia3": 3e-3,  # Liu et al., 2022
    "vera": 1e-2,  # Kopiczko et al., 2024
    "oft": 1e-3,
    "prompt": 3e-2,
    "prefix": 1e-2,
}
PROMPTS = ("prompt", "prefix")  # methods that put trained vectors before the text
# The rate of lora and dora on a base wider than this. SmolLM2-135M after three epochs of 180 instructions: the loss of
# held-out ones fell from 1.17 to 0.88; with 1e-3 to 1.03, while the training loss fell to 0.18.
NARROW_WIDTH, WIDE_RATE = 256, 2e-4
DPO_SHARE = 0.01  # of a method's rate: preferences change a model that is trained already


@dataclass
class MethodArguments:
    """The model to adapt, and the weights to train."""

    _argument_group_name = "the model"

    model: str = field(metadata={"help": "directory or Hub name of a checkpoint: ours, or any causal language model"})
    method: str = option("lora", "weights to train: all (full), or those of an adapter", choices=list(RATES))
    lora_r: int = option(16, "rank of lora and dora")
    lora_alpha: int | None = option(None, "scale of lora and dora (default: twice the rank)")
    lora_dropout: float = option(0.0, "dropout of lora and dora")
    lora_target_modules: list[str] = field(
        default_factory=lambda: ["all-linear"], metadata={"help": "modules that lora, dora, vera and oft adapt"}
    )
    num_virtual_tokens: int = option(20, "number of trained vectors of prompt and prefix")
    load_in_8bit: bool = option(False, "keep the base's weights in 8 bits; for adapters")
    trust_remote_code: bool = option(False, "allow Python code from the checkpoint to run (not needed for ours)")

    def __post_init__(self):
        if self.lora_alpha is None:
            self.lora_alpha = 2 * self.lora_r
        for name in ("lora_r", "lora_alpha", "num_virtual_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: give at least 1.")
        if not 0 <= self.lora_dropout < 1:
            raise ValueError(f"lora_dropout is {self.lora_dropout}: give at least 0, and less than 1.")
        if self.load_in_8bit and self.method not in ("lora", "dora", *PROMPTS):
            raise ValueError(f"8-bit weights cannot be trained by {self.method}: use --method lora, or full precision.")


@dataclass
class FinetuningArguments(RunArguments):
    """transformers' `TrainingArguments`, all of them, with defaults for fine-tuning."""

    IMMUTABLE_ON_RESUME: ClassVar = (
        "task", "model", "validation_split", "text_column", "label_column", "columns", "method", "lora_r",
        "lora_alpha", "lora_dropout", "lora_target_modules", "num_virtual_tokens", "load_in_8bit", "max_length",
        "packing", "seed", "data_seed", "optim", "learning_rate", "adam_beta1", "adam_beta2", "adam_epsilon",
        "weight_decay", "beta", "loss_type",
    )  # fmt: skip

    output_dir: str | None = option("runs/finetune", "folder of the result")
    max_length: int | None = option(None, "most tokens of an example (default: the context, up to 1,024)")
    packing: bool | None = switch("sft, lm: pack several examples into a row (default: if they do not see each other)")
    learning_rate: float | None = option(None, "highest learning rate; the default depends on the method")
    per_device_train_batch_size: int = 8
    per_device_eval_batch_size: int = 8
    num_train_epochs: float = 3.0
    lr_scheduler_type: str = "linear"
    warmup_steps: float = 0.05
    weight_decay: float = 0.0
    bf16: bool | None = switch("train in bfloat16; by default on GPUs that support it")
    gradient_checkpointing: bool | None = None  # an alias of activation_checkpointing, which TRL would turn on
    auto_find_batch_size: bool | None = switch("accumulate parts of the batch that fit (default: true in one process)")

    def __post_init__(self):
        if self.max_length is not None and self.max_length < 2:
            raise ValueError(f"max_length is {self.max_length}: give at least 2.")
        if self.bf16 is None:
            self.bf16 = not self.fp16 and torch.cuda.is_available() and torch.cuda.is_bf16_supported()
        super().__post_init__()
        if self.auto_find_batch_size is None:
            self.auto_find_batch_size = self.world_size == 1
        if self.fsdp:
            raise ValueError("--fsdp is only for folio pretrain: in folio finetune each process holds the full model.")


def set_task_defaults(data: DataArguments, method: MethodArguments, args: FinetuningArguments, width: int) -> None:
    """Set the defaults that depend on several settings and the base's width; raises ValueError for contradictions."""
    if args.learning_rate is None:
        args.learning_rate = RATES[method.method] * (DPO_SHARE if data.task == "dpo" else 1)
        if method.method in ("lora", "dora") and data.task != "dpo" and width > NARROW_WIDTH:
            args.learning_rate = WIDE_RATE
    if method.method in PROMPTS:
        if LOADED_FOR[data.task] != "lm":
            raise ValueError(f"{method.method} is for sft, dpo and lm: use --method lora for {data.task}.")
        if args.label_smoothing_factor:
            raise ValueError(f"label_smoothing_factor does not work with {method.method}: leave it out.")
        if args.packing:
            first = "only the first example of a packed row would see the trained vectors"
            raise ValueError(f"With {method.method}, {first}: use --packing false.")
        args.packing = False
    if args.packing is None:
        args.packing = data.task in ("sft", "lm")
    if args.packing and data.task not in ("sft", "lm"):
        raise ValueError(f"packing is for sft and lm: leave it out for {data.task}.")
    if args.label_smoothing_factor and data.task not in ("sft", "lm"):
        instead = "use --label_smoothing" if data.task == "dpo" else "leave it out"
        raise ValueError(f"label_smoothing_factor is for sft and lm, not for {data.task}: {instead}.")
    if args.world_size > 1 and method.load_in_8bit:
        raise ValueError("load_in_8bit works in one process: start it without torchrun.")
