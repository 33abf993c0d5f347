"""A report says which code made it."""

import importlib.metadata
import inspect
import subprocess

import pytest

from foliogpt.jobs import report

INSTALLED = importlib.metadata.version("foliogpt")


def git(folder, *argv: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", "-C", str(folder), *who, *argv], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_code_version_has_the_commit_of_a_clone(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "PACKAGE", tmp_path)
    assert report.code_version() == INSTALLED
    git(tmp_path, "init")
    assert report.code_version() == INSTALLED  # no commit yet
    git(tmp_path, "commit", "--allow-empty", "-m", "Begin")
    assert report.code_version() == f"{INSTALLED} ({git(tmp_path, 'rev-parse', '--short', 'HEAD')})"
    monkeypatch.setenv("PATH", "")
    assert report.code_version() == INSTALLED  # no git


def test_code_version_is_not_the_commit_of_the_project_that_foliogpt_is_installed_in(tmp_path, monkeypatch):
    git(tmp_path, "init")
    git(tmp_path, "commit", "--allow-empty", "-m", "Begin")
    (tmp_path / "foliogpt").mkdir()
    monkeypatch.setattr(report, "PACKAGE", tmp_path / "foliogpt")
    assert report.code_version() == INSTALLED


def test_a_loss_curve_leaves_a_notebooks_plots_alone(tmp_path, monkeypatch):
    matplotlib = pytest.importorskip("matplotlib")
    monkeypatch.setitem(matplotlib.rcParams, "backend", "svg")
    draw = inspect.unwrap(report.loss_curve)  # not a copy of what another test has drawn
    draw([{"step": 1, "loss": 3.0}, {"step": 2, "eval_loss": 2.5}], tmp_path / "loss.png", "a run")
    assert matplotlib.get_backend() == "svg"
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "history",
    [
        [],
        [{"step": 1, "loss": float("nan"), "grad_norm": float("inf"), "learning_rate": 0.1}],
        [{"step": 1, "loss": 3.0, "grad_norm": 0.5, "learning_rate": 0.1}, {"step": 2, "eval_loss": 2.5}, {"step": 2}],
    ],
    ids=["no step", "diverged", "all of it"],
)
def test_a_loss_curve_is_drawn_of_any_history(tmp_path, history):
    pytest.importorskip("matplotlib")
    inspect.unwrap(report.loss_curve)(history, tmp_path / "loss.png", "a run", {"xz": 1.5, "bz2": float("inf")})
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
