"""Losses: a next-token loss that never holds all logits, and a classification loss that survives accumulation."""

import torch
from torch import nn


class ChunkLoss(nn.Module):
    """The loss of a few tokens and its gradients. A module, so that compiling a model by its parts compiles this."""

    def forward(self, hidden, head, target, softcap, z_loss: float, ignore_index: int, needs_grad: bool):
        """Map hidden (N, C), head (V, C), target (N) to the summed loss and, if needed, gradients (N, C), (V, C)."""
        exact = torch.promote_types(hidden.dtype, torch.float)
        counted = (target != ignore_index).unsqueeze(1)
        index = (target * counted.squeeze(1)).unsqueeze(1)  # 0 where there is no target; others stay as they are
        # Few passes, and in place where possible: at this size each costs as much as the products.
        logits, tanh = hidden @ head.T, None  # (N, V)
        if softcap is not None:
            tanh = logits.to(exact).div_(softcap).tanh_()
            logits = tanh * softcap
        raw, log_p = logits.gather(1, index), logits.log_softmax(-1, dtype=exact)
        del logits
        at_target = log_p.gather(1, index)
        log_z = raw - at_target
        loss = -(at_target * counted).sum()
        if z_loss:
            loss = loss + (z_loss * log_z.square() * counted).sum()
        if not needs_grad:
            return loss, None, None
        grad = log_p.exp_()
        if z_loss:
            grad.mul_(1 + 2 * z_loss * log_z)
        if torch.compiler.is_compiling():  # what scatters would be written to memory, as float32, and read again
            grad = grad - (index == torch.arange(len(head), device=head.device)).to(exact)
        else:
            grad.scatter_add_(1, index, -torch.ones_like(at_target))
        if tanh is not None:
            grad.mul_(tanh.square_().neg_().add_(1))
        grad = grad.to(hidden.dtype)
        return loss, (grad @ head) * counted, grad.T @ (hidden * counted)


class ChunkedCrossEntropy(torch.autograd.Function):
    """Summed cross-entropy of a linear head, computed a few tokens at a time.

    Logits are the largest tensor of a language model in training: tokens x vocabulary, and stock code holds
    several copies. Here each chunk's logits become its share of the gradient at once and are forgotten
    (the idea of Liger's fused linear cross-entropy, Hsu et al., 2024, in plain PyTorch).
    """

    @staticmethod
    def forward(ctx, hidden, weight, targets, chunk_size, softcap, z_loss, ignore_index, chunk_loss):
        """Map hidden (N, C), weight (V, C), targets (N; `ignore_index` if there is none) to the summed loss, a scalar.

        `z_loss` is the weight of log(Z)^2, Z being the sum that the softmax divides by: it keeps logits from drifting
        (PaLM, Chowdhery et al., 2022).
        """
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        exact = torch.promote_types(dtype, torch.float)
        loss = torch.zeros((), device=hidden.device, dtype=exact)
        head = weight.to(dtype)
        needs_grad = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        grad_hidden = torch.empty_like(hidden) if needs_grad else None
        grad_weight = torch.zeros_like(weight, dtype=exact) if needs_grad else None
        with torch.autocast(device, enabled=False):  # it would cast the weights again for each chunk
            for start in range(0, hidden.shape[0], chunk_size):
                part = slice(start, start + chunk_size)
                h, target = hidden[part].to(dtype), targets[part]
                added, *grads = chunk_loss(h, head, target, softcap, z_loss, ignore_index, needs_grad)
                loss = loss + added  # not `+=`: torch 2.11 compiles the gradients of a changed result to zeros
                if needs_grad:
                    grad_hidden[part] = grads[0]
                    grad_weight += grads[1]
        if needs_grad:
            ctx.save_for_backward(grad_hidden, grad_weight.to(weight.dtype))
        return loss

    @staticmethod
    def backward(ctx, grad_output):
        grad_hidden, grad_weight = ctx.saved_tensors
        return grad_hidden * grad_output.to(grad_hidden.dtype), grad_weight * grad_output, *[None] * 6


