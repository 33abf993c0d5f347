"""PEFT adapts our model as it does a built-in one."""

import subprocess
import sys

import peft
import pytest
import torch

from foliogpt.modeling import PRESETS, FolioForCausalLM, FolioForSequenceClassification

IDS = torch.randint(2, 99, (2, 12), generator=torch.Generator().manual_seed(1))

METHODS = {
    "lora": lambda: peft.LoraConfig(task_type="CAUSAL_LM"),
    "lora-all": lambda: peft.LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear"),
    "dora": lambda: peft.LoraConfig(task_type="CAUSAL_LM", use_dora=True),
    "ia3": lambda: peft.IA3Config(task_type="CAUSAL_LM"),
    "vera": lambda: peft.VeraConfig(task_type="CAUSAL_LM", r=4),
    "oft": lambda: peft.OFTConfig(task_type="CAUSAL_LM", oft_block_size=8),
    "prefix": lambda: peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    "prompt": lambda: peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    "p-tuning": lambda: peft.PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=3, encoder_hidden_size=16),
}
PROMPTS = {"prefix", "prompt", "p-tuning"}  # add virtual tokens; there is nothing to merge


MODEL_FIRST = "import sys, foliogpt.modeling; assert 'peft' not in sys.modules, 'the model imports peft'; import peft"


@pytest.mark.parametrize("order", ["import peft, foliogpt.modeling", MODEL_FIRST], ids=["peft", "model"])
def test_a_plain_lora_config_finds_its_targets_in_either_order_of_import(order):
    script = f"""
{order}
from foliogpt.modeling import *
model = peft.get_peft_model(FolioForCausalLM(preset_config("folio", "nano")), peft.LoraConfig())
print(*sorted(model.peft_config["default"].target_modules))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "q_proj v_proj\n", done.stderr


@pytest.mark.parametrize("preset", ["gpt2", "folio"])
@pytest.mark.parametrize("method", METHODS)
def test_a_method_trains_saves_reloads_and_merges(tiny, preset, method, tmp_path):
    base = FolioForCausalLM(tiny(preset))
    base.save_pretrained(tmp_path / "base")
    model = peft.get_peft_model(base, METHODS[method]())
    trainable = [p for p in model.parameters() if p.requires_grad]
    assert 0 < sum(p.numel() for p in trainable) < base.num_parameters()
    optimizer = torch.optim.AdamW(trainable, lr=0.05)
    losses = []
    for _ in range(4):
        loss = model(IDS, labels=IDS).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]

    model.eval()
    with torch.no_grad():
        trained = model(IDS).logits
        model.save_pretrained(tmp_path / "adapter")
        again = peft.PeftModel.from_pretrained(
            FolioForCausalLM.from_pretrained(tmp_path / "base"), tmp_path / "adapter"
        ).eval()
        torch.testing.assert_close(again(IDS).logits, trained, atol=1e-5, rtol=1e-5)
        if method not in PROMPTS:
            torch.testing.assert_close(again.merge_and_unload()(IDS).logits, trained, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("preset", PRESETS)
def test_all_linear_spares_the_head(tiny, preset):
    model = peft.get_peft_model(FolioForCausalLM(tiny(preset)), peft.LoraConfig(target_modules="all-linear"))
    targets = {name.split(".")[-1] for name in model.peft_config["default"].target_modules}
    assert {"q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"} <= targets
    assert "lm_head" not in targets


def test_a_classifier_trains_its_head_with_the_adapter(tiny, tmp_path):
    model = FolioForSequenceClassification(tiny(num_labels=3))
    model = peft.get_peft_model(model, peft.LoraConfig(task_type="SEQ_CLS"))
    names = {name for name, p in model.named_parameters() if p.requires_grad}
    assert any("score" in name for name in names)
    model(IDS, labels=torch.tensor([0, 2])).loss.backward()
    model.save_pretrained(tmp_path)
