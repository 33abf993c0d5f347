"""A checkpoint opens through every Auto class, with our package and without."""

import json
import os
import subprocess
import sys

import pytest
import torch
import transformers
from safetensors.torch import load_file

from foliogpt.modeling import AUTO_CLASSES, PRESETS, FolioConfig, FolioForCausalLM
from foliogpt.modeling.configuration_folio import AUTO_MAP

IDS = torch.arange(2, 14)[None]


@pytest.mark.parametrize("auto_class", AUTO_CLASSES)
@pytest.mark.parametrize("preset", PRESETS)
def test_saving_and_loading_keeps_every_bit(tiny, preset, auto_class, tmp_path):
    model = AUTO_CLASSES[auto_class](tiny(preset)).eval()
    model.save_pretrained(tmp_path)
    loaded = getattr(transformers, auto_class).from_pretrained(tmp_path).eval()
    assert type(loaded) is type(model)
    with torch.no_grad():
        for a, b in zip(model(IDS).to_tuple(), loaded(IDS).to_tuple(), strict=True):
            if torch.is_tensor(a):
                assert torch.equal(a, b)


def test_the_auto_map_names_the_class_that_is_registered(tiny):
    assert set(AUTO_MAP) == {"AutoConfig", *AUTO_CLASSES}
    for name, model_class in AUTO_CLASSES.items():
        assert AUTO_MAP[name] == f"modeling_folio.{model_class.__name__}"


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["vaswani", "gpt2", "folio"])
def test_every_head_opens_a_checkpoint_in_a_process_without_the_package(tiny, preset, tmp_path):
    model = FolioForCausalLM(tiny(preset)).eval()
    checkpoint = tmp_path / "check.point"  # a dot in the name has broken remote code before
    model.save_pretrained(checkpoint)
    script = """
import sys
sys.modules["foliogpt"] = None
import torch, transformers
from safetensors.torch import save_file
ids, out = torch.arange(2, 14)[None], {}
torch.set_num_threads(1)
for name in sys.argv[2].split(","):
    model = getattr(transformers, name).from_pretrained("check.point", trust_remote_code=True).eval()
    with torch.no_grad():
        out[name] = model(ids)[0].contiguous()
model.save_pretrained("again")
transformers.AutoModelForCausalLM.from_pretrained("again", trust_remote_code=True)
save_file(out, sys.argv[1])
assert "peft" not in sys.modules
import peft
model = transformers.AutoModelForCausalLM.from_pretrained("again", trust_remote_code=True)
assert peft.get_peft_model(model, peft.LoraConfig()).peft_config["default"].target_modules == {"q_proj", "v_proj"}
assert len([finder for finder in sys.meta_path if getattr(finder, "model_type", None) == "folio"]) == 1
"""
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", script, "out.safetensors", ",".join(AUTO_CLASSES)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    out = load_file(tmp_path / "out.safetensors")
    with torch.no_grad():
        torch.testing.assert_close(out["AutoModelForCausalLM"], model(IDS).logits, rtol=0, atol=1e-6)
        torch.testing.assert_close(out["AutoModel"], model.model(IDS).last_hidden_state, rtol=0, atol=1e-6)


def test_a_checkpoint_holds_no_code_it_does_not_need(tiny, tmp_path):
    FolioForCausalLM(tiny()).save_pretrained(tmp_path)
    code = {path.name for path in tmp_path.glob("*.py")}
    assert code == {
        "attention.py",
        "block.py",
        "configuration_folio.py",
        "feed_forward.py",
        "forward_arguments.py",
        "loss.py",
        "modeling_folio.py",
        "normalization.py",
        "packed_attention.py",
        "peft_targets.py",
        "positions.py",
        "registration.py",
    }


def test_weights_made_without_memory_get_their_rotary_angles(tiny, tmp_path):
    model = FolioForCausalLM(tiny())
    model.save_pretrained(tmp_path)
    loaded = FolioForCausalLM.from_pretrained(tmp_path, device_map="cpu")
    assert torch.equal(loaded.model.rotary_emb.inv_freq, model.model.rotary_emb.inv_freq)


def test_generation_settings_are_not_in_the_config(tiny, tmp_path):
    model = FolioForCausalLM(tiny())
    model.generation_config.update(do_sample=True, temperature=0.5)
    model.save_pretrained(tmp_path)
    assert "temperature" not in json.loads((tmp_path / "config.json").read_text())
    assert FolioForCausalLM.from_pretrained(tmp_path).generation_config.temperature == 0.5


def test_label_smoothing_shifts_the_labels_of_our_class():
    names = transformers.models.auto.modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    assert names[FolioConfig.model_type] == "FolioForCausalLM"
