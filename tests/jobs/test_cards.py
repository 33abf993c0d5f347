"""Model cards have valid metadata for any name, the figures of the run, and code that parses."""

import ast
import json
import re

import pytest
from huggingface_hub import ModelCard

from foliogpt.jobs.cards import embedder_card, finetuned_card, pretrained_card

NAME = """rhyme: a "v1.0" & it's #1"""
RUN = {
    "name": NAME,
    "command": "folio do --it",
    "output_dir": f"runs/{NAME}",
    "parameters": 1234,
    "steps": 10,
    "tokens": 1000,
    "precision": "fp32",
    "seconds": {"training": 61.2},
    "seed": 7,
    "machine": "2 CPU cores",
    "versions": {"foliogpt": "0.1.0 (4c82541)", "transformers": "5.24.0", "torch": "2.11.0"},
    "prompt": 'He said "yes',
}
PRETRAINED = {
    **RUN,
    "corpus": "a: b.txt",
    "preset": "folio",
    "size": "nano",
    "tokens_per_second": None,
    "train_documents": None,
    "train_bytes": 5000,
    "val_documents": 3,
    "val_bytes": 700,
    "val_loss": 2.5,
    "val_perplexity": 12.18249,
    "val_bits_per_byte": 1.80336,
    "baseline_bits_per_byte": {"xz": 2.25},
}
FINETUNED = {
    **RUN,
    "task": "sft",
    "loads_as": "lm",
    "data": "a: b.jsonl",
    "base_model": "me/base",
    "method": "lora",
    "kind": "chat",
    "train_examples": 40,
    "val_examples": 6,
    "trainable_parameters": 617,
    "resized": True,
    "num_labels": 0,
    "metrics": {"loss": 0.123456, "token_accuracy": 0.5},
    "custom_code": True,
}
RECALL = {
    "recall@1": {"value": 0.5, "interval": (0.25, 0.75)},
    "recall@10": {"value": 1.0, "interval": None},
}
EMBEDDER = {
    **RUN,
    "base_model": "me/base",
    "data": "a: b.jsonl",
    "train_pairs": 30,
    "held_out": {"question": {"anchors": 3, "texts": 4}},
    "dimension": 64,
    "max_length": 128,
    "custom_code": True,
    "metrics": {"before": {"question": RECALL}, "after": {"question": RECALL}},
}
CARDS = [(pretrained_card, PRETRAINED), (finetuned_card, FINETUNED), (embedder_card, EMBEDDER)]


def snippet(card: str) -> str:
    found = re.search(r"```python\n(.*?)\n```", card, re.DOTALL)
    assert found is not None
    ast.parse(found[1])
    return found[1]


def figures(card: ModelCard) -> dict[str, float]:
    return {result.metric_type: result.metric_value for result in card.data.eval_results or []}


@pytest.mark.parametrize(("make", "report"), CARDS)
def test_a_card_holds_the_name_the_code_the_command_and_the_versions(make, report):
    text = make(report)
    card = ModelCard(text, ignore_metadata_errors=False)
    assert text.endswith("`.\n")
    assert f"\n# {NAME}\n" in card.text
    assert "\n## Use\n" in card.text
    assert json.dumps(report["output_dir"]) in snippet(text)  # by which publishing finds it
    assert "\n```\nfolio do --it\n```\n" in card.text
    assert "\nfoliogpt 0.1.0 (4c82541), transformers 5.24.0, torch 2.11.0, seed 7.\n" in card.text
    assert "metrics in `report.json`" in card.text
    assert card.data.tags[0] == "foliogpt"
    assert "custom_code" in card.data.tags or make is finetuned_card


def test_a_pretrained_card_has_its_figures_for_people_and_for_the_hub():
    card = ModelCard(pretrained_card(PRETRAINED))
    assert (card.data.library_name, card.data.pipeline_tag) == ("transformers", "text-generation")
    assert card.data.model_name == NAME
    assert figures(card) == {"perplexity": 12.1825, "bits_per_byte": 1.8034}
    assert {(r.dataset_name, r.dataset_split) for r in card.data.eval_results or []} == {("a: b.txt", "validation")}
    assert "an unknown number of documents,\n5,000 bytes, 10 steps,\n1,000 tokens in fp32." in card.text
    assert re.search(r"\| this model +\| \*\*1\.803\*\* +\|\n\| xz, given the training text \| 2\.250 +\|", card.text)
    assert "The curve is in `loss.png`" in card.text
    assert "1.0 minutes on 2 CPU cores.\nIt trained at an unknown number of tokens per second." in card.text


def test_a_card_writes_one_document_without_a_plural_s():
    one = {"train_documents": 1, "val_documents": 1, "train_bytes": 5001}
    text = pretrained_card({**PRETRAINED, **one})
    assert "`a: b.txt`: 1 document,\n5,001 bytes" in text
    assert "On 1 held-out document (" in text


def test_an_adapters_card_loads_the_base_first_and_a_merged_ones_does_not():
    adapter, merged = ModelCard(finetuned_card(FINETUNED)), ModelCard(finetuned_card(FINETUNED, merged=True))
    assert (adapter.data.library_name, merged.data.library_name) == ("peft", "transformers")
    assert (adapter.data.tags, merged.data.tags) == (["foliogpt", "sft"], ["foliogpt", "sft", "custom_code"])
    assert adapter.data.base_model == "me/base"
    assert figures(adapter) == {"loss": 0.1235, "token_accuracy": 0.5}
    assert "| token accuracy | 0.5000 |" in adapter.text
    assert "617 of 1,234 parameters (50.00%)" in adapter.text
    base = 'base = AutoModelForCausalLM.from_pretrained("me/base", trust_remote_code=True)\n'
    resized = "base.resize_token_embeddings(len(tokenizer))\nmodel = PeftModel.from_pretrained(base, "
    assert base + resized in snippet(str(adapter))
    assert "PeftModel" not in snippet(str(merged))


@pytest.mark.parametrize(
    ("task", "pipeline", "calls"),
    [
        ("lm", "text-generation", "model.generate(**inputs"),
        ("classify", "text-classification", "AutoModelForSequenceClassification"),
        ("tag", "token-classification", "AutoModelForTokenClassification"),
        ("qa", "question-answering", "AutoModelForQuestionAnswering"),
    ],
)
def test_the_code_of_a_card_is_that_of_the_task(task, pipeline, calls):
    card = finetuned_card({**FINETUNED, "task": task, "loads_as": task, "num_labels": 3})
    assert calls in snippet(card)
    assert ModelCard(card).data.pipeline_tag == pipeline


def test_an_embedders_card_has_a_row_before_and_after():
    card = ModelCard(embedder_card(EMBEDDER))
    assert (card.data.library_name, card.data.pipeline_tag) == ("sentence-transformers", "sentence-similarity")
    assert "\n## How well it finds\n" in card.text
    assert "loss.png" not in card.text
    for when in ("before", "after"):
        assert re.search(rf"\| 3 questions of 4 texts \| {when} +\| 0\.500 \[0\.250, 0\.750\] \| 1\.000 +\|", card.text)
    assert "trust_remote_code" in snippet(str(card))
    assert "trust_remote_code" not in embedder_card({**EMBEDDER, "custom_code": False})
