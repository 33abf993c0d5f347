"""A token for each row of a batch by a CUDA graph, so that the GPU does not wait for Python to launch each kernel.

A graph replays kernels on the same addresses. So the keys and values lie in buffers for a power of two of rows and of
tokens, and each such size is captured once (https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs).
"""

import contextlib
import logging
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Cache, DynamicCache, StaticLayer

from ..checkpoints.self_check import relative_difference, tolerance

logger = logging.getLogger(__name__)

MIN_TOKENS = 256  # of a buffer
States = list[tuple[torch.Tensor, torch.Tensor]]  # of each layer, the keys and the values (rows, heads, tokens, D)
Run = Callable[[], torch.Tensor]


def states_of(cache: Any) -> States:
    return [(layer.keys, layer.values) for layer in cache.layers]


class NoSynchronization(TorchDispatchMode):
    """Rejects operations for which the CPU waits for the GPU, before they make a capture invalid."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs, tags = kwargs or {}, func.tags
        waits = torch.Tag.data_dependent_output in tags or torch.Tag.dynamic_output_shape in tags
        if func is torch.ops.aten.index.Tensor:
            waits = any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
        elif func is torch.ops.aten._to_copy.default:
            waits = torch.device(kwargs.get("device") or args[0].device).type != args[0].device.type
        elif func is torch.ops.aten.copy_.default:
            waits = args[0].device != args[1].device
        elif func is torch.ops.aten.lift_fresh.default:  # of torch.tensor(..., device="cuda")
            waits = args[0].is_cuda
        if waits:
            raise RuntimeError(f"{func} waits for the GPU")
        return func(*args, **kwargs)


class Recorder:
    """Captures functions on one stream; all graphs share a pool of memory."""

    failed: list[torch.cuda.CUDAGraph] = []  # torch's allocators point to them for as long as the process runs

    def __init__(self, device: torch.device):
        self.stream, self.pool = torch.cuda.Stream(device), torch.cuda.graph_pool_handle()

    def __call__(self, run: Run) -> Run:
        """Return a function that replays the kernels of `run`, and has its output in the same place each time."""
        before, graph = torch.cuda.current_stream(self.stream.device), torch.cuda.CUDAGraph()
        how = {"pool": self.pool, "stream": self.stream, "capture_error_mode": "thread_local"}
        self.stream.wait_stream(before)
        with torch.cuda.stream(self.stream):  # the stream before is restored even if `torch.cuda.graph` fails
            run()
            with NoSynchronization():
                run()
            try:
                with torch.cuda.graph(graph, **how):
                    output = run()
            except BaseException:
                self.failed.append(graph)
                with contextlib.suppress(Exception):  # what torch 2.13 leaves undone if the capture is invalid
                    torch.cuda.memory._cuda_endAllocateToPool(self.stream.device.index, self.pool)
                raise
        before.wait_stream(self.stream)

        def replay() -> torch.Tensor:
            graph.replay()
            return output

        return replay


class StaticStep:
    """Keys and values of rows at fixed addresses, and the forward pass of one token a row over them.

    It takes the place of the rows' cache: `layers` and `get_seq_length` are those of the rows that it holds.
    """

    def __init__(self, forward: Callable, states: States, rows: int, length: int, record: Callable[[Run], Run]):
        self.forward, self.length, self.is_checked = forward, length, False
        self.cache = Cache(layers=[StaticLayer(length) for _ in states])
        for layer, pair in zip(self.cache.layers, states, strict=True):
            layer.lazy_initialization(*(state[:1, :, :0].expand(rows, -1, -1, -1) for state in pair))
        self.nbytes = sum(state.nbytes for pair in states_of(self.cache) for state in pair)
        self.tokens = torch.zeros(2, rows, dtype=torch.long, device=states[0][0].device)  # ids, places
        self.replay = record(self._run)

    def _run(self) -> torch.Tensor:
        """Compute the logits (rows, V). A row that is not in use sees its own token alone."""
        ids, places = self.tokens[:, :, None]  # (rows, 1)
        end = self.cache.layers[0].cumulative_length
        spots = torch.arange(self.length, device=end.device)
        mask = ((spots <= end) & (spots >= end - places)).long()  # (rows, length)
        return self.forward(ids, mask, places, self.cache)

    def load(self, states: States) -> None:
        """Copy the keys and values of rows that end together."""
        self.cache.reset()  # NaN in a masked place would spread
        self.tokens.zero_()
        self.rows, _, self.end, _ = states[0][0].shape
        for layer, (keys, values) in zip(self.cache.layers, states, strict=True):
            layer.cumulative_length.fill_(self.end)
            layer.keys[: self.rows, :, : self.end] = keys
            layer.values[: self.rows, :, : self.end] = values

    def __call__(self, tokens: list[list[int]]) -> torch.Tensor:
        """Append a token to each row, by ids and places; return logits (rows, V), which the next call overwrites."""
        self.tokens[:, : self.rows] = torch.tensor(tokens)
        logits = self.replay()[: self.rows]
        self.end += 1
        return logits

    @property
    def layers(self) -> list[SimpleNamespace]:
        held = [[state[: self.rows, :, : self.end] for state in pair] for pair in states_of(self.cache)]
        return [SimpleNamespace(keys=keys, values=values) for keys, values in held]

    def get_seq_length(self) -> int:
        return self.end


class StaticSteps:
    """The steps of all sizes that were captured. `eager(tokens, cache)` does what cannot be captured or differs."""

    def __init__(self, forward: Callable, eager: Callable, max_bytes: int, record: Callable[[Run], Run]):
        self.forward, self.eager, self.max_bytes, self.record = forward, eager, max_bytes, record
        self.steps: dict[tuple[int, int], StaticStep] = {}  # the last used one is the last
        self.fault: str | None = None

    @property
    def nbytes(self) -> int:
        return sum(step.nbytes for step in self.steps.values())

    def __call__(self, tokens: list[list[int]], cache: Any) -> tuple[torch.Tensor, Any]:
        """Append a token to each row, by ids and places; return logits (rows, V) and what is now the rows' cache."""
        if isinstance(cache, StaticStep):
            if cache.end < cache.length:
                return cache(tokens), cache
            cache = DynamicCache(states_of(cache))
        step = found = None
        try:
            if self.fault is None and (step := self._loaded(states_of(cache))):
                found = step(tokens)
        except Exception as error:
            self._give_up(f"the model's step cannot be captured: {' '.join(str(error).split())}")
        if found is not None and step.is_checked:
            return found, step
        expected = self.eager(tokens, cache)
        if found is not None:
            rows = zip(found.float().nan_to_num(), expected.float().nan_to_num(), strict=True)
            error = max(relative_difference(*row) for row in rows)
            step.is_checked = error <= tolerance(cache.layers[0].keys.dtype)
            if step.is_checked:
                return found, step
            self._give_up(f"a captured step gives other logits (relative difference {error:.2g})")
        return expected, cache

    def _loaded(self, states: States) -> StaticStep | None:
        """Return a step that has taken these states, or None if its buffers would be too large."""
        rows, _, tokens, _ = states[0][0].shape
        size = _power_of_two(rows), max(MIN_TOKENS, _power_of_two(tokens + 1))
        step = self.steps.pop(size, None)
        if step is None:
            needed = math.prod(size) * sum(state[0, :, 0].nbytes for pair in states for state in pair)
            while self.steps and self.nbytes + needed > self.max_bytes:
                del self.steps[next(iter(self.steps))]
            if needed > self.max_bytes:
                return None
            step = StaticStep(self.forward, states, *size, self.record)
        self.steps[size] = step
        step.load(states)
        return step

    def _give_up(self, reason: str) -> None:
        self.fault = reason
        self.steps.clear()
        logger.warning("Tokens are generated without CUDA graphs, more slowly: %s.", reason)


def _power_of_two(least: int) -> int:
    return 1 << (least - 1).bit_length()
