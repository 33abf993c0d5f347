"""SIGTERM, as schedulers and machines that are taken back send it: a checkpoint, exit code 143, and how to go on."""

import os
import signal
import threading
from types import SimpleNamespace

import pytest
from transformers import Trainer, TrainerControl

from foliogpt.data import packed_corpus as data
from foliogpt.jobs.saving import last_checkpoint
from foliogpt.jobs.signals import Interrupted, handled, interrupt
from foliogpt.scripts.cli import main
from foliogpt.training import callbacks, pretraining, run, trainer
from foliogpt.training.callbacks import StopOnInterrupt

TERM = pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")


@pytest.fixture
def command(tmp_path):
    (tmp_path / "text.txt").write_text("One two three, the cat is free; four five six, the dog has tricks.\n" * 60)
    settings = {"tokenizer": "char", "block_size": 32, "max_steps": 8, "per_device_train_batch_size": 2, "bf16": False,
                "save_steps": 3, "eval_strategy": "no", "corpus": tmp_path / "text.txt",
                "output_dir": tmp_path / "run"}  # fmt: skip
    return ["pretrain", *(f"--{name}={value}" for name, value in settings.items())]


def terminated_in(monkeypatch, owner, name: str, times: int = 1, call: int = 1):
    """The process gets a SIGTERM when it calls this function, the `call`th time."""
    real, calls = getattr(owner, name), []

    def function(*args, **kwargs):
        calls.append(args)
        if len(calls) == call:
            for _ in range(times):
                signal.raise_signal(signal.SIGTERM)
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, function)


@TERM
def test_a_step_is_ended_and_saved(command, tmp_path, monkeypatch, capsys):
    terminated_in(monkeypatch, trainer.FolioTrainer, "training_step", call=5)
    assert main(command) == 143
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith("Stopped after step 5 of 8; step 5 is saved. Continue with: folio pretrain")
    assert said[-1].endswith("--resume")
    assert last_checkpoint(tmp_path / "run").name == "checkpoint-5"
    monkeypatch.undo()
    assert main([*command, "--resume"]) == 0


@TERM
def test_a_second_signal_ends_at_once(command, tmp_path, monkeypatch, capsys):
    terminated_in(monkeypatch, trainer.FolioTrainer, "training_step", times=2, call=5)
    assert main(command) == 143
    assert "Stopped after step 4 of 8; step 3 is saved. Continue with" in capsys.readouterr().err
    assert last_checkpoint(tmp_path / "run").name == "checkpoint-3"


@TERM
def test_a_checkpoint_that_is_being_saved_is_finished_and_is_the_last(command, tmp_path, monkeypatch, capsys):
    terminated_in(monkeypatch, Trainer, "_save_rng_state")
    assert main(command) == 143
    assert "step 3 is saved" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-3"]
    assert last_checkpoint(tmp_path / "run").name == "checkpoint-3"


@TERM
@pytest.mark.slow
def test_a_second_signal_while_saving_leaves_the_checkpoint_before(command, tmp_path, monkeypatch, capsys):
    terminated_in(monkeypatch, Trainer, "_save_rng_state", times=2, call=2)
    assert main(command) == 143
    assert "step 3 is saved" in capsys.readouterr().err
    assert last_checkpoint(tmp_path / "run").name == "checkpoint-3"
    assert not (tmp_path / "run" / "checkpoint-6").exists()


@TERM
@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (data, "get_tokenizer"),
        pytest.param(pretraining, "calibrate", marks=pytest.mark.slow),
        pytest.param(pretraining, "FolioTrainer", marks=pytest.mark.slow),
    ],
)
def test_before_the_training_there_is_nothing_to_keep(command, tmp_path, monkeypatch, capsys, owner, name):
    terminated_in(monkeypatch, owner, name)
    assert main(command) == 143
    assert capsys.readouterr().err.splitlines()[-1] == "Terminated."
    assert not (tmp_path / "run").exists()
    monkeypatch.undo()
    assert main(command) == 0


@TERM
def test_set_up_of_a_resume_costs_nothing(command, tmp_path, monkeypatch):
    terminated_in(monkeypatch, trainer.FolioTrainer, "training_step", call=5)
    assert main(command) == 143
    files = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    terminated_in(monkeypatch, pretraining, "calibrate")
    assert main([*command, "--resume"]) == 143
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == files


