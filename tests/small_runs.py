"""Runs of pretraining that take seconds."""

from foliogpt.training.arguments import ModelArguments, PretrainingArguments

MODEL = ModelArguments("char", block_size=32, hidden_size=32, num_hidden_layers=2)


def settings(folder, **changes) -> PretrainingArguments:
    fields = {"max_steps": 20, "per_device_train_batch_size": 4, "bf16": False, "save_steps": 8, "eval_steps": 10}
    return PretrainingArguments(output_dir=str(folder), **{**fields, **changes})
