"""Estimate what a run will take before it starts, in parameters, memory and time; propose one that fits."""

import math
import time
from dataclasses import asdict
from datetime import timedelta
from itertools import islice

import torch

from ..data.arguments import CorpusArguments
from ..data.packed_corpus import PackedCorpora, pack_corpora
from ..jobs.report import Stages, peak_memory_bytes
from .arguments import ModelArguments, PretrainingArguments
from .calibration import calibrate, step_seconds
from .device import choose_for_device
from .memory import available_bytes, gigabytes, parameters_by_part
from .new_model import configured_model, starting_config
from .out_of_memory import Step, fitting_memory
from .pretraining import check_batch, check_end, evaluations, total_steps, validation_subset


def estimate(
    corpus: CorpusArguments, model: ModelArguments, args: PretrainingArguments, stages: Stages | None = None
) -> dict:
    """Time some steps to estimate a run: bytes of memory, seconds; raises ValueError if it cannot fit into memory."""
    check_end(corpus, args)
    args.set_default_learning_rates(starting_config(model).get_text_config().hidden_size, model.init_from is not None)
    stages, tokenizer = stages or Stages(), model.tokenizer or model.init_from
    data = pack_corpora(corpus, tokenizer, model.vocab_size, model.block_size, stages, seed=args.seed)
    check_batch(data, args)
    network = configured_model(model, data.tokenizer, args)
    choose_for_device(network, data, model, args, stages)
    available = available_bytes(args.device)
    planned = Step(network, args, model.block_size)
    memory = fitting_memory(planned, available)
    batch = data.collator(list(islice(data.train_blocks, args.per_device_train_batch_size)))
    timed = calibrate(network, batch, args, steps=total_steps(data, args))
    step = timed.get("bf16" if args.bf16 else "fp32") or step_seconds(network, batch, args, bool(args.bf16))
    # On a CPU the peak of the timed steps is known; they were taken by a copy, with weights of its own.
    process = peak_memory_bytes() - memory.peak - memory.weights if args.device.type == "cpu" else 0
    if args.bf16:
        memory = planned.memory()
    steps = total_steps(data, args)
    return {
        "parameters": parameters_by_part(network),
        "memory": {**asdict(memory), "process": process},
        "memory_peak": memory.peak + process,
        "memory_available": available,
        "steps": steps,
        "step_seconds": step,
        "seconds": {"training": steps * step, "evaluation": evaluation_seconds(network, data, args, steps)},
    }


def evaluation_seconds(network, data: PackedCorpora, args: PretrainingArguments, steps: int) -> float:
    """Return the time of all evaluations: those on the way, and the last one in float32."""
    network = network.to(args.device).eval()
    size = args.per_device_eval_batch_size
    batch = data.collator(list(islice(data.validation_blocks[0], size)))
    batch = {name: tensor.to(args.device) for name, tensor in batch.items()}
    start = time.perf_counter()
    with torch.no_grad():
        for _ in range(2):
            network(**batch, use_cache=False).loss.item()
    seconds = (time.perf_counter() - start) / 2
    on_the_way = int(evaluations(args, steps)) * math.ceil(len(validation_subset(data, args)) / size)
    return seconds * (on_the_way + math.ceil(sum(map(len, data.validation_blocks)) / size))


def show(found: dict) -> str:
    """Return the estimate as a table for people."""
    rows = [("parameters", f"{sum(found['parameters'].values()):,}", "")]
    rows += [("", f"{count:,}", part) for part, count in found["parameters"].items()]
    free = gigabytes(found["memory_available"])
    rows.append(("memory", gigabytes(found["memory_peak"]), f"peak; {free} are free"))
    rows += [("", gigabytes(size), part) for part, size in found["memory"].items()]
    steps = f"{found['steps']:,} steps of {found['step_seconds']:.3f} s"
    times = {"": sum(found["seconds"].values()), **found["seconds"]}
    rows += [("" if part else "time", str(timedelta(seconds=round(s))), part or steps) for part, s in times.items()]
    return "\n".join(f"{name:<12}{amount:>14}  {what}".rstrip() for name, amount, what in rows)
