"""Nothing half-written is taken for whole."""

import json
import os
import shutil
import subprocess

import pytest
import torch
from safetensors.torch import save_file

from foliogpt.jobs.saving import (
    STATE_FILE,
    SUMS_FILE,
    last_checkpoint,
    saving,
    staged,
    write_atomically,
    write_checksums,
)


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    for step in (5, 10, 20):
        checkpoint = folder / f"checkpoint-{step}"
        checkpoint.mkdir(parents=True)
        save_file({"weight": torch.ones(100)}, checkpoint / "model.safetensors")
        for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
            torch.save({"step": torch.ones(100)}, checkpoint / name)
        (checkpoint / "tokenizer.json").write_text(json.dumps({"model": list(range(100))}))
        (checkpoint / STATE_FILE).write_text(json.dumps({"global_step": step}))
        (checkpoint / "shards").mkdir()
        (checkpoint / "shards" / "0.distcp").write_bytes(bytes(range(256)) * 40)
        write_checksums(checkpoint)
    return folder


def test_the_last_checkpoint_is_by_number_and_torn_ones_are_skipped_with_a_warning(run, caplog):
    assert last_checkpoint(run).name == "checkpoint-20"
    (run / "checkpoint-20" / STATE_FILE).write_text('{"global_st')
    assert last_checkpoint(run).name == "checkpoint-10"
    assert f"checkpoint-20 is damaged or incomplete ({STATE_FILE})" in caplog.text
    (run / "checkpoint-10" / STATE_FILE).unlink()
    assert last_checkpoint(run).name == "checkpoint-5"
    (run / "checkpoint-5" / STATE_FILE).unlink()
    assert last_checkpoint(run) is None


FILES = ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "tokenizer.json", STATE_FILE, SUMS_FILE,
         "shards/0.distcp"]  # fmt: skip


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("harm", ["cut", "empty", "zeros", "one bit", "gone"])
def test_a_file_that_is_not_as_it_was_written_makes_a_checkpoint_torn(run, name, harm, caplog):
    file = run / "checkpoint-20" / name
    assert last_checkpoint(run).name == "checkpoint-20"
    data = bytearray(file.read_bytes())
    middle = len(data) // 2
    if harm == "cut":
        del data[-2:]
    elif harm == "empty":
        data.clear()
    elif harm == "zeros":  # as a file system may leave it that had no time to write
        data[middle:] = bytes(len(data) - middle)
    elif harm == "one bit":
        data[middle] ^= 1
    file.write_bytes(data)
    if harm == "gone":
        file.unlink()
    assert last_checkpoint(run).name == "checkpoint-10"
    assert "checkpoint-20 is damaged or incomplete (" in caplog.text


def test_the_hashes_are_those_of_sha256sum(run):
    check = ["sha256sum", "--check", "--quiet", SUMS_FILE]
    if not shutil.which(check[0]):
        pytest.skip("needs sha256sum")
    assert subprocess.run(check, cwd=run / "checkpoint-20", capture_output=True).returncode == 0
    (run / "checkpoint-20" / STATE_FILE).write_text("{}")
    assert subprocess.run(check, cwd=run / "checkpoint-20", capture_output=True).returncode == 1


def test_last_checkpoint_skips_one_without_its_optimizer(run):
    (run / "checkpoint-20" / "optimizer.pt").unlink()  # as --save_only_model leaves it
    write_checksums(run / "checkpoint-20")
    assert last_checkpoint(run).name == "checkpoint-10"


def test_an_interruption_while_saving_leaves_no_half_checkpoint(run):
    checkpoint = run / "checkpoint-20"

    def save():
        with saving(checkpoint):
            checkpoint.mkdir()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save()
    assert last_checkpoint(run) == checkpoint


def test_checkpoints_ignores_files_and_other_folders(run):
    (run / "checkpoint-30").write_text("")
    (run / "checkpoint-40").symlink_to(run / "checkpoint-5")
    assert last_checkpoint(run).name == "checkpoint-20"


def test_files_appear_together_and_the_config_last(tmp_path, monkeypatch):
    moved = []
    replace = __import__("os").replace
    monkeypatch.setattr("os.replace", lambda a, b: (moved.append(b.name), replace(a, b)))
    with staged(tmp_path) as folder:
        for name in ("config.json", "a.txt", STATE_FILE, "model.safetensors"):
            (folder / name).write_text("new")
        assert [path.name for path in tmp_path.iterdir()] == [folder.name]
    assert moved == ["a.txt", "model.safetensors", "config.json", STATE_FILE]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(moved)


def test_staged_removes_optional_files_that_the_new_checkpoint_lacks(tmp_path):
    for name in ("chat_template.jinja", "model-00001-of-00002.safetensors", "notes.txt"):
        (tmp_path / name).write_text("old")
    with staged(tmp_path) as folder:
        (folder / "config.json").write_text("new")
        (folder / "model.safetensors").write_text("new")
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors", "notes.txt"}


def test_staged_replaces_folders_completely_and_keeps_permissions(tmp_path):
    for names in (("config.json", "extra.json"), ("config.json",)):
        with staged(tmp_path) as folder:
            (folder / "config.json").write_text("{}")
            (folder / "1_Pooling").mkdir()
            for name in names:
                (folder / "1_Pooling" / name).write_text("{}")
    assert [path.name for path in (tmp_path / "1_Pooling").iterdir()] == ["config.json"]


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


def test_a_new_checkpoint_is_never_mixed_with_an_old_one(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text("old")
    replace = __import__("os").replace

    def pull_the_plug(a, b):
        if b.name == "model.safetensors":
            raise KeyboardInterrupt
        replace(a, b)

    monkeypatch.setattr("os.replace", pull_the_plug)

    def save():
        with staged(tmp_path) as folder:
            for name in ("config.json", "a.txt", "model.safetensors"):
                (folder / name).write_text("new")

    with pytest.raises(KeyboardInterrupt):
        save()
    assert (tmp_path / "a.txt").read_text() == "new"
    assert not (tmp_path / "config.json").exists()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_files_are_as_readable_as_any_other(tmp_path):
    with staged(tmp_path) as folder:
        save_file({"weight": torch.zeros(3)}, folder / "model.safetensors")
    (tmp_path / "other").touch()
    assert (tmp_path / "model.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_an_interrupted_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "run.yaml"
    write_atomically(path, "old\n")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, "new\n")
    monkeypatch.undo()
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {"run.yaml": b"old\n"}
    write_atomically(path, "ä\n")
    assert path.read_bytes() == "ä\n".encode()


def test_a_write_reports_its_own_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        write_atomically(tmp_path / "nowhere" / "run.yaml", "")


def test_a_checkpoint_that_cannot_be_saved_again_is_kept(run):
    checkpoint = run / "checkpoint-20"

    def save():
        with saving(checkpoint):
            checkpoint.mkdir()
            raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space left"):
        save()
    assert last_checkpoint(run) == checkpoint


def test_a_checkpoint_and_an_adapter_replace_each_other(tmp_path):
    for names in (["config.json", "model.safetensors"], ["adapter_config.json", "adapter_model.safetensors"]) * 2:
        with staged(tmp_path) as folder:
            for name in names:
                (folder / name).write_text("{}")
        assert {path.name for path in tmp_path.iterdir()} == set(names)
