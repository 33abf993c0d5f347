"""A checkpoint or an adapter is loaded by its name, for the task that it is for."""

import json

import peft
import pytest
import torch
from transformers import BloomConfig, BloomForCausalLM, GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel

from foliogpt.checkpoints.base_record import BASE_FILE, BaseRecord, hash_weights
from foliogpt.checkpoints.loading import context_length, load_model
from foliogpt.modeling import FolioForCausalLM, FolioForSequenceClassification, preset_config
from foliogpt.tokenization import train_tokenizer

IDS = torch.arange(5, 17)[None]
SMALL = {
    "vocab_size": 265,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "intermediate_size": 48,
    "residual_init": "normal",
}


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["the cat is free"] * 20, vocab_size=265, show_progress=False)


@pytest.fixture
def base(tokenizer, tmp_path):
    torch.manual_seed(0)
    FolioForCausalLM(preset_config("folio", "nano", **SMALL)).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def adapter_of(base, folder, config=None, **record):
    """An adapter with random weights, and the logits that it gives."""
    model, _ = load_model(str(base))
    weights_hash = hash_weights(model)
    torch.manual_seed(1)
    adapted = peft.get_peft_model(
        model, config or peft.LoraConfig(target_modules="all-linear", init_lora_weights=False)
    )
    adapted.eval().save_pretrained(folder)
    BaseRecord(weights_hash, **record).save(folder)
    with torch.no_grad():
        return adapted(IDS).logits


def test_a_checkpoint_is_loaded_for_its_task(base, tokenizer, tmp_path):
    model, found = load_model(str(base))
    assert isinstance(model, FolioForCausalLM)
    assert not model.training
    assert found.get_vocab() == tokenizer.get_vocab()
    with pytest.raises(ValueError, match="base is no classifier of texts: name one that is"):
        load_model(str(base), "classify")
    FolioForSequenceClassification(preset_config("folio", "nano", **SMALL)).save_pretrained(tmp_path / "classes")
    tokenizer.save_pretrained(tmp_path / "classes")
    assert isinstance(load_model(str(tmp_path / "classes"), "classify")[0], FolioForSequenceClassification)
    with pytest.raises(ValueError, match="no causal language model"):
        load_model(str(tmp_path / "classes"))
    with pytest.raises(OSError, match="nowhere is not a whole checkpoint's directory"):
        load_model("nowhere")


@pytest.mark.parametrize("with_record", [True, False])
def test_an_adapter_is_put_on_its_base_and_merged(base, tmp_path, with_record):
    expected = adapter_of(base, tmp_path / "adapter")
    if not with_record:  # as others make them
        (tmp_path / "adapter" / BASE_FILE).unlink()
    model, tokenizer = load_model(str(tmp_path / "adapter"))
    assert isinstance(model, FolioForCausalLM)
    assert tokenizer.chat_template
    with torch.no_grad():
        torch.testing.assert_close(model(IDS).logits, expected, atol=1e-5, rtol=0)


def test_an_adapter_that_cannot_be_merged_is_loaded_too(base, tmp_path):
    config = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    expected = adapter_of(base, tmp_path / "adapter", config)
    model, _ = load_model(str(tmp_path / "adapter"))
    with torch.no_grad():
        torch.testing.assert_close(model(IDS).logits, expected)
    assert model.generate(input_ids=IDS, max_new_tokens=3).shape == (1, 15)


def test_virtual_tokens_of_the_active_adapter_are_no_context():
    model = FolioForCausalLM(preset_config("folio", "nano", **SMALL, max_position_embeddings=64))
    assert context_length(model) == 64
    adapted = peft.get_peft_model(model, peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
    adapted.add_adapter("other", peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5))
    assert context_length(adapted) == 61
    adapted.set_adapter("other")
    assert context_length(adapted) == 59
    assert context_length(peft.get_peft_model(model, peft.LoraConfig(target_modules="all-linear"))) == 64


def test_a_stock_model_has_the_context_of_its_config_or_no_end():
    size = {"vocab_size": 99, "hidden_size": 32, "n_layer": 1, "n_head": 2}
    assert context_length(GPT2LMHeadModel(GPT2Config(n_embd=32, n_positions=64, n_layer=1, n_head=2))) == 64
    assert context_length(BloomForCausalLM(BloomConfig(**size))) is None  # ALiBi


def test_another_base_is_refused(base, tmp_path):
    adapter_of(base, tmp_path / "adapter")
    torch.manual_seed(5)
    FolioForCausalLM(preset_config("folio", "nano", **SMALL)).save_pretrained(base)
    with pytest.raises(ValueError, match=r"base has other weights than the model that the adapter .* was trained on"):
        load_model(str(tmp_path / "adapter"))


def spoil_config(folder):
    (folder / "adapter_config.json").write_text("{")


def move_base(folder):
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "/no/where"}))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (spoil_config, "not a whole"),
        (move_base, "The base model of the adapter .* is missing: /no/where"),
        (lambda folder: (folder / "adapter_model.safetensors").unlink(), "has no adapter_model.safetensors"),
        (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"x" * 99), "not a whole"),
        (lambda folder: (folder / BASE_FILE).write_text("{"), "not the record of a base model"),
        (lambda folder: BaseRecord("0", "qa").save(folder), "is an adapter for qa, and no causal"),
    ],
)
def test_an_adapter_that_is_not_whole_is_one_line(base, tmp_path, spoil, says):
    adapter_of(base, tmp_path / "adapter")
    spoil(tmp_path / "adapter")
    with pytest.raises((ValueError, OSError), match=says) as error:
        load_model(str(tmp_path / "adapter"))
    assert "\n" not in str(error.value)


def test_stock_models_and_their_heads(tokenizer, tmp_path):
    config = GPT2Config(vocab_size=265, n_embd=32, n_layer=1, n_head=2, n_positions=64, num_labels=3)
    for model_class, name, task in (
        (GPT2LMHeadModel, "lm", "lm"),
        (GPT2ForSequenceClassification, "classes", "classify"),
    ):
        model_class(config).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        assert isinstance(load_model(str(tmp_path / name), task)[0], model_class)


def test_the_hash_tells_weights_apart_and_leaves_out_what_is_new(tmp_path):
    torch.manual_seed(0)
    model = FolioForSequenceClassification(preset_config("folio", "nano", **SMALL))
    before, backbone = hash_weights(model), hash_weights(model, ["score.weight"])
    model.score.weight.data[0, 0] += 1
    assert hash_weights(model) != before
    assert hash_weights(model, ["score.weight"]) == backbone
