"""A sweep runs the settings of its file, survives a stop, and continues after runs that fail."""

import errno
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import forks
import pytest
import stand_ins
import yaml

from foliogpt.scripts.cli import main
from foliogpt.training.sweep import Sweep, run_sweep

TINY = {
    "max_steps": 2, "per_device_train_batch_size": 2, "block_size": 32, "vocab_size": 300, "eval_strategy": "no",
    "num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1, "use_cpu": True,
}  # fmt: skip


@pytest.fixture
def sweep_file(tmp_path):
    text_file = tmp_path / "text.txt"
    text_file.write_text("".join(f"The fox number {n} met a crow, and they talked of cheese.\n" for n in range(300)))

    def write(settings=(), **fields):
        file = tmp_path / "sweep.yaml"
        file.write_text(yaml.safe_dump({"settings": {"corpus": [str(text_file)], **TINY, **dict(settings)}, **fields}))
        return str(file)

    return write


def test_lists_are_combined_and_spans_are_drawn_the_same_each_time():
    vary = {"a": [1, 2], "b": ["x", "y"], "c": {"low": 1e-4, "high": 1.0, "log": True}, "d": {"low": 3, "high": 5}}
    points = Sweep(vary=vary, runs=50).points()
    assert len(points) == 200
    assert {(point["a"], point["b"]) for point in points} == {(1, "x"), (1, "y"), (2, "x"), (2, "y")}
    assert {point["d"] for point in points} == {3, 4, 5}
    logs = [math.log10(point["c"]) for point in points]
    assert -4 <= min(logs) < -3
    assert -1 < max(logs) <= 0
    assert -2.6 < sum(logs) / len(logs) < -1.4  # evenly in the logarithm; drawn evenly, it would be near -0.4
    assert points == Sweep(vary=vary, runs=50).points()
    assert points != Sweep(vary=vary, runs=50, draw_seed=1).points()
    assert len(Sweep(vary={"a": [1, 2]}, runs=50).points()) == 2


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"vary": {}}, "at least one setting"),
        ({"vary": {"seed": []}}, "seed is []"),
        ({"vary": {"seed": {"low": 2, "high": 1}}}, "low and high"),
        ({"vary": {"seed": {"low": 0, "high": 1, "log": True}}}, "above 0"),
        ({"vary": {"block_size": [32]}}, "block_size is set by the sweep"),
        ({"vary": {"seed": [1]}, "command": "dance"}, "choose from"),
        ({"vary": {"seed": [1]}, "sede": 3}, "no setting 'sede'"),
        ({"vary": {"seed": [1]}, "runs": 0}, "whole number from 1"),
    ],
)
def test_invalid_settings_give_a_one_line_error(sweep_file, changes, says, capsys, tmp_path):
    assert main(["sweep", "--config", sweep_file(**changes), "--output_dir", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_failed_run_is_reported_and_the_others_continue(sweep_file, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(stand_ins.folder() / "python"))
    command = ["sweep", "--config", sweep_file(vary={"num_attention_heads": [3, 4]}, settings={}), "--output_dir"]
    file = Path(command[2])
    file.write_text(file.read_text().replace("  num_attention_heads: 2\n", ""))
    folder = tmp_path / "out"
    assert main([*command, str(folder)]) == 0
    out = capsys.readouterr().out
    assert f"{folder / '001'} failed: folio pretrain:" in out
    assert f"| {folder / '002'} " in out
    before = (folder / "002" / "report.json").stat().st_mtime_ns
    assert main([*command, str(folder)]) == 0  # what is finished is not run again
    assert (folder / "002" / "report.json").stat().st_mtime_ns == before
    file.write_text(file.read_text().replace("max_steps: 2", "max_steps: 3"))
    assert main([*command, str(folder)]) == 2
    assert "another sweep" in capsys.readouterr().err


class FakeRuns:
    """Replaces the runs' processes: a loss that depends on the settings; calls may be stopped or find the disk full."""

    def __init__(self, monkeypatch, stop_at=(), fail_at=()):
        self.points, self.stop_at, self.fail_at = [], stop_at, fail_at
        monkeypatch.setattr("foliogpt.training.sweep.subprocess.run", self)

    def __call__(self, command, **kwargs):
        settings = yaml.safe_load(Path(command[command.index("--config") + 1]).read_text())
        folder = Path(command[command.index("--output_dir") + 1])
        self.points.append((folder.name, settings))
        if len(self.points) in self.stop_at:
            return subprocess.CompletedProcess(command, 130, stderr="")
        if len(self.points) in self.fail_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        bits = 1 + abs(math.log10(settings["learning_rate"]) + 2) + (0.5 if settings["tokenizer"] == ["a"] else 0.0)
        keys = {"corpus": ["text"], "preset": "folio", "size": "nano"}
        (folder / "run.yaml").write_text(yaml.safe_dump({**keys, **settings}))
        (folder / "report.json").write_text(json.dumps({"val_bits_per_byte": bits, "val_loss": 9 - bits}))
        return subprocess.CompletedProcess(command, 0, stderr="")


SEARCHED = {"learning_rate": {"low": 1e-5, "high": 1.0, "log": True}, "tokenizer": [["a"], ["b", "c"]]}


def optuna_sweep(folder: Path, **settings) -> Sweep:
    return Sweep(vary=SEARCHED, search="optuna", **{"runs": 30, **settings}, output_dir=str(folder))


def test_a_full_disk_fails_only_the_run_that_meets_it(tmp_path, monkeypatch, capsys):
    FakeRuns(monkeypatch, fail_at=(1,))
    vary = json.dumps({"learning_rate": [0.1, 0.2], "tokenizer": [["a"]]})
    assert main(["sweep", "--vary", vary, "--output_dir", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert f"{tmp_path / '001'} failed: {tmp_path / '001'} cannot be written: No space left on device" in out
    assert f"| {tmp_path / '002'} " in out


def test_runs_are_ranked_by_bits_per_byte_as_tokenizers_may_differ(tmp_path, monkeypatch, capsys):
    FakeRuns(monkeypatch)
    vary = json.dumps({"learning_rate": [0.1, 0.01], "tokenizer": [["a"]]})
    assert main(["sweep", "--vary", vary, "--output_dir", str(tmp_path)]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith(f"| {tmp_path}")]
    assert [row.split()[1][-3:] for row in rows] == ["002", "001"]


def test_optuna_search_draws_near_good_values(tmp_path, monkeypatch):
    pytest.importorskip("optuna", reason="the extra `sweep` is not installed")
    calls = FakeRuns(monkeypatch)
    runs, failed = run_sweep(optuna_sweep(tmp_path))
    assert (len(runs), failed) == (30, {})
    assert {tuple(point["tokenizer"]) for _, point in calls.points} == {("a",), ("b", "c")}
    losses = [run.last("val_bits_per_byte") for run in runs]
    assert statistics.median(losses[15:]) < 0.6 * statistics.median(losses[:10])


def test_optuna_search_draws_the_same_values_after_a_stop(tmp_path, monkeypatch):
    pytest.importorskip("optuna", reason="the extra `sweep` is not installed")
    whole = FakeRuns(monkeypatch)
    run_sweep(optuna_sweep(tmp_path / "a", runs=14))
    stopped = FakeRuns(monkeypatch, stop_at=(12,), fail_at=(15,))
    with pytest.raises(KeyboardInterrupt):
        run_sweep(optuna_sweep(tmp_path / "b", runs=14))
    (folder,) = run_sweep(optuna_sweep(tmp_path / "b", runs=14))[1]  # the 15th call is the 14th run
    assert Path(folder).name == "014"
    assert stopped.points[10] != stopped.points[11] == stopped.points[12]
    assert stopped.points[:11] + stopped.points[12:] == whole.points
    run_sweep(optuna_sweep(tmp_path / "b", runs=14))  # a failed run is tried again
    assert stopped.points[-1] == whole.points[-1]
    other = FakeRuns(monkeypatch)
    run_sweep(optuna_sweep(tmp_path / "c", runs=2, draw_seed=1))
    assert other.points != whole.points[:2]


def test_optuna_search_begins_no_run_after_its_minutes(tmp_path, monkeypatch, capsys):
    pytest.importorskip("optuna", reason="the extra `sweep` is not installed")
    calls, times = FakeRuns(monkeypatch), iter([0, 30, 50, 70])
    monkeypatch.setattr("foliogpt.training.sweep.time.monotonic", lambda: next(times))
    run_sweep(optuna_sweep(tmp_path, minutes=1))
    assert len(calls.points) == 2
    assert "28 runs did not begin" in capsys.readouterr().out


def test_optuna_search_names_the_extra_that_is_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "optuna", None)
    argv = ["sweep", "--vary", json.dumps(SEARCHED), "--search", "optuna", "--output_dir", str(tmp_path / "out")]
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert "pip install 'foliogpt[sweep]'" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_command_prints_the_comparison_as_json(tmp_path, monkeypatch, capsys):
    FakeRuns(monkeypatch, fail_at=(2,))
    vary = json.dumps({"learning_rate": [0.1, 0.2, 0.01], "tokenizer": [["a"]]})
    assert main(["sweep", "--vary", vary, "--output_dir", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [Path(run["run"]).name for run in found["runs"]] == ["003", "001"]
    assert found["settings"]["learning_rate"] == [0.01, 0.1]
    assert list(found["failed"]) == [str(tmp_path / "002")]


@pytest.mark.slow  # a run that is stopped, and continued
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_stopped_sweep_continues_from_its_last_checkpoint(sweep_file, tmp_path):
    folder, settings = tmp_path / "out", {"max_steps": 120, "save_steps": 5, "logging_steps": 1}
    argv = ["--config", sweep_file(settings, vary={"seed": [1, 2]}), "--output_dir", str(folder)]
    code, *words = stand_ins.program("folio", "sweep", *argv)
    with forks.Popen([f"import os; os.setsid(); {code}", *words], stdout=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 120
        while not list(folder.glob("001/checkpoint-*")) and time.monotonic() < deadline:
            time.sleep(0.2)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(60) == 130
    stopped = max(int(each.name.split("-")[1]) for each in folder.glob("001/checkpoint-*"))
    assert not (folder / "001" / "report.json").exists()
    done = forks.run([code, *words])
    assert done.returncode == 0, done.stderr
    assert [json.loads((folder / n / "report.json").read_text())["steps"] for n in ("001", "002")] == [120, 120]
    steps = [json.loads(line).get("step") for line in (folder / "001" / "metrics.jsonl").read_text().splitlines()]
    assert steps.count(1) <= 2
    assert stopped > 1
