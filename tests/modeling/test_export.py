"""Leaving PyTorch through transformers' exporters, and weights of eight bits."""

import pytest
import torch
from transformers import AutoModelForCausalLM, TorchAoConfig

from foliogpt.modeling import FolioForCausalLM, FolioForMaskedLM

IDS = torch.randint(3, 99, (2, 11), generator=torch.Generator().manual_seed(1))
LONGER = torch.randint(3, 99, (3, 23), generator=torch.Generator().manual_seed(2))
VARIANTS = {
    "folio": {},
    "gpt2": {"preset": "gpt2"},
    "sliding": {"sliding_window": 6, "layer_types": ["sliding_attention", "full_attention"]},
    "encoder": {"is_causal": False},
}


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_onnx_computes_the_same_at_another_length(variant, tiny, tmp_path):
    from transformers.exporters import ExportedModel, OnnxConfig, OnnxExporter

    head = FolioForMaskedLM if variant == "encoder" else FolioForCausalLM
    model = head(tiny(**VARIANTS[variant], initializer_range=0.2)).eval()
    inputs = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}
    if variant != "encoder":
        inputs["use_cache"] = False
    OnnxExporter().export(model, inputs, OnnxConfig(dynamic=True)).save_pretrained(tmp_path)
    mask = torch.ones_like(LONGER)
    mask[0, 15:] = 0
    exported = ExportedModel.from_pretrained(tmp_path)(input_ids=LONGER, attention_mask=mask)
    with torch.no_grad():
        expected = model(LONGER, attention_mask=mask).logits
    text = mask.bool()
    torch.testing.assert_close(torch.as_tensor(exported.logits)[text], expected[text], atol=1e-3, rtol=1e-3)


@pytest.mark.slow
def test_generation_is_exported_as_its_two_stages(tiny):
    from transformers.exporters import DynamoConfig, DynamoExporter

    model = FolioForCausalLM(tiny()).eval()
    inputs = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}
    exported = DynamoExporter().export_for_generation(model, inputs, config=DynamoConfig(dynamic=True))
    assert set(exported.components) == {"prefill", "decode"}


def test_eight_bit_weights_answer_nearly_the_same(tiny, tmp_path):
    quantization = pytest.importorskip("torchao.quantization", reason="needs torchao, which .ci/run installs")
    torch.manual_seed(0)
    model = FolioForCausalLM(tiny(initializer_range=0.2)).eval()
    model.save_pretrained(tmp_path)
    config = TorchAoConfig(quantization.Int8WeightOnlyConfig(version=2))
    small = AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=config)
    assert isinstance(small.model.layers[0].mlp.down_proj.weight, quantization.Int8Tensor)
    with torch.no_grad():
        expected, logits = model(IDS).logits, small(IDS).logits
    assert 0 < (logits - expected).norm() < 0.1 * expected.norm()
    assert small.generate(IDS, max_new_tokens=4, min_new_tokens=4).shape == (2, 15)
    small.save_pretrained(tmp_path / "small")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "small")
    with torch.no_grad():
        assert torch.equal(again(IDS).logits, logits)
