"""The benchmark of serving runs from end to end on a tiny model, where its figures say nothing."""

import json

import torch

from benchmarks import serving
from foliogpt.modeling import FolioForCausalLM, preset_config


def tiny_model(size: str) -> FolioForCausalLM:
    fields = {"hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 48}
    model = FolioForCausalLM(preset_config("folio", size, vocab_size=serving.VOCAB, **fields)).eval()
    model.generation_config.eos_token_id = None
    return model


def test_the_serving_benchmark_loses_nothing_and_writes_its_figures(tmp_path, monkeypatch, capsys):
    threads = torch.get_num_threads()
    topics = {"one": "the cat is free. " * 200}
    for name, value in {
        "VOCAB": 265,
        "PROMPT": 8,
        "NEW": 4,
        "TWICE": 64,
        "topics": topics,
        "build": tiny_model,
        "against_transformers": lambda folder, prompts, new: [{"prompts": len(prompts)}],
    }.items():
        monkeypatch.setattr(serving, name, value)
    file = tmp_path / "serving.json"
    serving.main(["--sizes", "nano", "--clients", "4", "--requests", "12", "--json", str(file)])
    torch.set_num_threads(threads)
    figures = json.loads(file.read_text())
    assert [len(figures["nano"]["speed"]), figures["nano"]["waiting"]["p95 / alone"] > 0] == [2, True]
    endurance = figures["endurance"]
    assert [endurance[name] for name in ("lost", "rows left", "threads more")] == [0, 0, 0]
    assert figures["servers"] == [{"prompts": 4}]
    assert "12 requests" in capsys.readouterr().out
