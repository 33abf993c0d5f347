"""CUDA graphs without a GPU: a tape of operations, which are replayed on the same tensors, without their Python."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from foliogpt.serving.cuda_graphs import NoSynchronization


class Tape(TorchDispatchMode):
    """Records operations, and the tensors that they read and wrote."""

    def __init__(self):
        super().__init__()
        self.operations = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.operations.append((func, args, kwargs or {}, out))
        return out

    def replay(self):
        for func, args, kwargs, out in self.operations:
            again = func(*args, **kwargs)
            for old, new in zip(tree_leaves(out), tree_leaves(again), strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


def record(run):
    """Record a function as `cuda_graphs.Recorder` does."""
    run()
    with NoSynchronization():
        run()
    with Tape() as tape:
        output = run()

    def replay():
        tape.replay()
        return output

    return replay
