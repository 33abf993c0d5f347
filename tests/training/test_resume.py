"""A run of pretraining that was stopped goes on, and nothing else is taken for its continuation."""

import json
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from small_runs import MODEL, settings
from transformers import TrainerCallback

from foliogpt.data.arguments import CorpusArguments
from foliogpt.evaluation.comparison import METRICS_FILE, read_metrics
from foliogpt.jobs.resume import after_restart, checkpoint_to_resume
from foliogpt.jobs.saving import checkpoints, last_checkpoint
from foliogpt.jobs.signals import Interrupted
from foliogpt.training import pretraining
from foliogpt.training import run as running
from foliogpt.training.arguments import PretrainingArguments, run_settings
from foliogpt.training.pretraining import pretrain


class InterruptAt(TrainerCallback):
    """Presses Ctrl-C in the middle of a step."""

    def __init__(self, step):
        self.step = step

    def write(self, text):
        pass

    def close(self):
        pass

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            signal.raise_signal(signal.SIGINT)


def test_an_interrupted_run_resumes_to_the_same_weights(corpus, tmp_path, monkeypatch):
    pretrain(corpus, MODEL, settings(tmp_path / "whole"))
    handler = signal.getsignal(signal.SIGINT)

    real = running.ProgressBar
    monkeypatch.setattr(running, "ProgressBar", lambda: InterruptAt(11))
    with pytest.raises(Interrupted, match=r"after step 12 of 20.*--resume"):
        pretrain(corpus, MODEL, settings(tmp_path / "stopped"))
    assert last_checkpoint(tmp_path / "stopped").name == "checkpoint-12"
    assert not (tmp_path / "stopped" / "config.json").exists()
    assert signal.getsignal(signal.SIGINT) is handler

    monkeypatch.setattr(running, "ProgressBar", real)
    report = pretrain(corpus, MODEL, settings(tmp_path / "stopped", resume=True))
    assert report["steps"] == 20
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "stopped")]
    assert weights[0] == weights[1]
    whole, stopped = (
        [(entry["step"], entry["tokens"], entry.get("eval_loss"), entry.get("sample")) for entry in entries]
        for name in ("whole", "stopped")
        if (entries := [e for e in read_metrics(tmp_path / name / METRICS_FILE) if e.keys() & {"eval_loss", "sample"}])
    )
    assert whole == stopped
    assert len(whole) == 4


@pytest.fixture
def short_run(corpus, tmp_path):
    """A finished run of ten steps, with a checkpoint at five."""
    pretrain(corpus, MODEL, settings(tmp_path, max_steps=10, save_steps=5))
    return tmp_path


def test_a_resume_that_fails_does_not_spoil_the_next(corpus, short_run):
    before = (short_run / "run.yaml").read_bytes()
    with pytest.raises(ValueError, match="lr_scheduler_kwargs"):
        pretrain(corpus, MODEL, settings(short_run, resume=True, lr_scheduler_kwargs={"speed": 3}))
    assert (short_run / "run.yaml").read_bytes() == before


@pytest.mark.parametrize(
    ("model", "args", "says"),
    [
        ({"size": "micro"}, {}, "size nano, not micro"),
        ({"block_size": 16}, {}, "block_size 32, not 16"),
        ({"tokenizer": None}, {}, "tokenizer char, not None"),
        (
            {},
            {"per_device_train_batch_size": 2},
            "4 rows in a step, not 2 .* so give --per_device_train_batch_size 4",
        ),
        ({}, {"learning_rate": 0.1}, r"learning_rate 0.02, not 0.1"),  # the restored optimizer would win
        ({}, {"seed": 3}, "seed 42, not 3"),
        ({}, {"gradient_accumulation_steps": 2}, "4 rows in a step, not 8"),
        ({}, {"lr_scheduler_type": "cosine"}, "lr_scheduler_type warmup_stable_decay, not cosine"),
        ({}, {"warmup_steps": 3}, r"warmup_steps 0.02, not 3"),
        ({}, {"label_smoothing_factor": 0.1}, "label_smoothing_factor 0.0, not 0.1"),  # another loss
        ({}, {"dataloader_drop_last": True}, "dataloader_drop_last False, not True"),
        ({}, {"train_sampling_strategy": "sequential"}, "train_sampling_strategy random, not sequential"),
        ({}, {"optim_args": "momentum=0.5"}, "optim_args None, not momentum=0.5"),
    ],
)
def test_another_run_is_not_taken_for_a_continuation(corpus, short_run, model, args, says):
    with pytest.raises(ValueError, match=says):
        pretrain(corpus, replace(MODEL, **model), settings(short_run, resume=True, **args))


