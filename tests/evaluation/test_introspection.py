"""Probabilities and attention weights are those that the model computes."""

import pytest
import torch
from smollm2 import smollm2_folder
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from foliogpt.evaluation.introspection import (
    attention_weights,
    first_token_score,
    head_names,
    induction_score,
    previous_token_score,
    token_predictions,
    with_attentions,
)
from foliogpt.modeling import FolioForCausalLM

IDS = [5, 17, 3, 3, 60, 8]


@pytest.fixture(params=["folio", "gpt2", "vaswani", "stock"])
def model(request, tiny):
    if request.param == "stock":
        return GPT2LMHeadModel(GPT2Config(vocab_size=99, n_positions=64, n_embd=32, n_layer=2, n_head=4)).eval()
    return FolioForCausalLM(tiny(request.param)).eval()


def test_probabilities_are_those_that_the_loss_is_made_of(model):
    predictions = token_predictions(model, IDS)
    assert [each.id for each in predictions] == IDS
    assert predictions[0].probability is None
    ids = torch.tensor([IDS])
    losses = -torch.tensor([each.probability for each in predictions[1:]]).log()
    torch.testing.assert_close(losses.mean(), model(ids, labels=ids).loss.detach())
    best = model(ids).logits[0, 2].softmax(-1).topk(5)
    assert [id for id, _ in predictions[3].top_tokens] == best.indices.tolist()


def test_attention_is_causal_sums_to_one_and_the_model_itself_stays_as_it_is(model):
    before = model.config._attn_implementation
    eager = with_attentions(model)
    weights = attention_weights(eager, IDS)
    assert weights.shape == (2, 4, 6, 6)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 4, 6))
    assert not weights.triu(1).any()
    assert model.config._attn_implementation == before
    assert next(eager.parameters()) is next(model.parameters())
    ids = torch.tensor([IDS])
    torch.testing.assert_close(eager(ids).logits, model(ids).logits, atol=1e-4, rtol=1e-4)


def looking_at(target_of, tokens: int = 12) -> torch.Tensor:
    """Attention (1, 1, T, T) of a head that looks at one position alone, the first if there is none."""
    weights = torch.zeros(1, 1, tokens, tokens)
    for t in range(tokens):
        weights[0, 0, t, max(0, target_of(t))] = 1
    return weights


def test_scores_tell_previous_token_heads_from_induction_heads():
    period = 4
    induction, previous = looking_at(lambda t: t - period + 1), looking_at(lambda t: t - 1)
    both = torch.cat((induction, previous), dim=1)  # two heads of one layer
    assert induction_score(both, period).tolist() == [[1, 0]]
    assert previous_token_score(both)[0, 1] == 1
    assert previous_token_score(both)[0, 0] == pytest.approx(1 / 11)  # the second position has only the first
    uniform = torch.ones(12, 12).tril()
    uniform = (uniform / uniform.sum(-1, keepdim=True))[None, None]
    expected = sum(1 / (t + 1) for t in range(period, 12)) / (12 - period)
    assert induction_score(uniform, period).item() == pytest.approx(expected)


@pytest.mark.parametrize("period", [0, 1, 12, 40])
def test_a_period_that_the_text_does_not_repeat_is_an_error(period):
    with pytest.raises(ValueError, match=f"12 tokens: give a period from 2 to 11, not {period}"):
        induction_score(looking_at(lambda t: t - 1), period)


def test_head_names_are_those_of_the_attention_patterns_on_repeated_tokens(model, monkeypatch):
    asked = []

    def attention(eager, ids):
        asked.append(ids)
        size, period = len(ids), len(ids) // 2
        uniform = torch.ones(size, size).tril()
        kinds = [looking_at(lambda t: 0, size), looking_at(lambda t: t - 1, size), uniform / uniform.sum(-1, True)]
        kinds = [kind.reshape(1, 1, size, size) for kind in (*kinds, looking_at(lambda t: t - period + 1, size))]
        assert first_token_score(kinds[0]) == 1
        return torch.cat(kinds, dim=1)

    monkeypatch.setattr("foliogpt.evaluation.introspection.attention_weights", attention)
    assert head_names(model) == {(0, 0): "first token", (0, 1): "previous token", (0, 3): "induction"}
    assert head_names(model, context_length=20)
    assert head_names(model, context_length=3) == {}
    assert [len(ids) for ids in asked] == [48, 20]
    assert all(ids[: len(ids) // 2] == ids[len(ids) // 2 :] for ids in asked)


@pytest.mark.slow
def test_a_real_model_has_all_kinds_of_heads_and_a_random_one_has_none(tiny):
    real = AutoModelForCausalLM.from_pretrained(smollm2_folder()).eval()
    names = head_names(with_attentions(real))
    assert set(names.values()) == {"first token", "previous token", "induction"}
    ids = [504, 3575, 282, 1149, 314] * 6  # an induction head looks at what came next, also in a text of its own
    weights = attention_weights(with_attentions(real), ids)
    found = [place for place, name in names.items() if name == "induction"]
    others = induction_score(weights, 5).mean()
    assert torch.stack([induction_score(weights, 5)[place] for place in found]).mean() > 5 * others
    assert head_names(with_attentions(FolioForCausalLM(tiny("folio")).eval()), 64) == {}
