"""Floating-point operations of a training step, and of the machine at its peak."""

import timeit

import torch
from torch import nn

# Dense bfloat16 or float16 flops per second, from the data sheets; in float32 they are an eighth or less.
ACCELERATORS = {
    "B200": 2.25e15, "H200": 989e12, "H100 PCIe": 756e12, "H100 NVL": 835e12, "H100": 989e12, "GH200": 989e12,
    "A100": 312e12, "A10G": 70e12, "A40": 150e12, "L40S": 362e12, "L4": 121e12, "V100": 125e12, "T4": 65e12,
    "4090": 165e12, "3090": 71e12,
}  # fmt: skip
SIZE, TRIES = 1024, 10  # of the matrix products by which a CPU is measured


def multiplied_parameters(model: nn.Module) -> int:
    """Count the parameters that each token is multiplied with: no embeddings, unless they are the output head too."""
    tables = {id(m.weight): m.weight.numel() for m in model.modules() if isinstance(m, nn.Embedding)}
    head = model.get_output_embeddings()
    if head is not None:
        tables.pop(id(head.weight), None)
    return sum(p.numel() for p in model.parameters()) - sum(tables.values())


def flops_per_token(model: nn.Module, block_size: int) -> float:
    """Return the floating-point operations of one token, forward and backward: 6 N + 12 L H D T.

    N is `multiplied_parameters`; attention is counted as if each token saw the whole block (the convention of PaLM,
    Chowdhery et al., 2022, appendix B).
    """
    config = model.config
    heads = getattr(config, "num_attention_heads", 0)  # none in a state-space model
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // max(heads, 1)
    attention = 12 * config.num_hidden_layers * heads * head_dim * block_size
    return 6 * multiplied_parameters(model) + attention


def peak_flops(device: torch.device, dtype: torch.dtype) -> float | None:
    """Return the most flops per second: of a GPU from its data sheet, of a CPU as a matrix product has now, or None."""
    if device.type == "cpu":
        a = torch.randn(SIZE, SIZE).to(dtype)
        torch.mm(a, a)
        return 2 * SIZE**3 / min(timeit.repeat(lambda: torch.mm(a, a), number=1, repeat=TRIES))
    if device.type == "cuda" and dtype in (torch.bfloat16, torch.float16):
        name = torch.cuda.get_device_name(device)
        return next((flops for part, flops in ACCELERATORS.items() if part in name), None)
    return None
