"""Nothing is overwritten by accident, and nothing half-written is taken for whole."""

import json

import pytest
import torch
from safetensors.torch import save_file

from foliogpt.training.checkpoints import RUN_FILE, STATE_FILE, last_checkpoint, prepare_output_dir, staged


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    for step in (5, 10, 20):
        (folder / f"checkpoint-{step}").mkdir(parents=True)
        (folder / f"checkpoint-{step}" / STATE_FILE).write_text(json.dumps({"global_step": step}))
    (folder / RUN_FILE).write_text("seed: 1\n")
    (folder / "config.json").write_text("{}")
    return folder


def test_a_new_folder_is_made(tmp_path):
    assert prepare_output_dir(tmp_path / "a" / "b").is_dir()


def test_another_run_is_kept_unless_told_otherwise(run):
    with pytest.raises(FileExistsError, match="--overwrite"):
        prepare_output_dir(run)
    assert (run / "checkpoint-20").exists()
    prepare_output_dir(run, overwrite=True)
    assert not (run / "checkpoint-20").exists()
    assert (run / "config.json").exists()  # replaced only when the new one is whole


def test_a_folder_that_is_not_ours_is_never_touched(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match="not empty"):
            prepare_output_dir(tmp_path, overwrite=overwrite)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_a_file_in_the_way_and_a_folder_that_cannot_be_made_are_errors_that_name_it(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError, match="is a file"):
        prepare_output_dir(tmp_path / "file")
    with pytest.raises(PermissionError, match="--output_dir"):
        prepare_output_dir(tmp_path / "file" / "below")
    with pytest.raises(PermissionError, match="--output_dir"):
        prepare_output_dir("/proc/foliogpt")


def test_resuming_needs_a_run(tmp_path):
    with pytest.raises(FileNotFoundError, match="no run"):
        prepare_output_dir(tmp_path, resume=True)


def test_the_last_checkpoint_is_by_number_and_torn_ones_are_skipped_with_a_warning(run, caplog):
    assert last_checkpoint(run).name == "checkpoint-20"
    (run / "checkpoint-20" / STATE_FILE).write_text('{"global_st')
    assert last_checkpoint(run).name == "checkpoint-10"
    assert f"checkpoint-20 is not whole ({STATE_FILE})" in caplog.text
    (run / "checkpoint-10" / STATE_FILE).unlink()
    assert last_checkpoint(run).name == "checkpoint-5"
    (run / "checkpoint-5" / STATE_FILE).unlink()
    assert last_checkpoint(run) is None


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "rng_state.pth", "tokenizer.json"])
def test_a_file_that_was_cut_off_makes_a_checkpoint_torn(run, name):
    file = run / "checkpoint-20" / name
    if name.endswith(".safetensors"):
        save_file({"weight": torch.zeros(100)}, file)
    elif name.endswith(".json"):
        file.write_text(json.dumps({"model": list(range(100))}))
    else:
        torch.save({"step": torch.zeros(100)}, file)
    assert last_checkpoint(run).name == "checkpoint-20"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert last_checkpoint(run).name == "checkpoint-10"


def test_files_appear_together_and_the_config_last(tmp_path, monkeypatch):
    moved = []
    replace = __import__("os").replace
    monkeypatch.setattr("os.replace", lambda a, b: (moved.append(b.name), replace(a, b)))
    with staged(tmp_path) as folder:
        for name in ("config.json", "a.txt", "model.safetensors"):
            (folder / name).write_text("new")
        assert [path.name for path in tmp_path.iterdir()] == [folder.name]
    assert moved[-1] == "config.json"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "config.json", "model.safetensors"]


def test_a_failed_save_leaves_what_was_there_and_says_what_to_do(tmp_path):
    (tmp_path / "config.json").write_text("old")

    def save():
        with staged(tmp_path) as folder:
            (folder / "config.json").write_text("new")
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match=r"No space left.*Make room"):
        save()
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    assert (tmp_path / "config.json").read_text() == "old"


def test_leftovers_of_a_killed_save_are_cleared(run):
    (run / ".saving-abc").mkdir()
    prepare_output_dir(run, resume=True)
    assert not (run / ".saving-abc").exists()
