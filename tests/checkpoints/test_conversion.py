"""Checkpoints are converted to native architectures and back, or rejected with nothing written."""

import contextlib
import json
import os
import shutil
import subprocess
import sys

import forks
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from smollm2 import smollm2_folder
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Qwen3Config

from foliogpt.checkpoints import conversion, targets
from foliogpt.checkpoints.conversion import convert
from foliogpt.modeling import FolioConfig, FolioForCausalLM, FolioForSequenceClassification
from foliogpt.tokenization import train_tokenizer

PRESETS = {"gpt2": "gpt2", "llama": "llama", "qwen3": "folio"}  # native architecture: preset
CLASSES = {"gpt2": GPT2LMHeadModel, "llama": LlamaForCausalLM, "qwen3": transformers.Qwen3ForCausalLM}


def weights(folder) -> dict[str, torch.Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def edit_config(folder, **fields) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **fields}))


@contextlib.contextmanager
def nothing_written(folder):
    before = sorted(folder.rglob("*"))
    yield
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("to", PRESETS)
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("shards", ["20KB", "1GB"], ids=["sharded", "single"])
def test_there_and_back_is_bit_identical(save, tmp_path, to, tied, dtype, shards):
    source = save(PRESETS[to], dtype, shards, tie_word_embeddings=tied)
    assert shards == "1GB" or len(list(source.glob("*.safetensors"))) >= 3
    done = convert(source, tmp_path / "there", to)
    assert max(done.random_difference, done.text_difference) < 1e-5
    assert done.dtype == str(dtype).removeprefix("torch.")
    convert(tmp_path / "there", tmp_path / "back", "folio")

    before, after = weights(source), weights(tmp_path / "back")
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert tensor.dtype == after[name].dtype == dtype
        assert torch.equal(tensor, after[name]), name
    configs = [FolioConfig.from_pretrained(folder).to_dict() for folder in (source, tmp_path / "back")]
    lost = {"_name_or_path": "", "residual_init": ""}  # how weights began is said nowhere else
    assert {**configs[0], **lost} == {**configs[1], **lost}


@pytest.mark.parametrize("to", PRESETS)
def test_a_native_class_loads_the_complete_export(save, tmp_path, to):
    """Strictly, by transformers' own account, and with the logits of the model that was exported."""
    source = save(PRESETS[to])
    convert(source, tmp_path / "native", to)
    native, info = CLASSES[to].from_pretrained(tmp_path / "native", output_loading_info=True)
    assert not any(info.values()), info
    ids = torch.randint(304, (2, 40))
    ours = FolioForCausalLM.from_pretrained(source)
    torch.testing.assert_close(native(ids).logits, ours(ids).logits, atol=1e-4, rtol=0)
    assert not list((tmp_path / "native").glob("*.py")), "a native checkpoint needs no code"
    assert {f.stat().st_mode for f in (tmp_path / "native").iterdir()} == {
        (tmp_path / "native" / "config.json").stat().st_mode
    }


CONTINUE = """
import sys, torch
sys.modules["foliogpt"] = None
from transformers import AutoModelForCausalLM
for folder in sys.argv[2:]:
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert type(model).__module__.startswith("transformers.")
    ids = model.generate(torch.tensor([eval(sys.argv[1])]), do_sample=False, min_new_tokens=200, max_new_tokens=200)
    print(ids[0].tolist())
"""


def test_a_process_without_our_package_continues_a_prompt_with_the_same_200_tokens(save, tmp_path):
    prompt, expected, folders = [5, 90, 41, 7], [], []
    for to, preset in PRESETS.items():
        source = save(
            preset, name=f"source-{to}", max_position_embeddings=256, tie_word_embeddings=False, initializer_range=0.5
        )
        model = FolioForCausalLM.from_pretrained(source)
        ids = model.generate(torch.tensor([prompt]), do_sample=False, min_new_tokens=200, max_new_tokens=200)
        expected.append(str(ids[0].tolist()))
        convert(source, tmp_path / to, to)
        folders.append(str(tmp_path / to))
    done = forks.run([CONTINUE, str(prompt), *folders], stranger=True, cwd=tmp_path)
    assert done.stdout.splitlines() == expected, done.stderr
    assert len(set(expected)) == 3
    assert all(len(set(eval(ids))) > 10 for ids in expected), "a continuation that repeats itself proves little"


