"""`--model_config` trains any causal language model of transformers, with the same command."""

import json

import pytest
import torch
from small_runs import settings
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    MambaForCausalLM,
    Qwen3Config,
    T5Config,
)

from foliogpt.scripts.cli import main
from foliogpt.training import ModelArguments, pretrain
from foliogpt.training.new_model import starting_config
from foliogpt.training.optimizers import MuonAdamW

SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
CONFIGS = {
    "mamba": MambaConfig(hidden_size=32, num_hidden_layers=2, state_size=4, dtype="bfloat16"),
    "llama": LlamaConfig(**SHAPE, intermediate_size=48, dtype="bfloat16"),
    "gpt2": GPT2Config(n_embd=32, n_layer=2, n_head=2),
    "qwen3": Qwen3Config(**SHAPE, intermediate_size=48, head_dim=16),
    "bert": BertConfig(**SHAPE, intermediate_size=48),
    "t5": T5Config(d_model=32),
}


@pytest.fixture
def file(tmp_path):
    def write(kind: str) -> str:
        (tmp_path / f"{kind}.json").write_text(json.dumps(CONFIGS[kind].to_diff_dict(), default=str))
        return str(tmp_path / f"{kind}.json")

    return write


@pytest.mark.parametrize("kind", ["mamba", "gpt2"])
def test_it_is_trained_resumed_and_used_by_every_command(corpus, tmp_path, file, kind, capsys, caplog):
    run, common = tmp_path / "run", ["--corpus", *corpus.corpus]
    model = ["--tokenizer", "char", "--block_size", "32", "--model_config", file(kind), "--bf16", "false"]
    short = ["--eval_strategy", "no", "--per_device_train_batch_size", "4", "--output_dir", str(run)]
    steps = ["--max_steps", "2", "--save_steps", "2", "--decay_steps", "0"]
    assert main(["pretrain", *common, *model, *short, *steps]) == 0
    (tmp_path / f"{kind}.json").unlink()  # the run has its own
    assert main(["pretrain", "--output_dir", str(run), "--resume", "--max_steps", "4"]) == 0
    assert ("does not keep the documents of a block apart" in caplog.text) is (kind == "mamba")
    report = json.loads((run / "report.json").read_text())
    assert (report["steps"], report["preset"], report["size"]) == (4, kind, "custom")
    loaded = AutoModelForCausalLM.from_pretrained(run)
    assert loaded.dtype == torch.float32  # whatever the file said
    assert loaded.config.vocab_size == report["vocab_size"]
    assert getattr(loaded.config, "max_position_embeddings", 32) == 32  # more were never trained
    assert loaded.config.eos_token_id == loaded.generation_config.eos_token_id == 0
    assert main(["generate", "--model", str(run), "--prompt", "One", "--max_new_tokens", "3"]) == 0
    assert main(["evaluate", "--model", str(run), "--data", *corpus.corpus]) == 0


def test_flags_change_the_fields_that_it_has(file):
    config = starting_config(
        ModelArguments(model_config=file("gpt2"), hidden_size=16, num_hidden_layers=1, dropout=0.3)
    )
    assert (config.n_embd, config.n_layer) == (16, 1)
    assert (config.attn_pdrop, config.resid_pdrop, config.embd_pdrop) == (0.3, 0.3, 0.3)
    config = starting_config(ModelArguments(model_config=file("qwen3"), num_hidden_layers=3, hidden_size=64))
    assert len(config.layer_types) == 3


@pytest.mark.parametrize(
    ("kind", "fields", "says"),
    [
        ("t5", {}, "No model can be made of .*t5.json: Unrecognized configuration"),
        ("llama", {"qk_norm": True}, "A model of type llama has no qk_norm"),
        ("mamba", {"dropout": 0.1}, "A model of type mamba has no dropout"),
        ("llama", {"hidden_size": 33}, "No model can be made of .*llama.json: .*33"),
    ],
)
def test_an_invalid_config_is_rejected_before_any_data_is_read(file, kind, fields, says):
    with pytest.raises(ValueError, match=says) as error:
        starting_config(ModelArguments(model_config=file(kind), **fields))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("kind", "fields", "says"),
    [
        ("bert", {}, "attends to the tokens that it has to predict"),
    ],
)
def test_a_model_that_cannot_learn_the_next_token_is_rejected(corpus, tmp_path, file, kind, fields, says):
    model = ModelArguments(tokenizer="char", block_size=32, model_config=file(kind), **fields)
    with pytest.raises(ValueError, match=says) as error:
        pretrain(corpus, model, settings(tmp_path / "run"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("{", "is not a valid JSON file"),
        ('{"model_type": "nothing"}', "nothing"),
        (None, "config"),
    ],
)
def test_a_file_that_is_no_config_gives_a_one_line_error(tmp_path, written, says):
    if written is not None:
        (tmp_path / "config").write_text(written)
    with pytest.raises(ValueError, match=f"No model can be made of .*{says}") as found:
        starting_config(ModelArguments(model_config=str(tmp_path / "config")))
    assert "\n" not in str(found.value)


def test_muon_takes_linear_maps_alone():
    config = MambaConfig(vocab_size=60, hidden_size=16, state_size=4, num_hidden_layers=1)
    model = MambaForCausalLM(config)
    groups = MuonAdamW(model).param_groups
    kinds = {id(p): (group["kind"], group["weight_decay"]) for group in groups for p in group["params"]}
    found = {name.rpartition("mixer.")[2]: kinds[id(p)] for name, p in model.named_parameters()}
    assert found["in_proj.weight"][0] == found["out_proj.weight"][0] == "muon"
    assert found["A_log"] == found["conv1d.weight"] == ("adamw", 0.0)
