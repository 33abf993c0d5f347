"""Several processes that train one model: who goes first, what they agree on, and how they end together."""

import contextlib
import json
import os
import shlex
import socket
import sys
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")

PATIENCE = timedelta(seconds=2)  # for the store to answer what has gone wrong
# "/gloo/" is of the place in its source that gloo names.
LOST = ("connection closed by peer", "connection reset", "broken pipe", "socket closed", "/gloo/")
NOT_THERE = ("timed out after", "clients joined", "connection timed out", "could not resolve", "failed to connect")


def world_size() -> int:
    """The number of processes, also before they are connected."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this is the process that reads, writes and speaks for all."""
    return int(os.environ.get("RANK", "0")) == 0


def connected() -> bool:
    return dist.is_available() and dist.is_initialized()


def connect(backend: str, seconds: int) -> None:
    """Bring processes on CPUs together in the user's time; raises RuntimeError if not all have come."""
    if world_size() > 1 and not connected():
        dist.init_process_group(backend, timeout=timedelta(seconds=seconds))


def wait_for_all() -> None:
    """Return when all processes have come here."""
    if connected():
        dist.barrier()


def from_first(compute: Callable[[], T]) -> T:
    """What `compute` returns in process 0, in all of them; the others wait for it and do not call it."""
    if not connected():
        return compute()
    box = [compute() if is_first() else None]
    dist.broadcast_object_list(box)
    return box[0]


@contextlib.contextmanager
def first_before_others() -> Iterator[None]:
    """The block runs in process 0, and then in the others."""
    if not is_first():
        wait_for_all()
    yield
    if is_first():
        wait_for_all()


def largest_of_all(number: int, device) -> int:
    """The largest of the processes' numbers, in all of them."""
    if not connected():
        return number
    largest = torch.tensor(number, device=device)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return int(largest.item())


def job() -> str | None:
    """Identifies what torchrun was called for, the same after each of its restarts; None without torchrun."""
    name = os.environ.get("TORCHELASTIC_RUN_ID")
    # Without --rdzv_id it is "none" for everybody; then the agent, whose child this is, tells them apart.
    return f"{socket.gethostname()}:{os.getppid()}" if name == "none" else name


def is_restart(device) -> bool:
    """Whether torchrun has started these processes in place of others; only the agent of one that died knows."""
    return largest_of_all(int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")), device) > 0


def command_to_resume(command: str, args, *flags: str) -> str:
    """The command to go on in as many processes, which keeps the batch; `...` is for how machines find each other."""
    consent = ["--push_to_hub", "true"] if args.push_to_hub else []  # which --resume does not take from run.yaml
    consent += ["--report_to", *args.report_to] if args.report_to else []
    given = ["--output_dir", args.output_dir, "--resume", *flags, *consent]
    if args.world_size == 1:
        return shlex.join([*command.split(), *given])
    of_one_call = ["--fsdp"] if args.fsdp else []
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    machines = "" if here == args.world_size else f" --nnodes {args.world_size // here} ..."
    start = f"torchrun{machines} --nproc_per_node {here} -m foliogpt.scripts.cli {command.partition(' ')[2]}"
    return f"{start} {shlex.join([*of_one_call, *given])}"


def meet() -> None:
    """Agree on a name for this attempt, so that nobody takes the error of an earlier one for its own."""
    os.environ["FOLIO_ATTEMPT"] = from_first(lambda: uuid.uuid4().hex)


def _remedy(error: Exception | None) -> str | None:
    """What to do about a process that is lost or missing, if that is the error."""
    said = str(error).lower()
    if isinstance(error, RuntimeError) and any(sign in said for sign in NOT_THERE) and not connected():
        where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        remedy = "start the same command on every machine, and let this address and port be reached from each of them"
        why = f"Not all of {world_size()} processes have come together at {where}"
        return f"{why}: {remedy}; --ddp_timeout is how many seconds they wait."
    if isinstance(error, (RuntimeError, OSError)) and any(sign in said for sign in LOST):
        remedy = "Go on from the last checkpoint with --resume, or let torchrun do it with --max_restarts."
        why = "Another process has ended, and this one cannot go on alone"
        return f"{why}: its message is above, or in torchrun's report. {remedy}"
    return None


def to_say(message: str, error: Exception | None = None) -> str | None:
    """The message that this process has to print before it ends; None if another one prints it.

    The error that came first is printed by the process that had it, and on every other machine by the first that ends.
    """
    if remedy := _remedy(error):
        message = f"{message.partition(':')[0]}: {remedy}"
        if not connected():  # there is nobody to ask
            return message
    here = [os.environ.get("GROUP_RANK", "0"), os.environ.get("RANK")]  # the machine, and the process
    try:
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        # Process 0 has the store in itself if no agent of torchrun holds it.
        store = dist.TCPStore(address, port, is_master=False, timeout=PATIENCE)
        attempt = f"foliogpt/{os.environ.get('FOLIO_ATTEMPT', 'start')}"
        first, cause = json.loads(store.compare_set(f"{attempt}/error", "", json.dumps([here, message])))
        teller = first
        if first[0] != here[0]:
            teller = json.loads(store.compare_set(f"{attempt}/told on {here[0]}", "", json.dumps(here)))
    except (KeyError, ValueError, RuntimeError):  # no store, no answer
        return message
    if teller != here:
        return None
    return cause if first[1] == "0" else f"{cause} (process {first[1]})"


def leave(code: int) -> None:
    """End one of several processes."""
    with contextlib.suppress(Exception):
        dist.destroy_process_group()  # so that those that wait for this process notice
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # gloo's threads may outlive the group, and end an interpreter that shuts down by SIGABRT
