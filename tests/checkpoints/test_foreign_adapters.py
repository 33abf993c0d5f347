"""Adapters that were made with plain PEFT compute what they computed there, merged or not. PEFT is the oracle."""

import json

import peft
import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, LlamaConfig, Qwen3Config

from foliogpt.checkpoints import adapter_merging, convert
from foliogpt.checkpoints.loading import load_model, task_of
from foliogpt.checkpoints.self_check import cache_error
from foliogpt.modeling import preset_config
from foliogpt.tokenization import train_tokenizer
from foliogpt.training.finetuning.merging import merge

ROWS = 270
IDS = torch.tensor([[5, 17, 42, 99, 200, 261, 8, 33]])
SIZE = {
    "vocab_size": ROWS, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 48, "max_position_embeddings": 64, "initializer_range": 0.3, "pad_token_id": 1,
    "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip
BASES = {
    "ours, tied": lambda: preset_config("folio", "nano", **SIZE, residual_init="normal", tie_word_embeddings=True),
    "ours, untied": lambda: preset_config("folio", "nano", **SIZE, residual_init="normal", tie_word_embeddings=False),
    "llama, tied": lambda: LlamaConfig(**SIZE, tie_word_embeddings=True),
    "qwen3, tied": lambda: Qwen3Config(**SIZE, head_dim=8, tie_word_embeddings=True),
}
ALL = {"target_modules": "all-linear"}


def lora(**fields):
    return peft.LoraConfig(task_type="CAUSAL_LM", **{"r": 4, "target_modules": ["q_proj", "v_proj"], **fields})


MERGED = {
    "lora": lambda: lora(**ALL),
    "rslora": lambda: lora(use_rslora=True),
    "dora": lambda: lora(use_dora=True, **ALL),
    "pissa": lambda: lora(init_lora_weights="pissa"),
    "oft": lambda: peft.OFTConfig(task_type="CAUSAL_LM", oft_block_size=4, **ALL),
    "ia3": lambda: peft.IA3Config(task_type="CAUSAL_LM"),
    "vera": lambda: peft.VeraConfig(task_type="CAUSAL_LM", **ALL),
    "layers_to_transform": lambda: lora(layers_to_transform=[1]),
    "target_parameters": lambda: lora(target_parameters=["mlp.gate_proj.weight"]),
    "layer_replication": lambda: lora(layer_replication=[[0, 2], [0, 2]]),
    "embeddings": lambda: lora(target_modules=["q_proj", "embed_tokens"]),
    "head": lambda: lora(target_modules=["q_proj", "lm_head"]),
    "embeddings and head": lambda: lora(target_modules=["q_proj", "embed_tokens", "lm_head"]),
    "embeddings, tied": lambda: lora(target_modules=["q_proj", "embed_tokens"], ensure_weight_tying=True),
    "dora of embeddings": lambda: lora(target_modules=["embed_tokens"], use_dora=True),
    "modules_to_save, embeddings": lambda: lora(modules_to_save=["embed_tokens"]),
    "modules_to_save, head": lambda: lora(modules_to_save=["lm_head"]),
    "modules_to_save, tied": lambda: lora(modules_to_save=["embed_tokens"], ensure_weight_tying=True),
    "tokens": lambda: lora(trainable_token_indices=[5, 17]),
    "tokens of the head": lambda: lora(trainable_token_indices={"lm_head": [5, 17]}),
    "tokens alone": lambda: peft.TrainableTokensConfig(task_type="CAUSAL_LM", token_indices=[5, 17]),
}
STAY_TIED = {"embeddings, tied", "modules_to_save, tied", "tokens", "tokens alone"}
PROMPTS = {
    "prompt": lambda: peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    "prefix": lambda: peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    "p-tuning": lambda: peft.PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
}
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # PEFT's, of tied embeddings


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bases")
    tokenizer = train_tokenizer(["the cat is free one two three"] * 20, ROWS, show_progress=False)
    torch.manual_seed(0)
    for name, config in BASES.items():
        AutoModelForCausalLM.from_config(config()).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder


def adapted(base, config, rows=ROWS, **options):
    """Make a PEFT model whose trained weights are far from their initial values."""
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(base, **options)
    if rows != ROWS:
        model.resize_token_embeddings(rows, mean_resizing=False)
    model = peft.get_peft_model(model, config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


@torch.no_grad()
def logits(model):
    return model(input_ids=IDS, use_cache=False).logits


def distance(model, expected) -> float:
    found = logits(model)
    assert found.shape == expected.shape
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("kind", MERGED)
def test_an_adapter_computes_the_same_loaded_and_merged(bases, tmp_path, base, kind):
    if kind == "layer_replication" and base == "qwen3, tied":
        pytest.skip("PEFT cannot replicate the layers of a model with layer_types, and stock Qwen3 then fails")
    model = adapted(bases / base, MERGED[kind]())
    expected = logits(model)
    assert distance(AutoModelForCausalLM.from_pretrained(bases / base), expected) > 0.02
    model.save_pretrained(tmp_path / "adapter")
    loaded, _ = load_model(str(tmp_path / "adapter"))
    assert not hasattr(loaded, "peft_config")
    assert distance(loaded, expected) < 1e-5
    merge(str(tmp_path / "adapter"), tmp_path / "merged")
    again, _ = load_model(str(tmp_path / "merged"))
    assert distance(again, expected) < 1e-5
    ends = [again.get_input_embeddings().weight, again.get_output_embeddings().weight]
    touches_ends = any(word in kind for word in ("embeddings", "head", "tied", "tokens"))
    stays_tied = base.endswith(", tied") and (kind in STAY_TIED or not touches_ends)
    assert (ends[0] is ends[1]) == again.config.tie_word_embeddings == stays_tied
    again.generate(IDS, max_new_tokens=2)


def test_convert_works_when_merging_has_untied_the_embeddings(bases, tmp_path):
    model = adapted(bases / "ours, tied", MERGED["embeddings"]())
    model.save_pretrained(tmp_path / "adapter")
    with pytest.raises(ValueError, match=r"is an adapter, not a model: make a checkpoint .* with folio merge"):
        convert(tmp_path / "adapter", tmp_path / "no", "qwen3")
    merge(str(tmp_path / "adapter"), tmp_path / "merged")
    convert(tmp_path / "merged", tmp_path / "qwen3", "qwen3")
    assert distance(transformers.Qwen3ForCausalLM.from_pretrained(tmp_path / "qwen3"), logits(model)) < 1e-5


@pytest.mark.parametrize("base", ["ours, tied", "ours, untied", "llama, tied"])
@pytest.mark.parametrize("rows", [ROWS - 5, ROWS + 2, 320])
@pytest.mark.parametrize("kind", ["lora", "embeddings", "modules_to_save, head", "tokens"])
def test_an_adapter_over_more_or_fewer_rows_of_embeddings(bases, tmp_path, base, rows, kind):
    model = adapted(bases / base, MERGED[kind](), rows)
    model.save_pretrained(tmp_path / "adapter")
    loaded, _ = load_model(str(tmp_path / "adapter"))
    assert loaded.config.vocab_size == rows
    found, expected = logits(loaded), logits(model)
    if (base, kind) == ("ours, untied", "embeddings"):  # PEFT does not store the head's new rows
        found, expected = found[..., :ROWS], expected[..., :ROWS]
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("base", ["ours, tied", "qwen3, tied"])
def test_a_base_in_16_bits_is_merged_in_32_and_rounded_once(bases, tmp_path, base):
    for dtype in (torch.bfloat16, torch.float16):
        model = adapted(bases / base, MERGED["lora"](), dtype=dtype)
        folder = tmp_path / str(dtype)
        model.get_base_model().name_or_path = str(folder / "base")
        AutoModelForCausalLM.from_pretrained(bases / base, dtype=dtype).save_pretrained(folder / "base")
        model.peft_config["default"].base_model_name_or_path = str(folder / "base")
        transformers.AutoTokenizer.from_pretrained(bases / base).save_pretrained(folder / "base")
        model.save_pretrained(folder / "adapter")
        loaded, _ = load_model(str(folder / "adapter"))
        assert {parameter.dtype for parameter in loaded.parameters()} == {dtype}
        exact = model.float().merge_and_unload()
        for name, weight in exact.named_parameters():
            torch.testing.assert_close(
                loaded.get_parameter(name), weight.to(dtype), atol=0, rtol=torch.finfo(dtype).eps
            )


def test_an_adapter_that_peft_cannot_merge_is_loaded_unmerged_and_not_written(bases, tmp_path):
    model = adapted(bases / "llama, tied", lora(lora_bias=True))  # the layers of the base have no bias to add to
    model.save_pretrained(tmp_path / "adapter")
    loaded, _ = load_model(str(tmp_path / "adapter"))
    assert hasattr(loaded, "peft_config")
    assert distance(loaded, logits(model)) < 1e-6
    with pytest.raises(ValueError, match=r"adapter cannot be merged \(PEFT does not merge it: .*\): use it as it is"):
        merge(str(tmp_path / "adapter"), tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize("kind", ["embeddings", "head", "layer_replication", "tokens of the head"])
def test_a_wrong_merge_is_found(bases, tmp_path, monkeypatch, kind):
    model = adapted(bases / "llama, tied", MERGED[kind]())
    model.save_pretrained(tmp_path / "adapter")
    monkeypatch.setattr(adapter_merging, "_unshare", lambda model: None)  # as PEFT would do it
    loaded, _ = load_model(str(tmp_path / "adapter"))
    assert hasattr(loaded, "peft_config")
    assert distance(loaded, logits(model)) < 1e-6
    with pytest.raises(ValueError, match=r"the logits would differ by .*, more than 0\.001"):
        merge(str(tmp_path / "adapter"), tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
def test_an_adapter_whose_weights_are_not_finite_is_neither_loaded_nor_merged(bases, tmp_path, broken):
    model = adapted(bases / "ours, tied", MERGED["lora"]())
    with torch.no_grad():
        next(parameter for parameter in model.parameters() if parameter.requires_grad)[0, 0] = broken
    model.save_pretrained(tmp_path / "adapter")
    for use in (load_model, lambda adapter: merge(adapter, tmp_path / "merged")):
        with pytest.raises(ValueError, match=r"adapter gives NaN or infinite logits: .*again\.$"):
            use(str(tmp_path / "adapter"))
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize("base", ["ours, tied", "llama, tied", "qwen3, tied"])
@pytest.mark.parametrize("kind", PROMPTS)
def test_vectors_before_the_text_stand_there_once_when_text_is_generated(bases, tmp_path, base, kind):
    model = adapted(bases / base, PROMPTS[kind]())
    model.save_pretrained(tmp_path / "adapter")
    loaded, _ = load_model(str(tmp_path / "adapter"))
    assert distance(loaded, logits(model)) < 1e-6
    assert cache_error(loaded) < 1e-4


def test_several_adapters_in_a_folder_are_named_one_by_one(bases, tmp_path):
    model = adapted(bases / "ours, tied", MERGED["lora"]())
    model.add_adapter("other", MERGED["rslora"]())
    model.save_pretrained(tmp_path / "with default")
    loaded, _ = load_model(str(tmp_path / "with default"))
    assert distance(loaded, logits(model)) < 1e-5
    (tmp_path / "with default" / "adapter_config.json").unlink()
    with pytest.raises(OSError, match=r"contains adapters, and is none: name one of the 1, for instance .*other\."):
        load_model(str(tmp_path / "with default"))
    model.set_adapter("other")
    assert distance(load_model(str(tmp_path / "with default" / "other"))[0], logits(model)) < 1e-5


@pytest.mark.parametrize("base", ["ours, tied", "llama, tied"])
def test_a_classifier_has_the_labels_of_its_adapter(bases, tmp_path, base):
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(bases / base, num_labels=5)
    config = peft.LoraConfig(task_type="SEQ_CLS", target_modules=["q_proj"], init_lora_weights=False)
    model = peft.get_peft_model(model, config).eval()
    model.save_pretrained(tmp_path / "adapter")
    assert task_of(str(tmp_path / "adapter")) == "classify"
    loaded, _ = load_model(str(tmp_path / "adapter"), "classify")
    assert distance(loaded, logits(model)) < 1e-5
    with pytest.raises(ValueError, match="is an adapter for classify, and no causal language model"):
        load_model(str(tmp_path / "adapter"))


def test_load_model_rejects_an_adapter_without_a_trained_head(bases, tmp_path):
    adapted(bases / "ours, tied", MERGED["lora"]()).save_pretrained(tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "task_type": None}))
    with pytest.raises(ValueError, match=r"is no classifier of texts: neither it nor its base has score\.weight"):
        load_model(str(tmp_path / "adapter"), "classify")
