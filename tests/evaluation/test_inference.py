"""Metrics do not depend on batches, padding, or the places where a text is cut into windows."""

import copy

import numpy as np
import peft
import pytest
import torch
from transformers import (
    GenerationConfig,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from foliogpt.evaluation.heads import evaluate_labels
from foliogpt.evaluation.inference import Subject, continuations, head_logits, in_windows, token_nats, windows
from foliogpt.evaluation.predictions import classify
from foliogpt.modeling import (
    FolioForCausalLM,
    FolioForQuestionAnswering,
    FolioForSequenceClassification,
    FolioForTokenClassification,
    preset_config,
)
from foliogpt.tokenization import train_tokenizer

TINY = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
INPUTS = [list(range(3, 3 + length)) for length in (12, 5, 1, 30, 7, 2, 19, 30, 3)]


def folio(cls=FolioForCausalLM, preset="folio", **fields):
    torch.manual_seed(0)
    shape = {**TINY, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1, **fields}
    return cls(preset_config(preset, "nano", **shape, residual_init="normal", initializer_range=0.3)).eval()


def stock(kind: str):
    torch.manual_seed(0)
    if kind == "gpt2":
        return GPT2LMHeadModel(GPT2Config(vocab_size=99, n_embd=32, n_layer=2, n_head=4, n_positions=64)).eval()
    return LlamaForCausalLM(LlamaConfig(**TINY, max_position_embeddings=64)).eval()


MODELS = {
    "folio": folio,
    "learned positions": lambda: folio(preset="gpt2"),
    "gpt2": lambda: stock("gpt2"),
    "llama": lambda: stock("llama"),
}


@pytest.mark.parametrize("name", MODELS)
def test_batches_do_not_change_the_loss_of_tokens(name):
    model = MODELS[name]()
    one, eight = (token_nats(model, INPUTS, batch_size) for batch_size in (1, 8))
    for ids, alone, together in zip(INPUTS, one, eight, strict=True):
        assert len(alone) == len(ids) - 1
        assert together == pytest.approx(alone, abs=1e-4)
        if len(ids) > 1:
            with torch.no_grad():
                loss = model(torch.tensor([ids]), labels=torch.tensor([ids])).loss.item()
            assert alone.mean() == pytest.approx(loss, abs=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_texts_generated_in_batches_are_those_generated_one_by_one(name):
    model = MODELS[name]()
    config = GenerationConfig(do_sample=False, max_new_tokens=8, pad_token_id=0, eos_token_id=1)
    one, eight = (continuations(model, INPUTS, config, batch_size) for batch_size in (1, 8))
    assert one == eight
    with torch.no_grad():
        alone = model.generate(torch.tensor([INPUTS[0]]), generation_config=copy.deepcopy(config))[0, 12:].tolist()
    assert one[0] == alone[: alone.index(1) if 1 in alone else None]


def test_samples_depend_on_the_seed_and_not_on_the_batch():
    model = folio()
    config = GenerationConfig(do_sample=True, max_new_tokens=8, pad_token_id=0, eos_token_id=1)
    torch.manual_seed(5)
    one = continuations(model, INPUTS, config, 1, seed=3)
    assert one == continuations(model, INPUTS, config, 8, seed=3)
    assert one != continuations(model, INPUTS, config, 8, seed=4)


@pytest.mark.parametrize(
    "make",
    [
        lambda: folio(FolioForSequenceClassification, num_labels=3),
        lambda: folio(FolioForTokenClassification, num_labels=3),
        lambda: folio(FolioForQuestionAnswering),
        lambda: GPT2ForSequenceClassification(
            GPT2Config(vocab_size=99, n_embd=32, n_layer=2, n_head=4, n_positions=64, num_labels=3)  # no pad_token_id
        ).eval(),
    ],
    ids=["texts", "words", "spans", "a stock model without padding"],
)
def test_batches_do_not_change_the_logits_of_heads(make):
    model = make()
    for ids, alone, together in zip(INPUTS, head_logits(model, INPUTS, 1), head_logits(model, INPUTS, 8), strict=True):
        assert alone.shape == together.shape
        assert together == pytest.approx(alone, abs=1e-4)
        assert alone.ndim == 1 or len(ids) in alone.shape


@pytest.mark.parametrize(
    ("cls", "kind"), [(FolioForTokenClassification, "TOKEN_CLS"), (FolioForQuestionAnswering, "QUESTION_ANS")]
)
def test_logits_of_virtual_tokens_are_not_those_of_the_text(cls, kind):
    adapter = peft.PromptTuningConfig(task_type=kind, num_virtual_tokens=9)
    model = peft.get_peft_model(folio(cls), adapter).eval()
    assert Subject(model, None).input_length() == 64 - 9
    with torch.no_grad():
        output = model(input_ids=torch.tensor([INPUTS[0]]))  # virtual tokens first
    expected = (
        output.logits[0] if "logits" in output else torch.stack([output.start_logits[0], output.end_logits[0]], 1)
    )
    found = head_logits(model, INPUTS, 8)[0]
    assert (found if "logits" in output else found.T) == pytest.approx(expected[9:].numpy(), abs=1e-4)


@pytest.mark.parametrize("length", [1, 2, 5, 8, 9, 31, 100])
@pytest.mark.parametrize("size", [2, 3, 8])
def test_windows_count_every_token_once_with_half_a_window_before_it(length, size):
    counted = []
    for start, end, first in windows(length, size):
        assert 0 <= start < end <= length
        assert end - start <= size
        counted += range(start + first, end)
        assert first >= min(start + 1, size // 2)
    assert counted == list(range(1, length))


def test_a_window_is_no_longer_than_the_model_reads():
    model = folio()
    assert Subject(model, None).input_length() == 64
    assert Subject(model, None, max_length=10).input_length() == 10
    for wrong in (65, 1, 0):
        with pytest.raises(ValueError, match="give 2 to 64"):
            Subject(model, None, max_length=wrong).input_length()


def test_evaluate_labels_reads_texts_as_far_as_classify_when_the_context_is_long():
    """`folio classify` reads up to 4,096 tokens with this model, and `folio evaluate` has to."""
    tokenizer = train_tokenizer(["the cat is free"] * 20, vocab_size=270, show_progress=False)
    model = folio(FolioForSequenceClassification, vocab_size=270, max_position_embeddings=4096, num_labels=40).eval()
    texts = ["the cat is free " * 450 + word for word in ("the", " cat", "is")] + ["the cat"]
    assert len(tokenizer(texts[0])["input_ids"]) > Subject(model, tokenizer).input_length() == 2048
    said = [next(iter(scores)).removeprefix("LABEL_") for scores in classify(model, tokenizer, texts)]
    assert len(set(said[:3])) > 1  # cut to 2,048 tokens, these three would be the same text
    rows = [{"text": text, "label": label} for text, label in zip(texts, said, strict=True)]
    evaluation = evaluate_labels(Subject(model, tokenizer, batch_size=1), rows)
    assert [metric.value for metric in evaluation.metrics] == [1, 1]
    assert evaluation.notes == []


def test_token_nats_reports_broken_weights():
    model = folio()
    with torch.no_grad():
        model.model.norm.weight.fill_(np.nan)
    with pytest.raises(ValueError, match="input 4 are NaN or infinite"):
        token_nats(model, INPUTS, 2)


def test_a_model_is_left_in_the_mode_it_was_in():
    model = folio().train()
    token_nats(model, INPUTS[:2], 1)
    assert model.training


@pytest.mark.parametrize("size", [2, 5, 8, 100])
@pytest.mark.parametrize("first", [0, 1])  # outputs of all tokens, or of all but the first
def test_windows_of_a_long_input_give_each_output_once_from_the_window_that_has_seen_half(size, first):
    inputs = [list(range(length)) for length in (1, 2, 7, 8, 9, 30)]

    def read(model, cut, batch_size, progress):
        return [np.array([(token, place) for place, token in enumerate(ids)][first:]).reshape(-1, 2) for ids in cut]

    for ids, found in zip(inputs, in_windows(read, Subject(None, None), inputs, size), strict=True):
        assert found[:, 0].tolist() == ids[first:]
        assert all(place == token or place >= size // 2 for token, place in found.tolist())
