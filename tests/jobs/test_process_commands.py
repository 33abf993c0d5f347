"""What one of several processes says for all."""

import time
from types import SimpleNamespace

import pytest
import torch.distributed as dist

from foliogpt.jobs.processes import command_to_resume, message_to_print

NO_CONSENT = {"push_to_hub": False, "report_to": []}
START = "torchrun --nproc_per_node 2 -m foliogpt.scripts.cli"
MACHINES = "torchrun --nnodes 2 ... --nproc_per_node 2 -m foliogpt.scripts.cli"


@pytest.mark.parametrize(
    ("settings", "command"),
    [
        ({"world_size": 1}, "folio pretrain --output_dir 'my runs' --resume"),
        ({}, f"{START} pretrain --output_dir 'my runs' --resume"),
        ({"fsdp": True}, f"{START} pretrain --fsdp --output_dir 'my runs' --resume"),
        ({"world_size": 4}, f"{MACHINES} pretrain --output_dir 'my runs' --resume"),
        ({"world_size": 1, "report_to": ["wandb"]}, "folio pretrain --output_dir 'my runs' --resume --report_to wandb"),
    ],
)
def test_a_run_is_continued_as_it_was_started(settings, command, monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    args = SimpleNamespace(**{"output_dir": "my runs", "world_size": 2, "fsdp": None, **NO_CONSENT, **settings})
    assert command_to_resume("folio pretrain", args) == command
    assert "--resume --seed 1" in command_to_resume("folio pretrain", args, "--seed", "1")


@pytest.mark.parametrize(
    ("said", "is_lost"),
    [
        ("[/build/third_party/gloo/gloo/transport/tcp/pair.cc:553] Timed out waiting 1800000ms for recv", True),
        ("Connection reset by peer", True),
        ("The backend gloo does not support this operation", False),
    ],
)
def test_an_error_that_only_names_gloo_is_not_taken_for_a_lost_process(said, is_lost):
    message = message_to_print(f"folio pretrain: {said}", RuntimeError(said))
    assert ("Another process has ended" in message) is is_lost
    assert is_lost or said in message


def test_of_an_error_each_machine_prints_the_first_once(monkeypatch):
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(store.port))

    def ends(rank: int, machine: int, message: str) -> str | None:
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("GROUP_RANK", str(machine))
        begun = time.monotonic()
        said = message_to_print(message)
        assert time.monotonic() - begun < 1
        return said

    monkeypatch.setenv("FOLIO_ATTEMPT", "one")
    assert ends(1, 0, "row 7 is wrong") == "row 7 is wrong (process 1)"
    assert [ends(rank, rank // 2, "Terminated.") for rank in (0, 3, 2, 4)] == [
        None, "row 7 is wrong (process 1)", None, "row 7 is wrong (process 1)"
    ]  # fmt: skip
    monkeypatch.setenv("FOLIO_ATTEMPT", "two")  # after torchrun has started them again
    assert ends(0, 0, "the disk is full") == "the disk is full"
    assert ends(1, 0, "Connection reset by peer") is None
