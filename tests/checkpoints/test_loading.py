"""A checkpoint or an adapter is loaded by its name, for the task that it is for."""

import json
import re
import resource
import shutil

import peft
import pytest
import torch
from transformers import (
    AutoModel,
    BertConfig,
    BertForMaskedLM,
    BertLMHeadModel,
    BertModel,
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    T5Config,
    T5ForConditionalGeneration,
)

from foliogpt.checkpoints.base_record import BASE_FILE, BaseRecord, hash_weights
from foliogpt.checkpoints.loading import context_length, load_checkpoint, load_model
from foliogpt.jobs.saving import write_checksums
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
    """Save an adapter with random weights, and return its logits."""
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


@pytest.mark.parametrize(
    ("lie", "name"),
    [
        ({"num_hidden_layers": 10**9, "layer_types": None}, "num_hidden_layers"),
        ({"num_labels": 10**9}, "num_labels"),
        ({"text_config": {"num_hidden_layers": 10**6}}, "num_hidden_layers"),
        ({"vocab_size": 10**12}, ""),
        ({"hidden_size": 10**9}, ""),
        ({"intermediate_size": 10**10}, ""),
        ({"head_dim": 10**10}, ""),
        ({"num_attention_heads": 10**9}, ""),
    ],
)
@pytest.mark.parametrize("kind", ["folio", "llama"])
def test_a_config_with_false_sizes_is_rejected_before_memory_is_allocated(base, tmp_path, kind, lie, name):
    if kind == "llama":
        fields = {field: SMALL[field] for field in ("vocab_size", "hidden_size", "num_hidden_layers")}
        LlamaForCausalLM(LlamaConfig(**fields, num_attention_heads=2, intermediate_size=48)).save_pretrained(base)
    file = base / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | lie))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(OSError, match=rf"base is not a complete checkpoint.*{name}"):
        load_model(str(base))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # KB


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
    with pytest.raises(OSError, match=r"No model at 'nowhere': there is no such directory, and .*owner/name"):
        load_model("nowhere")


def test_a_hub_out_of_reach_is_asked_once(monkeypatch):
    asked = []

    def out_of_reach(self, name, timeout):
        asked.append((name, timeout))
        raise RuntimeError("no route")  # the class differs between versions of huggingface_hub

    monkeypatch.setattr("foliogpt.checkpoints.loading.HfApi.model_info", out_of_reach)
    with pytest.raises(OSError, match=r"No model at 'me/r9': .*no route"):
        load_model("me/r9")
    assert asked == [("me/r9", 10)]


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


def test_load_model_rejects_another_base(base, tmp_path):
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
        (spoil_config, "not a complete"),
        (move_base, "The base model of the adapter .* is missing: No model at '/no/where'"),
        (lambda folder: (folder / "adapter_model.safetensors").unlink(), "has no adapter_model.safetensors"),
        (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"x" * 99), "not a complete"),
        (lambda folder: (folder / BASE_FILE).write_text("{"), "not the record of a base model"),
        (lambda folder: BaseRecord("0", "qa").save(folder), "is an adapter for qa, and no causal"),
    ],
)
def test_load_model_names_the_fault_of_an_incomplete_adapter_in_one_line(base, tmp_path, spoil, says):
    adapter_of(base, tmp_path / "adapter")
    spoil(tmp_path / "adapter")
    with pytest.raises((ValueError, OSError), match=says) as error:
        load_model(str(tmp_path / "adapter"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", [None, "multi_label_classification"])
def test_base_record_reads_records_of_older_versions_and_rejects_tasks_that_are_gone(tmp_path, kind):
    record = BaseRecord("0", "classify", {0: "cat", 1: "dog"})
    record.save(tmp_path)
    fields = json.loads((tmp_path / BASE_FILE).read_text())
    assert "problem_type" not in fields
    (tmp_path / BASE_FILE).write_text(json.dumps({**fields, "problem_type": kind}))
    if kind is None:
        assert BaseRecord.load(tmp_path) == record
    else:
        with pytest.raises(ValueError, match="is an adapter for multi_label_classification: train one that"):
            BaseRecord.load(tmp_path)


def test_a_classifier_adapter_is_single_label_whatever_its_base_is_for(base, tmp_path):
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "problem_type": "multi_label_classification"}))
    labels = {0: "cat", 1: "dog"}
    model = FolioForSequenceClassification.from_pretrained(base, id2label=labels)
    record = BaseRecord(hash_weights(model, ["score.weight"]), "classify", labels)
    targets = {"target_modules": "all-linear", "modules_to_save": ["score"]}
    peft.get_peft_model(model, peft.LoraConfig("SEQ_CLS", **targets)).save_pretrained(tmp_path / "adapter")
    record.save(tmp_path / "adapter")
    loaded, _ = load_model(str(tmp_path / "adapter"), "classify")
    assert loaded.config.problem_type == "single_label_classification"


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


