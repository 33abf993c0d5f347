"""Weights that FSDP2 shards over processes, each with a part as a `DTensor`, and their gathering."""

import torch
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor


def is_sharded(model: nn.Module) -> bool:
    return any(isinstance(p, DTensor) for p in model.parameters())


def local(tensor: torch.Tensor) -> torch.Tensor:
    """Return the part of a tensor that this process holds."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: torch.Tensor, like: torch.Tensor | None = None) -> torch.Tensor:
    """Gather a tensor, or the parts of one that is sharded as `like` is. A collective."""
    if isinstance(like, DTensor):
        tensor = DTensor.from_local(
            tensor, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
        )
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def spread(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Shard a tensor, of which every process has a copy, as `like` is."""
    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def whole_model(model):
    """Return the model with gathered weights. A collective if they are sharded."""
    if not is_sharded(model):
        return model
    single = type(model)(model.config).to(model.device)
    single.generation_config = model.generation_config
    single.load_state_dict({name: whole(tensor) for name, tensor in model.state_dict().items()})
    return single.train(model.training)
