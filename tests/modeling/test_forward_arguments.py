"""No argument of a forward is swallowed, and the cache is taken by both of its names."""

import pytest
import torch
from transformers import AttentionInterface, DynamicCache

from foliogpt import modeling
from foliogpt.checkpoints.self_check import CacheMismatchError, cache_error, check_cache
from foliogpt.modeling import PRESETS, FolioForCausalLM, preset_config
from foliogpt.modeling.forward_arguments import CACHE

IDS = torch.randint(3, 99, (2, 9), generator=torch.Generator().manual_seed(1))
CLASSES = [name for name in modeling.__all__ if name.startswith("FolioFor") or name == "FolioModel"]


@pytest.mark.parametrize("name", CLASSES)
def test_forward_raises_for_an_unknown_argument(name, tiny):
    model = getattr(modeling, name)(tiny()).eval()
    for wrong in ("attention_masks", "token_type_ids", "cache_position", "label"):
        with pytest.raises(TypeError, match=f"{name}.forward.. got an unexpected keyword argument '{wrong}'"):
            model(IDS, **{wrong: None})
    model(IDS, output_hidden_states=True, return_dict=True)


def test_an_attention_function_of_ones_own_reads_the_arguments_that_it_names(tiny):
    def attend(module, query, key, value, attention_mask, instances=None, **kwargs):
        return instances[module.layer_idx] * query.transpose(1, 2), None

    AttentionInterface.register("own", attend)
    model = FolioForCausalLM(tiny()).eval()
    model.set_attn_implementation("own")
    assert model(IDS, instances=[1.0, 2.0]).logits.isfinite().all()
    with pytest.raises(TypeError, match="unexpected keyword argument 'attention_masks'"):
        model(IDS, instances=[1.0, 2.0], attention_masks=None)


@pytest.mark.parametrize("name", ["cache", "past_key_values"])
@pytest.mark.parametrize("preset", PRESETS)
def test_forward_reads_the_cache_when_given_by_either_name(preset, name, tiny):
    model = FolioForCausalLM(tiny(preset, initializer_range=0.2)).eval()
    with torch.no_grad():
        whole = model(IDS).logits[:, 6:]
        cache = model(IDS[:, :6], use_cache=True)[CACHE]
        output = model(IDS[:, 6:], **{name: cache}, use_cache=True)
    torch.testing.assert_close(output.logits, whole, atol=1e-4, rtol=1e-4)
    assert output[CACHE].get_seq_length() == 9


def test_forward_raises_when_two_caches_are_given(tiny):
    model = FolioForCausalLM(tiny()).eval()
    filled, empty = model(IDS, use_cache=True)[CACHE], DynamicCache(config=model.config)
    with pytest.raises(TypeError, match="one argument under two names"):
        model(IDS, cache=filled, past_key_values=model(IDS, use_cache=True)[CACHE])
    # PEFT's prefix beside the empty cache of `generate`
    assert model(IDS, cache=empty, past_key_values=filled, use_cache=True)[CACHE].get_seq_length() == 18


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("preset", PRESETS)
def test_self_check_passes_a_model_that_reads_its_cache(preset, dtype, tiny):
    torch.manual_seed(1)
    model = FolioForCausalLM(tiny(preset, initializer_range=0.2)).to(dtype).train()
    before = model.generation_config
    check_cache(model)
    assert model.training
    assert model.generation_config is before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("preset", ["folio", "gpt2", "llama"])
def test_self_check_refuses_a_model_that_swallows_its_cache(preset, dtype, monkeypatch):
    model = FolioForCausalLM(preset_config(preset, "nano")).to(dtype)  # with its weights as training finds them
    forward = modeling.FolioModel.forward

    def swallow(self, *args, cache=None, past_key_values=None, **kwargs):
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(modeling.FolioModel, "forward", swallow)
    assert cache_error(model) > 0.3
    with pytest.raises(CacheMismatchError, match=r"transformers \d.* and torch \d.*with its cache"):
        check_cache(model)


@pytest.mark.parametrize("name", ["FolioForSequenceClassification", "FolioForMaskedLM", "FolioModel"])
def test_self_check_passes_a_model_that_does_not_generate(name, tiny):
    check_cache(getattr(modeling, name)(tiny()))
