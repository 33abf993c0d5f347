"""A sweep tries out what its file says, survives a stop, and goes on past runs that fail."""

import errno
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from foliogpt.scripts.cli import main
from foliogpt.training.sweep import Sweep

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
def test_a_sweep_that_cannot_be_is_one_line(sweep_file, changes, says, capsys, tmp_path):
    assert main(["sweep", "--config", sweep_file(**changes), "--output_dir", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_run_that_fails_is_told_and_the_others_go_on(sweep_file, capsys, tmp_path):
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
    """In the place of the runs' processes: a loss that depends on the settings, or the disk is full."""

    def __init__(self, monkeypatch, fail_at=None):
        self.calls, self.fail_at = 0, fail_at
        monkeypatch.setattr("foliogpt.training.sweep.subprocess.run", self)

    def __call__(self, command, **kwargs):
        settings = yaml.safe_load(Path(command[command.index("--config") + 1]).read_text())
        folder = Path(command[command.index("--output_dir") + 1])
        self.calls += 1
        if self.calls == self.fail_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        bits = 1 + abs(math.log10(settings["learning_rate"]) + 2)
        keys = {"corpus": ["text"], "preset": "folio", "size": "nano"}
        (folder / "run.yaml").write_text(yaml.safe_dump({**keys, **settings}))
        (folder / "report.json").write_text(json.dumps({"val_bits_per_byte": bits, "val_loss": 9 - bits}))
        return subprocess.CompletedProcess(command, 0, stderr="")


def test_a_full_disk_fails_the_run_that_it_meets(tmp_path, monkeypatch, capsys):
    FakeRuns(monkeypatch, fail_at=1)
    vary = json.dumps({"learning_rate": [0.1, 0.2], "tokenizer": [["a"]]})
    assert main(["sweep", "--vary", vary, "--output_dir", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert f"{tmp_path / '001'} failed: {tmp_path / '001'} cannot be written: No space left on device" in out
    assert f"| {tmp_path / '002'} " in out


def test_runs_are_ranked_by_bits_a_byte_as_tokenizers_may_differ(tmp_path, monkeypatch, capsys):
    FakeRuns(monkeypatch)
    vary = json.dumps({"learning_rate": [0.1, 0.01], "tokenizer": [["a"]]})
    assert main(["sweep", "--vary", vary, "--output_dir", str(tmp_path)]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith(f"| {tmp_path}")]
    assert [row.split()[1][-3:] for row in rows] == ["002", "001"]


@pytest.mark.slow  # a run that is stopped, and continued
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_sweep_that_was_stopped_goes_on_where_it_was(sweep_file, tmp_path):
    folder, settings = tmp_path / "out", {"max_steps": 120, "save_steps": 5, "logging_steps": 1}
    argv = ["--config", sweep_file(settings, vary={"seed": [1, 2]}), "--output_dir", str(folder)]
    command = [sys.executable, "-m", "foliogpt.scripts.cli", "sweep", *argv]
    with subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 120
        while not list(folder.glob("001/checkpoint-*")) and time.monotonic() < deadline:
            time.sleep(0.2)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(60) == 130
    stopped = max(int(each.name.split("-")[1]) for each in folder.glob("001/checkpoint-*"))
    assert not (folder / "001" / "report.json").exists()
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [json.loads((folder / n / "report.json").read_text())["steps"] for n in ("001", "002")] == [120, 120]
    steps = [json.loads(line).get("step") for line in (folder / "001" / "metrics.jsonl").read_text().splitlines()]
    assert steps.count(1) <= 2
    assert stopped > 1
