"""Each part written from scratch is its library counterpart: the same numbers to 1e-6 in float64."""

import contextlib
import functools
import io
import re
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import Trainer, TrainingArguments, get_cosine_schedule_with_warmup, get_wsd_schedule

from foliogpt.modeling import FolioForCausalLM, preset_config
from foliogpt.training.from_scratch import training_loop as from_scratch
from foliogpt.training.from_scratch.training_loop import IGNORE_INDEX, SGD, Adam, AdamW, Momentum, Muon

STEPS = 60
close = functools.partial(torch.testing.assert_close, rtol=1e-6, atol=1e-6)


@pytest.fixture(autouse=True)
def _double_precision():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def library_in_double(monkeypatch):
    """Let torch's Newton-Schulz run in float64.

    torch.optim.Muon casts to bfloat16 by `grad.bfloat16()`, from torch 2.14 on by `grad.to(dtype=...)`, and has no
    setting for it; everything after that line works in whatever dtype it gets. With these methods replaced, the
    library's own code runs in float64 from end to end.
    """
    to = torch.Tensor.to

    def to_double(tensor, *args, **kwargs):
        if kwargs.get("dtype") == torch.bfloat16:
            kwargs["dtype"] = torch.float64
        return to(tensor, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda tensor: tensor.double().clone())
    monkeypatch.setattr(torch.Tensor, "to", to_double)


# --- Loss ---


@pytest.mark.parametrize("scale", [1, 1000], ids=["usual", "where exp would overflow"])
@pytest.mark.parametrize(("positions", "vocab"), [(1, 2), (7, 50), (33, 257)])
def test_cross_entropy_and_its_gradient(positions, vocab, scale):
    logits = (scale * torch.randn(positions, vocab)).requires_grad_()
    targets = torch.randint(vocab, (positions,))
    targets[1::3] = IGNORE_INDEX
    theirs = nn.functional.cross_entropy(logits, targets, ignore_index=IGNORE_INDEX)
    ours = from_scratch.cross_entropy(logits, targets)
    close(ours, theirs)
    close(torch.autograd.grad(ours, logits)[0], torch.autograd.grad(theirs, logits)[0])


def test_the_gradient_of_cross_entropy_is_its_slope():
    logits = torch.randn(4, 6, requires_grad=True)
    targets = torch.tensor([0, IGNORE_INDEX, 5, 2])
    assert torch.autograd.gradcheck(lambda z: from_scratch.cross_entropy(z, targets), logits)


def test_ignored_positions_cannot_spoil_the_loss():
    logits = torch.randn(3, 5)
    logits[1] = torch.nan
    logits.requires_grad_()
    targets = torch.tensor([1, IGNORE_INDEX, 2])
    loss = from_scratch.cross_entropy(logits, targets)
    loss.backward()
    close(loss, nn.functional.cross_entropy(logits, targets))
    assert logits.grad[1].eq(0).all()


def test_a_loss_without_targets_is_nan_as_in_torch():
    logits, targets = torch.randn(2, 3), torch.tensor([IGNORE_INDEX, IGNORE_INDEX])
    assert from_scratch.cross_entropy(logits, targets).isnan()
    assert nn.functional.cross_entropy(logits, targets).isnan()


# --- Optimizers ---


def shapes(matrices_only: bool) -> list[tuple[int, ...]]:
    sizes = torch.randint(1, 40, (4, 2)).tolist()
    drawn = [tuple(size) for size in sizes] + [(30, 5), (5, 30), (16, 16)]
    return drawn if matrices_only else [*drawn, (9,), (2, 3, 4), ()]


def weights_after(optimizer_of, initial, gradients) -> list[torch.Tensor]:
    weights = [nn.Parameter(value.clone()) for value in initial]
    optimizer = optimizer_of(weights)
    for gradient in gradients:
        for weight, grad in zip(weights, gradient, strict=True):
            weight.grad = None if grad is None else grad.clone()
        optimizer.step()
    return [weight.detach() for weight in weights]


def assert_same_steps(ours, theirs, matrices_only: bool = False, exact: bool = False) -> None:
    """The same weights after many steps, with gradients of many sizes; sometimes a weight has none."""
    initial = [torch.randn(shape) for shape in shapes(matrices_only)]
    gradients = [[10.0 ** (i - 3) * torch.randn_like(value) for i, value in enumerate(initial)] for _ in range(STEPS)]
    for step in (0, 5, 6):
        gradients[step][step % 3] = None
    a, b = weights_after(ours, initial, gradients), weights_after(theirs, initial, gradients)
    for mine, library, start in zip(a, b, initial, strict=True):
        assert not torch.equal(mine, start)
        torch.testing.assert_close(mine, library, rtol=0, atol=0) if exact else close(mine, library)


