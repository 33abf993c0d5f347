"""The script for a GPU runs on a CPU, too, where its figures say nothing."""

import json
import sys

import pytest
import torch

from benchmarks import gpu


def test_steps_and_decoding_run_and_are_written(tmp_path, monkeypatch, capsys):
    file = tmp_path / "gpu.json"
    monkeypatch.setattr(sys, "argv", ["gpu", "--tiny", "--only", "step", "decode", "--json", str(file)])
    gpu.main()
    figures = json.loads(file.read_text())
    assert all(row["tokens/s"] > 0 for part in ("step", "decode") for row in figures[part])
    assert {row["what"] for row in figures["step"]} >= {
        "ours, packed, varlen, chunks, eager",
        "Qwen3, plain, eager",
    }
    assert "| ours, batch 64" in capsys.readouterr().out


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("preset", ["folio", "window"])
def test_gradients_are_compared_with_those_of_attention_written_out(preset, packed, monkeypatch):
    shape = gpu.Shape(tiny=True)
    assert gpu.same_gradients(shape, preset, torch.float32, 32, packed, "")["ok"]
    monkeypatch.setattr("foliogpt.modeling.packed_attention.sdpa_mask", lambda *given, **named: None)
    if packed:  # documents see each other: it is told
        assert not gpu.same_gradients(shape, preset, torch.float32, 32, packed, "")["ok"]


def test_a_part_that_fails_is_a_row_that_says_why():
    def fails():
        raise RuntimeError("no such\nkernel")

    assert gpu.row_of("attention", fails)["result"] == "RuntimeError: no such kernel"


def test_what_there_is_no_time_for_is_told_and_nothing_is_lost(tmp_path, monkeypatch):
    file = tmp_path / "gpu.json"
    monkeypatch.setattr(gpu, "UNTIL", [0.0])
    monkeypatch.setattr(gpu, "race", lambda *given: 1 / 0)
    words = ["--tiny", "--minutes", "0", "--only", "race", "decode", "--json", str(file)]
    monkeypatch.setattr(sys, "argv", ["gpu", *words])
    gpu.main()
    figures = json.loads(file.read_text())
    assert figures["race"][0]["result"] == "ZeroDivisionError: division by zero"
    assert all(row["result"] == "TimeoutError: no time was left" for row in figures["decode"])
