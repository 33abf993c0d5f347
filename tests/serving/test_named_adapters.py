"""Several LoRA adapters on one model, against each of them loaded alone."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from starlette.testclient import TestClient
from transformers import GenerationConfig

from foliogpt.checkpoints.base_record import BaseRecord, hash_weights
from foliogpt.checkpoints.loading import load_model
from foliogpt.checkpoints.named_adapters import add_adapters
from foliogpt.modeling import FolioForCausalLM
from foliogpt.serving.openai_api import Api
from foliogpt.tokenization import encode_chat, train_tokenizer

PROMPTS = ["the cat", "is free, and the cat is", "cat"]


def adapt(base, folder, seed: int, **config) -> None:
    """Save a random adapter of the checkpoint `base`."""
    model = FolioForCausalLM.from_pretrained(base)
    record = BaseRecord(hash_weights(model))
    torch.manual_seed(seed)
    fields = {"r": 4, "init_lora_weights": False, "task_type": "CAUSAL_LM", "target_modules": ["q_proj", "down_proj"]}
    get_peft_model(model, LoraConfig(**{**fields, **config})).save_pretrained(folder)
    record.save(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_config):
    folder = tmp_path_factory.mktemp("adapters")
    tokenizer = train_tokenizer(["the cat is free"] * 20, vocab_size=265, show_progress=False)
    torch.manual_seed(0)
    fields = {"vocab_size": len(tokenizer), "initializer_range": 0.5, "max_position_embeddings": 512}
    FolioForCausalLM(tiny_config(**fields)).save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    adapt(folder / "base", folder / "formal", 1, trainable_token_indices={"embed_tokens": [3, 5]})
    adapt(folder / "base", folder / "friendly", 2, trainable_token_indices={"embed_tokens": [2, 3, 70]})
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}!{% endfor %}"
    tokenizer.save_pretrained(folder / "friendly")
    model = FolioForCausalLM.from_pretrained(folder / "base")
    model.generation_config.max_new_tokens = 3
    model.generation_config.save_pretrained(folder / "friendly")
    return folder


@pytest.fixture(scope="module")
def api(folder):
    model, tokenizer = load_model(str(folder / "base"))
    model, found = add_adapters(model, tokenizer, [str(folder / "formal"), str(folder / "friendly")])
    variants = dict(zip(["base", "base:formal", "base:friendly"], found, strict=True))
    return Api("base", model, tokenizer, encode_chat, adapters=variants)


@pytest.fixture(scope="module")
def alone(folder):
    """The endpoints of each model loaded alone, its adapter merged."""
    apis = {}
    for name in ("base", "formal", "friendly"):
        model, tokenizer = load_model(str(folder / name))
        assert not hasattr(model, "peft_config")
        apis["base" if name == "base" else f"base:{name}"] = TestClient(
            Api("m", model, tokenizer, encode_chat).application()
        )
    return apis


def test_each_adapter_writes_in_one_batch_what_it_writes_alone(api, client, alone):
    assert api.generator.why_alone is None
    jobs = [(name, prompt) for prompt in PROMPTS for name in alone] * 2  # the second time, the prompts are cached

    def text(job) -> str:
        name, prompt = job
        options = {"max_tokens": 12, "temperature": 0, "extra_body": {"ignore_eos": True}}
        return client.completions.create(model=name, prompt=prompt, **options).choices[0].text

    with ThreadPoolExecutor(len(jobs)) as pool:
        texts = list(pool.map(text, jobs))
    for (name, prompt), found in zip(jobs, texts, strict=True):
        body = {"model": "m", "prompt": prompt, "max_tokens": 12, "temperature": 0, "ignore_eos": True}
        assert found == alone[name].post("/v1/completions", json=body).json()["choices"][0]["text"], (name, prompt)
    assert len(set(texts[:3])) == 3, "the adapters change nothing"


def test_a_long_prompt_of_one_adapter_is_not_taken_for_that_of_another(client, alone):
    prompt = "the cat is free " * 20
    for name in (*alone, *alone):
        body = {"prompt": prompt, "max_tokens": 6, "temperature": 0, "logprobs": 1, "echo": True}
        found = client.completions.create(model=name, **body).choices[0].logprobs
        expected = alone[name].post("/v1/completions", json={"model": "m", **body}).json()["choices"][0]["logprobs"]
        assert found.tokens == expected["tokens"]
        assert found.token_logprobs[1:] == pytest.approx(expected["token_logprobs"][1:], abs=1e-4)


def test_chat_template_and_generation_config_are_those_of_the_adapter(client, alone):
    messages = [{"role": "user", "content": "the cat"}]
    for name in alone:
        found = client.chat.completions.create(model=name, messages=messages, temperature=0)
        body = {"model": "m", "messages": messages, "temperature": 0}
        expected = alone[name].post("/v1/chat/completions", json=body).json()
        assert found.choices[0].message.content == expected["choices"][0]["message"]["content"]
        assert found.usage.prompt_tokens == expected["usage"]["prompt_tokens"]
        assert found.usage.completion_tokens == expected["usage"]["completion_tokens"]


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("kind", [{"trainable_token_indices": None}, {"modules_to_save": ["lm_head"]}], ids=str)
def test_adapters_that_peft_cannot_mix_are_rejected(folder, tmp_path, kind, order):
    adapt(folder / "base", tmp_path / "other", 4, **kind)
    names = [str(folder / "friendly"), str(tmp_path / "other")][::order]
    model, tokenizer = load_model(str(folder / "base"))
    with pytest.raises(ValueError, match="serve it alone"):
        add_adapters(model, tokenizer, names)


def test_adapters_with_heads_of_their_own_compute_what_they_compute_alone(folder, tmp_path):
    names = [str(tmp_path / name) for name in ("one", "two")]
    for seed, name in enumerate(names):
        adapt(folder / "base", name, seed, modules_to_save=["lm_head"])
        file = Path(name, "adapter_model.safetensors")
        weights = load_file(file)
        weights["base_model.model.lm_head.weight"] *= seed + 2
        save_file(weights, file)
    model, tokenizer = load_model(str(folder / "base"))
    ids = torch.tensor([[2, 3, 70, 5]])
    expected = [load_model(name)[0](ids).logits for name in names]
    model, variants = add_adapters(model, tokenizer, names)
    for variant, logits in zip(variants[1:], expected, strict=True):
        torch.testing.assert_close(model(ids, adapter_names=[variant.adapter]).logits, logits, atol=1e-4, rtol=1e-4)


def test_no_field_of_the_models_generation_config_counts_for_an_adapter_with_its_own(folder, tmp_path):
    shutil.copytree(folder / "base", tmp_path / "base")
    base = GenerationConfig(repetition_penalty=1.9, stop_strings=["a", "e", "t"], eos_token_id=[*range(60, 100)])
    base.save_pretrained(tmp_path / "base")
    shutil.copytree(folder / "formal", tmp_path / "formal")
    GenerationConfig(do_sample=False).save_pretrained(tmp_path / "formal")
    config = tmp_path / "formal" / "adapter_config.json"
    config.write_text(config.read_text().replace(str(folder / "base"), str(tmp_path / "base")))
    model, tokenizer = load_model(str(tmp_path / "base"))
    model, found = add_adapters(model, tokenizer, [str(tmp_path / "formal")])
    variants = dict(zip(["base", "formal"], found, strict=True))
    shared = TestClient(Api("base", model, tokenizer, encode_chat, adapters=variants).application())
    texts = []
    for name in variants:
        alone = TestClient(Api(name, *load_model(str(tmp_path / name)), encode_chat).application())
        for prompt in PROMPTS:
            body = {"model": name, "prompt": prompt, "max_tokens": 30}
            found = shared.post("/v1/completions", json=body).json()
            assert found["choices"] == alone.post("/v1/completions", json=body).json()["choices"]
            texts.append(found["choices"][0]["text"])
    assert max(map(len, texts[:3])) < 15 < min(map(len, texts[3:])), "the fields change nothing"


def test_models_are_listed_and_an_unknown_adapter_is_not_found(client):
    assert [model.id for model in client.models.list()] == ["base", "base:formal", "base:friendly"]
    with pytest.raises(openai.NotFoundError, match="base:other"):
        client.completions.create(model="base:other", prompt="a")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing", "is no adapter"),
        ("empty", "is no adapter"),
        ("dora", "is no plain LoRA adapter"),
        ("classifier", "is no plain LoRA adapter"),
        ("base", "other weights"),
        ("vocabulary", "another vocabulary"),
        ("weights", "has no"),
        ("pickle", "safetensors"),
        ("embeddings", "other embeddings"),
    ],
)
def test_an_adapter_that_cannot_share_the_model_is_rejected_in_one_line(folder, tmp_path, change, message):
    other = tmp_path / "other"
    if change in ("dora", "classifier"):
        adapt(folder / "base", other, 3, **({"use_dora": True} if change == "dora" else {"task_type": "SEQ_CLS"}))
    elif change == "empty":
        other.mkdir()
    elif change not in ("missing", "embeddings"):
        shutil.copytree(folder / "formal", other)
    if change == "base":
        BaseRecord("0" * 32).save(other)
    if change == "vocabulary":
        train_tokenizer(["a dog"] * 20, vocab_size=261, show_progress=False).save_pretrained(other)
    if change == "weights":
        config = (other / "adapter_config.json").read_text()
        (other / "adapter_config.json").write_text(config.replace('"q_proj"', '"q_proj", "k_proj"'))
    if change == "pickle":
        (other / "adapter_model.safetensors").unlink()
        torch.save({}, other / "adapter_model.bin")
    names = [str(folder / "friendly"), str(other)]
    if change == "embeddings":  # with an adapted head, PEFT stores the head's own weights
        names = [str(other), str(tmp_path / "more")]
        for seed, name in enumerate(names):
            adapt(folder / "base", name, seed, target_modules=["q_proj", "lm_head"])
            (Path(name) / "base_model.json").unlink()
        weights = load_file(Path(names[1], "adapter_model.safetensors"))
        weights["base_model.model.lm_head.base_layer.weight"] += 0.1
        save_file(weights, Path(names[1], "adapter_model.safetensors"))
    model, tokenizer = load_model(str(folder / "base"))
    with pytest.raises((OSError, ValueError), match=message) as error:
        add_adapters(model, tokenizer, names)
    assert str(error.value).startswith(names[1])
    assert "\n" not in str(error.value)
