"""Two processes train with Trainer as one does, and only one of them writes."""

import json
import os

import process_groups
import pytest
import torch

from foliogpt.jobs.saving import last_checkpoint

WORKER = """
import os, sys
import torch
from foliogpt.data.arguments import CorpusArguments
from foliogpt.training.arguments import ModelArguments, PretrainingArguments
from foliogpt.data.packed_corpus import pack_corpora
from foliogpt.training.new_model import configured_model
from foliogpt.training.run import train
from foliogpt.jobs.report import Stages
from foliogpt.training.trainer import FolioTrainer

folder, = sys.argv[1:]
model = ModelArguments(tokenizer="char", block_size=32)
args = PretrainingArguments(
    output_dir=folder, max_steps=4, per_device_train_batch_size=4, bf16=False,
    save_steps=2, eval_steps=2, logging_steps=1,
)
data = pack_corpora(
    CorpusArguments(folder + "/text.txt"), model.tokenizer, model.vocab_size, model.block_size, Stages(silent=True)
)
trainer = FolioTrainer(
    model=configured_model(model, data.tokenizer, args),
    args=args,
    train_dataset=data.train_blocks,
    eval_dataset=data.validation_blocks[0],
    data_collator=data.collator,
    processing_class=data.tokenizer,
)
train(trainer, None, {}, data.validation_blocks[0][0]["input_ids"][:4], "a smaller --size")
torch.distributed.barrier()
torch.distributed.destroy_process_group()
os._exit(0)  # gloo's threads may outlive the group, and end an interpreter that shuts down by SIGABRT
"""


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs gloo")
def test_two_processes_write_complete_checkpoints_and_one_file_of_metrics(tmp_path):
    (tmp_path / "text.txt").write_text("The cat sat on the mat, and the dog on the log.\n" * 60)
    process_groups.run([WORKER, str(tmp_path)], 2, env={**os.environ, "HF_DATASETS_CACHE": str(tmp_path / "cache")})
    for step in (2, 4):
        assert len(list((tmp_path / f"checkpoint-{step}").glob("rng_state_*.pth"))) == 2
    assert last_checkpoint(tmp_path).name == "checkpoint-4"
    assert not list(tmp_path.glob(".saving-*"))
    entries = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in entries if "loss" in entry] == [1, 2, 3, 4]
    assert [entry["tokens"] for entry in entries if "loss" in entry] == [256, 512, 768, 1024]
    assert len([entry for entry in entries if "sample" in entry]) == 2
