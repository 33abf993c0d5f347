"""`folio` under torchrun: machines, restarts, and one message for an error of any process."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import forks
import process_groups
import psutil
import pytest
import stand_ins
import torch
from process_groups import free_port

from foliogpt.evaluation.comparison import METRICS_FILE, read_metrics

pytestmark = pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs gloo")
# Process 1 has an error while process 0 is busy and waits for nobody.
ONE_IS_BUSY = """
import os, sys, time
from foliogpt.jobs import processes
from foliogpt.scripts import cli

def run(argv):
    processes.connect("gloo", 600)
    processes.broadcast_attempt_id()
    if os.environ["RANK"] == "1":
        print(time.time(), flush=True)
        raise ValueError("row 7 is wrong: correct it")
    time.sleep(60)

cli.run = run
sys.exit(cli.main(["pretrain"]))
"""
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
FOLIO = ["-m", "foliogpt.scripts.cli"]
PAGE = Path(__file__).parents[2] / "docs" / "distributed.md"
# The command of process 1 alone has a corpus that is not there.
ONE_IS_WRONG = """
import os, sys
from foliogpt.scripts.cli import main
sys.exit(main([*sys.argv[1:], *(["--corpus", "nowhere.txt"] if os.environ["RANK"] == "1" else [])]))
"""


@pytest.fixture
def start(tmp_path):
    """Starts a command in a folder with a text; whatever is left of it is ended after the test."""
    line = "One two three, the {} is free; four five six, the {} has tricks.\n"
    text = "".join(line.format(a, b) for a in ("cat", "dog", "hen") * 9 for b in ("fox", "owl", "bee", "ant"))
    (tmp_path / "text.txt").write_text(text)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_DATASETS_CACHE": str(tmp_path / "cache")}
    started = []

    def start(command: list[str], **variables) -> subprocess.Popen:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        popen = subprocess.Popen if os.path.isabs(command[0]) else forks.Popen  # a file, or code
        process = popen(command, cwd=tmp_path, env={**environment, **variables}, **pipes)
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.terminate()
            process.wait(60)


def run(folder: str, *flags: str) -> list[str]:
    model = ["--tokenizer", "char", "--block_size", "32", "--hidden_size", "32", "--num_hidden_layers", "2"]
    return [
        "pretrain",
        "--corpus",
        "text.txt",
        *model,
        "--bf16",
        "false",
        "--per_device_train_batch_size",
        "8",
        "--output_dir",
        folder,
        *flags,
    ]


@pytest.mark.slow
def test_the_job_survives_a_worker_that_is_killed_on_one_of_two_machines(start, tmp_path):
    steps = ["--max_steps", "40", "--save_steps", "10", "--eval_steps", "20"]
    environment = {**os.environ, "HF_DATASETS_CACHE": str(tmp_path / "cache")}
    process_groups.run(forks.folio(*run("whole", *steps)), 2, env=environment, cwd=tmp_path)

    machine = ["--nnodes", "2", "--nproc_per_node", "1", "--max_restarts", "2"]
    meet = ["--rdzv_backend", "c10d", "--rdzv_endpoint", f"127.0.0.1:{free_port()}", "--rdzv_id", "a-test"]
    # Else the agents' one store keeps the addresses of an earlier attempt, and now and then nobody is there.
    fresh = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    command = stand_ins.program("torchrun", *machine, *meet, *FOLIO, *run("killed", *steps))
    agents = [start(command, **fresh) for _ in range(2)]
    until(lambda: (tmp_path / "killed" / "checkpoint-10" / "trainer_state.json").exists())
    killed = [kill_worker(agent, rank=1) for agent in agents]
    assert sorted(killed) == [False, True]
    for agent in agents:
        assert agent.wait(300) == 0, agent.stderr.read()
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "killed")]
    assert weights[0] == weights[1]
    logged = [
        [(e["step"], e.get("loss"), e.get("eval_loss")) for e in read_metrics(tmp_path / name / METRICS_FILE)]
        for name in ("whole", "killed")
    ]
    assert logged[0] == logged[1]


def until(condition, seconds: float = 200) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def kill_worker(agent: subprocess.Popen, rank: int) -> bool:
    """Kill the worker of this rank with SIGKILL if it is one of the agent's."""
    for child in psutil.Process(agent.pid).children():
        if child.environ().get("RANK") == str(rank):
            child.send_signal(signal.SIGKILL)
            return True
    return False


