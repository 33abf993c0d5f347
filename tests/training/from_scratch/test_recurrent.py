"""The recurrent layers by hand are PyTorch's, and their models learn with the loop and with MuonAdamW."""

import pytest
import torch
from torch import nn

from foliogpt.training.from_scratch import AdamW, RecurrentForCausalLM, lstm, rnn, train
from foliogpt.training.optimizers import MuonAdamW


@pytest.mark.parametrize(("by_hand", "layer"), [(rnn, nn.RNN), (lstm, nn.LSTM)])
@pytest.mark.parametrize("shape", [(1, 1, 3), (4, 9, 6)])
def test_layer_has_the_states_and_gradients_of_torch(by_hand, layer, shape):
    torch.manual_seed(0)
    theirs = layer(shape[-1], 5, batch_first=True).double()
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    d_states = torch.randn(*shape[:2], 5, dtype=torch.float64)
    inputs = [x, *theirs.parameters()]
    expected, _ = theirs(x)
    states = by_hand(*inputs)
    torch.testing.assert_close(states, expected)
    ours = torch.autograd.grad(states, inputs, d_states)
    torch.testing.assert_close(ours, torch.autograd.grad(expected, inputs, d_states))


@pytest.mark.parametrize("kind", ["rnn", "lstm"])
def test_model_learns_to_repeat_with_the_loop(kind):
    torch.manual_seed(0)
    model = RecurrentForCausalLM(vocab_size=4, hidden_size=16, kind=kind)
    ids = torch.arange(4).repeat(8, 4)
    losses = train(model, ids, ids, [AdamW(model.parameters(), 0.02)], lambda step: 1.0, steps=40, batch_size=8)
    assert losses[0] == pytest.approx(torch.tensor(4.0).log().item(), abs=0.3)
    assert losses[-1] < 0.1


def test_muon_moves_the_recurrent_matrices_alone():
    model = RecurrentForCausalLM(vocab_size=7, hidden_size=8, num_layers=2)
    groups = MuonAdamW(model).param_groups
    muon = [p for group in groups if group["kind"] == "muon" for p in group["params"]]
    matrices = [p for name, p in model.layers.named_parameters() if name.startswith("weight")]
    assert {id(p) for p in muon} == {id(p) for p in matrices}


def test_model_sees_no_later_token():
    torch.manual_seed(0)
    model = RecurrentForCausalLM(vocab_size=9, hidden_size=8)
    ids = torch.randint(9, (1, 6))
    changed = ids.clone()
    changed[0, 4] = (ids[0, 4] + 1) % 9
    differs = (model(ids).logits != model(changed).logits).any(-1)[0]
    assert differs.tolist() == [False] * 4 + [True] * 2


def test_wrong_kind_and_cache_are_errors():
    with pytest.raises(ValueError, match="'gru': choose rnn or lstm"):
        RecurrentForCausalLM(4, 8, kind="gru")
    with pytest.raises(ValueError, match="no key-value cache"):
        RecurrentForCausalLM(4, 8)(torch.zeros(1, 2, dtype=torch.long), use_cache=True)
