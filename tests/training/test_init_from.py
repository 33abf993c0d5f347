"""Pretraining goes on from the weights of a checkpoint, ours or a native one, with other text."""

import io
import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
import yaml
from small_runs import settings
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GPT2Config, LlamaConfig, Qwen3Config

from foliogpt.data.arguments import CorpusArguments
from foliogpt.scripts.cli import main
from foliogpt.tokenization import train_tokenizer
from foliogpt.training import ModelArguments, PretrainingArguments, pretrain
from foliogpt.training.arguments import CONTINUED_SHARE
from foliogpt.training.new_model import LONGEST_BLOCK, configured_model, starting_config

IDS_OF_TOKENS = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1}
SHAPE = {**IDS_OF_TOKENS, "vocab_size": 304, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
LLAMA = {**SHAPE, "num_key_value_heads": 1, "intermediate_size": 48, "max_position_embeddings": 64}
NATIVE = {
    "llama": (transformers.LlamaForCausalLM, LlamaConfig(**LLAMA)),
    "qwen3": (
        transformers.Qwen3ForCausalLM,
        Qwen3Config(**LLAMA, head_dim=16),
    ),
    "gpt2": (transformers.GPT2LMHeadModel, GPT2Config(**SHAPE, n_positions=64)),
}
IDS = torch.arange(5, 25)[None]


@pytest.fixture
def checkpoint(save, tokenizer, tmp_path):
    """A function that writes a checkpoint in bfloat16, and says where."""

    def write(kind: str) -> Path:
        if kind == "folio":
            return save("folio", torch.bfloat16, **IDS_OF_TOKENS)
        model_class, config = NATIVE[kind]
        torch.manual_seed(0)
        model = model_class(config).to(torch.bfloat16)
        model.generation_config.temperature, model.generation_config.do_sample = 0.3, True
        model.save_pretrained(tmp_path / kind)
        tokenizer.save_pretrained(tmp_path / kind)
        return tmp_path / kind

    return write


def change_config(folder: Path, **fields) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **fields}))


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(IDS, use_cache=False).logits


def stock_logits(folder: Path) -> torch.Tensor:
    return logits(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32))


@pytest.mark.parametrize("kind", ["folio", *NATIVE])
def test_the_model_begins_as_transformers_loads_it_in_float32(checkpoint, kind):
    folder = checkpoint(kind)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = ModelArguments(init_from=str(folder), block_size=32)
    network = configured_model(model, tokenizer, PretrainingArguments(output_dir="unused"))
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    assert torch.equal(logits(network), stock_logits(folder))


@pytest.mark.parametrize("kind", ["folio", "llama"])
def test_a_step_of_next_to_no_size_keeps_the_outputs_and_writes_what_was_there(corpus, checkpoint, tmp_path, kind):
    folder, run = checkpoint(kind), tmp_path / "run"
    args = settings(run, max_steps=1, learning_rate=1e-9, adam_learning_rate=1e-9)
    report = pretrain(corpus, ModelArguments(init_from=f"hub:{folder}", block_size=32), args)
    torch.testing.assert_close(stock_logits(run), stock_logits(folder), rtol=0, atol=1e-5)
    old, new = (json.loads((path / "config.json").read_text()) for path in (folder, run))
    assert {name for name in old if old[name] != new.get(name)} <= {"dtype", "transformers_version"}
    generation = [json.loads((path / "generation_config.json").read_text()) for path in (folder, run)]
    assert generation[0] == generation[1]
    tokenizers = [AutoTokenizer.from_pretrained(path) for path in (folder, run)]
    assert tokenizers[0].get_vocab() == tokenizers[1].get_vocab()
    assert tokenizers[1].model_max_length == 64  # the context of the model, not of the blocks
    assert report["base_model"] == str(folder)


