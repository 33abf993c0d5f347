"""Whether a run fits into memory, what would, and what to say when it did not."""

import contextlib
import errno
import traceback
from collections.abc import Callable, Iterator

import torch

from ..jobs.processes import command_to_resume
from ..jobs.saving import last_checkpoint
from .arguments import ModelArguments, PretrainingArguments
from .memory import StepMemory, available_bytes, gigabytes, step_memory
from .optimizers import build_optimizer

USABLE_MEMORY_FRACTION = 0.95  # of the memory that is free; the rest of the machine needs some
MESSAGES = ("DefaultCPUAllocator: can't allocate memory", "DefaultCPUAllocator: not enough memory", "out of memory")


class OutOfMemory(RuntimeError):
    """A run that needs more memory than there is. The message says what to change."""


@contextlib.contextmanager
def within_memory(model: ModelArguments, args: PretrainingArguments) -> Iterator[Callable]:
    """Refuse a run that cannot fit, and explain one that ran out of memory after all.

    Yields a function that takes the run's model before its first step. It raises ValueError if a step cannot fit, or,
    with `auto_find_batch_size`, changes `args` so that it does.

    Raises:
        OutOfMemory: for any error in the block by which memory ran out.
    """
    available, networks = available_bytes(args.device), []

    def check(network) -> None:
        networks.append(network)
        if args.world_size > 1:  # a machine's processes share its memory, and a model may be in pieces
            return
        if args.auto_find_batch_size:
            find_batch_size(network, model, args, available)
        elif not fits_upper_bound(network, model, args, available):
            check_fits(network, model, args, available)

    try:
        yield check
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        traceback.clear_frames(error.__traceback__)  # and with them the tensors of the step that failed
        if not networks:
            raise OutOfMemory(
                f"Out of memory before training: {gigabytes(available)} were free. Text that is larger than the memory "
                "can be read with --streaming."
            ) from error
        raise OutOfMemory(explanation(networks[0], model, args, available)) from error


def is_out_of_memory(error: Exception) -> bool:
    """Whether the error means that an allocation failed, on whatever device."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(message in str(error) for message in MESSAGES)


def memory_of(network, model: ModelArguments, args: PretrainingArguments, size=None, accumulation=None) -> StepMemory:
    """The memory of one of the run's steps, or of one with another batch size and accumulation."""
    return step_memory(
        network,
        size or args.per_device_train_batch_size,
        model.block_size,
        bool(args.bf16),
        lambda copy: build_optimizer(copy, args),
        accumulation or args.gradient_accumulation_steps,
    )


def fits_upper_bound(network, model: ModelArguments, args: PretrainingArguments, available: int) -> bool:
    """Whether several times what a step takes would fit: following a step through, to know it, takes a second."""
    config, tokens = network.config, args.per_device_train_batch_size * model.block_size
    a_token = 100 * config.hidden_size + 4 * getattr(config, "num_attention_heads", 0) * model.block_size
    floats = 10 * network.num_parameters() + tokens * (config.num_hidden_layers * a_token + 4 * config.vocab_size)
    return 4 * floats < available


def check_fits(network, model: ModelArguments, args: PretrainingArguments, available: int) -> StepMemory:
    """The memory of a step.

    Raises:
        ValueError: if there is not as much; the message says what would fit.
    """
    memory = memory_of(network, model, args)
    if memory.peak > USABLE_MEMORY_FRACTION * available:
        raise ValueError(
            f"A step needs {gigabytes(memory.peak)}, and {gigabytes(available)} are free on {args.device}. "
            + suggest_settings(network, model, args, USABLE_MEMORY_FRACTION * available)[1]
        )
    return memory


def suggest_settings(network, model: ModelArguments, args: PretrainingArguments, room: float) -> tuple[list[str], str]:
    """The smallest change by which a step takes at most `room` bytes: flags, none if nothing helps, and a sentence."""
    batch, was_checkpointing = args.per_device_train_batch_size, network.is_activation_checkpointing
    try:
        for checkpointing in [True] if was_checkpointing else [False, True]:
            if checkpointing:
                network.activation_checkpointing_enable()
            for size in smaller_sizes(batch):
                steps = args.gradient_accumulation_steps * batch // size
                needed = memory_of(network, model, args, size, steps)
                if needed.peak <= room:
                    flags = ["--per_device_train_batch_size", str(size), "--gradient_accumulation_steps", str(steps)]
                    flags += ["--gradient_checkpointing", "true"] if checkpointing else []
                    return flags, f"With {' '.join(flags)} it needs {gigabytes(needed.peak)} and learns the same."
    finally:
        if not was_checkpointing:
            network.activation_checkpointing_disable()
    return [], f"Not even one block at a time fits: use a smaller --size than {model.size} or a shorter --block_size."


def smaller_sizes(batch: int) -> list[int]:
    """The batch sizes that make up the same batch in whole parts, the largest first."""
    return [size for size in range(batch, 0, -1) if batch % size == 0]


def find_batch_size(network, model: ModelArguments, args: PretrainingArguments, available: int) -> None:
    """Take the largest part of the batch that fits, and accumulate as many: the run learns the same.

    Trainer would find out while it trains, with a smaller batch for the same steps.
    """
    flags, sentence = suggest_settings(network, model, args, USABLE_MEMORY_FRACTION * available)
    if not flags:
        raise ValueError(f"{gigabytes(available)} are free on {args.device}. {sentence}")
    args.per_device_train_batch_size, args.gradient_accumulation_steps = int(flags[1]), int(flags[3])
    args.gradient_checkpointing = args.gradient_checkpointing or len(flags) > 4
    if args.gradient_checkpointing:
        network.activation_checkpointing_enable()
    args.auto_find_batch_size = False  # it is found


def explanation(network, model: ModelArguments, args: PretrainingArguments, available: int) -> str:
    """What a run that ran out of memory needed, what there was, what to change, and how to go on."""
    needed = memory_of(network, model, args).peak
    said = f"Out of memory: a step needs {gigabytes(needed)}, and {gigabytes(available)} were free on {args.device}"
    said += " before the run" + (". " if needed > available else ", but something else took some. ")
    room = min(USABLE_MEMORY_FRACTION * available, 0.8 * needed)  # `needed` was not there
    flags, sentence = suggest_settings(network, model, args, room)
    last = last_checkpoint(args.output_dir)
    if last is None or not flags:
        return said + sentence
    command = command_to_resume("folio pretrain", args, *flags)
    return f"{said}{sentence} {last.name} is kept; to go on from it: {command}"
