"""Estimate what a run will take before it starts, in parameters, memory and time; propose one that fits."""

import math
import time
from dataclasses import asdict, dataclass
from itertools import islice

import torch

from ..data.arguments import CorpusArguments
from ..data.corpora import corpus_bytes
from ..data.packed_corpus import PackedCorpora, pack_corpora
from ..evaluation.bits_per_byte import COMPRESSIBLE, COMPRESSORS
from ..jobs.report import Stages, peak_memory_bytes
from .arguments import ModelArguments, PretrainingArguments
from .calibration import calibrate, step_seconds
from .device import choose_for_device
from .memory import available_bytes, gigabytes, parameters_by_part
from .new_model import configured_model, starting_config
from .out_of_memory import check_fits, pretraining_step
from .pretraining import check_batch, check_end, total_steps

COMPRESSED_SAMPLE = 500_000  # bytes


@dataclass
class Estimate:
    """The needs of a run. Memory in bytes, time in seconds."""

    parameters: dict[str, int]
    memory: dict[str, int]
    memory_peak: int
    memory_available: int
    steps: int
    step_seconds: float
    seconds: dict[str, float]


def estimate(
    corpus: CorpusArguments, model: ModelArguments, args: PretrainingArguments, stages: Stages | None = None
) -> Estimate:
    """Time some steps to tell what `pretrain` will take; raises ValueError if it cannot fit into memory."""
    check_end(corpus, args)
    args.settle_learning_rates(starting_config(model).get_text_config().hidden_size, model.init_from is not None)
    stages, tokenizer = stages or Stages(), model.tokenizer or model.init_from
    data = pack_corpora(corpus, tokenizer, model.vocab_size, model.block_size, stages, seed=args.seed)
    check_batch(data, args)
    network = configured_model(model, data.tokenizer, args)
    choose_for_device(network, data, model, args, stages)
    available = available_bytes(args.device)
    planned = pretraining_step(network, model, args)
    memory = check_fits(planned, available)
    batch = data.collator(list(islice(data.train_blocks, args.per_device_train_batch_size)))
    timed = calibrate(network, batch, args, steps=total_steps(data, args))
    step = timed.get("bf16" if args.bf16 else "fp32") or step_seconds(network, batch, args, bool(args.bf16))
    # On a CPU the peak of the timed steps is known; they were taken by a copy, with weights of its own.
    process = peak_memory_bytes() - memory.peak - memory.weights if args.device.type == "cpu" else 0
    if args.bf16:
        memory = planned.memory()
    steps = total_steps(data, args)
    return Estimate(
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


def evaluation_seconds(network, data: PackedCorpora, args: PretrainingArguments, steps: int) -> float:
    """Return the time of all evaluations: those on the way, and the last one in float32."""
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


def compression_seconds(data: PackedCorpora) -> float:
    """Return the time of the compressors that the model is compared with, from their time for a part of the text."""
    if data.train_bytes is None or data.train_bytes > COMPRESSIBLE:
        return 0.0
    part = b""
    for text in data.train_texts():
        part += text.encode()[: COMPRESSED_SAMPLE - len(part)]
        if len(part) == COMPRESSED_SAMPLE:
            break
    start = time.perf_counter()
    for compress in COMPRESSORS.values():
        compress(part)
    seconds = time.perf_counter() - start
    # The training text alone, and once more with the held-out text behind it.
    total = 2 * data.train_bytes + sum(corpus_bytes(corpus.validation) for corpus in data.corpora)
    return seconds * total / max(1, len(part))


def show(found: Estimate) -> str:
    """Return the estimate as a table for people."""
    rows = [("parameters", f"{sum(found.parameters.values()):,}", "")]
    rows += [("", f"{count:,}", part) for part, count in found.parameters.items()]
    rows.append(("memory", gigabytes(found.memory_peak), f"at the peak; {gigabytes(found.memory_available)} are free"))
    rows += [("", gigabytes(size), part) for part, size in found.memory.items()]
    total = sum(found.seconds.values())
    rows.append(("time", _duration(total), f"{found.steps:,} steps of {found.step_seconds:.3f} s"))
    rows += [("", _duration(seconds), part) for part, seconds in found.seconds.items()]
    return "\n".join(f"{name:<12}{amount:>14}  {what}".rstrip() for name, amount, what in rows)


def _duration(seconds: float) -> str:
    hours, minutes = divmod(round(seconds) // 60, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {round(seconds) % 60:02} s"
