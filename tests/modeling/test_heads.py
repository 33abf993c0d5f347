"""What each head reads, and that its loss does not depend on how a batch is cut up."""

import pytest
import torch
from torch.utils.data import SequentialSampler
from transformers import Trainer, TrainingArguments

from foliogpt.modeling import (
    FolioForCausalLM,
    FolioForMaskedLM,
    FolioForQuestionAnswering,
    FolioForSequenceClassification,
    FolioForTokenClassification,
)

GENERATOR = torch.Generator().manual_seed(0)
LENGTHS = [4, 7, 10, 6, 9, 5, 8, 10]  # of eight texts, padded to ten tokens


def example(i: int) -> dict[str, torch.Tensor]:
    ids = torch.randint(3, 99, (10,), generator=GENERATOR)
    mask = (torch.arange(10) < LENGTHS[i]).long()
    return {"input_ids": ids * mask, "attention_mask": mask}


EXAMPLES = [example(i) for i in range(8)]


def tokens(e, i):
    return {"labels": torch.where(e["attention_mask"] == 1, e["input_ids"], -100)}


HEADS = {
    "causal": (FolioForCausalLM, {}, tokens),
    "masked": (FolioForMaskedLM, {"is_causal": False}, tokens),
    "classes": (FolioForSequenceClassification, {"num_labels": 3}, lambda e, i: {"labels": torch.tensor(i % 3)}),
    "number": (FolioForSequenceClassification, {"num_labels": 1}, lambda e, i: {"labels": torch.tensor(i / 3)}),
    "several labels": (
        FolioForSequenceClassification,
        {"num_labels": 3},
        lambda e, i: {"labels": torch.tensor([i % 2, 1, i % 3 == 0]).float()},
    ),
    "tags": (
        FolioForTokenClassification,
        {"num_labels": 3},
        lambda e, i: {"labels": torch.where(e["attention_mask"] == 1, e["input_ids"] % 3, -100)},
    ),
    "spans": (
        FolioForQuestionAnswering,
        {},
        lambda e, i: {"start_positions": torch.tensor(i % 4), "end_positions": torch.tensor(3)},
    ),
    "spans, some out of sight": (
        FolioForQuestionAnswering,
        {},
        lambda e, i: {"start_positions": torch.tensor(i), "end_positions": torch.tensor(99 if i % 3 else 3)},
    ),
}


@pytest.mark.parametrize("head", HEADS)
def test_accumulating_gradients_changes_neither_loss_nor_step(tiny, head, tmp_path):
    head_class, fields, labels_of = HEADS[head]
    data = [{**e, **labels_of(e, i)} for i, e in enumerate(EXAMPLES)]
    results = []
    for accumulation in (1, 2, 4):
        torch.manual_seed(0)
        model = head_class(tiny(**fields, initializer_range=0.3))
        before = [p.detach().clone() for p in model.parameters()]
        args = TrainingArguments(
            str(tmp_path), per_device_train_batch_size=8 // accumulation, gradient_accumulation_steps=accumulation,
            max_steps=1, learning_rate=1.0, optim="sgd", lr_scheduler_type="constant", max_grad_norm=0,
            logging_steps=1, save_strategy="no", report_to=[], use_cpu=True, disable_tqdm=True,
        )  # fmt: skip
        trainer = Trainer(model, args, train_dataset=data)
        trainer._get_train_sampler = lambda *_: SequentialSampler(data)
        trainer.train()
        loss = next(entry["loss"] for entry in trainer.state.log_history if "loss" in entry)
        results.append((loss, [p.detach() - b for p, b in zip(model.parameters(), before, strict=True)]))
    for loss, step in results[1:]:
        assert loss == pytest.approx(results[0][0], rel=1e-3)
        for a, b in zip(step, results[0][1], strict=True):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("is_causal", [True, False])
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_classifier_reads_the_text_and_not_the_padding(tiny, is_causal, side):
    model = FolioForSequenceClassification(tiny(num_labels=3, is_causal=is_causal)).eval()
    text, padding = torch.arange(5, 12)[None], torch.zeros(1, 4, dtype=torch.long)
    padded = torch.cat([padding, text] if side == "left" else [text, padding], dim=1)
    mask = (padded != 0).long()
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        alone = model(text).logits
        torch.testing.assert_close(model(padded, attention_mask=mask, position_ids=positions).logits, alone)


def test_a_batch_whose_padding_nothing_tells_is_refused(tiny):
    model = FolioForSequenceClassification(tiny(pad_token_id=None))
    ids = torch.ones(2, 4, dtype=torch.long)
    with pytest.raises(ValueError, match="pad_token_id"):
        model(ids)
    assert model(ids, attention_mask=torch.ones_like(ids)).logits.shape == (2, 2)
    assert model(ids[:1]).logits.shape == (1, 2)


def test_spans_and_tags_are_scored_at_every_token(tiny):
    ids = torch.arange(5, 12)[None]
    spans = FolioForQuestionAnswering(tiny()).eval()(ids)
    assert spans.start_logits.shape == spans.end_logits.shape == (1, 7)
    assert FolioForTokenClassification(tiny(num_labels=5)).eval()(ids).logits.shape == (1, 7, 5)


def test_a_span_out_of_sight_is_no_target(tiny):
    model, ids = FolioForQuestionAnswering(tiny()), torch.arange(5, 12)[None]
    assert model(ids, start_positions=torch.tensor([7]), end_positions=torch.tensor([50])).loss == 0
    spans = model(ids, start_positions=torch.tensor([[2]]), end_positions=torch.tensor([4]))  # (B, 1) from some loaders
    expected = -(spans.start_logits.log_softmax(-1)[0, 2] + spans.end_logits.log_softmax(-1)[0, 4]) / 2
    torch.testing.assert_close(spans.loss, expected)
