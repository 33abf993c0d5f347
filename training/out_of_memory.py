"""The check that a run fits into memory, the settings that would, and the message when memory ran out."""

import contextlib
import errno
import logging
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from ..jobs.processes import command_to_resume
from ..jobs.saving import last_checkpoint
from .arguments import RunArguments
from .memory import StepMemory, available_bytes, gigabytes, step_memory
from .optimizers import build_optimizer

logger = logging.getLogger(__name__)

USABLE_MEMORY_FRACTION = 0.95  # of the memory that is free; the rest of the machine needs some
EVALUATIONS = {"evaluation_loop", "evaluate"}  # functions that no training step is in
MESSAGES = ("DefaultCPUAllocator: can't allocate memory", "DefaultCPUAllocator: not enough memory", "out of memory")


class OutOfMemory(RuntimeError):
    """A run that needs more memory than there is; the message names what to change."""


@dataclass
class Step:
    """A training step, to measure its memory."""

    network: Any
    args: RunArguments
    block_size: int  # tokens of an example
    command: str = "folio pretrain"  # by which the user began the run
    smaller: str = "use a smaller model or a shorter --block_size"  # what to do if not even one example fits
    sequences: int = 1  # in an example
    loss: Callable[[int], int] | None = None  # bytes that it takes for so many tokens, if the model does not compute it

    def memory(self, size: int | None = None, accumulation: int | None = None) -> StepMemory:
        """Return the memory of the step, or of one with another batch size and accumulation."""
        args, sequences = self.args, self.sequences * (size or self.args.per_device_train_batch_size)
        accumulation = accumulation or args.gradient_accumulation_steps
        loss = self.loss and self.loss(sequences * self.block_size)
        batch = sequences, self.block_size, bool(args.bf16 or args.fp16)
        return step_memory(self.network, *batch, lambda model: build_optimizer(model, args), accumulation, loss)


@contextlib.contextmanager
def guard_memory(args: RunArguments, hint: str = "") -> Iterator[Callable[[Step], StepMemory | None]]:
    """Reject a run that cannot fit, and raise OutOfMemory with an explanation if one runs out of memory after all.

    Yields a function that takes the run's step before the first one and returns its memory, None if it surely fits. It
    raises ValueError if it cannot fit, or, with `auto_find_batch_size` and on a GPU, changes the arguments.
    """
    available, steps = available_bytes(args.device), []

    def check(step: Step) -> StepMemory | None:
        steps.append(step)
        may_change, args.auto_find_batch_size = args.auto_find_batch_size or args.device.type == "cuda", False
        # A machine's processes share its memory, and a model may be in pieces.
        if args.world_size > 1 or fits_upper_bound(step, available):
            return None
        return fitting_memory(step, available, may_change)

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
    """Return True if the error means that an allocation failed, on whatever device."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(message in str(error) for message in MESSAGES)


def fits_upper_bound(step: Step, available: int) -> bool:
    """Return True if a generous upper bound of the step's memory fits: to trace a real step takes a second."""
    config = step.network.config.get_text_config()
    tokens = step.sequences * step.args.per_device_train_batch_size * step.block_size
    a_token = 100 * config.hidden_size + 4 * getattr(config, "num_attention_heads", 0) * step.block_size
    floats = 10 * step.network.num_parameters()
    floats += tokens * (config.num_hidden_layers * a_token + 4 * config.vocab_size)
    return 4 * floats < available


def fitting_memory(step: Step, available: int, may_change: bool = False) -> StepMemory:
    """Return the memory of a step that fits, if it may be changed after accumulating the largest parts that do.

    Raises ValueError with settings that would fit. Trainer would find a batch size only later, and change the batch.
    """
    args, memory = step.args, step.memory()
    if memory.peak <= USABLE_MEMORY_FRACTION * available:
        return memory
    flags, sentence, smaller = suggest_settings(step, USABLE_MEMORY_FRACTION * available)
    if smaller is None or not may_change:
        free = f"{gigabytes(available)} are free on {args.device}"
        raise ValueError(f"A step needs {gigabytes(memory.peak)}, and {free}. {sentence}")
    batch = args.per_device_train_batch_size
    logger.warning("A batch of %s does not fit into memory: it is taken by %s.", batch, " ".join(flags))
    args.per_device_train_batch_size, args.gradient_accumulation_steps = int(flags[1]), int(flags[3])
    if len(flags) > 4:
        args.activation_checkpointing = args.gradient_checkpointing = True
        step.network.activation_checkpointing_enable()
    return smaller


def suggest_settings(step: Step, room: float) -> tuple[list[str], str, StepMemory | None]:
    """Return flags with which a step takes at most `room` bytes, or none; a sentence about it; the step's memory."""
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
                    sentence = f"With {' '.join(flags)} it needs {gigabytes(needed.peak)} and learns the same."
                    return flags, sentence, needed
    finally:
        if not was_checkpointing:
            network.activation_checkpointing_disable()
    return [], f"Not even one example at a time fits: {step.smaller}.", None


def explanation(step: Step, available: int, in_evaluation: bool) -> str:
    """Return what a run that ran out of memory needed, what was free, what to change, and how to resume."""
    needed, device = step.memory().peak, step.args.device
    message = f"Out of memory: a step needs {gigabytes(needed)}, and {gigabytes(available)} were free on {device}"
    message += " before the run" + (". " if needed > available else ", but something else took some. ")
    room = min(USABLE_MEMORY_FRACTION * available, 0.8 * needed)  # `needed` was not there
    flags, sentence, _ = suggest_settings(step, room)
    if in_evaluation:
        flags = ["--per_device_eval_batch_size", str(max(1, step.args.per_device_eval_batch_size // 4))]
        sentence = f"It was in an evaluation: try {' '.join(flags)}."
    last = last_checkpoint(step.args.output_dir)
    if last is None or not flags:
        return message + sentence
    command = command_to_resume(step.command, step.args, *flags)
    return f"{message}{sentence} {last.name} is kept; to continue from it: {command}"
