"""Time training steps on this machine, and choose precision, compiler and number of steps by it."""

import copy
import logging
import math
import statistics
import time
from typing import NamedTuple

import torch

from ..jobs.processes import broadcast_from_main
from .arguments import PretrainingArguments
from .device import compiled
from .optimizers import build_optimizer

logger = logging.getLogger(__name__)

CALIBRATED = ("bf16", "mixed_precision", "max_steps", "minutes", "torch_compile", "torch_compile_backend",
              "torch_compile_mode")  # fmt: skip
WARM_UP_STEPS, TIMED_STEPS = 1, 5
# Trying a compiler takes this long, and compiling saves this share of the time or more.
COMPILING_SECONDS, SAVED = 45, 1 / 3
SMALL = 30_000_000  # parameters, below which a GPU waits for Python: whole steps are recorded and replayed
SAME = 0.2  # relative: dropout is drawn otherwise, and compiled bfloat16 is rounded less often


class Timing(NamedTuple):
    """Measurements of some steps: median time, loss and gradient norm of the first."""

    seconds: float
    loss: float
    grad_norm: float


def time_steps(model, batch: dict[str, torch.Tensor], args: PretrainingArguments, bf16: bool, compile=False) -> Timing:
    """Take a few optimizer steps with a copy of the model."""
    model = copy.deepcopy(model).to(args.device).train()
    run = compiled(model, args) if compile else model
    batch = {name: tensor.to(args.device) for name, tensor in batch.items()}
    optimizer = build_optimizer(model, args)
    dtype = torch.bfloat16 if bf16 else torch.float16
    times, losses, norms = [], [], []
    for _ in range(WARM_UP_STEPS + TIMED_STEPS):
        start = time.perf_counter()
        for _ in range(args.gradient_accumulation_steps):
            with torch.autocast(args.device.type, dtype=dtype, enabled=bf16 or args.fp16):
                loss = run(**batch, use_cache=False).loss
            loss.backward()
            losses.append(loss.item())  # waits for an accelerator to finish
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), args.max_grad_norm).item())
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.perf_counter() - start)
    return Timing(statistics.median(times[WARM_UP_STEPS:]), losses[0], norms[0])


def step_seconds(model, batch: dict[str, torch.Tensor], args: PretrainingArguments, bf16: bool) -> float:
    """Return the seconds of one optimizer step, compiled if the run is: the median of a few, on a copy of the model."""
    return time_steps(model, batch, args, bf16, bool(args.torch_compile)).seconds


def calibrate(
    model, batch: dict[str, torch.Tensor], args: PretrainingArguments, steps_done: int = 0, steps: float = math.inf
) -> dict[str, float]:
    """Set what is not given: bfloat16 if it is faster here, a compiler if it pays, `max_steps` for `minutes`.

    The minutes are those after `steps_done`; `steps` is the number of the whole run if there are no minutes. Returns
    the seconds per step for each precision that was timed, compiled if the run is.
    """
    timed = {}
    if args.bf16 is None and args.device.type == "cpu" and not args.fp16:
        timed = {name: step_seconds(model, batch, args, name == "bf16") for name in ("fp32", "bf16")}
    if args.bf16 is None:
        args.set_bf16(bool(timed) and timed["bf16"] < timed["fp32"])
    precision = "bf16" if args.bf16 else "fp16" if args.fp16 else "fp32"
    if args.torch_compile is None and args.device.type == "cuda":
        timed[precision] = choose_compiler(model, batch, args, 60 * args.minutes if args.minutes else None, steps)
    args.torch_compile = bool(args.torch_compile)
    if args.minutes is not None:
        if precision not in timed:
            timed[precision] = step_seconds(model, batch, args, bool(args.bf16))
        args.max_steps = steps_done + max(1, round(60 * args.minutes / timed[precision]))
        args.minutes = None  # a resumed run must not time itself again
    # All processes time at once, as the run will do; the measurements of the first count.
    timed, chosen = broadcast_from_main(lambda: (timed, {name: getattr(args, name) for name in CALIBRATED}))
    vars(args).update(chosen)
    return timed


def choose_compiler(model, batch: dict, args: PretrainingArguments, seconds: float | None, steps: float) -> float:
    """Compile if a run of so many `seconds`, or else `steps`, gains time by it; return the seconds of a step."""
    args.torch_compile, eager = False, time_steps(model, batch, args, bool(args.bf16))
    if SAVED * (eager.seconds * steps if seconds is None else seconds) < COMPILING_SECONDS:
        return eager.seconds
    args.torch_compile_backend = "inductor"
    for mode in ("reduce-overhead", None) if model.num_parameters() < SMALL else (None,):
        args.torch_compile_mode = mode
        try:
            timing = time_steps(model, batch, args, bool(args.bf16), compile=True)
        except Exception as error:  # a compiler may fail in any way, and the run goes without it
            logger.warning("torch.compile failed, so it is not used: %s", str(error).strip().partition("\n")[0])
            continue
        if not all(math.isclose(*pair, rel_tol=SAME) for pair in zip(timing[1:], eager[1:], strict=True)):
            logger.warning("torch.compile computes another loss or gradient here, so it is not used.")
        elif timing.seconds < eager.seconds:
            args.torch_compile = True
            return timing.seconds
    args.torch_compile_backend = args.torch_compile_mode = None
    return eager.seconds
