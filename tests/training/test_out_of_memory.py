"""A run that needs more memory than there is says what to change, and loses nothing."""

import errno
import json
import re
import shlex
import subprocess
import sys

import psutil
import pytest
import torch
import yaml

from foliogpt.data.arguments import CorpusArguments
from foliogpt.jobs.report import Stages
from foliogpt.jobs.saving import last_checkpoint
from foliogpt.modeling import FolioForCausalLM, preset_config
from foliogpt.scripts.cli import main
from foliogpt.training import out_of_memory
from foliogpt.training.arguments import ModelArguments, PretrainingArguments
from foliogpt.training.memory import available_bytes
from foliogpt.training.out_of_memory import (
    OutOfMemory,
    Step,
    fits_upper_bound,
    is_out_of_memory,
    suggest_settings,
)
from foliogpt.training.pretraining import pretrain
from foliogpt.training.trainer import FolioTrainer

MODEL = ModelArguments(tokenizer="char", block_size=32)


@pytest.fixture
def corpus(tmp_path):
    file = tmp_path / "text.txt"
    file.write_text("".join(f"{a} two three, the {b} is free.\n" for a in ("One", "Ten") * 30 for b in ("cat", "owl")))
    return CorpusArguments(str(file))


def settings(tmp_path, name="run", **changes):
    fields = {"max_steps": 4, "per_device_train_batch_size": 12, "bf16": False, "eval_strategy": "no", **changes}
    return PretrainingArguments(output_dir=str(tmp_path / name), **fields)


def trained(tmp_path, corpus, name, **changes) -> dict:
    return pretrain(corpus, MODEL, settings(tmp_path, name, **changes), stages=Stages(silent=True))


def test_settings_that_save_memory_change_no_loss(tmp_path, corpus, monkeypatch):
    plain = trained(tmp_path, corpus, "plain")["val_loss"]
    accumulated = {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 4}
    assert trained(tmp_path, corpus, "accumulated", **accumulated)["val_loss"] == pytest.approx(plain, abs=1e-4)
    checkpointed = trained(tmp_path, corpus, "checkpointed", activation_checkpointing=True)["val_loss"]
    assert checkpointed == pytest.approx(plain, abs=1e-6)
    monkeypatch.setattr("foliogpt.training.new_model.LOSS_CHUNK", None)
    assert trained(tmp_path, corpus, "not_chunked")["val_loss"] == pytest.approx(plain, abs=1e-4)


def test_the_batch_size_that_is_found_gives_the_same_run(tmp_path, corpus, monkeypatch):
    plain = trained(tmp_path, corpus, "plain", max_steps=-1, num_train_epochs=1)
    network = FolioForCausalLM(preset_config("folio", "nano", vocab_size=60, max_position_embeddings=32))
    network.loss_chunk_size = 512
    third = Step(network, settings(tmp_path), MODEL.block_size).memory(size=4, accumulation=3).peak
    monkeypatch.setattr(
        out_of_memory, "available_bytes", lambda device: third / out_of_memory.USABLE_MEMORY_FRACTION + 1e5
    )
    found = trained(tmp_path, corpus, "found", max_steps=-1, num_train_epochs=1, auto_find_batch_size=True)
    assert found["steps"] == plain["steps"]
    assert found["val_loss"] == pytest.approx(plain["val_loss"], abs=1e-4)
    run = yaml.safe_load((tmp_path / "found" / "run.yaml").read_text())
    size, steps = run["per_device_train_batch_size"], run["gradient_accumulation_steps"]
    assert size * steps == 12
    assert size < 12
    # It goes on with what was found, and looks no more.
    more = ["--resume", "--num_train_epochs", "2"]
    assert main(["pretrain", "--output_dir", str(tmp_path / "found"), *more]) == 0
    again = yaml.safe_load((tmp_path / "found" / "run.yaml").read_text())
    assert again["per_device_train_batch_size"] == size


def test_a_run_that_cannot_fit_is_rejected_before_it_starts(tmp_path, corpus, monkeypatch):
    monkeypatch.setattr(out_of_memory, "available_bytes", lambda device: 4_000_000)
    for changes in ({}, {"auto_find_batch_size": True}):
        changes["per_device_train_batch_size"] = 1
        with pytest.raises(ValueError, match="use a smaller model"):
            trained(tmp_path, corpus, "run", **changes)
        assert not (tmp_path / "run").exists()


def test_the_proposal_makes_up_the_same_batch_and_leaves_the_model_as_it_was():
    network = FolioForCausalLM(preset_config("folio", "nano", vocab_size=300, max_position_embeddings=32))
    args = PretrainingArguments(output_dir="unused", per_device_train_batch_size=6, bf16=False)
    step = Step(network, args, MODEL.block_size)
    flags, _, memory = suggest_settings(step, step.memory().peak - 1)
    assert memory == step.memory(3, 2)
    assert flags == ["--per_device_train_batch_size", "3", "--gradient_accumulation_steps", "2"]
    flags, sentence, _ = suggest_settings(step, step.memory(1, 6).peak - 1)
    assert flags[-2:] == ["--activation_checkpointing", "true"] or "smaller --size" in sentence
    assert not network.is_activation_checkpointing


