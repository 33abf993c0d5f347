"""A researcher brings a model, a callback, a trainer or an optimizer, without copying our code."""

import re
from pathlib import Path

import pytest
import torch
from small_runs import MODEL, settings
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, LlamaForCausalLM, TrainerCallback

from foliogpt.modeling import FolioForCausalLM, preset_config
from foliogpt.training import FolioTrainer, pretrain

SHAPE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
PAGE = Path(__file__).parents[2] / "docs" / "python.md"


def llama(**fields) -> LlamaConfig:
    return LlamaConfig(**{"vocab_size": 64, "max_position_embeddings": 32, **SHAPE, **fields})


GPT2 = GPT2Config(vocab_size=64, n_positions=32, n_embd=32, n_layer=2, n_head=2)


@pytest.mark.parametrize("config", [llama(), GPT2], ids=lambda config: config.model_type)
def test_config_of_another_architecture_is_trained_and_loads_with_transformers(corpus, tmp_path, config):
    report = pretrain(corpus.corpus[0], config, settings(tmp_path, max_steps=30), tokenizer="char")
    assert report["val_bits_per_byte"] < 3.5  # 4.3 before training
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert loaded.config.model_type == config.model_type
    assert loaded.config.eos_token_id is not None
    card = (tmp_path / "README.md").read_text()
    assert "trust_remote_code" not in card
    assert "custom_code" not in card


def test_model_is_trained_as_it_is(corpus, tmp_path):
    torch.manual_seed(5)
    model = LlamaForCausalLM(llama())
    before = model.model.norm.weight.clone()
    pretrain(corpus, model, settings(tmp_path, max_steps=3), tokenizer="char")
    assert not torch.equal(model.model.norm.weight, before)


def test_config_of_ours_may_have_any_shape(corpus, tmp_path):
    config = preset_config("gpt2", "nano", num_hidden_layers=1, vocab_size=40, max_position_embeddings=32)
    pretrain(corpus, config, settings(tmp_path, max_steps=2), tokenizer="char")
    assert FolioForCausalLM.from_pretrained(tmp_path).config.num_hidden_layers == 1


def test_run_of_an_own_model_resumes(corpus, tmp_path):
    whole = pretrain(corpus, llama(), settings(tmp_path / "whole", max_steps=8, save_steps=4), tokenizer="char")
    pretrain(corpus, llama(), settings(tmp_path / "run", max_steps=4, save_steps=4, decay_steps=0), tokenizer="char")
    args = settings(tmp_path / "run", max_steps=8, save_steps=4, resume=True)
    report = pretrain(corpus, llama(), args, tokenizer="char")
    assert (report["steps"], whole["steps"]) == (8, 8)
    with pytest.raises(ValueError, match="has vocab_size 64, not 4096"):
        pretrain(corpus, MODEL, settings(tmp_path / "run", max_steps=9, resume=True))


def test_callback_trainer_and_optimizer_are_used(corpus, tmp_path):
    seen = []

    class Count(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            seen.append(state.global_step)

    class Halved(FolioTrainer):
        def compute_loss(self, *args, **kwargs):
            seen.append("loss")
            return super().compute_loss(*args, **kwargs) / 2

    def optimizer(model):
        seen.append(torch.optim.SGD(model.parameters(), lr=0.1))
        return seen[-1]

    fields = {"callbacks": [Count()], "trainer_class": Halved, "optimizer": optimizer}
    report = pretrain(corpus, MODEL, settings(tmp_path, max_steps=2), **fields)
    assert [item for item in seen if isinstance(item, int)] == [1, 2]
    assert seen.count("loss") >= 2
    assert isinstance(seen[0], torch.optim.SGD)
    assert report["steps"] == 2


@pytest.mark.parametrize(
    ("model", "fields", "says"),
    [
        (
            llama(vocab_size=9),
            {"tokenizer": "char"},
            "tokens, and the model 9: make its config with vocab_size=",
        ),
        (MODEL, {"tokenizer": "char"}, "give them in ModelArguments"),
    ],
)
def test_an_invalid_model_is_rejected(corpus, tmp_path, model, fields, says):
    with pytest.raises(ValueError, match=says):
        pretrain(corpus, model, settings(tmp_path), **fields)
    with pytest.raises(ValueError, match="LlamaForCausalLM has none"):
        pretrain(corpus, llama(), settings(tmp_path / "z", z_loss=1e-4), tokenizer="char")


@pytest.mark.slow
def test_examples_of_the_page_run(corpus, tmp_path, monkeypatch, capsys):
    (tmp_path / "shakespeare.txt").write_text(Path(corpus.corpus[0]).read_text())
    monkeypatch.chdir(tmp_path)
    session: dict = {}
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 6
    for block in blocks:
        assert len([line for line in block.splitlines() if line]) <= 12
        exec(block.replace("max_steps=20", "max_steps=2"), session)
    assert "interval" not in capsys.readouterr().err
