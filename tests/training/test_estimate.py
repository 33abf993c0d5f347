"""What is estimated is what happens."""

import json
import re

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from foliogpt.data.arguments import CorpusArguments
from foliogpt.jobs.report import Stages
from foliogpt.modeling import FolioForCausalLM, preset_config
from foliogpt.scripts.cli import main
from foliogpt.training import estimate as module
from foliogpt.training.arguments import ModelArguments, PretrainingArguments
from foliogpt.training.estimate import estimate, show
from foliogpt.training.memory import available_bytes, parameters_by_part, step_memory
from foliogpt.training.optimizers import MuonAdamW
from foliogpt.training.pretraining import pretrain

MODEL = ModelArguments(tokenizer="char", block_size=32)


def kept_in_a_real_step(model, ids, bf16: bool) -> int:
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)  # alive, so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t), torch.autocast("cpu", torch.bfloat16, bf16):
        positions = torch.arange(ids.shape[1]).remainder(ids.shape[1] // 2).expand_as(ids)  # two documents a block
        loss = model(ids, labels=ids, position_ids=positions, use_cache=False).loss
    loss.backward()
    return sum(size for size, _ in kept.values())


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("preset", ["vaswani", "gpt2", "llama", "speedrun", "folio"])
def test_each_part_of_memory_is_what_a_real_step_takes(preset, bf16):
    torch.manual_seed(0)
    model = FolioForCausalLM(preset_config(preset, "nano", vocab_size=500, max_position_embeddings=64)).train()
    model.loss_chunk_size = 64
    predicted = step_memory(model, 4, 64, bf16, MuonAdamW)

    real = kept_in_a_real_step(model, torch.randint(0, 500, (4, 64)), bf16)
    assert predicted.activations == pytest.approx(real, rel=0.02)
    assert predicted.weights == sum(p.numel() * 4 for p in model.parameters())
    assert predicted.gradients == sum(p.grad.numel() * 4 for p in model.parameters())
    optimizer = MuonAdamW(model)
    optimizer.step()
    state = [t for state in optimizer.state.values() for t in state.values() if torch.is_tensor(t)]
    assert predicted.optimizer == sum(t.numel() * t.element_size() for t in state)


@pytest.mark.parametrize("attention", ["sdpa", "varlen"])
def test_the_step_of_a_model_on_another_device_can_be_followed(attention):
    """After a GPU ran out of memory, the model is there."""
    config = preset_config("folio", "nano", vocab_size=500, max_position_embeddings=64)
    model, ids = FolioForCausalLM(config), torch.randint(0, 500, (4, 64))
    model.set_attn_implementation(attention)
    model.loss_chunk_size = 64
    here = step_memory(model, 4, 64, True, MuonAdamW)
    if attention == "varlen":  # no mask, and no copies of shared heads
        model.set_attn_implementation("sdpa")
        assert here.activations < step_memory(model, 4, 64, True, MuonAdamW).activations
        model.set_attn_implementation("varlen")
    model.to("meta").tie_weights()
    assert step_memory(model, *ids.shape, True, MuonAdamW) == here


def test_an_adapter_on_a_stock_model_is_followed_too():
    config = LlamaConfig(
        vocab_size=300, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96
    )
    base = LlamaForCausalLM(config)
    model = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")).train()

    def optimizer(network):
        return torch.optim.AdamW([p for p in network.parameters() if p.requires_grad])

    predicted = step_memory(model, 4, 64, False, optimizer, loss=123)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        outputs = model(torch.randint(0, 300, (4, 64)), use_cache=False)
    del outputs
    trained = sum(p.numel() * 4 for p in model.parameters() if p.requires_grad)
    real = sum(size for size, _ in kept.values())
    assert real <= predicted.activations < 1.1 * real  # one copy more in each layer, which is none on a CPU
    assert predicted.weights == sum(p.numel() * 4 for p in model.parameters())
    assert predicted.gradients == trained
    assert predicted.optimizer == pytest.approx(2 * trained, rel=0.02)
    assert predicted.logits == 123
    assert all(p.device.type == "cpu" and p.grad is None for p in model.parameters())  # it is left as it was


def test_gradient_checkpointing_and_accumulation_are_seen():
    model = FolioForCausalLM(preset_config("folio", "nano", vocab_size=500, max_position_embeddings=64)).train()
    model.loss_chunk_size = 64
    plain = step_memory(model, 8, 64, False, MuonAdamW)
    assert step_memory(model, 8, 64, False, MuonAdamW, accumulation=2).peak == plain.peak + plain.gradients
    model.activation_checkpointing_enable()
    assert step_memory(model, 8, 64, False, MuonAdamW).activations < 0.4 * plain.activations


@pytest.mark.parametrize("tie", [True, False])
def test_parameters_are_counted_once(tie):
    model = FolioForCausalLM(preset_config("gpt2", "nano", tie_word_embeddings=tie))
    parts = parameters_by_part(model)
    assert sum(parts.values()) == model.num_parameters()
    assert parts["head"] == (0 if tie else 4096 * 128)


@pytest.fixture
def text(tmp_path):
    file = tmp_path / "text.txt"
    file.write_text("One two three, the cat is free; four five six, the dog has tricks.\n" * 60)
    return file


def settings(tmp_path, **changes):
    return PretrainingArguments(
        output_dir=str(tmp_path / "run"), **{"per_device_train_batch_size": 4, "bf16": False, **changes}
    )


def test_the_steps_are_those_that_the_run_takes_and_nothing_is_written(text, tmp_path, capsys):
    fields = {"num_train_epochs": 2, "gradient_accumulation_steps": 3}
    found = estimate(CorpusArguments(str(text)), MODEL, settings(tmp_path, **fields))
    assert not (tmp_path / "run").exists()
    report = pretrain(CorpusArguments(str(text)), MODEL, settings(tmp_path, **fields))
    assert found["steps"] == report["steps"]
    assert sum(found["parameters"].values()) == report["parameters"]
    assert found["memory_peak"] == pytest.approx(report["peak_memory_bytes"], rel=0.15)
    assert {"weights", "gradients", "optimizer", "activations", "logits", "process"} == set(found["memory"])
    table = show(found)
    assert f"{report['parameters']:,}" in table
    assert f"{report['steps']} steps" in table


def test_estimate_suggests_settings_that_fit_when_a_run_does_not(text, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "available_bytes", lambda device: 20_000_000)
    args = settings(tmp_path, per_device_train_batch_size=64)
    with pytest.raises(ValueError, match=r"With --per_device_train_batch_size \d+ .* learns the same") as error:
        estimate(CorpusArguments(str(text)), MODEL, args, Stages(silent=True))
    size, steps = map(int, re.search(r"batch_size (\d+) .*accumulation_steps (\d+)", str(error.value)).groups())
    assert size * steps == 64
    smaller = settings(tmp_path, per_device_train_batch_size=size, gradient_accumulation_steps=steps)
    estimate(CorpusArguments(str(text)), MODEL, smaller, Stages(silent=True))
    monkeypatch.setattr(module, "available_bytes", lambda device: 1_000_000)
    with pytest.raises(ValueError, match="use a smaller model"):
        estimate(CorpusArguments(str(text)), MODEL, args, Stages(silent=True))


def test_the_limit_of_a_container_counts(tmp_path, monkeypatch):
    limit = tmp_path / "memory.max"
    limit.write_text("max\n")
    monkeypatch.setattr("foliogpt.training.memory.CGROUP_LIMIT", limit)
    free = available_bytes(torch.device("cpu"))
    limit.write_text("900000000000000\n")
    assert available_bytes(torch.device("cpu")) == pytest.approx(free, rel=0.1)
    limit.write_text("2000000000\n")
    assert available_bytes(torch.device("cpu")) < 2_000_000_000


def test_the_command_reads_the_settings_of_a_run(text, tmp_path, capsys):
    run = tmp_path / "run"
    train = ["pretrain", "--corpus", str(text), "--tokenizer", "char", "--block_size", "32", "--max_steps", "3"]
    assert main([*train, "--bf16", "false", "--output_dir", str(run)]) == 0
    capsys.readouterr()
    assert main(["estimate", "--config", str(run / "run.yaml")]) == 0
    assert "3 steps" in capsys.readouterr().out
    assert main(["estimate", "--corpus", str(tmp_path / "nothing.txt")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_command_prints_the_estimate_as_json(text, capsys):
    argv = ["estimate", "--corpus", str(text), "--tokenizer", "char", "--block_size", "32", "--max_steps", "5"]
    assert main([*argv, "--bf16", "false", "--use_cpu", "true", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["steps"] == 5
    assert found["memory_peak"] >= found["memory"]["weights"] > 0
    assert set(found["seconds"]) == {"training", "evaluation"}
