"""The model goes through torch.compile and torch.export in one piece."""

import pytest
import torch

from foliogpt.modeling import FolioForCausalLM

IDS = torch.randint(3, 99, (2, 11), generator=torch.Generator().manual_seed(1))
VARIANTS = {
    "folio": {},
    "gpt2": {"preset": "gpt2"},
    "vaswani": {"preset": "vaswani"},
    "sliding": {"sliding_window": 6, "layer_types": ["sliding_attention", "full_attention"]},
}


@pytest.fixture(params=VARIANTS)
def model(request, tiny):
    torch._dynamo.reset()
    yield FolioForCausalLM(tiny(**VARIANTS[request.param])).eval()
    torch._dynamo.reset()


def test_the_forward_pass_is_one_graph(model):
    # aot_eager traces like inductor but needs no C++ compiler
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        for mask in (None, torch.ones_like(IDS)):
            torch.testing.assert_close(
                compiled(IDS, attention_mask=mask).logits, model(IDS).logits, atol=1e-4, rtol=1e-4
            )


@pytest.mark.parametrize("chunk", [None, 4])
def test_a_training_step_is_one_graph(model, chunk):
    model.train().loss_chunk_size = chunk
    expected = model(IDS, labels=IDS).loss
    loss = torch.compile(model, fullgraph=True, backend="aot_eager")(IDS, labels=IDS).loss
    loss.backward()
    torch.testing.assert_close(loss, expected)
    assert all(p.grad is not None for p in model.parameters())


def test_an_exported_model_takes_any_length(model):
    length = torch.export.Dim("length", min=2, max=60)
    shapes = {"input_ids": {1: length}, "use_cache": None}
    inputs = {"input_ids": IDS, "use_cache": False}
    with torch.no_grad():
        exported = torch.export.export(model, (), inputs, dynamic_shapes=shapes, strict=False).module()
        longer = torch.randint(3, 99, (2, 23), generator=torch.Generator().manual_seed(2))
        torch.testing.assert_close(
            exported(input_ids=longer, use_cache=False).logits, model(longer).logits, atol=1e-4, rtol=1e-4
        )
