"""MuonAdamW is Muon and AdamW, each on its share, and survives saving."""

import copy
import io

import pytest
import torch

from foliogpt.modeling import FolioForCausalLM, preset_config
from foliogpt.training import optimizers
from foliogpt.training.arguments import PretrainingArguments
from foliogpt.training.optimizers import MuonAdamW, build_optimizer, orthogonalize
from foliogpt.training.trainer import FolioTrainer, NotFinite


def small(tie: bool = True) -> FolioForCausalLM:
    torch.manual_seed(0)
    size = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "max_position_embeddings": 32}
    config = preset_config("gpt2", "nano", tie_word_embeddings=tie, **size)
    return FolioForCausalLM(config)


def take_steps(model, optimizer, count: int = 3, first: int = 0) -> None:
    for step in range(first, first + count):
        ids = torch.randint(0, 50, (2, 16), generator=torch.Generator().manual_seed(step))
        model(ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("tie", [True, False])
def test_every_parameter_is_trained_once_and_tables_are_not_orthogonalised(tie):
    model = small(tie)
    optimizer = MuonAdamW(model)
    kinds = {id(p): group["kind"] for group in optimizer.param_groups for p in group["params"]}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.parameters()))
    assert kinds[id(model.model.embed_tokens.weight)] == "adamw"
    assert kinds[id(model.model.embed_positions.weight)] == "adamw"
    assert kinds[id(model.lm_head.weight)] == "adamw"
    assert kinds[id(model.model.layers[0].self_attn.q_proj.weight)] == "muon"
    assert kinds[id(model.model.layers[0].self_attn.q_proj.bias)] == "adamw"


def test_its_steps_are_those_of_the_two_optimizers(monkeypatch):
    monkeypatch.setattr(optimizers, "orthogonalize", lambda stack: orthogonalize(stack, torch.bfloat16))  # as torch
    ours, theirs = small(), small()
    optimizer = MuonAdamW(ours, lr=0.02, adam_lr=0.01, weight_decay=0.1, neuron_beta=None)
    take_steps(ours, optimizer)

    layers = [p for p in theirs.model.layers.parameters() if p.ndim == 2]
    tables = [theirs.model.embed_tokens.weight, theirs.model.embed_positions.weight]
    vectors = [p for p in theirs.parameters() if p.ndim == 1]
    muon = torch.optim.Muon(layers, lr=0.02, momentum=0.95, weight_decay=0.1)
    adam = torch.optim.AdamW(
        [{"params": tables, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}], lr=0.01, betas=(0.9, 0.95)
    )
    for step in range(3):
        ids = torch.randint(0, 50, (2, 16), generator=torch.Generator().manual_seed(step))
        theirs(ids, labels=ids).loss.backward()
        for part in (muon, adam):
            part.step()
            part.zero_grad()
    # Both round to bfloat16, in which the products of one matrix and of a stack may end one unit apart.
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=3 * 0.02 * 2**-7)
    for a, b, c in zip(ours.parameters(), theirs.parameters(), small().parameters(), strict=True):
        assert ((a - c).norm() / (b - c).norm()).item() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("saved_by_gpu", [True, False])
def test_a_run_resumes_with_and_without_fused_adamw(saved_by_gpu, monkeypatch):
    expected = small()
    take_steps(expected, MuonAdamW(expected), 4)
    model, state = small(), None
    for part, fused in enumerate((saved_by_gpu, not saved_by_gpu)):
        with monkeypatch.context() as patch:
            patch.setattr(torch.Tensor, "is_cuda", fused)  # the CPU has the fused kernel as well
            optimizer = MuonAdamW(model)
        assert optimizer._adam.defaults["fused"] is (fused or None)
        if state is not None:
            optimizer.load_state_dict(state)
        take_steps(model, optimizer, 2, first=2 * part)
        state = copy.deepcopy(optimizer.state_dict())
    for a, b in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("shape", [(2, 8, 8), (3, 16, 4), (1, 4, 16)])