def test_a_checkpoint_of_another_run_is_rejected(corpus, short_run, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    pretrain(corpus, replace(MODEL, preset="llama"), settings(other, max_steps=10, save_steps=5))
    shutil.copytree(other / "checkpoint-10", short_run / "checkpoint-11")
    with pytest.raises(ValueError, match=r"checkpoint-11 has preset llama, not folio"):
        pretrain(corpus, MODEL, settings(short_run, resume=True, max_steps=15))


def test_intervals_may_change_and_do(corpus, short_run):
    pretrain(corpus, MODEL, settings(short_run, resume=True, max_steps=16, save_steps=2, eval_steps=3, logging_steps=4))
    assert [path.name for path in checkpoints(short_run)] == ["checkpoint-14", "checkpoint-16"]
    seen = read_metrics(short_run / METRICS_FILE)
    assert [entry["step"] for entry in seen if "eval_loss" in entry] == [10, 12, 15, 16]
    assert [entry["step"] for entry in seen if "loss" in entry] == [1, 10, 12, 16]


def test_data_may_be_read_from_the_beginning_of_the_pass(corpus, short_run):
    report = pretrain(corpus, MODEL, settings(short_run, resume=True, max_steps=15, ignore_data_skip=True))
    assert report["steps"] == 15


def test_logs_at_the_end_of_an_epoch_survive_a_stop_there(corpus, tmp_path, monkeypatch):
    def options(name):
        fields = {"max_steps": -1, "num_train_epochs": 3, "per_device_train_batch_size": 64, "save_steps": 1}
        return settings(tmp_path / name, **fields, eval_strategy="epoch", logging_strategy="epoch", eval_on_start=True)

    steps = pretrain(corpus, MODEL, options("whole"))["steps"]
    monkeypatch.setattr(running, "ProgressBar", lambda: InterruptAt(steps // 3 - 1))  # the last step of a pass
    with pytest.raises(Interrupted):
        pretrain(corpus, MODEL, options("stopped"))
    monkeypatch.undo()
    pretrain(corpus, MODEL, replace(options("stopped"), resume=True))
    whole, stopped = (
        [(entry["step"], entry.get("loss"), entry.get("eval_loss"), entry.get("train_loss")) for entry in history]
        for name in ("whole", "stopped")
        if (history := json.loads((tmp_path / name / "trainer_state.json").read_text())["log_history"])
    )
    assert whole == stopped
    assert len(whole) == 2 + 2 * 3 + 1  # before the training and after its first step, after each epoch, at the end


def test_a_resume_with_another_text_is_rejected(corpus, short_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    copy = folder / Path(corpus.corpus[0]).name
    copy.write_text(Path(corpus.corpus[0]).read_text() + "One line more.\n")
    longer = settings(short_run, resume=True, max_steps=15)
    with pytest.raises(ValueError, match="not the text that this run began with"):
        pretrain(CorpusArguments(corpus=str(copy)), MODEL, longer)
    copy.write_text(Path(corpus.corpus[0]).read_text())
    assert pretrain(CorpusArguments(corpus=str(copy)), MODEL, longer)["steps"] == 15


def test_the_corpus_is_found_from_any_folder(corpus, tmp_path, monkeypatch):
    monkeypatch.chdir(Path(corpus.corpus[0]).parent)
    near = CorpusArguments(corpus=Path(corpus.corpus[0]).name)
    saved = run_settings(near, MODEL, settings(tmp_path))
    assert saved["corpus"] == corpus.corpus
    assert saved["tokenizer"] == "char"
    assert run_settings(CorpusArguments("hub:a/b"), MODEL, settings(tmp_path))["corpus"] == ["hub:a/b"]


def test_a_complete_run_is_not_trained_on_unless_it_is_made_longer(corpus, short_run):
    before = (short_run / "model.safetensors").read_bytes()
    for steps in (10, 7):
        with pytest.raises(ValueError, match=r"complete at step 10.*--max_steps"):
            pretrain(corpus, MODEL, settings(short_run, resume=True, max_steps=steps))
    assert (short_run / "model.safetensors").read_bytes() == before
    assert pretrain(corpus, MODEL, settings(short_run, resume=True, max_steps=15))["steps"] == 15
    assert yaml.safe_load((short_run / "run.yaml").read_text())["max_steps"] == 15


def test_a_run_by_epochs_knows_its_end_too(corpus, tmp_path):
    pretrain(corpus, MODEL, settings(tmp_path, max_steps=-1, num_train_epochs=0.3))
    with pytest.raises(ValueError, match=r"complete.*--num_train_epochs"):
        pretrain(corpus, MODEL, settings(tmp_path, max_steps=-1, num_train_epochs=0.3, resume=True))


def test_a_run_that_was_stopped_before_it_was_saved_is_saved_by_a_resume(corpus, short_run, monkeypatch):
    whole = (short_run / "model.safetensors").read_bytes()
    monkeypatch.setattr(pretraining, "evaluate", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(Interrupted):
        pretrain(corpus, MODEL, settings(short_run, overwrite=True, max_steps=10))
    monkeypatch.undo()
    report = pretrain(corpus, MODEL, settings(short_run, resume=True, max_steps=10))
    assert report["steps"] == 10
    assert report["tokens_per_second"] is None
    assert (short_run / "model.safetensors").read_bytes() == whole
    assert "an unknown number of tokens per second" in (short_run / "README.md").read_text()


def test_an_overwrite_that_fails_on_its_input_loses_nothing(corpus, short_run):
    files = {path: path.read_bytes() for path in short_run.rglob("*") if path.is_file()}
    for wrong, model in (
        (replace(corpus, corpus="nowhere.txt"), MODEL),
        (corpus, replace(MODEL, block_size=10_000)),
    ):
        with pytest.raises((OSError, ValueError)):
            pretrain(wrong, model, settings(short_run, overwrite=True))
    assert {path: path.read_bytes() for path in short_run.rglob("*") if path.is_file()} == files


def test_a_resumed_run_may_share_the_batch_in_another_way(corpus, short_run, monkeypatch):
    shared = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "max_steps": 15}
    assert pretrain(corpus, MODEL, settings(short_run, resume=True, **shared))["steps"] == 15
    monkeypatch.setattr(PretrainingArguments, "world_size", 3)
    args = settings(short_run, adam_learning_rate=0.02)
    with pytest.raises(ValueError, match="which 3 processes cannot share equally"):
        checkpoint_to_resume(short_run, run_settings(corpus, MODEL, args), args, args.IMMUTABLE_ON_RESUME)


def test_after_restart_resumes_only_the_job_that_began_the_run(corpus, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "mine")
    assert after_restart(tmp_path / "run") == []
    pretrain(corpus, MODEL, settings(tmp_path / "run", max_steps=2))
    assert after_restart(tmp_path / "run") == ["--resume"]
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "another")
    assert after_restart(tmp_path / "run") == []


def test_an_interruption_after_the_training_says_how_to_save_its_result(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(pretraining, "evaluate", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(Interrupted, match=r"complete.*--resume"):
        pretrain(corpus, MODEL, settings(tmp_path))


def test_a_stream_in_its_second_pass_resumes_with_the_same_batches(tmp_path, monkeypatch):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": f"{i} times {i % 7} is {i * (i % 7)}"}) + "\n" for i in range(150)))
    stream = CorpusArguments(corpus=str(rows), streaming=True, shuffle_buffer_size=20)
    fields = {"per_device_train_batch_size": 32, "max_steps": 12, "save_steps": 4}  # 3 batches are a pass
    pretrain(stream, MODEL, settings(tmp_path / "whole", **fields))
    real = running.ProgressBar
    monkeypatch.setattr(running, "ProgressBar", lambda: InterruptAt(7))
    with pytest.raises(Interrupted):
        pretrain(stream, MODEL, settings(tmp_path / "stopped", **fields))
    monkeypatch.setattr(running, "ProgressBar", real)
    pretrain(stream, MODEL, settings(tmp_path / "stopped", resume=True, **fields))
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "stopped")]
    assert weights[0] == weights[1]
