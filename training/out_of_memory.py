"""Whether a run fits into memory, what would, and what to say when it did not."""

import contextlib
import errno
import logging
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from transformers import TrainingArguments

from ..jobs.processes import command_to_resume
from ..jobs.saving import last_checkpoint
from .arguments import ModelArguments, PretrainingArguments
from .memory import StepMemory, available_bytes, gigabytes, step_memory
from .optimizers import build_optimizer

logger = logging.getLogger(__name__)

USABLE_MEMORY_FRACTION = 0.95  # of the memory that is free; the rest of the machine needs some
EVALUATIONS = {"evaluation_loop", "evaluate"}  # functions that no training step is in
MESSAGES = ("DefaultCPUAllocator: can't allocate memory", "DefaultCPUAllocator: not enough memory", "out of memory")


class OutOfMemory(RuntimeError):
    """A run that needs more memory than there is. The message says what to change."""


@dataclass
class Step:
    """A training step whose memory is asked for."""

    network: Any
    args: TrainingArguments
    block_size: int  # tokens of an example
    command: str  # by which the user began the run
    smaller: str  # what to change if not even one example fits
    make_optimizer: Callable[[Any], torch.optim.Optimizer]
    sequences: int = 1  # in an example
    loss: Callable[[int], int] | None = None  # bytes that it takes for so many tokens, if the model does not compute it

    def memory(self, size: int | None = None, accumulation: int | None = None) -> StepMemory:
        """The memory of the step, or of one with another batch size and accumulation."""
        args, sequences = self.args, self.sequences * (size or self.args.per_device_train_batch_size)
        accumulation = accumulation or args.gradient_accumulation_steps
        loss = self.loss and self.loss(sequences * self.block_size)
        batch = sequences, self.block_size, bool(args.bf16 or args.fp16)
        return step_memory(self.network, *batch, self.make_optimizer, accumulation, loss)


def pretraining_step(network, model: ModelArguments, args: PretrainingArguments) -> Step:
    """A step of `pretrain`."""
    smaller = "use a smaller model or a shorter --block_size"
    return Step(network, args, model.block_size, "folio pretrain", smaller, lambda copy: build_optimizer(copy, args))


@contextlib.contextmanager
def memory_watched(args: TrainingArguments, hint: str = "") -> Iterator[Callable[[Step], StepMemory | None]]:
    """Refuse a run that cannot fit, and explain one that ran out of memory after all, by OutOfMemory.

    Yields a function that takes the run's step before the first one. It raises ValueError if a step cannot fit, or,
    with `auto_find_batch_size` and on a GPU, changes the arguments so that it does. It returns the step's memory, None
    if that is not known, as several times of what it takes would fit.
    """
    available, steps = available_bytes(args.device), []

    def check(step: Step) -> StepMemory | None:
        steps.append(step)
        # A machine's processes share its memory, and a model may be in pieces.
        if args.world_size > 1 or fits_upper_bound(step, available):
            args.auto_find_batch_size = False
            return None
        if args.auto_find_batch_size or args.device.type == "cuda":
            return find_batch_size(step, available)
        return check_fits(step, available)

    try:
        yield check
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        in_evaluation = EVALUATIONS & {frame.f_code.co_name for frame, _ in traceback.walk_tb(error.__traceback__)}
        traceback.clear_frames(error.__traceback__)  # and with them the tensors of the step that failed
        if not steps:
            raise OutOfMemory(f"Out of memory: {gigabytes(available)} were free before the run.{hint}") from error
        raise OutOfMemory(explanation(steps[0], available, bool(in_evaluation))) from error