ROPES = {
    "llama3": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 16},
    "linear": {"factor": 2.0},
    "dynamic": {"factor": 2.0},
    "longrope": {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4, "original_max_position_embeddings": 32},
    "default": {},
}


@pytest.mark.parametrize("rope_type", ROPES)
def test_every_kind_of_rope_comes_in_and_goes_out(tmp_path, rope_type):
    rope = {"rope_type": rope_type, "rope_theta": 500_000.0, **ROPES[rope_type]}
    size = {"vocab_size": 99, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}  # fmt: skip
    config = LlamaConfig(**size, rope_parameters=rope, attention_bias=True, mlp_bias=True, rms_norm_eps=1e-5)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "native")
    done = convert(tmp_path / "native", tmp_path / "ours", "folio")
    assert done.text_difference is None
    convert(tmp_path / "ours", tmp_path / "again", "llama")
    assert LlamaConfig.from_pretrained(tmp_path / "again").rope_parameters == config.rope_parameters


def test_sliding_windows_go_to_qwen3_and_nowhere_else(save, tmp_path):
    source = save("folio", sliding_window=5, layer_types=["full_attention", "sliding_attention"])
    assert convert(source, tmp_path / "qwen3", "qwen3").random_difference < 1e-5
    config = Qwen3Config.from_pretrained(tmp_path / "qwen3")
    assert (config.use_sliding_window, config.sliding_window, config.max_window_layers) == (True, 5, 1)
    convert(tmp_path / "qwen3", tmp_path / "back", "folio")
    assert FolioConfig.from_pretrained(tmp_path / "back").layer_types == ["full_attention", "sliding_attention"]
    with pytest.raises(ValueError, match=r"layer_types is .*sliding_attention.*it can go to qwen3"):
        convert(source, tmp_path / "llama", "llama")


def test_a_gpt2_of_the_hub_comes_in(save, tmp_path):
    """Its names lack the prefix, old ones have masks and the tied head, its tokenizer names no class."""
    source = save("gpt2")
    convert(source, tmp_path / "native", "gpt2")
    file = tmp_path / "native" / "model.safetensors"
    tensors = {name.removeprefix("transformer."): tensor for name, tensor in load_file(file).items()}
    tensors |= {"h.0.attn.bias": torch.ones(1, 1, 64, 64), "lm_head.weight": tensors["wte.weight"].clone()}
    save_file(tensors, file, {"format": "pt"})
    (tmp_path / "native" / "tokenizer_config.json").write_text('{"model_max_length": 64}')
    edit_config(tmp_path / "native", n_ctx=64, task_specific_params={"text-generation": {"do_sample": True}})
    convert(tmp_path / "native", tmp_path / "ours", "folio")
    before, after = weights(source), weights(tmp_path / "ours")
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert AutoTokenizer.from_pretrained(tmp_path / "ours")("Hello")["input_ids"]


def test_a_model_without_biases_becomes_a_gpt2_with_biases_of_zero(save, tmp_path):
    source = save("gpt2", attention_bias=False, mlp_bias=False, intermediate_size=40, hidden_act="gelu")
    assert convert(source, tmp_path / "native", "gpt2").random_difference < 1e-5
    config = GPT2Config.from_pretrained(tmp_path / "native")
    assert (config.n_inner, config.activation_function) == (40, "gelu")
    assert not weights(tmp_path / "native")["transformer.h.0.mlp.c_fc.bias"].any()


