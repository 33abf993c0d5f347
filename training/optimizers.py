"""The optimizer of `folio pretrain`: Muon for the matrices inside the blocks, AdamW for everything else."""

import torch
from torch import nn


class MuonAdamW(torch.optim.Optimizer):
    """`torch.optim.Muon` and `torch.optim.AdamW` as one optimizer that Trainer can hold, schedule and save.

    Muon (Jordan et al., 2024) moves a weight matrix by the orthogonalised momentum of its gradient. It is meant
    for hidden matrices; embeddings, the output head, norms and biases go to AdamW. Both learn at their own rate;
    a schedule multiplies both.

    Args:
        model: its trainable parameters are divided between the two.
        lr: learning rate of Muon.
        adam_lr: learning rate of AdamW.
        weight_decay: decoupled, on matrices only.
        momentum: of Muon.
        betas: of AdamW.
    """

    def __init__(
        self,
        model: nn.Module,
        lr: float = 0.02,
        adam_lr: float = 0.02,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.95),
    ):
        embeddings = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
        head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
        if head is not None:
            embeddings.update(id(p) for p in head.parameters())
        trainable = [p for p in model.parameters() if p.requires_grad]
        hidden = [p for p in trainable if p.ndim == 2 and id(p) not in embeddings]
        tables = [p for p in trainable if id(p) in embeddings]
        vectors = [p for p in trainable if p.ndim != 2 and id(p) not in embeddings]
        muon = {"kind": "muon", "lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        adam = {"kind": "adamw", "lr": adam_lr, "betas": tuple(betas)}
        groups = [
            {"params": hidden, **muon},
            {"params": tables, **adam, "weight_decay": weight_decay},
            {"params": vectors, **adam, "weight_decay": 0.0},
        ]
        # The parts fill in the options that a group leaves open, so that this class needs no list of them.
        parts = {"muon": torch.optim.Muon, "adamw": torch.optim.AdamW}
        groups = [group for group in groups if group["params"]]
        self._parts = {
            kind: part([{k: v for k, v in g.items() if k != "kind"} for g in groups if g["kind"] == kind])
            for kind, part in parts.items()
            if any(g["kind"] == kind for g in groups)
        }
        filled = [{**g, "kind": kind} for kind, part in self._parts.items() for g in part.param_groups]
        super().__init__(filled, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        """One step of both. Groups and state belong to this object; the parts only compute."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for kind, part in self._parts.items():
            part.param_groups = [g for g in self.param_groups if g["kind"] == kind]
            part.state = self.state
            part.step()
        return loss
