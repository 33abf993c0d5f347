"""Weights in 8 or 4 bits, by torchao: less memory for a little quality."""

import torch
from torch import nn
from transformers import PreTrainedModel

from ..jobs.extras import extra

GROUP = 32  # weights of a row that share a scale and a zero point in 4 bits


def quantize(model: PreTrainedModel, dtype: str) -> None:
    """Hold the weight matrices between the embeddings and the head in `dtype`, "int8" or "int4".

    In 8 bits each row has a scale. In 4 bits each 32 weights of a row have a scale and a zero point, fitted by HQQ
    (Badri and Shaji, 2023), and the model computes in bfloat16. Raises ImportError without torchao; ValueError for a
    model without `nn.Linear` layers or with an adapter apart, and for "int4" if the matrices' sizes do not fit.
    """
    inside = f"{model.base_model_prefix}."
    found = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    matrices = {name: module for name, module in found if name.startswith(inside)}
    if not matrices or hasattr(model, "peft_config"):
        raise ValueError(f"The weights of a {type(model).__name__} cannot be quantized: use them as they are.")
    odd = [name for name, module in matrices.items() if any(size % GROUP for size in module.weight.shape)]
    if dtype == "int4" and odd:
        shape = tuple(matrices[odd[0]].weight.shape)
        raise ValueError(f"{odd[0]} is {shape}, but int4 needs multiples of {GROUP}: use int8.")
    with extra("quantization", f"A model in {dtype}"):
        from torchao import quantization  # pyright: ignore[reportMissingImports]
    config = quantization.Int8WeightOnlyConfig()
    if dtype == "int4":
        for parameter in model.parameters():  # and no buffer: rounded, rotary frequencies turn to other positions
            parameter.data = parameter.data.to(torch.bfloat16)
        if model.device.type == "cpu":
            from torchao.prototype.quantization import int4  # pyright: ignore[reportMissingImports]

            config = int4.PrototypeInt4WeightOnlyConfig(GROUP, "hqq")
        else:
            layout = {"int4_packing_format": "tile_packed_to_4d", "int4_choose_qparams_algorithm": "hqq"}
            config = quantization.Int4WeightOnlyConfig(GROUP, **layout)
    quantization.quantize_(model, config, lambda _, name: name in matrices)
