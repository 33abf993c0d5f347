"""The optimizer of `folio pretrain`: Muon for the matrices inside the blocks, AdamW for everything else."""

from collections import defaultdict

import torch
from torch import nn
from transformers import Trainer
from transformers.pytorch_utils import Conv1D

from .arguments import PretrainingArguments, RunArguments
from .sharding import local, spread, whole

# Coefficients of the quintic iteration: chosen to be steepest at 0, not to converge (Jordan et al., 2024).
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5


def build_optimizer(model: nn.Module, args: RunArguments) -> torch.optim.Optimizer:
    """Return the optimizer that the settings name, for the parameters of this model."""
    if isinstance(args, PretrainingArguments) and args.use_muon:
        args.set_default_learning_rates(model.config.get_text_config().hidden_size, is_trained=False)
        rates, betas = (args.learning_rate, args.adam_learning_rate), (args.adam_beta1, args.adam_beta2)
        return MuonAdamW(model, *rates, args.weight_decay, args.muon_momentum, betas=betas)
    kind, options = Trainer.get_optimizer_cls_and_kwargs(args, model)
    return kind(options.pop("params", [p for p in model.parameters() if p.requires_grad]), **options)


def orthogonalize(matrices: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Replace the singular values of each matrix of a stack (N, rows, columns) by values near 1.

    The Newton-Schulz iteration of Muon (Jordan et al., 2024), all matrices at once. The default of `dtype` is bfloat16
    on accelerators, where it is as good and faster, and float32 on CPUs, where bfloat16 is slower.
    """
    dtype = dtype or (torch.float32 if matrices.device.type == "cpu" else torch.bfloat16)
    a, b, c = NEWTON_SCHULZ
    x = matrices.to(dtype)
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrices.dtype)


class MuonAdamW(torch.optim.Optimizer):
    """Muon and `torch.optim.AdamW` as one optimizer that Trainer can hold, schedule and save.

    Muon (Jordan et al., 2024) moves a weight matrix by the orthogonalized momentum of its gradient. It is meant for
    hidden matrices; AdamW trains embeddings, the output head, norms and biases at a rate of its own; a schedule
    multiplies both. `torch.optim.Muon` computes the same with `neuron_beta=None`, but one matrix at a time and always
    in bfloat16, which takes more than twice as long on a CPU.

    Args:
        lr, momentum: of Muon, with Nesterov's look ahead.
        adam_lr, betas: of AdamW.
        weight_decay: decoupled, on matrices only.
        neuron_beta: decay of the mean squares by which Muon evens out its neurons' updates (NorMuon, Li et al., 2025);
            None leaves that out.
    """

    def __init__(
        self,
        model: nn.Module,
        lr: float = 0.02,
        adam_lr: float = 0.02,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        neuron_beta: float | None = 0.95,
        betas: tuple[float, float] = (0.9, 0.95),
    ):
        embeddings = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
        head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
        if head is not None:
            embeddings.update(id(p) for p in head.parameters())
        trainable = [p for p in model.parameters() if p.requires_grad]
        # Not every table of numbers is a linear map: Mamba's A_log is none.
        maps = (m for m in model.modules() if isinstance(m, (nn.Linear, Conv1D, nn.RNNBase)))
        linear = {id(p) for m in maps for p in m.parameters(recurse=False)}
        matrices = {id(p) for p in trainable if p.ndim == 2} & linear - embeddings
        hidden = [p for p in trainable if id(p) in matrices]
        tables = [p for p in trainable if id(p) in embeddings]
        vectors = [p for p in trainable if id(p) not in matrices | embeddings]
        muon = {"kind": "muon", "lr": lr, "momentum": momentum, "neuron_beta": neuron_beta}
        adam = {"lr": adam_lr, "betas": tuple(betas)}
        decays = ((tables, weight_decay), (vectors, 0.0))
        adam_groups = [{"params": params, **adam, "weight_decay": decay} for params, decay in decays if params]
        fused = all(p.is_cuda for p in trainable) or None  # the same in one kernel
        self._adam = torch.optim.AdamW(adam_groups, fused=fused) if adam_groups else None
        # AdamW has filled in the options that its groups left open.
        groups = [{**g, "kind": "adamw"} for g in self._adam.param_groups] if self._adam else []
        if hidden:
            groups.insert(0, {"params": hidden, **muon, "weight_decay": weight_decay})
        super().__init__(groups, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        """Take a step of both. Groups and state belong to this object; AdamW only computes."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            if group["kind"] == "muon":
                self._muon_step(group)
        if self._adam is not None:
            self._adam.param_groups = [g for g in self.param_groups if g["kind"] == "adamw"]
            self._adam.state = self.state
            self._adam.step()
        return loss

    def _muon_step(self, group: dict) -> None:
        stacks = defaultdict(list)  # matrices of one shape are orthogonalised together
        for p in group["params"]:
            if p.grad is not None:
                stacks[(p.shape, p.dtype, p.device)].append(p)
        for (shape, *_), params in stacks.items():
            # A sharded matrix is gathered first: only the complete matrix can be orthogonalized.
            parts, grads = [local(p) for p in params], [local(p.grad) for p in params]
            momenta = [local(self._state(p, "momentum_buffer", p)) for p in params]
            torch._foreach_lerp_(momenta, grads, 1 - group["momentum"])
            ahead = torch._foreach_lerp(grads, momenta, group["momentum"])
            updates = orthogonalize(torch.stack([whole(a, p) for a, p in zip(ahead, params, strict=True)]))
            if group["neuron_beta"] is not None:
                updates = self._even_out(params, updates, group["neuron_beta"])
            updates = [local(spread(u, p)) for u, p in zip(updates.unbind(), params, strict=True)]
            torch._foreach_mul_(parts, 1 - group["lr"] * group["weight_decay"])
            # A tall matrix has a larger output for the same orthogonal update.
            scale = max(1, shape[0] / shape[1]) ** 0.5
            torch._foreach_add_(parts, updates, alpha=-group["lr"] * scale)

    def _even_out(self, params: list, updates: torch.Tensor, beta: float) -> torch.Tensor:
        """Divide each neuron's updates by their usual size, and keep the size of the whole (N, rows, columns)."""
        neurons = -1 if updates.shape[-2] >= updates.shape[-1] else -2  # along the longer side
        squares = updates.float().square().mean(dim=neurons, keepdim=True)
        sizes = [self._state(p, "neuron_buffer", square) for p, square in zip(params, squares, strict=True)]
        torch._foreach_lerp_(sizes, squares.unbind(), 1 - beta)
        before = updates.norm(dim=(-2, -1), keepdim=True)
        # Avoid 0/0 for weights that never received an update (a layer behind zeros).
        updates = updates / torch.stack(sizes).sqrt().clamp(min=1e-7).to(updates.dtype)
        return updates * (before / updates.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7))

    def _state(self, p: torch.Tensor, name: str, like: torch.Tensor) -> torch.Tensor:
        state = self.state[p]
        if name not in state:
            state[name] = torch.zeros_like(like, requires_grad=False)
        return state[name]
