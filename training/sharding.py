"""Weights that FSDP2 spreads over processes, each of which holds a part as a `DTensor`, and as one again."""

import torch
from safetensors.torch import load_file
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor


def is_sharded(model: nn.Module) -> bool:
    return any(isinstance(p, DTensor) for p in model.parameters())


def local(tensor: torch.Tensor) -> torch.Tensor:
    """The part of a tensor that this process holds."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: torch.Tensor, like: torch.Tensor | None = None) -> torch.Tensor:
    """All of a tensor, or of its part of one that is spread as `like` is. A collective: all must ask for it."""
    if isinstance(like, DTensor):
        tensor = DTensor.from_local(
            tensor, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
        )
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def spread(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A whole tensor that every process has, spread over them as `like` is."""
    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def whole_model(model):
    """A model with all the weights in one piece, for what only works on such. A collective if they are spread."""
    if not is_sharded(model):
        return model
    single = type(model)(model.config).to(model.device)
    single.generation_config = model.generation_config
    with torch.no_grad():
        for (_, mine), (_, theirs) in zip(single.named_parameters(), model.named_parameters(), strict=True):
            mine.copy_(whole(theirs))
    return single.train(model.training)


def load_weights(model: nn.Module, file) -> None:
    """Load a safetensors file with whole weights into a model whose weights may be spread."""
    weights = load_file(file)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(spread(weights[name], p))


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict:
    """`state_dict` with whole tensors, however the weights are spread; a collective if they are."""
    saved = optimizer.state_dict()
    state = {i: {k: whole(v) if torch.is_tensor(v) else v for k, v in s.items()} for i, s in saved["state"].items()}
    return {**saved, "state": state}


def load_optimizer_state(optimizer: torch.optim.Optimizer, saved: dict) -> None:
    """Load what `optimizer_state` has returned into an optimizer of weights that may be spread in another way."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    state = {}
    for i, entries in saved["state"].items():
        like = params[i]
        state[i] = {
            name: spread(value, like) if torch.is_tensor(value) and value.shape == like.shape else value
            for name, value in entries.items()
        }
    optimizer.load_state_dict({**saved, "state": state})