@pytest.mark.slow
def test_an_error_of_any_process_is_one_line_of_the_first(start, tmp_path):
    (tmp_path / "one_is_wrong.py").write_text(ONE_IS_WRONG)
    torchrun = ["torchrun", "--standalone", "--nproc_per_node", "2"]
    begun = time.monotonic()
    both = start(stand_ins.program(*torchrun, *FOLIO, *run("run", "--max_steps", "2", "--corpus", "nowhere.txt")))
    one = start(stand_ins.program(*torchrun, "one_is_wrong.py", *run("other", "--max_steps", "2")))
    for process, who in ((both, ""), (one, r" \(process 1\)")):
        said = process.communicate(timeout=120)[1]
        lines = [line for line in said.splitlines() if line.startswith("folio ")]
        assert len(lines) == 1, said
        assert re.search(rf"there is no file or folder 'nowhere.txt'.*{who}$", lines[0])
        assert "exitcode  : 2" in said
        assert "Error: " not in said.replace("ChildFailedError: ", "")
    assert time.monotonic() - begun < 120  # and not the half an hour after which a process that waits gives up
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "other").exists()


@pytest.mark.slow
def test_an_error_is_printed_once_and_at_once_while_others_are_busy(start, tmp_path):
    (tmp_path / "one_is_busy.py").write_text(ONE_IS_BUSY)
    process = start([*TORCHRUN, "--standalone", "--nproc_per_node", "2", "one_is_busy.py"])
    raised = float(process.stdout.readline())
    lines = []
    while not lines or not lines[-1].startswith("folio "):
        lines.append(process.stderr.readline())
    assert time.time() - raised < 1
    rest = process.communicate(timeout=60)[1]
    assert lines[-1] == "folio pretrain: row 7 is wrong: correct it (process 1)\n"
    assert "row 7" not in rest
    assert "exitcode  : 2" in rest


def test_missing_processes_end_in_one_line_with_a_remedy(start):
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    command = forks.folio(*run("run", "--max_steps", "2", "--ddp_timeout", "2"))
    process = start(command, **alone, MASTER_PORT=str(free_port()))
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 2
    assert re.search(r"Not all of 2 processes have connected to 127.0.0.1:\d+: start the same command", said)
    assert said.count("\n") < 3


@pytest.mark.slow
def test_the_commands_of_the_page_work_in_order(start, tmp_path):
    lines = ["ROMEO: is it the east, and Juliet is the sun?", "JULIET: O Romeo, Romeo! wherefore art thou Romeo?"]
    words = [f"{a} {b} speaks of {c}." for a in "abcdefghij" for b in "klmnopqrst" for c in ("night", "day", "love")]
    (tmp_path / "shakespeare.txt").write_text("\n".join(lines * 40 + words) + "\n")
    shorter = {"--minutes 3": "--max_steps 2 --bf16 false", "size 1024": "size 300", "29400": str(free_port())}
    shorter |= {"--max_steps 20": "--max_steps 2", "--max_steps 30": "--max_steps 3", "--max_steps 40": "--max_steps 4"}
    commands = re.findall(r"^(?:torchrun|accelerate|folio) .+$", PAGE.read_text(), flags=re.MULTILINE)
    assert len(commands) >= 6
    for command in commands:
        for long, short in shorter.items():
            command = command.replace(long, short)
        program, machines = shlex.split(command), int((re.search(r"--nnodes (\d+)", command) or [0, 1])[1])
        program[0] = str(stand_ins.folder() / program[0])
        for process in [start(program) for _ in range(machines)]:
            said = process.communicate(timeout=200)[1]
            assert process.returncode == 0, f"{command}\n{said}"
