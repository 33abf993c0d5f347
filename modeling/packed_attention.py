"""Attention within rows of several documents, each of which is a separate sequence for torch's flash kernel.

For such a row `sdpa` needs a mask (B, 1, T, T), with which no flash kernel runs. This one needs no mask: a document
begins where a position does not follow the one before. `model.set_attn_implementation("varlen")` chooses it. If the
kernel cannot run (on a CPU, in float32, with dropout, for other sizes of heads), and for padding and caches, `sdpa`
computes the same.
"""

import inspect

import torch
from torch import nn
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

VARLEN = "varlen"
LARGEST_HEAD, FIRST_GENERATION = 256, (8, 0)  # of the flash kernel: head_dim, and CUDA's compute capability
# torch 2.12 asks whether heads are shared; the kernel of 2.11 sees for itself.
SHARED_HEADS = {"enable_gqa": True} if "enable_gqa" in inspect.signature(varlen_attn).parameters else {}


def varlen_mask(batch_size: int, q_length: int, kv_length: int, attention_mask=None, use_vmap=False, **kwargs):
    """Return no mask for complete sequences that the kernel accepts, otherwise the mask of `sdpa`."""
    is_plain = attention_mask is None and q_length == kv_length and not use_vmap
    if is_plain and kernel_can_run(kwargs["config"], torch.device(kwargs["device"]), kwargs["dtype"]):
        return None
    return sdpa_mask(batch_size, q_length, kv_length, attention_mask=attention_mask, use_vmap=use_vmap, **kwargs)


def varlen_attention_forward(
    module: nn.Module,
    query: torch.Tensor,  # (B, H, T, D)
    key: torch.Tensor,  # (B, H_kv, S, D)
    value: torch.Tensor,  # (B, H_kv, S, D)
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    position_ids: torch.Tensor | None = None,  # (B, T) or (1, T)
    cu_seq_lens_q: torch.Tensor | None = None,  # (documents + 1,), int32: where they begin, and the end
    **kwargs,
) -> tuple[torch.Tensor, None]:
    """Compute the output (B, T, H, D) of attention within documents; there is none between rows and documents."""
    batch, _, length, _ = query.shape
    is_causal = kwargs.pop("is_causal", None)
    is_causal = module.is_causal if is_causal is None else is_causal
    is_masked = attention_mask is not None or length != key.shape[2] or position_ids is None
    if is_masked or not kernel_can_run(module.config, query.device, query.dtype):
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, is_causal, **kwargs)
    if not is_causal:  # each row is one sequence
        cu_seq_lens_q = torch.arange(0, batch * length + 1, length, dtype=torch.int32, device=query.device)
    elif cu_seq_lens_q is None:
        cu_seq_lens_q = sequence_lengths(position_ids, batch)
    window = -1 if sliding_window is None else sliding_window - 1  # how far it reaches beyond the token itself
    dtype = precision(query.dtype)
    query, key, value = (states.transpose(1, 2).flatten(0, 1).to(dtype) for states in (query, key, value))
    output = varlen_attn(
        query, key, value, cu_seq_lens_q, cu_seq_lens_q, length, length,
        scale=scaling, window_size=(window, 0 if is_causal else window), **SHARED_HEADS,
    )  # fmt: skip
    return output.unflatten(0, (batch, length)), None


def precision(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of queries and keys, which are matrix products: under autocast it is not the model's."""
    return torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else dtype


def kernel_can_run(config, device: torch.device, dtype: torch.dtype) -> bool:
    """Check if the device has the flash kernel, and the kernel supports the model's heads."""
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    fits = head_dim <= LARGEST_HEAD and head_dim % 8 == 0 and not getattr(config, "attention_dropout", 0.0)
    is_half = precision(dtype) in (torch.float16, torch.bfloat16)
    return fits and is_half and device.type == "cuda" and is_new_enough(device)


@torch.compiler.assume_constant_result  # torch 2.11 cannot compile the comparison
def is_new_enough(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device) >= FIRST_GENERATION


def sequence_lengths(position_ids: torch.Tensor, batch: int) -> torch.Tensor:
    """Compute `cu_seq_lens` (documents + 1,), int32, of `batch` rows; once per batch, as the host waits for the GPU."""
    begins = nn.functional.pad(position_ids.expand(batch, -1).diff(dim=-1) != 1, (1, 0), value=True)
    starts = begins.flatten().nonzero().flatten()
    return nn.functional.pad(starts, (0, 1), value=begins.numel()).to(torch.int32)


def register() -> None:
    """Register `varlen` with transformers."""
    AttentionInterface.register(VARLEN, varlen_attention_forward)
    AttentionMaskInterface.register(VARLEN, varlen_mask)
