"""Training without libraries, written out for the reader: loss, optimizers, schedules, loop, a block, an RNN."""

from .recurrent import RecurrentForCausalLM, lstm, rnn
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
    "SGD", "Adam", "AdamW", "Momentum", "Muon", "Optimizer", "RecurrentForCausalLM", "batches", "clip_gradients",
    "cross_entropy", "log_softmax", "lstm", "orthogonalize", "rnn", "train", "warmup_cosine", "warmup_stable_decay",
]  # fmt: skip
