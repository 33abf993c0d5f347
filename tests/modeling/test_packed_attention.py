"""Attention without a mask to rows of several documents: the same as with one, by the kernel and without it."""

from itertools import pairwise

import pytest
import torch

from foliogpt.data.packing import PackedCollator
from foliogpt.modeling import (
    FolioForCausalLM,
    FolioForMaskedLM,
    FolioModel,
    modeling_folio,
    packed_attention,
    preset_config,
)
from foliogpt.modeling.packed_attention import kernel_can_run, sequence_lengths

POSITIONS = torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2, 0, 0, 1, 2], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]])


def model_of(preset="folio", model_class=FolioForCausalLM, **changes):
    torch.manual_seed(0)
    config = preset_config(preset, "nano", vocab_size=64, num_hidden_layers=2, max_position_embeddings=32, **changes)
    return model_class(config).eval()


def loss_and_gradients(model, attention, **inputs):
    model.set_attn_implementation(attention)
    model.zero_grad()
    output = model(**inputs)
    output.logits.float().square().mean().backward()
    return output.logits.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.fixture
def kernel(monkeypatch):
    """torch's kernel stands in as a loop over sequences, since it runs on CUDA alone; it counts its calls."""
    calls = []

    def varlen(query, key, value, starts, starts_k, longest, longest_k, *, scale, window_size, enable_gqa=False):
        assert query.shape[0] == key.shape[0] == starts[-1]
        assert starts.dtype == torch.int32
        assert enable_gqa or query.shape[1] == key.shape[1] or not packed_attention.SHARED_HEADS
        assert longest >= starts.diff().max()
        calls.append(starts.tolist())
        outputs = []
        for start, end in pairwise(starts):
            q, k, v = (states[start:end].transpose(0, 1).float() for states in (query, key, value))
            k, v = (states.repeat_interleave(q.shape[0] // states.shape[0], dim=0) for states in (k, v))
            distance = torch.arange(end - start)[:, None] - torch.arange(end - start)
            left, right = (10**6 if size < 0 else size for size in window_size)
            scores = (q @ k.mT * scale).masked_fill((distance > left) | (-distance > right), -torch.inf)
            outputs.append((scores.softmax(-1) @ v).transpose(0, 1))
        return torch.cat(outputs).to(query.dtype)

    monkeypatch.setattr(packed_attention, "varlen_attn", varlen)
    for module in (packed_attention, modeling_folio):
        monkeypatch.setattr(module, "kernel_can_run", lambda config, device, dtype: not config.attention_dropout)
    return calls


CASES = {
    "folio": {},
    "gpt2": {"preset": "gpt2"},
    "shared heads": {"preset": "llama", "num_attention_heads": 4, "num_key_value_heads": 2},
    "window": {"sliding_window": 3, "layer_types": ["sliding_attention", "full_attention"]},
}


@pytest.mark.parametrize("by_kernel", [False, True])
@pytest.mark.parametrize("case", list(CASES))
def test_packed_rows_have_the_logits_and_gradients_of_a_mask(case, by_kernel, request):
    calls = request.getfixturevalue("kernel") if by_kernel else None
    model = model_of(**CASES[case])
    inputs = {"input_ids": torch.randint(0, 64, POSITIONS.shape), "position_ids": POSITIONS, "use_cache": False}
    expected, wanted = loss_and_gradients(model, "eager", **inputs)
    logits, gradients = loss_and_gradients(model, "varlen", **inputs)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-4)
    assert gradients.keys() == wanted.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, wanted[name], atol=1e-5, rtol=1e-3, msg=name)
    if by_kernel:
        assert calls == [[0, 5, 8, 9, 12, 24]] * 2


def test_the_lengths_that_the_collator_gives_are_those_that_are_used(kernel, monkeypatch):
    torch.manual_seed(0)
    collator, blocks = PackedCollator(eos_token_id=0), [torch.randint(0, 8, (n,)) for n in (24, 24, 17)]
    collator.gives_lengths = True
    batch = collator([{"input_ids": block} for block in blocks])
    lengths = batch["cu_seq_lens_q"]
    found = sequence_lengths(batch["position_ids"], 3)
    assert len(lengths) % 64 == 0
    assert lengths.unique().tolist() == found.tolist()  # what fills it up has no tokens
    model = model_of()
    monkeypatch.setattr(modeling_folio, "sequence_lengths", None)  # it would wait for the GPU
    inputs = {"use_cache": False, **batch}
    expected, wanted = loss_and_gradients(model, "eager", **inputs)
    logits, gradients = loss_and_gradients(model, "varlen", **inputs)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-4)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, wanted[name], atol=1e-5, rtol=1e-3, msg=name)
    assert kernel == [lengths.tolist()] * 2