def test_a_resumed_run_takes_its_own_checkpoint(corpus, checkpoint, tmp_path):
    folder = checkpoint("gpt2")
    model = ModelArguments(init_from=str(folder), block_size=32, dropout=0.1)
    whole = tmp_path / "whole"
    pretrain(corpus, model, settings(whole, max_steps=8, save_steps=4))
    stopped = tmp_path / "stopped"
    stopped.mkdir()
    shutil.copytree(whole / "checkpoint-4", stopped / "checkpoint-4")
    shutil.copy(whole / "run.yaml", stopped)
    shutil.rmtree(folder)
    assert main(["pretrain", "--output_dir", str(stopped), "--resume"]) == 0
    assert (stopped / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    for name in ("config.json", "generation_config.json"):
        assert json.loads((stopped / name).read_text()) == json.loads((whole / name).read_text())
    saved = yaml.safe_load((stopped / "run.yaml").read_text())
    assert saved["learning_rate"] == 0.02 * CONTINUED_SHARE


def test_old_and_new_text_are_mixed_by_weight(corpus, checkpoint, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text("Alpha beta gamma delta. " * 200)
    mixed = CorpusArguments([*corpus.corpus, str(other)], corpus_weights=[0.75, 0.25])
    model = ModelArguments(init_from=str(checkpoint("llama")), block_size=32)
    report = pretrain(mixed, model, settings(tmp_path / "run", max_steps=2))
    assert set(report["val_bits_per_byte_by_corpus"]) == set(mixed.corpus)


def test_open_rates_are_smaller_for_weights_that_are_trained():
    args = PretrainingArguments(output_dir="unused")
    args.set_default_learning_rates(128, is_trained=True)
    assert (args.learning_rate, args.adam_learning_rate) == (0.02 * CONTINUED_SHARE, 0.02 * CONTINUED_SHARE)
    args = PretrainingArguments(output_dir="unused", learning_rate=0.5, adam_learning_rate=0.25)
    args.set_default_learning_rates(128, is_trained=True)
    assert (args.learning_rate, args.adam_learning_rate) == (0.5, 0.25)


def test_rope_can_go_further_and_learned_positions_cannot(checkpoint):
    config = starting_config(ModelArguments(init_from=str(checkpoint("llama")), block_size=128))
    assert config.max_position_embeddings == 128
    assert (
        starting_config(ModelArguments(init_from=str(checkpoint("folio")), block_size=32)).max_position_embeddings == 64
    )
    with pytest.raises(ValueError, match="has learned 64 positions: use --block_size 64 or less"):
        starting_config(ModelArguments(init_from=str(checkpoint("gpt2")), block_size=128))


@pytest.mark.parametrize("kind", ["folio", *NATIVE])
def test_blocks_are_as_long_as_the_context_if_nothing_is_said(corpus, checkpoint, tmp_path, kind):
    folder, run = checkpoint(kind), tmp_path / "run"
    assert ModelArguments().block_size == 256
    argv = ["pretrain", "--init_from", str(folder), "--corpus", *corpus.corpus, "--output_dir", str(run)]
    assert main([*argv, "--max_steps", "1", "--per_device_train_batch_size", "2", "--bf16", "false"]) == 0
    assert yaml.safe_load((run / "run.yaml").read_text())["block_size"] == 64
    assert AutoConfig.from_pretrained(run).max_position_embeddings == 64


def test_the_blocks_of_a_long_context_are_shorter_and_the_context_is_kept(checkpoint, caplog):
    folder = checkpoint("llama")
    change_config(folder, max_position_embeddings=8192)
    model = ModelArguments(init_from=str(folder))
    assert starting_config(model).max_position_embeddings == 8192
    assert model.block_size == LONGEST_BLOCK
    assert "reads 8192 tokens at once; it is trained on blocks of 1024" in caplog.text


def test_a_stream_continues_from_a_checkpoint(corpus, checkpoint, tmp_path):
    folder, run = checkpoint("llama"), tmp_path / "run"
    argv = ["pretrain", "--init_from", str(folder), "--corpus", *corpus.corpus, "--streaming", "--output_dir", str(run)]
    rates = ["--learning_rate", "1e-9", "--adam_learning_rate", "1e-9", "--per_device_train_batch_size", "2"]
    assert main([*argv, *rates, "--max_steps", "2", "--save_steps", "1", "--bf16", "false"]) == 0
    torch.testing.assert_close(stock_logits(run), stock_logits(folder), rtol=0, atol=1e-5)
    shutil.rmtree(folder)
    assert main(["pretrain", "--output_dir", str(run), "--resume", "--max_steps", "3"]) == 0
    assert json.loads((run / "report.json").read_text())["steps"] == 3


@pytest.fixture
def remote(checkpoint) -> Path:
    """A checkpoint whose code is beside it."""
    folder = checkpoint("llama")
    (folder / "code_beside.py").write_text(
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        "class BesideConfig(LlamaConfig):\n    model_type = 'beside'\n"
        "class BesideForCausalLM(LlamaForCausalLM):\n    config_class = BesideConfig\n"
    )
    auto = {"AutoConfig": "code_beside.BesideConfig", "AutoModelForCausalLM": "code_beside.BesideForCausalLM"}
    change_config(folder, model_type="beside", architectures=["BesideForCausalLM"], auto_map=auto)
    return folder


@pytest.mark.parametrize("flag", ["--init_from", "--model_config"])
def test_code_of_a_checkpoint_runs_only_if_allowed(flag, remote, corpus, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))  # nobody is asked
    run = tmp_path / "run"
    argv = ["pretrain", flag, str(remote), "--corpus", *corpus.corpus, "--output_dir", str(run), "--block_size", "32"]
    argv += ["--max_steps", "1", "--per_device_train_batch_size", "2", "--bf16", "false", "--vocab_size", "300"]
    assert main(argv) == 2
    said = capfd.readouterr().err.strip()
    assert "contains custom code" in said or "has code of its own" in said
    assert len(said.splitlines()) == 1
    assert not run.exists() or not any(run.iterdir())
    assert main([*argv, "--trust_remote_code"]) == 0
    assert json.loads((run / "config.json").read_text())["model_type"] == "beside"


def test_only_what_the_weights_leave_open_can_be_set(checkpoint, tmp_path):
    folder = str(checkpoint("gpt2"))
    config = starting_config(ModelArguments(init_from=folder, block_size=32, dropout=0.3))
    assert (config.attn_pdrop, config.embd_pdrop) == (0.3, 0.3)
    with pytest.raises(ValueError, match=r"num_hidden_layers is given, but the weights of .* determine it"):
        starting_config(ModelArguments(init_from=folder, block_size=32, num_hidden_layers=1))
    with pytest.raises(ValueError, match="The tokenizer char has another vocabulary"):
        starting_config(ModelArguments(init_from=folder, block_size=32, tokenizer="char"))
    train_tokenizer(["other text " * 99], 265, show_progress=False).save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="has another vocabulary than"):
        starting_config(ModelArguments(init_from=folder, block_size=32, tokenizer=str(tmp_path / "other")))
    starting_config(ModelArguments(init_from=folder, block_size=32, tokenizer=folder))


@pytest.mark.parametrize("name", ["nowhere", "hub:no/where"])
def test_a_missing_checkpoint_is_reported_before_any_data_is_read(name, tmp_path, capsys):
    assert main(["pretrain", "--corpus", "no-text", "--init_from", name, "--output_dir", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err.strip()
    assert "No model at " in said
    assert len(said.splitlines()) == 1