def test_convert_copies_the_tokenizer_and_the_generation_settings(save, tokenizer, tmp_path):
    source = save("llama")
    tokenizer.backend_tokenizer.model.save(str(source))  # vocab.json, merges.txt: files of the older kind
    (source / "generation_config.json").write_text('{"temperature": 0.3, "do_sample": false, "top_k": 7}')
    convert(source, tmp_path / "native", "llama")
    convert(tmp_path / "native", tmp_path / "back", "folio")
    chat = [{"role": "user", "content": "Is it folded?"}]
    for folder in (tmp_path / "native", tmp_path / "back"):
        again = AutoTokenizer.from_pretrained(folder)
        assert (
            again("Größe 東京 <|im_end|>\n\n x")["input_ids"] == tokenizer("Größe 東京 <|im_end|>\n\n x")["input_ids"]
        )
        assert again.apply_chat_template(chat, tokenize=False) == tokenizer.apply_chat_template(chat, tokenize=False)
        for name in ("generation_config.json", "vocab.json", "merges.txt", "tokenizer.json"):
            assert (folder / name).read_bytes() == (source / name).read_bytes(), name


INEXPRESSIBLE = [
    ("folio", {}, "llama", "qk_norm is True"),
    ("folio", {}, "gpt2", "position_embedding_type is 'rope'"),
    ("vaswani", {}, "gpt2", "position_embedding_type is 'sinusoidal'"),
    ("speedrun", {}, "qwen3", "final_logit_softcapping is 15.0"),
    ("llama", {}, "qwen3", "qk_norm is False.*it can go to llama"),
    ("llama", {"norm_position": "post"}, "llama", "norm_position is 'post'"),
    ("llama", {"position_embedding_type": "none"}, "llama", "position_embedding_type is 'none'"),
    ("llama", {"add_cross_attention": True}, "llama", "add_cross_attention is True"),
    ("folio", {"mlp_bias": True}, "qwen3", "mlp_bias is True"),
    ("gpt2", {"num_key_value_heads": 2}, "gpt2", "num_key_value_heads is 2"),
    ("gpt2", {"head_dim": 4}, "gpt2", "head_dim is 4"),
    ("gpt2", {"scale_embeddings": True}, "gpt2", "scale_embeddings is True"),
]


@pytest.mark.parametrize(("preset", "fields", "to", "message"), INEXPRESSIBLE)
def test_convert_names_the_fields_that_the_target_lacks(save, tmp_path, preset, fields, to, message):
    source = save(preset, **fields)
    with nothing_written(tmp_path), pytest.raises(ValueError, match=message):
        convert(source, tmp_path / "native", to)


@pytest.mark.parametrize("field", ["scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn"])
def test_convert_names_the_native_fields_that_folio_lacks(save, tmp_path, field):
    convert(save("gpt2"), tmp_path / "native", "gpt2")
    edit_config(tmp_path / "native", **{field: True})
    with nothing_written(tmp_path), pytest.raises(ValueError, match=f"{field} is True"):
        convert(tmp_path / "native", tmp_path / "ours", "folio")


def lie(folder):
    edit_config(folder, intermediate_size=50)


