"""What a run will take, before it starts: parameters, memory and time; and what to change if it does not fit."""

import math
import time
from dataclasses import asdict, dataclass
from itertools import islice

import torch

from .arguments import CorpusArguments, ModelArguments, PretrainingArguments
from .calibration import calibrate, step_seconds
from .corpora import corpus_bytes
from .data import Data, prepare_data
from .evaluation import COMPRESSIBLE, COMPRESSORS
from .memory import StepMemory, available_bytes, parameters_by_part, step_memory
from .optimizers import build_optimizer
from .pretraining import check_batch, check_end, configured_model, total_steps
from .report import Stages, peak_memory_bytes

COMPRESSED_SAMPLE = 500_000  # bytes
ROOM = 0.95  # of the memory that is free; the rest of the machine needs some


@dataclass
class Diagnosis:
    """What a run will take. Memory in bytes, time in seconds."""

    parameters: dict[str, int]
    memory: dict[str, int]
    memory_peak: int
    memory_available: int
    steps: int
    step_seconds: float
    seconds: dict[str, float]


def diagnose(
    corpus: CorpusArguments, model: ModelArguments, args: PretrainingArguments, stages: Stages | None = None
) -> Diagnosis:
    """Find out what `pretrain` with the same settings will take. Some steps are timed, nothing is written.

    Raises:
        ValueError: if the run cannot fit into memory; the message says what would.
    """
    check_end(corpus, args)
    data = prepare_data(corpus, model, None, stages or Stages(), args.seed)
    check_batch(data, args)
    network = configured_model(model, data.tokenizer, args)
    memory, available = memory_of(network, model, args), available_bytes(args.device)
    if memory.peak > ROOM * available:
        raise ValueError(
            f"A step needs {_gigabytes(memory.peak)}, and {_gigabytes(available)} are free on {args.device}. "
            + _proposal(network, model, args, ROOM * available)
        )
    batch = data.collator(list(islice(data.train_blocks, args.per_device_train_batch_size)))
    timed = calibrate(network, batch, args)
    step = timed.get("bf16" if args.bf16 else "fp32") or step_seconds(network, batch, args, bool(args.bf16))
    # On a CPU the peak of the timed steps is known; they were taken by a copy, with weights of its own.
    process = peak_memory_bytes() - memory.peak - memory.weights if args.device.type == "cpu" else 0
    if args.bf16:
        memory = memory_of(network, model, args)
    steps = total_steps(data, args)
    return Diagnosis(
        parameters=parameters_by_part(network),
        memory={**asdict(memory), "process": process},
        memory_peak=memory.peak + process,
        memory_available=available,
        steps=steps,
        step_seconds=step,
        seconds={
            "training": steps * step,
            "evaluation": evaluation_seconds(network, data, args, steps),
            "compressors": compression_seconds(data),
        },
    )


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


def evaluation_seconds(network, data: Data, args: PretrainingArguments, steps: int) -> float:
    """Of all evaluations: those on the way, and the last one in float32."""
    network = network.to(args.device).eval()
    size = args.per_device_eval_batch_size
    blocks = sum(map(len, data.validation_blocks))
    batch = data.collator(list(islice(data.validation_blocks[0], size)))
    batch = {name: tensor.to(args.device) for name, tensor in batch.items()}
    start = time.perf_counter()
    with torch.no_grad():
        for _ in range(2):
            network(**batch, use_cache=False).loss.item()
    seconds = (time.perf_counter() - start) / 2 * math.ceil(blocks / size)
    every = args.eval_steps if args.eval_steps and args.eval_strategy == "steps" else None
    times = 0 if every is None else (1 / every if every < 1 else steps / every)
    return seconds * (int(times) + 1)


def compression_seconds(data: Data) -> float:
    """Of the compressors that the model is compared with, from what they take for a part of the text."""
    if data.train_bytes is None or data.train_bytes > COMPRESSIBLE:
        return 0.0
    sample, size = [], 0
    for text in data.train_texts():
        sample.append(text.encode())
        size += len(sample[-1])
        if size >= COMPRESSED_SAMPLE:
            break
    part = b"\0".join(sample)[:COMPRESSED_SAMPLE]
    start = time.perf_counter()
    for compress in COMPRESSORS.values():
        compress(part)
    seconds = time.perf_counter() - start
    # The training text alone, and once more with the held-out text behind it.
    total = 2 * data.train_bytes + sum(corpus_bytes(corpus.validation) for corpus in data.corpora)
    return seconds * total / max(1, len(part))


def _proposal(network, model: ModelArguments, args: PretrainingArguments, room: float) -> str:
    """The smallest change with which the run would fit."""
    batch, accumulation = args.per_device_train_batch_size, args.gradient_accumulation_steps
    for checkpointing in [False, True] if not args.gradient_checkpointing else [True]:
        if checkpointing:
            network.activation_checkpointing_enable()
        size = batch
        while size >= 1:
            steps = accumulation * math.ceil(batch / size)
            needed = memory_of(network, model, args, size, steps)
            if needed.peak <= room:
                flags = f"--per_device_train_batch_size {size} --gradient_accumulation_steps {steps}"
                flags += " --gradient_checkpointing true" if checkpointing else ""
                return f"With {flags} it needs {_gigabytes(needed.peak)} and learns the same."
            size //= 2
    return f"Not even one block at a time fits: use a smaller --size than {model.size} or a shorter --block_size."


def show(diagnosis: Diagnosis) -> str:
    """The diagnosis as a table for people."""
    rows = [("parameters", f"{sum(diagnosis.parameters.values()):,}", "")]
    rows += [("", f"{count:,}", part) for part, count in diagnosis.parameters.items()]
    rows.append(
        ("memory", _gigabytes(diagnosis.memory_peak), f"at the peak; {_gigabytes(diagnosis.memory_available)} are free")
    )
    rows += [("", _gigabytes(size), part) for part, size in diagnosis.memory.items()]
    total = sum(diagnosis.seconds.values())
    rows.append(("time", _duration(total), f"{diagnosis.steps:,} steps of {diagnosis.step_seconds:.3f} s"))
    rows += [("", _duration(seconds), part) for part, seconds in diagnosis.seconds.items()]
    return "\n".join(f"{name:<12}{amount:>14}  {what}".rstrip() for name, amount, what in rows)


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def _duration(seconds: float) -> str:
    hours, minutes = divmod(round(seconds) // 60, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {round(seconds) % 60:02} s"
