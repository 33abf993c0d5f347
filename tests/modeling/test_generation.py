"""Greedy decoding gives the same tokens by every road that transformers knows."""

import pytest
import torch
from transformers import ContinuousBatchingConfig, GenerationConfig

from foliogpt.modeling import FolioForCausalLM

IDS = torch.randint(3, 99, (1, 11), generator=torch.Generator().manual_seed(1))
GREEDY = {"max_new_tokens": 16, "min_new_tokens": 16, "do_sample": False}

VARIANTS = {
    "folio": {},
    "gpt2": {"preset": "gpt2"},
    "vaswani": {"preset": "vaswani"},
    "speedrun": {"preset": "speedrun"},
    "sliding": {"sliding_window": 6, "layer_types": ["sliding_attention", "full_attention"]},
    "no positions": {"position_embedding_type": "none"},
    "yarn": {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4}},
    "multi-query": {"num_key_value_heads": 1, "head_dim": 24},
}


@pytest.fixture(params=VARIANTS)
def make(request, tiny):
    def build(seed: int = 0) -> FolioForCausalLM:
        torch.manual_seed(seed)
        # Large weights, so that the tokens differ and no tie decides.
        return FolioForCausalLM(tiny(**VARIANTS[request.param], initializer_range=0.3)).eval()

    return build


@pytest.fixture
def expected(make):
    return make().generate(IDS, use_cache=False, **GREEDY)[0, 11:]


@pytest.mark.parametrize(
    "road",
    [
        {},
        {"cache_implementation": "static", "disable_compile": True},
        {"prompt_lookup_num_tokens": 3},
        {"prefill_chunk_size": 4},
    ],
    ids=["cached", "static cache", "prompt lookup", "chunked prefill"],
)
def test_a_road_gives_the_tokens_of_no_cache(make, expected, road):
    assert torch.equal(make().generate(IDS, **road, **GREEDY)[0, 11:], expected)


@pytest.mark.parametrize("assistant_seed", [0, 7])  # one that always agrees, one that seldom does
def test_an_assistant_changes_nothing(make, expected, assistant_seed):
    assert torch.equal(make().generate(IDS, assistant_model=make(assistant_seed), **GREEDY)[0, 11:], expected)


def test_a_left_padded_row_of_a_batch_is_as_if_alone(make, expected):
    padded = torch.cat([torch.zeros(1, 5, dtype=torch.long), IDS], dim=1)
    batch = torch.cat([padded, torch.full((1, 16), 7)])
    mask = torch.ones_like(batch)
    mask[0, :5] = 0
    assert torch.equal(make().generate(batch, attention_mask=mask, **GREEDY)[0, 16:], expected)


def test_beams_are_the_same_with_and_without_a_cache(make):
    options = {**GREEDY, "num_beams": 3}
    assert torch.equal(make().generate(IDS, **options), make().generate(IDS, use_cache=False, **options))


def test_sampling_respects_top_k(make):
    model = make()
    with torch.no_grad():
        allowed = set(model(IDS).logits[0, -1].topk(3).indices.tolist())
    out = model.generate(IDS, do_sample=True, top_k=3, max_new_tokens=1, num_return_sequences=20)
    assert set(out[:, -1].tolist()) <= allowed


@pytest.mark.parametrize("preset", ["folio", "gpt2"])
def test_continuous_batching_gives_the_tokens_of_generate(tiny, preset):
    torch.manual_seed(0)
    model = FolioForCausalLM(tiny(preset, initializer_range=0.3)).eval()
    prompts = [IDS, IDS[:, :7]]
    expected = [model.generate(ids, **GREEDY)[0, ids.shape[1] :].tolist() for ids in prompts]
    config = GenerationConfig(max_new_tokens=16, do_sample=False, eos_token_id=-1, pad_token_id=0)
    # The expected tokens could not end early; forbid the end here in the same way.
    model.generation_config.eos_token_id = None
    expected = [model.generate(ids, **GREEDY)[0, ids.shape[1] :].tolist() for ids in prompts]
    # By default it takes nine tenths of the machine's memory, and a minute to do so.
    cache = ContinuousBatchingConfig(num_blocks=4, max_batch_tokens=64)
    outputs = model.generate_batch(
        [ids[0].tolist() for ids in prompts],
        generation_config=config,
        continuous_batching_config=cache,
        progress_bar=False,
    )
    assert sorted(list(output.generated_tokens) for output in outputs.values()) == sorted(expected)


@pytest.mark.parametrize("preset", ["folio", "gpt2", "vaswani"])
def test_flex_attention_computes_the_same(tiny, preset):
    model = FolioForCausalLM(tiny(preset)).eval()
    ids = torch.randint(3, 99, (2, 16), generator=torch.Generator().manual_seed(2))
    mask = torch.ones_like(ids)
    mask[0, :5] = 0
    with torch.no_grad():
        usual = model(ids, attention_mask=mask).logits
        model.set_attn_implementation("flex_attention")
        flex = model(ids, attention_mask=mask).logits
    torch.testing.assert_close(flex[mask.bool()], usual[mask.bool()], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("preset", ["folio", "gpt2"])
def test_half_precision_stays_near_and_in_its_dtype(tiny, preset, dtype):
    model = FolioForCausalLM(tiny(preset)).eval()
    with torch.no_grad():
        full = model(IDS).logits
        half = model.to(dtype)(IDS).logits
    assert half.dtype == dtype
    torch.testing.assert_close(half.float(), full, atol=0.02, rtol=0.05)