def test_documents_are_looked_for_once_a_batch_and_not_in_each_layer(kernel, monkeypatch):
    looks = []
    monkeypatch.setattr(
        modeling_folio, "sequence_lengths", lambda *given: (looks.append(given), sequence_lengths(*given))[1]
    )
    monkeypatch.setattr("transformers.masking_utils.find_packed_sequence_indices", None)  # it waits for the GPU as well
    model = model_of()
    model.set_attn_implementation("varlen")
    model(torch.randint(0, 64, POSITIONS.shape), position_ids=POSITIONS, use_cache=False)
    assert (len(looks), len(kernel)) == (1, 2)


@pytest.mark.parametrize(
    ("device", "dtype", "changes", "runs"),
    [
        ("cuda", torch.bfloat16, {}, True),
        ("cuda", torch.float32, {}, False),
        ("cuda", torch.float16, {"attention_dropout": 0.1}, False),
        ("cuda", torch.float16, {"head_dim": 12}, False),
        ("cuda", torch.float16, {"head_dim": 512}, False),
        ("cpu", torch.bfloat16, {}, False),
    ],
)
def test_the_kernel_is_used_where_it_runs(device, dtype, changes, runs, monkeypatch):
    config = preset_config("folio", "nano", **changes)
    for generation in ((7, 5), (8, 0), (9, 0)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, found=generation: found)
        assert kernel_can_run(config, torch.device(device), dtype) == (runs and generation >= (8, 0))
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: True)
    monkeypatch.setattr(torch, "get_autocast_dtype", lambda device: torch.bfloat16)
    assert kernel_can_run(config, torch.device(device), torch.float32) == (device == "cuda" and not changes)


def test_asking_for_the_generation_of_a_gpu_breaks_no_graph(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    config = preset_config("folio", "nano")

    def double(x):
        return x * 2 if kernel_can_run(config, torch.device("cuda", 0), torch.bfloat16) else x

    assert torch.compile(double, backend="eager", fullgraph=True)(torch.ones(2)).sum() == 4
    torch._dynamo.reset()


def test_padding_and_caches_take_the_road_of_sdpa(kernel):
    model = model_of()
    ids = torch.randint(0, 64, (2, 6))
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1] * 6])
    generated = {}
    for attention in ("sdpa", "varlen"):
        model.set_attn_implementation(attention)
        torch.manual_seed(0)
        generated[attention] = model.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=6,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
    assert torch.equal(generated["sdpa"].sequences, generated["varlen"].sequences)
    for theirs, ours in zip(generated["sdpa"].logits, generated["varlen"].logits, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    assert not kernel


@pytest.mark.parametrize("by_kernel", [False, True])
def test_an_encoder_sees_both_ways(by_kernel, request):
    if by_kernel:
        request.getfixturevalue("kernel")
    layers = ["full_attention", "sliding_attention"]
    model = model_of(model_class=FolioForMaskedLM, is_causal=False, sliding_window=2, layer_types=layers)
    ids = torch.randint(0, 64, (2, 9))
    expected, _ = loss_and_gradients(model, "eager", input_ids=ids)
    logits, _ = loss_and_gradients(model, "varlen", input_ids=ids)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("tokens", [7, 9])
def test_cross_attention_is_to_all_of_the_other_sequence(tokens, kernel):
    model = model_of(model_class=FolioModel, add_cross_attention=True)
    ids, seen = torch.randint(0, 64, (2, 7)), torch.randn(2, tokens, model.config.hidden_size)
    outputs = []
    for attention in ("eager", "varlen"):
        model.set_attn_implementation(attention)
        outputs.append(model(ids, encoder_hidden_states=seen, use_cache=False).last_hidden_state)
    torch.testing.assert_close(*outputs, atol=1e-5, rtol=1e-4)