def is_out_of_memory(error: Exception) -> bool:
    """Whether the error means that an allocation failed, on whatever device."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(message in str(error) for message in MESSAGES)


def fits_upper_bound(step: Step, available: int) -> bool:
    """Whether several times what a step takes would fit: following a step through, to know it, takes a second."""
    config = step.network.config.get_text_config()
    tokens = step.sequences * step.args.per_device_train_batch_size * step.block_size
    a_token = 100 * config.hidden_size + 4 * getattr(config, "num_attention_heads", 0) * step.block_size
    floats = 10 * step.network.num_parameters()
    floats += tokens * (config.num_hidden_layers * a_token + 4 * config.vocab_size)
    return 4 * floats < available


def check_fits(step: Step, available: int) -> StepMemory:
    """The memory of a step; raises ValueError, which says what would fit, if there is not as much."""
    memory = step.memory()
    if memory.peak > USABLE_MEMORY_FRACTION * available:
        raise ValueError(
            f"A step needs {gigabytes(memory.peak)}, and {gigabytes(available)} are free on {step.args.device}. "
            + suggest_settings(step, USABLE_MEMORY_FRACTION * available)[1]
        )
    return memory


def suggest_settings(step: Step, room: float) -> tuple[list[str], str, StepMemory | None]:
    """Flags by which a step takes at most `room` bytes, or none; a sentence about it; the memory of such a step."""
    network, batch = step.network, step.args.per_device_train_batch_size
    was_checkpointing = network.is_activation_checkpointing
    try:
        for checkpointing in [True] if was_checkpointing else [False, True]:
            if checkpointing:
                network.activation_checkpointing_enable()
            for size in (size for size in range(batch, 0, -1) if batch % size == 0):  # whole parts
                parts = step.args.gradient_accumulation_steps * batch // size
                needed = step.memory(size, parts)
                if needed.peak <= room:
                    flags = ["--per_device_train_batch_size", str(size), "--gradient_accumulation_steps", str(parts)]
                    flags += ["--activation_checkpointing", "true"] if checkpointing else []
                    said = f"With {' '.join(flags)} it needs {gigabytes(needed.peak)} and learns the same."
                    return flags, said, needed
    finally:
        if not was_checkpointing:
            network.activation_checkpointing_disable()
    return [], f"Not even one example at a time fits: {step.smaller}.", None


def find_batch_size(step: Step, available: int) -> StepMemory:
    """Accumulate the largest parts of the batch that fit: Trainer would find them later, and change the batch."""
    args, before = step.args, step.args.per_device_train_batch_size
    flags, sentence, memory = suggest_settings(step, USABLE_MEMORY_FRACTION * available)
    if memory is None:
        raise ValueError(f"{gigabytes(available)} are free on {args.device}. {sentence}")
    args.per_device_train_batch_size, args.gradient_accumulation_steps = int(flags[1]), int(flags[3])
    if len(flags) > 4:
        args.activation_checkpointing = args.gradient_checkpointing = True
        step.network.activation_checkpointing_enable()
    if args.per_device_train_batch_size != before or len(flags) > 4:
        logger.warning("A batch of %s does not fit into memory: it is taken by %s.", before, " ".join(flags))
    args.auto_find_batch_size = False  # it is found
    return memory


def explanation(step: Step, available: int, in_evaluation: bool) -> str:
    """What a run that ran out of memory needed, what there was, what to change, and how to go on."""
    needed, device = step.memory().peak, step.args.device
    said = f"Out of memory: a step needs {gigabytes(needed)}, and {gigabytes(available)} were free on {device}"
    said += " before the run" + (". " if needed > available else ", but something else took some. ")
    room = min(USABLE_MEMORY_FRACTION * available, 0.8 * needed)  # `needed` was not there
    flags, sentence, _ = suggest_settings(step, room)
    if in_evaluation:
        flags = ["--per_device_eval_batch_size", str(max(1, step.args.per_device_eval_batch_size // 4))]
        sentence = f"It was in an evaluation: try {' '.join(flags)}."
    last = last_checkpoint(step.args.output_dir)
    if last is None or not flags:
        return said + sentence
    command = command_to_resume(step.command, step.args, *flags)
    return f"{said}{sentence} {last.name} is kept; to go on from it: {command}"
