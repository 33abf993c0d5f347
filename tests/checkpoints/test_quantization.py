"""Weights in 8 and 4 bits."""

import copy
import sys

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, Qwen3Config, Qwen3ForCausalLM

from foliogpt.checkpoints.quantization import quantize
from foliogpt.modeling import FolioForCausalLM
from foliogpt.scripts.cli import main
from foliogpt.tokenization import train_tokenizer

IDS = torch.arange(3, 43).view(2, 20)
SIZES = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 4}


def matrices(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the weight matrices that are to be quantized."""
    linears = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    return {name: module.weight.data for name, module in linears.items() if name != "lm_head"}


@pytest.fixture
def model(tiny):
    pytest.importorskip("torchao", reason="needs foliogpt[quantization]")
    torch.manual_seed(0)
    return FolioForCausalLM(tiny(**SIZES, vocab_size=264, initializer_range=0.1)).eval()


def test_int8_moves_no_weight_by_more_than_half_a_step_of_its_row(model):
    exact = copy.deepcopy(matrices(model))
    quantize(model, "int8")
    for name, weight in matrices(model).items():
        step = exact[name].abs().amax(1, keepdim=True) / 127
        assert ((weight.dequantize() - exact[name]).abs() <= 0.51 * step).all()


@pytest.mark.parametrize(("dtype", "most"), [("int8", 0.05), ("int4", 0.35)])
def test_quantized_weights_predict_nearly_the_same_and_generate(model, dtype, most):
    with torch.no_grad():
        exact = model(IDS).logits
        quantize(model, dtype)
        found = model(IDS).logits.float()
    assert 0 < (found - exact).norm() / exact.norm() < most
    assert all(hasattr(weight, "tensor_data_names") for weight in matrices(model).values())
    assert not hasattr(model.lm_head.weight.data, "tensor_data_names")
    assert model.generate(IDS, max_new_tokens=4, min_new_tokens=4).shape == (2, 24)
    assert {buffer.dtype for buffer in model.buffers() if buffer.is_floating_point()} == {torch.float32}


def test_a_stock_model_is_quantized_too():
    pytest.importorskip("torchao", reason="needs foliogpt[quantization]")
    stock = Qwen3ForCausalLM(Qwen3Config(**SIZES, vocab_size=64, num_hidden_layers=1, head_dim=16)).eval()
    quantize(stock, "int4")
    assert stock.generate(IDS, max_new_tokens=4, min_new_tokens=4).shape == (2, 24)


def test_a_model_without_linear_layers_is_refused_and_unchanged():
    stock = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=32, n_head=2, vocab_size=64))
    with pytest.raises(ValueError, match="GPT2LMHeadModel cannot be quantized"):
        quantize(stock, "int8")
    assert stock.dtype == torch.float32


def test_int4_names_the_matrix_that_does_not_fit(tiny):
    with pytest.raises(ValueError, match=r"layers\.0\.mlp\.up_proj is \(40, 64\), but int4 .*: use int8"):
        quantize(FolioForCausalLM(tiny(**{**SIZES, "intermediate_size": 40})), "int4")


def test_the_commands_quantize_and_name_the_extra_that_is_missing(model, tmp_path, monkeypatch, capsys):
    model.save_pretrained(tmp_path)
    train_tokenizer(["the cat is free"], vocab_size=264, show_progress=False).save_pretrained(tmp_path)
    quantized = []
    monkeypatch.setattr("foliogpt.checkpoints.quantization.quantize", lambda model, dtype: quantized.append(dtype))
    command = ["generate", "--model", str(tmp_path), "--prompt", "the", "--max_new_tokens", "2", "--quantize"]
    assert main([*command, "int4"]) == 0
    assert quantized == ["int4"]
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "torchao", None)
    assert main([*command, "int8"]) == 2
    assert capsys.readouterr().err.endswith("A model in int8 needs torchao: pip install 'foliogpt[quantization]'.\n")
