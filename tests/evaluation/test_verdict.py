"""The advice about a run follows from its losses."""

import pytest

from foliogpt.evaluation.verdict import verdict

REPORT = {"val_bits_per_byte": 2.2, "baseline_bits_per_byte": {"zlib": 3.0, "xz": 2.0}, "steps": 1000}


def history(evaluations, training):
    return [{"step": 100 * i, "eval_loss": loss} for i, loss in enumerate(evaluations, 1)] + [{"loss": training}]


@pytest.mark.parametrize(
    ("evaluations", "training", "says"),
    [
        ((5.0, 4.0, 3.0), 2.9, "still falling"),
        ((5.0, 3.0, 3.4), 1.0, "memorizes its text (training loss 1.00, validation loss 3.40; the best was 3.00"),
        ((5.0, 3.0, 2.99), 1.5, "more text will help more"),
        ((5.0, 3.0, 2.99), 2.9, "leveled off"),
    ],
)
def test_verdict_distinguishes_the_courses_of_the_losses(evaluations, training, says):
    text = verdict(REPORT, history(evaluations, training))
    assert "better than zlib (3.00) and worse than xz (2.00)" in text
    assert says in text


def test_verdict_advises_to_train_longer_after_few_steps():
    assert "only 4 steps: train longer" in verdict({**REPORT, "steps": 4}, history((5.0, 4.0), 4.0))


def test_verdict_works_without_compressors():
    assert verdict({**REPORT, "baseline_bits_per_byte": {}}, []).startswith("The model needs 2.20 bits")
