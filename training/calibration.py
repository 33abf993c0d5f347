"""How long a training step takes on this machine, before training starts."""

import copy
import statistics
import time

import torch

from ..jobs.processes import from_first
from .arguments import PretrainingArguments
from .optimizers import build_optimizer

WARM_UP_STEPS, TIMED_STEPS = 1, 5


def step_seconds(model, batch: dict[str, torch.Tensor], args: PretrainingArguments, bf16: bool) -> float:
    """Seconds that one optimizer step takes: the median of a few, on a copy of the model."""
    model = copy.deepcopy(model).to(args.device).train()
    batch = {name: tensor.to(args.device) for name, tensor in batch.items()}
    optimizer = build_optimizer(model, args)
    times = []
    for _ in range(WARM_UP_STEPS + TIMED_STEPS):
        start = time.perf_counter()
        for _ in range(args.gradient_accumulation_steps):
            with torch.autocast(args.device.type, dtype=torch.bfloat16, enabled=bf16):
                loss = model(**batch, use_cache=False).loss
            loss.backward()
            loss.item()  # waits for an accelerator to finish
        torch.nn.utils.clip_grad_norm_(model.parameters(), args.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.perf_counter() - start)
    return statistics.median(times[WARM_UP_STEPS:])


def calibrate(
    model, batch: dict[str, torch.Tensor], args: PretrainingArguments, steps_done: int = 0
) -> dict[str, float]:
    """Settle what was left open: bfloat16 if it is faster here, and `max_steps` if `minutes` were given.

    The minutes are those after `steps_done`. Returns the seconds a step for each precision that was timed.
    """
    timed = {}
    if args.bf16 is None and (args.fp16 or args.device.type != "cpu"):
        args.set_bf16(not args.fp16 and args.device.type == "cuda" and torch.cuda.is_bf16_supported())
    if args.bf16 is None:
        timed = {name: step_seconds(model, batch, args, name == "bf16") for name in ("fp32", "bf16")}
        args.set_bf16(timed["bf16"] < timed["fp32"])
    precision = "bf16" if args.bf16 else "fp32"
    if args.minutes is not None:
        if precision not in timed:
            timed[precision] = step_seconds(model, batch, args, bool(args.bf16))
        args.max_steps = steps_done + max(1, round(60 * args.minutes / timed[precision]))
        args.minutes = None  # settled: a resumed run must not time itself again
    # In several processes it is timed in all at once, as the run will be, and what the first has measured counts.
    timed, bf16, args.max_steps, args.minutes = from_first(lambda: (timed, args.bf16, args.max_steps, args.minutes))
    if bf16 != args.bf16:
        args.set_bf16(bf16)
    return timed
