"""A folder belongs to one run at a time, and nothing in it is overwritten by accident."""

import forks
import pytest
import yaml

from foliogpt.jobs.run_folder import RUN_FILE, lock_run_folder, read_settings, start_run
from foliogpt.jobs.saving import STATE_FILE

SETTINGS = {"corpus": "text.txt", "preset": "folio", "size": "nano", "seed": 1}


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    (folder / "checkpoint-20").mkdir(parents=True)
    (folder / RUN_FILE).write_text(yaml.safe_dump(SETTINGS))
    (folder / "config.json").write_text("{}")
    (folder / STATE_FILE).write_text("{}")
    return folder


def claim(folder, **kwargs) -> None:
    with lock_run_folder(folder, **kwargs):
        pass


def test_a_new_folder_is_made_and_holds_nothing_afterwards(tmp_path):
    (tmp_path / "a").mkdir()
    with lock_run_folder(tmp_path / "a") as folder:
        assert folder.is_dir()
    assert not list(folder.iterdir())


def test_another_run_is_kept_unless_told_otherwise(run):
    with pytest.raises(FileExistsError, match="--overwrite"):
        claim(run)
    before = sorted(run.rglob("*"))
    claim(run, overwrite=True)
    assert sorted(run.rglob("*")) == before  # nothing goes until the new run is under way
    start_run(run, {**SETTINGS, "seed": 2}, is_new=True)
    assert read_settings(run)["seed"] == 2
    assert not (run / "checkpoint-20").exists()
    assert not (run / STATE_FILE).exists()
    assert (run / "config.json").exists()  # replaced only when the new one is whole


@pytest.mark.parametrize("broken", [{"seed": object()}, None])
def test_settings_that_cannot_be_written_cost_nothing(run, monkeypatch, broken):
    if broken is None:
        monkeypatch.setattr("pathlib.Path.write_text", lambda *a, **k: (_ for _ in ()).throw(OSError("No space left")))
    with pytest.raises((yaml.YAMLError, OSError)):
        start_run(run, broken or SETTINGS, is_new=True)
    monkeypatch.undo()
    assert (run / "checkpoint-20").exists()
    assert read_settings(run) == SETTINGS


@pytest.mark.parametrize("text", ["", "seed: 1", "- a list", ": not: yaml: ["])
def test_a_run_file_that_is_not_ours_makes_no_run(tmp_path, text):
    (tmp_path / RUN_FILE).write_text(text)
    with pytest.raises(FileNotFoundError, match="no run"):
        claim(tmp_path, resume=True)
    with pytest.raises(FileExistsError, match="not empty"):
        claim(tmp_path, overwrite=True)


def test_a_start_that_failed_leaves_a_folder_that_can_be_used(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".saving-run.yaml").write_text("corp")
    claim(tmp_path / "run")
    with pytest.raises(ValueError, match="mine"), lock_run_folder(tmp_path / "new"):
        raise ValueError("mine")
    assert not (tmp_path / "new").exists()


def test_a_tokenizer_does_not_replace_that_of_a_model(run):
    (run / "tokenizer.json").write_text("{}")
    with pytest.raises(FileExistsError, match="holds a model"):
        claim(run, overwrite=True, marker="tokenizer.json")


def test_a_folder_that_is_not_ours_is_never_touched(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match="not empty"):
            claim(tmp_path, overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("name", ["file/below", "/proc/foliogpt", "x" * 300, "nul\0l"])
def test_a_folder_that_cannot_be_made_is_an_error_that_names_it(name, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PermissionError, match="--output_dir"):
        claim(tmp_path / name)


def test_a_file_in_the_way_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError, match="is a file"):
        claim(tmp_path / "file")


def test_resuming_needs_a_run(tmp_path):
    with pytest.raises(FileNotFoundError, match="no run"):
        claim(tmp_path / "new", resume=True)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("how", [{"overwrite": True}, {"resume": True}])
def test_two_runs_do_not_share_a_folder(run, how):
    other = f"from foliogpt.jobs import run_folder\nwith run_folder.lock_run_folder({str(run)!r}, **{how}): print('in')"
    with lock_run_folder(run, **how) as folder:
        (folder / ".saving-1").mkdir()
        assert "A run is writing to" in forks.run([other]).stderr
        assert (folder / ".saving-1").exists()  # it may be of the run that is going on
    assert forks.run([other]).stdout == "in\n"


def test_a_run_that_was_killed_leaves_no_claim(run):
    lock = f"run_folder.lock_run_folder({str(run)!r}, True)"
    script = f"import os\nfrom foliogpt.jobs import run_folder\nwith {lock}: os._exit(9)"
    assert forks.run([script]).returncode == 9
    claim(run, overwrite=True)
    assert not (run / ".lock").exists()


def test_leftovers_of_a_killed_save_are_cleared(run):
    (run / ".saving-abc").mkdir()
    claim(run, resume=True)
    assert not (run / ".saving-abc").exists()