@TERM
@pytest.mark.parametrize(
    "name",
    ["evaluate", *(pytest.param(name, marks=pytest.mark.slow) for name in ("save_result", "write_result"))],
)
def test_after_the_training_its_result_is_saved_by_a_resume(command, tmp_path, monkeypatch, capsys, name):
    terminated_in(monkeypatch, run if name == "write_result" else pretraining, name)
    assert main(command) == 143
    assert "The training is complete. To save its result: folio pretrain" in capsys.readouterr().err
    assert not (tmp_path / "run" / "config.json").exists()
    monkeypatch.undo()
    assert main([*command, "--resume"]) == 0
    assert (tmp_path / "run" / "config.json").exists()


def test_of_several_processes_that_save_the_result_of_a_run_that_had_ended_one_writes(command, tmp_path, monkeypatch):
    def lost(*args, **kwargs):
        raise Interrupted(signum=signal.SIGTERM)

    monkeypatch.setattr(pretraining, "evaluate_and_save", lost)
    command = [*command, "--max_steps=2", "--save_steps=2"]
    assert main(command) == 143
    names = [tmp_path / "run" / name for name in ("metrics.jsonl", "run.yaml")]
    before = [(path.read_bytes(), path.stat().st_mtime_ns) for path in names]
    monkeypatch.setattr(trainer.FolioTrainer, "is_world_process_zero", lambda self: False)
    assert main([*command, "--resume"]) == 143
    assert [(path.read_bytes(), path.stat().st_mtime_ns) for path in names] == before


@TERM
@pytest.mark.slow
def test_without_checkpoints_a_signal_in_the_last_moment_still_saves_the_result(command, tmp_path, monkeypatch):
    terminated_in(monkeypatch, Trainer, "_finalize_training")
    assert main([*command, "--save_strategy=no"]) == 0
    assert (tmp_path / "run" / "config.json").exists()


def test_a_run_that_has_no_checkpoint_yet_begins_again(command, tmp_path, monkeypatch, capsys):
    def lost(*args):
        raise Interrupted(signum=signal.SIGTERM)

    monkeypatch.setattr(trainer.FolioTrainer, "training_step", lost)
    assert main(command) == 143
    assert "Stopped before a checkpoint was saved. To begin again: folio pretrain" in capsys.readouterr().err
    monkeypatch.undo()
    assert main([*command, "--resume", "--size=micro"]) == 2
    assert "size nano, not micro" in capsys.readouterr().err
    assert main([*command, "--resume"]) == 0


def test_a_signal_that_comes_while_the_processes_agree_is_not_lost(monkeypatch):
    stop, control = StopOnInterrupt(), TrainerControl()

    def agree(number, device):
        stop._interrupt(signal.SIGTERM, None)
        return number

    with monkeypatch.context() as patch:
        patch.setattr(callbacks, "all_reduce_max", agree)
        stop.on_step_end(SimpleNamespace(device="cpu"), None, control)
    assert not control.should_training_stop
    stop.on_step_end(SimpleNamespace(device="cpu"), None, control)
    assert control.should_training_stop
    assert control.should_save


def test_the_first_signal_of_a_process_is_not_a_second_one_because_another_had_one(monkeypatch):
    stop, control = StopOnInterrupt(), TrainerControl()
    monkeypatch.setattr(callbacks, "all_reduce_max", lambda number, device: signal.SIGTERM)
    stop.on_step_end(SimpleNamespace(device="cpu"), None, control)
    assert control.should_training_stop
    stop._interrupt(signal.SIGTERM, None)  # while the checkpoint is written
    with pytest.raises(Interrupted):
        stop._interrupt(signal.SIGTERM, None)


def test_handlers_are_given_back():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    stop = StopOnInterrupt()
    stop.on_train_begin(None, None, None)
    with handled(interrupt, signal.SIGTERM):
        assert signal.getsignal(signal.SIGINT) is not before[0]
    stop.close()
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_other_threads_may_train_too():
    ran = []

    def work():
        with handled(interrupt, signal.SIGTERM):
            ran.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert ran


@TERM
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_fork_is_not_who_is_meant(signum):
    with handled(interrupt, signal.SIGINT, signal.SIGTERM):
        child = os.fork()
        if child == 0:
            signal.raise_signal(signum)
            os._exit(7)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code == (7 if signum == signal.SIGINT else -signal.SIGTERM)