def test_orthogonalised_matrices_keep_their_directions_and_lose_their_sizes(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    result = orthogonalize(matrices)
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    in_its_directions = u.mT @ result @ v.mT  # diagonal, as the singular vectors are the same
    values = in_its_directions.diagonal(dim1=-2, dim2=-1)
    torch.testing.assert_close(in_its_directions, torch.diag_embed(values), rtol=0, atol=1e-4)
    assert ((values > 0.5) & (values < 1.3)).all()


def test_neuron_beta_moves_neurons_equally_far_and_keeps_the_norm():
    def update(neuron_beta):
        model = small()
        weight = model.model.layers[0].mlp.down_proj.weight  # (16, 64): its inputs are the neurons
        before = weight.detach().clone()
        take_steps(model, MuonAdamW(model, weight_decay=0.0, neuron_beta=neuron_beta), 1)
        return weight.detach() - before

    even, plain = update(0.95), update(None)
    sizes = even.norm(dim=0)
    assert sizes.max() / sizes.min() < 1.01 < plain.norm(dim=0).max() / plain.norm(dim=0).min()
    assert even.norm() == pytest.approx(plain.norm().item(), rel=1e-4)


def test_a_layer_whose_gradient_is_nothing_yet_stays_finite():
    """Behind projections that begin at zero, no gradient arrives in the first step."""
    torch.manual_seed(0)
    model = FolioForCausalLM(preset_config("speedrun", "nano", vocab_size=50, hidden_size=16, num_hidden_layers=1))
    assert not model.model.layers[0].mlp.down_proj.weight.any()
    take_steps(model, MuonAdamW(model), 3)
    assert all(p.isfinite().all() for p in model.parameters())


def test_a_restored_optimizer_continues_bit_for_bit():
    model = small()
    optimizer = MuonAdamW(model)
    take_steps(model, optimizer, 3)
    other = copy.deepcopy(model)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    restored = MuonAdamW(other)
    restored.load_state_dict(torch.load(file, weights_only=True))

    take_steps(model, optimizer, 2, first=3)
    take_steps(other, restored, 2, first=3)
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_schedule_moves_both_rates():
    optimizer = MuonAdamW(small(), lr=0.02, adam_lr=0.004)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5)
    optimizer.step()
    schedule.step()
    assert {group["kind"]: group["lr"] for group in optimizer.param_groups} == {"muon": 0.01, "adamw": 0.002}


def test_frozen_parameters_are_left_out():
    model = small()
    model.model.layers.requires_grad_(False)
    optimizer = MuonAdamW(model)
    assert {group["kind"] for group in optimizer.param_groups} == {"adamw"}
    before = model.model.layers[0].mlp.up_proj.weight.clone()
    take_steps(model, optimizer, 1)
    assert torch.equal(model.model.layers[0].mlp.up_proj.weight, before)


def test_settings_reach_the_optimizer(tmp_path):
    rates = {"learning_rate": 0.01, "adam_learning_rate": 0.03, "weight_decay": 0.2}
    args = PretrainingArguments(str(tmp_path), muon_momentum=0.8, adam_beta1=0.7, adam_beta2=0.9, **rates)
    muon, tables, vectors = build_optimizer(small(), args).param_groups
    assert (muon["lr"], muon["momentum"], muon["weight_decay"]) == (0.01, 0.8, 0.2)
    assert (tables["lr"], tables["betas"], tables["weight_decay"]) == (0.03, (0.7, 0.9), 0.2)
    assert (vectors["lr"], vectors["weight_decay"]) == (0.03, 0.0)
    sgd = build_optimizer(small(), PretrainingArguments(str(tmp_path), optim="sgd", learning_rate=0.5))
    assert isinstance(sgd, torch.optim.SGD)
    assert sgd.param_groups[0]["lr"] == 0.5


@pytest.mark.parametrize(("given", "width", "rate"), [(None, 64, 0.02), (None, 512, 0.01), (0.003, 512, 0.003)])
def test_embeddings_of_wide_models_are_trained_in_smaller_steps_unless_told(given, width, rate):
    config = preset_config("folio", "nano", vocab_size=64, hidden_size=width, num_hidden_layers=1)
    args = PretrainingArguments(adam_learning_rate=given)
    optimizer = build_optimizer(FolioForCausalLM(config), args)
    assert args.adam_learning_rate == rate
    embeddings = next(g for g in optimizer.param_groups if any(p.shape == (64, width) for p in g["params"]))
    assert embeddings["lr"] == rate


def test_weights_that_are_not_finite_are_reported_before_there_is_an_optimizer(tmp_path):
    model = small()
    next(model.parameters()).data.fill_(float("nan"))
    with pytest.raises(NotFinite, match="not finite"):
        FolioTrainer(model, PretrainingArguments(str(tmp_path), eval_strategy="no", bf16=False)).evaluate([])
