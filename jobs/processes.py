"""Several processes that train one model: their order, shared values, and how they end together."""

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

ERROR_TIMEOUT = timedelta(seconds=2)  # of the store
# gloo names a place in its source, "/gloo/".
PEER_LOST_ERRORS = ("connection closed by peer", "connection reset", "broken pipe", "socket closed", "/gloo/")
CONNECT_ERRORS = ("timed out after", "clients joined", "connection timed out", "could not resolve", "failed to connect")


def world_size() -> int:
    """Return the number of processes, also before they are connected."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main_process() -> bool:
    """Return True for the process that reads, writes and prints for all."""
    return int(os.environ.get("RANK", "0")) == 0


def connected() -> bool:
    return dist.is_available() and dist.is_initialized()


def connect(backend: str, seconds: int) -> None:
    """Connect processes on CPUs within so many seconds; raises RuntimeError if some are missing."""
    if world_size() > 1 and not connected():
        dist.init_process_group(backend, timeout=timedelta(seconds=seconds))


def barrier() -> None:
    """Wait until all processes have come here."""
    if connected():
        dist.barrier()


def broadcast_from_main(compute: Callable[[], T]) -> T:
    """Return in all processes what `compute` returns in process 0; the others wait for it and do not call it."""
    if not connected():
        return compute()
    box = [compute() if is_main_process() else None]
    dist.broadcast_object_list(box)
    return box[0]


@contextlib.contextmanager
def main_process_first() -> Iterator[None]:
    """Run the block in process 0, and then in the others."""
    if not is_main_process():
        barrier()
    yield
    if is_main_process():
        barrier()


def all_reduce_max(number: int, device) -> int:
    """Return the largest of the processes' numbers, in all of them."""
    if not connected():
        return number
    largest = torch.tensor(number, device=device)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return int(largest.item())


def job() -> str | None:
    """Return the name of torchrun's job, the same after each of its restarts; None without torchrun."""
    name = os.environ.get("TORCHELASTIC_RUN_ID")
    # Without --rdzv_id it is "none" for all jobs; then the id of the agent, the parent process, identifies them.
    return f"{socket.gethostname()}:{os.getppid()}" if name == "none" else name


def is_restart(device) -> bool:
    """Return True if torchrun has started these processes in place of others; only the agent of one that died knows."""
    return all_reduce_max(int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")), device) > 0


def command_to_resume(command: str, args, *flags: str) -> str:
    """Return the command to resume in as many processes, which keeps the batch; `...` stands for torchrun's address."""
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


def broadcast_attempt_id() -> None:
    """Broadcast an id of this attempt, so that errors from an earlier restart are ignored."""
    os.environ["FOLIO_ATTEMPT"] = broadcast_from_main(lambda: uuid.uuid4().hex)


def _remedy(error: Exception | None) -> str | None:
    """Return what to do about a process that is lost or missing, if that is the error."""
    text = str(error).lower()
    if isinstance(error, RuntimeError) and any(sign in text for sign in CONNECT_ERRORS) and not connected():
        where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        remedy = "start the same command on every machine, and let this address and port be reached from each of them"
        why = f"Not all of {world_size()} processes have connected to {where}"
        return f"{why}: {remedy}; --ddp_timeout is how many seconds they wait."
    if isinstance(error, (RuntimeError, OSError)) and any(sign in text for sign in PEER_LOST_ERRORS):
        remedy = "Continue from the last checkpoint with --resume, or let torchrun do it with --max_restarts."
        why = "Another process has ended, and this one cannot continue alone"
        return f"{why}: its message is above, or in torchrun's report. {remedy}"
    return None


def message_to_print(message: str, error: Exception | None = None) -> str | None:
    """Return the message that this process prints before it ends; None if another one prints it.

    The process that had the first error prints it, and so does, on every other machine, the first process that ends.
    """
    if remedy := _remedy(error):
        message = f"{message.partition(':')[0]}: {remedy}"
        if not connected():  # no other process can be asked
            return message
    here = [os.environ.get("GROUP_RANK", "0"), os.environ.get("RANK")]  # the machine, and the process
    try:
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        # Process 0 has the store in itself if no agent of torchrun holds it.
        store = dist.TCPStore(address, port, is_master=False, timeout=ERROR_TIMEOUT)
        attempt = f"foliogpt/{os.environ.get('FOLIO_ATTEMPT', 'start')}"
        first, cause = json.loads(store.compare_set(f"{attempt}/error", "", json.dumps([here, message])))
        printer = first
        if first[0] != here[0]:
            printer = json.loads(store.compare_set(f"{attempt}/printed on {here[0]}", "", json.dumps(here)))
    except (KeyError, ValueError, RuntimeError):  # no store, no answer
        return message
    if printer != here:
        return None
    return cause if first[1] == "0" else f"{cause} (process {first[1]})"


def exit_process(code: int) -> None:
    """End one of several processes."""
    with contextlib.suppress(Exception):
        dist.destroy_process_group()  # so that processes that wait for this one notice
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # gloo's threads may outlive the group, and end an interpreter that shuts down by SIGABRT
