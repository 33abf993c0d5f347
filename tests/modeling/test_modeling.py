"""What the model computes: the same by every road, and nothing from where it must not look."""

import math

import pytest
import torch
from transformers import EncoderDecoderConfig, EncoderDecoderModel
from transformers.modeling_outputs import CausalLMOutputWithCrossAttentions

from foliogpt.modeling import PRESETS, FolioForCausalLM, FolioForMaskedLM, FolioModel
from foliogpt.modeling.loss import chunked_causal_lm_loss

IDS = torch.randint(2, 99, (2, 17), generator=torch.Generator().manual_seed(1))

SLIDING = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 4}


@torch.no_grad()
def logits(model, ids=IDS, **kwargs):
    output = model.eval()(ids, **kwargs)
    assert isinstance(output, CausalLMOutputWithCrossAttentions)
    return output.logits


@pytest.mark.parametrize("fields", [{}, SLIDING], ids=["full", "sliding"])
@pytest.mark.parametrize("preset", PRESETS)
def test_written_out_attention_equals_the_kernel(tiny, preset, fields):
    model = FolioForCausalLM(tiny(preset, **fields))
    fast = logits(model)
    model.set_attn_implementation("eager")
    torch.testing.assert_close(logits(model), fast, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("fields", [{}, SLIDING], ids=["full", "sliding"])
@pytest.mark.parametrize("preset", PRESETS)
def test_tokens_one_by_one_with_a_cache_equal_all_at_once(tiny, preset, fields):
    model = FolioForCausalLM(tiny(preset, **fields)).eval()
    cache, steps = None, []
    for i in range(IDS.shape[1]):
        with torch.no_grad():
            output = model(IDS[:, i : i + 1], past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        steps.append(output.logits)
    torch.testing.assert_close(torch.cat(steps, dim=1), logits(model), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("preset", PRESETS)
def test_no_token_sees_the_future(tiny, preset):
    model = FolioForCausalLM(tiny(preset))
    changed = IDS.clone()
    changed[:, 9:] = 5
    torch.testing.assert_close(logits(model, changed)[:, :9], logits(model)[:, :9])
    assert not torch.allclose(logits(model, changed)[:, 9:], logits(model)[:, 9:])


def test_a_sliding_layer_sees_its_window_and_no_more(tiny):
    model = FolioForCausalLM(tiny(layer_types=["sliding_attention"] * 2, sliding_window=3))
    changed = IDS.clone()
    changed[:, 0] = 5
    same = torch.isclose(logits(model, changed), logits(model), atol=1e-6).all(-1)[0]
    # Two layers reach (3 - 1) tokens back each.
    assert same.tolist() == [False] * 5 + [True] * 12


def test_an_encoder_sees_its_window_to_both_sides_by_every_kernel(tiny):
    config = tiny(layer_types=["sliding_attention"] * 2, sliding_window=3, is_causal=False)
    model = FolioForMaskedLM(config).eval()
    changed = IDS.clone()
    changed[:, 8] = 5
    with torch.no_grad():
        same = torch.isclose(model(changed).logits, model(IDS).logits, atol=1e-6).all(-1)[0]
    assert same.tolist() == [abs(i - 8) > 6 for i in range(17)]  # two layers reach three tokens each
    # Flash attention is told the window instead of a mask, and takes it to count the token itself.
    assert model.model.layers[0].self_attn.sliding_window == 4
    assert FolioModel(tiny(sliding_window=3)).layers[0].self_attn.sliding_window == 3


@pytest.mark.parametrize("preset", PRESETS)
def test_left_padding_changes_nothing(tiny, preset):
    model = FolioForCausalLM(tiny(preset))
    padded = torch.cat([torch.zeros(2, 5, dtype=torch.long), IDS], dim=1)
    mask = (padded != 0).long()
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    out = logits(model, padded, attention_mask=mask, position_ids=positions)
    torch.testing.assert_close(out[:, 5:], logits(model), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("preset", PRESETS)
def test_packed_documents_do_not_leak_into_each_other(tiny, preset, implementation):
    model = FolioForCausalLM(tiny(preset, attn_implementation=implementation))
    positions = torch.tensor([[*range(7), *range(10)]]).expand(2, -1)
    packed = logits(model, position_ids=positions, use_cache=False)
    alone = torch.cat([logits(model, IDS[:, :7]), logits(model, IDS[:, 7:])], dim=1)
    torch.testing.assert_close(packed, alone, atol=1e-5, rtol=1e-5)


def test_an_encoder_sees_both_sides(tiny):
    encoder = FolioForMaskedLM(tiny(is_causal=False)).eval()
    changed = IDS.clone()
    changed[:, -1] = 5
    with torch.no_grad():
        assert not torch.allclose(encoder(changed).logits[:, 0], encoder(IDS).logits[:, 0])


def test_an_encoder_ignores_padding(tiny):
    encoder = FolioModel(tiny(is_causal=False)).eval()
    padded = torch.cat([IDS, torch.zeros(2, 5, dtype=torch.long)], dim=1)
    with torch.no_grad():
        alone = encoder(IDS).last_hidden_state
        out = encoder(padded, attention_mask=(padded != 0).long()).last_hidden_state
    torch.testing.assert_close(out[:, :17], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("preset", ["gpt2", "folio"])
def test_greedy_generation_is_the_argmax_of_the_logits(tiny, preset):
    model = FolioForCausalLM(tiny(preset)).eval()
    model.generation_config.eos_token_id = None
    ids = IDS
    for _ in range(8):
        ids = torch.cat([ids, logits(model, ids)[:, -1:].argmax(-1)], dim=1)
    for cache in (True, False):
        generated = model.generate(IDS, max_new_tokens=8, do_sample=False, use_cache=cache)
        assert torch.equal(generated, ids)


def test_logits_stay_under_the_soft_cap(tiny):
    model = FolioForCausalLM(tiny("speedrun", final_logit_softcapping=2.0, initializer_range=1.0))
    assert 1.5 < logits(model).abs().max() <= 2.0


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("chunk", [1, 5, 1000])
def test_chunked_loss_has_the_value_and_gradients_of_the_stock_loss(tiny, softcap, chunk):
    model = FolioForCausalLM(tiny(final_logit_softcapping=softcap, initializer_range=0.5)).double().train()
    labels = IDS.masked_fill(IDS % 5 == 0, -100)
    stock = model(IDS, labels=labels).loss
    stock.backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()

    model.loss_chunk_size = chunk
    output = model(IDS, labels=labels)
    output.loss.backward()
    assert output.logits is None
    torch.testing.assert_close(output.loss, stock.double(), atol=1e-6, rtol=1e-6)
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, expected[name], atol=1e-6, rtol=1e-5, msg=name)


@pytest.mark.parametrize("softcap", [None, 2.0])
def test_z_loss_adds_the_squared_log_of_the_denominator_in_training_alone(tiny, softcap):
    model = FolioForCausalLM(tiny(final_logit_softcapping=softcap, initializer_range=0.5)).train()
    ids = torch.randint(0, model.config.vocab_size, (2, 9))
    labels = ids.clone()
    labels[:, :4] = -100
    model.loss_chunk_size = None
    logits = model(ids).logits[:, :-1]
    counted = labels[:, 1:] != -100
    extra = 0.3 * logits.logsumexp(-1).square()[counted].mean()
    expected = torch.nn.functional.cross_entropy(logits[counted], labels[:, 1:][counted]) + extra
    expected.backward()
    gradients = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()

    model.loss_chunk_size, model.z_loss = 5, 0.3
    loss = model.train()(ids, labels=labels).loss
    loss.backward()
    torch.testing.assert_close(loss, expected)
    for p, gradient in zip(model.parameters(), gradients, strict=True):
        torch.testing.assert_close(p.grad, gradient, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(model.eval()(ids, labels=labels).loss, expected - extra)


def test_chunked_loss_divides_by_the_items_of_the_whole_batch():
    hidden, weight = torch.randn(1, 6, 4), torch.randn(9, 4)
    labels = torch.randint(0, 9, (1, 6))
    mean = chunked_causal_lm_loss(hidden, weight, labels, 4)
    torch.testing.assert_close(chunked_causal_lm_loss(hidden, weight, labels, 4, num_items_in_batch=50), mean * 5 / 50)


@pytest.mark.parametrize(("init", "factor"), [("normal", 1.0), ("scaled", 1 / math.sqrt(2 * 4)), ("zero", 0.0)])
def test_projections_to_the_residual_stream_start_as_configured(tiny, init, factor):
    config = tiny(hidden_size=128, intermediate_size=256, num_hidden_layers=4, residual_init=init)
    layer = FolioForCausalLM(config).model.layers[1]
    for projection in (layer.self_attn.o_proj, layer.mlp.down_proj):
        assert projection.weight.std().item() == pytest.approx(0.02 * factor, rel=0.05)
    for projection in (layer.self_attn.q_proj, layer.mlp.up_proj):
        assert projection.weight.std().item() == pytest.approx(0.02, rel=0.05)


def test_gradient_checkpointing_gives_the_same_gradients(tiny):
    model = FolioForCausalLM(tiny()).train()
    model(IDS, labels=IDS).loss.backward()
    expected = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    model.gradient_checkpointing_enable()
    model(IDS, labels=IDS).loss.backward()
    for p, grad in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, grad)


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_carries_gradients_to_the_encoder(tiny, reentrant):
    def gradients(checkpointing):
        torch.manual_seed(0)
        encoder, decoder = FolioModel(tiny(is_causal=False)), FolioForCausalLM(tiny(add_cross_attention=True))
        model = EncoderDecoderModel(encoder=encoder, decoder=decoder).train()
        model.config.decoder_start_token_id, model.config.pad_token_id = 1, 0
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        model(input_ids=IDS, labels=IDS).loss.backward()
        return [p.grad for p in model.encoder.parameters()]

    for a, b in zip(gradients(True), gradients(False), strict=True):
        torch.testing.assert_close(a, b)


def test_too_many_tokens_for_learned_positions_is_an_error_that_says_so(tiny):
    model = FolioForCausalLM(tiny("gpt2"))
    with pytest.raises(ValueError, match=r"65 tokens.*64"):
        model(torch.zeros(1, 65, dtype=torch.long))


def test_ids_and_embeddings_at_once_are_refused(tiny):
    model = FolioModel(tiny())
    with pytest.raises(ValueError, match="exactly one"):
        model(IDS, inputs_embeds=torch.zeros(2, 17, 32))
    with pytest.raises(ValueError, match="exactly one"):
        model()


def test_an_encoder_needs_cross_attention_to_be_listened_to(tiny):
    model = FolioForCausalLM(tiny())
    with pytest.raises(ValueError, match="add_cross_attention"):
        model(IDS, encoder_hidden_states=torch.zeros(2, 3, 32))


def test_two_stacks_pair_as_encoder_and_decoder_and_learn_to_reverse(tiny):
    encoder = FolioModel(tiny("vaswani", is_causal=False))
    decoder = FolioForCausalLM(tiny("vaswani", add_cross_attention=True, is_decoder=True))
    config = EncoderDecoderConfig.from_encoder_decoder_configs(encoder.config, decoder.config)
    model = EncoderDecoderModel(encoder=encoder, decoder=decoder, config=config)
    model.config.decoder_start_token_id, model.config.pad_token_id = 1, 0
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(500):
        source = torch.randint(2, 12, (64, 4), generator=generator)
        loss = model(input_ids=source, labels=source.flip(1)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    source = torch.randint(2, 12, (32, 4), generator=generator)
    model.eval()
    for cache in (True, False):
        out = model.generate(source, max_new_tokens=4, do_sample=False, use_cache=cache, eos_token_id=None)
        assert (out[:, 1:] == source.flip(1)).float().mean() > 0.95
