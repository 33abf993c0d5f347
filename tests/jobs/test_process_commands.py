"""What one of several processes says for all."""

import shlex
from types import SimpleNamespace

import pytest

from foliogpt.jobs.processes import command_to_resume, to_say

START = "torchrun --nproc_per_node 2 -m foliogpt.scripts.cli"
MACHINES = "torchrun --nnodes 2 ... --nproc_per_node 2 -m foliogpt.scripts.cli"


@pytest.mark.parametrize(
    ("settings", "command"),
    [
        ({"world_size": 1}, "folio pretrain --output_dir 'my runs' --resume"),
        ({}, f"{START} pretrain --output_dir 'my runs' --resume"),
        ({"fsdp": True}, f"{START} pretrain --fsdp --output_dir 'my runs' --resume"),
        ({"world_size": 4}, f"{MACHINES} pretrain --output_dir 'my runs' --resume"),
    ],
)
def test_a_run_is_continued_as_it_was_started(settings, command, monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    args = SimpleNamespace(**{"output_dir": "my runs", "world_size": 2, "fsdp": None, **settings})
    assert command_to_resume("folio pretrain", args) == command
    assert shlex.split(command_to_resume("folio pretrain", args, "--seed", "1"))[-3:] == ["--resume", "--seed", "1"]


@pytest.mark.parametrize(
    ("said", "is_lost"),
    [
        ("[/build/third_party/gloo/gloo/transport/tcp/pair.cc:553] Timed out waiting 1800000ms for recv", True),
        ("Connection reset by peer", True),
        ("The backend gloo does not support this operation", False),
    ],
)
def test_an_error_that_only_names_gloo_is_not_taken_for_a_lost_process(said, is_lost):
    message = to_say(f"folio pretrain: {said}", RuntimeError(said))
    assert ("Another process has ended" in message) is is_lost
    assert is_lost or said in message
