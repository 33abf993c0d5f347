"""The memory of a training step, part by part, computed without allocating it."""

import copy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_iter

from ..modeling.packed_attention import VARLEN

CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")  # of a container


@dataclass
class StepMemory:
    """Bytes that a training step needs on its device, by purpose."""

    weights: int
    gradients: int
    optimizer: int
    activations: int  # kept by the forward pass for the backward pass
    logits: int  # of the chunk of tokens whose loss is computed, or of all

    @property
    def peak(self) -> int:
        """Peak memory: gradients grow while activations are freed, so both are never complete at once."""
        return self.weights + self.optimizer + self.logits + max(self.activations, self.gradients)


def step_memory(
    network, batch_size: int, block_size: int, bf16: bool, make_optimizer, accumulation: int = 1, loss=None
) -> StepMemory:
    """Compute the memory of a training step of `network` on a batch of (batch_size, block_size) tokens.

    A copy of the model without data takes the step: PyTorch follows the shapes and computes nothing, so the model need
    not fit, wherever its weights are. Blocks are assumed to hold several documents, which need an attention mask unless
    the model has a kernel that needs none. With more than one micro-batch per step (`accumulation`), gradients stay
    while activations are there. `loss` is the bytes of a loss outside of the model; None if the model computes it.
    """
    config, checkpointing = network.config.get_text_config(), network.is_activation_checkpointing
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode:
        tensors = (*network.parameters(), *network.buffers())
        fake = {id(t): torch.empty_like(t, device="cpu", requires_grad=t.requires_grad) for t in tensors}
    model = copy.deepcopy(network, fake).train()
    with mode:
        follow = partial(_kept_for_backward, model, batch_size, block_size, bf16, has_loss=loss is None)
        kept = {flag: follow(checkpointing=flag) for flag in (False, checkpointing)}
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = make_optimizer(model)
        for p in trained:
            p.grad = torch.zeros_like(p)
        optimizer.step()
        state = _bytes(t for state in optimizer.state.values() for t in tree_iter(state) if torch.is_tensor(t))
    activations = kept[checkpointing]
    if checkpointing:  # one block at a time is computed again
        activations += (kept[False] - kept[True]) // config.num_hidden_layers
    gradients = _bytes(trained)
    if loss is None:
        tokens, chunk = batch_size * block_size, getattr(network, "loss_chunk_size", None)
        rows = tokens if chunk is None else min(tokens, chunk)
        # The logits and their gradient in float32, and before that both in the precision of the head.
        loss = rows * config.vocab_size * (8 + (4 if bf16 else 0))
        if getattr(network, "softcap", None) is not None:
            loss += rows * config.vocab_size * 4
    if accumulation > 1:
        activations += gradients
    return StepMemory(_bytes(model.parameters()), gradients, state, activations, loss)


def _kept_for_backward(model, batch_size: int, block_size: int, bf16: bool, checkpointing: bool, has_loss: bool) -> int:
    """Return the bytes of the distinct tensors that autograd keeps, without the weights."""
    model.activation_checkpointing_enable() if checkpointing else model.activation_checkpointing_disable()
    weights = {p.untyped_storage()._cdata for p in model.parameters()}
    kept = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    ids = torch.zeros(batch_size, block_size, dtype=torch.long)
    given: dict[str, Any] = {"labels": ids} if has_loss else {}
    if model.config._attn_implementation == VARLEN:
        given["attention_mask"] = dict.fromkeys(model.config.layer_types)
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16),
    ):
        outputs = model(input_ids=ids, **given, use_cache=False)
    del outputs
    return sum(kept.values())


def _bytes(tensors) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def parameters_by_part(network) -> dict[str, int]:
    """Count the parameters of each part; a head that shares the embedding matrix has none of its own."""
    parts = {"embeddings": 0, "attention": 0, "feed-forward": 0, "norms": 0, "head": 0}
    names = {"embed_": "embeddings", "norm": "norms", "attn.": "attention", "mlp.": "feed-forward", "lm_head": "head"}
    for name, p in network.named_parameters():
        part = next((part for key, part in names.items() if key in name), "other")
        parts[part] = parts.get(part, 0) + p.numel()
    return parts


def available_bytes(device: torch.device) -> int:
    """Return the free memory of the device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    process, free = psutil.Process(), [psutil.virtual_memory().available]
    limit = CGROUP_LIMIT.read_text().strip() if CGROUP_LIMIT.is_file() else "max"
    if limit != "max":
        free.append(int(limit) - process.memory_info().rss)
    if psutil.LINUX and (limit := process.rlimit(psutil.RLIMIT_AS)[0]) != psutil.RLIM_INFINITY:  # `ulimit -v`
        free.append(limit - process.memory_info().vms)
    return max(0, min(free))


def gigabytes(size: float) -> str:
    """Return a number of bytes for people."""
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