def drop(folder):
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def add(folder):
    tensors = {**load_file(folder / "model.safetensors"), "model.layers.0.mlp.router": torch.zeros(3)}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def quantize(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"].to(torch.int8)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def untie(folder):
    tensors = {**load_file(folder / "model.safetensors"), "lm_head.weight": torch.zeros(304, 32)}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def ruin(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["model.embed_tokens.weight"][conversion.TOKENS :] = torch.nan
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def truncate(folder):
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate((folder / "model.safetensors").stat().st_size // 2)


def pickle_weights(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def adapter(folder):
    (folder / "config.json").rename(folder / "adapter_config.json")


def interrupt(folder):
    for step in (900, 1200):
        shutil.copytree(folder, folder / f"checkpoint-{step}", ignore=shutil.ignore_patterns("checkpoint-*"))
    (folder / "config.json").unlink()


def other_tokenizer(folder):
    train_tokenizer([conversion.TEXT * 9], 350, show_progress=False).save_pretrained(folder)


BAD = [
    (lie, r"shapes differ.*layers.0.mlp.down_proj.weight \[32, 48\] instead of \[32, 50\].* and 3 more"),
    (drop, "it lacks model.layers.1.mlp.up_proj.weight"),
    (add, "it has model.layers.0.mlp.router, which the config has no place for"),
    (quantize, "model.norm.weight in .* is quantized"),
    (untie, "lm_head.weight is not model.embed_tokens.weight"),
    (ruin, "logits differ from the source's by nan"),
    (truncate, "model.safetensors is cut off"),
    (pickle_weights, r"weights in pytorch_model.bin, which is not opened, .*save_pretrained"),
    (adapter, "is an adapter.*folio merge"),
    (interrupt, r"an unfinished run.*name .*checkpoint-1200, or continue the run with --resume"),
    (other_tokenizer, "another model's tokenizer"),
    (lambda folder: (folder / "config.json").write_text("{"), "is not JSON"),
    (lambda folder: (folder / "config.json").write_text("[]"), "is not a JSON object"),
    (lambda folder: (folder / "tokenizer.json").write_text("{}"), "is not a tokenizer's directory"),
    (lambda folder: edit_config(folder, model_type="mamba"), "give a causal language model of type folio, gpt2"),
    (lambda folder: edit_config(folder, hidden_size="wide"), "hidden_size"),
    (lambda folder: edit_config(folder, rope_parameters={"rope_type": "spiral"}), "rope_type is 'spiral'"),
    (lambda folder: edit_config(folder, num_hidden_layers=10**9, layer_types=None), "not the 1000000000 layers"),
    (lambda folder: edit_config(folder, pad_token_id=999), "No model can be made of"),
    (lambda folder: edit_config(folder, hidden_act="sulu"), "hidden_act is 'sulu'"),
    (lambda folder: edit_config(folder, layer_types=["chunked_attention"] * 2), "layer_types has"),
    (lambda folder: edit_config(folder, num_experts=8), "num_experts, which this version .* upgrade foliogpt"),
    (lambda folder: edit_config(folder, quantization_config={"bits": 4}), "quantization_config is set"),
    (lambda folder: edit_config(folder, is_causal=False), "is_causal is False: an encoder"),
    (lambda folder: (folder / "generation_config.json").write_text("[]"), "config.json is not a JSON object"),
    (lambda folder: edit_config(folder, architectures=["FolioForMaskedLM"]), "only causal language models"),
    (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
]  # fmt: skip


@pytest.mark.parametrize(("spoil", "message"), BAD, ids=lambda value: getattr(value, "__name__", str(value)[:20]))
def test_convert_rejects_a_damaged_checkpoint_in_one_line(save, tmp_path, spoil, message):
    source = save("folio")
    spoil(source)
    with nothing_written(tmp_path), pytest.raises((ValueError, OSError), match=message) as caught:
        convert(source, tmp_path / "native", "qwen3")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", ["missing file", "missing tensor", "outside"])
def test_convert_rejects_an_index_that_names_missing_weights(save, tmp_path, damage):
    source = save("folio", max_shard_size="40KB")
    index = source / "model.safetensors.index.json"
    weight_map = json.loads(index.read_text())["weight_map"]
    file = next(iter(weight_map.values()))
    if damage == "missing file":
        (source / file).unlink()
        message = f"lacks {file}"
    else:
        weight_map["model.extra"] = file if damage == "missing tensor" else "../secret.safetensors"
        index.write_text(json.dumps({"weight_map": weight_map}))
        message = "promises model.extra" if damage == "missing tensor" else "outside of its folder"
    with nothing_written(tmp_path), pytest.raises((ValueError, OSError), match=message):
        convert(source, tmp_path / "native", "qwen3")


def test_convert_rejects_a_native_model_with_code_of_its_own(save, tmp_path):
    convert(save("llama"), tmp_path / "native", "llama")
    edit_config(tmp_path / "native", auto_map={"AutoModelForCausalLM": "modeling_my_llama.MyLlamaForCausalLM"})
    with nothing_written(tmp_path), pytest.raises(ValueError, match="auto_map is set"):
        convert(tmp_path / "native", tmp_path / "ours", "folio")


def test_convert_rejects_a_classifier(tiny, tmp_path):
    FolioForSequenceClassification(tiny("folio")).save_pretrained(tmp_path / "classifier")
    with pytest.raises(ValueError, match="FolioForSequenceClassification"):
        convert(tmp_path / "classifier", tmp_path / "native", "qwen3")


@pytest.mark.parametrize("kind", ["folder", "file", "dangling link"])
def test_convert_leaves_an_existing_target_unchanged(save, tmp_path, kind):
    source, target = save("folio"), tmp_path / "there"
    if kind == "folder":
        target.mkdir()
    elif kind == "file":
        target.write_text("mine")
    else:
        target.symlink_to(tmp_path / "nowhere")
    with nothing_written(tmp_path), pytest.raises(FileExistsError, match="already there"):
        convert(source, target, "qwen3")
    with nothing_written(tmp_path), pytest.raises(FileExistsError, match="already there"):
        convert(source, tmp_path / "new" / "..", "qwen3")


def swap(tensors, config):
    q, k = (f"model.layers.1.self_attn.{name}_proj.weight" for name in "qk")
    return {**tensors, q: tensors[k], k: tensors[q]}


def permute_heads(tensors, config):
    name = "model.layers.1.self_attn.q_proj.weight"
    return {**tensors, name: tensors[name].roll(config.head_dim, 0)}


def forget_a_bias(tensors, config):
    name = "model.layers.1.self_attn.o_proj.bias"
    return {**tensors, name: torch.zeros_like(tensors[name])}


def round_a_matrix(tensors, config):
    name = "model.layers.1.mlp.down_proj.weight"
    return {**tensors, name: tensors[name].to(torch.bfloat16).float()}


def turn_faster(config):
    config.rope_parameters = {**config.rope_parameters, "rope_theta": 1.001 * config.rope_parameters["rope_theta"]}
    return config


def use_another_eps(config):
    config.rms_norm_eps = 2 * config.rms_norm_eps
    return config


def use_another_gelu(config):
    config.activation_function = "gelu"
    return config


FAULTS = [
    ("gpt2", swap), ("gpt2", forget_a_bias), ("gpt2", use_another_gelu), ("gpt2", round_a_matrix),
    ("llama", permute_heads), ("llama", turn_faster), ("llama", use_another_eps), ("qwen3", turn_faster),
]  # fmt: skip


def spoil(monkeypatch, fault) -> None:
    """Make a fault in what is written: in the weights, or in the config."""
    to_native, to_native_config, configs = targets.to_native, targets.to_native_config, []
    if fault in (turn_faster, use_another_eps, use_another_gelu):
        monkeypatch.setattr(targets, "to_native_config", lambda *args: fault(to_native_config(*args)))
    else:
        monkeypatch.setattr(
            targets, "to_native_config", lambda *args: configs.append(to_native_config(*args)) or configs[-1]
        )
        monkeypatch.setattr(targets, "to_native", lambda tensors, *rest: to_native(fault(tensors, configs[-1]), *rest))


@pytest.mark.parametrize(("to", "fault"), FAULTS, ids=lambda value: getattr(value, "__name__", value))
def test_convert_rejects_a_result_whose_logits_differ(save, tmp_path, monkeypatch, to, fault):
    """As they would be if a weight went to the wrong place, or the config said something else."""
    source = save(PRESETS[to])
    spoil(monkeypatch, fault)
    with nothing_written(tmp_path), pytest.raises(ValueError, match=r"logits differ .* rounding explains at most"):
        convert(source, tmp_path / "native", to)


@pytest.mark.slow
def test_a_pretrained_model_goes_through_on_the_inputs_where_float32_rounds_most(tmp_path, monkeypatch):
    """On some of them, float32 is further than 1e-4 from float64 in one and the same model."""
    folder = smollm2_folder()
    ids = AutoTokenizer.from_pretrained(folder)(["the " * 120, "\n\n\n" * 50, conversion.TEXT])["input_ids"]
    texts = [torch.tensor([each[: conversion.TOKENS]]) for each in ids]
    random = [torch.randint(49152, (1, 128), generator=torch.Generator().manual_seed(seed)) for seed in (1, 7)]
    with monkeypatch.context() as patch:
        patch.setattr(conversion, "sample_ids", lambda source: [*random, *texts, torch.zeros(1, 128, dtype=int)])
        done = convert(folder, tmp_path / "ours", "folio")
    assert done.rounding > 1e-4
    assert max(done.random_difference, done.text_difference) > 1e-4

    for fault in (turn_faster, round_a_matrix):
        with monkeypatch.context() as patch:
            spoil(patch, fault)
            with pytest.raises(ValueError, match="rounding explains at most"):
                convert(tmp_path / "ours", tmp_path / "native", "llama")


@pytest.mark.parametrize("error", [OSError("No space left on device"), KeyboardInterrupt()], ids=["full", "ctrl-c"])
def test_convert_leaves_nothing_when_writing_fails(save, tmp_path, monkeypatch, error):
    source = save("folio")

    def fail(*args):
        raise error

    monkeypatch.setattr(targets, "write_tokenizer", fail)  # the weights are there by then
    with nothing_written(tmp_path), pytest.raises(type(error)):
        convert(source, tmp_path / "native", "qwen3")


MEASURE = """
import re, sys, transformers
from foliogpt.checkpoints.conversion import convert
transformers.GPT2LMHeadModel  # imported when it is named
def peak():  # getrusage would count what the parent held when it started this process
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
before = peak()
convert(*sys.argv[1:])
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads /proc")
def test_a_conversion_takes_at_most_two_and_a_half_checkpoints_of_memory(save, tmp_path):
    source = save("gpt2", hidden_size=768, num_hidden_layers=8, num_attention_heads=12, intermediate_size=3072)
    size = (source / "model.safetensors").stat().st_size
    assert size > 200e6
    command = [sys.executable, "-c", MEASURE, str(source), str(tmp_path / "native"), "gpt2"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout.splitlines()[-1]) < 2.5 * size


def test_convert_rejects_unknown_targets_and_names(save, tmp_path):
    source = save("folio")
    with pytest.raises(ValueError, match="choose one of folio, gpt2, llama, qwen3, gguf"):
        convert(source, tmp_path / "x", "onnx")
    with pytest.raises(ValueError, match="is a folio checkpoint already"):
        convert(source, tmp_path / "x", "folio")
    with pytest.raises(OSError, match="No model at 'nobody/nothing': there is no such directory"):
        convert("nobody/nothing", tmp_path / "x", "folio")
    with pytest.raises(ValueError, match=r"config.json is a file"):
        convert(source / "config.json", tmp_path / "x", "qwen3")


def test_a_checkpoint_that_lies_in_the_cache_of_the_hub_is_found_by_name(save, tmp_path, monkeypatch):
    source = save("folio")
    cached = tmp_path / "hub" / "models--someone--folio"
    shutil.copytree(source, cached / "snapshots" / "abc")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    assert convert("someone/folio", tmp_path / "native", "qwen3").kind == "folio"