def test_load_model_names_the_kind_of_a_model_that_cannot_continue_text(tokenizer, tmp_path):
    size = {
        "vocab_size": 265,
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 9,
    }
    ids = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 0)
    for model in (
        BertModel(BertConfig(**size)),
        BertForMaskedLM(BertConfig(**size)),  # transformers loads it as a causal language model, without a warning
        ModernBertForMaskedLM(ModernBertConfig(**size, **ids)),
        T5ForConditionalGeneration(T5Config(vocab_size=265, d_model=32, num_layers=1, d_ff=9, num_heads=2, d_kv=16)),
        FolioForCausalLM(preset_config("folio", "nano", **SMALL, is_causal=False)),
    ):
        folder = tmp_path / type(model).__name__
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        with pytest.raises(ValueError, match=f"is a {folder.name}, and no causal language model, .*: name one that is"):
            load_model(str(folder))
    BertLMHeadModel(BertConfig(**size, is_decoder=True)).save_pretrained(tmp_path / "decoder")
    tokenizer.save_pretrained(tmp_path / "decoder")
    assert isinstance(load_model(str(tmp_path / "decoder"))[0], BertLMHeadModel)


def a_file(name):
    def make(folder, base):
        folder.mkdir()
        (folder / name).write_bytes(b"GGUF")
        return folder / name

    return make


def a_folder_with(*names):
    def make(folder, base):
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("{}")
        return folder

    return make


def an_interrupted_run(folder, base):
    a_folder_with("run.yaml", "tokenizer.json")(folder, base)
    for step in (5, 10, 15):
        shutil.copytree(base, folder / f"checkpoint-{step}")
        (folder / f"checkpoint-{step}" / "trainer_state.json").write_text("{}")
        for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
            (folder / f"checkpoint-{step}" / name).touch()
        if step < 15:  # the last one was not finished
            write_checksums(folder / f"checkpoint-{step}")
    return folder


def a_run_of_others(folder, base):
    for step in (9, 10):
        shutil.copytree(base, folder / f"checkpoint-{step}")
    return folder


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (a_file("m.gguf"), r"m\.gguf is a file: make a checkpoint of it with transformers, .*interchange\.md shows"),
        (a_file("model.safetensors"), "is a file: name the directory that it is in, .*thing"),
        (a_folder_with("m.gguf"), "has no config.json, but GGUF: make a checkpoint of it with transformers, as"),
        (
            a_folder_with("config.json", "pytorch_model.bin"),
            "in pytorch_model.bin, .* if you trust it",
        ),
        (
            a_folder_with("adapter_config.json", "adapter_model.bin"),
            "in adapter_model.bin, .* if you trust it",
        ),
        (
            an_interrupted_run,
            "is an unfinished run, .*: name .*checkpoint-10, or continue .* --resume",
        ),
        (a_run_of_others, "is an unfinished run, .*: name .*checkpoint-10,"),
        (a_folder_with("run.yaml"), "stopped before its first checkpoint, .*: start it again"),
        (a_folder_with("one/adapter_config.json", "two/adapter_config.json"), "name one of the 2, for instance .*one"),
        (a_folder_with("notes.txt"), "is not a complete checkpoint"),
    ],
)
def test_load_model_explains_a_name_that_is_no_checkpoint(base, tmp_path, make, says):
    with pytest.raises(OSError, match=says) as error:
        load_model(str(make(tmp_path / "thing", base)))
    assert "\n" not in str(error.value)


def test_a_checkpoint_that_is_named_for_an_interrupted_run_loads(base, tmp_path):
    with pytest.raises(OSError, match="name ") as error:
        load_model(str(an_interrupted_run(tmp_path / "run", base)))
    assert isinstance(load_model(re.search(r"name (\S+),", str(error.value))[1])[0], FolioForCausalLM)


@pytest.mark.parametrize("task", ["classify", "tag", "qa"])
def test_a_new_head_stands_on_the_weights_of_the_checkpoint(tmp_path, task):
    """In stock Llama's class for answers the stack has another name, under which transformers finds no weight."""
    size = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 32, "intermediate_size": 48}
    LlamaForCausalLM(LlamaConfig(vocab_size=265, **size)).save_pretrained(tmp_path)
    model, missing = load_checkpoint(str(tmp_path), task)
    assert {name.split(".")[0] for name in missing} <= {"score", "classifier", "qa_outputs"}
    with torch.no_grad():
        expected = AutoModel.from_pretrained(tmp_path).eval()(IDS).last_hidden_state
        torch.testing.assert_close(model.base_model.eval()(IDS).last_hidden_state, expected)
