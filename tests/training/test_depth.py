"""`--depth` sets the shape and the training; flags, files and a run that goes on win over it."""

import json

import pytest
import yaml

from foliogpt.data.arguments import CorpusArguments
from foliogpt.modeling import FolioForCausalLM
from foliogpt.scripts.arguments import parse
from foliogpt.scripts.cli import main
from foliogpt.training import ModelArguments, PretrainingArguments
from foliogpt.training import depth as depth_module
from foliogpt.training.depth import DepthArguments, settings_of_depth

GROUPS = [CorpusArguments, ModelArguments, PretrainingArguments, DepthArguments]


def given(*words: str) -> dict:
    _, model, args, _ = parse(list(words), GROUPS, "folio pretrain", "")
    return {**vars(model), **vars(args)}


@pytest.mark.parametrize("depth", [1, 4, 12, 20])
@pytest.mark.parametrize("block_size", [32, 256, 4096])
def test_it_sets_what_is_not_given(depth, block_size):
    said = given("--depth", str(depth), "--block_size", str(block_size))
    expected = settings_of_depth(depth, block_size)
    assert {name: said[name] for name in expected} == expected
    tokens = said["max_steps"] * said["gradient_accumulation_steps"] * 16 * block_size
    blocks = 12 * depth * said["hidden_size"] ** 2
    assert 0.95 < tokens / (20 * blocks) < 1.05


def test_a_flag_or_a_file_wins_over_it(tmp_path):
    words = ["--depth", "6", "--weight-decay", "0.25", "--hidden_size=96", "--learning_rate", "0.01"]
    said = given(*words, "--gradient_accumulation_steps", "1")  # though 1 is the default without it
    names = ("weight_decay", "hidden_size", "learning_rate", "gradient_accumulation_steps", "num_hidden_layers")
    assert [said[name] for name in names] == [0.25, 96, 0.01, 1, 6]
    (tmp_path / "run.yaml").write_text("depth: 6\nweight_decay: 0.5\nmax_steps: 3\n")
    said = given("--config", str(tmp_path / "run.yaml"))
    assert (said["weight_decay"], said["max_steps"], said["hidden_size"]) == (0.5, 3, 384)


@pytest.mark.parametrize("end", [["--minutes", "5"], ["--num_train_epochs", "4"], ["--num-train-epochs=4.0"]])
def test_another_end_of_the_run_wins_over_its_steps(end):
    assert given("--depth", "4", *end)["max_steps"] == -1


def test_rates_of_muon_are_not_given_to_another_optimizer():
    said = given("--depth", "4", "--optim", "adamw_torch")
    assert (said["learning_rate"], said["adam_learning_rate"]) == (0.001, None)


@pytest.mark.parametrize(
    "words",
    [
        ["--depth", "0"],
        ["--depth", "4", "--size", "nano"],
        ["--depth", "4", "--init_from", "x"],
        ["--depth", "4", "--model_config", "x"],
        ["--depth", "many"],
    ],
)
def test_invalid_depths_give_a_one_line_error(words, capsys, tmp_path):
    assert main(["pretrain", *words, "--corpus", "no-text", "--output_dir", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err.strip()
    assert "depth" in said
    assert len(said.splitlines()) == 1


def test_a_run_is_trained_repeated_and_resumed_without_the_dial(corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(depth_module, "WIDTH", 16)
    monkeypatch.setattr(depth_module, "BATCH", 2**9)
    run = tmp_path / "run"
    argv = ["--corpus", *corpus.corpus, "--tokenizer", "char", "--block_size", "16", "--output_dir", str(run)]
    argv += ["--depth", "2", "--bf16", "false", "--max_steps", "2", "--preset", "gpt2"]
    assert main(["pretrain", *argv, "--gradient_accumulation_steps", "1"]) == 0
    assert "depth 2: width 32, 256 tokens/step" in capsys.readouterr().out
    config = FolioForCausalLM.from_pretrained(run).config
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads) == (2, 32, 2)
    monkeypatch.setattr(depth_module, "WIDTH", 10**6)  # which must not matter now
    saved = yaml.safe_load((run / "run.yaml").read_text())
    assert "depth" not in saved
    assert main(["pretrain", "--config", str(run / "run.yaml"), "--output_dir", str(tmp_path / "again")]) == 0
    reports = [json.loads((tmp_path / name / "report.json").read_text()) for name in ("run", "again")]
    assert reports[0]["val_loss"] == reports[1]["val_loss"]
    assert main(["pretrain", "--output_dir", str(run), "--resume", "--max_steps", "3"]) == 0
    assert json.loads((run / "report.json").read_text())["steps"] == 3
