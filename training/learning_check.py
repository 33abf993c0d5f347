"""A check that ends a training without effect: gradients that are exactly zero, or weights that do not change.

torch 2.11 compiled a loss whose gradients were all zero, and the run continued to its end without an error.
"""

import torch
from transformers import TrainerCallback

from ..jobs.processes import all_reduce_max
from .sharding import local

ZEROS = 3  # steps in a row
STEPS, STEPS_FP16 = 5, 20  # after which a weight has moved; fp16 skips the first ones to find its scale
SAMPLES = 8  # values that are compared, of each weight


class NothingLearnedError(RuntimeError):
    """The gradients are zero, or the weights do not change; the message names what to try."""


class LearningCheck(TrainerCallback):
    """Looks at the gradients at each step, and at the weights once."""

    def __init__(self, trainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        self.zeros = 0
        self.steps = STEPS_FP16 if args.fp16 else STEPS
        self.due = state.global_step + self.steps
        self.before = self._weights()

    def check_gradient(self, loss: torch.Tensor, grad_norm: float | torch.Tensor | None) -> None:
        """Raise NothingLearnedError at the third zero gradient in a row of losses above zero; called after a step."""
        is_zero = grad_norm is not None and float(grad_norm) == 0 and loss.item() > 0
        self.zeros = self.zeros + 1 if is_zero else 0
        if self.zeros == ZEROS:
            raise self._error(f"All gradients have been exactly zero for {ZEROS} steps")

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.due and args.learning_rate > 0:
            moved = any(not torch.equal(a, b) for a, b in zip(self.before, self._weights(), strict=True))
            if not all_reduce_max(int(moved), args.device):
                raise self._error(f"No weight has changed in {self.steps} steps")
            self.before = []

    def _weights(self) -> list[torch.Tensor]:
        """Return a few values of each weight that is trained."""
        trained = (local(p.detach()).flatten() for p in self.trainer.model.parameters() if p.requires_grad)
        return [p[:: max(1, len(p) // SAMPLES)].clone() for p in trained]

    def _error(self, what: str) -> NothingLearnedError:
        args = self.trainer.args
        tries = ["without --torch_compile"] if args.torch_compile else []
        if args.bf16 or args.fp16:
            tries.append("with --bf16 false" if args.bf16 else "without --fp16")
        remedy = ", or ".join([*tries, f"with a --learning_rate above {args.learning_rate:g}"])
        return NothingLearnedError(
            f"{what}: this training learns nothing (torch {torch.__version__}). Start again {remedy}."
        )
