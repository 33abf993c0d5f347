"""TRL's trainers take a step with our model."""

import pytest
from datasets import Dataset

from foliogpt.modeling import FolioForCausalLM, FolioForSequenceClassification
from foliogpt.tokenization import train_tokenizer

trl = pytest.importorskip("trl", reason="needs foliogpt[finetune]")

TEXTS = [f"w{a} w{b} w{c}" for a in range(9) for b in range(9) for c in range(9)]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, 261, show_progress=False)


@pytest.fixture
def fields(tokenizer):
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    return {"vocab_size": len(tokenizer), **ids}


@pytest.fixture
def settings(tmp_path):
    return {
        "output_dir": str(tmp_path),
        "max_steps": 2,
        "per_device_train_batch_size": 2,
        "logging_steps": 1,
        "report_to": [],
        "use_cpu": True,
        "bf16": False,
        "save_strategy": "no",
        "disable_tqdm": True,
    }


def losses(trainer) -> list[float]:
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize("packing", [False, True])
def test_supervised(tiny, fields, tokenizer, settings, packing):
    args = trl.SFTConfig(packing=packing, max_length=16, **settings)
    data = Dataset.from_dict({"text": TEXTS[:20]})
    model = FolioForCausalLM(tiny(**fields))
    assert len(losses(trl.SFTTrainer(model, args=args, train_dataset=data, processing_class=tokenizer))) == 2


def test_preferences(tiny, fields, tokenizer, settings, tmp_path):
    data = Dataset.from_dict({"prompt": ["w1"] * 8, "chosen": [" w3 w4"] * 8, "rejected": [" w5 w6"] * 8})
    FolioForCausalLM(tiny(**fields)).save_pretrained(tmp_path / "model")
    model = FolioForCausalLM.from_pretrained(tmp_path / "model")  # the reference model is loaded from there, too
    args = trl.DPOConfig(**settings)
    trainer = trl.DPOTrainer(model, args=args, train_dataset=data, processing_class=tokenizer)
    assert losses(trainer)[0] == pytest.approx(0.6931, abs=1e-3)  # -log(1/2): the model is its own reference


def test_rewards_by_group(tiny, fields, tokenizer, settings):
    args = trl.GRPOConfig(num_generations=2, max_completion_length=6, **settings)
    data = Dataset.from_dict({"prompt": ["w1 w2"] * 8})
    trainer = trl.GRPOTrainer(
        FolioForCausalLM(tiny(**fields)),
        reward_funcs=lambda completions, **_: [float(len(text)) for text in completions],
        args=args,
        train_dataset=data,
        processing_class=tokenizer,
    )
    assert len(losses(trainer)) == 2


def test_a_reward_model(tiny, fields, tokenizer, settings):
    data = Dataset.from_dict({"chosen": ["w3 w4"] * 8, "rejected": ["w5 w6 w7"] * 8})
    model = FolioForSequenceClassification(tiny(num_labels=1, **fields))
    args = trl.RewardConfig(max_length=16, **settings)
    assert len(losses(trl.RewardTrainer(model, args=args, train_dataset=data, processing_class=tokenizer))) == 2