def chunked_causal_lm_loss(
    hidden_states,
    weight,
    labels,
    chunk_size,
    softcap=None,
    z_loss=0.0,
    num_items_in_batch=None,
    shift_labels=None,
    ignore_index=-100,
    chunk_loss=None,
):
    """Compute the mean next-token cross-entropy of `hidden_states` (B, T, C) under the head `weight` (V, C).

    Takes the arguments of transformers' `ForCausalLMLoss` with the same meaning: `labels` (B, T) are the inputs
    themselves, `ignore_index` where there is no target, and shifted by one here, unless `shift_labels` (B, T) already
    are. Divides by `num_items_in_batch` (targets in the whole accumulated batch) if given, else by the targets here.

    Raises:
        ValueError: if there are not as many labels as hidden states.
    """
    targets = shifted(labels, shift_labels, ignore_index).to(hidden_states.device)
    hidden_states = hidden_states.flatten(0, 1)
    if len(targets) != len(hidden_states):
        raise ValueError(f"{len(targets)} labels for {len(hidden_states)} positions: give one for each.")
    how = (chunk_size, softcap, z_loss, ignore_index, ChunkLoss() if chunk_loss is None else chunk_loss)
    total = ChunkedCrossEntropy.apply(hidden_states, weight, targets, *how)
    return mean(total, targets, num_items_in_batch, ignore_index)


def z_loss_of(logits, labels, num_items_in_batch=None, shift_labels=None, ignore_index=-100):
    """Compute the mean of log(Z)^2, which `ChunkedCrossEntropy` weights, of all `logits` (B, T, V) at once."""
    targets = shifted(labels, shift_labels, ignore_index).to(logits.device)
    squares = logits.float().logsumexp(-1).flatten().square()
    return mean((squares * (targets != ignore_index)).sum(), targets, num_items_in_batch, ignore_index)


def shifted(labels, shift_labels, ignore_index) -> torch.Tensor:
    """Return the targets of all positions in one dimension, (B * T)."""
    if shift_labels is None:
        shift_labels = nn.functional.pad(labels, (0, 1), value=ignore_index)[..., 1:]
    return shift_labels.reshape(-1)


def mean(total, targets, num_items_in_batch, ignore_index) -> torch.Tensor:
    """Divide `total` by the number of targets, here or in the whole accumulated batch."""
    if num_items_in_batch is None:
        return total / (targets != ignore_index).sum()
    return total / (num_items_in_batch.to(total.device) if torch.is_tensor(num_items_in_batch) else num_items_in_batch)


def classification_loss(logits, labels, config, num_items_in_batch=None):
    """Compute a sequence classifier's squared error, cross-entropy or, for several labels, binary cross-entropy.

    Chooses `config.problem_type` as transformers does. Unlike the stock loss it divides every kind by
    `num_items_in_batch` (labels in the whole accumulated batch), so that gradient accumulation changes nothing.
    """
    if config.problem_type is None:
        if config.num_labels == 1:
            config.problem_type = "regression"
        else:
            single = labels.dtype in (torch.long, torch.int)
            config.problem_type = "single_label_classification" if single else "multi_label_classification"
    labels = labels.to(logits.device)
    reduction = "mean" if num_items_in_batch is None else "sum"
    if config.problem_type == "regression":
        loss = nn.functional.mse_loss(logits.float().flatten(), labels.float().flatten(), reduction=reduction)
    elif config.problem_type == "single_label_classification":
        loss = nn.functional.cross_entropy(
            logits.float().view(-1, config.num_labels), labels.view(-1), reduction=reduction
        )
    else:
        loss = nn.functional.binary_cross_entropy_with_logits(logits.float(), labels.float(), reduction=reduction)
    return loss if num_items_in_batch is None else loss / num_items_in_batch


def span_loss(start_logits, end_logits, start_positions, end_positions, num_items_in_batch=None):
    """Compute the mean cross-entropy of a span's start and end: logits (B, T), positions (B) or (B, 1).

    A position outside of the T tokens adds no loss. Unlike in the stock loss its text still counts: so gradient
    accumulation changes nothing, and a batch with no answer within its tokens has a loss of 0, not NaN.
    """
    count, outside = start_logits.shape
    total = 0.0
    for logits, positions in ((start_logits, start_positions), (end_logits, end_positions)):
        positions = positions.reshape(-1).to(logits.device).clamp(0, outside)
        total += nn.functional.cross_entropy(logits.float(), positions, ignore_index=outside, reduction="sum")
    return total / 2 / (count if num_items_in_batch is None else num_items_in_batch)