@pytest.mark.parametrize("size", ["nano", "mini"])
def test_fits_upper_bound_is_several_times_the_needed_memory(size):
    network = FolioForCausalLM(preset_config("gpt2", size, max_position_embeddings=512))
    model, args = ModelArguments(block_size=512), PretrainingArguments(output_dir="unused")
    step = Step(network, args, model.block_size)
    assert not fits_upper_bound(step, 2 * step.memory().peak)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:128] DefaultCPUAllocator: can't allocate memory: ..."), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 5 GB)"), True),
        (MemoryError(), True),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (RuntimeError("The loss is nan"), False),
    ],
)
def test_is_out_of_memory_recognizes_errors_of_memory_only(error, expected):
    assert is_out_of_memory(error) == expected


def test_memory_that_runs_out_leaves_the_checkpoint_and_a_command_that_resumes(tmp_path, corpus, monkeypatch):
    step = FolioTrainer.training_step

    def too_much(self, *args):
        if self.state.global_step == 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return step(self, *args)

    monkeypatch.setattr(FolioTrainer, "training_step", too_much)
    with pytest.raises(OutOfMemory) as error:
        trained(tmp_path, corpus, "run", save_steps=2)
    message = str(error.value)
    assert re.search(r"a step needs [\d.]+ MB, and [\d.]+ GB were free on cpu", message)
    assert last_checkpoint(tmp_path / "run").name == "checkpoint-2"
    assert "checkpoint-2 is kept" in message
    command = shlex.split(message.rpartition("continue from it: ")[2])
    assert command[:5] == ["folio", "pretrain", "--output_dir", str(tmp_path / "run"), "--resume"]
    assert int(command[6]) * int(command[8]) == 12
    monkeypatch.undo()
    assert main(command[1:]) == 0
    plain = trained(tmp_path, corpus, "plain")["val_loss"]
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["val_loss"] == pytest.approx(plain, abs=1e-4)


def test_an_evaluation_that_does_not_fit_suggests_a_smaller_batch(tmp_path, corpus, monkeypatch):
    judge = FolioTrainer._eval_sums

    def too_much(self, model, batch):
        if self.state.global_step == 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return judge(self, model, batch)

    monkeypatch.setattr(FolioTrainer, "_eval_sums", too_much)
    settings = {"eval_strategy": "steps", "eval_steps": 2, "save_steps": 2, "per_device_eval_batch_size": 8}
    with pytest.raises(OutOfMemory, match="in an evaluation: try --per_device_eval_batch_size 2") as error:
        trained(tmp_path, corpus, "run", **settings)
    monkeypatch.undo()
    command = shlex.split(str(error.value).rpartition("continue from it: ")[2])
    assert command[-2:] == ["--per_device_eval_batch_size", "2"]
    assert main(command[1:]) == 0


def test_a_checkpoint_that_cannot_be_gathered_gives_a_one_line_error(tmp_path, corpus, monkeypatch):
    def too_much(self):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(FolioTrainer, "check_weights", too_much)
    with pytest.raises(OutOfMemory, match="Out of memory: a step needs") as error:
        trained(tmp_path, corpus, "run", save_steps=2)
    assert "\n" not in str(error.value)


def test_on_a_gpu_a_batch_that_does_not_fit_is_taken_in_parts(tmp_path, monkeypatch, caplog):
    args = settings(tmp_path)
    network = FolioForCausalLM(preset_config("folio", "nano", vocab_size=60, max_position_embeddings=32))
    step = Step(network, args, MODEL.block_size)
    free = step.memory(6, 2).peak / out_of_memory.USABLE_MEMORY_FRACTION + 1
    there = property(lambda args: (args._setup_devices, torch.device("cuda"))[1])
    monkeypatch.setattr(PretrainingArguments, "device", there)
    monkeypatch.setattr(out_of_memory, "available_bytes", lambda device: free)
    with out_of_memory.guard_memory(args) as check:
        check(step)
    assert (args.per_device_train_batch_size, args.gradient_accumulation_steps) == (6, 2)
    assert "A batch of 12 does not fit into memory: it is taken by --per_device_train_batch_size 6" in caplog.text


LIMITED = """
import resource, sys
import psutil
from foliogpt.scripts.cli import main
from foliogpt.training import out_of_memory, pretraining

out_of_memory.available_bytes = lambda device: 10**12  # so that it begins
make = pretraining.configured_model

def limit_and_make(*args):
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + 400_000_000,) * 2)
    return make(*args)

pretraining.configured_model = limit_and_make
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit of the address space")
def test_an_allocation_that_fails_gives_a_one_line_error(tmp_path, corpus):
    text = tmp_path / "text.txt"
    text.write_text(text.read_text() * 100)
    options = ["--corpus", str(text), "--tokenizer", "char", "--per_device_train_batch_size", "512", "--max_steps", "2"]
    options += ["--block_size", "128", "--bf16", "false", "--output_dir", str(tmp_path / "run")]
    command = [sys.executable, "-c", LIMITED, "pretrain", *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1].startswith("folio pretrain: Out of memory: a step needs")
    assert "--per_device_train_batch_size 2" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit of the address space")
def test_a_limit_of_the_address_space_counts():
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + 50_000_000, before[1]))
    try:
        assert available_bytes(torch.device("cpu")) < 100_000_000
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
