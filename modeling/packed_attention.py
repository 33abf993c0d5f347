"""Attention to rows of several documents, each of which is a sequence of its own to torch's flash kernel.

For such a row `sdpa` needs a mask (B, 1, T, T), with which no flash kernel runs. This one needs no mask: a document
begins where a position does not follow the one before. `model.set_attn_implementation("varlen")` chooses it. Where the
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
    """No mask for whole sequences without padding; else the mask of `sdpa`."""
    if attention_mask is None and q_length == kv_length and not use_vmap:
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
    """The output (B, T, H, D) of attention within documents; between rows and documents there is none."""
    batch, _, length, _ = query.shape
    is_causal = kwargs.pop("is_causal", None)
    is_causal = module.is_causal if is_causal is None else is_causal
    if attention_mask is not None or length != key.shape[2] or position_ids is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, is_causal, **kwargs)
    begins = document_begins(position_ids.expand(batch, -1) if is_causal else None, batch, length, query.device)
    dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else query.dtype
    if not kernel_can_run(query, dtype, dropout):
        mask = documents_mask(begins, is_causal, sliding_window)
        return sdpa_attention_forward(module, query, key, value, mask, dropout, scaling, False, **kwargs)
    if cu_seq_lens_q is None or not is_causal:
        cu_seq_lens_q = sequence_lengths(begins)
    window = -1 if sliding_window is None else sliding_window - 1  # how far it reaches beyond the token itself
    query, key, value = (states.transpose(1, 2).flatten(0, 1).to(dtype) for states in (query, key, value))
    output = varlen_attn(
        query, key, value, cu_seq_lens_q, cu_seq_lens_q, length, length,
        scale=scaling, window_size=(window, 0 if is_causal else window), **SHARED_HEADS,
    )  # fmt: skip
    return output.unflatten(0, (batch, length)), None


def kernel_can_run(query: torch.Tensor, dtype: torch.dtype, dropout: float) -> bool:
    head_dim = query.shape[-1]
    fits = dtype in (torch.float16, torch.bfloat16) and not dropout and head_dim <= LARGEST_HEAD and head_dim % 8 == 0
    return fits and query.is_cuda and torch.cuda.get_device_capability(query.device) >= FIRST_GENERATION


def document_begins(position_ids: torch.Tensor | None, batch: int, length: int, device) -> torch.Tensor:
    """Which tokens begin a document (B, T): the first of each row, and those whose position does not follow."""
    begins = torch.zeros(batch, length, dtype=torch.bool, device=device)
    begins[:, 0] = True
    if position_ids is not None:
        begins[:, 1:] = position_ids.diff(dim=-1) != 1
    return begins


def sequence_lengths(begins: torch.Tensor) -> torch.Tensor:
    """`cu_seq_lens` (documents + 1,), int32, of documents that begin at these tokens (B, T)."""
    starts = begins.flatten().nonzero().flatten()
    return torch.cat([starts, starts.new_tensor([begins.numel()])]).to(torch.int32)


def documents_mask(begins: torch.Tensor, is_causal: bool, sliding_window: int | None) -> torch.Tensor:
    """Which tokens attend to which (B, 1, T, T)."""
    document = begins.cumsum(dim=-1)
    index = torch.arange(begins.shape[-1], device=begins.device)
    distance = index[:, None] - index
    mask = document[:, :, None] == document[:, None, :]
    if is_causal:
        mask = mask & (distance >= 0)
    if sliding_window is not None:
        mask = mask & (distance.abs() < sliding_window)
    return mask[:, None]


def register() -> None:
    """Make `varlen` known to transformers' models."""
    AttentionInterface.register(VARLEN, varlen_attention_forward)
    AttentionMaskInterface.register(VARLEN, varlen_mask)
