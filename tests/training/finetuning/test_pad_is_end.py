"""A base whose pad token is its end token, or that has none: nothing is added, and the end is learnt all the same."""

import json
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftModel
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, LlamaConfig, LlamaForCausalLM

from foliogpt.checkpoints.loading import load_model
from foliogpt.data.arguments import DataArguments
from foliogpt.jobs.report import Stages
from foliogpt.tokenization import encode_chat, train_tokenizer
from foliogpt.training.finetuning.arguments import MethodArguments
from foliogpt.training.finetuning.finetuning import finetune
from foliogpt.training.finetuning.trainers import arguments_of
from foliogpt.training.trainer import SafeTrainerMixin

WORDS = ["one", "two", "three", "four", "five", "six"]
PAIRS = [(a, b) for a in WORDS for b in WORDS if a != b]
LABELS = {"one": "odd", "three": "odd", "five": "odd"}
ROWS = {
    "sft": lambda a, b: {"prompt": f"{a} {b}", "completion": f"{b} " * (1 + WORDS.index(a) % 3)},
    "dpo": lambda a, b: {"prompt": f"{a} {b}", "chosen": b, "rejected": f"{a} {a}"},
    "lm": lambda a, b: {"text": f"{a} {b} says. "},
    "classify": lambda a, b: {"text": f"{a} {b} " * (1 + WORDS.index(a) % 3), "label": LABELS.get(b, "even")},
}


def pad_of(kind: str) -> str | None:
    return "<|im_end|>" if kind == "end" else None


@pytest.fixture(scope="module", params=["end", "none"])
def base(request, tmp_path_factory) -> Path:
    """A Llama whose end token, of which its template makes the end of a turn, is its pad token, or that has none."""
    folder = tmp_path_factory.mktemp(request.param)
    tokenizer = train_tokenizer([f"{a} {b} says" for a, b in PAIRS], 280, show_progress=False)
    tokenizer.eos_token, tokenizer.pad_token = "<|im_end|>", pad_of(request.param)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
        max_position_embeddings=64, tie_word_embeddings=False, bos_token_id=0, eos_token_id=3,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    for task, row in ROWS.items():
        (folder / f"{task}.jsonl").write_text("".join(json.dumps(row(a, b)) + "\n" for a, b in PAIRS))
    return folder


def run(base: Path, task: str, output_dir: Path, method="lora", **changes) -> dict:
    fields = {"max_steps": 2, "learning_rate": 0.01, "eval_strategy": "no", "save_strategy": "no", **changes}
    args = arguments_of(task)(output_dir=str(output_dir), **fields)
    data = DataArguments(task=task, data=str(base / f"{task}.jsonl"))
    return finetune(data, MethodArguments(model=str(base), method=method), args, "", Stages(silent=True))


def collected(monkeypatch) -> list[dict]:
    """The batches that are trained on."""
    seen, step = [], SafeTrainerMixin.training_step

    def collect(self, model, inputs, num_items_in_batch=None):
        seen.append({name: tensor.clone() for name, tensor in inputs.items()})
        return step(self, model, inputs, num_items_in_batch)

    monkeypatch.setattr(SafeTrainerMixin, "training_step", collect)
    return seen


@pytest.mark.parametrize("packing", [True, False])
def test_of_each_answer_the_end_has_a_loss_and_padding_has_none(base, tmp_path, monkeypatch, packing):
    seen = collected(monkeypatch)
    report = run(base, "sft", tmp_path, packing=packing, max_steps=-1, num_train_epochs=1)
    assert not report["resized"]
    ends = padding = 0
    for batch in seen:
        labels, ids = batch["labels"], batch["input_ids"]
        ends += (labels == 3).sum()
        assert (ids == 3)[labels == 3].all()
        if not packing:
            assert (labels[batch["attention_mask"] == 0] == -100).all()
            padding += (batch["attention_mask"] == 0).sum()
    assert ends == report["train_examples"]
    assert packing or padding > 0


def test_of_a_preference_the_end_counts_and_padding_does_not(base, tmp_path, monkeypatch):
    seen = collected(monkeypatch)
    run(base, "dpo", tmp_path)
    for batch in seen:
        answers = batch["completion_mask"].bool()
        assert answers.logical_and(batch["input_ids"] == 3).sum(1).tolist() == [1] * len(answers)
        assert not (answers & (batch["attention_mask"] == 0)).any()


def test_documents_end_with_a_loss(base, tmp_path, monkeypatch):
    seen = collected(monkeypatch)
    run(base, "lm", tmp_path, max_length=16)
    assert all((batch["labels"] == 3).sum() >= len(batch["labels"]) for batch in seen)


def test_a_text_has_the_same_label_alone_and_in_a_batch(base, tmp_path):
    run(base, "classify", tmp_path)
    classifier, tokenizer = load_model(str(tmp_path), "classify")
    full = tmp_path / "full"
    run(base, "classify", full, method="full")
    stock = AutoModelForSequenceClassification.from_pretrained(full)
    texts = [f"{a} {b}" * n for n, (a, b) in enumerate(PAIRS[:4], 1)]
    for model in (classifier, stock):
        together = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits
        for text, logits in zip(texts, together, strict=True):
            torch.testing.assert_close(model(**tokenizer(text, return_tensors="pt")).logits[0], logits)


def test_the_embedding_of_the_end_is_trained(base, tmp_path):
    before = AutoModelForCausalLM.from_pretrained(base).get_input_embeddings().weight
    run(base, "sft", tmp_path, method="full")
    after = load_model(str(tmp_path))[0].get_input_embeddings().weight
    assert not torch.equal(before[3], after[3])


def test_an_adapter_is_small_and_loads_with_peft_alone(base, tmp_path):
    run(base, "sft", tmp_path)
    ours, tokenizer = load_model(str(tmp_path))
    assert tokenizer.pad_token == "<|im_end|>"
    ids = encode_chat(tokenizer, [{"role": "user", "content": "one"}], add_generation_prompt=True)["input_ids"]
    for model in (
        AutoPeftModelForCausalLM.from_pretrained(tmp_path),
        PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path),
    ):
        weights = model.state_dict()
        assert not [name for name in weights if "modules_to_save" in name]
        with torch.no_grad():
            logits = model.eval()(torch.tensor([ids])).logits
            torch.testing.assert_close(logits, ours(torch.tensor([ids])).logits, atol=1e-4, rtol=1e-4)
    names = {path.name for path in tmp_path.glob("*.safetensors")}
    assert names == {"adapter_model.safetensors"}
    assert "embed" not in str(sorted(json.loads((tmp_path / "adapter_config.json").read_text())["target_modules"]))