def test_sgd():
    assert_same_steps(lambda w: SGD(w, lr=0.01), lambda w: torch.optim.SGD(w, lr=0.01))


def test_momentum():
    settings = {"lr": 0.01, "momentum": 0.9}
    assert_same_steps(lambda w: Momentum(w, **settings), lambda w: torch.optim.SGD(w, **settings))


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize(("ours", "theirs"), [(Adam, torch.optim.Adam), (AdamW, torch.optim.AdamW)])
def test_adam(ours, theirs, weight_decay):
    settings = {"lr": 0.01, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": weight_decay}
    assert_same_steps(lambda w: ours(w, **settings), lambda w: theirs(w, **settings))


@pytest.mark.usefixtures("library_in_double")
def test_muon_in_float64():
    """All of torch.optim.Muon's own code, run in float64."""
    settings = {"lr": 0.02, "momentum": 0.95, "weight_decay": 0.1}
    ours = functools.partial(Muon, dtype=torch.float64, **settings)
    assert_same_steps(ours, lambda w: torch.optim.Muon(w, **settings), matrices_only=True)


def test_muon_as_it_is_used_is_the_same_bit_for_bit():
    """torch.optim.Muon untouched: float32 weights, orthogonalised in bfloat16."""
    torch.set_default_dtype(torch.float32)
    settings = {"lr": 0.02, "momentum": 0.95, "weight_decay": 0.1}
    ours, theirs = functools.partial(Muon, **settings), functools.partial(torch.optim.Muon, **settings)
    assert_same_steps(ours, theirs, matrices_only=True, exact=True)


def test_muon_refuses_what_is_no_matrix():
    with pytest.raises(ValueError, match="AdamW"):
        Muon([nn.Parameter(torch.zeros(3))], lr=0.1)


@pytest.mark.parametrize("shape", [(64, 64), (96, 32), (32, 96)])
def test_orthogonalisation_keeps_the_directions_and_brings_the_singular_values_near_one(shape):
    matrix = torch.randn(shape)
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    result = from_scratch.orthogonalize(matrix, dtype=torch.float64)
    in_its_directions = u.T @ result @ v.T
    values = in_its_directions.diagonal()
    close(in_its_directions, values.diag())
    if shape[0] != shape[1]:  # a square one has singular values next to 0, which five steps lift only so far
        assert values.min() > 0.6
    assert 0.6 < values.median() < 1.3
    assert values.max() < 1.3


def test_a_zero_gradient_stays_zero():
    assert from_scratch.orthogonalize(torch.zeros(3, 4)).eq(0).all()


# --- Schedules ---


def library_factors(schedule_of, steps: int) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule, factors = schedule_of(optimizer), []
    for _ in range(steps):
        factors.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return factors


@pytest.mark.parametrize("warmup", [0, 1, 10])
def test_warmup_and_cosine(warmup):
    theirs = library_factors(lambda o: get_cosine_schedule_with_warmup(o, warmup, 100), 101)
    ours = [from_scratch.warmup_cosine(step, warmup, 100) for step in range(101)]
    assert ours == pytest.approx(theirs, abs=1e-12)


@pytest.mark.parametrize(("warmup", "decay"), [(0, 0), (0, 30), (10, 60), (10, 90), (1, 1)])
def test_warmup_stable_decay(warmup, decay):
    theirs = library_factors(lambda o: get_wsd_schedule(o, warmup, decay, 100, decay_type="linear"), 105)
    ours = [from_scratch.warmup_stable_decay(step, warmup, 100, decay) for step in range(105)]
    assert ours == pytest.approx(theirs, abs=1e-12)


# --- The loop ---


@pytest.mark.parametrize("max_norm", [0.1, 1e6], ids=["clips", "does nothing"])
def test_clipping(max_norm):
    ours = [nn.Parameter(torch.randn(shape)) for shape in shapes(False)]
    theirs = [nn.Parameter(p.detach().clone()) for p in ours]
    for a, b in zip(ours[1:], theirs[1:], strict=True):  # the first has no gradient
        a.grad, b.grad = a.detach().clone(), b.detach().clone()
    close(from_scratch.clip_gradients(ours, max_norm), nn.utils.clip_grad_norm_(theirs, max_norm))
    for a, b in zip(ours[1:], theirs[1:], strict=True):
        close(a.grad, b.grad)


def test_every_example_comes_once_an_epoch_in_a_new_order():
    steps = from_scratch.batches(examples=11, batch_size=2, accumulate=4, seed=0)
    epochs = [torch.cat([*next(steps), *next(steps)]).tolist() for _ in range(3)]
    assert all(sorted(epoch) == list(range(11)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


class ListeningTrainer(Trainer):
    """Keeps each step's loss as it is: logs are rounded to float32."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.losses: dict[int, float] = {}

    def training_step(self, *args, **kwargs):
        loss = super().training_step(*args, **kwargs)
        step = self.state.global_step
        self.losses[step] = self.losses.get(step, 0.0) + loss.item()
        return loss


def test_fifty_steps_of_the_loop_are_fifty_steps_of_trainer(tmp_path):
    """Everything at once: order of the data over several epochs, batches and steps that are not full, accumulation,
    targets that are ignored, clipping, cosine schedule with warm-up, decay of the matrices alone."""
    # GPT-2's norms and loss stay in float64, while RMSNorm's mean square is taken in float32, as Llama's is.
    size = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "max_position_embeddings": 16}
    ours = FolioForCausalLM(preset_config("gpt2", "nano", initializer_range=0.2, **size)).double()
    theirs = FolioForCausalLM(ours.config).double()
    theirs.load_state_dict(ours.state_dict())
    theirs.loss_chunk_size = 512  # the loss that works in the dtype of the model
    input_ids = torch.randint(40, (27, 12))
    labels = input_ids.clone()
    labels[::4, 5:] = IGNORE_INDEX

    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=50,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        learning_rate=0.01,
        weight_decay=0.1,
        adam_beta2=0.95,
        max_grad_norm=0.5,
        lr_scheduler_type="cosine",
        warmup_steps=5,
        data_seed=7,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )
    examples = [{"input_ids": ids, "labels": label} for ids, label in zip(input_ids, labels, strict=True)]
    trainer = ListeningTrainer(theirs, arguments, train_dataset=examples)
    trainer.train()
    expected = list(trainer.losses.values())

    parameters = list(ours.parameters())
    matrices, vectors = [p for p in parameters if p.ndim > 1], [p for p in parameters if p.ndim == 1]
    losses = from_scratch.train(
        ours,
        input_ids,
        labels,
        [AdamW(matrices, 0.01, (0.9, 0.95), weight_decay=0.1), AdamW(vectors, 0.01, (0.9, 0.95))],
        schedule=lambda step: from_scratch.warmup_cosine(step, 5, 50),
        steps=50,
        batch_size=4,
        accumulate=2,
        max_norm=0.5,
        seed=7,
    )
    assert len(losses) == len(expected) == 50
    assert losses == pytest.approx(expected, abs=1e-6)
    assert losses[-1] < losses[0] - 1
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        close(a, b, msg=name)


def test_accumulated_batches_are_one_large_batch():
    size = {"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 1, "max_position_embeddings": 8}
    config = preset_config("gpt2", "nano", num_attention_heads=2, **size)
    ids = torch.randint(20, (12, 8))
    labels = ids.clone()
    labels[::2, 3:] = IGNORE_INDEX
    results = []
    for batch_size, accumulate in ((12, 1), (3, 4)):
        torch.manual_seed(1)
        model = FolioForCausalLM(config).double()
        optimizers = [Momentum(model.parameters(), 0.1)]
        losses = from_scratch.train(model, ids, labels, optimizers, lambda step: 1.0, 5, batch_size, accumulate)
        results.append((losses, torch.cat([p.detach().flatten() for p in model.parameters()])))
    assert results[0][0] == pytest.approx(results[1][0])
    close(results[0][1], results[1][1])


# --- The page ---


def test_the_page_prints_what_it_says():
    torch.set_default_dtype(torch.float32)
    page = (Path(__file__).parents[3] / "docs" / "training-from-scratch.md").read_text()
    pairs = re.findall(r"^```python\n(.*?)^```\n\n```\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)
    assert len(pairs) == page.count("```python")
    session: dict = {}
    for code, expected in pairs:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(code, session)
        assert printed.getvalue() == expected, code
