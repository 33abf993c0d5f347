"""A training that learns nothing ends with an error, and one that does is left alone."""

import os
import subprocess

import forks
import pytest
import torch
from small_runs import MODEL, settings

from foliogpt import modeling
from foliogpt.checkpoints.self_check import CacheMismatchError
from foliogpt.jobs.saving import checkpoints, last_checkpoint
from foliogpt.modeling import loss as losses
from foliogpt.training.learning_check import NothingLearnedError
from foliogpt.training.pretraining import pretrain
from foliogpt.training.trainer import FolioTrainer


def test_training_stops_when_all_gradients_are_zero(corpus, tmp_path, monkeypatch):
    backward = losses.ChunkedCrossEntropy.backward

    def zeros(ctx, grad):  # what torch 2.11 compiled
        return backward(ctx, torch.zeros_like(grad))

    monkeypatch.setattr(losses.ChunkedCrossEntropy, "backward", staticmethod(zeros))
    with pytest.raises(NothingLearnedError, match=r"exactly zero for 3 steps.*torch \d.*--learning_rate above 0.02"):
        pretrain(corpus, MODEL, settings(tmp_path / "run"))


def test_training_continues_when_the_loss_is_zero(corpus, tmp_path, monkeypatch):
    compute = FolioTrainer.compute_loss

    def nothing_left(self, model, inputs, **kwargs):
        return compute(self, model, inputs, **kwargs) * 0

    monkeypatch.setattr(FolioTrainer, "compute_loss", nothing_left)
    # Weight decay still moves the weights.
    assert pretrain(corpus, MODEL, settings(tmp_path / "run", max_steps=6))["steps"] == 6


def test_training_stops_when_no_weight_moves(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self, closure=None: None)
    with pytest.raises(NothingLearnedError, match="No weight has changed in 5 steps"):
        pretrain(corpus, MODEL, settings(tmp_path / "run", optim="adamw_torch"))


def test_a_run_does_not_begin_when_the_cache_is_not_read(corpus, tmp_path, monkeypatch):
    pretrain(corpus, MODEL, settings(tmp_path / "run"))
    before = (tmp_path / "run" / "model.safetensors").read_bytes()
    forward = modeling.FolioModel.forward

    def swallow(self, *args, cache=None, past_key_values=None, **kwargs):
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(modeling.FolioModel, "forward", swallow)
    with pytest.raises(CacheMismatchError, match="transformers"):
        pretrain(corpus, MODEL, settings(tmp_path / "run", overwrite=True))
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == before
    assert last_checkpoint(tmp_path / "run") is not None


def test_the_newest_checkpoints_are_kept_whatever_the_times_of_the_files(corpus, tmp_path):
    def date_ahead(path):
        for checkpoint in checkpoints(path):
            os.utime(checkpoint, (4e9, 4e9))  # copied, or written by a clock that went back since

    pretrain(corpus, MODEL, settings(tmp_path, max_steps=10, save_steps=4))
    date_ahead(tmp_path)
    pretrain(corpus, MODEL, settings(tmp_path, max_steps=20, save_steps=4, resume=True))
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-16", "checkpoint-20"]


def test_resuming_a_complete_run_without_checkpoints_is_rejected_without_harm(corpus, tmp_path):
    pretrain(corpus, MODEL, settings(tmp_path, max_steps=4, save_strategy="no"))
    with pytest.raises(FileNotFoundError, match=r"complete at step 4.*ready to use.*another --output_dir") as error:
        pretrain(corpus, MODEL, settings(tmp_path, max_steps=8, resume=True))
    assert "overwrite" not in str(error.value)


DRIVER = """
import sys
from foliogpt.data.arguments import CorpusArguments
from foliogpt.training.arguments import ModelArguments, PretrainingArguments
from foliogpt.training.pretraining import pretrain
from foliogpt.jobs.processes import exit_process
try:
    pretrain(CorpusArguments(sys.argv[1]), ModelArguments(tokenizer="char", block_size=32),
             PretrainingArguments(output_dir="run", max_steps=2, bf16=False))
except OSError as error:
    print(error)
    exit_process(2)
exit_process(0)
"""


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs gloo")
def test_processes_with_different_folders_are_rejected_before_training(corpus, tmp_path):
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29731", "OMP_NUM_THREADS": "1"}
    running = []
    for rank in range(2):  # each in a folder of its own, as on two machines
        (tmp_path / str(rank)).mkdir()
        environment = {**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
        program = [DRIVER, corpus.corpus[0]]
        running.append(forks.Popen(program, cwd=tmp_path / str(rank), env=environment, **options))
    said = [process.communicate(timeout=200)[0] for process in running]
    assert [process.returncode for process in running] == [2, 2]
    for text in said:
        assert "Process 1 does not see the folder run of process 0: give an --output_dir that all processes" in text
    assert not list(tmp_path.rglob("*.safetensors"))
