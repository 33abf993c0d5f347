"""What a library does for training, written out for the reader: the loss, optimizers, schedules, the loop, a block."""

from .training_loop import (
    SGD,
    Adam,
    AdamW,
    Momentum,
    Muon,
    Optimizer,
    batches,
    clip_gradients,
    cross_entropy,
    log_softmax,
    orthogonalize,
    train,
    warmup_cosine,
    warmup_stable_decay,
)

__all__ = [
    "SGD", "Adam", "AdamW", "Momentum", "Muon", "Optimizer", "batches", "clip_gradients", "cross_entropy",
    "log_softmax", "orthogonalize", "train", "warmup_cosine", "warmup_stable_decay",
]  # fmt: skip
