"""What vLLM's Transformers backend asks of a model. vLLM itself has no wheel for CPUs and pins another transformers.

It builds the base model by `AutoModel`, replaces attention through `ALL_ATTENTION_FUNCTIONS` (its kernel is found by
`layer_idx` among `attention_instances`, a keyword of the call), and puts a head of its own on the hidden states.
"""

import re

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AutoConfig, AutoModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from foliogpt.modeling import PRESETS, FolioForCausalLM

IDS = torch.randint(3, 99, (1, 11), generator=torch.Generator().manual_seed(1))
SERVED = [preset for preset in PRESETS if preset != "speedrun"]  # its soft-cap is not in the head


class Kernel:
    """Stands for vLLM's attention layer: flat tokens (T, heads x head_dim) in, the same out, and its own cache."""

    def __init__(self, config):
        self.config = config

    def __call__(self, query, key, value, scaling):
        q, k, v = (x.view(len(x), -1, self.config.head_dim).transpose(0, 1)[None] for x in (query, key, value))
        output = scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling, enable_gqa=True)
        return output[0].transpose(0, 1).reshape(len(query), -1)


@pytest.fixture(autouse=True)
def vllm_attention():
    def attend(module, query, key, value, attention_mask, scaling=None, attention_instances=None, **kwargs):
        assert attention_mask is None
        assert module.is_causal
        flat = (x.transpose(1, 2).reshape(query.shape[-2], -1) for x in (query, key, value))
        return attention_instances[module.layer_idx](*flat, scaling), None

    ALL_ATTENTION_FUNCTIONS["vllm"] = attend
    yield
    del ALL_ATTENTION_FUNCTIONS["vllm"]


@pytest.mark.parametrize("preset", SERVED)
def test_the_backend_computes_the_same_logits(preset, tiny, tmp_path):
    ours = FolioForCausalLM(tiny(preset, initializer_range=0.2)).eval()
    ours.save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    assert "AutoModel" in config.auto_map
    served = AutoModel.from_config(config, attn_implementation="vllm").eval()
    # It loads by name, with the prefix of the base model taken off.
    weights = {name.removeprefix("model."): w for name, w in ours.state_dict().items() if name != "lm_head.weight"}
    served.load_state_dict(weights)
    with torch.no_grad():
        hidden = served(
            input_ids=IDS,
            position_ids=torch.arange(11)[None],
            use_cache=False,
            return_dict=False,
            attention_instances=[Kernel(config)] * config.num_hidden_layers,
        )[0]
        torch.testing.assert_close(hidden @ ours.lm_head.weight.T, ours(IDS).logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("preset", SERVED)
def test_the_plans_by_which_it_is_split_name_what_is_there(preset, tiny):
    model = AutoModel.from_config(tiny(preset))
    assert model._supports_attention_backend
    names = {re.sub(r"\.\d+\.", ".*.", name) for name, _ in model.named_modules()}
    linear = {re.sub(r"\.\d+\.", ".*.", name) for name, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    assert linear <= set(model.config.base_model_tp_plan)
    assert set(model.config.base_model_pp_plan) <= names
    children = [name for name, _ in model.named_children()]
    assert [name for name in children if name in model.config.base_model_pp_plan] == ["embed_tokens", "layers", "norm"]
